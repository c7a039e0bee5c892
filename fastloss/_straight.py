"""Straight code for a kind of call: one Python function without a loop, a look-up or a call that it could do without.

A call of 640 elements spends more time in the interpreter than in its kernel, and what costs there is the number of
steps. So what is kept of a kind of call (``_prepared.py``) is written out as source and compiled, as dataclasses are,
once it is known which machine code the kernel has. For the value and gradient of cross_entropy of float32::

    def call(args, kwargs, grad_out, out):
        if len(args) != 2 or kwargs:
            return None
        a0, a1 = args
        if (type(a0) is not ndarray or a0.dtype is not d0 or a0.shape != s0 or not a0.flags.carray
                or type(a1) is not ndarray or a1.dtype is not d1 or a1.shape != s1 or not a1.flags.carray):
            return None
        g0 = make(shape0, dtype)
        strange, total = entry(a0.ravel(), (), a1, (), (), (), g0.ravel(), (), (), (), c10, ..., zeros(SIZE), True)
        if strange >= 0:
            return None
        return total * one, g0

All that is specific to the kind (``d0``, ``s0``, ``c10``) is what the function closes over. So kinds share a source,
which is compiled once, and nothing of the user's is ever a part of it. None means: another kind, or the long way.

mse_loss of 640 floats, value and gradient, on a Xeon: 11 microseconds by way of ``Prepared.compute``, 6 so. Where the
system holds back the processor's prediction of branches (then a step of Python costs four times as much), 21 and 12.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from fastloss._config import settings
from fastloss._dispatch import I64
from fastloss._jit import SMALL_BOARD
from fastloss._outputs import ABSENT


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


class Sizes(NamedTuple):
    """The shapes of what a kind of call reads and writes: None for values that are not wanted."""

    operands: tuple[tuple[int, ...], ...]
    gradients: tuple[tuple[int, tuple[int, ...]], ...]
    values: tuple[int, ...] | None


def runner(plan: Plan | Callable[..., Any], sizes: Sizes) -> Callable[..., Any]:
    """Return ``run(arrays, values, grads)``, which computes a sum into given arrays; None where it cannot."""
    if not isinstance(plan, Plan):
        return plan
    constants: dict[str, Any] = {}
    names = [f"a{k}" for k in range(len(sizes.operands))]
    lines = [
        "def call(arrays, values, grads):",
        f"    {', '.join(names)}, = arrays",
        "    g0, g1, g2 = grads",
        *_computed(plan, sizes, names, constants),
        "    return total",
    ]
    return _function(lines, constants)


def _computed(plan: Plan | Callable[..., Any], sizes: Sizes, names: list[str], constants: dict[str, Any]) -> list[str]:
    """Return lines that compute `total` of the arrays called `names`; what they close over goes to `constants`."""
    present = {f"a{k}": (name, shape) for k, (name, shape) in enumerate(zip(names, sizes.operands, strict=True))}
    present |= {f"g{slot}": (f"g{slot}", shape) for slot, shape in sizes.gradients}
    if sizes.values is not None:
        present["values"] = ("values", sizes.values)
    if not isinstance(plan, Plan):
        grads = [f"g{k}" if f"g{k}" in present else "()" for k in range(3)]
        constants["run"] = plan
        values = "values" if sizes.values is not None else "()"
        return [
            f"    total = run(({', '.join(names)},), {values}, ({', '.join(grads)}))",
            "    if total is None:",
            "        return None",
        ]

    arguments: list[str] = []
    for k, one in enumerate(plan.arguments):
        if one is CHECKED:
            arguments.append(one.name)
            constants["settings"] = settings
        elif isinstance(one, Place):
            name, shape = present.get(one.name, ("()", (0,)))
            arguments.append(name if len(shape) == 1 else f"{name}.ravel()")
        elif one is ABSENT:
            arguments.append("()")
        else:
            arguments.append(f"c{k}")
            constants[f"c{k}"] = one
    entry = getattr(plan.launch, "entry", None)
    if entry is not None:
        arguments += "zeros(board)", "True"
        constants |= {"zeros": np.zeros, "board": SMALL_BOARD}
    constants["entry"] = plan.launch if entry is None else entry
    called = f"entry({', '.join(arguments)})"
    lines = [f"    total = {called}"]
    if plan.labelled:
        lines = [f"    strange, total = {called}", "    if strange >= 0:", "        return None"]
    if plan.divisor != 1:
        constants["divisor"] = plan.divisor
        lines.append("    total = total / divisor")
    if not plan.defined:
        lines += ["    if total != total:", "        return None"]
    return lines


def straight(
    plan: Plan | Callable[..., Any], sizes: Sizes, picks: Iterable[int], args: tuple[Any, ...], kwargs: dict[str, Any],
    given: tuple[bool, bool], *, make: Callable[..., Any], one: Any, result: tuple[bool, bool],
    is_defined: Callable[..., bool] | None,
) -> Callable[..., Any]:  # fmt: skip
    """Return ``call(args, kwargs, grad_out, out)``, which computes calls of the kind of this one, else returns None.

    `picks` are the places of the operands among the arguments; options among those must be the same objects. `given`
    says whether the caller gives arrays for gradients and for values. `one` is 1 in the type of the reduced value.
    `result` says whether the value is returned, and whether a gradient is alone. See :class:`Prepared` for the rest.
    """
    constants: dict[str, Any] = {"ndarray": np.ndarray, "make": make, "dtype": one.dtype, "one": one, "OWN": OWN}
    count = len(args)
    names = [f"a{k}" for k in range(count + len(kwargs))]
    arrays = [name for name, a in zip(names, (*args, *kwargs.values()), strict=True) if type(a) is np.ndarray]
    gradients = [f"g{slot}" for slot, _ in sizes.gradients]
    valued, single = result
    lines = ["def call(args, kwargs, grad_out, out):"]

    counts = f"len(args) != {count}"
    counts += f" or len(kwargs) != {len(kwargs)}" if kwargs else " or kwargs"
    if any(given):
        counts += "" if given[0] else " or grad_out is not None"
        counts += "" if given[1] else " or out is not None"
    if given[0] and not single:
        counts += f" or type(grad_out) is not tuple or len(grad_out) != {len(gradients)}"
    lines += [f"    if {counts}:", "        return None"]
    if count:
        lines.append(f"    {', '.join(names[:count])}, = args")
    for name, key in zip(names[count:], kwargs, strict=True):
        constants[f"key_{name}"], constants["missing"] = key, _MISSING
        lines.append(f"    {name} = kwargs.get(key_{name}, missing)")
    if given[0]:
        lines.append(f"    {gradients[0]} = grad_out" if single else f"    {', '.join(gradients)}, = grad_out")

    # What the caller wants written must be memory of its own, as all that is read.
    plain = "{0}.flags.num & OWN != OWN" if any(given) else "not {0}.flags.carray"
    differs = [f"{name} is not k_{name}" for name in names if name not in arrays]
    for name, argument in zip(names, (*args, *kwargs.values()), strict=True):
        if name in arrays:
            constants[f"d_{name}"], constants[f"s_{name}"] = I64 if argument.dtype == I64 else one.dtype, argument.shape
            differs.append(_differs(name, f"d_{name}", f"s_{name}", plain))
        else:
            constants[f"k_{name}"] = argument
    targets = ["out"] if given[1] else []
    for name, (slot, shape) in zip(gradients, sizes.gradients, strict=True):
        constants[f"shape{slot}"] = shape
        if given[0]:
            differs.append(_differs(name, "dtype", f"shape{slot}", plain))
            targets.append(name)
    if sizes.values is not None:
        constants["each"] = sizes.values
    if given[1]:
        differs.append(_differs("out", "dtype", "each", plain))
    differs += [f"{name} is {other}" for k, name in enumerate(targets) for other in (*arrays, *targets[:k])]
    operands = [names[k] for k in picks]
    if any(given) and is_defined is not None:
        constants["is_defined"] = is_defined
        differs.append(f"not is_defined(({', '.join(operands)},))")
    lines += [f"    if {' or '.join(differs)}:", "        return None"]

    if sizes.values is not None:
        lines.append(f"    values = {'out' if given[1] else 'make(each, dtype)'}")
    if not given[0]:
        lines += [f"    g{slot} = make(shape{slot}, dtype)" for slot, _ in sizes.gradients]
    lines += _computed(plan, sizes, operands, constants)

    returned = ["total * one" if sizes.values is None else "values"] if valued else []
    if gradients:
        returned.append(gradients[0] if single else f"({', '.join(gradients)},)")
    lines.append(f"    return {', '.join(returned)}")
    return _function(lines, constants)


def _differs(name: str, dtype: str, shape: str, plain: str) -> str:
    """Return the test whether the array called `name` is another one than it was."""
    return (
        f"type({name}) is not ndarray or {name}.dtype is not {dtype} or {name}.shape != {shape} or {plain.format(name)}"
    )


def _function(lines: list[str], constants: dict[str, Any]) -> Callable[..., Any]:
    """Return the function ``call`` that `lines` define, which closes over `constants`."""
    return _maker("\n".join(lines), tuple(constants))(**constants)  # type: ignore[no-any-return]


@functools.cache
def _maker(source: str, names: tuple[str, ...]) -> Callable[..., Any]:
    body = source.replace("\n", "\n    ")
    namespace: dict[str, Any] = {}
    exec(f"def make_call({', '.join(names)}):\n    {body}\n    return call", namespace)
    return namespace["make_call"]  # type: ignore[no-any-return]
