"""Kernels: compiled once for each tuple of argument types, and started straight through the driver.

A kernel is a closure over plain functions. Its arguments are addresses, integers and numbers, no arrays: Numba spends
microseconds on every array argument. The type of a pointer tells the kernel how to read it, as the type of an array
does on the CPU; an absent array is ``()``.
"""

from __future__ import annotations

import ctypes
import functools
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from fastloss.cuda.device.numba_cuda import REALS, SIMULATED, SimulatedPointer, cuda, type_of, types
from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.driver import bindings, checked, current_device, single_device
from fastloss.runtime.compile import fingerprint, foreign_part
from fastloss.runtime.compile_errors import in_one_line
from fastloss.runtime.kernel_cache import keep_on_disk, warn_of_memory

_lock = threading.Lock()


class Kernel:
    """A loop, compiled when it is first launched with arguments of new types.

    The name and the fingerprint of the sources make entries of the disk cache unique, as on the CPU.

    `bounds` are the threads of a block, and how many blocks a multiprocessor must hold at once, of which the assembler
    is told: two blocks of 256 threads leave each thread 128 of the 65536 registers. Without the bound releases of the
    assembler have taken up to 135 for cross_entropy in bfloat16.
    """

    def __init__(self, name: str, body: Callable[..., Any], threads: int, resident: int = 2) -> None:
        self.bounds = threads, resident
        part = foreign_part(body)
        body.__qualname__ = body.__name__ = f"{name}_{fingerprint('cuda/**/*.py')}{part}"
        self.name, self.body, self.threads, self.own = name, body, threads, bool(part)
        self._simulated: Any = None
        self._loaded: dict[Any, Loaded] = {}

    def launch(self, device: Any, blocks: int, real: Any, *args: Any) -> Loaded | None:
        """Launch on the stream of `device`, and return the loaded kernel; the simulator has none.

        Numbers in `args` are converted to the dtype `real`.
        """
        if SIMULATED:
            if self._simulated is None:
                self._simulated = cuda.jit(_quiet(self.body))
            self._simulated[blocks, self.threads](*[_simulated(argument, real.type) for argument in args])
            return None
        values: list[Any] = []
        loaded = self.loaded(device, real, args, values)
        loaded.start(device, blocks, values)
        return loaded

    def loaded(self, device: Any, real: Any, args: tuple[Any, ...], values: list[Any]) -> Loaded:
        """Return the kernel for arguments of the types of `args`, whose numbers are appended to `values`."""
        kinds: list[Any] = [real, device.ordinal]
        _flatten(args, kinds, values)
        key = tuple(kinds)
        found = self._loaded.get(key)
        if found is None:
            with device.activated():
                found = self._load(key, real, args)
        return found

    def signature(self, real: Any, args: tuple[Any, ...]) -> Any:
        """Return the signature of the kernel for launch arguments."""
        return types.void(*[type_of(argument, REALS[real]) for argument in args])

    def _load(self, key: Any, real: Any, args: tuple[Any, ...]) -> Loaded:
        """Compile, or read from the disk cache, for the device that is current, and load onto it."""
        with _lock:
            if key not in self._loaded:
                jit: Any = cuda.jit
                compiled = jit(launch_bounds=self.bounds)(self.body)
                keep_on_disk(compiled, self.body, "cuda", self.own)
                with in_one_line(self.own):
                    compiled.compile(self.signature(real, args).args)
                warn_of_memory()
                self._loaded[key] = Loaded(compiled, key[1], self.threads, real, args)
            return self._loaded[key]


class Loaded:
    """A compiled kernel on a device, started straight through the driver.

    Numba's own launch converts and checks argument by argument. With a driver that does nothing (tests/fake_driver.c),
    on a slow core, calls of 64x10 elements took 320 microseconds through it with two kernels (mse_loss) and 420 with
    four (cross_entropy); through this, 160 with one and 210 with two. The rest is the calling path.
    """

    __slots__ = ("arguments", "compiled", "handle", "lock", "ordinal", "slots", "struct", "table", "threads")

    def __init__(self, compiled: Any, ordinal: int, threads: int, real: Any, args: tuple[Any, ...]) -> None:
        (overload_of_types,) = compiled.overloads.values()
        self.compiled, self.threads = compiled, threads  # the module lives as long as `compiled`
        self.ordinal = ordinal
        self.handle = int(overload_of_types._codelibrary.get_cufunc().handle)
        codes = _codes(args, "f4x" if real == np.float32 else "d")
        self.struct = struct.Struct("=" + "".join(codes))  # every argument in eight bytes of its own
        self.slots = ctypes.create_string_buffer(max(8, self.struct.size))
        first = ctypes.addressof(self.slots)
        self.table = (ctypes.c_void_p * max(1, len(codes)))(*range(first, first + 8 * len(codes), 8))
        self.arguments = ctypes.addressof(self.table)
        self.lock = threading.Lock()

    def start(self, device: Any, blocks: int, values: Sequence[Any]) -> None:
        """Queue the kernel on the stream of the device; the driver copies the arguments."""
        self.starter(device, blocks)(values)

    def starter(self, device: Any, blocks: int) -> Callable[[Sequence[Any]], None]:
        """Return what does so for a grid, given the arguments."""
        grid = (blocks, 1, 1, self.threads, 1, 1, 0)  # and no shared memory beside the kernel's own
        launch = functools.partial(bindings.cuLaunchKernel, self.handle, *grid)
        pack, arguments, lock = functools.partial(self.struct.pack_into, self.slots, 0), self.arguments, self.lock
        ordinal, stream = self.ordinal, device.library.current_stream

        several = not single_device()

        def start(values: Sequence[Any]) -> None:
            if several and current_device() != ordinal:
                with device.activated():
                    start(values)
                return
            with lock:
                try:
                    pack(*values)
                except OverflowError:  # a number beyond the largest float32, which is infinite there
                    pack(*map(_float32_or_int, values))
                (error,) = launch(stream(), arguments, 0)
            if error:
                if current_device() == ordinal:
                    checked((error,))
                with device.activated():  # this thread had no context
                    start(values)

        return start


def prepared(
    kernel: Kernel, device: Any, blocks: int, real: Any, args: tuple[Any, ...]
) -> Callable[[Sequence[Any]], None]:
    """Return what repeats a launch with other addresses and numbers, which it is given without the tuples around them.

    Of the arrays in `args` nothing but their dtypes is kept.
    """
    if not SIMULATED:
        return kernel.loaded(device, real, args, []).starter(device, blocks)
    like = with_values(args, repeat(0))

    def start(values: Sequence[Any]) -> None:
        kernel.launch(device, blocks, real, *with_values(like, iter(values)))

    return start


def with_values(args: tuple[Any, ...], values: Iterator[Any]) -> tuple[Any, ...]:
    """Return launch arguments of the types of others: each array and number is the next of `values`."""
    filled: list[Any] = []
    for argument in args:
        kind = type(argument)
        if kind is tuple:
            filled.append(with_values(argument, values))
        else:
            value = next(values)
            filled.append(DeviceArray(value, (0,), argument.dtype, None) if kind is DeviceArray else kind(value))
    return tuple(filled)


def _float32_or_int(number: Any) -> Any:
    """Return an integer as it is, and another number rounded to float32."""
    with np.errstate(over="ignore"):
        return float(np.float32(number)) if isinstance(number, float | np.floating) else number


def _flatten(args: tuple[Any, ...], kinds: list[Any], values: list[Any]) -> None:
    """Append what decides the type of each argument to `kinds`, and the numbers of all to `values`."""
    for argument in args:
        kind = type(argument)
        if kind is DeviceArray:
            kinds.append(argument.dtype.num)
            values.append(argument.pointer)
        elif kind is tuple:
            kinds.append(())
            if argument:
                _flatten(argument, kinds, values)
                kinds.append(len(argument))
        else:
            kinds.append(kind)
            values.append(argument)


def _codes(args: tuple[Any, ...], number: str) -> list[str]:
    """Return the format of each argument: integers in eight bytes, numbers in the type that they convert to."""
    codes: list[str] = []
    for argument in args:
        kind = type(argument)
        if kind is tuple:
            codes += _codes(argument, number)
        else:
            codes.append("Q" if kind is DeviceArray else "q" if kind is int or kind is np.int64 else number)
    return codes


def _quiet(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel for the simulator that gives NaN and infinity without a warning, in each of its threads."""

    def quiet(*args: Any) -> None:
        with np.errstate(all="ignore"):
            body(*args)

    return quiet


def _simulated(argument: Any, real: Any) -> Any:
    kind = type(argument)
    if kind is DeviceArray:
        return SimulatedPointer(argument.pointer, argument.dtype)
    if kind is tuple:
        return tuple([_simulated(entry, real) for entry in argument])
    return argument if kind is int else real(argument)
