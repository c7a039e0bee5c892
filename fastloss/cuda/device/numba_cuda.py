"""The one place that imports numba.cuda: what kernels are written in, for a device or the simulator.

What a kernel calls to read memory or to find its place in the grid are *stubs* (:mod:`fastloss.cuda.device.memory`,
:mod:`fastloss.cuda.device.block`). The body of a stub is plain Python, and is what the simulator runs; :func:`emits`
and :func:`overload` give the instructions that the compiler puts in its place.
"""

from __future__ import annotations

import ctypes
import inspect
import os
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import cuda
from numba.cuda import cgutils  # type: ignore[attr-defined]
from numba.cuda import types as _types
from numba.cuda.core import config, targetconfig
from numba.cuda.extending import (  # type: ignore[attr-defined]
    lower_builtin,
    overload,
    register_jitable,
    type_callable,
)

from fastloss.cuda.device_array import DeviceArray
from fastloss.runtime import kernel_cache

__all__ = [
    "SIMULATED", "SMALL", "SimulatedPointer", "capability", "cgutils", "cuda", "emits", "jitable", "overload",
    "type_of", "types",
]  # fmt: skip

# Numba's types come into being at import, which a type checker does not see.
types: Any = _types

SIMULATED = bool(config.ENABLE_CUDASIM)

# Whether warps and blocks have a few threads: the simulator runs a Python thread for each. A process that is to have
# those of a device there says so.
SMALL = SIMULATED and os.environ.get("FASTLOSS_FULL_BLOCKS") != "1"

if not SIMULATED:  # the simulator compiles nothing
    from numba.cuda.core.caching import IndexDataCacheFile
    from numba.cuda.dispatcher import CUDACache

    kernel_cache.provide("cuda", CUDACache, IndexDataCacheFile)

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


def capability() -> tuple[int, int]:
    """Return the compute capability that the kernel at hand is compiled for."""
    asked: tuple[int, int] = targetconfig.ConfigStack().top().compute_capability
    return asked


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
