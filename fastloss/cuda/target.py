"""The one place that imports numba.cuda: how kernels are compiled and launched, on a device or in the simulator.

A kernel is a closure over plain functions, compiled once for each tuple of argument types. Arguments are addresses,
integers and numbers, no arrays: Numba spends microseconds on every array argument. The type of a pointer
tells the kernel how to read it, as the type of an array does on the CPU; an absent array is ``()``.

What a kernel calls to read memory or to find its place in the grid are *stubs* (:mod:`fastloss.cuda.access`,
:mod:`fastloss.cuda.grid`). The body of a stub is plain Python, and is what the simulator runs; :func:`emits` and
:func:`overload` give the instructions that the compiler puts in its place.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import cgutils  # type: ignore[attr-defined]
from numba.cuda import types as _types
from numba.cuda.core import config
from numba.cuda.extending import (  # type: ignore[attr-defined]
    lower_builtin,
    overload,
    register_jitable,
    type_callable,
)

from fastloss._jit import fingerprint, foreign_part
from fastloss.cuda.arrays import DeviceArray

__all__ = [
    "SIMULATED", "Kernel", "cgutils", "cuda", "emits", "jitable", "overload", "read_memory", "types", "write_memory",
]  # fmt: skip

# Numba's types come into being at import, which a type checker does not see.
types: Any = _types

SIMULATED = bool(config.ENABLE_CUDASIM)

jitable = register_jitable

Emitter = Callable[..., Any]


def emits(stub: Callable[..., Any]) -> Callable[[Callable[..., Any]], None]:
    """Make calls of `stub` in kernels expand to instructions.

    The decorated function gets the argument types and returns (result type, emitter); the emitter gets
    (context, builder, arguments) and returns the result.
    """

    def register(resolve: Callable[..., Any]) -> None:
        def typer(*args: Any) -> Any:
            return resolve(*args)[0]

        typer.__signature__ = inspect.signature(stub)  # type: ignore[attr-defined]

        @type_callable(stub)  # type: ignore[untyped-decorator]
        def typing(context: Any) -> Any:
            return typer

        @lower_builtin(stub, types.VarArg(types.Any))  # type: ignore[untyped-decorator]
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            result = resolve(*signature.args)[1](context, builder, args)
            return context.get_dummy_value() if result is None else result

    return register


class SimulatedPointer:
    """An address with the type of what lies there, for kernels in the simulator."""

    __slots__ = ("address", "dtype")

    def __init__(self, address: int, dtype: Any) -> None:
        self.address, self.dtype = address, dtype

    def at(self, i: Any) -> Any:
        """Return element `i` as an array of one element that shares its memory."""
        size = self.dtype.itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(self.address + int(i) * size), self.dtype)


def type_of(argument: Any, real: Any) -> Any:
    """Return the Numba type that a kernel sees for a launch argument; numbers get the type `real`."""
    kind = type(argument)
    if kind is DeviceArray:
        return types.CPointer(NUMBA_TYPES[argument.dtype])
    if kind is int or kind is np.int64:
        return types.int64
    if kind is tuple:
        return types.Tuple(tuple(type_of(entry, real) for entry in argument))
    return real


NUMBA_TYPES = {np.dtype(name): getattr(types, name) for name in (
    "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"
)}  # fmt: skip
REALS = {np.dtype(np.float32): types.float32, np.dtype(np.float64): types.float64}

_lock = threading.Lock()


class Kernel:
    """A loop, compiled when it is first launched with arguments of new types.

    The name and the fingerprint of the sources make entries of the disk cache unique, as on the CPU.
    """

    def __init__(self, name: str, body: Callable[..., Any], threads: int) -> None:
        body.__qualname__ = body.__name__ = f"{name}_{fingerprint()}{foreign_part(body)}"
        self.name, self.body, self.threads = name, body, threads
        self._compiled: dict[Any, Any] = {}
        self._configured: dict[Any, Any] = {}

    def launch(self, device: Any, blocks: int, real: Any, *args: Any) -> None:
        """Launch on the stream of `device`. Numbers in `args` are converted to the dtype `real`."""
        if SIMULATED:
            kernel = self._compiled.setdefault("simulated", cuda.jit(_quiet(self.body)))
            kernel[blocks, self.threads](*[_simulated(argument, real.type) for argument in args])
            return
        with device.activated():
            key = (real, *[_key(argument) for argument in args])
            place = (key, blocks, device.ordinal, device.stream)
            configured = self._configured.get(place)
            if configured is None:
                configured = self._configure(key, place, args)
            configured(*[_plain(argument) for argument in args])

    def signature(self, real: Any, args: tuple[Any, ...]) -> Any:
        """Return the signature of the kernel for launch arguments."""
        return types.void(*[type_of(argument, REALS[real]) for argument in args])

    def _configure(self, key: Any, place: Any, args: tuple[Any, ...]) -> Any:
        _, blocks, ordinal, stream = place
        with _lock, warnings.catch_warnings():
            # Small batches launch few blocks; Numba warns of that.
            warnings.simplefilter("ignore")
            compiled = self._compiled.get((key, ordinal))
            if compiled is None:
                compiled = cuda.jit(self.signature(key[0], args), cache=True)(self.body)
                self._compiled[key, ordinal] = compiled
            configured = compiled[blocks, self.threads, external_stream(ordinal, stream)]
            if len(self._configured) > MAX_CONFIGURATIONS:
                self._configured.clear()
            self._configured[place] = configured
        return configured


# Launch configurations kept per kernel; grids have as many sizes as batches have.
MAX_CONFIGURATIONS = 256


@functools.cache
def external_stream(ordinal: int, pointer: int) -> Any:
    """Return Numba's object for a stream of another library; 0 is the default stream."""
    return cuda.external_stream(pointer) if pointer else 0


def _key(argument: Any) -> Any:
    kind = type(argument)
    if kind is DeviceArray:
        return argument.dtype
    return tuple([_key(entry) for entry in argument]) if kind is tuple else kind


def _quiet(body: Callable[..., Any]) -> Callable[..., Any]:
    """Return a kernel for the simulator that gives NaN and infinity without a warning, in each of its threads."""

    def quiet(*args: Any) -> None:
        with np.errstate(all="ignore"):
            body(*args)

    return quiet


def _plain(argument: Any) -> Any:
    return argument.pointer if type(argument) is DeviceArray else argument


def _simulated(argument: Any, real: Any) -> Any:
    kind = type(argument)
    if kind is DeviceArray:
        return SimulatedPointer(argument.pointer, argument.dtype)
    if kind is tuple:
        return tuple([_simulated(entry, real) for entry in argument])
    return argument if kind is int else real(argument)


def read_memory(device: Any, pointer: int, size: int) -> bytes:
    """Return bytes of device memory; waits for the stream of `device`."""
    host = ctypes.create_string_buffer(size)
    if SIMULATED:
        ctypes.memmove(host, pointer, size)
        return host.raw
    with device.activated():
        stream = device.stream
        _refuse_capture(
            stream,
            "numbers that this call needs on the host cannot be read while a graph is captured: they are those of the "
            "check of class indices (fl.config(check_indices=False) leaves it out), lengths and grad_output in device "
            "memory, and the sum of weights that a gradient of the weights needs",
        )
        # In the order of this stream alone: a copy that waits for all of them would end a capture in another thread.
        _checked(driver().cuMemcpyDtoHAsync(ctypes.addressof(host), pointer, size, stream))
        _checked(driver().cuStreamSynchronize(stream))
    return host.raw


def write_memory(device: Any, pointer: int, source: int, size: int) -> None:
    """Copy `size` bytes at an address of the host to device memory, in the order of the stream of `device`."""
    if SIMULATED:
        ctypes.memmove(pointer, source, size)
        return
    with device.activated():
        stream = device.stream
        # A graph would read the address when it is replayed, and not what is there now.
        _refuse_capture(
            stream, "numbers of the host, such as lengths, cannot be copied into a graph that is captured"
        )
        _checked(driver().cuMemcpyHtoDAsync(pointer, source, size, stream))
        if _reads_pageable_memory(device.ordinal):
            _checked(driver().cuStreamSynchronize(stream))  # else the driver has staged a copy when it returns


def wait_for(device: Any, stream: int) -> None:
    """Let what is launched from now on begin when what has been queued on another stream is done."""
    if SIMULATED:
        return
    with device.activated():
        event = _checked(driver().cuEventCreate(int(driver().CUevent_flags.CU_EVENT_DISABLE_TIMING)))
        _checked(driver().cuEventRecord(event, stream))
        _checked(driver().cuStreamWaitEvent(device.stream, event, 0))
        _checked(driver().cuEventDestroy(event))  # the driver keeps it for as long as a stream waits


def _refuse_capture(stream: int, reason: str) -> None:
    if int(_checked(driver().cuStreamIsCapturing(stream))) != 0:
        raise RuntimeError(reason)


@functools.cache
def _reads_pageable_memory(ordinal: int) -> bool:
    """Return whether a device can read memory of the host that is not pinned, so that a copy may begin late."""
    attribute = driver().CUdevice_attribute.CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS
    return bool(_checked(driver().cuDeviceGetAttribute(attribute, _checked(driver().cuDeviceGet(ordinal)))))


@functools.cache
def driver() -> Any:
    """Return the bindings of the CUDA driver, which numba-cuda brings along."""
    from cuda.bindings import driver

    return driver


def _checked(answer: Any) -> Any:
    """Return the result of a call of the driver; raise if it failed."""
    error = answer[0]
    if error != driver().CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the CUDA driver reports {error.name}")
    return answer[1] if len(answer) > 1 else None


def device_of_address(pointer: int) -> int:
    """Return the number of the device on which an address lies; the current one for an empty array's 0."""
    if SIMULATED:
        return 0
    if not pointer:
        return int(cuda.get_current_device().id)
    cuda.current_context()  # the query needs one
    ordinal = driver().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(_checked(driver().cuPointerGetAttribute(ordinal, pointer)))
