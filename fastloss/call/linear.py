"""Plans losses of rows behind a linear map.

The logits of a chunk of rows are computed by the library's matrix product, the row loss replaces them by its gradient
in place, and two more products carry that to the input's rows and to the weight. The full logits never exist.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastloss.call.array_ops import map_into, mapping
from fastloss.call.checks import check_float, check_labels, check_shape, dtype_name
from fastloss.call.linear_run import CLASS_WEIGHT, INPUT, TARGET, LinearRun
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Plan, program_call
from fastloss.call.planning import ABSENT, Planning, Read
from fastloss.call.request import Request
from fastloss.call.row_numbers import check_returns, returning
from fastloss.call.rowwise import check_probabilities, set_counts
from fastloss.call.scored import valid_classes
from fastloss.define.descriptions import Projected, RowIndex, Rowwise, Scores
from fastloss.define.point_maths import finite_if_out, is_nonzero
from fastloss.runtime.dtypes import real_of


def plan(planning: Planning, description: Projected) -> Plan:
    """Plan a loss of rows behind a linear map."""
    rows, usual = description.rows, ("input", "linear_weight", "target", "linear_bias", "weight")
    names = (*description.names, *usual[len(description.names) :])
    scores = rows.scores or Scores()
    numbered = rows.target if isinstance(rows.target, RowIndex) else None
    labels = None if numbered is not None else rows.target
    given = (description.input, description.linear_weight, labels, description.linear_bias, rows.weight)
    x, w, target, bias, class_weight = planning.enter(given, names)
    _check_map(x, w, bias, names, empty=numbered is not None and x.shape[:1] == (0,))
    if numbered is not None:
        target = _row_index(planning, numbered, x, w, names)
    real = real_of(x.dtype)
    if description.precision is not None and description.precision != real.name:
        raise ValueError(f"sums of {dtype_name(x)} input are in {real.name}, not in {description.precision}")
    classes, inner = w.shape[0], w.shape[1:-1]
    valid = valid_classes(scores, classes, f"{description.names[1]} has shape {w.shape}")
    shape, results = (*x.shape[:-1], classes, *inner), (*x.shape[:-1], *inner)
    soft = rows.soft is not None and target.shape == shape
    if soft:
        check_probabilities(rows, target, "the shape of the logits")
        if valid < classes:
            raise ValueError("valid_classes does not go with class probabilities behind a linear map")
    else:
        check_labels(target, results, shape, "logits")
    check_returns(planning, scores, soft)
    place = len(planning.arrays)  # of what is returned beside the loss
    if scores.returns:
        planning.arrays.append(None)
    if class_weight is not ABSENT and class_weight.shape != (valid,):
        check_shape(class_weight, (classes,), "weight", "one entry for each class, shape")

    hidden = () if soft else (TARGET, CLASS_WEIGHT)  # what cannot be differentiated
    arguments = tuple(
        [None if one is None or slot in hidden else Argument(one, one.view) for slot, one in enumerate(given)]
    )
    mode, present = planning.mode, [argument.operand.name for argument in arguments if argument is not None]
    planning.mode = mode._replace(wrt=(*mode.wrt, *[name for name in mode.also if name in present]))
    each = rows.reduction == "none"
    outputs = Outputs(planning, arguments, None, slots=6)
    outputs.want_values(results, each)
    scale, grad_output = planning.take_grad_output(not each, results)
    counted = not soft and rows.mean == "weights" and rows.reduction == "mean"
    if counted:
        set_counts(planning, rows, labels, x.dtype, valid, target if numbered is not None else None)
    reduced, by = _reduction(planning, rows, math.prod(results))
    outputs.check_read(target=None if soft else labels, weight=None if soft else rows.weight, grad_output=grad_output)
    # Rows of the input and class probabilities are read no more when their gradient is written; all else is.
    outputs.detach(list(given), (INPUT, TARGET))
    run = LinearRun(planning, description._replace(rows=reduced), soft, real, scale)
    readers = [planning.reader(operand, planning.library.backend.flat) for operand in (*given, grad_output)]
    if numbered is not None:
        readers[TARGET] = lambda arrays: target

    read_divisor = by if callable(by) and planning.weighing is None else None
    if planning.weighing is not None:
        readers[INPUT] = _counting_rows(readers[INPUT], planning, run)

    def body(arrays: tuple[Any, ...], request: Request, values: Any, *grads: Any) -> Any:
        divisor = read_divisor(arrays) if read_divisor is not None else 1
        found = arrays[place] if scores.returns else ()
        return run.run([read(arrays) for read in readers], arrays, request, values, grads, divisor, found)

    made = program_call(planning, outputs, body)
    return returning(planning, made, place, run.numbers, results) if scores.returns else made


def _reduction(planning: Planning, rows: Rowwise, count: int) -> tuple[Rowwise, Any]:
    """Return the row loss with the reduction that its loop does, and what the mean of `count` rows is divided by."""
    divisor: Any = planning.over(count) if rows.reduction == "mean" else 1
    if planning.weighing is not None:
        return rows._replace(reduction="none"), divisor
    if callable(divisor) or planning.mode.partial:
        return rows._replace(reduction="sum"), divisor
    return rows, divisor


def _counting_rows(read: Read, planning: Planning, run: LinearRun) -> Read:
    """Return what reads the input with zeros for what is not finite in rows of weight 0: its products would be NaN."""
    backend, place, shape = planning.library.backend, planning.weighing.place, (run.batch, run.features)
    if run.positions != 1 or not run.count:
        return read
    like = backend.empty((run.count,), run.real)
    zeros = mapping(backend, is_nonzero, (like,))

    def counting(arrays: tuple[Any, ...]) -> Any:
        x, weights = read(arrays), arrays[place]
        if backend.number(zeros((weights,))) == run.count:
            return x
        rows = x.reshape(shape)
        made = backend.empty(shape, x.dtype)
        spread = backend.broadcast(weights.reshape((run.batch, 1)), shape)
        map_into(backend, finite_if_out, (rows, spread), made)
        return made

    return counting


def _row_index(planning: Planning, numbered: RowIndex, x: Any, w: Any, names: tuple[str, ...]) -> Any:
    """Return class indices that are the numbers of the rows."""
    if x.ndim != 2 or w.ndim != 2:
        raise ValueError(f"{names[0]} and {names[1]} must have shapes (N, F) and (M, F), got {x.shape} and {w.shape}")
    if numbered.offset < 0 or x.shape[0] + numbered.offset > w.shape[0]:
        row = f"n + {numbered.offset}" if numbered.offset else "n"
        raise ValueError(f"row n of {names[0]} {x.shape} belongs to row {row} of {names[1]}, which has shape {w.shape}")
    return planning.library.backend.upload(np.arange(x.shape[0], dtype=np.int64) + numbered.offset)


def _check_map(x: Any, w: Any, bias: Any, names: tuple[str, ...], empty: bool) -> None:
    """Check the shapes and dtypes of the linear map; one that is `empty` needs no classes."""
    first, second, _, third, _ = names
    check_float(x, first)
    check_float(w, second)
    if x.ndim not in (1, 2):
        raise ValueError(f"{first} must have shape (F,) or (N, F), got shape {x.shape}")
    if w.ndim < 2:
        raise ValueError(f"{second} must have shape (C, F) or (C, d1, ..., dK, F), got shape {w.shape}")
    if x.shape[-1] != w.shape[-1]:
        raise ValueError(f"{first} {x.shape} and {second} {w.shape} must agree in their last axis, the features")
    if x.ndim == 1 and w.ndim > 2:
        raise ValueError(f"{second} of shape {w.shape} needs an {first} of shape (N, F), got shape {x.shape}")
    if w.shape[0] == 0 and not empty:
        raise ValueError(f"{second} must have at least one class, got shape {w.shape}")
    if bias is not ABSENT:
        check_float(bias, third)
        check_shape(bias, w.shape[:-1], third, f"the shape of {second} without its last axis,")
