"""Losses called inside the description of another one, and weighted sums of them. Data only, as in descriptions.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastloss.define.record import Loss


class _Sum:
    """What losses that are called inside a description have in common: numbers times them, and their sums."""

    terms: tuple[tuple[float, Applied], ...]  # the losses that are added up, each with its weight

    def __add__(self, other: _Sum) -> WeightedSum:
        return WeightedSum(self.terms + other.terms) if isinstance(other, _Sum) else NotImplemented

    def __radd__(self, other: int) -> Any:
        """Let ``sum`` begin with its 0."""
        return self if isinstance(other, int) and other == 0 else NotImplemented

    def __mul__(self, factor: float) -> WeightedSum:
        if isinstance(factor, _Sum):
            return NotImplemented
        return WeightedSum(tuple([(weight * factor, loss) for weight, loss in self.terms]))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> WeightedSum:
        return self * (1 / divisor)

    def __neg__(self) -> WeightedSum:
        return self * -1.0

    def __sub__(self, other: _Sum) -> WeightedSum:
        return self + other * -1.0


@dataclass(frozen=True, eq=False)
class Applied(_Sum):
    """A loss called inside a description: on operands, or on what losses return of them."""

    record: Loss
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @property
    def terms(self) -> tuple[tuple[float, Applied], ...]:  # type: ignore[override]
        """The loss itself, once."""
        return ((1.0, self),)


@dataclass(frozen=True, eq=False)
class WeightedSum(_Sum):
    """A sum of losses, each times its weight."""

    terms: tuple[tuple[float, Applied], ...]
