"""Where a group of threads keeps its row between visits: the shared memory of its block, the *shelf*.

Each thread copies the packs that it will read itself, so that nobody waits for anybody, and the bits as they are, so
that a row of half types takes half the room. On devices of compute capability 8.0 and above the copies run on their
own: a thread starts those of its whole share before it waits for the first, and no register holds what is under way.

The functions are stubs, as those of ``access.py`` are; below each stands what the compiler puts in its place.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir

from fastloss.cuda.device.memory import load_pack
from fastloss.cuda.device.block import simulated
from fastloss.cuda.device.numba_cuda import SIMULATED, SimulatedPointer, cgutils, emits, jitable, types

# Bytes of a block's shelf in the simulator: some rows of its tests fit, some do not.
SIMULATED_ROOM = 160

# What is left of a block's shared memory to the boards of its reductions: a few numbers for each warp.
BOARDS = 1024

_I32 = ir.IntType(32)
_SHARED = 3


def room(device: Any) -> int:
    """Return the bytes that a block may have as its shelf on a device."""
    return SIMULATED_ROOM if SIMULATED else max(0, device.shared_memory - BOARDS)


def shelf_like(array):
    """Return the address of the block's shelf, for elements of the array's type."""
    memory = simulated().__dict__.setdefault("fastloss_shelf", (ctypes.c_char * SIMULATED_ROOM)())
    return SimulatedPointer(ctypes.addressof(memory), array.dtype)


@emits(shelf_like)
def _shelf_like(array):
    def emit(context, builder, args):
        name, no_size = "fastloss_shelf", ir.ArrayType(ir.IntType(8), 0)
        memory = builder.module.globals.get(name)
        if memory is None:
            # Memory of no size, whose size the launch says: `extern __shared__` in CUDA's C++.
            memory = cgutils.add_global_variable(builder.module, no_size, name, _SHARED)
            memory.linkage = "external"
            memory.align = 16
        generic = builder.addrspacecast(memory, ir.PointerType(no_size))
        return builder.bitcast(generic, context.get_value_type(array))

    return array, emit


def put_on_shelf(shelf, place, array, i, like):
    """Begin to copy elements from `i` on, as many as a pack like `like` has, to a place on the shelf."""
    for k in range(len(like)):
        shelf.at(place + k)[0] = array.at(i + k)[0]


@emits(put_on_shelf)
def _put_on_shelf(shelf, place, array, i, like):
    size = array.dtype.bitwidth // 8 * len(like)

    def emit(context, builder, args):
        to = builder.gep(args[0], [context.cast(builder, args[1], place, types.int64)])
        source = builder.gep(args[2], [context.cast(builder, args[3], i, types.int64)])
        if size < 4:  # the device copies 4, 8 or 16 bytes on its own
            builder.store(builder.load(source), to)
            return
        shared = builder.addrspacecast(to, ir.PointerType(to.type.pointee, _SHARED))
        # .cg leaves the L1 cache out, for which the shelf takes the room; the smaller sizes do not know it.
        way = "cg" if size == 16 else "ca"
        signature = ir.FunctionType(ir.VoidType(), [_I32, source.type])
        copy = f"cp.async.{way}.shared.global [$0], [$1], {size};"
        address = builder.ptrtoint(shared, _I32)
        builder.asm(signature, copy, "r,l,~{memory}", [address, source], side_effect=True)

    return types.none, emit


def shelf_is_full():
    """Wait for the copies that this thread has begun."""


@emits(shelf_is_full)
def _shelf_is_full():
    def emit(context, builder, args):
        builder.asm(ir.FunctionType(ir.VoidType(), []), "cp.async.wait_all;", "~{memory}", [], side_effect=True)

    return types.none, emit


@functools.cache
def reader(keeps: bool) -> Callable[..., Any]:
    """Return the function that reads a pack of a row from memory, or with `keeps` from the shelf as far as it is there.

    A row is a tuple (array, place of its first entry, step between entries, shelf, place there, entries kept there).
    """
    if not keeps:

        @jitable
        def read(row, j, zeros):
            return load_pack(row[0], row[1] + j * row[2], zeros)

        return read

    @jitable
    def read_kept(row, j, zeros):
        return load_pack(row[3], row[4] + j, zeros) if j < row[5] else load_pack(row[0], row[1] + j, zeros)

    return read_kept
