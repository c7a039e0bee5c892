"""Descriptions as they are written outside of the package: what the loss's signature says already is left out.

A draft becomes a description of ``define/descriptions.py`` when the arguments of the loss are known: its operands are
those of the signature, in order, its reduction is the argument of that name.
"""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fastloss.define import descriptions as full
from fastloss.define.descriptions import Array, MathFunction, RowIndex
from fastloss.define.maths import maths


class Given(NamedTuple):
    """The arguments of a loss by name: its operands, those alone that are given, and all."""

    operands: Mapping[str, Any]
    arguments: Mapping[str, Any]

    @property
    def reduction(self) -> str:
        """The reduction; there is none where the signature has none."""
        return str(self.arguments.get("reduction", "none"))


class Draft(ABC):
    """A description without what the signature says."""

    params: Mapping[str, float]

    @abstractmethod
    def described(self, given: Given) -> Any:
        """Return the description for these arguments."""

    @property
    def numbers(self) -> tuple[float, ...]:
        """The numbers that the maths takes."""
        return tuple(map(float, self.params.values()))


class Elementwise(Draft):
    """A loss of single elements, ``point(*elements, **params) -> value, (d_first, d_second, ...), d2_first``.

    Parameters
    ----------
    point : function
        Marked ``@maths``: from one element of each array and the numbers `params` to the value, the tuple of its
        derivatives in the arrays (those at the end may be missing), and its second derivative in the first.
    broadcast : {"warn", "silent", "exact"}
        Whether shapes that differ are broadcast, with or without a warning, or are an error.
    **params : float
        Numbers that the point function takes by name, behind the elements.

    Notes
    -----
    An argument `weight` of the loss that the point function does not take multiplies its values.
    """

    def __init__(self, point: MathFunction, /, *, broadcast: str = "warn", **params: float) -> None:
        self.point, self.broadcast, self.params = point, broadcast, params

    def described(self, given: Given) -> full.Elementwise:
        """Return the description for these arguments."""
        taken, names = [*inspect.signature(self.point).parameters], dict(given.operands)
        elements = taken[: len(taken) - len(self.params)]
        if {*taken[len(elements) :]} != {*self.params}:
            raise TypeError(
                f"{self.point.__name__} takes ({', '.join(taken)}), which must end with the numbers it is described with: "
                f"{', '.join(self.params) or 'none'}"
            )
        weight = names.pop("weight", None) if "weight" not in elements else None
        if len(elements) != len(names):
            raise TypeError(f"{self.point.__name__} takes {len(elements)} elements of arrays, {', '.join(names)} are given")
        numbers = tuple([float(self.params[name]) for name in taken[len(elements) :]])
        return full.Elementwise(
            self.point, tuple(names.values()), tuple(names), numbers, weight, given.reduction,
            broadcast=self.broadcast, leads=len(names),
        )  # fmt: skip


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


class Sums(Draft):
    """A loss that is a function of sums over some axes of its arrays; its reduction is over the other axes.

    Parameters
    ----------
    functions : SumMaths
        The terms, what the value is of their sums, and the derivatives.
    axes : int or iterable of int
        The axes that are summed over. Axes that are not the last ones are moved behind the others, by a copy.
    **params : float
        Numbers that the functions see as the fields of `p`.
    """

    def __init__(self, functions: SumMaths, /, *, axes: int | Iterable[int], **params: float) -> None:
        self.functions, self.params = functions, params
        self.axes = (axes,) if isinstance(axes, int) else tuple(axes)

    def described(self, given: Given) -> full.Pairwise:
        """Return the description for these arguments."""
        names = tuple(given.operands)
        if not 1 <= len(names) <= 3:
            raise TypeError(f"a loss of sums has one to three arrays, got {', '.join(names) or 'none'}")
        terms = self.functions.terms(*[0.5] * len(names), _numbers_of(tuple(self.params))(*self.numbers))
        pair = _pair_maths(self.functions, len(names), len(terms), tuple(self.params))
        return full.Pairwise(
            pair, tuple(given.operands.values()), names, params=self.numbers, reduction=given.reduction, axis=self.axes,
            reals=1,
        )  # fmt: skip


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
    log Σ exp z and `top` the maximum, both 0 without a softmax. While terms are computed only `z` and `w` are known.
    """

    sums: Any
    z: Any
    w: Any
    logsum: Any
    top: Any


class RowMaths(NamedTuple):
    """The functions of a loss over a class axis, each marked ``@maths``; p holds the loss's numbers by name.

    ``value(row, p) -> value``
        The row's value, of a :class:`Row`.
    ``grad(entry, row, p) -> (d_input, d_target, ...), d2_input``
        The derivatives in one :class:`Entry`; only that in the input where the target is a class index.
    ``terms(entry, row, p) -> a, b, c``
        What is summed over the row; ``None``: nothing.

    p also has `classes`, the number of classes. `softmax`: whether there is one; `indexed`: whether the target, if the
    loss has one, holds class indices.
    """

    value: MathFunction
    grad: MathFunction
    terms: MathFunction | None = None
    softmax: bool = False
    indexed: bool = True


class Rowwise(Draft):
    """A loss of rows along a class axis: axis 0 of a one-dimensional input, else axis 1.

    Parameters
    ----------
    functions : RowMaths
        The row's value, the derivatives in an entry, and what is summed over the row.
    **params : float
        Numbers that the functions see as the fields of `p`.

    Notes
    -----
    The arguments of the loss are `input`, `target`, and if need be the class weights `weight`. An option
    `ignore_index` names the class index of rows that do not count. The mean is over the weights of the rows that count.
    """

    def __init__(self, functions: RowMaths, /, **params: float) -> None:
        self.functions, self.params = functions, params

    def described(self, given: Given) -> full.Rowwise:
        """Return the description for these arguments."""
        names = dict(given.operands)
        input, target, weight = (names.pop(name, None) for name in ("input", "target", "weight"))
        if input is None or names:
            raise TypeError(f"a loss of rows has arguments input, target and weight, not {', '.join(given.operands)}")
        indexed = self.functions.indexed and target is not None
        rows = _row_maths(self.functions, indexed, tuple(self.params))
        return full.Rowwise(
            rows, input, target, weight=weight, params=self.numbers, ignore_index=given.arguments.get("ignore_index"),
            reduction=given.reduction, mean="weights" if indexed else "rows",
        )  # fmt: skip


class Linear(Draft):
    """A loss of rows whose logits are ``scale * query @ key.T``, which are never stored whole.

    Parameters
    ----------
    rows : loss
        A loss of rows with class indices, such as ``fastloss.cross_entropy``.
    query, key : operand
        The arguments of shape (N, F) and (C, F).
    target : operand or row_index
        The class index of each row.
    scale : float
        A factor of the logits.
    **options
        Options of `rows`.
    """

    def __init__(
        self, rows: Callable[..., Any], query: Array, key: Array, *, target: Array, scale: float = 1.0, **options: Any
    ) -> None:
        self.rows, self.query, self.key, self.target = rows, query, key, target
        self.scale, self.options = float(scale), options

    def described(self, given: Given) -> full.Projected:
        """Return the description for these arguments."""
        record = getattr(self.rows, "__fastloss__", None)
        if record is None or record.family != "rowwise":
            raise TypeError(f"Linear needs a loss of rows, such as fastloss.cross_entropy, got {self.rows!r}")
        rows = record.describe(None, self.target, reduction=given.reduction, **self.options)
        names = (self.query.name, self.key.name)
        return full.Projected(rows, self.query, self.key, logit_scale=self.scale, names=names)


def row_index(offset: int = 0) -> RowIndex:
    """Return class indices that are the numbers of the rows, plus an offset: the target of in-batch contrasts."""
    return RowIndex(int(offset))


# -- named arguments into the positions of the loops -----------------------------------------------------------------


@functools.cache
def _numbers_of(names: tuple[str, ...]) -> Any:
    """Return the type of `p`."""
    return namedtuple("Numbers", names)  # type: ignore[misc]  # noqa: PYI024 (the fields are the loss's own)


def _marked(kind: str, names: tuple[str, ...], *functions: tuple[Callable[..., Any], Callable[..., Any]]) -> None:
    """Mark functions, named after what they call and after the numbers that these see: kernels are cached by name."""
    for function, called in functions:
        function.__name__ = function.__qualname__ = "_".join((kind, called.__name__, *names))
        maths(function)


@functools.cache
def _pair_maths(functions: SumMaths, arrays: int, count: int, names: tuple[str, ...]) -> full.PairMaths:
    """Return the maths of a loss of sums of `count` terms as the loops call it."""
    summed, finished, derived = functions
    numbers = _numbers_of(names)

    if arrays == 1:
        def called(a, b, c, params): return summed(a, numbers(*params))  # fmt: skip  # noqa: E704
        def entry(a, b, c, coefs, params): return derived(a, coefs, numbers(*params))  # fmt: skip  # noqa: E704
    elif arrays == 2:
        def called(a, b, c, params): return summed(a, b, numbers(*params))  # fmt: skip  # noqa: E704
        def entry(a, b, c, coefs, params): return derived(a, b, coefs, numbers(*params))  # fmt: skip  # noqa: E704
    else:
        def called(a, b, c, params): return summed(a, b, c, numbers(*params))  # fmt: skip  # noqa: E704
        def entry(a, b, c, coefs, params): return derived(a, b, c, coefs, numbers(*params))  # fmt: skip  # noqa: E704

    def terms(a, b, c, peaks, params):
        T = type(a)
        found = called(a, b, c, params)
        if count == 1:
            return found[0], T(0), T(0)
        return (found[0], found[1], T(0)) if count == 2 else found

    def finish(sums, peaks, y, params):
        return finished(sums[:count], numbers(*params))

    kind = f"sums_{arrays}"
    _marked(kind, names, (called, summed), (terms, summed), (finish, finished), (entry, derived))
    return full.PairMaths(terms, finish, entry)


@functools.cache
def _row_maths(functions: RowMaths, indexed: bool, names: tuple[str, ...]) -> full.RowMaths:
    """Return the maths of a loss of rows as the loops call it."""
    value, derived, summed = functions[:3]
    numbers = _numbers_of((*names, "classes"))

    def fields(params):
        return numbers(*params[:-1], 1 / params[-1])

    def terms(z, p, t, w, hit, zy, wy, params):
        T = type(z)
        row = Row((T(0), T(0), T(0)), zy, wy, T(0), T(0))
        return summed(Entry(z, p, t, w, hit), row, fields(params))

    def finish(top, logsum, sums, zy, wy, params):
        row = Row(sums, zy, wy, logsum, top)
        return value(row, fields(params)), (*sums, zy, wy, logsum, top)

    def entry(z, p, t, w, hit, coefs, params):
        row = Row(coefs[:3], coefs[3], coefs[4], coefs[5], coefs[6])
        return derived(Entry(z, p, t, w, hit), row, fields(params))

    _marked("rows", names, (fields, value), (finish, value), (entry, derived))
    if summed is not None:
        _marked("rows", names, (terms, summed))
    return full.RowMaths(finish, entry, None if summed is None else terms, functions.softmax, indexed)
