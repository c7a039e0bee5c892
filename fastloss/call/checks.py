"""Checks of shapes and dtypes, and the words in which they complain."""

from __future__ import annotations

import functools
import math
import operator
import warnings
from itertools import repeat
from typing import Any

import numpy as np

from fastloss.define.descriptions import Elementwise
from fastloss.runtime.dtypes import BF16_BITS, F16_BITS, FLOATS
from fastloss.runtime.stacklevel import stacklevel

Shape = tuple[int, ...]


def dtype_name(view: Any) -> str:
    """Return the user's name of a view's dtype."""
    if view.dtype == F16_BITS:
        return "float16"
    if view.dtype == BF16_BITS:
        return "bfloat16"
    return "uint8 or bool" if view.dtype == np.uint8 else str(view.dtype)  # both are read as bytes


def check_float(view: Any, name: str) -> None:
    """Raise unless the array is floating point."""
    if view.dtype not in FLOATS:
        raise TypeError(f"{name} must be floating point, got dtype {dtype_name(view)}")


def check_integer(view: Any, name: str, what: str = "class indices") -> None:
    """Raise unless the array is of integers, or empty: an empty list does not say of what."""
    if view.size == 0 and view.dtype == np.float64:
        return
    if view.dtype.kind not in "iu" or view.dtype in FLOATS:
        raise TypeError(f"{name} must hold {what} of an integer dtype, got dtype {dtype_name(view)}")


def check_shape(view: Any, shape: Shape, name: str, what: str) -> None:
    """Raise unless the array has the shape, which `what` explains."""
    if view.shape != shape:
        raise ValueError(f"{name} must have {what} {shape}, got shape {view.shape}")


def check_fits(view: Any, shape: Shape, name: str) -> None:
    """Check that an array broadcasts to `shape` and does not enlarge it."""
    if view.shape != shape and broadcast(view.shape, shape) != shape:
        raise ValueError(f"{name} of shape {view.shape} does not broadcast to {shape}")


def listed(names: tuple[str, ...], views: Any) -> str:
    """Return names and shapes for a message."""
    return ", ".join(f"{name} {view.shape}" for name, view in zip(names, views, strict=False))


def broadcast_shape(names: tuple[str, ...], views: Any) -> Shape:
    """Return the common shape of arrays."""
    shape = broadcast(*[view.shape for view in views])
    if shape is None:
        raise ValueError(f"shapes do not go together: {listed(names, views)}")
    return shape


# The smallest normal and the largest number of float32 and float64.
_RANGES = [(float(np.finfo(kind).smallest_normal), float(np.finfo(kind).max)) for kind in (np.float32, np.float64)]


def representable(numbers: tuple[float, ...], dtype: Any) -> tuple[float, ...]:
    """Return numbers, none of which becomes 0 or infinite in the computing type of arrays of `dtype` unless it is.

    The smallest normal and the largest number of that type take the place of those outside its range.
    """
    return _representable(numbers, tuple(map(math.copysign, repeat(1.0), numbers)), dtype)


@functools.lru_cache(1024)
def _representable(numbers: tuple[float, ...], signs: tuple[float, ...], dtype: Any) -> tuple[float, ...]:
    """Return the same; `signs` tell zeros apart, which are equal."""
    least, most = _RANGES[dtype == np.float64]
    found = map(float, numbers)
    return tuple([math.copysign(min(max(abs(n), least), most), n) if n and math.isfinite(n) else n for n in found])


def broadcast(*shapes: Shape) -> Shape | None:
    """Return the shape that shapes have in common, ``None`` where they have none; NumPy's takes 32 axes at most."""
    ndim = max(map(len, shapes))
    found = []
    for lengths in zip(*[(1,) * (ndim - len(shape)) + tuple(shape) for shape in shapes], strict=True):
        wider = {n for n in lengths if n != 1} or {1}
        if len(wider) > 1:
            return None
        found.append(wider.pop())
    return tuple(found)


def common_shape(description: Elementwise, views: list[Any]) -> Shape:
    """Return the shape of the result of an elementwise loss whose arrays differ in shape."""
    leads = views[: description.leads]
    shape = broadcast_shape(description.names, leads)
    if any(view.shape != leads[0].shape for view in leads):
        text = listed(description.names, leads)
        if description.broadcast == "exact":
            raise ValueError(f"shapes do not match: {text}")
        if description.broadcast == "same_ndim" and len({view.ndim for view in leads}) != 1:
            raise ValueError(f"arrays must have the same number of axes: {text}")
        if description.broadcast == "warn":
            message = f"shapes differ and are broadcast, which is rarely meant: {text}"
            warnings.warn(message, UserWarning, stacklevel=stacklevel())
    for name, view in zip(description.names[description.leads :], views[description.leads :], strict=True):
        check_fits(view, shape, name)
    return shape


def aligned_variance(view: Any, x: Any, name: str) -> Any:
    """Return a variance with an axis of length 1 in place of the last one where it lacks that, as torch takes it.

    Other axes of it may have length 1 too, as in torch since 2.14.
    """
    if view.shape == x.shape or view.ndim == 0:
        return view
    if view.shape == x.shape[:-1]:
        return view.reshape((*view.shape, 1))
    if view.ndim != x.ndim or any(n not in (m, 1) for n, m in zip(view.shape, x.shape, strict=True)):
        raise ValueError(
            f"{name} must have the input's shape {x.shape}, the same with axes of length 1, or {x.shape[:-1]}, got "
            f"shape {view.shape}"
        )
    return view


def check_labels(view: Any, rows: Shape, shape: Shape, what: str = "input") -> None:
    """Raise unless the array can hold the class indices of an input (or `what` stands for it) of `shape`."""
    check_integer(view, "target")
    if view.shape != rows and not (rows == () and view.shape == (1,)):
        raise ValueError(
            f"target must have shape {rows}, that of the {what} {shape} without its class axis, got shape {view.shape}"
        )


def split_axis(
    shape: Shape, dim: int | tuple[int, ...] | None, name: str = "dim"
) -> tuple[int, int, tuple[int, int, int]]:
    """Return the first and one past the last class axis, and (outer, classes, inner).

    Without `dim`, which the user calls `name`, the class axis is axis 0 of a one-dimensional input, else axis 1.
    """
    ndim = len(shape)
    if dim is None:
        if ndim == 2:
            return 1, 2, (shape[0], shape[1], 1)
        if ndim == 0:
            raise ValueError("input must have a class axis, got shape ()")
        first = 0 if ndim == 1 else 1
        last = first + 1
    else:
        named = (dim if len(dim) else range(ndim)) if isinstance(dim, tuple | list) else (dim,)
        axes = sorted({normal_axis(axis, ndim, name) for axis in named}) or [0]
        if len(axes) < len(named):
            raise ValueError(f"{name} must name each axis once, got {dim}")
        first, last = axes[0], axes[-1] + 1
        if len(axes) != last - first:
            raise ValueError(f"{name} must name neighbouring axes, got {dim}")
    return first, last, (math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:]))


def implicit_axis(ndim: int) -> int:
    """Return the axis that torch's softmax takes where none is named, with its warning."""
    axis = 0 if ndim in (0, 1, 3) else 1
    message = f"dim is best named: without it axis {axis} of {ndim} is taken"
    warnings.warn(message, UserWarning, stacklevel=stacklevel())
    return axis


def normal_axis(axis: int, ndim: int, name: str = "dim") -> int:
    """Return a non-negative axis; a number counts as having one axis, as in torch."""
    try:
        axis = operator.index(axis)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {axis!r}") from None
    if not -max(ndim, 1) <= axis < max(ndim, 1):
        raise ValueError(f"{name} {axis} is out of range for an input with {ndim} axes")
    return axis % max(ndim, 1)
