"""The loop over rows that a group of threads holds in registers: each entry is read once and has one exponential."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

from fastloss.cuda.device.block import WARP, added, anyone, block, blocks, maximum, meet, over, thread
from fastloss.cuda.device.memory import label_at, load, load_or, store, store_derivatives
from fastloss.cuda.device.numba_cuda import SMALL, types
from fastloss.cuda.device.online_softmax import SURE, exponential, of_exp_sum, of_others
from fastloss.cuda.device.packs import filled, folded, mapped
from fastloss.cuda.device.reduce import deliver, divided
from fastloss.cuda.device.registers import adding_up, deriving, filling, reading
from fastloss.cuda.launch import Kernel
from fastloss.cuda.loops.row_maths import at_target, blank_of, packed
from fastloss.define.descriptions import RowMaths

int32 = types.int32

# Threads of a group, and how many entries each of them holds at most; the smallest group that a row fits is its own.
# Groups beyond a warp are blocks.
GROUPS = ((1, 2), (2, 4), (4, 4), (8, 4), (16, 4)) if SMALL else (
    (1, 8), (4, 8), (8, 16), (32, 32), (64, 32), (128, 32), (256, 32), (512, 64),
)  # fmt: skip

# Threads that a multiprocessor holds at least, so that each has up to 128 registers.
RESIDENT = 512

# Threads of a block of several groups, none of which is larger than a warp.
THREADS = 8 if SMALL else 128


class Layout(NamedTuple):
    """How a row lies in registers: a group of `lanes` threads, each of which holds `packs` packs of `width` entries."""

    lanes: int
    packs: int
    width: int

    @property
    def threads(self) -> int:
        """The threads of a block."""
        return self.lanes if self.lanes > WARP else THREADS


def layout_of(columns: int, width: int, copies: int) -> Layout | None:
    """Return the layout of rows in packs of `width`; None of rows that are too long.

    `copies`: how many registers an entry takes, so that a thread holds as many times fewer, 8 at least.
    """
    for lanes, most in GROUPS:
        if columns <= lanes * min(most, max(8, most // copies)):
            packs = 1
            while lanes * packs * width < columns:
                packs *= 2
            return Layout(lanes, packs, width)
    return None


@functools.cache
def register_kernel(maths: RowMaths, layout: Layout) -> Kernel:
    """Return the kernel of a loss for rows of one layout."""
    lanes, packs, width = layout
    size, stride, groups = packs * width, lanes * width, layout.threads // lanes
    finish, has_terms, softmax, indexed = maths.finish, maths.terms is not None, maths.softmax, maths.indexed
    (sums, entries), outcome_at_target = packed(maths, width), at_target(maths)
    read, fill_up, fill = reading(packs, stride), filling(packs, stride), filled(width)
    add_up, derive = adding_up(sums, packs, width, stride), deriving(entries, packs, width, stride)
    highest, sum_of, exps_of = folded(maximum, size), folded(added, size), mapped(exponential, size)
    top_over, sum_over, total_over = over(maximum, lanes), over(added, lanes), over(added, layout.threads)
    settle, someone, others_of = meet(lanes), anyone(lanes), of_others(size)

    def rowwise(
        x, t, y, weight, grad_output, values, d0, d1, d2, hess,
        params, scale, count, columns, inner, ignore, partials, counted, divisor,
    ):  # fmt: skip
        T = type(scale)
        factor = divided(scale, counted)
        low, ones = fill(T(-math.inf)), fill(T(1))
        grads = (d0, d1, d2)
        lane = thread() % lanes
        first = lane * width
        left = int32(columns - first)
        total = T(0)
        # Every thread takes as many turns, those past the last row with the last row once more, unwritten.
        for turn in range(block() * groups, count, blocks() * groups):
            r = turn + thread() // lanes
            here = r < count
            r = r if here else count - 1
            base = r * columns
            label = label_at(y, r)
            known = not indexed or (label >= 0 and label < columns and label != ignore)
            place = label if known else 0
            mine = int32(place - first)  # the target's place behind this thread's first entry
            row = read(x, base + first, left, low)
            target = T(load(x, base + place)) if indexed else T(0)
            top = inverse = logsum = p_others = T(0)
            exps = row
            if softmax:
                top = top_over(highest(row))
                exps = exps_of(row, top)
                exp_sum = sum_over(sum_of(exps))
                others = T(0)
                if someone(exp_sum < T(SURE)):
                    others = sum_over(others_of(exps))
                inverse, logsum, p_others = of_exp_sum(exp_sum, others)
            zy = target - top if indexed else T(0)
            py = exponential(zy, T(0)) * inverse if indexed and softmax else T(0)
            wy = load_or(weight, place, T(1)) if indexed else T(1)
            terms = (T(0), T(0), T(0))
            if has_terms:
                rest = (top, inverse, mine, zy, wy, params)
                a, b, c = add_up(row, exps, t, weight, base + first, first, left, ones, rest)
                terms = (sum_over(a), sum_over(b), sum_over(c))
            value, coefs = finish(top, logsum, terms, zy, wy, p_others, py, params)
            blank = blank_of(label, ignore, top)
            value = T(value) if known else blank
            if here and lane == 0:
                store(values, r, value)
                total += value
            g = load_or(grad_output, r, factor)
            settle()  # the gradient may replace the input
            if here and known:
                tail = (top, inverse, coefs, g, params)
                derive(row, exps, t, weight, base + first, first, left, ones, grads, hess, tail)
                if indexed and mine & (stride - 1) < width:
                    store_derivatives(grads, hess, base + place, outcome_at_target(zy, py, wy, coefs, g, params))
            elif here:
                fill_up((d0, d1, d2, hess), base + first, left, fill(blank))
        total = total_over(total)
        deliver(partials, total, counted, divisor)

    name = f"rowwise_{lanes}x{packs}x{width}_{maths.finish.__name__}_{maths.entry.__name__}"
    return Kernel(name, rowwise, layout.threads, max(1, RESIDENT // layout.threads))
