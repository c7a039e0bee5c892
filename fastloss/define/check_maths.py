"""Early errors about the maths of a loss: of a mistake in it the compiler says a page, and not where it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastloss.define.descriptions import Elementwise, Pairwise, RowMap, Rowwise
from fastloss.define.maths import is_marked, name_of
from fastloss.define.record import Loss

# What stands for every entry: it lies in the domain of all losses.
NUMBER = 0.5

# Numbers of a row that its entries may need: the loops have room for so many (cpu/simd/stack_arrays.py).
MOST_COEFS = 8

# What a function that cannot be run with plain numbers returned.
UNKNOWN = object()


def check_maths(record: Loss, description: Any) -> None:
    """Raise if the maths of a description is not marked, or returns something of another form.

    Each function is called once with plain numbers. What cannot be run like that is left to the compiler.
    """
    if type(description) is Elementwise:
        _check_marked(record, description.point)
        _check_point(record, description)
    elif isinstance(description, Rowwise | RowMap | Pairwise):
        for function in filter(callable, description.maths):
            _check_marked(record, function)
        if type(description) is Rowwise:
            _check_row(record, description)
        elif type(description) is Pairwise:
            _check_pair(record, description)


def _check_marked(record: Loss, function: Any) -> None:
    if not is_marked(function):
        raise TypeError(f"{record.name}: {name_of(function)} must be marked @maths (fastloss.custom)")


def _check_point(record: Loss, description: Elementwise) -> None:
    wanted = [k for k, name in enumerate(description.names) if name in record.differentiable]
    slopes = 1 + max(wanted, default=-1)
    found = _called(description.point, *[NUMBER] * len(description.arrays), *description.params)
    if found is not UNKNOWN and not (is_formed(found) and len(found[1]) >= slopes):
        raise TypeError(
            f"{record.name}: {name_of(description.point)} must return (value, first derivatives, second derivative), "
            f"with a tuple of first derivatives for {', '.join(description.names[:slopes])}; got {found!r}"
        )


def _check_row(record: Loss, description: Rowwise) -> None:
    maths, params = description.maths, (*description.params, NUMBER)
    numbers = (NUMBER,) * 4  # z, p, t, w of an entry; zy, wy, p_others, py of a row
    if maths.terms is not None:
        found = _called(maths.terms, *numbers, True, NUMBER, NUMBER, params)
        if found is not UNKNOWN and not _has(found, 3):
            raise TypeError(f"{record.name}: {name_of(maths.terms)} must return three sums, got {found!r}")
    found = _called(maths.finish, NUMBER, NUMBER, (NUMBER,) * 3, *numbers, params)
    if found is UNKNOWN:
        return
    _check_finish(record, maths.finish, found)
    if len(found[1]) > MOST_COEFS:
        raise TypeError(
            f"{record.name}: {name_of(maths.finish)} may keep {MOST_COEFS} numbers of a row, not {len(found[1])}"
        )
    _check_entry(record, maths.entry, _called(maths.entry, *numbers, True, found[1], params))


def _check_pair(record: Loss, description: Pairwise) -> None:
    maths, params = description.maths, description.params
    abc = (NUMBER,) * 3
    found = _called(maths.finish, abc, abc, NUMBER, params)
    if found is not UNKNOWN:
        _check_finish(record, maths.finish, found)
        _check_entry(record, maths.entry, _called(maths.entry, *abc, found[1], params))


def _check_finish(record: Loss, function: Any, found: Any) -> None:
    if not (_has(found, 2) and isinstance(found[1], tuple) and _are_numbers(found[0])):
        raise TypeError(f"{record.name}: {name_of(function)} must return (value, (coefs, ...)), got {found!r}")


def _check_entry(record: Loss, function: Any, found: Any) -> None:
    if found is not UNKNOWN and not (_has(found, 2) and is_formed((NUMBER, *found))):
        raise TypeError(
            f"{record.name}: {name_of(function)} must return ((first derivatives, ...), second derivative), "
            f"got {found!r}"
        )


def is_formed(found: Any) -> bool:
    """Return whether a result is (value, (first derivative, ...), second derivative), all of them numbers."""
    if not (_has(found, 3) and isinstance(found[1], tuple) and found[1]):
        return False
    return _are_numbers(found[0], *found[1], found[2])


def _are_numbers(*found: Any) -> bool:
    return all(isinstance(x, int | float) or _is_scalar(x) for x in found)


def _is_scalar(found: Any) -> bool:
    return getattr(found, "shape", None) == () and found.dtype.kind in "biuf"


def _has(found: Any, length: int) -> bool:
    return isinstance(found, tuple) and len(found) == length


def _called(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function of the maths gives for plain numbers; UNKNOWN where it cannot be run so."""
    try:
        return function(*args)
    except Exception:
        return UNKNOWN
