"""What :mod:`fastloss.call.call` asks of a backend, for host memory: arrays are NumPy views."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss.cpu  # noqa: F401  (registers the maths)
from fastloss.cpu import in_parts
from fastloss.cpu.loops.add import run as add_to
from fastloss.cpu.loops.check_labels import class_weights
from fastloss.cpu.loops.check_labels import run as survey
from fastloss.cpu.loops.clear_rows import run as clear_rows
from fastloss.cpu.loops.ctc import run as ctc
from fastloss.cpu.loops.elementwise import plan as plan_elementwise
from fastloss.cpu.loops.multilabel import plan as plan_multilabel
from fastloss.cpu.loops.pairwise import plan as plan_pairwise
from fastloss.cpu.loops.rowwise import plan as plan_rowwise
from fastloss.cpu.windows import FLAT
from fastloss.runtime.half import narrowed, widened
from fastloss.runtime.memory_pool import RECYCLED_FROM, empty

__all__ = [
    "add_rows", "add_to", "adds_products", "argmax", "broadcast", "chunk_times", "class_weights", "clear_rows",
    "copy_into", "ctc", "empty", "fill", "flat", "follows_layout", "host", "maker", "matmul", "moved",
    "multiplier", "multiplies_bfloat16", "number", "overlap", "pad", "plan_elementwise",
    "plan_multilabel", "plan_pairwise", "plan_rowwise", "prototype", "same", "samples_rows",
    "sum_to", "survey", "take", "upload", "waits", "zeros",
]  # fmt: skip

samples_rows = True  # whether loops over rows multiply by the weights of samples
follows_layout = True  # whether results of rows may lie in another order than C's, as their input does
waits = False  # whether looking at a result holds the caller up
adds_products = multiplies_bfloat16 = False  # what NumPy's matrix product does not do
chunk_times = 1  # how many times the budget of the CPU, see ``call/chunked_matmul.py``
moved = np.moveaxis
copy_into = in_parts.copy
multiplier = in_parts.multiplier
matmul = in_parts.matmul  # rows or columns of both factors are contiguous, and neither overlaps the product
flat = FLAT  # reshape(-1) of strides that merge would give a strided view
zeros = np.zeros  # pages of a fresh one that are never written cost nothing


def overlap(one: Any, other: Any) -> bool:
    """Return whether two views share an element, or may and cannot be told apart in reasonable time."""
    if not np.may_share_memory(one, other):
        return False
    try:
        return bool(np.shares_memory(one, other, max_work=1_000_000))  # type: ignore[arg-type]
    except np.exceptions.TooHardError:
        return True


def same(one: Any, other: Any) -> bool:
    """Return whether two views that overlap are the same elements in the same places."""
    if one.ctypes.data != other.ctypes.data or one.shape != other.shape or one.dtype != other.dtype:
        return False
    return one.strides == other.strides or bool(one.flags.c_contiguous and other.flags.c_contiguous)


def broadcast(view: Any, shape: tuple[int, ...]) -> Any:
    """Return a view of another shape; itself where it has that."""
    return view if view.shape == shape else np.broadcast_to(view, shape)


def maker(shape: tuple[int, ...], dtype: Any) -> Callable[[], Any]:
    """Return what makes such arrays."""
    large = math.prod(shape) * dtype.itemsize >= RECYCLED_FROM
    return functools.partial(empty if large else np.empty, shape, dtype)


@functools.cache
def prototype(dtype: Any) -> Any:
    """Return an array of the type of a flat result, without elements."""
    return np.empty(0, dtype)


def number(view: Any) -> float:
    """Return the value of a zero-dimensional view, or of what a loop returned."""
    return view if isinstance(view, float) else float(widened(view).item())


def fill(view: Any, value: float) -> None:
    """Write `value` to every element."""
    view.fill(narrowed(np.float64(value), view.dtype))


def pad(target: Any, source: Any, columns: int) -> None:
    """Copy `source` to the first `columns` of the target's second axis, and write zeros to the others."""
    target[:, :columns] = source
    target[:, columns:] = 0


def host(view: Any) -> Any:
    """Return a contiguous flat view of integers as a NumPy array of int64; what int64 cannot hold is negative."""
    return view.astype(np.int64, copy=False)


def upload(array: Any) -> Any:
    """Return a NumPy array where the backend computes."""
    return array


def take(view: Any, index: Any) -> Any:
    """Return a copy of the rows at `index`."""
    return view[index]


def add_rows(target: Any, index: Any, source: Any) -> None:
    """Add the rows of `source` to those at `index`, which are all different; both of one real dtype."""
    target[index] += source


def argmax(view: Any, out: Any) -> None:
    """Write to `out` the place of the largest entry of every row of a real matrix, the first of equal ones."""
    view.argmax(axis=1, out=out)


def sum_to(view: Any, shape: tuple[int, ...], dtype: Any = None) -> Any:
    """Return the sum over axes along which `shape` was broadcast to `view`, in another dtype where one is named."""
    lead = view.ndim - len(shape)
    stretched = [lead + k for k, n in enumerate(shape) if n == 1 and view.shape[lead + k] != 1]
    total = widened(view).sum(axis=(*range(lead), *stretched), dtype=np.float64)
    return narrowed(np.asarray(total).reshape(shape), dtype or view.dtype)  # a sum over all axes is no array
