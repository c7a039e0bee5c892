"""Launches of which all but addresses and numbers is settled when a kind of call is planned."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import and_
from typing import Any, NamedTuple

from fastloss.cuda.device.memory import WIDEST
from fastloss.cuda.device.reduce import COUNTER, U32
from fastloss.cuda.device_array import DeviceArray, addresses, like
from fastloss.cuda.launch import Kernel, prepared
from fastloss.runtime.compile import Launch
from fastloss.runtime.plans import KernelPlan, count_present

# Runs a loop given the addresses of its arrays, and whether to check labels; returns the reduced value as an array of
# the library, None where values are a result, and before it, where there are labels, the place of a bad one or -1.
At = Callable[[tuple[int, ...], bool], Any]

# Given the scale of the derivatives and a divisor, returns what runs a loop.
Bound = Callable[[float, Any], At]

# Says of the addresses of a loop's arrays which of two forms its launch has.
Look = Callable[[tuple[int, ...]], bool]


class Form(NamedTuple):
    """What a launch consists of, beside arrays, factors and the divisor."""

    kernel: Kernel
    grid: int
    sizes: tuple[int, ...]  # what stands behind the factor of the derivatives
    layout: tuple[tuple[int, ...], ...] = ()  # what stands between operands and results


class Ending(NamedTuple):
    """Where a planned launch leaves its reduced value, and what memory its blocks share to make it."""

    arguments: tuple[Any, ...]  # like what a kernel hands to `deliver`
    make: Any  # makes memory for the value; None: nobody wants it
    room: Callable[[], DeviceArray]  # a workspace


def ending(device: Any, grid: int, real: Any, wanted: bool = True, counted: Any = None) -> Ending:
    """Plan the end of a launch; `counted` is the dtype of a divisor that lies on the device."""
    by: Any = () if counted is None else like(counted)
    if not wanted:
        return Ending(((), by, 1.0), None, _no_room)
    partials = (like(real), like(real), like(U32))
    room = _no_room if grid == 1 else device.workspace
    return Ending((partials, by, 1.0), device.maker((), real), room)


_NOWHERE = like(U32)


def _no_room() -> DeviceArray:
    """Return what a lone block uses of a workspace: nothing."""
    return _NOWHERE


def factor_of(scale: float, divisor: Any) -> float:
    """Return the factor of the derivatives; a divisor on the device is left to the kernel."""
    return scale if type(divisor) is DeviceArray else scale / divisor if divisor else math.nan


# Runs a launch with the addresses of its arrays, the parameters and the factor of the derivatives, and a divisor as
# `divisor_of` has looked at it.
Run = Callable[[tuple[int, ...], tuple[float, ...], Any, tuple[Any, ...]], Any]


def divisor_of(divisor: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the dtype of a divisor if it lies on the device, and the numbers that a kernel is given for it."""
    return (divisor.dtype, (divisor.pointer, 1.0)) if type(divisor) is DeviceArray else (None, (float(divisor),))


class Looping:
    """Runs a loop over arrays of some types, five operands and five results.

    Alignment is no part of a kind of call, so that `look` is asked at every call: a new array of the library may lie
    anywhere, and so may the next chunk of one that is worked through.
    """

    def __init__(
        self, device: Any, real: Any, arrays: tuple[Any, ...], params: int, look: Look, form_of: Callable[[bool], Form]
    ) -> None:
        self._device, self._real, self._params, self._look, self._form_of = device, real, params, look, form_of
        self._reduces, self._read = type(arrays[5]) is tuple, count_present(arrays[:5])
        self._arrays = tuple([a if type(a) is tuple else like(a.dtype) for a in arrays])
        self._launches: dict[Any, Any] = {}  # by form and the dtype of a divisor on the device

    def bound(self, params: tuple[float, ...], scale: float, divisor: Any) -> At:
        """Return what runs with these numbers, and has no labels to check."""
        run, numbers, by = self.run, (*params, factor_of(scale, divisor)), divisor_of(divisor)
        return lambda pointers, check: run(pointers, numbers, *by)

    def run(self, pointers: tuple[int, ...], numbers: tuple[float, ...], counted: Any, by: tuple[Any, ...]) -> Any:
        """Run once; see :data:`Run`."""
        form = self._look(pointers), counted
        launch = self._launches.get(form)
        if launch is None:
            launch = self._launches[form] = self._prepared(*form)
        start, sizes, make, address, room = launch
        if make is None:
            start((*pointers, *numbers, *sizes, *by))
            return None
        value, workspace = make(), room()  # which another thread may forget at any time
        place = workspace.pointer
        start((*pointers, *numbers, *sizes, address(value), place + COUNTER, place, *by))
        return value

    def _prepared(self, second: bool, counted: Any) -> tuple[Any, ...]:
        kernel, grid, sizes, layout = self._form_of(second)
        end = ending(self._device, grid, self._real, self._reduces, counted)
        arrays = self._arrays
        args = (*arrays[:5], *layout, *arrays[5:], (1.0,) * self._params, 1.0, *sizes, *end.arguments)
        start = prepared(kernel, self._device, grid, self._real, args)
        if layout:
            start = _spliced(start, self._read, tuple([number for numbers in layout for number in numbers]))
        return (start, sizes, *((None, None) if end.make is None else (end.make.bare, end.make.address)), end.room)


def _spliced(start: Any, place: int, numbers: tuple[int, ...]) -> Callable[[Sequence[Any]], None]:
    """Return what launches with `numbers` at a place among the values that it is given."""
    return lambda values: start((*values[:place], *numbers, *values[place:]))


def unaligned(width: int, itemsizes: list[int]) -> Look:
    """Return what says whether an address forbids packs of `width` elements; items of 0 bytes may lie anywhere."""
    masks = [min(WIDEST, width * size) - 1 if size else 0 for size in itemsizes]
    return lambda pointers: any(map(and_, pointers, masks))


def never(pointers: tuple[int, ...]) -> bool:
    """Return False: the launch has one form."""
    return False


def plan_of(device: Any, bound: Bound, reads: tuple[Any, ...], arrays: int = 10, **rest: bool) -> KernelPlan:
    """Return the plan of a loop of so many operands and results; `reads` may copy operands."""
    labelled, view = rest.get("labelled", False), device.library.view

    def code(*args: Any) -> Any:
        scale, divisor, check = args[arrays : arrays + 3]
        found = bound(scale, divisor)(addresses(args[:arrays]), check)
        bad, value = found if labelled else (-1, found)
        value = None if value is None else view(value, "value")
        return (bad, value) if labelled else value

    direct = bound if all(read is itself for read in reads) else None
    return KernelPlan(Launch(code, no_queue), reads, numbers_of, divided=True, bound=direct, **rest)


def numbers_of(scale: float, divisor: Any, check: bool) -> tuple[Any, ...]:
    """Return what follows the arrays of a loop on a device."""
    return scale, divisor, check


def no_queue() -> None:
    """Return no queue: a device shares out the work by itself."""


def itself(view: DeviceArray) -> DeviceArray:
    """Return a view that is read as it lies."""
    return view
