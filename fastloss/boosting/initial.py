"""The constant score that minimises a loss: where boosting should start, because a custom objective starts at 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

Array = Any

# The smallest share of rows that a class is taken to have, as LightGBM has it.
LEAST_SHARE = 1e-15


def scalar_minimum(slope: Callable[[float], float], start: float) -> float:
    """Return where a slope changes from negative to positive, by bisection; the middle where it is 0 for a while.

    Raises
    ------
    ValueError
        If the slope has the same sign everywhere: there is no minimum.
    """
    falling = _edge(lambda score: slope(score) < 0, start)
    rising = _edge(lambda score: slope(score) <= 0, start)
    found = [score for score in (falling, rising) if math.isfinite(score)]
    if not found:
        raise ValueError("these labels have no constant score that minimises the loss: it falls for ever")
    return sum(found) / len(found)


def _edge(below: Callable[[float], bool], start: float) -> float:
    """Return the score up to which `below` holds, near `start`; infinite where it holds everywhere or nowhere."""
    step = 1.0 if below(start) else -1.0
    inside, outside = start, start + step
    while below(outside) == (step > 0):
        inside, step = outside, 2 * step
        outside = start + step
        if abs(step) > 1e18 * max(1.0, abs(start)):
            return math.copysign(math.inf, step)
    while abs(outside - inside) > 1e-15 * max(abs(inside), abs(start)) + 1e-300:
        middle = 0.5 * (inside + outside)
        inside, outside = (middle, outside) if below(middle) == (step > 0) else (inside, middle)
    return inside


def row_minimum(evaluate: Callable[[Array], tuple[float, Array, Array]], start: Array) -> Array:
    """Return the row of scores that minimises a loss, by Newton steps with a diagonal that bounds its Hessian.

    ``evaluate(row)`` returns the loss, its gradient, and that diagonal. A step is halved until it does not make the
    loss larger, which a bound of the Hessian makes rare.
    """
    row = start
    value, slope, bound = evaluate(row)
    for _ in range(1000):
        step = -slope / bound
        while not (ahead := evaluate(row + step))[0] <= value:
            step = step / 2
            if abs(step).max() < 1e-12:
                return row
        row, (value, slope, bound) = row + step, ahead
        if abs(step).max() < 1e-12:
            break
    return row


def log_frequencies(weights: Array) -> Array:
    """Return the logarithms of the classes' shares; of a class that never occurs that of LEAST_SHARE."""
    return np.log(np.maximum(weights / weights.sum(), LEAST_SHARE))


def within_logits(score: float) -> float:
    """Return a logit, no surer than that of a share of LEAST_SHARE: where all labels are equal there is no minimum."""
    bound = -math.log(LEAST_SHARE)
    return min(max(score, -bound), bound)
