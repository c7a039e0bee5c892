"""The calling path of losses of rows with a list of classes, see ``_call.py``."""

from __future__ import annotations

import math
from typing import Any

from fastloss.call.checks import check_float, check_integer, check_shape
from fastloss.runtime.settings import settings
from fastloss.call.dispatch import space_of
from fastloss.call.outputs import ABSENT, Argument, Outputs, Request, upstream_of
from fastloss.call.rowwise import out_of_range
from fastloss.define.descriptions import LabelSets, Loss


def label_sets(record: Loss, job: LabelSets, request: Request) -> Any:
    """Compute a loss of listed and unlisted classes."""
    mode = request.mode
    space = space_of((job.input, job.target), ("input", "target"))
    backend, flat = space.backend, space.backend.flat
    x, target = space.view(job.input, "input"), space.view(job.target, "target")
    check_float(x, "input")
    shape = x.shape
    if len(shape) > 2 or 0 in shape[-1:]:
        raise ValueError(f"input must have shape (C,) or (N, C) with at least one class, got shape {shape}")
    check_integer(target, "target")
    check_shape(target, shape, "target", "the input's shape")
    rows, columns = shape[:-1], shape[-1] if shape else 1
    count = math.prod(rows)
    each = job.reduction == "none"
    outputs = Outputs(record, space, request, (Argument("input", job.input, x),), shape)
    outputs.want_values(rows, each and mode.value)
    scale, upstream = upstream_of(space, request, not each, rows)
    outputs.check_read(target=target, grad_output=upstream)
    second = backend.zeros(shape, x.dtype) if mode.hessian else ABSENT
    divisor = count if job.reduction == "mean" else 1
    if count == 0:
        return outputs.finish(math.nan if divisor == 0 else 0.0, second)
    labels, grad = flat(target), outputs.grads[0]
    strange, total = backend.label_sets(
        job.point,
        flat(x),
        labels,
        upstream if upstream is ABSENT else flat(upstream),
        scale,
        divisor,
        (count, columns),
        settings.check_indices,
        outputs.values if outputs.values is ABSENT else flat(outputs.values),
        grad if grad is ABSENT else flat(grad),
    )
    if strange >= 0:
        raise out_of_range(backend, labels, strange, shape, columns)
    return outputs.finish(total, second)
