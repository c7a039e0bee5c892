"""Plans losses of rows with a list of classes."""

from __future__ import annotations

import functools
import math

from fastloss.call.checks import check_float, check_integer, check_shape, normal_axis
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Plan, kernel_call
from fastloss.call.planning import Planning
from fastloss.call.reads import seen
from fastloss.call.rowwise import bad_label_of
from fastloss.call.weighting import RowLayout
from fastloss.define.descriptions import LabelSets
from fastloss.runtime.plans import nothing


def plan(planning: Planning, description: LabelSets) -> Plan:
    """Plan a loss of listed and unlisted classes."""
    x, target = planning.enter((description.input, description.target), ("input", "target"))
    backend = planning.library.backend
    check_float(x, "input")
    shape = x.shape
    if len(shape) > 2 or 0 in shape[-1:]:
        raise ValueError(f"input must have shape (C,) or (N, C) with at least one class, got shape {shape}")
    check_integer(target, "target")
    check_shape(target, shape, "target", "the input's shape")
    moved, read = None, None
    if description.axis is not None and normal_axis(description.axis, len(shape), "axis") != len(shape) - 1:
        moved, read = (0,), functools.partial(backend.moved, source=0, destination=-1)
    rows, columns = (shape[:-1] if moved is None else shape[1:]), shape[-1 if moved is None else 0] if shape else 1
    count = math.prod(rows)
    each = description.reduction == "none"
    outputs = Outputs(planning, (Argument(description.input, x),), shape, last=moved, flat_hessian=True, slots=2)
    outputs.want_values(rows, each, layout=RowLayout(columns))
    scale, grad_output = planning.take_grad_output(not each, rows)
    outputs.check_read(target=description.target, grad_output=grad_output)
    divisor = planning.over(count, in_kernel=True) if description.reduction == "mean" else 1
    operands, spreads = (description.input, description.target, grad_output), (read, read, None)
    if count == 0:
        kernel = nothing(planning.empty_mean, labelled=True)
    else:
        views = seen(operands, spreads)
        kernel = backend.plan_multilabel(description.point, views, outputs.prototypes(), (count, columns))
    bad_label = bad_label_of(backend, description.target, shape, columns)
    return kernel_call(planning, outputs, kernel, operands, spreads, scale, divisor, bad_label=bad_label)
