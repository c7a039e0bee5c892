"""Small arrays on the stack of the thread that runs a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import types

from fastloss.cpu.simd.llvm_hints import emits, stack_array
from fastloss.cpu.simd.memory import LINE_BYTES
from fastloss.define.check_maths import MOST_COEFS

# Rows that a tile of the loops over rows holds at most.
LANES = 128

# Elements that the elementwise loop handles at a time: five float64 buffers of it fit half a 48 KB L1 cache.
TILE = 512

# Elements of rows that are computed together, see ``sum_exp.py``.
GROUP = 1104


def lane_array(like):
    """Return an uninitialised array of LANES numbers of the type of `like`, on the stack.

    Compiles in no time, costs nothing, and LLVM knows that nothing else points to it.
    """


def lane_arrays(like):
    """Return an uninitialised array of MOST_COEFS times LANES numbers, on the stack."""


def tile_array(like):
    """Return an uninitialised array of TILE numbers, on the stack."""


def group_array(like):
    """Return an uninitialised array of GROUP elements of the type of `like`, on the stack."""


def _on_stack(count: int) -> Callable[..., Any]:
    def resolve(like):
        array = types.Array(like, 1, "C")

        def emit(context, builder, kinds, args):
            return stack_array(context, builder, array, count, LINE_BYTES)

        return array, emit

    return resolve


emits(lane_array)(_on_stack(LANES))
emits(lane_arrays)(_on_stack(MOST_COEFS * LANES))
emits(tile_array)(_on_stack(TILE))
emits(group_array)(_on_stack(GROUP))
