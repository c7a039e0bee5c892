"""The decorator that turns a description of a loss into a function that computes it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec

from fastloss.call.call import Call
from fastloss.call.request import VALUE
from fastloss.define.check_maths import check_maths
from fastloss.define.descriptions import FAMILIES, KINDS, Loss
from fastloss.define.options import REDUCTION, Domain
from fastloss.define.registry import LOSSES

P = ParamSpec("P")


def loss(
    family: str,
    *,
    wrt: tuple[str, ...] = ("input",),
    differentiable: tuple[str, ...] | None = None,
    hessian: str | None = "exact",
    options: Mapping[str, Domain] | None = None,
    domains: Mapping[str, str] | None = None,
    legacy: bool = False,
    also: tuple[str, ...] = (),
) -> Callable[[Callable[P, Any]], Callable[P, Any]]:
    """Register a function that describes a loss, and return one that computes it.

    The parameters are the fields of :class:`fastloss.define.descriptions.Loss`; `options` gets the domain of
    ``reduction`` unless it brings its own.

    Raises
    ------
    ValueError
        If `family` or a kind of `domains` is unknown, `differentiable` lacks one of `wrt`, or the name is taken.
    """
    if family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    for argument, kind in (domains or {}).items():
        if kind not in KINDS:
            raise ValueError(f"domains[{argument!r}] must be one of {', '.join(KINDS)}, got {kind!r}")
    if differentiable is not None and not set(wrt) <= set(differentiable):
        raise ValueError(f"differentiable must name all of wrt={wrt!r}, got {differentiable!r}")

    def register(describe: Callable[P, Any]) -> Callable[P, Any]:
        name = describe.__name__
        sound: set[Any] = set()
        latest: Any = None

        @functools.wraps(describe)
        def described(*args: P.args, **kwargs: P.kwargs) -> Any:
            nonlocal latest
            job = describe(*args, **kwargs)
            if isinstance(job, tuple) and job[0] is not latest:  # small calls count this; a loss may have several maths
                maths = getattr(job, "point", None) or getattr(job, "maths", None)
                if maths not in sound:
                    check_maths(record, job)
                    sound.add(maths)
                latest = maths
            return job

        @functools.wraps(describe)
        def function(*args: P.args, **kwargs: P.kwargs) -> Any:
            result = call.last(args, kwargs, VALUE)
            return call.find(args, kwargs, VALUE) if result is None else result

        domain_of = {"reduction": REDUCTION} if "reduction" in (describe.__kwdefaults__ or {}) else {}
        record = Loss(
            name=name,
            family=family,
            function=function,
            describe=described,
            wrt=wrt,
            differentiable=wrt if differentiable is None else differentiable,
            hessian=hessian,
            options={**domain_of, **(options or {})},
            domains=domains or {},
            legacy=legacy,
            also=also,
            **_parameters_of(describe),
        )
        if name in LOSSES:
            raise ValueError(f"loss {name!r} is registered twice")
        call = Call(record, VALUE, {})
        LOSSES[name] = record
        function.__fastloss__ = record  # type: ignore[attr-defined]
        return function

    return register


# The annotations of arguments that are numbers, names and the like; what says nothing else is an array.
_OPTION = re.compile(r"(<class ')?(int|float|bool|str|object|Sequence|Iterable|Callable)\b")


def _parameters_of(describe: Callable[..., Any]) -> dict[str, Any]:
    """Return which arguments of a loss may be given by position, and which are arrays."""
    positional, operands = [], []
    for name, parameter in inspect.signature(describe).parameters.items():
        annotation = "" if parameter.annotation is parameter.empty else str(parameter.annotation)
        if parameter.kind is parameter.KEYWORD_ONLY:
            if annotation.startswith("Array"):
                operands.append(name)
            continue
        positional.append(name)
        if not _OPTION.match(annotation):
            operands.append(name)
    return {"positional": tuple(positional), "operands": frozenset(operands)}
