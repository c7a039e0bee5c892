"""The options that losses have in common: weights of samples, the divisor of a mean, and the axis of a row."""

from __future__ import annotations

import functools
from typing import Any

from fastloss.call.planning import Planning
from fastloss.define.descriptions import LabelSets, OfDistances, Pairwise, Rowwise

# Those that are arrays.
COMMON_ARRAYS = ("sample_weight", "divisor")

NO_DIVISOR = "partial_sum keeps the sum and what it is to be divided by, and takes no divisor"


def set_common(planning: Planning, common: dict[str, Any], reduction: str) -> None:
    """Tell a planning of the options in common, those that were given, and of the reduction.

    Raises
    ------
    ValueError
        If they do not go with the reduction.
    """
    common = {name: value for name, value in common.items() if value is not None}
    planning.averages, planning.common = reduction == "mean", common
    planning.sample_weight, planning.divisor = common.get("sample_weight"), common.get("divisor")
    check_common(planning.sample_weight, planning.divisor, reduction)
    if planning.mode.partial and planning.divisor is not None:
        raise ValueError(NO_DIVISOR)
    if planning.mode.partial and reduction not in ("mean", "batchmean"):
        raise ValueError(f"partial_sum is of a mean, and does not go with reduction={reduction!r}")


def check_common(sample_weight: Any, divisor: Any, reduction: Any) -> None:
    """Raise where weights of samples or a divisor do not go with a reduction."""
    if divisor is not None and reduction != "mean":
        raise ValueError(f"divisor is what a mean is divided by, and does not go with reduction={reduction!r}")
    if sample_weight is not None and reduction == "batchmean":
        raise ValueError("sample_weight does not go with reduction='batchmean', whose divisor is the number of rows")


def along(description: Any, axis: int) -> Any:
    """Return a description with its rows or vectors along another axis.

    Raises
    ------
    TypeError
        If the axis is none.
    """
    if isinstance(description, OfDistances):
        if any(distance.describe is None for distance in description.distances):
            raise ValueError("axis does not go with a distance_function of one's own")
        moved = [one._replace(describe=_described_along(one.describe, axis)) for one in description.distances]
        return description._replace(distances=tuple(moved))
    if isinstance(description, Rowwise | Pairwise | LabelSets):
        return description._replace(axis=axis)
    raise TypeError(f"{type(description).__name__} has no axis")


@functools.cache
def _described_along(describe: Any, axis: int) -> Any:
    return lambda *arrays: describe(*arrays)._replace(axis=axis)
