"""What is kept of the arrays that a call writes: how they are made, and its results of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import repeat
from operator import call, itemgetter
from typing import Any, NamedTuple

from fastloss.call.planning import ABSENT, chained, picker, unchanged
from fastloss.call.request import Request


class Given(NamedTuple):
    """An array of the caller's for a result."""

    place: int  # among the arrays of a call
    read: Callable[[Any], Any] | None  # what makes the view of it, None where it is that
    give: Callable[[Request], Any]  # what gives the array, of the request
    fits: bool  # the kernel writes to it; else what is made is copied to it

    @property
    def taken(self) -> Callable[[tuple[Any, ...]], Any]:
        """What gives the view of it, of the arrays of a call."""
        taken = itemgetter(self.place)
        return taken if self.read is None else chained(taken, self.read)


class Written(NamedTuple):
    """An array that a call writes, the caller's or made anew, and what becomes of it."""

    slot: int | None  # the kernel's, counted from the end if negative; None: zeros that no kernel writes
    make: Callable[[], Any]
    flat: Callable[[Any], Any]  # what the kernel sees of it
    prototype: Any  # an empty array of the type of that
    fold: Callable[[Any], Any] | None  # what gives it the shape of the result, None where it has that
    wrap: Callable[[Any], Any] | None = None  # what makes an array of the caller's library of it
    given: Given | None = None

    @property
    def end(self) -> Callable[[Any], Any]:
        """What makes the result of a new array, or what is copied to that of the caller's."""
        return chained(self.fold, self.wrap) if self.fold or self.wrap else unchanged


class Results(NamedTuple):
    """The arrays that a call writes, and functions of all of them."""

    written: tuple[Written, ...]
    make: Callable[[tuple[Any, ...]], Sequence[Any]] | None  # None: by `makes`, which need no arrays
    makes: tuple[Callable[[], Any], ...]
    finish: Callable[[Sequence[Any], tuple[Any, ...], Request], list[Any]] | None  # None: they are the results
    flats: tuple[Callable[[Any], Any], ...]
    order: Callable[[tuple[Any, ...]], tuple[Any, ...]]  # of what a kernel sees and ``()``, that of its slots

    def made(self, arrays: tuple[Any, ...]) -> Sequence[Any]:
        """Return the arrays that a call writes."""
        return [*map(call, self.makes)] if self.make is None else self.make(arrays)

    def finished(self, made: Sequence[Any], arrays: tuple[Any, ...], request: Request) -> Sequence[Any]:
        """Return the results, once the arrays are written."""
        return made if self.finish is None else self.finish(made, arrays, request)

    def places(self) -> list[int | None]:
        """Return the place among what is written of the array in each of the kernel's slots, None where there is none.

        An array that is not in a slot is made of one that is, or is not the kernel's.
        """
        return [None if place is ABSENT else place for place in self.order((*range(len(self.written)), ABSENT))]


def results_of(backend: Any, written: Sequence[Written], slots: int, weighed: bool) -> Results:
    """Return what is kept of arrays that a kernel writes to `slots`, the first of which may be values to be weighed."""
    # Behind the arrays that are made stands ``()``, and before it values that are weighed.
    places = [-1] * slots
    if weighed:
        places[0] = -2
    found, makes, flats, _, folds, wraps, given = zip(*written, strict=True) if written else ((),) * 7
    copies = []  # an argument that is named twice has two gradients, of which a kernel writes the first
    for place, slot in enumerate(found):
        if slot is not None and places[slot] >= 0:
            copies.append((place, places[slot]))
        elif slot is not None:
            places[slot] = place
    make = _given_or_new(written) if any(given) else None
    finish = _finisher(backend, written, copies) if any((*folds, *wraps, *given, *copies)) else None
    return Results(tuple(written), make, makes, finish, flats, itemgetter(*places))


def _given_or_new(written: Sequence[Written]) -> Callable[[tuple[Any, ...]], Sequence[Any]]:
    """Return what gives the arrays to be written: the caller's where these fit, else new ones."""
    given = [one.given if one.given and one.given.fits else None for one in written]
    if all(one and one.read is None for one in given):
        return picker([one.place for one in given if one])
    sources = [(one.make, fitting and fitting.taken) for one, fitting in zip(written, given, strict=True)]
    return lambda arrays: [make() if taken is None else taken(arrays) for make, taken in sources]


def _finisher(
    backend: Any, written: Sequence[Written], copies: list[tuple[int, int]]
) -> Callable[[Sequence[Any], tuple[Any, ...], Request], list[Any]]:
    """Return what makes the results of arrays that were written, once some of them are copied to others."""
    ends, given = [one.end for one in written], [one.given for one in written]
    if not copies and not any(given):
        return lambda made, arrays, request: [*map(call, ends, made)]
    copied = [(k, ends[k], one.taken) for k, one in enumerate(given) if one and not one.fits]
    steps = [_step(end, one and one.give) for end, one in zip(ends, given, strict=True)]

    def finish(made: Sequence[Any], arrays: tuple[Any, ...], request: Request) -> list[Any]:
        for target, source in copies:
            backend.copy_into(made[target], made[source])
        for k, fold, taken in copied:
            backend.copy_into(taken(arrays), fold(made[k]))
        return [*map(call, steps, made, repeat(request))]

    return finish


def _step(end: Callable[[Any], Any], give: Callable[[Request], Any] | None) -> Callable[[Any, Request], Any]:
    return (lambda array, request: end(array)) if give is None else lambda array, request: give(request)
