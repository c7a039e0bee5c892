"""Losses inside autograd: one Function where the gradient comes with the value, one where it comes after.

A loss that is reduced to a number has its gradient computed together with the value, by one kernel; backward scales it.
Where the value is an array, backward computes the gradient, for the upstream gradient that it then knows: a kernel that
reads the input once more costs what scaling a stored gradient would, and holds less memory.

No kernel computes second derivatives of this kind. A gradient that is asked for with ``create_graph=True`` stays part
of the graph, so that differentiating it is an error and not a wrong number.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad
from torch.compiler import is_compiling

from fastloss.define.registry import record_of
from fastloss.runtime import graph_break
from fastloss.runtime.functions import is_packaged
from fastloss.torch.calls import Call

# What torch has no public names for: whether the backward pass that runs leaves its graph to another, whether it is a
# transform of torch.func that calls, how many modes there are that want to see operators, whether torch.jit's tracer
# does (a public name takes three times as long), and whether a gradient stands for several (``is_grads_batched``).
_graph_is_kept = torch._C._autograd._get_current_graph_task_keep_graph
_in_functorch = torch._C._are_functorch_transforms_active
observers = torch._C._len_torch_dispatch_stack
traced = torch._C._is_tracing
_is_batched = torch._C._functorch.is_legacy_batchedtensor


def in_transform() -> bool:
    """Return whether a call is inside a transform of torch.func, or of forward mode."""
    return _in_functorch() or forward_ad._current_level >= 0


def recorded() -> bool:
    """Return whether ``make_fx`` records the operators of a call, which it does not see inside of torch.func."""
    module = sys.modules.get("torch.fx.experimental.proxy_tensor")  # which is not there before somebody imports it
    return module is not None and module.get_proxy_mode() is not None


class _Loss(Function):
    """What the Functions below share: how they are entered, and what vmap makes of them."""

    @classmethod
    def run(cls, *args: Any) -> Any:
        """Call ``apply``, outside of torch.func without its binding of arguments, which takes 5 microseconds."""
        return cls.apply(*args) if _in_functorch() else super(Function, cls).apply(*args)  # type: ignore[misc,no-untyped-call]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        """Save the inputs."""
        ctx.call = inputs[0]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[1:])
        if isinstance(output, tuple) and isinstance(inputs[0], Call):
            ctx.mark_non_differentiable(*inputs[0].beside(output))

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        """Raise: there is no forward mode."""
        raise without(ctx.call.loss, "forward-mode derivatives")

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        """Call the loss for each entry of the batch; once for an empty one, whose sum is an entry of zeros."""
        count, results = info.batch_size, []
        for k in range(max(1, count)):
            one = [
                a if dim is None else a.select(dim, k) if count else a.sum(dim, dtype=a.dtype)
                for a, dim in zip(args, in_dims, strict=True)
            ]
            results.append(cls.apply(*one))  # type: ignore[no-untyped-call]
        if isinstance(results[0], Tensor):
            return torch.stack(results)[:count], 0
        return tuple([torch.stack(column)[:count] for column in zip(*results, strict=True)]), (0,) * len(results[0])


class Reduced(Function):
    """A loss that is a number: value and gradients out of one kernel. Returns the fields of the value, then gradients.

    The gradients are outputs that nobody but backward sees. A gradient with respect to one of them is a second
    derivative, which is how it is found out. Not for transforms of torch.func, to which one function for both would
    have to show what it saves: that takes a microsecond.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute value and gradients, and save the gradients."""
        value, gradients = call.value_and_grad(tensors)
        ctx.call = call
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*gradients)
        if isinstance(value, Tensor):
            return (value, *gradients)
        ctx.mark_non_differentiable(*call.beside(value))
        return (*value, *gradients)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Any, ...]:
        """Scale the gradients."""
        call: Call = ctx.call
        return call.in_places(_scaled(ctx.saved_tensors, check_fields(call, grad_outputs)))


# ``Reduced.apply`` without what it does for torch.func, which takes another microsecond.
run_reduced: Callable[..., Any] = super(Function, Reduced).apply


def check_fields(call: Call, grad_outputs: Sequence[Tensor | None]) -> Tensor | None:
    """Return the upstream gradient of a reduced loss, out of those of its fields and its gradients.

    Raises
    ------
    RuntimeError
        If there is one of another field, or of a gradient: a second derivative.
    """
    for one in grad_outputs[len(call.fields) :]:
        if one is not None:
            raise second_derivative(call.loss)
    if len(call.fields) == 1:
        return grad_outputs[0]
    given = {field: one for field, one in zip(call.fields, grad_outputs, strict=False) if one is not None}
    for other in given.keys() - {"loss"}:
        raise RuntimeError(f"fastloss.torch.{call.loss.__name__} differentiates its loss, not its {other}")
    return given.get("loss")


def _scaled(gradients: tuple[Tensor, ...], factor: Tensor | None) -> Sequence[Tensor | None]:
    """Return gradients times a factor, in their own memory unless another backward pass may want them."""
    if factor is None:
        return [None] * len(gradients)
    if torch.is_grad_enabled() or is_compiling() or _graph_is_kept() or _is_batched(factor):
        return [gradient * factor for gradient in gradients]
    if factor.is_cpu and factor.item() == 1:  # loss.backward(): scaling takes a third of the time of the loss
        return [gradient.detach() for gradient in gradients]
    return [gradient.detach().mul_(factor) for gradient in gradients]


class Unreduced(_Loss):
    """A loss whose value is an array, and what is no loss, such as softmax: backward computes the gradients.

    Inside torch.func every loss is: which gradients are wanted is known in backward alone.
    """

    @staticmethod
    def forward(call: Call, *tensors: Tensor) -> Any:
        """Compute the value."""
        return call.value(tensors)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Any, ...]:
        """Compute the gradients."""
        if graph_break.is_traced():  # the backward pass of a call that is not compiled
            return graph_break.untraced(Unreduced.backward, ctx, *grad_outputs)  # type: ignore[no-any-return]
        call: Call = ctx.call.differentiating(ctx.needs_input_grad[1:])
        grad_output = check_fields(call, grad_outputs)
        if grad_output is None or not call.wrt:
            return (None,) * len(ctx.needs_input_grad)
        if _is_batched(grad_output):
            name = call.loss.__name__
            raise RuntimeError(
                f"fastloss.torch.{name} takes batches of gradients where it is reduced: use torch.func.jacrev, or "
                "leave out vectorize=True and is_grads_batched=True"
            )
        return call.in_places(Gradient.run(call, grad_output, *ctx.saved_tensors))


class Gradient(_Loss):
    """The gradients of a loss for an upstream gradient, which cannot be differentiated again."""

    @staticmethod
    def forward(call: Call, grad_output: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the gradients."""
        return tuple(call.grad(tensors, grad_output))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Any, ...]:
        """Raise: the loss would have to be differentiated twice."""
        raise second_derivative(ctx.call.loss)


def second_derivative(loss: Callable[..., Any]) -> RuntimeError:
    """Return the error for a second derivative."""
    return without(loss, "second derivatives")


def without(loss: Callable[..., Any], what: str) -> RuntimeError:
    """Return the error that says whose function has what a loss of this door has not."""
    name, modules = loss.__name__, (torch.nn.functional, torch) if is_packaged(record_of(loss).function) else ()
    module = next((m for m in modules if hasattr(m, name)), None)
    instead = f"use {module.__name__}.{name} where they are needed" if module else "write it with torch's functions"
    return RuntimeError(f"fastloss.torch.{name} has no {what}: {instead}")
