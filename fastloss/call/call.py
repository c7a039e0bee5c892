"""The one calling path: a description in, shapes checked, outputs allocated, a driver called, arrays out.

Only this module and its helpers (``_checks.py``, ``_outputs.py``; ``_rows.py``, ``_pairs.py`` and others for a family
each) know shapes, broadcasting, weights and reductions. They work on views (``_dispatch.py``) and ask the space's
backend for everything that touches memory.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastloss.call.array_ops import sum_of
from fastloss.call.checks import aligned_variance, check_fits, check_float, check_shape, common_shape
from fastloss.call.adaptive_softmax import clustered
from fastloss.runtime.settings import settings
from fastloss.call.dispatch import space_of
from fastloss.call.distances import of_distances
from fastloss.call.multilabel import label_sets
from fastloss.call.outputs import ABSENT, VALUE, Argument, Outputs, Request, upstream_of
from fastloss.call.pairwise import pairwise
from fastloss.call.penalties import penalty
from fastloss.call.prepared import Prepared, are_options, signature
from fastloss.call.linear import projected
from fastloss.call.quick import prepare
from fastloss.call.quick_torch import as_numpy, as_tensors
from fastloss.define.maths import jitable
from fastloss.define.registry import LEGACY, check_options
from fastloss.call.rowwise import rowmap, rowwise
from fastloss.call.ctc import alignment
from fastloss.define.descriptions import (
    Alignment,
    Clustered,
    Elementwise,
    LabelSets,
    Loss,
    OfDistances,
    Pairwise,
    Penalty,
    Projected,
    RowMap,
    Rowwise,
)

# Kinds of call that are kept for one way of calling a loss; then all are forgotten.
MOST_KINDS = 1024

# Of a kind of call: how it is computed, and where its arrays stand among the arguments. None: the long way.
Kind = tuple[Prepared, tuple[int, ...]] | None
_UNKNOWN: Any = object()


class Call:
    """A way of calling a loss: what it returns unless told otherwise, and the options that are bound.

    It keeps the kinds of call that can go the short way (``_quick.py``), and the straight code (``_straight.py``) of
    the kinds that it computed last, into fresh arrays and into the caller's: a loss is called with arrays of the same
    shapes again and again.
    """

    __slots__ = ("describe", "known", "latest", "latest_into", "record", "request", "settled")

    def __init__(self, record: Loss, request: Request, options: dict[str, Any]) -> None:
        self.record, self.request = record, request
        self.describe = functools.partial(record.describe, **options) if options else record.describe
        self.settled = are_options(options.values())
        self.known: dict[Any, Kind] = {}
        self.latest = self.latest_into = _none

    def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        """Return what the user gets.

        Like :meth:`Prepared.compute` it is no ``__call__``, which would cost Python twice as much.
        """
        if request is self.request:
            result = self.latest(args, kwargs, None, None)
            if result is not None:
                return result
        elif request.grad_output is None:
            result = self.latest_into(args, kwargs, request.grad_out, request.out)
            if result is not None:
                return result
        if self.settled and request.grad_output is None:
            result = self._short(args, kwargs, request)
            if result is not None:
                return result
            converted = as_numpy(args, kwargs) if request is self.request else None
            if converted is not None:
                result = self.latest(*converted, None, None)
                if result is None:
                    result = self._short(*converted, request)
                if result is not None:
                    return as_tensors(result)
        return self.long(args, kwargs, request)

    def long(self, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        """Return what the user gets, the long way."""
        if kwargs:
            check_options(self.record, kwargs)
        return evaluate(self.record, self.describe(*args, **kwargs), request)

    def _short(self, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        """Compute a call the short way; None where the long way is needed."""
        key = signature(args, kwargs)
        if key is None:
            return None
        kind = self.known.get(key, _UNKNOWN)
        if kind is _UNKNOWN:
            try:
                kind = _keep(self.known, key, self._kind(args, kwargs))
            except Exception:  # the long way knows what to say of it
                return None
        if kind is None:
            return None
        prepared, picks = kind
        given = (*args, *kwargs.values()) if kwargs else args
        result = prepared.compute([given[k] for k in picks], request)
        if result is not None:
            into = request.grad_out is not None, request.out is not None
            code = prepared.straight(picks, args, kwargs, into) or _none
            if any(into):
                self.latest_into = code
            else:
                self.latest = code
        return result

    def _kind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Kind:
        """Return how a call is computed the short way, None if it is not."""
        if not LEGACY.isdisjoint(kwargs):
            return None  # each call has to warn
        # Views, because one array may stand for several arguments here and for one the next time.
        args = tuple([_seen(a) for a in args])
        kwargs = {name: _seen(a) for name, a in kwargs.items()}
        if kwargs:
            check_options(self.record, kwargs)
        decided = prepare(self.record, self.describe(*args, **kwargs), self.request.mode)
        if decided is None:
            return None
        prepared, arrays = decided
        places = {id(a): k for k, a in enumerate((*args, *kwargs.values())) if type(a) is np.ndarray}
        if places.keys() != {id(a) for a in arrays}:
            return None  # an array is an option, whose value counts, or something was made of one
        return prepared, tuple([places[id(a)] for a in arrays])


def _none(args: tuple[Any, ...], kwargs: dict[str, Any], grad_out: Any, out: Any) -> Any:
    """Compute no kind of call."""


def _seen(argument: Any) -> Any:
    return argument.view() if type(argument) is np.ndarray else argument


def _keep(known: dict[Any, Any], key: Any, kind: Any) -> Any:
    """Keep a kind of call, and return it."""
    if len(known) >= MOST_KINDS:
        known.clear()
    known[key] = kind
    return kind


def evaluate(record: Loss, job: Any, request: Request) -> Any:
    """Compute what `request` asks for of the job that a loss described, the long way."""
    evaluator = _EVALUATORS.get(type(job))
    if evaluator is None:
        raise TypeError(f"{record.name} must return a description (fastloss.define.descriptions), got {type(job).__name__}")
    return evaluator(record, job, request)


def _evaluate_part(record: Loss, job: Any, request: Request) -> Any:
    """Compute a job that a loss consists of, the short way if it is one of plain single elements."""
    if type(job) is not Elementwise or request.grad_output is not None or request.out is not None:
        return evaluate(record, job, request)
    arrays, back = job.arrays, None
    if request.grad_out is None:
        converted = as_numpy(arrays, {})
        if converted is not None:
            arrays, back = converted[0], as_tensors
    shapes = signature(arrays, {})
    if shapes is None or job.weight is not None or not are_options(job.params):
        return evaluate(record, job, request)
    key = job._replace(arrays=()), signature(job.params, {}), request.mode, shapes  # 0.0 equals -0.0, and 1 equals 1.0
    prepared = _parts.get(key, _UNKNOWN)
    if prepared is _UNKNOWN:
        decided = prepare(record, job._replace(arrays=arrays), request.mode)
        prepared = _keep(_parts, key, None if decided is None else decided[0])
    result = None if prepared is None else prepared.compute(arrays, request)
    if result is None:
        return evaluate(record, job, request)
    return result if back is None else back(result)


# Kinds of such jobs, and how they are computed.
_parts: dict[Any, Prepared | None] = {}


# -- losses of single elements ----------------------------------------------------------------------------------------


def _elementwise(record: Loss, job: Elementwise, request: Request) -> Any:
    mode, names, weight, params = request.mode, job.names, job.weight, job.params
    space = space_of(job.arrays, names) if weight is None else space_of((*job.arrays, weight), (*names, "weight"))
    backend = space.backend
    arguments = tuple([Argument(name, a, space.view(a, name)) for name, a in zip(names, job.arrays, strict=True)])
    x = arguments[0].view
    for argument in arguments[: job.reals]:
        check_float(argument.view, argument.name)
    operands = [argument.view for argument in arguments]
    if job.non_negative is not None:
        check_float(operands[-1], names[-1])
        operands[-1] = aligned_variance(operands[-1], x, names[-1])
        arguments = (*arguments[:-1], arguments[-1]._replace(lies=operands[-1].shape))
    shape = x.shape
    for view in operands:
        if view.shape != shape:
            shape = common_shape(job, operands)
            break

    size = x.size if shape is x.shape else math.prod(shape)
    each = job.reduction == "none"
    divisor: Any = job.divisor(x.shape, size)
    point, w = job.point, ABSENT
    if weight is not None:
        w = space.view(weight, "weight")
        if job.exact_weight:
            check_shape(w, x.shape, "weight", "the input's shape")
        check_fits(w, shape, "weight")
        by_weight = job.reduction == "mean" and job.mean == "weights"
        if by_weight:
            divisor = sum_of(backend, w)
        if "weight" in mode.wrt:
            # The weight becomes an operand; its derivative of a weighted mean is v - mean, over the summed weight. The
            # copies of a weight that is broadcast share the mean.
            centre = backend.number(space.view(_elementwise(record, job, VALUE), "input")) if by_weight else 0.0
            centre *= w.size / size if size else 1
            arguments = (*arguments, Argument("weight", weight, w))
            point, params, operands, w = _weighted(point), (*params, centre), [*operands, w], ABSENT
        else:
            w = backend.broadcast(w, shape)

    outputs = Outputs(record, space, request, arguments, shape)
    outputs.want_values(shape, each and mode.value)
    scale, upstream = upstream_of(space, request, not each, shape)
    outputs.check_read(weight=w, grad_output=upstream)
    second = backend.empty(shape, x.dtype) if mode.hessian else ABSENT
    restricted = (job.unit_interval or job.non_negative is not None) and (settings.check_indices or not backend.waits)
    if restricted and (request.grad_out is not None or request.out is not None):
        _check_domain(backend, job, operands)  # nothing of the user's may be written before
    if size == 0:
        return outputs.finish(math.nan if divisor == 0 else 0.0, second)
    total = backend.elementwise(
        point,
        tuple([backend.broadcast(view, shape) for view in operands]),
        w,
        upstream,
        params,
        scale,
        divisor,
        outputs.values,
        outputs.grads,
        second,
        outputs.aliased,
    )
    if restricted and (total is None or math.isnan(backend.number(total))):
        _check_domain(backend, job, operands)
    return outputs.finish(total, second)


@functools.cache
def _weighted(point: Any) -> Any:
    """Return a loss with its weight as a third operand; `centre`, the last parameter, is the weighted mean or 0."""

    def weighted(x, t, w, *params):  # type: ignore[no-untyped-def]
        value, slopes, curvature = point(x, t, *params[:-1])
        return w * value, (w * slopes[0], w * slopes[1], value - params[-1]), w * curvature

    weighted.__name__ = weighted.__qualname__ = f"weighted_{point.__name__}"
    return jitable(weighted)


def _check_domain(backend: Any, job: Elementwise, operands: Any) -> None:
    """Raise if an operand holds a value that the loss is not defined for; NaN passes."""
    for name, view in zip(job.names, operands, strict=False):
        if job.unit_interval and backend.number(sum_of(backend, view, point=_outside_unit_interval)) > 0:
            raise ValueError(f"{name} must lie in [0, 1], but holds values outside")
        if job.non_negative == name and backend.number(sum_of(backend, view, point=_is_negative)) > 0:
            raise ValueError(f"{name} must not be negative, but holds negative values")


@jitable
def _outside_unit_interval(x):  # type: ignore[no-untyped-def]
    T = type(x)
    return (T(1) if x < T(0) or x > T(1) else T(0)), (T(0),), T(0)


@jitable
def _is_negative(x):  # type: ignore[no-untyped-def]
    T = type(x)
    return (T(1) if x < T(0) else T(0)), (T(0),), T(0)


_EVALUATORS: dict[type, Any] = {
    Elementwise: _elementwise,
    Rowwise: rowwise,
    RowMap: rowmap,
    Pairwise: pairwise,
    LabelSets: label_sets,
    Alignment: alignment,
    OfDistances: functools.partial(of_distances, _evaluate_part),
    Penalty: functools.partial(penalty, _evaluate_part),
    Projected: projected,
    Clustered: clustered,
}
