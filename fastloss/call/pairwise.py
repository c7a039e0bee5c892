"""The calling path of losses of vectors, see ``_call.py``."""

from __future__ import annotations

import math
from typing import Any

from fastloss.call.checks import Shape, broadcast_shape, check_float, listed, normal_axis
from fastloss.call.dispatch import space_of
from fastloss.call.outputs import ABSENT, Argument, Outputs, Request, upstream_of
from fastloss.define.descriptions import Loss, Pairwise


def pairwise(record: Loss, job: Pairwise, request: Request) -> Any:
    """Compute a loss of pairs or triplets of vectors."""
    mode, names = request.mode, job.names
    space = space_of((*job.arrays, job.target), (*names, "target"))
    backend, flat = space.backend, space.backend.flat
    arguments = tuple([Argument(name, a, space.view(a, name)) for name, a in zip(names, job.arrays, strict=True)])
    views = [argument.view for argument in arguments]
    for argument in arguments[: job.reals]:
        check_float(argument.view, argument.name)
    shape = _common_shape(job, views)
    axis, last = normal_axis(job.axis, len(shape)), len(shape) - 1
    results = shape[:axis] + shape[axis + 1 :]
    if axis != last:
        views = [backend.moved(backend.broadcast(view, shape), axis, last) for view in views]
        shape = (*results, shape[axis])
    columns, count = shape[-1], math.prod(results)
    if job.target is None and "target" in record.domains and "target" not in names:
        raise TypeError("target must be an array, got None")
    target: Any = ABSENT
    if job.target is not None:
        target = flat(_labels(backend, space.view(job.target, "target"), results))

    each = job.reduction == "none"
    outputs = Outputs(record, space, request, arguments, shape)
    if job.keepdim:
        results = (*results[:axis], 1, *results[axis:])
    outputs.want_values(results, each and mode.value)
    scale, upstream = upstream_of(space, request, not each, results)
    outputs.check_read(target=target, grad_output=upstream)
    second = backend.empty(shape, views[0].dtype) if mode.hessian else ABSENT
    divisor = count if job.reduction == "mean" else 1
    if count == 0:
        total = math.nan if divisor == 0 else 0.0
    else:
        total = backend.pairwise(
            job.maths,
            tuple([flat(backend.broadcast(view, shape)) for view in views]),
            target,
            upstream if upstream is ABSENT else flat(upstream),
            job.params,
            scale,
            divisor,
            (count, columns),
            outputs.values if outputs.values is ABSENT else flat(outputs.values),
            [grad if grad is ABSENT else flat(grad) for grad in outputs.grads],
            second if second is ABSENT else flat(second),
        )
    if axis != last:
        outputs.grads = [_moved_back(backend, grad, axis) for grad in outputs.grads]
        second = _moved_back(backend, second, axis)
    return outputs.finish(total, second)


def _common_shape(job: Pairwise, views: list[Any]) -> Shape:
    """Return the shape that the arrays of vectors have in common."""
    first = views[0]
    shape: Shape = first.shape
    for view in views:
        if (view.ndim == 0 or view.ndim != first.ndim) and not job.broadcast:
            raise ValueError(f"vectors must have the same number of axes, at least one: {listed(job.names, views)}")
        if view.shape != shape:
            shape = broadcast_shape(job.names, views)
    if shape == ():
        raise ValueError(f"vectors must have at least one axis: {listed(job.names, views)}")
    return shape


def _labels(backend: Any, target: Any, rows: Shape) -> Any:
    """Return one label for each vector."""
    if target.shape == rows:
        return target
    if target.size != 1 or target.ndim > 1:
        raise ValueError(f"target must have shape {rows}, one entry for each vector, got shape {target.shape}")
    return backend.broadcast(target.reshape(()), rows)


def _moved_back(backend: Any, written: Any, axis: int) -> Any:
    """Return a contiguous copy of what was written with the vectors' axis last, that axis in its place."""
    if written is ABSENT:
        return ABSENT
    moved = backend.moved(written, written.ndim - 1, axis)
    result = backend.empty(moved.shape, moved.dtype)
    backend.copy_into(result, moved)
    return result
