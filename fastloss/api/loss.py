"""The decorator that turns a description of a loss into a function that computes it."""

from __future__ import annotations

import copyreg
import functools
import inspect
import uuid
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, overload

from fastloss.api.common_options import common_options, extended
from fastloss.api.docstrings import documented
from fastloss.api.signature_facts import Signed, calls_of, check_reduction, facts_of, probe, read_signature
from fastloss.call.autograd import warn_outside_autograd
from fastloss.call.call import Call
from fastloss.call.request import VALUE
from fastloss.define.check_definition import check_definition
from fastloss.define.check_maths import check_maths
from fastloss.define.drafts import Draft, Given
from fastloss.define.maths import is_marked, marked_in, maths
from fastloss.define.options import Domain
from fastloss.define.record import FAMILIES, KINDS, Loss
from fastloss.define.registry import LOSSES, record_of
from fastloss.runtime import graph_break
from fastloss.runtime.functions import is_packaged

P = ParamSpec("P")

# An argument of ``@loss`` that is left to what the signature, the description and the maths say.
UNSAID: Any = ...


@overload
def loss(family: Callable[P, Any], /) -> Callable[P, Any]: ...
@overload
def loss(
    family: str | None = None,
    *,
    wrt: tuple[str, ...] = ...,
    differentiable: tuple[str, ...] | None = ...,
    hessian: str | None = ...,
    options: Mapping[str, Domain] | None = ...,
    domains: Mapping[str, str] | None = ...,
    legacy: bool = ...,
    also: tuple[str, ...] = ...,
) -> Callable[[Callable[P, Any]], Callable[P, Any]]: ...
def loss(
    family: Any = None,
    *,
    wrt: tuple[str, ...] = UNSAID,
    differentiable: tuple[str, ...] | None = None,
    hessian: str | None = UNSAID,
    options: Mapping[str, Domain] | None = None,
    domains: Mapping[str, str] | None = None,
    legacy: bool = False,
    also: tuple[str, ...] = (),
) -> Any:
    """Register a function that describes a loss, and return one that computes it.

    Bare, ``@loss`` reads all that it must know: the array arguments, the options and their domains
    (``Annotated[float, POSITIVE]``) from the signature, the rest from the description that the function returns for
    arrays of shape (2, 3), and from the maths, which it calls with plain numbers.

    Parameters
    ----------
    family : str, optional
        The family of the description; named, nothing is read but the signature.
    wrt, differentiable : tuple of str, optional
        The arguments that a gradient is taken of unless told otherwise, and all that may be named.
    hessian : {"exact", "zero", None}, optional
        What the second derivative is: zero almost everywhere, or not defined for None.
    options, domains : mapping, optional
        The domains of options, and for arrays the kinds of values that they hold.
    legacy : bool
        Whether ``size_average`` and ``reduce`` are accepted.
    also : tuple of str
        Optional arguments that a gradient is taken of too, unless told otherwise, where they are given.

    Raises
    ------
    ValueError
        If `family`, `hessian` or a kind of `domains` is unknown, one of the others names an argument that the loss
        does not have, `differentiable` lacks one of `wrt`, the default of an option lies outside of its domain, or
        another module has a loss of this name.
    TypeError, NameError
        If the maths does not have the form that the description asks for, uses a name that is not defined, or a number
        that would make float32 float64; if a domain is none; or if losses that one is made of are told no reduction, or
        are called with arguments that they do not have.
    """
    if callable(family):
        return loss()(family)
    if family is not None and family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {family!r}")
    if hessian is not UNSAID and hessian not in ("exact", "zero", None):
        raise ValueError(f"hessian must be 'exact', 'zero' or None, got {hessian!r}")
    for argument, kind in (domains or {}).items():
        if kind not in KINDS:
            raise ValueError(f"domains[{argument!r}] must be one of {', '.join(KINDS)}, got {kind!r}")
    named = {"wrt": wrt, "differentiable": UNSAID if differentiable is None else differentiable}
    named = {name: value for name, value in named.items() if value is not UNSAID}
    said = named if hessian is UNSAID else {**named, "hessian": hessian}

    def register(describe: Callable[P, Any]) -> Callable[P, Any]:
        name = describe.__name__
        if hasattr(describe, "__fastloss__"):
            raise TypeError(f"{name} is a loss already")
        signed = read_signature(describe, bare=family is None)
        _check_names(describe, {**named, "also": also, "domains": domains or {}, "options": options or {}})
        filled = _filling(describe, signed)
        facts: dict[str, Any] = {"family": family, "wrt": ("input",), "hessian": "exact", "domains": {}}
        description = None
        if family is None:
            description = probe(filled, signed)
            check_definition(name, description, calls_of)
            facts = facts_of(name, description, signed)._asdict()
            if facts["family"] == "chain":
                check_reduction(filled, signed)
        facts = {**facts, **said, "domains": {**facts["domains"], **signed.kinds, **(domains or {})}}
        facts.setdefault("differentiable", facts["wrt"])
        if not set(facts["wrt"]) <= set(facts["differentiable"]):
            raise ValueError(f"differentiable must name all of wrt={facts['wrt']!r}, got {facts['differentiable']!r}")

        common = common_options(describe, facts["family"])

        @functools.wraps(describe)
        def function(*args: P.args, **kwargs: P.kwargs) -> Any:
            # No table of modules is a global here: a function of a script goes to other processes with its globals.
            if "torch._dynamo" in graph_break.LOADED and graph_break.LOADED["torch"].compiler.is_dynamo_compiling():
                return graph_break.untraced(function, *args, **kwargs)
            result = call.last(args, kwargs, VALUE)
            if result is not None:
                return result
            warn_outside_autograd(name, (args, kwargs.values()))
            return call.find(args, kwargs, VALUE)

        record = Loss(
            name=name,
            function=function,
            describe=_checking(filled, lambda: record),
            options={**signed.options, **(options or {})},
            legacy=legacy,
            also=also,
            positional=signed.positional,
            operands=frozenset(signed.operands),
            common=common,
            **facts,
        )
        function.__signature__ = extended(describe, common)  # type: ignore[attr-defined]
        function.__doc__ = documented(record)
        if description is not None:
            check_maths(record, description)
        before = LOSSES.get(name)
        if before is not None and before.function.__module__ != describe.__module__:
            modules = f"{before.function.__module__} and {describe.__module__}"
            raise ValueError(f"loss {name!r} is registered twice, by {modules}: one of them needs another name")
        call = Call(record, VALUE, {})
        LOSSES[name] = record
        function.__fastloss__ = record  # type: ignore[attr-defined]
        return function

    return register


def _check_names(describe: Callable[..., Any], said: Mapping[str, Any]) -> None:
    """Raise if an argument of ``@loss`` names an argument that the loss does not have."""
    known = inspect.signature(describe).parameters
    for argument, names in said.items():
        if isinstance(names, str):
            raise TypeError(f"{argument} must be a tuple of names, got {names!r}")
        for name in names:
            if name not in known:
                raise ValueError(
                    f"{argument} names {name!r}, but the arguments of {describe.__name__} are {', '.join(known)}"
                )


def _filling(describe: Callable[..., Any], signed: Signed) -> Callable[..., Any]:
    """Return a function that describes a loss, drafts completed by its arguments; None is no array."""
    signature = inspect.signature(describe)
    required = {name for name in signed.operands if signature.parameters[name].default is inspect.Parameter.empty}

    @functools.wraps(describe)
    def filled(*args: Any, **kwargs: Any) -> Any:
        if type(None) in {*map(type, args), *map(type, kwargs.values())}:
            for name, value in (*zip(signed.positional, args, strict=False), *kwargs.items()):
                if value is None and name in required:
                    raise TypeError(f"{name} must be an array, got NoneType")
        description = describe(*args, **kwargs)
        if not isinstance(description, Draft):
            return description
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        operands = {name: bound.arguments[name] for name in signed.operands if bound.arguments[name] is not None}
        return description.described(Given(operands, bound.arguments))

    return filled


def _checking(describe: Callable[..., Any], record: Callable[[], Loss]) -> Callable[..., Any]:
    """Return a function that describes a loss and checks the form of its maths, of each once."""
    sound: set[Any] = set()  # a loss may have several

    @functools.wraps(describe)
    def described(*args: Any, **kwargs: Any) -> Any:
        description = describe(*args, **kwargs)
        maths = getattr(description, "maths", None) or getattr(description, "point", None)
        if maths not in sound:
            check_maths(record(), description)
            sound.add(maths)
        return description

    return described


# -- pickles ----------------------------------------------------------------------------------------------------------

# Losses of one's own that have gone to other processes or have come from there, by what they are told apart by.
_sent: dict[Loss, str] = {}
_known: dict[str, Loss] = {}

# What `loss` is told of one that has been looked at already.
_FACTS = ("family", "wrt", "differentiable", "hessian", "options", "domains", "legacy", "also")


def _reduced(record: Loss) -> tuple[Any, ...]:
    """Return what a loss is made of in another process: the function there, or how one's own is defined.

    cloudpickle, with which Dask, Spark, Ray and joblib send functions, takes those of a script or a notebook apart.
    What was made of the definition here, such as marks and kernels, is made anew there.
    """
    if is_packaged(record.function):
        return record_of, (record.function,)
    token = _sent.setdefault(record, uuid.uuid4().hex)
    _known[token] = record
    describe = vars(record.function)["__wrapped__"]
    facts = {name: getattr(record, name) for name in _FACTS}
    return _defined, (token, describe, tuple(marked_in(describe, set())), facts)


def _defined(token: str, describe: Callable[..., Any], marked: tuple[Any, ...], facts: dict[str, Any]) -> Loss:
    """Return a loss that another process has sent; it is defined here once, however often it is sent."""
    if token not in _known:
        for function in marked:
            if not is_marked(function):
                maths(function)
        record = record_of(loss(**facts)(describe))
        _known[token], _sent[record] = record, token
    return _known[token]


copyreg.pickle(Loss, _reduced)
