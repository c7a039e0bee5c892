"""The calling path of losses of distances that are functions of their own, see ``_call.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastloss.call.array_ops import plus
from fastloss.call.checks import check_float, check_shape, listed
from fastloss.call.dispatch import space_of
from fastloss.call.outputs import VALUE, Mode, Request, checked_targets, given_gradients
from fastloss.define.descriptions import Distance, Elementwise, Loss, OfDistances

Run = Callable[[Loss, Any, Request], Any]


def of_distances(run: Run, record: Loss, job: OfDistances, request: Request) -> Any:
    """Compute a loss of distances; `run` evaluates the jobs that it is made of."""
    mode, arrays = request.mode, job.arrays
    space = space_of(arrays, job.names)
    views = [space.view(array, name) for array, name in zip(arrays, job.names, strict=True)]
    for view, name in zip(views, job.names, strict=True):
        check_float(view, name)
        if view.ndim != views[0].ndim or view.ndim == 0:
            raise ValueError(f"vectors must have the same number of axes, at least one: {listed(job.names, views)}")
    _check_derivatives(record, job, mode)
    targets, given = None, given_gradients(request, len(mode.wrt))
    if given is not None:
        targets = checked_targets(space, given, [views[job.names.index(name)] for name in mode.wrt])
    if request.out is not None:
        out = space.output(request.out, "out")
        if any(space.backend.overlap(out, view) for view in (*views, *(targets or ()))):
            raise ValueError("out overlaps an argument or another array that is written")

    names = tuple([f"the distance of {job.names[i]} and {job.names[k]}" for (i, k), *_ in job.distances])
    found = tuple([_value(run, record, distance, arrays) for distance in job.distances])
    outer = Elementwise(
        job.point, found, names, job.params, reduction=job.reduction, broadcast="exact", leads=len(found)
    )
    slopes_too = Mode(mode.value, names if mode.wrt else (), single=False)
    outcome = run(record, outer, request._replace(mode=slopes_too, grad_out=None))
    if not mode.wrt:
        return outcome
    value, slopes = outcome if mode.value else (None, outcome)

    totals: dict[str, Any] = {}

    def add(name: str, part: Any) -> None:
        if name in totals:
            part = run(record, Elementwise(plus, (totals[name], part), (name, name), reduction="none"), VALUE)
        totals[name] = part

    for distance, slope in zip(job.distances, slopes, strict=True):
        for name, part in _derivatives(run, record, job, distance, slope, mode.hessian):
            if name == "hessian" or name in mode.wrt:
                shape = views[0 if name == "hessian" else job.names.index(name)].shape
                check_shape(space.view(part, "distance_vjp"), shape, f"distance_vjp's gradient of {name}", "shape")
                add(name, part)
    grads = tuple([totals[name] for name in mode.wrt])
    if targets is not None:
        for target, gradient in zip(targets, grads, strict=True):
            space.backend.copy_into(target, space.view(gradient, "grad_out"))
    result = (grads[0] if mode.single else grads) if targets is None else request.grad_out
    if mode.hessian:
        return result, totals["hessian"]
    return (value, result) if mode.value else result


def _check_derivatives(record: Loss, job: OfDistances, mode: Mode) -> None:
    """Raise where a derivative is asked for that a function of the user's does not provide."""
    for distance in job.distances if mode.wrt else ():
        if distance.describe is None and mode.hessian:
            raise ValueError(f"{record.name} has no second derivative with a distance_function of one's own")
        if distance.describe is None and distance.vjp is None:
            raise ValueError(
                "a gradient through a distance_function of one's own needs its vector-Jacobian product: pass "
                "distance_vjp(a, b, upstream) -> (gradient of a, gradient of b)"
            )


def _value(run: Run, record: Loss, distance: Distance, arrays: tuple[Any, ...]) -> Any:
    """Return one distance."""
    a, b = (arrays[k] for k in distance.operands)
    if distance.describe is not None:
        return run(record, distance.describe(a, b), VALUE)
    return distance.value(a, b)


def _derivatives(
    run: Run, record: Loss, job: OfDistances, distance: Distance, slope: Any, hessian: bool
) -> list[tuple[str, Any]]:
    """Return the derivatives of a distance times `slope`, each with the name of its argument."""
    a, b = (job.arrays[k] for k in distance.operands)
    first, other = (job.names[k] for k in distance.operands)
    if distance.describe is None:
        parts = distance.vjp(a, b, slope)  # type: ignore[misc]
        if not isinstance(parts, tuple | list) or len(parts) != 2:
            raise TypeError(f"distance_vjp must return two gradients, got {type(parts).__name__}")
        return [(first, parts[0]), (other, parts[1])]
    described = distance.describe(a, b)
    if not hessian:
        parts = run(record, described, Request(Mode(False, described.names, single=False), slope))
        return [(first, parts[0]), (other, parts[1])]
    if distance.operands[0] != 0:  # does not hold the argument whose second derivative is asked for
        return []
    parts = run(record, described, Request(Mode(False, described.names[:1], hessian=True), slope))
    return [(first, parts[0]), ("hessian", parts[1])]
