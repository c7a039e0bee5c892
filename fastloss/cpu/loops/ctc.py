"""The loop of connectionist temporal classification over the sequences of a batch; see ``ctc_recursion.py`` for one.

Memory is one lattice for each thread, for values alone two of its rows.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss.cpu.loops.ctc_recursion import BLOCK, MARGIN, backward_pass, forward_pass
from fastloss.cpu.simd.memory import clear, load, part, present, store
from fastloss.cpu.simd.scratch import free, scratch
from fastloss.cpu.simd.work_queue import chunks, finish, total_of
from fastloss.define.scalars import log
from fastloss.runtime.compile import Kernel, kernel_part

LN2 = 0.6931471805599453

# The work of a time step and of a label in it, in elements of a plain loss.
STEP, LABEL = 256, 6


@kernel_part()
def _bad_label(y, first, count, classes):
    """Return the first place at which a label is no class, -1 if there is none."""
    wrong = False
    for k in range(first, first + count):
        wrong |= load(y, k) < 0 or load(y, k) >= classes
    if wrong:
        for k in range(first, first + count):
            if load(y, k) < 0 or load(y, k) >= classes:
                return k
    return -1


@kernel_part()
def _survey(y, starts, lengths, samples, classes, queue):
    """Return the place of the first label that is no class, -1 if there is none; every thread waits for the others."""
    for k, start, stop in chunks(queue, 0, samples, 1):
        bad = 0.0
        for n in range(start, stop):
            bad += 1.0 if _bad_label(y, load(starts, n), load(lengths, n), classes) >= 0 else 0.0
        finish(queue, 0, k, bad)
    if total_of(queue, 0) > 0.0:
        for n in range(samples):
            place = _bad_label(y, load(starts, n), load(lengths, n), classes)
            if place >= 0:
                return place
    return -1


@kernel_part()
def _read_path(y, first, labels, known, section, path, skip, inputs, like):
    """Write the labels of a sample to `path`, and to `skip` where the blank before one may be left out.

    Return how many labels repeat the one before.
    """
    T = type(like)
    repeats = 0
    for s in range(section):
        same = True
        if s < labels:
            path[s] = load(y, first + s) if known else 0
            same = s > 0 and path[s] == path[s - 1]
            repeats += 1 if same else 0
        store(skip, s, T(-np.inf) if same else T(0))
        store(inputs, s, T(-np.inf))
    return repeats


@functools.cache
def kernel() -> Kernel:
    """Return the kernel."""

    def ctc(
        x, y, starts, steps, lengths, grad_output, values, gradient,
        blank, by_length, zero_infinity, check, scale, samples, classes, most_steps, most_labels, queue, lead,
    ):  # fmt: skip
        like = load(x, 0)
        T = type(like)
        keep = present(gradient)
        section = (most_labels // BLOCK + 1) * BLOCK + 2 * MARGIN
        row = 4 * section
        stride = samples * classes
        if check:
            bad = _survey(y, starts, lengths, samples, classes, queue)
            if bad >= 0:
                return bad, 0.0
        # The lattice first: what is allocated before it would be lost where there is no memory for it.
        lattice = scratch((most_steps + 1 if keep else 2) * row, like)
        path, skip, inputs = scratch(section, 0), scratch(section, like), scratch(section, like)
        rows, shares = scratch(2 * row if keep else 0, like), scratch(section if keep else 0, like)
        probs = scratch(classes + BLOCK if keep else 0, like)
        clear(path, 0, path.size)
        clear(probs, 0, probs.size)
        for k, start, stop in chunks(queue, 1, samples, 1):
            total = 0.0
            for n in range(start, stop):
                frames, labels, first = load(steps, n), load(lengths, n), load(starts, n)
                known = _bad_label(y, first, labels, classes) < 0
                repeats = _read_path(y, first, labels, known, section, path, skip, inputs, like)
                loss = np.inf if known else np.nan
                m, e = T(1), T(0)
                own = part(x, n * classes, x.size)
                if known and labels + repeats <= frames:
                    m, e = forward_pass(
                        own, path, skip, lattice, inputs, frames, labels, stride, blank, section, keep, like
                    )
                    loss = -(log(np.float64(m)) + np.float64(e) * LN2)
                finite = abs(loss) < np.inf
                zeroed = zero_infinity and loss == np.inf
                loss = 0.0 if zeroed else loss
                weight = 1.0 / max(labels, 1) if by_length else 1.0
                store(values, n, T(loss))
                total += loss * weight
                if keep:
                    if finite:
                        factor = T((load(grad_output, n) if grad_output.size else scale) * weight)
                        backward_pass(
                            own, path, skip, lattice, inputs, frames, labels, stride, blank, section, m, e,
                            rows, shares, probs, part(gradient, n * classes, x.size), factor, classes,
                        )  # fmt: skip
                    filler = T(0) if zeroed else T(np.nan)
                    for t in range(frames if finite else 0, x.size // stride):
                        for c in range(classes):
                            store(gradient, t * stride + n * classes + c, filler if t < frames else T(0))
            finish(queue, 1, k, total)
        free(lattice)
        free(path)
        free(skip)
        free(inputs)
        free(rows)
        free(shares)
        free(probs)
        return -1, total_of(queue, 1) if lead else 0.0

    return Kernel("ctc", ctc)


def work_of(samples: int, steps: int, labels: int, size: int) -> int:
    """Return the work of samples of so many steps and labels, in an array of so many elements."""
    return samples * steps * (STEP + LABEL * labels) + size


def run(
    x: Any,
    labels: Any,
    starts: Any,
    steps: Any,
    lengths: Any,
    grad_output: Any,
    shape: tuple[int, int, int],
    counts: tuple[list[int], list[int]],
    blank: int,
    by_length: bool,
    zero_infinity: bool,
    check: bool,
    scale: float,
    divisor: float,
    values: Any,
    gradient: Any,
) -> tuple[int, float]:
    """Run over all sequences; return (place of the first label that is no class or -1, sum of the values / divisor).

    Parameters
    ----------
    x, gradient
        Flat arrays with axes (time, sample, class), whose lengths are `shape`.
    labels, starts
        All labels, flat, and where those of each sample begin.
    steps, lengths, counts
        Time steps and labels of each sample, checked, in host memory; both once more, as lists.
    grad_output, values
        One entry for each sample. Like the gradient they may be absent, ``()``.
    by_length, zero_infinity
        Whether each sample is divided by its number of labels, its own value excepted; whether an infinite value and
        its gradient become 0.
    """
    _, samples, classes = shape
    frames, label_counts = counts
    most_steps, most_labels = max(frames), max(label_counts)
    if labels.dtype != np.int64:
        labels = labels.astype(np.int64)
    # Compiling a kernel takes seconds: arrays of no use instead of absent ones make it one for values and gradients.
    values = np.empty(samples, x.dtype) if type(values) is tuple else values
    grad_output = np.empty(0, x.dtype) if type(grad_output) is tuple else grad_output
    work = work_of(samples, most_steps, most_labels, x.size)
    bad, total = kernel()(
        samples, work, x, labels, starts, steps, lengths, grad_output, values, gradient,
        blank, by_length, zero_infinity, check, scale / divisor, samples, classes, most_steps, most_labels,
    )  # fmt: skip
    return bad, total / divisor
