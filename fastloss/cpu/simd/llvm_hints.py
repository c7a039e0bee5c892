"""What kernels say to LLVM beyond Python: functions that expand to its instructions, and hints to its optimiser.

All private interfaces of Numba and llvmlite that kernels need are used in this file; the other files of this folder go
through its functions. A test imports each of them.

Two reasons to emit instructions where a jitted function would do. A kernel calls the same few functions with dozens of
type combinations, and a function of its own costs Numba 20 ms of compilation per combination: the first call of a loss
would take seconds. And Numba's own indexing tests for negative indices, which turns vector loads into gathers wherever
LLVM cannot see the sign.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import binding, ir
from llvmlite.binding.ffi import lib
from numba import config, types
from numba.core import cgutils
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import lower_builtin, type_callable
from numba.np.arrayobj import populate_array

from fastloss.runtime import forks, kernel_cache

Emitter = Callable[..., Any]

kernel_cache.provide("cpu", FunctionCache, IndexDataCacheFile)
forks.guard(global_compiler_lock, lib._lock)


def emits(stub: Callable[..., Any]) -> Callable[[Callable[..., Any]], None]:
    """Make calls of `stub` in kernels expand to instructions.

    The decorated function gets the argument types and returns (result type, emitter); the emitter gets
    (context, builder, argument types, arguments) and returns the result.

    Not :func:`numba.extending.intrinsic`: the object that it makes is pickled anew in every process, so a kernel that
    holds one in a closure, as those do that choose between ``store`` and ``stream``, is not found in the disk cache.
    """

    def register(resolve: Callable[..., Any]) -> None:
        def typer(*args: Any) -> Any:
            return resolve(*args)[0]

        typer.__signature__ = inspect.signature(stub)  # type: ignore[attr-defined]

        @type_callable(stub)
        def typing(context: Any) -> Any:
            return typer

        @lower_builtin(stub, types.VarArg(types.Any))  # type: ignore[untyped-decorator]
        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            result = resolve(*signature.args)[1](context, builder, signature.args, args)
            return context.get_dummy_value() if result is None else result

    return register


def is_absent(kind: Any) -> bool:
    """Return whether a Numba type is that of ``()``."""
    return isinstance(kind, types.BaseTuple) and len(kind) == 0


def pointer_to(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of an element of a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [index], inbounds=True)


def store_past(builder: Any, value: Any, pointer: Any, align: int) -> None:
    """Write past the caches, by a non-temporal store, where `align` makes it one of a whole vector."""
    hint = builder.module.add_metadata([ir.IntType(32)(1)])
    builder.store(value, pointer, align=align).set_metadata("nontemporal", hint)


def unpacked(builder: Any, value: Any, count: int) -> Any:
    """Return the entries of a tuple."""
    return cgutils.unpack_tuple(builder, value, count)


def stepping(builder: Any, start: Any, stop: Any, step: Any) -> Any:
    """Return the context of a loop's body, which gives (counter, number of steps)."""
    return cgutils.for_range_slice(builder, start, stop, step, start.type)


def stack_slot(builder: Any, kind: Any) -> Any:
    """Return the address of room on the stack, the same each time the code comes by."""
    return cgutils.alloca_once(builder, kind)


def write_zeros(builder: Any, pointer: Any, size: Any) -> None:
    """Write zeros to `size` bytes by the C library."""
    cgutils.memset(builder, pointer, size, 0)


def stack_array(context: Any, builder: Any, kind: Any, count: int, align: int) -> Any:
    """Return an uninitialised array of `count` numbers on the stack."""
    element = context.get_data_type(kind.dtype)
    array = context.make_array(kind)(context, builder)
    size = context.get_constant(types.intp, context.get_abi_sizeof(element))
    data = cgutils.alloca_once(builder, element, size=count)
    data.align = align
    shape = [context.get_constant(types.intp, count)]
    populate_array(array, data=data, shape=shape, strides=[size], itemsize=size, meminfo=None)
    return array._getvalue()


def heap_array(context: Any, builder: Any, kind: Any, count: Any, align: int) -> Any:
    """Return an uninitialised array of `count` numbers of the C library's heap, to be given to :func:`free_array`."""
    element, size_type = context.get_data_type(kind.dtype), context.get_value_type(types.intp)
    size = context.get_constant(types.intp, context.get_abi_sizeof(element))
    allocate = ir.FunctionType(cgutils.voidptr_t, [size_type])
    wanted = builder.add(builder.mul(count, size), size_type(align))
    block = builder.call(cgutils.get_or_insert_function(builder.module, allocate, "malloc"), [wanted])
    with builder.if_then(cgutils.is_null(builder, block), likely=False):
        context.call_conv.return_user_exc(builder, MemoryError, ("no memory for what a loss computes with",))
    address = builder.ptrtoint(block, size_type)
    first = builder.gep(block, [builder.and_(builder.neg(address), size_type(align - 1))])
    array = context.make_array(kind)(context, builder)
    data = builder.bitcast(first, element.as_pointer())
    populate_array(array, data=data, shape=[count], strides=[size], itemsize=size, meminfo=None, parent=block)
    return array._getvalue()


def free_array(context: Any, builder: Any, kind: Any, array: Any) -> None:
    """Give memory back that :func:`heap_array` allocated."""
    free = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t])
    block = context.make_array(kind)(context, builder, array).parent
    builder.call(cgutils.get_or_insert_function(builder.module, free, "free"), [block])


def array_part(context: Any, builder: Any, kind: Any, array: Any, start: Any, stop: Any) -> Any:
    """Return a part of a flat array, which shares its memory."""
    whole = context.make_array(kind)(context, builder, array)
    piece = context.make_array(kind)(context, builder)
    length = builder.sub(stop, start)
    cgutils.copy_struct(piece, whole)
    piece.data = builder.gep(whole.data, [start])
    piece.nitems = length
    piece.shape = cgutils.pack_array(builder, [length])
    return piece._getvalue()


def _has(feature: str) -> bool:
    """Return whether code is compiled for CPUs with a feature of x86; of others, True."""
    named: str | None = getattr(config, "CPU_FEATURES", None)
    if named is None:
        return bool(binding.get_host_cpu_features().get(feature, True))
    return f"+{feature}" in named.split(",")


# Whether a product and a sum round once, and float16 is converted by an instruction, as it is on all but x86 CPUs older
# than 2013.
FUSED = _has("fma")
CONVERTS_HALF = _has("f16c")

# What arrays hold: numbers, the bits of half types, or the labels of a tile.
ELEMENTS = (ir.FloatType(), ir.DoubleType(), ir.IntType(16), ir.IntType(32))


def vector_function() -> None:
    """Mark the function that calls it: 512-bit vectors where the CPU has them, and never inlined.

    LLVM prefers 256-bit vectors on CPUs with AVX-512; exp over data in cache runs 1.6 times faster with 512. Not
    inlining keeps the attribute, and makes serial and parallel kernels run the same machine code.
    """


def wide_vectors() -> None:
    """Mark the function that calls it: 512-bit vectors where the CPU has them.

    What a kernel calls is vectorised before the kernel takes it in, so it wants a mark of its own.
    """


def interleaved(count) -> None:
    """Compute so many vectors at a time in the loops above this call, in the function that calls it.

    A loss is a chain of 20 to 60 operations, each of which waits for the one before. Where vectors follow one another,
    a CPU has two or three of them in sight; in step, it has them all. LLVM does so by itself in loops that sum up, and
    in short ones. In cache, time with 4 beside that with 1: binary_cross_entropy_with_logits 0.6 with AVX-512 and 0.75
    with AVX2, sigmoid_focal_loss 0.8 and 0.8, poisson_nll_loss 0.6 and 0.65, binary_cross_entropy 1 and 0.9; with 2
    1 to 1.3 times the time with 4; cross_entropy of 8 to 48 classes 0.92 to 0.98 and 0.92 to 1.04.
    """


def separate_arrays() -> None:
    """Mark the function that calls it: what its array arguments point to does not overlap where one is written.

    LLVM gives up on a loop with more than a handful of arrays to tell apart at run time. Vectors are those of
    :func:`wide_vectors`.
    """


def apart_or_in_place() -> None:
    """Say of the loops above this call that what a turn writes no other turn reads: results lie apart, or in place.

    LLVM would compare addresses, and compute results that begin less than a vector behind an argument one by one: with
    other roundings.
    """


def maximum(a, b):
    """Return the larger, NaN if either is. ``max`` keeps LLVM from vectorising a running maximum; this does not."""


def _widen_vectors(function):
    # llvmlite's attribute set refuses names that it does not know; the plain set's add does not.
    set.add(function.attributes, '"prefer-vector-width"="512"')


@emits(vector_function)
def _vector_function():
    def emit(context, builder, kinds, args):
        _widen_vectors(builder.function)
        set.add(builder.function.attributes, "noinline")

    return types.none, emit


@emits(wide_vectors)
def _wide_vectors():
    def emit(context, builder, kinds, args):
        _widen_vectors(builder.function)

    return types.none, emit


def _loops(builder):
    """Yield the blocks of each loop so far that has no hint yet, and the branch that ends it."""
    blocks = builder.function.blocks
    places = {block: k for k, block in enumerate(blocks)}
    for block, k in places.items():
        end = block.terminator
        starts = () if end is None else [places[to] for to in end.operands if to in places and places[to] <= k]
        if starts and "llvm.loop" not in end.metadata:
            yield blocks[min(starts) : k + 1], end


def _hint(builder, end, name, value):
    """Give the loop that a branch ends a hint to the optimiser."""
    hint = builder.module.add_metadata([name, value])
    loop = ir.MDValue(builder.module, [hint], str(len(builder.module.metadata)))
    loop.operands = (loop, hint)  # a loop's name is the node that refers to itself
    end.set_metadata("llvm.loop", loop)


class _AccessGroup(ir.MDValue):  # type: ignore[misc]
    """The name of a set of instructions: a node that is equal to no other."""

    __eq__, __hash__ = object.__eq__, object.__hash__

    def descr(self, buffer):
        """Append the node's text."""
        buffer += ("distinct !{}\n",)


@emits(interleaved)
def _interleaved(count):
    def emit(context, builder, kinds, args):
        for _, end in _loops(builder):
            _hint(builder, end, "llvm.loop.interleave.count", ir.IntType(32)(args[0].constant))

    return types.none, emit


@emits(apart_or_in_place)
def _apart_or_in_place():
    def emit(context, builder, kinds, args):
        nodes = builder.module.metadata
        found = [one for one in nodes if isinstance(one, _AccessGroup)]
        group = found[0] if found else _AccessGroup(builder.module, [], str(len(nodes)))
        for blocks, end in _loops(builder):
            for instruction in [one for block in blocks for one in block.instructions]:
                if isinstance(instruction, ir.LoadInstr | ir.StoreInstr | ir.CallInstr):
                    instruction.set_metadata("llvm.access.group", group)
            _hint(builder, end, "llvm.loop.parallel_accesses", group)

    return types.none, emit


@emits(separate_arrays)
def _separate_arrays():
    def emit(context, builder, kinds, args):
        for argument in builder.function.args:
            kind = argument.type
            if isinstance(kind, ir.PointerType) and kind.pointee in ELEMENTS:
                argument.add_attribute("noalias")
        _widen_vectors(builder.function)

    return types.none, emit


@emits(maximum)
def _maximum(a, b):
    def emit(context, builder, kinds, args):
        kind = args[0].type
        function = builder.module.declare_intrinsic("llvm.maximum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(function, args)

    return a, emit
