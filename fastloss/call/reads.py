"""How the operands of a kernel are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from fastloss.call.planning import ABSENT, Operand, Spread, chained, picker
from fastloss.cpu.in_parts import COPIED_AT_ONCE, flat
from fastloss.cpu.windows import FLAT


class Reads(NamedTuple):
    """How the operands of a kernel are made of the arrays of a call."""

    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    reads: tuple[Callable[[Any], Any], ...]
    order: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    places: tuple[int | None, ...]  # of the operands, present and absent, among the arrays


def reads_of(
    operands: tuple[Operand | None, ...],
    spreads: tuple[Spread, ...],
    reads: tuple[Callable[[Any], Any], ...],
) -> Reads:
    """Return how a kernel's operands are read.

    `spreads` bring the view of each operand to the shape that the loop wants, and `reads`, one for each operand that is
    there, to what the kernel takes.
    """
    chains: list[Callable[[Any], Any]] = []
    places: list[int | None] = [None] * len(operands)
    order, present, left = [-1] * len(operands), [], iter(reads)
    for k, operand in enumerate(operands):
        if operand is None:
            continue
        places[k], order[k] = operand.place, len(chains)
        present.append(operand.place)
        spread, read = spreads[k], next(left)
        if (spread is not None or operand.view.size > COPIED_AT_ONCE) and read is FLAT:
            read = _flattening(operand.view if spread is None else spread(operand.view))
        chains.append(read if operand.read is spread is None else chained(operand.read, spread, read))
    return Reads(picker(present), tuple(chains), itemgetter(*order), tuple(places))


def seen(operands: Sequence[Operand | None], spreads: Sequence[Spread]) -> tuple[Any, ...]:
    """Return the views of operands, brought to the shape that the loop wants, ``()`` for those not given."""
    return tuple(
        [
            ABSENT if operand is None else operand.view if spread is None else spread(operand.view)
            for operand, spread in zip(operands, spreads, strict=True)
        ]
    )


def _flattening(view: Any) -> Callable[[Any], Any]:
    """Return what makes such views flat: where they are large and have to be copied, in parts."""
    return FLAT if view.flags.c_contiguous or view.size <= COPIED_AT_ONCE else flat
