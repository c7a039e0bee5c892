"""Plans losses of pairs and triplets of vectors."""

from __future__ import annotations

import functools
import math
from typing import Any

from fastloss.call.checks import Shape, broadcast_shape, check_float, listed, normal_axis, representable
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Plan, kernel_call
from fastloss.call.planning import Operand, Planning, Spread
from fastloss.call.reads import seen
from fastloss.call.weighting import RowLayout
from fastloss.define.descriptions import Pairwise
from fastloss.runtime.plans import nothing


def plan(planning: Planning, description: Pairwise) -> Plan:
    """Plan a loss of pairs or triplets of vectors."""
    names = description.names
    planning.enter((*description.arrays, description.target), (*names, "target"))
    backend = planning.library.backend
    views = [operand.view for operand in description.arrays]
    for operand in description.arrays[: description.reals]:
        check_float(operand.view, operand.name)
    shape = _common_shape(description, views)
    axes = _axes_of(description, len(shape), planning.record.axis_name)
    results = tuple([n for k, n in enumerate(shape) if k not in axes])
    moved = axes if axes != tuple(range(len(results), len(shape))) else None
    if moved is not None:  # vectors lie along the last axes of what the loop sees
        _spread = functools.partial(_moved, backend, shape, axes)
        spreads: list[Spread] = [_spread] * len(views)
    else:
        spreads = [None if view.shape == shape else functools.partial(backend.broadcast, shape=shape) for view in views]
    columns, count = math.prod([shape[axis] for axis in axes]), math.prod(results)
    spread_label = None if description.target is None else _labels(backend, description.target.view, results)

    each = description.reduction == "none"
    arguments = tuple([Argument(operand, operand.view) for operand in description.arrays])
    outputs = Outputs(planning, arguments, shape, last=moved)
    kept_results = tuple([1 if k in axes else n for k, n in enumerate(shape)]) if description.keepdim else results
    outputs.want_values(kept_results, each, layout=RowLayout(columns))
    scale, grad_output = planning.take_grad_output(not each, kept_results)
    outputs.check_read(target=description.target, grad_output=grad_output)
    divisor = planning.over(count, in_kernel=True) if description.reduction == "mean" else 1
    missing = (None,) * (3 - len(views))
    operands: tuple[Operand | None, ...] = (*description.arrays, *missing, description.target, grad_output)
    spreading = (*spreads, *missing, spread_label, None)
    if count == 0:
        kernel = nothing(planning.empty_mean)
    else:
        params, views_seen = representable(description.params, views[0].dtype), seen(operands, spreading)
        kernel = backend.plan_pairwise(description.maths, views_seen, outputs.prototypes(), params, (count, columns))
    return kernel_call(planning, outputs, kernel, operands, spreading, scale, divisor)


def _axes_of(description: Pairwise, ndim: int, name: str) -> tuple[int, ...]:
    """Return the axes that the vectors lie along, in order."""
    named = description.axis if isinstance(description.axis, tuple) else (description.axis,)
    axes = tuple(sorted([normal_axis(axis, ndim, name) for axis in named]))
    if len({*axes}) < len(axes):
        raise ValueError(f"axes must name each axis once, got {named}")
    return axes


def _moved(backend: Any, shape: Shape, axes: tuple[int, ...], view: Any) -> Any:
    """Return a view of the common shape with the vectors' axes behind the others."""
    view = backend.broadcast(view, shape)
    for before, axis in enumerate(axes):
        view = backend.moved(view, axis - before, len(shape) - 1)
    return view


def _common_shape(description: Pairwise, views: list[Any]) -> Shape:
    """Return the shape that the arrays of vectors have in common."""
    first = views[0]
    shape: Shape = first.shape
    for view in views:
        if (view.ndim == 0 or view.ndim != first.ndim) and not description.broadcast:
            raise ValueError(
                f"vectors must have the same number of axes, at least one: {listed(description.names, views)}"
            )
        if view.shape != shape:
            shape = broadcast_shape(description.names, views)
    return shape or (1,)  # two numbers, as vectors of one component


def _labels(backend: Any, target: Any, rows: Shape) -> Spread:
    """Return what makes one label for each vector of the target."""
    if target.shape == rows:
        return None
    if target.size != 1 or target.ndim > 1:
        raise ValueError(f"target must have shape {rows}, one entry for each vector, got shape {target.shape}")
    return lambda view: backend.broadcast(view.reshape(()), rows)
