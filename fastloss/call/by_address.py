"""Runs plans of calls that need nothing of an array on a device but its address.

A launch takes less time than views of the arrays it is about: what decides their layout is compared as their library
gives it, and a kernel is handed addresses. Calls of another kind, and those that have something to report, take the way
of any plan.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from operator import and_, attrgetter, call
from typing import Any

from fastloss.call.autograd import writing
from fastloss.call.dispatch import APART, OVERLAPPING
from fastloss.call.plan import KernelCall
from fastloss.call.planning import picker
from fastloss.call.request import Request
from fastloss.call.results import Written
from fastloss.call.signature import Signature, extras_of, pairs_of, taker
from fastloss.runtime.settings import settings

_pointer = attrgetter("pointer")


def by_address(
    kernel: KernelCall,
    found: Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    request: Request,
    plain: Request,
) -> Callable[[tuple[Any, ...], dict[str, Any], Request], Any] | None:
    """Return what computes calls of the kind of this one; None where the arrays must be looked at."""
    library, plan, _, results, scale, divisor, _, reduces, answer, defined = kernel
    arrangement = _arrangement(kernel, len(found.places))
    if plan.bound is None or callable(scale) or callable(divisor) or arrangement is None:
        return None
    if defined and not (reduces and results.make is None):
        return None  # the loss may not be, and nothing of the user's is written then
    layouts, address, arrays = library.layout, library.address, [found.given[place] for place in found.places]
    number, view = library.backend.number, library.view
    if layouts is None or OVERLAPPING in found.relations or not all(map(library.owns, arrays)):
        return None
    if [*map(address, arrays)] != [*map(_pointer, found.arrays)]:
        return None  # copied
    count = len(args) + len(kwargs)
    bound = found.given[count : len(found.given) - len(extras_of(request))]
    take = taker(found, args, kwargs, bound, request, plain, layouts)
    (makes, arrange, collect), at, labelled = arrangement, plan.bound(scale, divisor), plan.labelled
    masks, apart = [array.itemsize - 1 for array in found.arrays], _relations(found, request)

    def write(given: Any, request: Request) -> Any:
        arrays, addresses = given
        if makes:
            made = [*map(call, makes)]
            addresses += map(address, made)
            arrays = (*arrays, *made)
        total = at(arrange(addresses), settings.check_indices)
        if labelled:
            bad, total = total
            if bad >= 0:
                return None
        if defined and settings.check_indices and isnan(number(view(total, "value"))):
            return None
        return answer(total if reduces else None, collect(arrays))

    compute = writing(write, request)

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        arrays = take(args, kwargs, request)
        if arrays is None:
            return None
        addresses = [*map(address, arrays)]
        if any(map(and_, addresses, masks)):
            return None  # they do not lie at multiples of their size
        for target, other, least, most, inside in apart:
            if (least < addresses[other] - addresses[target] < most) is not inside:
                return None
        return compute((arrays, addresses), request)

    return run


def _arrangement(kernel: KernelCall, count: int) -> tuple[list[Any], Any, Any] | None:
    """Return what makes the new arrays, and what picks the kernel's arrays and the results of a call's and these.

    None where a result is not what the kernel wrote. A call has `count` arrays.
    """
    written, slots = kernel.results.written, kernel.results.places()
    if not all(map(_is_as_written, written)) or len(written) > len(slots) - slots.count(None):
        return None
    makes = [one.make.bare for one in written if one.given is None]  # type: ignore[attr-defined]
    new = iter(range(count, count + len(makes)))
    places = [next(new) if one.given is None else one.given.place for one in written]
    operands = [place for place in kernel.reads.places if place is not None]
    return makes, picker([*operands, *[places[slot] for slot in slots if slot is not None]]), picker(places)


def _is_as_written(one: Written) -> bool:
    """Return whether a result is what the kernel wrote: the caller's array, or a new one of the library."""
    if one.given is None:
        return one.fold is None and hasattr(one.make, "bare")
    return one.given.fits and one.given.read is None


def _relations(found: Signature, request: Request) -> list[tuple[int, int, int, int, bool]]:
    """Return, of each array that is written and another, where the other's address may be, counted from its own.

    Strictly between two numbers where they are to be the same array, else not there.
    """
    apart = []
    for (target, other), relation in zip(pairs_of(len(found.arrays), request), found.relations, strict=True):
        (low, high), (first, end) = (_reach(found.arrays[place]) for place in (target, other))
        between = (low - end, high - first) if relation == APART else (-1, 1)
        apart.append((target, other, *between, relation != APART))
    return apart


def _reach(view: Any) -> tuple[int, int]:
    """Return the first address of a view and the one past the last, counted from its own."""
    first, end = view.bounds()
    return first - view.pointer, end - view.pointer
