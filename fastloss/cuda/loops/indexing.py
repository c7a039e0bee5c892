"""Kernels that gather and scatter rows."""

from __future__ import annotations

import functools
from typing import Any

from fastloss.cuda.device.block import block, blocks, thread, threads
from fastloss.cuda.device.memory import copy_element, label_at, load, store
from fastloss.cuda.device.reduce import THREADS, grid_of
from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.launch import Kernel
from fastloss.runtime.dtypes import real_of


@functools.cache
def _take_kernel() -> Kernel:
    def take(target, source, index, columns, size):
        for i in range(block() * threads() + thread(), size, threads() * blocks()):
            row = i // columns
            copy_element(target, i, source, label_at(index, row) * columns + i - row * columns)

    return Kernel("take", take, THREADS)


def take(device: Any, source: DeviceArray, index: DeviceArray) -> DeviceArray:
    """Return a copy of the rows at `index` of a contiguous array."""
    target: DeviceArray = device.empty((index.size, *source.shape[1:]), source.dtype)
    if target.size:
        columns = target.size // index.size
        grid = grid_of(target.size, THREADS)
        _take_kernel().launch(device, grid, real_of(source.dtype), target, source, index, columns, target.size)
    return target


@functools.cache
def _add_rows_kernel() -> Kernel:
    def add_rows(target, source, index, columns, size):
        for i in range(block() * threads() + thread(), size, threads() * blocks()):
            row = i // columns
            place = label_at(index, row) * columns + i - row * columns
            store(target, place, load(target, place) + load(source, i))

    return Kernel("add_rows", add_rows, THREADS)


def add_rows(device: Any, target: DeviceArray, index: DeviceArray, source: DeviceArray) -> None:
    """Add the rows of `source` to those at `index`, which are all different; both contiguous, of one real dtype."""
    if source.size:
        grid = grid_of(source.size, THREADS)
        columns = source.size // index.size
        _add_rows_kernel().launch(device, grid, source.dtype, target, source, index, columns, source.size)
