"""Runs plans of calls that need nothing of an array on a device but its address.

A launch takes less time than views of the arrays it is about: what decides their layout is compared as their library
gives it, and a kernel is handed addresses. Calls of another kind, and those that have something to report, take the way
of any plan.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import and_, attrgetter, call, itemgetter
from typing import Any

from fastloss.call.plan import Addressed
from fastloss.call.request import Request
from fastloss.call.signature import OTHER_KIND, Signature
from fastloss.runtime.settings import settings

_pointer, _owner = attrgetter("pointer"), attrgetter("owner")


def by_address(
    plan: Addressed, found: Signature, args: tuple[Any, ...], plain: Request
) -> Callable[[tuple[Any, ...], dict[str, Any], Request], Any] | None:
    """Return what computes calls of arrays by position and nothing else; None where the arrays must be looked at."""
    space, at, pick, makes, written, scale, divisor, labelled, answer, reduces = plan
    layout, address, places = space.layout, space.address, tuple(range(len(args)))
    if layout is None or found.places != places or len(found.given) != len(args) or len(pick(places)) != len(args):
        return None
    if not all(map(space.owns, args)) or [*map(address, args)] != [*map(_pointer, found.arrays)]:
        return None  # another library's, or copied
    order = [*pick(places), *[len(args) + place for place in written]]
    arrange = itemgetter(*order) if len(order) > 1 else tuple
    layouts, masks = [*map(layout, args)], [array.itemsize - 1 for array in found.arrays]

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        if request is not plain or kwargs:
            return None
        try:
            if [*map(layout, args)] != layouts:
                return None
        except OTHER_KIND:
            return None
        addresses = [*map(address, args)]
        if any(map(and_, addresses, masks)):
            return None  # they do not lie at multiples of their size
        made = [*map(call, makes)]
        total = at(arrange((*addresses, *map(_pointer, made))), scale, divisor, settings.check_indices)
        if labelled:
            bad, total = total
            if bad >= 0:
                return None
        return answer(total.owner if reduces else None, [*map(_owner, made)])

    return run
