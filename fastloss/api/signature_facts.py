"""What a bare ``@loss`` reads from the signature, the description and the maths of a loss."""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import SimpleNamespace
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from fastloss.call.planning import Operand
from fastloss.define.chains import Applied, WeightedSum
from fastloss.define.check_definition import Calls
from fastloss.define.check_maths import is_formed
from fastloss.define.descriptions import Elementwise, Pairwise, Projected, RowMap, Rowwise
from fastloss.define.maths import name_of
from fastloss.define.options import FLAG, REDUCTION, Domain
from fastloss.define.record import KINDS
from fastloss.define.registry import LEGACY

# The annotations of arguments that are numbers, names and the like; what says nothing else is an array, unless it has a
# default that is one of these.
_OPTION = re.compile(r"(<class '|(typing\.)?Optional\[)?(int|float|bool|str|object|Sequence|Iterable|Callable)\b")


class Signed(NamedTuple):
    """What a signature says: the arguments that may be given by position, those that are arrays, all their domains."""

    positional: tuple[str, ...]
    operands: tuple[str, ...]
    kinds: Mapping[str, str]
    options: Mapping[str, Domain]


def read_signature(describe: Callable[..., Any], bare: bool = True) -> Signed:
    """Return what the signature of a loss says; options that are `bool` have a domain where `bare` is set.

    Raises
    ------
    TypeError
        If an annotation names a domain that is none, or an argument stands for any number or has a transform's name.
    ValueError
        If the default of an option lies outside of its domain.
    """
    positional, operands, kinds, options = [], [], {}, {}
    for name, parameter in inspect.signature(describe).parameters.items():
        base, domain = _annotation_of(describe, parameter)
        if parameter.kind is not parameter.KEYWORD_ONLY:
            positional.append(name)
        if _is_array(parameter, base):
            operands.append(name)
            if domain is not None:
                kinds[name] = _kind(name, domain)
            continue
        if domain is None and name == "reduction":
            domain = REDUCTION
        if domain is not None and not isinstance(domain, Domain):
            raise TypeError(
                f"{describe.__name__}: {name} must be annotated with a Domain (fastloss.custom), got {domain!r}"
            )
        if domain is not None:
            options[name] = domain
            if parameter.default is not parameter.empty:
                domain.check(name, parameter.default)
        elif bare and base in ("bool", "<class 'bool'>"):
            options[name] = FLAG
    return Signed(tuple(positional), tuple(operands), kinds, options)


def _is_array(parameter: inspect.Parameter, base: str) -> bool:
    """Return whether an argument is an array, by its annotation, its place and its default."""
    if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
        raise TypeError(f"a loss must name each of its arguments: {parameter} stands for any number of them")
    if parameter.name in ("self", "grad_output", "grad_out", "out"):
        raise TypeError(f"a loss has no argument {parameter.name}: transforms have one")
    if parameter.kind is parameter.KEYWORD_ONLY:
        return base.startswith(("Array", "typing.Any"))
    return not _OPTION.match(base) and (parameter.default is None or parameter.default is parameter.empty)


def _kind(name: str, kind: Any) -> str:
    if kind not in KINDS:
        raise TypeError(f"the array {name} must be annotated with one of {', '.join(map(repr, KINDS))}, got {kind!r}")
    return str(kind)


def _annotation_of(describe: Callable[..., Any], parameter: inspect.Parameter) -> tuple[str, Any]:
    """Return the text of an annotation, and what ``Annotated`` says beside the type."""
    annotation = parameter.annotation
    if annotation is parameter.empty:
        return "", None
    named = describe.__globals__.get(annotation) if isinstance(annotation, str) else annotation
    if isinstance(named, Domain):
        name, text = parameter.name, annotation if isinstance(annotation, str) else "..."
        raise TypeError(f"{describe.__name__}: the domain of {name} is written {name}: Annotated[float, {text}]")
    if isinstance(annotation, str) and re.match(r"(\w+\.)*Annotated\[", annotation):
        names = {**describe.__globals__, **inspect.getclosurevars(describe).nonlocals}
        try:
            stated = SimpleNamespace(__annotations__={"it": annotation})
            annotation = get_type_hints(stated, names, include_extras=True)["it"]
        except NameError as error:
            raise NameError(f"{describe.__name__}: the annotation of {parameter.name}: {error}") from None
    if get_origin(named) is Annotated:  # Quantile, with Quantile = Annotated[float, OPEN_UNIT] above
        annotation = named
    if get_origin(annotation) is Annotated:
        base, domain, *_ = get_args(annotation)
        return str(base), domain
    return str(annotation), None


# -- what the description says ----------------------------------------------------------------------------------------


class Facts(NamedTuple):
    """What a loss is, as far as its description and its maths tell."""

    family: str
    wrt: tuple[str, ...]
    differentiable: tuple[str, ...]
    hessian: str | None
    domains: Mapping[str, str]


def probe(describe: Callable[..., Any], signed: Signed, **options: Any) -> Any:
    """Return the description that a loss gives for arrays of shape (2, 3), some options and the defaults of others."""
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(describe).parameters.items():
        if name in signed.operands:
            if parameter.default is parameter.empty:
                given[name] = Operand(name, np.full((2, 3), 0.5, np.float32), len(given))
        elif parameter.default is parameter.empty:
            if name not in signed.options:
                raise TypeError(f"{describe.__name__}: {name} needs a default, or a domain")
            given[name] = signed.options[name].examples[0]
    return describe(**given | options)


def facts_of(name: str, description: Any, signed: Signed) -> Facts:
    """Return what a description says of a loss."""
    if isinstance(description, RowMap):
        return Facts("rowmap", ("input",), ("input",), "exact", {})
    if isinstance(description, Projected):
        return Facts("projected", description.names, description.names, None, {})
    if isinstance(description, Applied | WeightedSum):
        uses = list(_uses_in(description))
        smooth = {use.operand for use in uses if use.smooth}
        found = tuple([operand for operand in signed.operands if operand in smooth])
        return Facts("chain", found[:1], found, None, {use.operand: use.kind for use in uses if use.kind is not None})
    if not isinstance(description, Elementwise | Pairwise | Rowwise):
        raise TypeError(f"{name} must return a description (fastloss.custom), got {type(description).__name__}")

    function = description.point if isinstance(description, Elementwise) else description.maths.entry
    slopes, curved = _slopes(name, function, calls_of(description))
    if isinstance(description, Rowwise):
        indexed = description.maths.indexed
        arrays = ("input", *[one for one in ("target", "weight") if one in signed.operands and not indexed])
        return Facts("rowwise", ("input",), arrays[:slopes], curved, {"target": "class"} if indexed else {})
    names = description.names
    if slopes > len(names):
        raise TypeError(f"{name}: {name_of(function)} returns {slopes} first derivatives of {len(names)} arrays")
    if isinstance(description, Pairwise):
        family, wrt = ("sums", names[:1]) if isinstance(description.axis, tuple) else ("pairwise", names)
        return Facts(family, wrt, names[:slopes], curved, {})
    outside = "weight" in signed.operands and "weight" not in names
    weighs = ("weight",) if outside and slopes == len(names) == 2 else ()
    return Facts("elementwise", names[:1], names[:slopes] + weighs, curved, {})


def check_reduction(describe: Callable[..., Any], signed: Signed) -> None:
    """Raise if the losses that a loss is made of are told nothing of its reduction: they would take their defaults."""
    if "reduction" not in signed.options:
        return
    try:
        mean, total = [_told(probe(describe, signed, reduction=reduction)) for reduction in ("mean", "sum")]
    except Exception:  # it refuses some of them itself
        return
    if mean == total:
        raise TypeError(f"{describe.__name__}: none of its losses is told the reduction: write reduction=reduction")


def _told(description: Any) -> Any:
    """Return what the losses of a chain are called with, less its operands."""
    if isinstance(description, WeightedSum):
        return [(weight, _told(loss)) for weight, loss in description.terms]
    if isinstance(description, Applied):
        return [_told(value) for value in (*description.args, *description.kwargs.values())]
    return "" if isinstance(description, Operand) else repr(description)


class _Use(NamedTuple):
    """Where a chain uses an operand: the kind of values it holds there, and whether the chain is differentiable."""

    operand: str
    kind: str | None
    smooth: bool


def _uses_in(description: Applied | WeightedSum, smooth: bool = True) -> Iterator[_Use]:
    """Yield the uses of operands in a chain; `smooth`: whether what its own result is given to is differentiable."""
    for _, applied in description.terms:
        record = applied.record
        for name, value in _arguments_of(applied).items():
            here = smooth and name in record.differentiable
            if isinstance(value, Operand):
                yield _Use(value.name, record.domains.get(name), here)
            elif isinstance(value, Applied | WeightedSum):
                yield from _uses_in(value, here)


def _arguments_of(applied: Applied) -> Mapping[str, Any]:
    """Return the arguments of a loss in a chain by name; raise where the loss has none of these names, or lacks one."""
    record = applied.record
    keywords = {name: value for name, value in applied.kwargs.items() if not (record.legacy and name in LEGACY)}
    try:
        return inspect.signature(record.function).bind(*applied.args, **keywords).arguments
    except TypeError as error:
        raise TypeError(f"{record.name}() {error}") from None


# -- the maths, called with plain numbers -----------------------------------------------------------------------------

# Operands that the functions are called with: they lie in the domains of most losses, on both sides of most kinks.
_NUMBERS = (0.5, 0.25, 0.75, 2.0, -1.5)


def points_of(description: Elementwise) -> Calls:
    """Return what calls the maths of a loss of single elements; a call takes what makes a number of its type."""

    def called(xs: tuple[float, ...]) -> Any:
        return lambda number: description.point(*map(number, xs), *map(number, description.params))

    pairs = itertools.product(_NUMBERS, repeat=2)
    return [called((x, *[t] * (len(description.names) - 1))) for x, t in pairs]


def vectors_of(description: Pairwise) -> Calls:
    """Return what calls the maths of a loss of sums, all of it."""
    maths, count = description.maths, len(description.names)

    def called(x: float, t: float) -> Any:
        def call(number: Callable[[float], Any]) -> Any:
            params = tuple(map(number, description.params))
            abc = [number(x), number(t), number(x)][:count] + [number(0.0)] * (3 - count)
            tops = maths.peaks(*abc, params) if maths.peaks is not None else (number(1.0),) * 3
            sums = maths.terms(*abc, tops, params)
            value, coefs = maths.finish(sums, tops, number(1.0), params)
            return value, *maths.entry(*abc, coefs, params)

        return call

    return [called(x, t) for x, t in itertools.product(_NUMBERS[:3], repeat=2)]


def rows_of(description: Rowwise) -> Calls:
    """Return what calls the maths of a loss of rows, all of it."""
    maths = description.maths

    def called(z: float, hit: bool) -> Any:
        def call(number: Callable[[float], Any]) -> Any:
            n, params = number, (*map(number, description.params), number(0.5))
            sums: Any = (n(0.0),) * 3
            if maths.terms is not None:
                sums = maths.terms(n(z), n(0.5), n(0.5), n(1.0), hit, n(-0.5), n(1.0), params)
            if not isinstance(sums, tuple):  # of which check_maths says more
                return sums
            value, coefs = maths.finish(n(0.5), n(0.75), sums, n(-0.5), n(1.0), n(0.5), n(0.25), params)
            return value, *maths.entry(n(z), n(0.25), n(0.5), n(1.0), hit, coefs, params)

        return call

    return [called(-z, hit) for z in (0.25, 0.5, 1.5) for hit in (False, True)]


def _slopes(name: str, function: Callable[..., Any], calls: Calls) -> tuple[int, str]:
    """Return how many first derivatives there are, and what the second ones are: ``"exact"`` or ``"zero"``."""
    found = []
    for call in calls:
        try:
            found.append(call(float))
        except Exception:  # what cannot be run with plain numbers is left to the compiler
            continue
    formed = [one for one in found if is_formed(one)]
    if not formed:
        return 1, "exact"
    counts = sorted({len(one[1]) for one in formed})
    if len(counts) > 1:
        listed = " and of others ".join(map(str, counts))
        raise TypeError(f"{name}: {name_of(function)} returns of some numbers {listed} first derivatives")
    curved = any(not math.isnan(one[2]) and one[2] != 0 for one in formed)
    return len(formed[0][1]), "exact" if curved else "zero"


def calls_of(description: Any) -> Calls:
    """Return what calls the maths of a description."""
    if isinstance(description, Elementwise):
        return points_of(description)
    if isinstance(description, Pairwise):
        return vectors_of(description)
    return rows_of(description) if isinstance(description, Rowwise) else []
