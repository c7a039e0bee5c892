"""Straight code for a kind of call: one Python function without a loop, a look-up or a call that it could do without.

A call of 640 elements spends more time in the interpreter than in its kernel, and what costs there is the number of
steps. So what is kept of a kind of call (``_prepared.py``) is written out as source and compiled, as dataclasses are,
once it is known which machine code the kernel has. For the value and gradient of cross_entropy of float32::

    def call(args, kwargs, grad_out, out):
        if len(args) != 2 or kwargs:
            return None
        a0, a1 = args
        if (type(a0) is not ndarray or a0.dtype is not d_a0 or a0.shape != s_a0 or not a0.flags.carray
                or type(a1) is not ndarray or a1.dtype is not d_a1 or a1.shape != s_a1 or not a1.flags.carray):
            return None
        g0 = make(shape0, dtype)
        strange, total = entry(a0.ravel(), (), a1, (), (), (), g0.ravel(), (), (), (), c10, ..., zeros(SIZE), True)
        if strange >= 0:
            return None
        return total * one, g0

All that is specific to the kind (``d_a0``, ``s_a0``, ``c10``) is what the function closes over. So kinds share a
source, which is compiled once, and nothing of the user's is ever a part of it. None: another kind, or the long way.

mse_loss of 640 floats, value and gradient, on a Xeon: 11 microseconds by way of ``Prepared.compute``, 6 so. Where the
system holds back the processor's prediction of branches (then a step of Python costs four times as much), 21 and 12.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fastloss.call.checks import Shape
from fastloss.runtime.settings import settings
from fastloss.runtime.dtypes import I64
from fastloss.runtime.compile import SMALL_BOARD
from fastloss.call.outputs import ABSENT


class Place(NamedTuple):
    """A place among the arguments of a kernel for an array that is another in each call, by its name in the code."""

    name: str


# The operands, the unreduced values, the gradients of the operands, and whether labels are checked.
OPERANDS = tuple([Place(f"a{k}") for k in range(4)])
VALUES = Place("values")
GRADIENTS = tuple([Place(f"g{k}") for k in range(3)])
CHECKED = Place("settings.check_indices")

# The bits of ``flags.num`` of an array in C order whose elements are aligned and may be written, and of one whose
# memory is also its own: it shares none with another that has its own.
PLAIN = 0x0001 | 0x0100 | 0x0400
OWN = PLAIN | 0x0004

_MISSING = object()


class Plan(NamedTuple):
    """How a kernel is called for a kind of call.

    `launch` is called with `arguments`, constants and places. It returns a sum, which is divided by `divisor`; where
    `labelled`, also a row whose label is strange, or -1. Unless `defined`, a sum of NaN means that the loss may not be.
    """

    launch: Callable[..., Any]
    arguments: tuple[Any, ...]
    divisor: float = 1
    labelled: bool = False
    defined: bool = True

    @property
    def entry(self) -> Any:
        """The machine code of a small kernel, once it is known; see :class:`fastloss.runtime.compile.Direct`."""
        return getattr(self.launch, "entry", None)


class Outline(NamedTuple):
    """What a kind of call reads, computes and returns.

    `plan` is the call of a kernel, or a function ``run(arrays, values, grads)`` that returns the reduced value, or None
    where the long way is needed.
    """

    plan: Plan | Callable[..., Any]
    operands: tuple[Shape, ...]
    gradients: tuple[tuple[int, Shape], ...]  # the operands to differentiate, by number
    values: Shape | None  # of the unreduced values, where those are wanted
    valued: bool  # whether the value is returned
    single: bool  # whether the gradient is returned alone, and not in a tuple
    one: Any  # 1 in the type of reduced values, whose dtype all results have
    make: Callable[..., Any]  # what makes an array of a shape and a dtype
    is_defined: Callable[..., bool] | None  # whether the loss is for operands; asked before the caller's are written

    def names(self) -> list[str]:
        """Return the names of the gradients in the code."""
        return [f"g{slot}" for slot, _ in self.gradients]


class _Code:
    """The source of a function ``call``, and what it closes over."""

    def __init__(self, parameters: str) -> None:
        self.lines = [f"def call({parameters}):"]
        self.constants: dict[str, Any] = {}

    def add(self, line: str, **constants: Any) -> None:
        self.lines.append(f"    {line}")
        self.constants |= constants

    def leave_if(self, tests: list[str], **constants: Any) -> None:
        self.add(f"if {' or '.join(tests)}:", **constants)
        self.add("    return None")

    def function(self) -> Callable[..., Any]:
        return _maker("\n    ".join(self.lines), tuple(self.constants))(**self.constants)  # type: ignore[no-any-return]


@functools.cache
def _maker(source: str, names: tuple[str, ...]) -> Callable[..., Any]:
    """Return what makes the function of a source, given what it closes over."""
    namespace: dict[str, Any] = {}
    exec(f"def make_call({', '.join(names)}):\n    {source}\n    return call", namespace)
    return namespace["make_call"]  # type: ignore[no-any-return]


def runner(outline: Outline) -> Callable[..., Any]:
    """Return ``run(arrays, values, grads)``, which computes a sum into given arrays; None where it cannot."""
    if not isinstance(outline.plan, Plan):
        return outline.plan
    code = _Code("arrays, values, grads")
    names = [f"a{k}" for k in range(len(outline.operands))]
    code.add(f"{_listed(names)} = arrays")
    code.add("g0, g1, g2 = grads")
    _compute(code, outline, names)
    code.add("return total")
    return code.function()


def straight(
    outline: Outline, picks: Iterable[int], args: tuple[Any, ...], kwargs: dict[str, Any], given: tuple[bool, bool]
) -> Callable[..., Any]:
    """Return ``call(args, kwargs, grad_out, out)``, which computes calls of the kind of this one, else returns None.

    `picks` are the places of the operands among the arguments; options among those must be the same objects. `given`
    says whether the caller gives arrays for gradients, and for values.
    """
    code = _Code("args, kwargs, grad_out, out")
    arguments = {f"a{k}": argument for k, argument in enumerate((*args, *kwargs.values()))}
    operands = [f"a{k}" for k in picks]
    _name_arguments(code, outline, list(arguments), len(args), kwargs, given)
    _compare(code, outline, arguments, operands, given)
    if outline.values is not None:
        code.add("values = out" if given[1] else "values = make(each, dtype)", each=outline.values)
    for slot, shape in () if given[0] else outline.gradients:
        code.add(f"g{slot} = make(shape{slot}, dtype)", **{f"shape{slot}": shape})
    code.constants |= {"make": outline.make, "dtype": outline.one.dtype}
    _compute(code, outline, operands)

    value = "total * one" if outline.values is None else "values"
    gradients = outline.names()[0] if outline.single else f"({_listed(outline.names())})"
    returned = [value] * outline.valued + [gradients] * bool(outline.gradients)
    code.add(f"return {', '.join(returned)}", one=outline.one)
    return code.function()


def _name_arguments(
    code: _Code, outline: Outline, names: list[str], count: int, kwargs: dict[str, Any], given: tuple[bool, bool]
) -> None:
    """Give names to what the caller passes, or leave where it is not so many; `count` arguments have no name."""
    gradients = outline.names()
    alone = outline.single
    tests = [f"len(args) != {count}", f"len(kwargs) != {len(kwargs)}" if kwargs else "kwargs"]
    if given[0] and not alone:
        tests.append(f"type(grad_out) is not tuple or len(grad_out) != {len(gradients)}")
    if given == (True, False):
        tests.append("out is not None")
    if given == (False, True):
        tests.append("grad_out is not None")
    code.leave_if(tests)
    if count:
        code.add(f"{_listed(names[:count])} = args")
    for name, key in zip(names[count:], kwargs, strict=True):
        code.add(f"{name} = kwargs.get(key_{name}, missing)", **{f"key_{name}": key, "missing": _MISSING})
    if given[0]:
        code.add(f"{gradients[0]} = grad_out" if alone else f"{_listed(gradients)} = grad_out")


def _compare(
    code: _Code, outline: Outline, arguments: dict[str, Any], operands: list[str], given: tuple[bool, bool]
) -> None:
    """Leave where an argument is of another kind, or what is to be written is not an array for that alone."""
    # What is written must be memory of its own, as all that is read: whether other arrays overlap is not asked here.
    flags = "{0}.flags.num & OWN != OWN" if any(given) else "not {0}.flags.carray"
    tests: list[str] = []

    def look_at(name: str, dtype: Any, shape: Shape | None) -> None:
        code.constants |= {f"d_{name}": dtype, f"s_{name}": shape}
        tests.append(f"type({name}) is not ndarray or {name}.dtype is not d_{name} or {name}.shape != s_{name}")
        tests.append(flags.format(name))

    real = outline.one.dtype
    for name, argument in arguments.items():
        if type(argument) is np.ndarray:
            look_at(name, I64 if argument.dtype == I64 else real, argument.shape)
        else:
            tests.append(f"{name} is not k_{name}")
            code.constants[f"k_{name}"] = argument
    written: list[str] = []
    if given[1]:
        look_at("out", real, outline.values)
        written.append("out")
    if given[0]:
        for slot, shape in outline.gradients:
            look_at(f"g{slot}", real, shape)
            written.append(f"g{slot}")
    tests += [f"{name} is {other}" for k, name in enumerate(written) for other in (*operands, *written[:k])]
    if written and outline.is_defined is not None:
        tests.append(f"not is_defined(({_listed(operands)}))")
        code.constants["is_defined"] = outline.is_defined
    code.leave_if(tests, ndarray=np.ndarray, OWN=OWN)


def _compute(code: _Code, outline: Outline, operands: list[str]) -> None:
    """Compute `total` of the arrays that have the names `operands`, or leave where that needs the long way."""
    plan = outline.plan
    # Of every place that an array takes: the array's name, and its shape.
    taken = {f"a{k}": named for k, named in enumerate(zip(operands, outline.operands, strict=True))}
    taken |= {f"g{slot}": (f"g{slot}", shape) for slot, shape in outline.gradients}
    if outline.values is not None:
        taken["values"] = "values", outline.values
    if not isinstance(plan, Plan):
        values, *grads = [one.name if one.name in taken else "()" for one in (VALUES, *GRADIENTS)]
        code.add(f"total = run(({_listed(operands)}), {values}, ({_listed(grads)}))", run=plan)
        code.leave_if(["total is None"])
        return

    entry = plan.entry
    arguments: list[str] = []
    for k, one in enumerate(plan.arguments):
        if one is CHECKED:
            arguments.append(one.name)
            code.constants["settings"] = settings
        elif isinstance(one, Place):
            name, shape = taken.get(one.name, ("()", (0,)))
            arguments.append(name if len(shape) == 1 else f"{name}.ravel()")
        elif one is ABSENT:
            arguments.append("()")
        else:
            arguments.append(f"c{k}")
            code.constants[f"c{k}"] = one
    if entry is not None:
        arguments += "zeros(SIZE)", "True"
        code.constants |= {"zeros": np.zeros, "SIZE": SMALL_BOARD}
    returned = "strange, total" if plan.labelled else "total"
    code.add(f"{returned} = entry({', '.join(arguments)})", entry=plan.launch if entry is None else entry)
    if plan.labelled:
        code.leave_if(["strange >= 0"])
    if plan.divisor != 1:
        code.add("total = total / divisor", divisor=plan.divisor)
    if not plan.defined:
        code.leave_if(["total != total"])


def _listed(names: list[str]) -> str:
    """Return names as the source of a tuple."""
    return "".join([f"{name}, " for name in names]).rstrip()
