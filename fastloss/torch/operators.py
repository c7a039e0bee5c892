"""The losses as operators of torch: what torch.compile and torch.export see of a call.

The loss ``x`` is ``torch.ops.fastloss.x``. It takes the arguments of the loss, and in a string with commas the names of
those to differentiate with respect to; it returns the fields of the value and, of a reduced loss, the gradients.
``x_backward`` takes an upstream gradient and the same arguments, and returns gradients.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastloss as fl
from fastloss.torch.autograd import check_fields, second_derivative
from fastloss.torch.calls import Call, Several, leaves
from fastloss.torch.shapes import unreduced_shape

# An annotation in a loss's signature, and the type in an operator's. What is not here says how to compute, not what.
_TYPES = {
    "Array": "Tensor",
    "Array | None": "Tensor?",
    "Array | float": "Tensor",
    "Sequence[tuple[Array, Array]]": "Tensor[]",
    "str": "str",
    "bool": "bool",
    "int": "int",
    "float": "float",
    "float | None": "float?",
    "Array | float | None": "Tensor?",
    "int | None": "int?",
    "int | tuple[int, ...]": "int[]",
    "Sequence[int]": "int[]",
}
_DEVICES = ("cpu", "cuda")
# How many kinds of call are kept for a loss.
KINDS_KEPT = 64


class AdaptiveOutput(NamedTuple):
    """What adaptive_log_softmax_with_loss returns: the log-probability of each target, and the loss."""

    output: Tensor
    loss: Tensor


class Operator:
    """The operators of one loss, whose arguments are `arrays` and `options` in their order, and `wrt`."""

    def __init__(self, name: str, reduced: bool) -> None:
        self.name, self.always_reduced = name, reduced
        self.loss: Callable[..., Any] = getattr(fl, name)
        self.calls: dict[Hashable, Call] = {}
        parameters = inspect.signature(self.loss).parameters.values()
        types = {p.name: _TYPES.get(_bare(p.annotation)) for p in parameters}
        self.defaults = {p.name: p.default for p in parameters}
        if "params" in types:
            types["params"] = "Tensor[]"
        self.arrays = [key for key, kind in types.items() if kind and kind.startswith("Tensor")]
        self.options = [key for key, kind in types.items() if kind and key not in self.arrays]
        # Lists come last, as the tensors of a call have them.
        self.arrays.sort(key=lambda key: types[key] == "Tensor[]")
        schema = ", ".join([f"{types[key]} {key}" for key in (*self.arrays, *self.options)] + ["str wrt"])
        self.forward = _register(name, f"({schema}) -> Tensor[]", self._value, self._fake_value)
        upstream = f"(Tensor grad_output, {schema}) -> Tensor[]"
        self.backward = _register(f"{name}_backward", upstream, self._gradients, self._fake_gradients)
        torch.library.register_autograd(f"fastloss::{name}", self._differentiate, setup_context=self._save)
        torch.library.register_autograd(f"fastloss::{name}_backward", self._refuse)

    def __call__(self, arguments: dict[str, Any], wrt: Sequence[str]) -> Any:
        """Return the value of the loss, from its arguments by name."""
        result = self.forward(*self.arguments(arguments, wrt))
        if "cutoffs" not in self.options:
            return result[0]
        # A compiler asks for the gradient of all outputs at once, and there is none of this one.
        return AdaptiveOutput(result[0].detach(), result[1])

    def arguments(self, arguments: dict[str, Any], wrt: Sequence[str]) -> tuple[Any, ...]:
        """Return the operator's arguments, from those of the loss by name.

        Raises
        ------
        TypeError
            If there is an argument that the operator has no place for. `options` only says how to compute.
        """
        for key in arguments.keys() - {*self.arrays, *self.options, "options"}:
            if key not in self.defaults:
                raise TypeError(f"{self.name}() got an unexpected keyword argument {key!r}")
            given = arguments[key]
            if given is not self.defaults[key] and not (isinstance(given, tuple | list) and len(given) == 0):
                raise TypeError(f"{self.name}: {key} cannot be given inside torch.compile, got {given!r}")
        arrays = [self._tensor(key, arguments.get(key), arguments) for key in self.arrays]
        options = [arguments.get(key, self.defaults.get(key)) for key in self.options]
        if self.name == "logsumexp":  # one axis or several
            options[0] = [options[0]] if isinstance(options[0], int) else options[0]
        return *arrays, *options, ",".join(wrt)

    def _tensor(self, key: str, value: Any, arguments: dict[str, Any]) -> Any:
        """Return an argument as the operator takes it: sequences of tensors flat, numbers in tensors."""
        if value is None or (isinstance(value, Tensor) and key != "params"):
            return value
        if key in ("params", "tail_weights"):
            return list(leaves(value))
        return torch.full_like(arguments["input"], value) if key == "var" else torch.as_tensor(value)

    def call(self, args: Sequence[Any]) -> tuple[Call, list[Tensor]]:
        """Return the call that the operator's arguments describe, and its tensors."""
        arrays, rest = args[: len(self.arrays)], args[len(self.arrays) :]
        tensors = [array for array in arrays if array is not None]
        if isinstance(tensors[-1], list | tuple):  # one list at most, which comes last
            tensors[-1:] = tensors[-1]
        absent = tuple([array is None for array in arrays])
        key = absent, len(tensors), tuple([tuple(one) if isinstance(one, list) else one for one in rest])
        call = self.calls.get(key)
        if call is None:
            if len(self.calls) >= KINDS_KEPT:
                self.calls.clear()
            call = self.calls[key] = self._new_call(arrays, rest)
        return call, tensors

    def _new_call(self, arrays: Sequence[Any], rest: Sequence[Any]) -> Call:
        given = dict(zip(self.arrays, arrays, strict=True))
        names = tuple([key for key, array in given.items() if isinstance(array, Tensor)])
        lists = [key for key, array in given.items() if isinstance(array, list | tuple)]
        several = [Several(key, len(given[key]), 1 if key == "params" else 2) for key in lists]
        options = dict(zip(self.options, rest[:-1], strict=True))
        wrt = tuple(rest[-1].split(",")) if rest[-1] else ()
        return Call(self.loss, names, options, wrt, several[0] if several else None)

    def is_reduced(self, args: Sequence[Any]) -> bool:
        """Return whether the value is a number, which comes with its gradients."""
        if "reduction" not in self.options:
            return self.always_reduced
        return bool(args[len(self.arrays) + self.options.index("reduction")] != "none")

    def _value(self, *args: Any) -> list[Tensor]:
        call, tensors = self.call(args)
        if not call.wrt or not self.is_reduced(args):
            return _in_order(call.value(tensors))
        value, gradients = call.value_and_grad(tensors)
        return [*leaves(value), *_in_order(gradients)]

    def _fake_value(self, *args: Any) -> list[Tensor]:
        call, tensors = self.call(args)
        arrays = dict(zip(self.arrays, args, strict=False))
        first = tensors[0]
        for name, tensor in zip(call.names, tensors, strict=False):
            if tensor.device != first.device and not name.endswith("_lengths"):
                raise TypeError(f"{name} is on {tensor.device}, but {call.names[0]} on {first.device}")
        fields = []
        if not self.is_reduced(args) or "cutoffs" in call.options:
            fields = [first.new_empty(unreduced_shape(self.name, arrays, call.options))]
        if self.is_reduced(args):
            dtype = torch.float64 if first.dtype is torch.float64 else torch.float32
            fields.append(first.new_empty((), dtype=dtype))
            fields += self._fake_gradients(first, *args)
        return fields

    def _gradients(self, grad_output: Tensor, *args: Any) -> list[Tensor]:
        call, tensors = self.call(args)
        return _in_order(call.grad(tensors, grad_output))

    def _fake_gradients(self, grad_output: Tensor, *args: Any) -> list[Tensor]:
        call, tensors = self.call(args)
        _, *wanted = call.in_places(range(len(tensors)))
        return [tensor.new_empty(tensor.shape) for tensor, one in zip(tensors, wanted, strict=True) if one is not None]

    def _save(self, ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
        call, tensors = self.call(inputs)
        ctx.call, ctx.rest, ctx.reduced = call, inputs[len(self.arrays) :], self.is_reduced(inputs)
        ctx.counts = [len(a) if isinstance(a, list | tuple) else a is not None for a in inputs[: len(self.arrays)]]
        ctx.lists = [isinstance(a, list | tuple) for a in inputs[: len(self.arrays)]]
        ctx.set_materialize_grads(False)
        call.fields = ("output", "loss") if "cutoffs" in call.options else ("loss",)
        ctx.save_for_backward(*(output[len(call.fields) :] if ctx.reduced else tensors))

    def _differentiate(self, ctx: Any, grad_outputs: list[Tensor | None]) -> tuple[Any, ...]:
        call: Call = ctx.call
        grad_output = check_fields(call, grad_outputs)
        saved = ctx.saved_tensors  # which torch's checkpoint lets be read once
        gradients: Iterable[Any] = [None] * len(saved)
        if grad_output is not None and ctx.reduced:
            gradients = [gradient * grad_output for gradient in saved]
        elif grad_output is not None:
            gradients = self.backward(grad_output, *self._packed(ctx, saved), *ctx.rest)
        return *self._packed(ctx, call.in_places(gradients)[1:]), *[None for _ in ctx.rest]

    def _packed(self, ctx: Any, flat: Sequence[Any]) -> list[Any]:
        """Return tensors, or what is in their places, as the operator's arguments have them."""
        found, packed = iter(flat), []
        for count, is_list in zip(ctx.counts, ctx.lists, strict=True):
            some = [next(found) for _ in range(count)]
            packed.append(some if is_list else some[0] if count else None)
        return packed

    def _refuse(self, ctx: Any, *grad_outputs: Any) -> Any:
        raise second_derivative(self.loss)


def _in_order(results: Any) -> list[Tensor]:
    """Return results in C order, which the fake kernels promise: those of channels that lie last do so too."""
    return [one.contiguous() for one in leaves(results)]


def _bare(annotation: str) -> str:
    """Return an annotation without the domain that stands beside the type."""
    return annotation.removeprefix("Annotated[").partition(", ")[0] if "Annotated" in annotation else annotation


def _register(name: str, schema: str, compute: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Define an operator, and return it."""
    full = f"fastloss::{name}"
    torch.library.define(full, schema)
    torch.library.impl(full, _DEVICES, compute)
    torch.library.register_fake(full, fake)
    operator: Callable[..., Any] = getattr(torch.ops.fastloss, name).default
    return operator
