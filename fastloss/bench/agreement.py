"""Whether a contender computes the same loss as fastloss: asked before it is timed."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastloss.bench.contenders import Outcome


class Tolerance(NamedTuple):
    """How far two ways to compute the same may be apart.

    Attributes
    ----------
    value
        Relative error of a value. A float32 sum of 16 million terms in a single accumulator per SIMD lane is off by
        about 1e-4.
    entry, largest
        Error of an entry of a gradient, relative to the entry and to the largest one.
    rounding
        Error relative to the values of a map: its gradients upstream of ones may be nothing but rounding (those of
        softmax are).
    kinks
        The share of entries that may differ: two ways of rounding fall on different sides of a hinge now and then.
    """

    value: float = 5e-4
    entry: float = 2e-4
    largest: float = 1e-5
    rounding: float = 1e-6
    kinks: float = 1e-4


# Between operations torch rounds to the half type, and fastloss does not; a hinge of a row decides its every entry.
TOLERANCES = {
    "bfloat16": Tolerance(5e-2, 4e-2, 1e-2, 6e-2, 5e-2),
    "float16": Tolerance(1e-2, 5e-3, 1e-3, 8e-3, 1e-2),
}
# Losses that are long chains of float32 operations: torch and JAX are off by 5e-4 from float64 in a recursion over 200
# steps.
LARGEST_OF_CHAINS = {"ctc_loss": 2e-3}
# Entries compared of a large array, evenly spread: a wrong formula shows everywhere.
SAMPLE = 1 << 20


def disagreement(ours: Outcome, theirs: Outcome, loss: str = "", dtype: str = "float32") -> str | None:
    """Return in what way two outcomes of a loss differ beyond the rounding of its dtype, or None."""
    allowed = TOLERANCES.get(dtype, Tolerance())
    largest = max(allowed.largest, LARGEST_OF_CHAINS.get(loss, 0.0))
    (value, gradients), (other, others) = ours, theirs
    value, other = np.asarray(value), np.asarray(other)
    if value.shape != other.shape:
        return f"value of shape {other.shape}, not {value.shape}"
    value, other = (array.reshape(-1)[:: _stride(array.size)] if array.ndim else array for array in (value, other))
    if len(gradients) != len(others):
        return f"{len(others)} gradients, not {len(gradients)}"
    scale = float(np.abs(value).max(initial=0.0))
    # Of means that cancel, numbers of the order of one in a half type are off by its rounding.
    floor = allowed.largest * (max(scale, 1.0) if dtype in TOLERANCES else scale)
    if not _close(value, other, allowed.value, floor, allowed.kinks):
        return f"value {_shown(other)}, not {_shown(value)}"
    floor = allowed.rounding * scale if value.ndim else 0.0
    for number, (gradient, another) in enumerate(zip(gradients, others, strict=True)):
        if gradient.shape != another.shape:
            return f"gradient {number} of shape {another.shape}, not {gradient.shape}"
        stride = _stride(gradient.size)
        mine, its = gradient.reshape(-1)[::stride], np.ascontiguousarray(another).reshape(-1)[::stride]
        absolute = largest * float(np.abs(mine).max(initial=0.0)) + floor
        if not _close(mine, its, allowed.entry, absolute, allowed.kinks):
            place = int(np.argmax(np.abs(mine.astype(np.float64) - its)))
            return f"gradient {number} {its[place]:.6g}, not {mine[place]:.6g}, at entry {place * stride}"
    return None


def _stride(size: int) -> int:
    return max(1, size // SAMPLE) | 1  # odd: not a multiple of a row's length


def _close(a: Any, b: Any, relative: float, absolute: float, kinks: float) -> bool:
    wrong = np.abs(a.astype(np.float64) - b) > relative * np.abs(a) + absolute
    wrong |= np.isnan(a) != np.isnan(b)
    return bool(np.count_nonzero(wrong) <= int(kinks * a.size))


def _shown(value: Any) -> str:
    return f"{value:.6g}" if value.ndim == 0 else f"[{value.reshape(-1)[0]:.6g} ...]"
