"""Memory that a kernel computes with and gives back.

Kernels count no references to arrays: those that they are given are their caller's. Numba would count wherever a loop
hands an array on, by atomic operations, which wait for all that was streamed before. Without that a call of 640
elements takes 0.89 (cosine_embedding_loss) to 0.95 (cross_entropy) of the time, and a kernel 0.95 to compile.
"""

from __future__ import annotations

from numba import types

from fastloss.cpu.simd.llvm_hints import emits, free_array, heap_array
from fastloss.cpu.simd.memory import LINE_BYTES


def scratch(count, like):
    """Return an uninitialised flat array of `count` numbers of the type of `like`, for the kernel to :func:`free`.

    It begins at a cache line. Where there is no memory for it, MemoryError leaves the kernel, and what the kernel has
    asked for before is lost: what may be too large is to come first.
    """


def free(array):
    """Give back what :func:`scratch` returned."""


@emits(scratch)
def _scratch(count, like):
    array = types.Array(types.unliteral(like), 1, "C")

    def emit(context, builder, kinds, args):
        number = context.cast(builder, args[0], count, types.intp)
        return heap_array(context, builder, array, number, LINE_BYTES)

    return array, emit


@emits(free)
def _free(array):
    return types.none, lambda context, builder, kinds, args: free_array(context, builder, array, args[0])
