"""Kernels that move memory: copies between layouts, fills, sums along an axis."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

from fastloss.cuda.device.block import block, blocks, thread, threads
from fastloss.cuda.device.memory import copy_element, load, store
from fastloss.cuda.device.reduce import THREADS, grid_of
from fastloss.cuda.device_array import DeviceArray, like
from fastloss.cuda.launch import Kernel, prepared
from fastloss.cuda.loops.elementwise import merged, place_of
from fastloss.runtime.dtypes import F32, real_of

# Sums along an axis run in a thread for each result: an axis is cut in pieces until about so many threads have work.
SUMMING_THREADS = 1 << 16
SHORTEST_PIECE = 16


@functools.cache
def _copy_kernel() -> Kernel:
    def copy(target, source, axes, on_target, on_source, size):
        for i in range(block() * threads() + thread(), size, threads() * blocks()):
            copy_element(target, place_of(i, axes, on_target), source, place_of(i, axes, on_source))

    return Kernel("copy", copy, THREADS)


def copy(device: Any, target: DeviceArray, source: DeviceArray) -> None:
    """Copy between arrays of one shape and dtype, of any strides.

    More than three axes that do not merge are copied slice by slice.
    """
    size = target.size
    if size == 0:
        return
    axes, strides = merged((target, source), target.shape)
    if axes is None:
        for k in range(target.shape[0]):
            copy(device, _slice(target, k), _slice(source, k))
        return
    _copy_kernel().launch(device, grid_of(size, THREADS), F32, target, source, axes, *strides, size)


def _slice(view: DeviceArray, k: int) -> DeviceArray:
    return DeviceArray(view.pointer + k * view.strides[0], view.shape[1:], view.dtype, view.owner, view.strides[1:])


@functools.cache
def _fill_kernel() -> Kernel:
    def fill(target, value, size):
        for i in range(block() * threads() + thread(), size, threads() * blocks()):
            store(target, i, value)

    return Kernel("fill", fill, THREADS)


def filling(device: Any, size: int, dtype: Any) -> Callable[[tuple[Any, ...]], None]:
    """Return what writes a value to contiguous memory, given (address, value, size)."""
    return prepared(_fill_kernel(), device, grid_of(size, THREADS), real_of(dtype), (like(dtype), 0.0, size))


def fill(device: Any, target: DeviceArray, value: float) -> None:
    """Write `value` to every element of a contiguous array."""
    if target.size:
        filling(device, target.size, target.dtype)((target.pointer, float(value), target.size))


@functools.cache
def _add_kernel() -> Kernel:
    def add(target, source, period, size):
        for i in range(block() * threads() + thread(), size, threads() * blocks()):
            store(target, i, load(target, i) + load(source, i % period))

    return Kernel("add", add, THREADS)


def add(device: Any, target: DeviceArray, source: DeviceArray) -> None:
    """Add `source`, over and over again where it is shorter, to the contiguous `target` of the same real dtype."""
    if target.size:
        grid = grid_of(target.size, THREADS)
        _add_kernel().launch(device, grid, target.dtype, target, source, source.size, target.size)


@functools.cache
def _sum_kernel() -> Kernel:
    def sum_axis(source, target, zero, length, pieces, inner, size):
        for i in range(block() * threads() + thread(), size, threads() * blocks()):
            row = i // inner
            outer = row // pieces
            piece = row % pieces
            base = outer * length * inner + i % inner
            total = zero
            for k in range(piece * length // pieces, (piece + 1) * length // pieces):
                total += load(source, base + k * inner)
            store(target, i, total)

    return Kernel("sum_axis", sum_axis, THREADS)


def sum_axis(device: Any, source: DeviceArray, outer: int, length: int, inner: int, result: DeviceArray) -> None:
    """Sum a contiguous array of shape (outer, length, inner) along its middle axis into `result`.

    In pieces whose number depends on the shape alone, and then over the pieces.
    """
    real = real_of(source.dtype)
    while True:
        pieces = max(1, min(length // SHORTEST_PIECE, SUMMING_THREADS // max(1, outer * inner)))
        size = outer * pieces * inner
        target = result if pieces == 1 else device.scratch(size, real)
        grid = grid_of(size, THREADS, length)
        _sum_kernel().launch(device, grid, real, source, target, 0.0, length, pieces, inner, size)
        if pieces == 1:
            return
        source, length = target, pieces


def sum_to(device: Any, view: DeviceArray, shape: tuple[int, ...], dtype: Any = None) -> DeviceArray:
    """Return the sum over axes along which `shape` was broadcast to `view`, in another dtype where one is named.

    The view is contiguous.
    """
    lead = view.ndim - len(shape)
    wanted = (1,) * lead + shape
    lengths = list(view.shape)
    real = real_of(view.dtype)
    stretched = [k for k, n in enumerate(wanted) if n != lengths[k]]
    if not stretched:
        return view.reshape(shape)
    source = view
    while stretched:
        last = stretched.pop()
        first = last
        while stretched and stretched[-1] == first - 1:
            first = stretched.pop()
        outer, length, inner = (
            math.prod(part) for part in (lengths[:first], lengths[first : last + 1], lengths[last + 1 :])
        )
        lengths[first : last + 1] = [1] * (last + 1 - first)
        size = outer * inner
        target = device.scratch(size, real) if stretched else device.empty(shape, dtype or view.dtype)
        sum_axis(device, source, outer, length, inner, target)
        source = target
    return source
