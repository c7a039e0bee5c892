"""The calling path of penalties on parameters, see ``_call.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from fastloss.call.checks import check_float
from fastloss.call.dispatch import space_of
from fastloss.call.outputs import Mode, Request, checked_targets, given_gradients, several
from fastloss.define.descriptions import Elementwise, Loss, Penalty

Run = Callable[[Loss, Any, Request], Any]


def job_of(job: Penalty, array: Any, name: str) -> Elementwise:
    """Return the job of one array."""
    return Elementwise(job.point, (array,), (name,), (float(job.coefficient),), reduction="sum", leads=1)


def penalty(run: Run, record: Loss, job: Penalty, request: Request) -> Any:
    """Compute a penalty on one array or on many; `run` evaluates the job of one array."""
    mode = request.mode
    if is_array(job.params):
        return run(record, job_of(job, job.params, "params"), request)
    arrays = tuple(job.params)
    names = tuple([f"params[{k}]" for k in range(len(arrays))])
    if request.out is not None:
        raise ValueError("out is for an unreduced value, which a penalty does not have")
    given = given_gradients(request, 1)
    if given is not None:
        given = several(given[0], len(arrays))
    if not arrays:
        return _joined(mode, np.float64(0), [], [], request)
    space = space_of(arrays, names)
    views = [space.view(array, name) for array, name in zip(arrays, names, strict=True)]
    for view, name in zip(views, names, strict=True):
        check_float(view, name)
    if given is not None:  # nothing of the user's is written before all has been looked at
        targets = checked_targets(space, given, views)
        for k, target in enumerate(targets):
            if any(space.backend.overlap(target, view) for n, view in enumerate(views) if n != k):
                raise ValueError(f"grad_out[{k}] overlaps another of the arrays, which is read after it is written")

    values, gradients, seconds = [], [], []
    for k, (array, name) in enumerate(zip(arrays, names, strict=True)):
        each = mode._replace(wrt=(name,) if mode.wrt else (), single=True)
        target = None if given is None else given[k]
        result = run(record, job_of(job, array, name), Request(each, request.grad_output, target))
        if not mode.wrt:
            values.append(result)
        elif mode.hessian:
            gradients.append(result[0])
            seconds.append(result[1])
        elif mode.value:
            values.append(result[0])
            gradients.append(result[1])
        else:
            gradients.append(result)
    total = None
    if mode.value:
        on_host = not space.backend.waits
        total = space.scalar(sum(map(float, values)), views[0].dtype) if on_host else sum(values[1:], values[0])
    return _joined(mode, total, gradients, seconds, request)


def _joined(mode: Mode, total: Any, gradients: list[Any], seconds: list[Any], request: Request) -> Any:
    """Return value and lists of derivatives as the mode asks for them."""
    if not mode.wrt:
        return total
    result: Any = gradients if mode.single else (gradients,)
    if request.grad_out is not None:
        result = request.grad_out
    if mode.hessian:
        return result, seconds
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
