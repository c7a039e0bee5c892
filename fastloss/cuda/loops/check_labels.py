"""A look at all class indices before a row loss runs: whether they exist, and what the rows that count weigh."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from fastloss.cuda.device.block import added, block, blocks, minimum, over, thread, threads
from fastloss.cuda.device.memory import label_at, load, load_or, store
from fastloss.cuda.device.reduce import COUNTER, THREADS, deliver, grid_of
from fastloss.cuda.device_array import DeviceArray, like
from fastloss.cuda.driver import read_integer
from fastloss.cuda.launch import Kernel, prepared
from fastloss.cuda.planned import ending
from fastloss.define.descriptions import NO_INDEX
from fastloss.runtime.dtypes import I64


@functools.cache
def _kernel() -> Kernel:
    weight_over, first_over = over(added, THREADS), over(minimum, THREADS)

    def survey(y, weight, one, count, columns, ignore, firsts, partials, counted, divisor):
        T = type(one)
        total = T(0)
        first = count
        for r in range(block() * threads() + thread(), count, threads() * blocks()):
            label = label_at(y, r)
            known = label >= 0 and label < columns
            if known and label != ignore:
                total += load_or(weight, label, one)
            if not known and (label != ignore or ignore == NO_INDEX):
                first = minimum(first, r)
        total = weight_over(total)
        first = first_over(first)
        deliver(partials, total, counted, divisor)
        if thread() == 0:
            store(firsts, block(), first)

    return Kernel("survey", survey, THREADS)


@functools.cache
def _first_kernel() -> Kernel:
    first_over = over(minimum, THREADS)
    step = THREADS

    def smallest(firsts, result, size):
        first = load(firsts, 0)
        for k in range(thread(), size, step):
            first = minimum(first, load(firsts, k))
        first = first_over(first)
        if thread() == 0:
            store(result, 0, first)

    return Kernel("first", smallest, THREADS)


@functools.cache
def _weights_kernel() -> Kernel:
    def class_weights(y, weight, one, count, columns, ignore, result):
        T = type(one)
        for r in range(block() * threads() + thread(), count, threads() * blocks()):
            label = label_at(y, r)
            counts = label >= 0 and label < columns and label != ignore
            store(result, r, load_or(weight, label, one) if counts else T(0))

    return Kernel("class_weights", class_weights, THREADS)


def class_weights(device: Any, target: DeviceArray, weight: Any, columns: int, ignore: int, real: Any) -> DeviceArray:
    """Return the weight of the class of each row, 1 without a `weight`, and 0 for rows that do not count."""
    count, result = target.size, device.empty((target.size,), real)
    if count:
        grid = grid_of(count, THREADS)
        _weights_kernel().launch(device, grid, real, target, weight, 1.0, count, columns, ignore, result)
    return result


# Looks at labels, given their address and that of the class weights if there are some, and whether to check them.
Survey = Callable[[tuple[int, ...], bool], tuple[int, DeviceArray]]


def plan(device: Any, real: Any, target: DeviceArray, weight: Any, columns: int, ignore: int) -> Survey:
    """Return what looks at labels like these.

    It returns (first row whose class does not exist or -1, summed weight of the rows that count as a device scalar). To
    check the labels it waits for the device; where it does not, the first number is -1.
    """
    count, grid = target.size, grid_of(target.size, THREADS)
    weight = weight if type(weight) is tuple else like(weight.dtype)
    numbers = (1.0, count, columns, ignore)
    arguments, make, room = ending(device, grid, real)
    maker = device.maker((grid,), I64)
    make_firsts, address = maker.bare, maker.address
    labels = like(target.dtype)

    @functools.cache
    def start(check: bool) -> Callable[[Sequence[Any]], None]:
        args = (labels, weight, *numbers, like(I64) if check else (), *arguments)
        return prepared(_kernel(), device, grid, real, args)

    def look(pointers: tuple[int, ...], check: bool) -> tuple[int, DeviceArray]:
        counted, workspace = make(), room()
        end = (counted.pointer, workspace.pointer + COUNTER, workspace.pointer, 1.0)
        if not check:
            start(False)((*pointers, *numbers, *end))
            return -1, counted
        firsts = make_firsts()
        place = address(firsts)
        start(True)((*pointers, *numbers, place, *end))
        first = first_of(device, real, place, grid)
        return (first if first < count else -1), counted

    return look


def first_of(device: Any, real: Any, place: int, size: int) -> int:
    """Return the smallest of so many integers, which blocks have left at an address; waits for the device."""
    if size == 1:
        return read_integer(device, place)
    result = device.scratch(1, I64)
    _first_kernel().launch(device, 1, real, DeviceArray(place, (size,), I64, None), result, size)
    return read_integer(device, result.pointer)
