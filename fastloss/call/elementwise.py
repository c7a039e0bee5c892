"""Plans losses of single elements."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastloss.call.array_ops import sum_of, summing
from fastloss.call.checks import (
    Shape,
    aligned_variance,
    check_fits,
    check_float,
    check_shape,
    common_shape,
    representable,
)
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Domain, Plan, kernel_call
from fastloss.call.planning import ABSENT, Operand, Planning, chained, reads_of
from fastloss.call.request import VALUE
from fastloss.call.weighting import sampling, spread_weights
from fastloss.define.descriptions import Elementwise
from fastloss.define.point_maths import is_negative, outside_unit_interval, sampled, slopes_of, weighted
from fastloss.runtime.plans import nothing
from fastloss.runtime.settings import settings


def plan(planning: Planning, description: Elementwise) -> Plan:
    """Plan a loss of single elements."""
    mode, names, weight, params = planning.mode, description.names, description.weight, description.params
    planning.enter((*description.arrays, weight), (*names, "weight"))
    backend = planning.library.backend
    arguments, views, spreads = _arguments(description)
    x = views[0]
    shape = x.shape
    if any(view.shape != shape for view in views):
        shape = common_shape(description, views)
        planning.kept = planning.kept and description.broadcast != "warn"

    params = representable(params, x.dtype)
    size, each = math.prod(shape), description.reduction == "none"
    divisor: Any = planning.over(description.divisor(x.shape, size))
    point, w = description.point, weight
    if weight is not None:
        if description.exact_weight:
            check_shape(weight.view, x.shape, "weight", "the input's shape")
        check_fits(weight.view, shape, "weight")
        by_both = description.mean == "products" and planning.sample_weight is not None
        if planning.averages and (description.mean == "weights" or by_both):
            divisor = planning.over(_summing(backend, weight))
            planning.counts = planning.reader(weight, _broadcasting(backend, None, shape), backend.flat)
        if "weight" in mode.wrt and "sample_weight" in planning.common:
            raise ValueError("there is no gradient with respect to weight beside a sample_weight")
        if "weight" in mode.wrt:
            # The weight becomes an operand; its derivative of a weighted mean is v - mean, over the summed weight.
            centre = _centre(planning, description, size) if callable(divisor) else 0.0
            arguments = (*arguments, Argument(weight, weight.view))
            point, params, w = weighted(point), (*params, centre), None
            views.append(weight.view)
            spreads.append(None)

    sampled_by, converts = planning.sample_weight, False
    if sampled_by is not None and len(views) < 3 and size:
        planning.sample_weight, planning.weighs = None, True
        slopes = sum(name in planning.record.differentiable for name in names[:2])
        point = sampled(point, len(views), slopes)
        divisor, spread, converts = sampling(planning, sampled_by, shape, divisor, None if weight is None else weight)
        if mode.partial:
            planning.denominator, divisor = divisor, 1
        arguments = (*arguments, Argument(sampled_by, sampled_by.view))
        views.append(sampled_by.view if spread is None else spread(sampled_by.view))
        spreads.append(spread)
    domain = _domain(planning, description, shape, spreads, sampled_by)
    if not mode.value and domain is None:
        point = slopes_of(point)
    outputs = Outputs(planning, arguments, shape)
    outputs.want_values(shape, each and mode.value)
    scale, grad_output = planning.take_grad_output(not each, shape)
    outputs.check_read(weight=w, grad_output=grad_output)
    missing = 3 - len(views)
    operands = (*[argument.operand for argument in arguments], *(None,) * missing, w, grad_output)
    spread_views = [backend.broadcast(view, shape) for view in views]
    read_views = (
        *spread_views,
        *(ABSENT,) * missing,
        ABSENT if w is None else backend.broadcast(w.view, shape),
        ABSENT if grad_output is None else grad_output.view,
    )
    if size == 0:
        kernel = nothing(planning.empty_mean)
    else:
        kernel = backend.plan_elementwise(point, read_views, outputs.prototypes(5), params, outputs.aliased)
    chains = [*spreads, *(None,) * (5 - len(spreads))]
    if sampled_by is not None and planning.weighs and kernel.raw and not converts:
        chains[len(description.arrays)] = None  # what spreads weights also brings them to their shape
    for k, operand in enumerate(operands):
        if not (operand is None or operand is sampled_by or kernel.raw or operand.view.shape == shape):
            chains[k] = _broadcasting(backend, chains[k], shape)
    reads = reads_of(operands, tuple(chains), kernel.reads)
    return kernel_call(planning, kernel, reads, outputs, each, scale, divisor, domain)


def _arguments(
    description: Elementwise,
) -> tuple[tuple[Argument, ...], list[Any], list[Callable[[Any], Any] | None]]:
    """Return the arguments of a loss, their views, and what spreads those that do not broadcast as they are."""
    names, arguments = description.names, tuple([Argument(operand, operand.view) for operand in description.arrays])
    for argument in arguments[: description.reals]:
        check_float(argument.view, argument.operand.name)
    views = [argument.view for argument in arguments]
    spreads: list[Callable[[Any], Any] | None] = [None] * len(views)
    if description.non_negative is not None:
        check_float(views[-1], names[-1])
        aligned = aligned_variance(views[-1], views[0], names[-1])
        if aligned is not views[-1]:
            spreads[-1] = _reshaping(aligned.shape)
        views[-1] = aligned
        arguments = (*arguments[:-1], arguments[-1]._replace(lies=aligned.shape))
    return arguments, views, spreads


def _reshaping(shape: tuple[int, ...]) -> Callable[[Any], Any]:
    return lambda view: view.reshape(shape)


def _broadcasting(backend: Any, before: Callable[[Any], Any] | None, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    if before is None:
        return lambda view: backend.broadcast(view, shape)
    return lambda view: backend.broadcast(before(view), shape)


def _summing(backend: Any, weight: Operand) -> Callable[[tuple[Any, ...]], Any]:
    """Return what sums the weights of a call."""
    total, place, read = summing(backend, weight.view), weight.place, weight.read
    if read is None:
        return lambda arrays: total(arrays[place])
    return lambda arrays: total(read(arrays[place]))


def _centre(planning: Planning, description: Elementwise, size: int) -> float:
    """Return the weighted mean of the call, which the derivative with respect to a weight is taken about.

    It is a number of this call, so that the plan cannot be kept. The copies of a weight that is broadcast share it.
    """
    planning.kept = False
    backend, weight = planning.library.backend, description.weight
    whole = Planning(planning.record, VALUE, planning.arrays, False)
    whole.averages = planning.averages
    reduced = plan(whole, description).compute(tuple(planning.arrays), VALUE)
    mean = backend.number(planning.library.view(reduced, "input"))
    return mean * weight.view.size / size if size else mean  # type: ignore[union-attr, no-any-return]


def _domain(
    planning: Planning,
    description: Elementwise,
    shape: Shape,
    spreads: list[Callable[[Any], Any] | None],
    sampled_by: Operand | None,
) -> Domain | None:
    """Return what raises where an operand holds a value that the loss is not defined for; NaN passes.

    So does what has weight 0. The weights are spread over the loss's `shape`, and what they are compared with.
    """
    backend = planning.library.backend
    if not math.prod(shape) or not (description.unit_interval or description.non_negative is not None):
        return None
    looked_at = [
        (operand.name, operand.place, chained(operand.read, spread), point, message)
        for operand, spread in zip(description.arrays, spreads, strict=False)
        for wanted, point, message in (
            (description.unit_interval, outside_unit_interval, "must lie in [0, 1], but holds values outside"),
            (description.non_negative == operand.name, is_negative, "must not be negative, but holds negative values"),
        )
        if wanted
    ]
    weights = None if sampled_by is None else spread_weights(planning, sampled_by, shape)

    def check(arrays: tuple[Any, ...], total: Any) -> None:
        if not (settings.check_indices or not backend.waits):  # may the call wait for the device?
            return
        if total is not None and not math.isnan(backend.number(total)):
            return
        for name, place, read, point, message in looked_at:
            view = arrays[place] if read is None else read(arrays[place])
            if weights is None:
                outside = sum_of(backend, view, point=point)
            else:
                spread = backend.broadcast(view, shape)
                outside = sum_of(backend, spread, point=sampled(point, 1, 1), beside=(weights(arrays),))
            if backend.number(outside) > 0:
                raise ValueError(f"{name} {message}")

    return check
