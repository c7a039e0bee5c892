"""The forward-backward recursion of connectionist temporal classification over one sequence.

A path visits blank 0, label 0, blank 1, ..., label S - 1, blank S; it stays, or moves on by one, or skips a blank
between two labels that differ. Blanks and labels lie in arrays of their own, so that no loop has a branch. A row of the
lattice, which is a time step, holds four sections, each with a margin on both sides::

    mantissas and exponents of blanks | mantissas and exponents of labels (see cpu/simd/scaled_float.py)

Only states that can be reached, and from which the end can be, are computed, rounded to whole blocks. The first row
stands for the time before the first step. The backward pass keeps two rows and writes the gradient as it goes.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from fastloss.cpu.simd.llvm_hints import separate_arrays, vector_function
from fastloss.cpu.simd.memory import load, part, store
from fastloss.cpu.simd.polynomials import CONTRACT
from fastloss.cpu.simd.scaled_float import exp_pair, larger, normal, power
from fastloss.define.scalars import exp
from fastloss.runtime.compile import kernel_part

# States computed together: one vector of float32. Loops run over whole blocks and leave no remainder.
BLOCK = 16
MARGIN = 8

# Time steps between two normalisations. A step multiplies m by a number in [0.7, 4.3], and the gradient multiplies two.
NORMAL_EVERY = 16


@register_jitable(**CONTRACT)
def _forward(count, section, before, skip, inputs, m_blank, e_blank, blank_m, blank_e, label_m, label_e):
    """Compute `count` blanks and labels of a row; `before` is the row before, from the state before the first on."""
    separate_arrays()
    for s in range(count):
        bm, be = load(before, s + 1), load(before, section + s + 1)
        lm, le = load(before, 2 * section + s + 1), load(before, 3 * section + s + 1)
        pm, pe = load(before, 2 * section + s), load(before, 3 * section + s)
        top = larger(be, pe)
        store(blank_m, s, (bm * power(be - top) + pm * power(pe - top)) * m_blank)
        store(blank_e, s, top + e_blank)
        pe += load(skip, s)
        top = larger(larger(be, le), pe)
        m, e = exp_pair(load(inputs, s))
        store(label_m, s, (bm * power(be - top) + lm * power(le - top) + pm * power(pe - top)) * m)
        store(label_e, s, top + e)


@kernel_part(fastmath={"contract", "reassoc"})
def _backward(
    count, section, after, skip, inputs, m_blank, e_blank, blank_m, blank_e, label_m, label_e, alpha, shares, like
):
    """Compute `count` states from the row after, and how much of the total passes through them.

    The shares of the labels go to `shares`, the sum of those of the blanks is returned. A row holds what is to come
    times the probability of its own step.
    """
    separate_arrays()
    total = like
    for s in range(count):
        bm, be = load(after, s), load(after, section + s)
        lm, le = load(after, 2 * section + s), load(after, 3 * section + s)
        cm, ce = load(after, s + 1), load(after, section + s + 1)
        nm, ne = load(after, 2 * section + s + 1), load(after, 3 * section + s + 1)
        top = larger(be, le)
        m = bm * power(be - top) + lm * power(le - top)
        total += load(alpha, s) * m * power(load(alpha, section + s) + top)
        store(blank_m, s, m * m_blank)
        store(blank_e, s, top + e_blank)
        ne += load(skip, s + 1)
        top = larger(larger(le, ce), ne)
        m = lm * power(le - top) + cm * power(ce - top) + nm * power(ne - top)
        store(shares, s, load(alpha, 2 * section + s) * m * power(load(alpha, 3 * section + s) + top))
        pm, pe = exp_pair(load(inputs, s))
        store(label_m, s, m * pm)
        store(label_e, s, top + pe)
    return total


@register_jitable(**CONTRACT)
def _normalise_section(count, m, e):
    separate_arrays()
    for s in range(count):
        a, b = normal(load(m, s), load(e, s))
        store(m, s, a)
        store(e, s, b)


@register_jitable(**CONTRACT)
def _normalise(count, first, section, row):
    """Bring the mantissas of `count` blanks and labels near 1."""
    end = first + section
    _normalise_section(count, part(row, first, end), part(row, end, end + section))
    first, end = first + 2 * section, end + 2 * section
    _normalise_section(count, part(row, first, end), part(row, end, end + section))


@kernel_part()
def _clear(count, first, section, row, like):
    """Make `count` blanks and labels 0, and the label before them."""
    T = type(like)
    for k in range(2):
        m, e = first + 2 * k * section, first + (2 * k + 1) * section
        for s in range(-k, count):
            store(row, m + s, T(1))
            store(row, e + s, T(-np.inf))


@register_jitable(**CONTRACT)
def _exp_row(count, row):
    """Replace the entries of a row by their exponentials."""
    for c in range(count):
        store(row, c, exp(load(row, c)))


@kernel_part()
def _copy_row(count, x, row):
    """Read a row of the input."""
    separate_arrays()
    for c in range(count):
        store(row, c, load(x, c))


@kernel_part()
def _write_row(count, row, factor, gradient):
    """Write a row of the gradient."""
    separate_arrays()
    for c in range(count):
        store(gradient, c, factor * load(row, c))


@kernel_part()
def forward_pass(x, path, skip, lattice, inputs, frames, labels, stride, blank, section, keep, like):
    """Fill the rows of one sequence, or only the last two of them, and return the total probability as a pair.

    `path` holds the labels, `skip` 0 where the blank before a label may be left out, else -inf; `stride` is the
    distance of a time step to the next in `x`.
    """
    vector_function()
    T = type(like)
    row = 4 * section
    # Before the first step: at blank 0.
    _clear(BLOCK, MARGIN, section, lattice, like)
    store(lattice, section + MARGIN, T(0))
    now = 0
    last = 0
    for t in range(frames):
        low = max(0, labels - frames + t) // BLOCK
        high = min(t + 1, labels) // BLOCK
        if high > last:
            _clear(BLOCK, now + MARGIN + high * BLOCK, section, lattice, like)
            last = high
        first = low * BLOCK
        count = (high + 1) * BLOCK - first
        for s in range(first, min(first + count, labels)):
            store(inputs, s, load(x, t * stride + load(path, s)))
        m, e = exp_pair(load(x, t * stride + blank))
        before = now + MARGIN + first
        now = (t + 1 if keep else (t + 1) & 1) * row
        here, end = now + MARGIN + first, now + row
        _forward(
            count, section, part(lattice, before - 1, before + row), part(skip, first, section),
            part(inputs, first, section), m, e, part(lattice, here, end), part(lattice, here + section, end),
            part(lattice, here + 2 * section, end), part(lattice, here + 3 * section, end),
        )  # fmt: skip
        # The next row looks at the label before its first one.
        store(lattice, here + 2 * section - 1, T(1))
        store(lattice, here + 3 * section - 1, T(-np.inf))
        if t % NORMAL_EVERY == NORMAL_EVERY - 1:
            _normalise(count, here, section, lattice)
    end = now + MARGIN + labels
    be, le = load(lattice, end + section), load(lattice, end + 3 * section - 1)
    top = larger(be, le)
    m = load(lattice, end) * power(be - top) + load(lattice, end + 2 * section - 1) * power(le - top)
    return normal(m, top)


@kernel_part()
def backward_pass(
    x, path, skip, lattice, inputs, frames, labels, stride, blank, section, m_total, e_total,
    rows, shares, probs, gradient, factor, classes,
):  # fmt: skip
    """Write the gradient of one sequence, from the last step to the first."""
    vector_function()
    T = type(factor)
    row = 4 * section
    # After the last step: at the last blank, with the inverse of the total probability.
    _clear(section - MARGIN, MARGIN, section, rows, factor)
    _clear(section - MARGIN, row + MARGIN, section, rows, factor)
    after = 0
    store(rows, MARGIN + labels, T(1) / m_total)
    store(rows, section + MARGIN + labels, -e_total)
    padded = (classes + BLOCK - 1) // BLOCK * BLOCK
    for t in range(frames - 1, -1, -1):
        at = t * stride
        first = max(0, labels - frames + t) // BLOCK * BLOCK
        count = (min(t + 1, labels) // BLOCK + 1) * BLOCK - first
        _copy_row(classes, part(x, at, at + classes), probs)
        last = min(first + count, labels)
        for s in range(first, last):
            store(inputs, s, load(probs, load(path, s)))
        m, e = exp_pair(load(probs, blank))
        now = row - after
        there, here = after + MARGIN + first, now + MARGIN + first
        stored = (t + 1) * row + MARGIN + first
        blanks = _backward(
            count, section, part(rows, there, after + row), part(skip, first, section), part(inputs, first, section),
            m, e, part(rows, here, now + row), part(rows, here + section, now + row),
            part(rows, here + 2 * section, now + row), part(rows, here + 3 * section, now + row),
            part(lattice, stored, stored + row), part(shares, first, section), T(0),
        )  # fmt: skip
        if t % NORMAL_EVERY == 0:
            _normalise(count, here, section, rows)
        after = now
        _exp_row(padded, probs)
        store(probs, blank, load(probs, blank) - blanks)
        for s in range(first, last):
            c = load(path, s)
            store(probs, c, load(probs, c) - load(shares, s))
        _write_row(classes, probs, factor, part(gradient, at, at + classes))
