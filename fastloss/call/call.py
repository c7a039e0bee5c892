"""A way of calling a loss: signature, plan, run.

A call whose arrays have the types, shapes and layouts of those before is computed by the plan that was made for them: a
function of its arrays. Everything that follows from types, shapes and options is decided once, by the planner of the
description's family; a call that has no signature (lists, functions as options, warnings to repeat) takes the same way,
and its plan is not kept.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastloss.call import (
    adaptive_softmax,
    chain,
    composed,
    ctc,
    elementwise,
    linear,
    multilabel,
    pairwise,
    rowwise,
    scored,
)
from fastloss.call.autograd import writing
from fastloss.call.common import COMMON_ARRAYS, along, set_common
from fastloss.call.direct import Run, direct
from fastloss.call.dispatch import lazy
from fastloss.call.plan import Plan
from fastloss.call.planning import Compute, Operand, Planning
from fastloss.call.request import Mode, Request, is_number
from fastloss.call.signature import Signature, Take, extras_of, is_option, signature, taker
from fastloss.define.chains import Applied, WeightedSum
from fastloss.define.descriptions import (
    Alignment,
    Clustered,
    Elementwise,
    LabelSets,
    OfDistances,
    Pairwise,
    Penalty,
    Projected,
    RowMap,
    Rowwise,
)
from fastloss.define.record import Loss
from fastloss.define.registry import LEGACY, check_options
from fastloss.runtime.graph_break import LOADED

# Plans that are kept for one way of calling a loss; then all are forgotten.
MOST_PLANS = 1024

# What a loss is called on by the description of another one.
_INSIDE = (Operand, Applied, WeightedSum)

_PLANNERS: dict[type, Any] = {
    Elementwise: elementwise.plan,
    Rowwise: scored.plan,
    RowMap: rowwise.plan_map,
    Pairwise: pairwise.plan,
    LabelSets: multilabel.plan,
    Alignment: ctc.plan,
    Projected: linear.plan,
    Clustered: adaptive_softmax.plan,
}


class Call:
    """What a call returns unless told otherwise, the options that are bound, and the plans of the kinds of call."""

    __slots__ = ("bound", "last", "options", "plans", "record", "reduction", "request", "settled")

    def __init__(self, record: Loss, request: Request, options: dict[str, Any]) -> None:
        self.record, self.request, self.options = record, request, options
        self.bound = tuple([value for name, value in options.items() if name in record.operands and value is not None])
        # An array, or whatever else can change, may be an option of a class: its value counts in each call.
        self.settled = all(name in record.operands or is_option(value) for name, value in options.items())
        self.reduction = _default_reduction(record.describe)
        self.plans: dict[Any, list[Any]] = {}  # signature -> the plan, and what runs it
        self.last: Run = _no_call

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (self.record, self.request, self.options)  # plans are of this process, like kernels

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        """Return what the user gets: by the function that computed the last call, or else by :meth:`find`.

        Hot callers (api/loss, api/transforms, nn/loss_module) inline these two lines.
        """
        result = self.last(args, kwargs, request)
        return self.find(args, kwargs, request) if result is None else result

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        """Compute a call by its plan, made where there is none."""
        if "dask.array" in LOADED and (elsewhere := lazy((*args, *kwargs.values(), *self.bound))) is not None:
            return elsewhere.compute(self.record, args, {**self.options, **kwargs}, request)
        found = signature(args, kwargs, self.bound, request) if self.settled else None
        if found is None:
            if any(isinstance(given, _INSIDE) for given in (*args, *kwargs.values())):
                return Applied(self.record, args, kwargs)  # this is a part of another loss's description
            plan, arrays, _ = self._plan(args, kwargs, request, None)
            return plan.compute(arrays, request)
        known = self.plans.get(found.key)
        if known is None:  # the first call of its kind may be the only one
            plan, arrays, keeps = self._plan(args, kwargs, request, found)
            if keeps:
                if len(self.plans) >= MOST_PLANS:
                    self.plans.clear()
                self.plans[found.key] = [plan, None]
            return plan.compute(arrays, request)
        plan, run = known
        if run is None:
            run = known[1] = direct(plan, found, args, kwargs, request, self.request) or taking(
                taker(found, args, kwargs, self.bound, request, self.request), plan.compute
            )
        self.last = run
        return plan.compute(found.arrays, request)

    def check(self, kwargs: dict[str, Any]) -> None:
        """Raise what a call with such arrays raises whatever numbers they hold: plan it, and compute nothing."""
        self._plan((), kwargs, self.request, None)

    def _plan(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request, found: Signature | None
    ) -> tuple[Plan, tuple[Any, ...], bool]:
        """Plan a call; return what computes it, its arrays, and whether the plan serves other calls too."""
        record = self.record
        operands = _Operands(found)
        names = record.positional
        arguments = [
            operands.of(place, name, value, record)
            for place, (name, value) in enumerate(zip(names, args, strict=False))
        ]
        arguments += args[len(names) :]  # too many, of which Python will complain
        count = len(args)
        named: dict[str, Any] = {}
        if kwargs:
            named = {name: operands.of(k, name, value, record) for k, (name, value) in enumerate(kwargs.items(), count)}
            check_options(record, named)
            count += len(kwargs)
        if self.options:
            options = dict(self.options)
            arrays = [name for name in options if name in record.operands and options[name] is not None]
            for k, name in enumerate(arrays):
                options[name] = operands.of(count + k, name, options[name], record)
            named = {**options, **named}
        planning = Planning(record, request, operands.arrays, found is not None and LEGACY.isdisjoint(kwargs))
        if request is not self.request:
            _set_extras(planning, operands, count + len(self.bound))
        axis = None
        if named or self.reduction != "mean":
            common = {name: named.pop(name) for name in record.common if name in named}
            set_common(planning, common, named.get("reduction", self.reduction))
            axis = common.get("axis")
        description = record.describe(*arguments, **named)
        if axis is not None:
            description = along(description, axis)
        planner = _PLANNERS.get(type(description))
        if planner is None:
            raise TypeError(
                f"{record.name} must return a description (fastloss.custom), got {type(description).__name__}"
            )
        plan = planner(planning, description)
        if request is not self.request:
            plan = plan._replace(compute=writing(plan.compute, request))
        return plan, tuple(planning.arrays), planning.kept and operands.kept()


@functools.cache
def _default_reduction(describe: Callable[..., Any]) -> Any:
    """Return the reduction of a loss unless told otherwise; "mean" of what has none."""
    parameter = inspect.signature(describe).parameters.get("reduction")
    return "mean" if parameter is None or parameter.default is parameter.empty else parameter.default


def _no_call(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> None:
    """Take no call."""


def taking(take: Take, compute: Compute) -> Run:
    """Return what computes calls whose arrays `take` takes."""

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        arrays = take(args, kwargs, request)
        return None if arrays is None else compute(arrays, request)

    return run


class _Operands:
    """The operands of a call, made of what was given at its places."""

    def __init__(self, found: Signature | None) -> None:
        self.arrays: list[Any] = [] if found is None else list(found.arrays)
        self._places = {} if found is None else {place: k for k, place in enumerate(found.places)}
        self._kept = found is not None

    def of(self, place: int, name: str, value: Any, record: Loss) -> Any:
        """Return the operand for a value that was given by a name, the value itself where it is an option."""
        is_array = name in record.operands or (name in COMMON_ARRAYS and name in record.common)
        return value if value is None or not is_array else self.at(place, name, value)

    def at(self, place: int, name: str, value: Any) -> Operand:
        """Return the operand for an array at a place among all that was given."""
        number = self._places.pop(place, None)
        if number is None:  # a list, or a number
            self._kept = False
            number = len(self.arrays)
            self.arrays.append(None)
        return Operand(name, value, number)

    def kept(self) -> bool:
        """Return whether the operands are the arrays of the signature: no option is an array, whose numbers count."""
        return self._kept and not self._places


def _set_extras(planning: Planning, operands: _Operands, place: int) -> None:
    """Set the operands for what a transform was given beside the loss's arguments."""
    request = planning.request
    extras = list(extras_of(request))
    if request.grad_output is not None and not is_number(request.grad_output):
        planning.grad_output = operands.at(place, "grad_output", extras.pop(0))
        place += 1
    if request.out is not None:
        planning.out = operands.at(place + len(extras) - 1, "out", extras.pop())
    planning.targets = [operands.at(place + k, "grad_out", array) for k, array in enumerate(extras)]


@functools.cache
def _part(record: Loss, mode: Mode) -> Call:
    """Return the way of calling a part of a loss of losses."""
    return Call(record, Request(mode), {})


_PLANNERS[OfDistances] = functools.partial(composed.plan_distances, _part)
_PLANNERS[Penalty] = functools.partial(composed.plan_penalty, _part)
_PLANNERS[Applied] = _PLANNERS[WeightedSum] = functools.partial(chain.plan, _part)
