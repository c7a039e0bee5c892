"""Arrays of the caller's that a call is to write: checks of them, and gradients that are copied to them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastloss.call.array_ops import in_type
from fastloss.call.checks import Shape, check_shape, dtype_name
from fastloss.call.planning import Operand, Planning
from fastloss.call.request import Request
from fastloss.runtime.dtypes import F32, HALF


def check_targets(planning: Planning, targets: tuple[Any, ...], like: Iterable[Operand]) -> list[Operand]:
    """Check the arrays of ``grad_out``, which must be like the operands, before anything is written."""
    checked: list[Operand] = []
    for array, operand in zip(targets, like, strict=True):
        target = planning.operand("grad_out", array)
        check_target(planning, target, operand.view.shape, operand.view.dtype)
        if any(planning.library.backend.overlap(target.view, other.view) for other in checked):
            raise ValueError("grad_out overlaps another array that is written")
        checked.append(target)
    return checked


def in_targets(planning: Planning, gradients: tuple[Any, ...], targets: list[Operand], request: Request) -> Any:
    """Return the gradients as they are asked for: copied to ``grad_out``, where there are targets, or as they are."""
    library = planning.library
    for gradient, target in zip(gradients, targets, strict=False):
        view = library.view(gradient, target.name)
        library.backend.copy_into(target.view, in_type(library.backend, view, target.view.dtype))
    if targets:
        return request.grad_out
    return gradients[0] if request.mode.single else gradients


def check_out(planning: Planning, views: Iterable[Any]) -> None:
    """Check that ``out`` shares no memory with arrays that are read, or written, after the values."""
    out = planning.library.output(planning.request.out, "out")
    if any(planning.library.backend.overlap(out, view) for view in views):
        raise ValueError("out overlaps an argument or another array that is written")


def check_target(planning: Planning, target: Operand, shape: Shape, dtype: Any) -> None:
    """Check an array to be written, which must have a shape and a dtype."""
    view = planning.library.output(target.given, target.name)
    planning.see(target, target.name)
    target.view = view
    check_shape(view, shape, target.name, "shape")
    if view.dtype != dtype and (view.dtype != F32 or dtype not in HALF):
        wanted = "the dtype of its argument, or be float32 beside half precision"
        raise TypeError(f"{target.name} must have {wanted}, got {dtype_name(view)}")
    if not view.flags.c_contiguous and _may_overlap_itself(view):
        raise ValueError(f"{target.name} has elements that share memory with each other: strides {view.strides}")


def _may_overlap_itself(view: Any) -> bool:
    """Return whether two elements may lie in the same place: an axis is shorter than what the finer axes span."""
    span = view.itemsize
    for stride, length in sorted((abs(stride), n) for stride, n in zip(view.strides, view.shape, strict=True) if n > 1):
        if stride < span:
            return True
        span += stride * (length - 1)
    return False
