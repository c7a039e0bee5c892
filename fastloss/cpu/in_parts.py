"""Copies and matrix products of NumPy's in parts, between which Ctrl-C is heard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Elements that are copied at once: 0.1 s, and some more where each lies in a page of its own.
COPIED_AT_ONCE = 1 << 24

# Products of two numbers that a matrix product sums up at once: 0.1 to 0.3 s on two cores.
MULTIPLIED_AT_ONCE = 1 << 32


def copy(target: Any, source: Any) -> None:
    """Copy `source` into a view of its shape, converted to its dtype."""
    if source.size <= COPIED_AT_ONCE:
        np.copyto(target, source, casting="unsafe")
        return
    for part in _parts([(0, length) for length in source.shape]):
        np.copyto(target[part], source[part], casting="unsafe")


def copied(array: Any, dtype: Any = None, order: Any = "C") -> Any:
    """Return a copy, in another dtype where one is given."""
    result = np.empty_like(array, dtype, order, subok=False)
    copy(result, array)
    return result


def flat(array: Any) -> Any:
    """Return the elements of an array in C order as a flat one, copied only where they do not lie so."""
    return (array if array.flags.c_contiguous else copied(array)).ravel()


def matmul(a: Any, b: Any, out: Any) -> None:
    """Write the product of two matrices."""
    rows, columns = out.shape
    at_once = max(1, MULTIPLIED_AT_ONCE // max(1, min(rows, columns) * a.shape[1]))
    for start in range(0, max(rows, columns), at_once):
        part = slice(start, start + at_once)
        if rows >= columns:
            np.matmul(a[part], b, out=out[part])
        else:
            np.matmul(a, b[:, part], out=out[:, part])


def multiplier(products: int) -> Callable[[Any, Any, Any], Any]:
    """Return what writes matrix products that sum up so many products of two numbers."""
    return np.matmul if products <= MULTIPLIED_AT_ONCE else matmul


def _parts(bounds: list[tuple[int, int]]) -> Iterator[tuple[Any, ...]]:
    """Yield indices of the parts of an array between bounds along each axis, halved along the longest one."""
    lengths = [stop - start for start, stop in bounds]
    if math.prod(lengths) <= COPIED_AT_ONCE:
        yield (*[slice(*each) for each in bounds], ...)
        return
    axis = lengths.index(max(lengths))
    start, stop = bounds[axis]
    middle = start + lengths[axis] // 2
    for half in ((start, middle), (middle, stop)):
        yield from _parts([*bounds[:axis], half, *bounds[axis + 1 :]])
