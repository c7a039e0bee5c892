"""Plans losses of single elements."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from operator import methodcaller
from typing import Any

from fastloss.call.array_ops import mapping, sum_of
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
from fastloss.call.planning import ABSENT, Operand, Planning, Spread, chained
from fastloss.call.request import VALUE
from fastloss.call.weighting import RowLayout, plan_sample_weights, spread_weights
from fastloss.define.descriptions import Elementwise, MathFunction
from fastloss.define.point_maths import itself, sampled, slopes_of, weighted
from fastloss.runtime.dtypes import real_of
from fastloss.runtime.plans import nothing
from fastloss.runtime.settings import settings


@dataclasses.dataclass(slots=True)
class _Loop:
    """What a loop over elements runs: its point function, and the arrays of it with what spreads each."""

    point: MathFunction
    params: tuple[Any, ...]
    arguments: tuple[Argument, ...]
    views: list[Any]
    spreads: list[Spread]
    divisor: Any

    def add(self, operand: Operand, spread: Spread = None) -> None:
        """Have a further array as the last one."""
        self.arguments = (*self.arguments, Argument(operand, operand.view))
        self.views.append(operand.view if spread is None else spread(operand.view))
        self.spreads.append(spread)


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
    size, each = math.prod(shape), description.reduction == "none"
    divisor = planning.over(description.divisor(x.shape, size), in_kernel=True)
    loop = _Loop(description.point, representable(params, x.dtype), arguments, views, spreads, divisor)
    if weight is not None:
        _weigh(planning, description, loop, shape)
    samples, converts = planning.sample_weight, False
    if samples is not None and len(loop.views) < 3 and size:
        converts = _weigh_samples(planning, description, loop, shape)
    domain = _domain(planning, description, shape, loop.spreads, samples)
    if not mode.value and domain is None:
        loop.point = slopes_of(loop.point)

    outputs = Outputs(planning, loop.arguments, shape)
    outputs.want_values(shape, each, layout=RowLayout())
    scale, grad_output = planning.take_grad_output(not each, shape)
    kernel_weight = None if "weight" in mode.wrt else weight
    outputs.check_read(weight=kernel_weight, grad_output=grad_output)
    missing = (None,) * (3 - len(loop.views))
    operands = (*[argument.operand for argument in loop.arguments], *missing, kernel_weight, grad_output)
    if size == 0:
        kernel = nothing(0.0 if divisor else math.nan)
    else:
        seen = (
            *[backend.broadcast(view, shape) for view in loop.views],
            *(ABSENT,) * len(missing),
            ABSENT if kernel_weight is None else backend.broadcast(kernel_weight.view, shape),
            ABSENT if grad_output is None else grad_output.view,
        )
        kernel = backend.plan_elementwise(loop.point, seen, outputs.prototypes(), loop.params, outputs.aliased)
    chains = [*loop.spreads, *(None,) * (5 - len(loop.spreads))]
    if samples is not None and planning.weighs and kernel.raw and not converts:
        chains[len(description.arrays)] = None  # what spreads weights also brings them to their shape
    for k, operand in enumerate(operands):
        if not (operand is None or operand is samples or kernel.raw or operand.view.shape == shape):
            chains[k] = _broadcasting(backend, chains[k], shape)
    return kernel_call(planning, outputs, kernel, operands, tuple(chains), scale, loop.divisor, domain)


def _weigh(planning: Planning, description: Elementwise, loop: _Loop, shape: Shape) -> None:
    """Check the weight, which may count in the divisor of the mean, and have its derivative if that is asked for."""
    mode, backend, weight = planning.mode, planning.library.backend, description.weight
    assert weight is not None
    if description.exact_weight:
        check_shape(weight.view, loop.views[0].shape, "weight", "the input's shape")
    check_fits(weight.view, shape, "weight")
    by_both = description.mean == "products" and planning.sample_weight is not None
    if planning.averages and (description.mean == "weights" or by_both):
        loop.divisor = planning.over(_summing(backend, weight), in_kernel=True)
        planning.counts = planning.reader(weight, _broadcasting(backend, None, shape), backend.flat)
    if "weight" not in mode.wrt:
        return
    if "sample_weight" in planning.common:
        raise ValueError("there is no gradient with respect to weight beside a sample_weight")
    # The weight becomes an operand; its derivative of a weighted mean is v - mean, over the summed weight.
    divides = callable(loop.divisor) and planning.divisor is None
    centre = _centre(planning, description, math.prod(shape)) if divides else 0.0
    loop.point, loop.params = weighted(loop.point), (*loop.params, centre)
    loop.add(weight)


def _weigh_samples(planning: Planning, description: Elementwise, loop: _Loop, shape: Shape) -> bool:
    """Have the kernel multiply by the weights of samples, and return whether they are converted for that."""
    samples = planning.sample_weight
    assert samples is not None
    planning.sample_weight, planning.weighs = None, True
    slopes = sum(name in planning.record.differentiable for name in description.names[:2])
    loop.point = sampled(loop.point, len(loop.views), slopes)
    real = real_of(loop.views[0].dtype)
    divisor, spread, converts = plan_sample_weights(planning, samples, shape, loop.divisor, description.weight, real)
    if planning.mode.partial:
        planning.denominator = divisor
    loop.divisor = 1 if planning.mode.partial else divisor
    loop.add(samples, spread)
    return converts


def _arguments(description: Elementwise) -> tuple[tuple[Argument, ...], list[Any], list[Spread]]:
    """Return the arguments of a loss, their views, and what spreads those that do not broadcast as they are."""
    names, arguments = description.names, tuple([Argument(operand, operand.view) for operand in description.arrays])
    for argument in arguments[: description.reals]:
        check_float(argument.view, argument.operand.name)
    views = [argument.view for argument in arguments]
    spreads: list[Spread] = [None] * len(views)
    if description.variance is not None:
        check_float(views[-1], names[-1])
        aligned = aligned_variance(views[-1], views[0], names[-1])
        if aligned is not views[-1]:
            spreads[-1] = methodcaller("reshape", aligned.shape)
        views[-1] = aligned
        arguments = (*arguments[:-1], arguments[-1]._replace(lies=aligned.shape))
    return arguments, views, spreads


def _broadcasting(backend: Any, before: Spread, shape: tuple[int, ...]) -> Callable[[Any], Any]:
    if before is None:
        return lambda view: backend.broadcast(view, shape)
    return lambda view: backend.broadcast(before(view), shape)


def _summing(backend: Any, weight: Operand) -> Callable[[tuple[Any, ...]], Any]:
    """Return what sums the weights of a call."""
    if weight.view.size == 0:
        return lambda arrays: 0.0
    total, place, read = mapping(backend, itself, (weight.view,)), weight.place, weight.read
    if read is None:
        return lambda arrays: total((arrays[place],))
    return lambda arrays: total((read(arrays[place]),))


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
    spreads: list[Spread],
    samples: Operand | None,
) -> Domain | None:
    """Return what raises where an operand holds a value that the loss is not defined for; NaN passes.

    So does what has weight 0. The weights are spread over the loss's `shape`, and what they are compared with.
    """
    backend = planning.library.backend
    if not math.prod(shape) or not description.domains:
        return None
    looked_at = [
        (operand.name, operand.place, chained(operand.read, spread), point, message)
        for operand, spread in zip(description.arrays, spreads, strict=False)
        for name, point, message in description.domains
        if name == operand.name
    ]
    weights = None if samples is None else spread_weights(planning, samples, shape)

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
