"""Maths with named arguments: what a loss is written in outside of the package, and what the loops make of it.

The loops call functions of a row with up to nine positions. A function of one's own sees named tuples instead, which
cost nothing: they are gone when the machine code is made.
"""

from __future__ import annotations

import functools
from collections import namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

from fastloss.define import descriptions
from fastloss.define.descriptions import MathFunction
from fastloss.define.maths import maths, named


class SumMaths(NamedTuple):
    """The three functions of a loss of sums, each marked ``@maths``; p holds the loss's numbers by name.

    ``terms(*elements, p) -> (term, ...)``
        One to three terms, to be summed (in float64 on the CPU).
    ``finish(sums, p) -> value, coefs``
        The value, and a tuple of numbers of the same type that the derivatives need.
    ``entry(*elements, coefs, p) -> (d_first, d_second, ...), d2_first``
        The derivatives of the value in one element of each array.
    """

    terms: MathFunction
    finish: MathFunction
    entry: MathFunction


class Entry(NamedTuple):
    """An entry of a row, as the functions of a loss of rows see it.

    `z` is the entry, less the row's maximum where there is a softmax; `p` its softmax, else 0; `t` the entry of the
    target where that is no class index; `w` the class weight, or 1; `hit` whether this is the target's entry.
    """

    z: Any
    p: Any
    t: Any
    w: Any
    hit: Any


class Row(NamedTuple):
    """What the functions of a loss of rows see of the row.

    `sums` are those of the terms, `z` and `w` those of the target's entry (0 and 1 without class indices), `logsum` is
    log Σ exp z, `top` the maximum and `p_others` the softmax of all entries but the largest, all 0 without a softmax;
    ``complement(entry.z, entry.p, row.p_others)`` is 1 - p with all its digits. While terms are computed only `z` and
    `w` are known.
    """

    sums: Any
    z: Any
    w: Any
    logsum: Any
    top: Any
    p_others: Any


class RowMaths(NamedTuple):
    """The functions of a loss over a class axis, each marked ``@maths``; p holds the loss's numbers by name.

    ``value(row, p) -> value`` or ``value, kept``
        The row's value, of a :class:`Row`; and what the derivatives need of it, a tuple of at most eight numbers.
    ``grad(entry, row, p) -> (d_input, d_target, ...), d2_input``
        The derivatives in one :class:`Entry`; only that in the input where the target is a class index. Instead of the
        row it gets what `value` kept, if it kept anything: what a row needs once is not computed for each entry then.
    ``terms(entry, row, p) -> a, b, c``
        What is summed over the row; ``None``: nothing.

    p also has `inverse_classes`, 1 / number of classes. `softmax`: whether there is one; `indexed`: whether the target,
    if the loss has one, holds class indices.
    """

    value: MathFunction
    grad: MathFunction
    terms: MathFunction | None = None
    softmax: bool = False
    indexed: bool = True


# What functions are called with to see the form of their results. No two numbers are equal, and none is 0 or 1: some
# maths divides by a difference.
SAMPLE = (0.53, 0.31, 0.87)
_SAMPLE_ROW = Row((0.83, 0.29, 0.59), -0.47, 1.13, 0.71, 0.37, 0.61)


@functools.cache
def numbers_of(names: tuple[str, ...]) -> Any:
    """Return the type of `p`.

    It stands in this module, under a name that tells it from others: kernels are looked for on the disk by what they
    close over, and a class that has no place to be found at is another one in each process.
    """
    name = "_".join(["Numbers", *[f"{len(each)}{each}" for each in names]])
    made = globals()[name] = namedtuple(name, names, module=__name__)
    made.__getattr__ = _lacking  # type: ignore[attr-defined]
    return made


def _lacking(numbers: Any, name: str) -> Any:
    """Say which numbers there are, of one that is not."""
    raise AttributeError(
        f"p has no {name}, but {', '.join(numbers._fields) or 'nothing'}: numbers are given by name "
        f"where the loss is described, as in Rowwise(functions, {name}=2.0)"
    )


def _marked(kind: str, names: tuple[str, ...], *functions: tuple[Callable[..., Any], Callable[..., Any]]) -> None:
    """Mark functions, named after what they call and after the numbers that these see: kernels are cached by name."""
    for function, called in functions:
        maths(named(function, "_".join((kind, called.__name__, *names))))
        function.written_as = called.__name__  # type: ignore[attr-defined]


@functools.cache
def pair_maths(functions: SumMaths, arrays: int, count: int, names: tuple[str, ...]) -> descriptions.PairMaths:
    """Return the maths of a loss of sums of `count` terms as the loops call it."""
    summed, finished, derived = functions
    numbers = numbers_of(names)

    def entry(a, b, c, coefs, params):
        return derived(*(a, b, c)[:arrays], coefs, numbers(*params))

    def terms(a, b, c, peaks, params):
        T = type(a)
        found = summed(*(a, b, c)[:arrays], numbers(*params))
        if count == 1:
            return found[0], T(0), T(0)
        return (found[0], found[1], T(0)) if count == 2 else found

    def finish(sums, peaks, y, params):
        return finished(sums[:count], numbers(*params))

    kind = f"sums_{arrays}"
    _marked(kind, names, (terms, summed), (finish, finished), (entry, derived))
    return descriptions.PairMaths(terms, finish, entry)


@functools.cache
def row_maths(functions: RowMaths, indexed: bool, names: tuple[str, ...]) -> descriptions.RowMaths:
    """Return the maths of a loss of rows as the loops call it."""
    value, derived, summed = functions[:3]
    for function in (value, derived) if summed is None else ():
        if "sums" in function.__code__.co_names:
            raise TypeError(f"{function.__name__} reads row.sums, but there are no terms: RowMaths(value, grad, terms)")
    numbers = numbers_of((*names, "inverse_classes"))
    keeps = isinstance(value(_SAMPLE_ROW, numbers(*[0.41 + k / 64 for k in range(len(names) + 1)])), tuple)

    def terms(z, p, t, w, hit, zy, wy, params):
        T = type(z)
        row = Row((T(0), T(0), T(0)), zy, wy, T(0), T(0), T(0))
        return summed(Entry(z, p, t, w, hit), row, numbers(*params))

    def finish(top, logsum, sums, zy, wy, p_others, py, params):
        found = value(Row(sums, zy, wy, logsum, top, p_others), numbers(*params))
        return found if keeps else (found, (*sums, zy, wy, logsum, top, p_others))

    def entry(z, p, t, w, hit, coefs, params):
        row = coefs if keeps else Row(coefs[:3], *coefs[3:])
        return derived(Entry(z, p, t, w, hit), row, numbers(*params))

    _marked("rows", names, (finish, value), (entry, derived))
    if summed is not None:
        _marked("rows", names, (terms, summed))
    return descriptions.RowMaths(finish, entry, None if summed is None else terms, functions.softmax, indexed)
