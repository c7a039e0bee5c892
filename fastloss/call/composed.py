"""Plans losses of losses: penalties on several arrays, and losses of distances that are functions of their own.

Their parts are calls of their own, with plans of their own.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastloss.call import elementwise
from fastloss.call.checks import check_float, check_shape, listed
from fastloss.call.plan import Plan
from fastloss.call.planning import Operand, Planning, several
from fastloss.call.request import VALUE, Mode, Request, is_number
from fastloss.call.targets import check_out, check_targets, in_targets
from fastloss.define.descriptions import Distance, Elementwise, OfDistances, Penalty
from fastloss.define.point_maths import plus_times, times
from fastloss.define.record import Loss

# Gives the way of calling a part in a mode.
Part = Callable[[Loss, Mode], Any]


# -- penalties ---------------------------------------------------------------------------------------------------------


def plan_penalty(part: Part, planning: Planning, description: Penalty) -> Plan:
    """Plan a penalty on one array or on several."""
    if not is_array(description.params.given):
        return _plan_several(part, planning, description)
    arrays, params = (description.params,), (float(description.coefficient),)
    one = Elementwise(description.point, arrays, ("params",), params, reduction="sum", leads=1)
    return elementwise.plan(planning, one)


def _plan_several(part: Part, planning: Planning, description: Penalty) -> Plan:
    """Plan a penalty on several arrays, of this call alone."""
    planning.kept = False
    mode, request, record = planning.mode, planning.request, planning.record
    given = tuple(description.params.given)
    names = tuple([f"params[{k}]" for k in range(len(given))])
    if request.out is not None:
        raise ValueError("out is for an unreduced value, which a penalty does not have")
    targets = None
    if request.grad_out is not None:
        (only,) = several(request.grad_out, 1, mode.single)
        targets = several(only, len(given))
    if not given:
        return Plan(lambda arrays, request: _joined(mode, np.float64(0), [[], []], request))
    arrays = tuple([planning.operand(name, array) for name, array in zip(names, given, strict=True)])
    views = planning.enter(arrays, names)
    backend = planning.library.backend
    for view, name in zip(views, names, strict=True):
        check_float(view, name)
    if targets is not None:  # nothing of the user's is written before all has been looked at
        check_targets(planning, targets, arrays)
        for k, target in enumerate(targets):
            seen = planning.library.output(target, "grad_out")
            if any(backend.overlap(seen, view) for n, view in enumerate(views) if n != k):
                raise ValueError(f"grad_out[{k}] overlaps another of the arrays, which is read after it is written")
    one = part(record, mode._replace(wrt=("params",) if mode.wrt else (), single=True))

    def compute(_: tuple[Any, ...], request: Request) -> Any:
        answers = []
        for k, array in enumerate(given):
            each = one.request
            if request.grad_output is not None or targets is not None:
                each = Request(one.request.mode, request.grad_output, None if targets is None else targets[k])
            answers.append(one.run((array, description.coefficient), {}, each))
        pairs = mode.wrt and (mode.value or mode.hessian)
        columns = [[*column] for column in zip(*answers, strict=True)] if pairs else [answers]
        total = None
        if mode.value and backend.waits:
            total = sum(columns[0][1:], columns[0][0])
        elif mode.value:
            total = planning.library.scalar(sum(map(float, columns[0])), views[0].dtype)
        return _joined(mode, total, columns[mode.value :], request)

    return Plan(compute)


def _joined(mode: Mode, total: Any, derivatives: list[list[Any]], request: Request) -> Any:
    """Return value and lists of derivatives as the mode asks for them."""
    if not mode.wrt:
        return total
    result: Any = derivatives[0] if mode.single else (derivatives[0],)
    if request.grad_out is not None:
        result = request.grad_out
    if mode.hessian:
        return result, derivatives[1]
    return (total, result) if mode.value else result


def is_array(params: Any) -> bool:
    """Return whether `params` is one array, or what NumPy makes one of, rather than several arrays."""
    if isinstance(params, int | float) or hasattr(params, "shape") or hasattr(params, "__dlpack__"):
        return True
    if not isinstance(params, Iterable):
        raise TypeError(f"params must be an array or a sequence of arrays, got {type(params).__name__}")
    if not isinstance(params, list | tuple) or not params:
        return False
    return not any(hasattr(entry, "shape") and not isinstance(entry, np.generic) for entry in params)


# -- losses of distances -----------------------------------------------------------------------------------------------


def plan_distances(part: Part, planning: Planning, description: OfDistances) -> Plan:
    """Plan a loss of distances."""
    run, given = _Distances(part, planning, description).run, tuple([operand.given for operand in description.arrays])
    return Plan(lambda _, request: run(given, request))


class _Distances:
    """A loss of distances: an elementwise loss of what other descriptions, or functions of the user's, compute."""

    def __init__(self, part: Part, planning: Planning, description: OfDistances) -> None:
        self.planning, self.description, self.record, self.mode = planning, description, planning.record, planning.mode
        self.options = {"reduction": description.reduction, **planning.given_common()}
        views = planning.enter(description.arrays, description.names)
        for view, name in zip(views, description.names, strict=True):
            check_float(view, name)
            if view.ndim != views[0].ndim or view.ndim == 0:
                raise ValueError(
                    f"vectors must have the same number of axes, at least one: {listed(description.names, views)}"
                )
        self.shapes = [view.shape for view in views]
        self._check_derivatives()
        self._check_outputs(views)
        planning.kept = False  # the parts are given the user's arrays, and keep their own plans

        mode = self.mode
        names = description.names
        self.names = tuple([f"the distance of {names[i]} and {names[k]}" for (i, k), *_ in description.distances])
        outer = Mode(mode.value, self.names if mode.wrt else (), single=False, partial=mode.partial)
        describe = _outer_of(description.point, self.names, description.params)
        self.outer = part(record_of_part(self.record, describe, self.names), outer)
        self.plus = Arithmetic(self.record, part).plus
        self.parts = [(distance, *self._parts_of(distance, part)) for distance in description.distances]

    def _parts_of(self, distance: Distance, part: Part) -> tuple[Any, Any]:
        """Return the calls of a distance that is a description: of its value, and of its derivatives."""
        if distance.describe is None:
            return None, None
        names = distance.describe(*[self.description.arrays[k] for k in distance.operands]).names
        derivatives = Mode(False, names[:1], hessian=True) if self.mode.hessian else Mode(False, names, single=False)
        record = record_of_part(self.record, distance.describe, names)
        return part(record, Mode()), part(record, derivatives)

    def _check_derivatives(self) -> None:
        """Raise where a derivative is asked for that a function of the user's does not provide."""
        for distance in self.description.distances if self.mode.wrt else ():
            if distance.describe is None and self.mode.hessian:
                raise ValueError(f"{self.record.name} has no second derivative with a distance_function of one's own")
            if distance.describe is None and distance.vjp is None:
                raise ValueError(
                    "a gradient through a distance_function of one's own needs its vector-Jacobian product: pass "
                    "distance_vjp(a, b, upstream) -> (gradient of a, gradient of b)"
                )

    def _check_outputs(self, views: list[Any]) -> None:
        planning, request, names = self.planning, self.planning.request, self.description.names
        self.targets: list[Operand] = []
        if request.grad_out is not None:
            given = several(request.grad_out, len(self.mode.wrt), self.mode.single)
            like = [self.description.arrays[names.index(name)] for name in self.mode.wrt]
            self.targets = check_targets(planning, given, like)
        if request.out is not None:
            check_out(planning, [*views, *[target.view for target in self.targets]])

    def run(self, given: tuple[Any, ...], request: Request) -> Any:
        """Compute the call of the arrays that were given."""
        mode = self.mode
        found = tuple([self._value(given, distance, value) for distance, value, _ in self.parts])
        wanted = self.outer.request
        if request.grad_output is not None or request.out is not None:
            wanted = Request(wanted.mode, request.grad_output, None, request.out)
        outcome = self.outer.run(found, self.options, wanted)
        if not mode.wrt:
            return outcome
        value, slopes = outcome if mode.value else (None, outcome)

        totals: dict[str, Any] = {}
        for (distance, _, derivatives), slope in zip(self.parts, slopes, strict=True):
            for name, derivative in self._derivatives(given, distance, derivatives, slope):
                if name == "hessian" or name in mode.wrt:
                    shape = self.shapes[0 if name == "hessian" else self.description.names.index(name)]
                    seen = self.planning.library.view(derivative, "distance_vjp")
                    check_shape(seen, shape, f"distance_vjp's gradient of {name}", "shape")
                    totals[name] = self.plus(totals[name], derivative) if name in totals else derivative
        grads = tuple([totals[name] for name in mode.wrt])
        result = in_targets(self.planning, grads, self.targets, request)
        if mode.hessian:
            return result, totals["hessian"]
        return (value, result) if mode.value else result

    def _value(self, given: tuple[Any, ...], distance: Distance, part: Any) -> Any:
        """Return one distance."""
        a, b = (given[k] for k in distance.operands)
        return distance.value(a, b) if part is None else part.run((a, b), {}, part.request)

    def _derivatives(self, given: tuple[Any, ...], distance: Distance, part: Any, slope: Any) -> list[tuple[str, Any]]:
        """Return the derivatives of a distance times `slope`, each with the name of its argument."""
        a, b = (given[k] for k in distance.operands)
        first, other = (self.description.names[k] for k in distance.operands)
        if part is None:
            parts = distance.vjp(a, b, slope)  # type: ignore[misc]
            if not isinstance(parts, tuple | list) or len(parts) != 2:
                raise TypeError(f"distance_vjp must return two gradients, got {type(parts).__name__}")
            return [(first, parts[0]), (other, parts[1])]
        if self.mode.hessian and distance.operands[0] != 0:
            return []  # does not hold the argument whose second derivative is asked for
        parts = part.run((a, b), {}, Request(part.request.mode, slope))
        return [(first, parts[0]), ("hessian" if self.mode.hessian else other, parts[1])]


@functools.cache
def record_of_part(record: Loss, describe: Callable[..., Any], names: tuple[str, ...]) -> Loss:
    """Return the record of a part of a loss, which no user calls."""
    return dataclasses.replace(
        record, describe=describe, positional=names, operands=frozenset(names), options={}, domains={}, legacy=False
    )


@functools.cache
def _outer_of(point: Any, names: tuple[str, ...], params: tuple[Any, ...]) -> Callable[..., Elementwise]:
    """Return the description of the elementwise loss of distances."""

    def describe(*found: Any, reduction: str) -> Elementwise:
        return Elementwise(point, found, names, params, reduction=reduction, broadcast="exact", leads=len(found))

    return describe


# -- arithmetic with arrays of any library -----------------------------------------------------------------------------


class Arithmetic:
    """The sums and products of arrays of any library that join the parts, as calls of elementwise losses."""

    def __init__(self, record: Loss, part: Part) -> None:
        self._record, self._part = record, part

    def scaled(self, array: Any, factor: Any) -> Any:
        """Return an array, a number, or None for ones, times a number."""
        if array is None or is_number(array):
            return factor if array is None else float(array) * factor
        return self.times(array, factor)

    def times(self, array: Any, factor: Any, out: Any = None) -> Any:
        """Return an array, or a value of a library's own kind, times a number."""
        return self._run(_times, (array,), factor, out)

    def plus(self, array: Any, other: Any, factor: float = 1.0, out: Any = None) -> Any:
        """Return an array plus `factor` times another of its shape."""
        return self._run(_plus, (array, other), factor, out)

    def _run(self, describe: Callable[..., Any], arrays: tuple[Any, ...], factor: Any, out: Any) -> Any:
        record = record_of_part(self._record, describe, ("array", "other")[: len(arrays)])
        options = {"factor": float(factor), "reduction": "none" if getattr(arrays[0], "ndim", 0) else "sum"}
        return self._part(record, VALUE.mode).run(arrays, options, VALUE if out is None else VALUE._replace(out=out))


def _times(array: Any, *, factor: float, reduction: str) -> Elementwise:
    return Elementwise(times, (array,), ("array",), (factor,), reduction=reduction, leads=1)


def _plus(array: Any, other: Any, *, factor: float, reduction: str) -> Elementwise:
    names = ("array", "other")
    return Elementwise(plus_times, (array, other), names, (factor,), reduction=reduction, broadcast="exact")
