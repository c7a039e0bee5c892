"""What kernels and the calling path see of an array in device memory."""

from __future__ import annotations

import functools
import math
from operator import attrgetter
from typing import Any, NamedTuple


class Flags(NamedTuple):
    """The part of NumPy's flags that the calling path asks for."""

    c_contiguous: bool


class DeviceArray:
    """A view of device memory: address, shape, strides in bytes and dtype.

    The dtype follows the convention of ``cpu/arrays.py``: float16 as int16 bits, bfloat16 as uint16 bits.
    `owner` is the user's array, or one of the user's library that was allocated for a result; it keeps the memory
    alive.
    """

    __slots__ = ("dtype", "owner", "pointer", "shape", "strides")

    def __init__(
        self, pointer: int, shape: tuple[int, ...], dtype: Any, owner: Any, strides: tuple[int, ...] | None = None
    ) -> None:
        self.pointer = pointer
        self.shape = shape
        self.dtype = dtype
        self.owner = owner
        self.strides = contiguous_strides(shape, dtype.itemsize) if strides is None else strides

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        """The bytes of an element."""
        return self.dtype.itemsize

    @property
    def flags(self) -> Flags:
        """Whether the elements lie in C order without gaps."""
        return Flags(self.is_contiguous())

    def is_contiguous(self) -> bool:
        """Return whether the elements lie in C order without gaps; strides of axes of length 1 do not matter."""
        step = self.dtype.itemsize
        if self.strides == contiguous_strides(self.shape, step):
            return True
        for length, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if length == 0:
                return True
            if length != 1:
                if stride != step:
                    return False
                step *= length
        return True

    def bounds(self) -> tuple[int, int]:
        """Return the first address and the one past the last."""
        if self.size == 0:
            return self.pointer, self.pointer
        reach = [stride * (length - 1) for length, stride in zip(self.shape, self.strides, strict=True)]
        low = self.pointer + sum(r for r in reach if r < 0)
        return low, self.pointer + sum(r for r in reach if r > 0) + self.itemsize

    def relation(self, other: DeviceArray) -> int:
        """Return 0 if the stretches of memory that two views span are apart, 1 if the views are the same, else 2."""
        (first, end), (other_first, other_end) = self.bounds(), other.bounds()
        if first >= other_end or other_first >= end:
            return 0
        if (self.pointer, self.shape, self.dtype) != (other.pointer, other.shape, other.dtype):
            return 2
        return 1 if self.strides == other.strides or (self.is_contiguous() and other.is_contiguous()) else 2

    def reshape(self, shape: int | tuple[int, ...]) -> DeviceArray:
        """Return the same elements in another shape; a shape of -1 is flat. Only for contiguous arrays."""
        new = (self.size,) if isinstance(shape, int) else shape
        if new == self.shape and len(new) == 1 and self.is_contiguous():
            return self
        if not self.is_contiguous() or math.prod(new) != self.size:
            raise ValueError(f"cannot reshape an array of shape {self.shape} and strides {self.strides} to {new}")
        return DeviceArray(self.pointer, new, self.dtype, self.owner)

    def broadcast(self, shape: tuple[int, ...]) -> DeviceArray:
        """Return the array repeated to `shape`, without a copy."""
        lead = len(shape) - self.ndim
        strides = [
            0 if own == 1 and wanted != 1 else stride
            for own, wanted, stride in zip(self.shape, shape[lead:], self.strides, strict=True)
        ]
        return DeviceArray(self.pointer, shape, self.dtype, self.owner, (0,) * lead + tuple(strides))

    def moved(self, source: int, destination: int) -> DeviceArray:
        """Return the array with one axis in another place, without a copy."""
        order = [axis for axis in range(self.ndim) if axis != source]
        order.insert(destination, source)
        shape, strides = (tuple([of[axis] for axis in order]) for of in (self.shape, self.strides))
        return DeviceArray(self.pointer, shape, self.dtype, self.owner, strides)

    @property
    def T(self) -> DeviceArray:  # noqa: N802 (NumPy's name)
        """The same elements with the axes in reverse order."""
        return DeviceArray(self.pointer, self.shape[::-1], self.dtype, self.owner, self.strides[::-1])

    def __getitem__(self, key: slice | tuple[slice, ...]) -> DeviceArray:
        """Return a stretch along each of the first axes."""
        keys = key if isinstance(key, tuple) else (key,)
        pointer, shape = self.pointer, list(self.shape)
        for axis, one in enumerate(keys):
            start, stop, _ = one.indices(self.shape[axis])
            pointer += start * self.strides[axis]
            shape[axis] = max(0, stop - start)
        return DeviceArray(pointer, tuple(shape), self.dtype, self.owner, self.strides)


_address = attrgetter("pointer")


def addresses(arrays: tuple[Any, ...]) -> tuple[int, ...]:
    """Return where the arrays lie that are not absent, ``()``."""
    return tuple(map(_address, filter(None, arrays)))


def like(dtype: Any) -> DeviceArray:
    """Return what stands for an array of a dtype where only its type counts."""
    return DeviceArray(0, (0,), dtype, None)


@functools.lru_cache(1024)
def contiguous_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the strides, in bytes, of a C-contiguous array."""
    strides = []
    step = itemsize
    for length in reversed(shape):
        strides.append(step)
        step *= max(length, 1)
    return tuple(reversed(strides))
