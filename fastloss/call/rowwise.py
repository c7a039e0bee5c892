"""The calling path of losses over a class axis, see ``_call.py``."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastloss.call.array_ops import convert_into, in_type
from fastloss.call.checks import (
    Shape,
    check_fits,
    check_float,
    check_labels,
    check_shape,
    implicit_axis,
    normal_axis,
    split_axis,
)
from fastloss.runtime.settings import settings
from fastloss.call.dispatch import space_of
from fastloss.runtime.dtypes import FLOATS
from fastloss.call.outputs import ABSENT, Argument, Outputs, Request, upstream_of
from fastloss.call.pairwise import pairwise
from fastloss.define.descriptions import NO_INDEX, Loss, Pairwise, RowMap, RowMaths, Rowwise

_NAMES = ("input", "target", "weight")


def rowwise(record: Loss, job: Rowwise, request: Request) -> Any:
    """Compute a loss of rows."""
    (
        maths, input, given_target, soft, given_weight, params, ignore_index, reduction, mean, axis, keepdim, max_ndim,
        empty, pairs,
    ) = job  # fmt: skip
    mode = request.mode
    space = space_of((input, given_target, given_weight), _NAMES)
    backend = space.backend
    flat = backend.flat
    x = space.view(input, "input")
    check_float(x, "input")
    shape = x.shape
    first, last, split = split_axis(shape, axis)
    if max_ndim is not None and len(shape) > max_ndim:
        raise ValueError(f"input must have at most {max_ndim} axes, got shape {shape}")
    outer, classes, inner = split
    if classes == 0 and empty is None:
        raise ValueError(f"input must have at least one class, got shape {shape}")
    rows = shape[:first] + shape[last:]
    if given_target is None and "target" in record.domains:
        raise TypeError("target must be an array, got None")
    if pairs is not None and given_weight is not None:
        spread_weight = space.view(given_weight, "weight")
        if spread_weight.shape != (classes,):
            check_fits(spread_weight, shape, "weight")
            check_fits(space.view(given_target, "target"), shape, "target")
            arrays = (input, given_target, given_weight)
            return pairwise(
                record, Pairwise(pairs, arrays, _NAMES, reduction=reduction, broadcast=True, reals=1), request
            )
    labels: Any = ABSENT
    operand: Any = ABSENT
    weight: Any = ABSENT
    if given_target is not None:
        target = space.view(given_target, "target")
        if not maths.indexed:
            check_fits(target, shape, "target")
            operand = target
        elif soft is not None and target.shape == shape:
            maths, operand = soft, target
            check_float(operand, "target, which has the input's shape and so holds class probabilities,")
            if ignore_index is not None and ignore_index >= 0:
                raise ValueError(f"ignore_index does not go with class probabilities, got {ignore_index}")
        else:
            labels = target
            check_labels(labels, rows, shape)
            if ignore_index is None:
                rows = labels.shape  # torch: a target of shape (1,) beside one row gives a value of shape (1,)
    if given_weight is not None:
        weight = space.view(given_weight, "weight")
        check_shape(weight, (classes,), "weight", "one entry for each class, shape")

    each = reduction == "none"
    count = outer * inner
    divisor: float = 1
    if reduction == "mean":
        divisor = 0 if mean == "weights" and labels is not ABSENT else count  # 0: the driver counts
    arguments: tuple[Argument, ...] = (Argument("input", input, x),)
    if operand is not ABSENT:
        along = (classes,) + (1,) * (len(shape) - last)
        arguments = (
            *arguments,
            Argument("target", given_target, operand),
            Argument("weight", given_weight, weight, along),
        )
    innermost = _innermost(backend, x, first, last)
    if innermost is not None:
        split = (count, classes, 1)
    outputs = Outputs(record, space, request, arguments, shape, innermost=innermost)
    ordered = outputs.ordered
    results = shape[:first] + (1,) * len(shape[first:last]) + shape[last:] if keepdim else rows
    outputs.want_values(results, each and mode.value)
    scale, upstream = upstream_of(space, request, not each, results)
    outputs.check_read(target=labels, weight=weight if operand is ABSENT else ABSENT, grad_output=upstream)
    second = ABSENT
    if mode.hessian:
        second = outputs.allocate(shape, x.dtype)
    if count == 0:
        return outputs.finish(math.nan if reduction == "mean" else 0.0, second)
    if classes == 0:
        if outputs.values is not ABSENT:
            backend.fill(outputs.values, empty)
        return outputs.finish(empty, second)
    spread = operand if operand is ABSENT else flat(ordered(backend.broadcast(operand, shape)))
    strange, total = backend.rowwise(
        maths,
        flat(ordered(x)),
        spread,
        labels if labels is ABSENT else flat(labels),
        weight if weight is ABSENT else flat(weight),
        upstream if upstream is ABSENT else flat(upstream),
        (*params, 1.0 / classes),
        scale,
        divisor,
        split,
        NO_INDEX if ignore_index is None else int(ignore_index),
        settings.check_indices,
        outputs.values if outputs.values is ABSENT else flat(outputs.values),
        [grad if grad is ABSENT else flat(ordered(grad)) for grad in outputs.grads],
        second if second is ABSENT else flat(ordered(second)),
    )
    if strange >= 0:
        raise out_of_range(backend, flat(labels), strange, rows, classes)
    return outputs.finish(total, second)


def _innermost(backend: Any, x: Any, first: int, last: int) -> int | None:
    """Return the class axis where it lies innermost in memory though it is not the last one, else None.

    So lie logits of shape (N, L, C) whose last two axes were swapped for a loss that takes (N, C, L). Rows along such
    an axis are read as they lie, and results are laid out in the same way, as ``numpy.empty_like`` does it.
    """
    if not backend.follows_layout or last - first != 1 or last >= x.ndim or x.strides[first] != x.itemsize:
        return None
    return None if x.flags.c_contiguous else first


def out_of_range(
    backend: Any, labels: Any, strange: int, rows: Shape, classes: int, what: str = "target"
) -> IndexError:
    """Return the error about the class index number `strange` of the flat `labels`, which have shape `rows`."""
    place = tuple(int(i) for i in np.unravel_index(strange, rows))
    label = int(backend.host(labels[strange : strange + 1])[0])  # no float, which would round it
    if labels.dtype == np.uint64:
        label %= 2**64
    return IndexError(f"{what} {label} at position {place} is out of range for {classes} classes")


@functools.cache
def value_only(maths: RowMaths) -> RowMaths:
    """Return the maths of a map without the sums, which only its gradient needs."""
    return maths._replace(terms=None)


def rowmap(record: Loss, job: RowMap, request: Request) -> Any:
    """Compute a function of rows that returns an array of the input's shape, or its gradient."""
    mode = request.mode
    space = space_of((job.input,), ("input",))
    given = job.input if job.dtype is None else space.converted(job.input, job.dtype)
    x = space.view(given, "input")
    check_float(x, "input")
    shape = x.shape
    axis = implicit_axis(len(shape)) if job.axis is None else normal_axis(job.axis, len(shape))
    split = split_axis(shape, axis)[2] if shape else (1, 1, 1)
    backend, flat = space.backend, space.backend.flat
    arguments: tuple[Argument, ...] = (Argument("input", given, x),)
    own = space.view(job.input, "input") if given is not job.input and mode.wrt else x
    converts = own.dtype != x.dtype and own.dtype in FLOATS
    if converts:  # a value is like what was converted, a gradient like the input
        arguments = (*((Argument("converted", given, x),) if mode.value else ()), Argument("input", job.input, own))
    innermost = _innermost(backend, x, axis, axis + 1) if shape and not converts else None
    if innermost is not None:
        split = (split[0] * split[2], split[1], 1)
    outputs = Outputs(record, space, request, arguments, shape, innermost=innermost)
    outputs.want_values(shape, mode.value, entries=True)
    ordered, slot = outputs.ordered, len(arguments) - 1
    gradient = backend.empty(shape, x.dtype) if converts else outputs.grads[slot]
    scale, operand = upstream_of(space, request, False, shape)
    outputs.check_read(grad_output=operand)
    second = outputs.allocate(shape, x.dtype) if mode.hessian else ABSENT

    if x.size:
        backend.rowwise(
            job.maths if mode.wrt else value_only(job.maths),
            flat(ordered(x)),
            operand if operand is ABSENT else flat(ordered(operand)),
            ABSENT,
            ABSENT,
            ABSENT,
            (scale,),
            1.0,
            1,
            split,
            NO_INDEX,
            False,
            ABSENT,
            tuple([a if a is ABSENT else flat(ordered(a)) for a in (outputs.values, gradient, ABSENT)]),
            second if second is ABSENT else flat(ordered(second)),
        )
    if converts:
        convert_into(backend, outputs.grads[slot], gradient)
        second = second if second is ABSENT else in_type(backend, second, own.dtype)
    return outputs.finish(None, second)
