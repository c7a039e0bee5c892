"""Plans losses over a class axis, and maps of rows such as softmax."""

from __future__ import annotations

import functools
from operator import call
from typing import Any

import numpy as np

from fastloss.call import pairwise
from fastloss.call.array_ops import in_type
from fastloss.call.checks import (
    Shape,
    check_fits,
    check_float,
    check_labels,
    check_shape,
    implicit_axis,
    normal_axis,
    representable,
    split_axis,
)
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import BadLabel, Plan, answering, kernel_call
from fastloss.call.planning import ABSENT, Operand, Planning, Read, Spread, chained
from fastloss.call.reads import reads_of, seen
from fastloss.call.request import Request
from fastloss.call.weighting import RowLayout, or_negative, spreading
from fastloss.define.descriptions import NO_INDEX, Pairwise, RowMap, RowMaths, Rowwise
from fastloss.runtime.dtypes import FLOATS, real_of
from fastloss.runtime.plans import nothing

NAMES = ("input", "target", "weight")


def plan(planning: Planning, description: Rowwise) -> Plan:
    """Plan a loss of rows."""
    x, target, weight = planning.enter((description.input, description.target, description.weight), NAMES)
    backend = planning.library.backend
    check_float(x, "input")
    shape = x.shape
    first, last, split = _split(description, shape, planning.record.axis_name)
    outer, classes, inner = split
    rows = shape[:first] + shape[last:]
    if description.pairs is not None and description.weight is not None and weight.shape != (classes,):
        return _plan_pairs(planning, description, shape)
    maths, labels, operand, rows = target_of(description, target, shape, rows)
    if description.weight is not None:
        check_shape(weight, (classes,), "weight", "one entry for each class, shape")

    each, count = description.reduction == "none", outer * inner
    results = shape[:first] + (1,) * len(shape[first:last]) + shape[last:] if description.keepdim else rows
    sampled_by = spread_weights = None
    if planning.sample_weight is not None and count and classes and _is_sampled(planning, description, labels):
        spread_weights = spreading(planning, results)
        sampled_by, planning.sample_weight = planning.sample_weight, None
    divisor: Any = 1
    if description.reduction == "mean":
        is_counted = description.mean == "weights" and labels is not None
        # 0: the driver counts
        divisor = planning.over(0 if is_counted or sampled_by is not None else count, in_kernel=True)
        if is_counted and (planning.sample_weight is not None or planning.mode.partial):
            set_counts(planning, description, labels, x.dtype, classes)
    arguments: tuple[Argument | None, ...] = (Argument(description.input, x),)
    if operand is not None:
        along = (classes,) + (1,) * (len(shape) - last)
        weighing = None if description.weight is None else Argument(description.weight, weight, along)
        arguments = (*arguments, Argument(operand, target), weighing)
    innermost = _innermost(backend, x, first, last)
    if innermost is not None:
        split = (count, classes, 1)
    outputs = Outputs(planning, arguments, shape, innermost=innermost)
    outputs.want_values(results, each, layout=RowLayout(classes, split[2]))
    scale, grad_output = planning.take_grad_output(not each, results)
    class_weight = description.weight if operand is None else None
    outputs.check_read(target=labels, weight=class_weight, grad_output=grad_output, sample_weight=sampled_by)
    if sampled_by is not None:
        grad_output, maths = sampled_by, maths._replace(sampled=True)

    ordering = None if innermost is None else outputs.ordered
    spread: Spread = ordering
    if operand is not None and target.shape != shape:
        spread = chained(lambda view: backend.broadcast(view, shape), ordering)
    operands = (description.input, operand, labels, description.weight, grad_output)
    spreads = (ordering, spread, None, None, spread_weights)
    if count == 0:
        kernel = nothing(planning.empty_mean, labelled=True)
    elif classes == 0:
        kernel = nothing(description.empty, labelled=True, fill=backend.fill)  # type: ignore[arg-type]
    else:
        ignore = NO_INDEX if description.ignore_index is None else int(description.ignore_index)
        params, views = representable((*description.params, 1.0 / classes), x.dtype), seen(operands, spreads)
        kernel = backend.plan_rowwise(maths, views, outputs.prototypes(), params, split, ignore, outputs.first_replaces)
    bad_label = None if labels is None else bad_label_of(backend, labels, rows, classes)
    if sampled_by is not None:
        bad_label = or_negative(bad_label)
    return kernel_call(planning, outputs, kernel, operands, spreads, scale, divisor, bad_label=bad_label)


def _plan_pairs(planning: Planning, description: Rowwise, shape: Shape) -> Plan:
    """Plan a loss of rows whose weight is no class weight as one of pairs of rows."""
    arrays = (description.input, description.target, description.weight)
    for operand in arrays[1:]:
        check_fits(operand.view, shape, operand.name)  # type: ignore[union-attr]
    maths, axis, reduction = description.pairs, description.axis, description.reduction
    pairs = Pairwise(maths, arrays, NAMES, axis=axis, reduction=reduction, broadcast=True, reals=1)  # type: ignore[arg-type]
    return pairwise.plan(planning, pairs)


def _split(description: Rowwise, shape: Shape, name: str) -> tuple[int, int, tuple[int, int, int]]:
    """Return where the class axis begins and ends, and (outer, classes, inner), of an input that the loss can have."""
    found = split_axis(shape, description.axis, name)
    if description.max_ndim is not None and len(shape) > description.max_ndim:
        raise ValueError(f"input must have at most {description.max_ndim} axes, got shape {shape}")
    if found[2][1] == 0 and description.empty is None:
        raise ValueError(f"input must have at least one class, got shape {shape}")
    return found


def _is_sampled(planning: Planning, description: Rowwise, labels: Operand | None) -> bool:
    """Return whether the loop over rows multiplies by the weights of samples: where it divides by their sum, or not."""
    assert planning.sample_weight is not None
    # A divisor by rows knows neither class weights nor rows to ignore.
    by_rows = labels is not None and description.mean != "weights"
    if by_rows and not (description.weight is None and description.ignore_index is None):
        return False
    if planning.mode.partial or planning.grad_output is not None or not planning.library.backend.samples_rows:
        return False
    return planning.see(planning.sample_weight, "sample_weight").dtype in FLOATS


def reads_of_rows(planning: Planning, operands: tuple[Operand | None, ...]) -> Read:
    """Return what gives the flat views of operands, ``()`` for those not given, of the arrays of a call."""
    flats = (planning.library.backend.flat,) * len(operands)
    pick, readers, order, _ = reads_of(operands, (None,) * len(operands), flats)
    return lambda arrays: order((*map(call, readers, pick(arrays)), ABSENT))


def set_counts(
    planning: Planning, description: Rowwise, labels: Operand | None, dtype: Any, classes: int, numbered: Any = None
) -> None:
    """Set what reads the weights of the rows that count, by their labels, and 1 for these rows and 0 for others.

    The labels may be `numbered` instead of given.
    """
    backend, real = planning.library.backend, real_of(dtype)
    ignore = NO_INDEX if description.ignore_index is None else int(description.ignore_index)
    read_weight = planning.reader(description.weight, backend.flat)
    read = (lambda arrays: numbered) if numbered is not None else planning.reader(labels, backend.flat)

    def counted(arrays: tuple[Any, ...]) -> Any:
        return backend.class_weights(read(arrays), ABSENT, classes, ignore, real)

    planning.counts = planning.counted = counted
    if description.weight is not None:
        planning.counts = lambda arrays: backend.class_weights(read(arrays), read_weight(arrays), classes, ignore, real)


def target_of(
    description: Rowwise, target: Any, shape: Shape, rows: Shape
) -> tuple[RowMaths, Operand | None, Operand | None, Shape]:
    """Return the maths, the operand of class indices, that of an entry for each logit, and the shape of the values."""
    if description.target is None:
        if description.maths.indexed:
            raise TypeError("target must be an array, got None")
        return description.maths, None, None, rows
    if not description.maths.indexed:
        check_fits(target, shape, "target")
        return description.maths, None, description.target, rows
    if description.soft is not None and target.shape == shape:
        check_probabilities(description, target, "the input's shape")
        return description.soft, None, description.target, rows
    check_labels(target, rows, shape)
    # torch: without an ignore_index a target of shape (1,) beside one row gives a value of shape (1,)
    return description.maths, description.target, None, target.shape if description.ignore_index is None else rows


def check_probabilities(description: Rowwise, target: Any, shape: str) -> None:
    """Raise unless a target of the shape of the logits, which is called `shape`, may hold class probabilities."""
    check_float(target, f"target, which has {shape} and so holds class probabilities,")
    if description.ignore_index is not None and description.ignore_index >= 0:
        raise ValueError(f"ignore_index does not go with class probabilities, got {description.ignore_index}")


def _innermost(backend: Any, x: Any, first: int, last: int) -> int | None:
    """Return the class axis where it lies innermost in memory though it is not the last one, else None.

    So lie logits of shape (N, L, C) whose last two axes were swapped for a loss that takes (N, C, L). Rows along such
    an axis are read as they lie, and results are laid out in the same way, as ``numpy.empty_like`` does it.
    """
    if not backend.follows_layout or last - first != 1 or last >= x.ndim or x.strides[first] != x.itemsize:
        return None
    return None if x.flags.c_contiguous else first


def bad_label_of(backend: Any, operand: Operand, rows: Shape, classes: int) -> BadLabel:
    """Return what makes the error about label number k of an operand of shape `rows`."""
    place, read = operand.place, chained(operand.read, backend.flat)
    return lambda arrays, bad: out_of_range(backend, read(arrays[place]), bad, rows, classes)


def out_of_range(backend: Any, labels: Any, bad: int, rows: Shape, classes: int, what: str = "target") -> IndexError:
    """Return the error about the class index number `bad` of the flat `labels`, which have shape `rows`."""
    place = tuple(int(i) for i in np.unravel_index(bad, rows))
    label = int(backend.host(labels[bad : bad + 1])[0])  # no float, which would round it
    if labels.dtype == np.uint64:
        label %= 2**64
    return IndexError(f"{what} {label} at position {place} is out of range for {classes} classes")


@functools.cache
def value_only(maths: RowMaths) -> RowMaths:
    """Return the maths of a map without the sums, which only its gradient needs."""
    return maths._replace(terms=None)


def plan_map(planning: Planning, description: RowMap) -> Plan:
    """Plan a function of rows that returns an array of the input's shape, or its gradient."""
    mode = planning.mode
    (x,) = planning.enter((description.input,), ("input",))
    backend = planning.library.backend
    if description.dtype is not None:
        return _plan_converted(planning, description)
    check_float(x, "input")
    shape = x.shape
    if description.axis is None:
        planning.kept = False  # it warns
    axis = implicit_axis(len(shape)) if description.axis is None else normal_axis(description.axis, len(shape))
    split = split_axis(shape, axis)[2] if shape else (1, 1, 1)
    innermost = _innermost(backend, x, axis, axis + 1) if shape else None
    if innermost is not None:
        split = (split[0] * split[2], split[1], 1)
    outputs = Outputs(planning, (Argument(description.input, x),), shape, innermost=innermost, shift=1)
    outputs.want_values(shape, True, entries=True)
    scale, grad_output = planning.take_grad_output(False, shape)
    outputs.check_read(grad_output=grad_output)

    ordering = None if innermost is None else outputs.ordered
    operands = (description.input, grad_output, None, None, None)
    spreads = (ordering, ordering, None, None, None)
    if x.size == 0:
        kernel = nothing(0.0, labelled=True)
    else:
        maths, views = description.maths if mode.wrt else value_only(description.maths), seen(operands, spreads)
        kernel = backend.plan_rowwise(maths, views, outputs.prototypes(), None, split, NO_INDEX, outputs.first_replaces)
    return kernel_call(planning, outputs, kernel, operands, spreads, scale, 1)


def _plan_converted(planning: Planning, description: RowMap) -> Plan:
    """Plan a map of the input in another dtype: a value is like what was converted, a gradient like the input.

    Numbers of this call are converted, so that the plan cannot be kept.
    """
    planning.kept = False
    mode, library, backend, operand = planning.mode, planning.library, planning.library.backend, description.input
    own = operand.view
    converted = Operand("input", library.converted(operand.given, description.dtype), len(planning.arrays))
    planning.arrays.append(None)
    x = planning.see(converted, "input")
    check_float(x, "input")
    if own.dtype == x.dtype or own.dtype not in FLOATS or not mode.wrt:
        return plan_map(planning, description._replace(input=converted, dtype=None))

    request = planning.request
    rounded = Outputs(planning, (Argument(operand, own),), own.shape)
    results_of = rounded.plan()
    wide = Planning(planning.record, Request(mode, request.grad_output, None, request.out), planning.arrays, False)
    wide.grad_output, wide.out = planning.grad_output, planning.out
    compute = plan_map(wide, description._replace(input=converted, dtype=None)).compute
    single, answer = mode.single and not mode.hessian, answering(mode, each=True)

    def run(arrays: tuple[Any, ...], request: Request) -> Any:
        results = compute(arrays, request)
        value, derivatives = results if mode.value else (None, results)
        targets = results_of.made(arrays)
        for target, derivative in zip(targets, (derivatives,) if single else derivatives, strict=True):
            backend.copy_into(target, in_type(backend, library.view(derivative, "input"), own.dtype))
        finished = results_of.finished(targets, arrays, request)
        return answer(None, [value, *finished] if mode.value else finished)

    return Plan(run)
