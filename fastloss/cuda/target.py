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
import struct
import threading
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

try:  # numba-cuda brings it along; the simulator does without
    from cuda.bindings import driver as _bindings
except ImportError:
    _bindings = None

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

# Bytes of shared memory that a block gets without asking; beyond it a kernel must be granted them.
SHARED_MEMORY_OF_ANY_KERNEL = 48 << 10

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
        body.__qualname__ = body.__name__ = f"{name}_{fingerprint('cuda/*.py')}{foreign_part(body)}"
        self.name, self.body, self.threads = name, body, threads
        self._simulated: Any = None
        self._loaded: dict[Any, Loaded] = {}

    def launch(self, device: Any, blocks: int, real: Any, *args: Any, shared: int = 0) -> None:
        """Launch on the stream of `device`. Numbers in `args` are converted to the dtype `real`.

        `shared`: the bytes of shared memory that a block gets beside what the kernel has of its own.
        """
        if SIMULATED:
            if self._simulated is None:
                self._simulated = cuda.jit(_quiet(self.body))
            self._simulated[blocks, self.threads](*[_simulated(argument, real.type) for argument in args])
            return
        kinds: list[Any] = [real, device.ordinal]
        values: list[Any] = []
        _flatten(args, kinds, values)
        key = tuple(kinds)
        with device.activated():
            loaded = self._loaded.get(key)
            if loaded is None:
                loaded = self._load(key, real, args)
            loaded.start(blocks, device.stream, values, shared)

    def signature(self, real: Any, args: tuple[Any, ...]) -> Any:
        """Return the signature of the kernel for launch arguments."""
        return types.void(*[type_of(argument, REALS[real]) for argument in args])

    def _load(self, key: Any, real: Any, args: tuple[Any, ...]) -> Loaded:
        """Compile, or read from the disk cache, for the device that is current, and load onto it."""
        with _lock:
            if key not in self._loaded:
                jit: Any = cuda.jit
                compiled = jit(self.signature(real, args), cache=True, launch_bounds=self.bounds)(self.body)
                self._loaded[key] = Loaded(compiled, self.threads, real, args)
            return self._loaded[key]


class Loaded:
    """A compiled kernel on a device, started straight through the driver.

    Numba's own launch converts and checks argument by argument. With a driver that does nothing (tests/fake_driver.c),
    on a slow core, mse_loss of 64x10, two kernels then, took 320 microseconds through it, and cross_entropy, four
    kernels, 420; through this, with one and two kernels, 160 and 210. The rest is the calling path.
    """

    __slots__ = ("arguments", "compiled", "granted", "handle", "lock", "slots", "struct", "table", "threads")

    def __init__(self, compiled: Any, threads: int, real: Any, args: tuple[Any, ...]) -> None:
        (overload_of_types,) = compiled.overloads.values()
        self.compiled, self.threads = compiled, threads  # the module lives as long as `compiled`
        self.handle = int(overload_of_types._codelibrary.get_cufunc().handle)
        codes = _codes(args, "f4x" if real == np.float32 else "d")
        self.struct = struct.Struct("=" + "".join(codes))  # every argument in eight bytes of its own
        self.slots = ctypes.create_string_buffer(max(8, self.struct.size))
        first = ctypes.addressof(self.slots)
        self.table = (ctypes.c_void_p * max(1, len(codes)))(*range(first, first + 8 * len(codes), 8))
        self.arguments = ctypes.addressof(self.table)
        self.lock = threading.Lock()
        self.granted = SHARED_MEMORY_OF_ANY_KERNEL

    def start(self, blocks: int, stream: int, values: list[Any], shared: int) -> None:
        """Queue the kernel on a stream of the device, which is current; the driver copies the arguments."""
        with self.lock:
            if shared > self.granted:
                most = _bindings.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
                _checked(_bindings.cuFuncSetAttribute(self.handle, most, shared))
                self.granted = shared
            try:
                self.struct.pack_into(self.slots, 0, *values)
            except OverflowError:  # a number beyond the largest float32, which is infinite there
                self.struct.pack_into(self.slots, 0, *map(_float32_or_int, values))
            (error,) = _bindings.cuLaunchKernel(
                self.handle, blocks, 1, 1, self.threads, 1, 1, shared, stream, self.arguments, 0
            )
        if error:
            _checked((error,))


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


@functools.cache
def external_stream(ordinal: int, pointer: int) -> Any:
    """Return Numba's object for a stream of another library; 0 is the default stream."""
    return cuda.external_stream(pointer) if pointer else 0


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
        _checked(_bindings.cuMemcpyDtoHAsync(ctypes.addressof(host), pointer, size, stream))
        _checked(_bindings.cuStreamSynchronize(stream))
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
        _checked(_bindings.cuMemcpyHtoDAsync(pointer, source, size, stream))
        if _reads_pageable_memory(device.ordinal):
            _checked(_bindings.cuStreamSynchronize(stream))  # else the driver has staged a copy when it returns


def wait_for(device: Any, stream: int) -> None:
    """Let what is launched from now on begin when what has been queued on another stream is done."""
    if SIMULATED:
        return
    with device.activated():
        event = _checked(_bindings.cuEventCreate(int(_bindings.CUevent_flags.CU_EVENT_DISABLE_TIMING)))
        _checked(_bindings.cuEventRecord(event, stream))
        _checked(_bindings.cuStreamWaitEvent(device.stream, event, 0))
        _checked(_bindings.cuEventDestroy(event))  # the driver keeps it for as long as a stream waits


def _refuse_capture(stream: int, reason: str) -> None:
    if int(_checked(_bindings.cuStreamIsCapturing(stream))) != 0:
        raise RuntimeError(reason)


@functools.cache
def _reads_pageable_memory(ordinal: int) -> bool:
    """Return whether a device can read memory of the host that is not pinned, so that a copy may begin late."""
    attribute = _bindings.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS
    return bool(_checked(_bindings.cuDeviceGetAttribute(attribute, _checked(_bindings.cuDeviceGet(ordinal)))))


def _checked(answer: Any) -> Any:
    """Return the result of a call of the driver; raise if it failed."""
    error = answer[0]
    if error != _bindings.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the CUDA driver reports {error.name}")
    return answer[1] if len(answer) > 1 else None


def shared_memory_of(ordinal: int) -> int:
    """Return the bytes of shared memory that a block may have; 0 where memory cannot be copied to it asynchronously."""
    attributes, device = _bindings.CUdevice_attribute, _checked(_bindings.cuDeviceGet(ordinal))
    major = attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
    if _checked(_bindings.cuDeviceGetAttribute(major, device)) < 8:
        return 0
    most = attributes.CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    return int(_checked(_bindings.cuDeviceGetAttribute(most, device)))


def current_device() -> int:
    """Return the number of the device whose context is current in this thread, -1 if none is."""
    error, device = _bindings.cuCtxGetDevice()
    return -1 if error else int(device)


def device_of_address(pointer: int) -> int:
    """Return the number of the device on which an address lies; the current one for an empty array's 0."""
    if SIMULATED:
        return 0
    if not pointer:
        return int(cuda.get_current_device().id)
    cuda.current_context()  # the query needs one
    ordinal = _bindings.CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(_checked(_bindings.cuPointerGetAttribute(ordinal, pointer)))
