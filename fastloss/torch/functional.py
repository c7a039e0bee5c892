"""The functions of the door: torch's order of arguments and dtypes around a loss of fastloss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling

from fastloss.api.docstrings import summary_of
from fastloss.call.dispatch import IN_SYMBOLIC_TRACE
from fastloss.define.record import Loss
from fastloss.define.registry import LOSSES
from fastloss.runtime import graph_break
from fastloss.torch.autograd import Unreduced, in_transform, observers, recorded, run_reduced, traced, without
from fastloss.torch.calls import Call, Several, leaves
from fastloss.torch.dtypes import converted
from fastloss.torch.operators import KINDS_KEPT, Operator
from fastloss.torch.signatures import EITHER, is_map, signature

DOORS: dict[str, Door] = {}
# Options by which kinds of call are told apart.
NUMBERS = (int, float, str, bool, type(None))
# Tensors that a kernel takes as they are; other classes see operators.
PLAIN = (Tensor, torch.nn.Parameter)
_facts = attrgetter("dtype", "requires_grad", "is_meta")
NEVER_DIFFERENTIATED = frozenset(("sample_weight", "divisor"))


class Door:
    """A loss as torch's users call it: the way from the arguments of a call to a kernel or an operator."""

    # Arguments that are several tensors.
    several: tuple[str, ...] = ("params", "tail_weights")

    def __init__(self, record: Loss) -> None:
        self.name, self.record = record.name, record
        self.loss: Callable[..., Any] = record.function
        self.signature = signature(record)
        parameters = self.signature.parameters
        self.names = tuple(parameters)
        self.most = sum(p.kind is EITHER for p in parameters.values())
        # Of a call that names none.
        self.reduction = "none" if is_map(record) else "sum"
        if "reduction" in parameters:
            self.reduction = parameters["reduction"].default
        self.operator = self.make_operator()
        self.calls: dict[Hashable, tuple[Callable[[Call, list[Tensor]], Any], Call]] = {}

    def make_operator(self) -> Callable[[dict[str, Any], Sequence[str]], Any]:
        """Return what computes a call that a tracer sees, of its arguments and those to differentiate."""
        return Operator(self.name, self.reduction != "none")

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what the function returns."""
        if is_compiling():
            return self.first(args, kwargs, None)
        key, tensors = kind_of(args, kwargs)
        found = self.calls.get(key)
        if found is None or observers() or traced() or in_transform():
            return self.first(args, kwargs, key)
        run, call = found
        return run(call, tensors)

    def first(self, args: tuple[Any, ...], kwargs: dict[str, Any], key: Hashable) -> Any:
        """Return what the function returns, for the first call of a kind or one that is always like the first."""
        arguments = self.bind(args, kwargs)
        waits = arguments.pop("check_indices", False)
        first = arguments.get(self.names[0])
        dtype = first.dtype if isinstance(first, Tensor) else None
        plain = (dtype is torch.float32 or dtype is torch.float64) and arguments.get("dtype") is None
        for value in arguments.values():
            if isinstance(value, Tensor):
                plain = plain and (value.dtype is dtype or not value.dtype.is_floating_point)
            elif isinstance(value, list | tuple):
                plain = False
        if plain:
            return self.run(arguments, waits, key)
        if dtype is None:
            return self.run(self.listed(arguments), waits)
        arguments, dtype = converted(self.record, self.names[0], arguments, self.is_array(arguments))
        value = self.run(arguments, waits)
        if isinstance(value, Tensor):
            return value.to(dtype)
        fields = value._asdict().items()
        return type(value)(*[field.to(dtype) if name in ("loss", "output") else field for name, field in fields])

    def named(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name."""
        if len(args) > self.most:
            raise TypeError(f"{self.name} takes {self.most} positional arguments but {len(args)} were given")
        arguments = dict(zip(self.names, args, strict=False))
        if kwargs:
            for name in kwargs:
                if name in arguments:
                    raise TypeError(f"{self.name} got multiple values for argument {name!r}")
            arguments.update(kwargs)
        return arguments

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, without those of torch that are deprecated."""
        arguments = self.named(args, kwargs)
        arguments.pop("_stacklevel", None)
        if "size_average" in arguments or "reduce" in arguments:
            average, reduce = arguments.pop("size_average", None), arguments.pop("reduce", None)
            if average is not None or reduce is not None:
                arguments["reduction"] = "none" if reduce is False else "sum" if average is False else "mean"
                message = f"size_average and reduce are deprecated, use reduction={arguments['reduction']!r}"
                if not is_compiling():
                    warnings.warn(message, DeprecationWarning, stacklevel=5)
        return arguments

    def listed(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments with a list for an iterable of parameters; raise where a tensor is missing."""
        name = self.names[0]
        given = arguments.get(name)
        if name == "params" and name in self.several and given is not None and not isinstance(given, str):
            arguments["params"] = given = list(given)
            if all(isinstance(one, Tensor) for one in given):
                return arguments
        if name not in arguments:
            raise TypeError(f"{self.name} misses its argument {name!r}")
        if isinstance(given, torch.fx.Proxy):
            raise TypeError(f"{name}: {IN_SYMBOLIC_TRACE}")
        raise TypeError(f"{name} must be a tensor, got {type(given).__name__}")

    def is_array(self, arguments: dict[str, Any]) -> bool:
        """Return whether the value is an array, not a number."""
        return bool(arguments.get("reduction", self.reduction) == "none")

    def run(self, arguments: dict[str, Any], waits: bool, key: Hashable = None) -> Any:
        """Compute the loss of arguments whose dtypes are settled; keep how, for the next call with this key."""
        options, tensors, several = {}, {}, None
        for name, value in arguments.items():
            if isinstance(value, Tensor):
                tensors[name] = value
            elif name in self.several:
                several = name
            else:
                options[name] = value
        more = [] if several is None else list(leaves(arguments[several]))
        whole = [*tensors.values(), *more]
        if not whole:
            return torch.zeros(())  # the penalty of no parameters
        wrt = []
        if torch.is_grad_enabled():
            wrt = [name for name, tensor in tensors.items() if tensor.requires_grad]
            if several is not None and any(tensor.requires_grad for tensor in more):
                wrt.append(several)
            for name in NEVER_DIFFERENTIATED.intersection(wrt):
                raise TypeError(f"{self.name}: there is no gradient with respect to {name}: pass {name}.detach()")
        inside = in_transform()
        if inside and observers() and recorded():
            raise without(self.loss, "graph of make_fx inside a transform of torch.func")
        seen = is_compiling() or traced() or (self.observed() and not inside)
        if seen or whole[0].is_meta or not all(type(t) in PLAIN for t in whole):
            return self.operator(arguments, wrt)
        count = None if several is None else Several(several, len(more), 1 if several == "params" else 2)
        call = Call(self.loss, tuple(tensors), options, tuple(wrt), count, waits)
        run = self.entrance(call, inside)
        result = run(call, whole)
        if key is not None and not inside:
            if len(self.calls) > KINDS_KEPT:
                self.calls.clear()
            self.calls[key] = (run, call)
        return result

    def observed(self) -> bool:
        """Return whether a mode wants to see the operator of a call."""
        return bool(observers())

    def entrance(self, call: Call, inside: bool) -> Callable[[Call, list[Tensor]], Any]:
        """Return what computes a call, inside autograd where it belongs there, or `inside` a transform."""
        if not (call.wrt or inside):
            return Call.value
        return array_in_autograd if inside or self.is_array(call.options) else number_in_autograd


def array_in_autograd(call: Call, tensors: list[Tensor]) -> Any:
    """Return the value of a loss whose gradient comes after it."""
    if is_compiling():  # torch.compile has given up what calls this, of a call that no operator takes, and begins here
        return graph_break.untraced(array_in_autograd, call, tensors)
    result = Unreduced.run(call, *tensors)
    return result if call.type is None else call.type(*result)


def number_in_autograd(call: Call, tensors: list[Tensor]) -> Any:
    """Return the value of a loss whose gradient comes with it."""
    if is_compiling():
        return graph_break.untraced(number_in_autograd, call, tensors)
    result = run_reduced(call, *tensors)
    return result[0] if call.type is None else call.type(*result[: len(call.fields)])


def kind_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Hashable, list[Tensor]]:
    """Return what decides how a call is computed, and its tensors; None for a call that is not kept."""
    key: list[Any] = [len(args), torch.is_grad_enabled()]
    tensors = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        kind = type(value)
        if kind in PLAIN:
            tensors.append(value)
            key.append(_facts(value))
        elif kind in NUMBERS:
            key += (kind, value)
        else:
            return None, []
    key += kwargs
    return tuple(key), tensors


def public(name: str) -> Callable[..., Any]:
    """Return the function of the door for a loss."""
    door = DOORS[name] = Door(LOSSES[name])

    def function(*args: Any, **kwargs: Any) -> Any:
        return door.call(args, kwargs)

    function.__name__ = function.__qualname__ = name
    function.__module__ = "fastloss.torch"
    function.__signature__ = door.signature  # type: ignore[attr-defined]
    function.__doc__ = _docstring(name, door)
    return function


def _docstring(name: str, door: Door) -> str:
    """Return the docstring of a loss for this door: the summary, how it is called, and where the rest stands."""
    like = f"torch.nn.functional.{name}" if hasattr(torch.nn.functional, name) else "a function of torch"
    return f"""{summary_of(door.loss)}

    :func:`fastloss.{name}` for tensors inside autograd, called like {like}; see there for formula, shapes and errors.
    The dtype of the result is torch's, autocast included."""
