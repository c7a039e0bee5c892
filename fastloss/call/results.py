"""How the arrays that a call writes are made, and its results of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from operator import call
from typing import Any, NamedTuple

from fastloss.call.planning import Operand
from fastloss.call.request import Request

# What makes a result of what a kernel wrote, the arrays of the call, and its request.
Finish = Callable[[Any, tuple[Any, ...], Request], Any]


class Results(NamedTuple):
    """How the arrays that a call writes are made, and how its results are made of them."""

    make: Callable[[tuple[Any, ...]], list[Any]] | None  # None: by `makes`, which need no arrays
    makes: tuple[Callable[[], Any], ...]
    finish: Callable[[list[Any], tuple[Any, ...], Request], list[Any]] | None  # None: they are the results
    flats: tuple[Callable[[Any], Any], ...]  # what a kernel sees of each
    order: Callable[[tuple[Any, ...]], tuple[Any, ...]]  # of those and ``()``, that of the kernel's slots
    slots: tuple[int | None, ...]  # the kernel's slot of each, None where it is not just made flat
    wraps: tuple[Callable[[Any], Any], ...] | None  # what `finish` does to each, where it needs the array alone

    def made(self, arrays: tuple[Any, ...]) -> list[Any]:
        """Return the arrays that a call writes."""
        return [*map(call, self.makes)] if self.make is None else self.make(arrays)


def copier(backend: Any, copies: list[tuple[int, int]], finish: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    """Return `finish` after arrays have been copied to others."""

    def copy(made: list[Any], arrays: tuple[Any, ...], request: Request) -> list[Any]:
        for target, source in copies:
            backend.copy_into(made[target], made[source])
        return finish(made, arrays, request)

    return copy


def finisher(finishes: Sequence[Finish | None]) -> Callable[[list[Any], tuple[Any, ...], Request], list[Any]]:
    """Return what makes the results of the arrays that were written."""
    if len(finishes) == 1:
        (only,) = finishes
        return lambda made, arrays, request: [only(made[0], arrays, request)]  # type: ignore[misc]

    def finish(made: list[Any], arrays: tuple[Any, ...], request: Request) -> list[Any]:
        return [
            written if done is None else done(written, arrays, request)
            for written, done in zip(made, finishes, strict=True)
        ]

    return finish


def given_or_new(
    makes: Sequence[Callable[[], Any]], targets: Sequence[Operand | None]
) -> Callable[[tuple[Any, ...]], list[Any]]:
    """Return what gives the arrays to be written: the caller's where there is a target, else new ones."""
    if len(targets) == 1 and targets[0] is not None and targets[0].read is None:
        place = targets[0].place
        return lambda arrays: [arrays[place]]
    sources = [
        functools.partial(_fresh, make) if target is None else functools.partial(_taken, target.place, target.read)
        for make, target in zip(makes, targets, strict=True)
    ]
    return lambda arrays: [source(arrays) for source in sources]


def _fresh(make: Callable[[], Any], arrays: tuple[Any, ...]) -> Any:
    return make()


def _taken(place: int, read: Callable[[Any], Any] | None, arrays: tuple[Any, ...]) -> Any:
    return arrays[place] if read is None else read(arrays[place])


def given_out(written: Any, arrays: tuple[Any, ...], request: Request) -> Any:
    """Return the caller's array for the values."""
    return request.out


def given_gradient(number: int, written: Any, arrays: tuple[Any, ...], request: Request) -> Any:
    """Return the caller's array for a gradient."""
    return request.grad_out if request.mode.single else request.grad_out[number]


def copying(backend: Any, target: Operand, given: Finish) -> Finish:
    """Return what copies to an array of the caller's, and then returns what is `given`."""
    place, read = target.place, target.read

    def copy(written: Any, arrays: tuple[Any, ...], request: Request) -> Any:
        array = arrays[place]
        backend.copy_into(array if read is None else read(array), written)
        return given(written, arrays, request)

    return copy


def moving(backend: Any, axes: tuple[int, ...], ndim: int, make: Callable[[], Any]) -> Finish:
    """Return what moves `axes`, which a kernel writes behind the others, to their places in an array made anew."""

    def move(written: Any, arrays: tuple[Any, ...], request: Request) -> Any:
        result = make()
        for k, axis in enumerate(axes, ndim - len(axes)):
            written = backend.moved(written, k, axis)
        backend.copy_into(result, written)
        return result

    return move


def followed_by(first: Finish | None, second: Finish | None) -> Finish | None:
    """Return one step after the other as one."""
    if first is None or second is None:
        return first or second
    return lambda written, arrays, request: second(first(written, arrays, request), arrays, request)
