"""What torch's autograd has to be told: of tensors that are written, and of values that leave it."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from fastloss.call.planning import Compute
from fastloss.call.request import Request
from fastloss.cpu.arrays import is_tracked
from fastloss.runtime.loaded import is_instance
from fastloss.runtime.stacklevel import stacklevel


class AutogradWarning(UserWarning):
    """A value was computed of a tensor that requires a gradient, and backward will not find the way through it."""


_warned: set[str] = set()  # losses about whose values a user has been told


def warn_outside_autograd(name: str, arguments: Iterable[Any]) -> None:
    """Warn, once for each loss, of a value of tensors that autograd follows."""
    if "torch" not in sys.modules or name in _warned or not any(map(is_tracked, _leaves(arguments))):
        return
    _warned.add(name)
    message = (
        f"{name} of a tensor that requires grad returns a value that autograd does not follow: use the losses of "
        "fastloss.torch where backward is to go through it (fastloss.torch.wrap for one of your own), "
        "fastloss.value_and_grad for the gradient itself, and torch.no_grad() or .detach() where no gradient is wanted"
    )
    warnings.warn(message, AutogradWarning, stacklevel=stacklevel())


def writing(compute: Compute, request: Request) -> Compute:
    """Return what computes calls like this one and tells autograd of the tensors that they write, if there are any."""
    if not any(is_instance(array, "torch", "Tensor") for array in _leaves(request[2:])):
        return compute
    increment = sys.modules["torch"].autograd.graph.increment_version

    def run_with_several(arrays: tuple[Any, ...], request: Request) -> Any:
        tensors = tuple(_leaves(request[2:]))
        for tensor in tensors:
            if tensor.requires_grad:
                _refuse_leaf(tensor, "out" if tensor is request.out else "grad_out")
        try:
            return compute(arrays, request)
        finally:  # when a call is interrupted, too
            bump_versions(tensors)

    def run_with_one(arrays: tuple[Any, ...], request: Request) -> Any:
        tensor = request.grad_out
        if tensor.requires_grad:
            _refuse_leaf(tensor, "grad_out")
        try:
            return compute(arrays, request)
        finally:
            increment(tensor)

    several = request.out is not None or isinstance(request.grad_out, tuple | list)
    return run_with_several if several else run_with_one


def bump_versions(tensors: Iterable[Any]) -> None:
    """Tell autograd that tensors have been written, of which it may have kept what they were."""
    for tensor in tensors:
        sys.modules["torch"].autograd.graph.increment_version(tensor)


def _refuse_leaf(tensor: Any, name: str) -> None:
    """Raise for a leaf of autograd's graph, or a view of one: its gradient would be that of other numbers."""
    base = tensor if tensor._base is None else tensor._base
    if base.is_leaf and is_tracked(tensor):
        raise ValueError(
            f"{name} is a leaf tensor that requires grad, or a view of one, which must not be written in place: "
            f"pass {name}.detach(), or call under torch.no_grad()"
        )


def _leaves(given: Iterable[Any]) -> Iterator[Any]:
    """Yield the arrays in tuples and lists of arrays."""
    for one in given:
        if isinstance(one, tuple | list):
            yield from _leaves(one)
        elif one is not None:
            yield one
