"""Descriptions as they are written outside of the package: what the loss's signature says already is left out.

A draft becomes a description of ``define/descriptions.py`` when the arguments of the loss are known: its operands are
those of the signature, in order, its reduction is the argument of that name.
"""

from __future__ import annotations

import inspect
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

from fastloss.define import descriptions as full
from fastloss.define.descriptions import Array, MathFunction, RowIndex
from fastloss.define.named_arguments import SAMPLE, RowMaths, SumMaths, numbers_of, pair_maths, row_maths
from fastloss.define.registry import check_options


class Given(NamedTuple):
    """The arguments of a loss by name: in `operands` the arrays that are given, in `arguments` all."""

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
        return _numbers_of(self.params)


class _OfFunctions(Draft):
    """A draft that takes nothing but its functions by position."""

    def __new__(cls, *given: Any, **named: Any) -> Any:
        """Say what becomes of arrays and numbers, where they are given by position."""
        if len(given) > 1:
            example = f"{cls.__name__}({getattr(given[0], '__name__', 'functions')}, k=2.0)"
            raise TypeError(
                f"{cls.__name__} takes nothing but its functions by position: its arrays are the arguments of the "
                f"loss, and numbers are given by name, as in {example}"
            )
        return super().__new__(cls)


def _numbers_of(params: Mapping[str, Any]) -> tuple[float, ...]:
    try:
        return tuple(map(float, params.values()))
    except (TypeError, ValueError):
        given = ", ".join([f"{name}={value!r}" for name, value in params.items()])
        raise TypeError(f"the maths takes numbers, got {given}") from None


def _check_kind(functions: Any, kind: type) -> None:
    if not isinstance(functions, kind):
        raise TypeError(f"functions must be {kind.__name__}(...), got {functions!r}")
    needed = ["value", "grad"] if kind is RowMaths else [*SumMaths._fields]
    if isinstance(functions, RowMaths) and functions.terms is not None:
        needed.append("terms")
    for name in needed:
        _check_function(name, getattr(functions, name))


def _check_function(name: str, function: Any) -> None:
    if not isinstance(function, FunctionType):
        raise TypeError(f"{name} must be a function marked @maths, got {function!r}")


class Elementwise(_OfFunctions):
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
    An argument `weight` of the loss that the point function does not take multiplies its values. A gradient is taken of
    it where there are two other arrays, and a derivative for each.
    """

    def __init__(self, point: MathFunction, /, *, broadcast: str = "warn", **params: float) -> None:
        if broadcast not in ("warn", "silent", "exact"):
            raise ValueError(f"broadcast must be 'warn', 'silent' or 'exact', got {broadcast!r}")
        _check_function("point", point)
        self.point, self.broadcast, self.params = point, broadcast, params

    def described(self, given: Given) -> full.Elementwise:
        """Return the description for these arguments."""
        taken, names = _taken_by(self.point, self.params), dict(given.operands)
        elements = taken[: len(taken) - len(self.params)]
        if {*taken[len(elements) :]} != {*self.params}:
            raise TypeError(
                f"{self.point.__name__} takes ({', '.join(taken)}), which must end with the numbers it is described "
                f"with: {', '.join(self.params) or 'none'}"
            )
        weight = names.pop("weight", None) if "weight" not in elements else None
        if len(elements) != len(names):
            raise TypeError(
                f"{self.point.__name__} takes {len(elements)} elements of arrays ({', '.join(elements)}), but the loss "
                f"has {', '.join(names) or 'none'}; numbers are given by name, as in "
                f"Elementwise({self.point.__name__}, k=2.0)"
            )
        if not 1 <= len(names) <= 3:
            raise TypeError(f"a loss of single elements has one to three arrays, got {', '.join(names) or 'none'}")
        numbers = _numbers_of({name: self.params[name] for name in taken[len(elements) :]})
        return full.Elementwise(
            self.point, tuple(names.values()), tuple(names), numbers, weight, given.reduction,
            broadcast=self.broadcast, leads=len(names),
        )  # fmt: skip


def _taken_by(point: MathFunction, params: Mapping[str, float]) -> list[str]:
    """Return the arguments of a point function, each of which has a name, and is given."""
    parameters = inspect.signature(point).parameters
    for name, parameter in parameters.items():
        if parameter.kind is parameter.VAR_POSITIONAL:
            raise TypeError(
                f"{point.__name__} must name each of its arguments: {parameter} stands for any number of them"
            )
        if parameter.default is not parameter.empty and name not in params:
            raise TypeError(
                f"{point.__name__} has a default for {name}, which no kernel reads: give the number where the loss is "
                f"described, Elementwise({point.__name__}, {name}=...)"
            )
    return [*parameters]


class Sums(_OfFunctions):
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
        _check_kind(functions, SumMaths)
        self.functions, self.params = functions, params
        self.axes = _axes_of(axes)

    def described(self, given: Given) -> full.Pairwise:
        """Return the description for these arguments."""
        names = tuple(given.operands)
        if not 1 <= len(names) <= 3:
            raise TypeError(f"a loss of sums has one to three arrays, got {', '.join(names) or 'none'}")
        terms = self.functions.terms(*SAMPLE[: len(names)], numbers_of(tuple(self.params))(*self.numbers))
        if not (isinstance(terms, tuple) and 1 <= len(terms) <= 3):
            raise TypeError(f"{self.functions.terms.__name__} must return a tuple of one to three terms, got {terms!r}")
        pair = pair_maths(self.functions, len(names), len(terms), tuple(self.params))
        return full.Pairwise(
            pair, tuple(given.operands.values()), names, params=self.numbers, reduction=given.reduction, axis=self.axes,
            reals=1,
        )  # fmt: skip


def _axes_of(axes: Any) -> tuple[int, ...]:
    try:
        return tuple(map(operator.index, axes if isinstance(axes, Iterable) else (axes,)))
    except TypeError:
        raise TypeError(f"axes must be an integer or several, got {axes!r}") from None


class Rowwise(_OfFunctions):
    """A loss of rows along a class axis: axis 0 of a one-dimensional input, else axis 1.

    Parameters
    ----------
    functions : RowMaths
        The row's value, the derivatives in an entry, and what is summed over the row.
    **params : float
        Numbers that the functions see as the fields of `p`.

    Notes
    -----
    The arguments of the loss are `input`, `target`, and if need be the class weights `weight`: the value and the
    derivatives must be multiplied by `row.w`, nothing else does it. An option `ignore_index` names the class index of
    rows that do not count. The mean is over the weights of the rows that count.
    """

    def __init__(self, functions: RowMaths, /, **params: float) -> None:
        _check_kind(functions, RowMaths)
        self.functions, self.params = functions, params

    def described(self, given: Given) -> full.Rowwise:
        """Return the description for these arguments."""
        names = dict(given.operands)
        input, target, weight = (names.pop(name, None) for name in ("input", "target", "weight"))
        if input is None or names:
            raise TypeError(f"a loss of rows has arguments input, target and weight, not {', '.join(given.operands)}")
        indexed = self.functions.indexed and target is not None
        rows = row_maths(self.functions, indexed, tuple(self.params))
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
        if "reduction" in options:
            raise TypeError("Linear takes no reduction: it has that of the loss which it describes")
        self.scale, self.options = float(scale), options

    def described(self, given: Given) -> full.Projected:
        """Return the description for these arguments."""
        record = getattr(self.rows, "__fastloss__", None)
        if record is None or record.family != "rowwise":
            raise TypeError(f"Linear needs a loss of rows, such as fastloss.cross_entropy, got {self.rows!r}")
        for name, value in (("query", self.query), ("key", self.key), ("target", self.target)):
            index = name == "target" and isinstance(value, RowIndex)
            if not index and all(value is not operand for operand in given.operands.values()):
                other = " or row_index(...)" if name == "target" else ""
                raise TypeError(f"Linear: {name} must be an argument of the loss{other}, got {value!r}")
        check_options(record, dict(self.options))
        rows = record.describe(self.query, self.target, reduction=given.reduction, **self.options)
        names = (self.query.name, self.key.name)
        return full.Projected(rows, self.query, self.key, logit_scale=self.scale, names=names)


def row_index(offset: int = 0) -> RowIndex:
    """Return class indices that are the numbers of the rows, plus an offset: the target of in-batch contrasts."""
    return RowIndex(operator.index(offset))
