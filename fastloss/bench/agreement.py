"""Whether a contender computes the same loss as fastloss: asked before it is timed."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss.bench.contenders import Outcome

# Of a value: a float32 sum of 16 million terms in a single accumulator per SIMD lane is off by about 1e-4.
VALUE = 5e-4
# Of a gradient, relative to the entry and to the largest one.
ENTRY, LARGEST = 2e-4, 1e-5
# The same for losses that are long chains of float32 operations: torch and JAX are off by 5e-4 from float64 in a
# recursion over 200 steps.
LARGEST_OF_CHAINS = {"ctc_loss": 2e-3}
# Gradients of a map upstream of ones may be nothing but rounding of its values (those of softmax are).
ROUNDING = 1e-6
# Two ways of rounding fall on different sides of a hinge now and then: one entry in this many may differ.
KINKS = 10_000
# Entries compared of a large gradient, evenly spread: a wrong formula shows everywhere.
SAMPLE = 1 << 20


def disagreement(ours: Outcome, theirs: Outcome, loss: str = "") -> str | None:
    """Return in what way two outcomes of a loss differ beyond float32 rounding, or None."""
    largest = LARGEST_OF_CHAINS.get(loss, LARGEST)
    (value, gradients), (other, others) = ours, theirs
    value, other = np.asarray(value), np.asarray(other)
    if value.shape != other.shape:
        return f"value of shape {other.shape}, not {value.shape}"
    if len(gradients) != len(others):
        return f"{len(others)} gradients, not {len(gradients)}"
    scale = float(np.abs(value).max(initial=0.0))
    if not _close(value, other, VALUE, 1e-5 * scale):
        return f"value {_shown(other)}, not {_shown(value)}"
    floor = ROUNDING * scale if value.ndim else 0.0
    for number, (gradient, another) in enumerate(zip(gradients, others, strict=True)):
        if gradient.shape != another.shape:
            return f"gradient {number} of shape {another.shape}, not {gradient.shape}"
        stride = max(1, gradient.size // SAMPLE) | 1  # odd: not a multiple of a row's length
        mine, its = gradient.reshape(-1)[::stride], np.ascontiguousarray(another).reshape(-1)[::stride]
        if not _close(mine, its, ENTRY, largest * float(np.abs(mine).max(initial=0.0)) + floor):
            place = int(np.argmax(np.abs(mine.astype(np.float64) - its)))
            return f"gradient {number} {its[place]:.6g}, not {mine[place]:.6g}, at entry {place * stride}"
    return None


def _close(a: Any, b: Any, relative: float, absolute: float) -> bool:
    wrong = np.abs(a.astype(np.float64) - b) > relative * np.abs(a) + absolute
    wrong |= np.isnan(a) != np.isnan(b)
    return bool(np.count_nonzero(wrong) <= a.size // KINKS)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if value.ndim == 0 else f"[{value.reshape(-1)[0]:.6g} ...]"
