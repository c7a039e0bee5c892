"""The calling path of losses of rows behind a linear map, see ``_call.py``.

The logits of a chunk of rows are computed by the library's matrix product, the row loss replaces them by its gradient
in place, and two more products carry that to the input's rows and to the weight. The full logits never exist.
"""

from __future__ import annotations

import math
from typing import Any

from fastloss.call.array_ops import convert_into, in_type, sum_of
from fastloss.call.checks import check_float, check_labels, check_shape, dtype_name
from fastloss.runtime.settings import settings
from fastloss.call.dispatch import space_of
from fastloss.runtime.dtypes import F32, F64
from fastloss.call.outputs import ABSENT, Argument, Outputs, Request, upstream_of
from fastloss.call.chunked_matmul import Products, chunks, part
from fastloss.call.rowwise import out_of_range
from fastloss.define.descriptions import NO_INDEX, Loss, Projected

_NAMES = ("input", "linear_weight", "target", "linear_bias", "weight")
_INPUT, _WEIGHT, _TARGET, _BIAS, _CLASS_WEIGHT = range(5)  # slots of the gradients


def projected(record: Loss, job: Projected, request: Request) -> Any:
    """Compute a loss of rows behind a linear map."""
    mode, rows = request.mode, job.rows
    given = (job.input, job.linear_weight, rows.target, job.linear_bias, rows.weight)
    for array, name in zip(given[:3], _NAMES, strict=False):
        if array is None:
            raise TypeError(f"{name} must be an array, got None")
    space = space_of(given, _NAMES)
    backend, flat = space.backend, space.backend.flat
    views: list[Any] = [
        ABSENT if array is None else space.view(array, name) for array, name in zip(given, _NAMES, strict=True)
    ]
    x, w, target, bias, class_weight = views
    _check_map(x, w, bias)
    real = F64 if x.dtype == F64 else F32
    if job.precision is not None and job.precision != real.name:
        raise ValueError(f"sums of {dtype_name(x)} input are in {real.name}, not in {job.precision}")
    classes, features, inner = w.shape[0], w.shape[-1], w.shape[1:-1]
    shape, results = (*x.shape[:-1], classes, *inner), (*x.shape[:-1], *inner)
    maths, soft = rows.maths, rows.soft is not None and target.shape == shape
    if soft:
        maths = rows.soft  # type: ignore[assignment]
        check_float(target, "target, which has the shape of the logits and so holds class probabilities,")
        if rows.ignore_index is not None and rows.ignore_index >= 0:
            raise ValueError(f"ignore_index does not go with class probabilities, got {rows.ignore_index}")
    else:
        check_labels(target, results, shape, "logits")
    if class_weight is not ABSENT:
        check_shape(class_weight, (classes,), "weight", "one entry for each class, shape")

    shown = views if soft else [x, w, ABSENT, bias, ABSENT]  # what can be differentiated
    arguments = tuple([Argument(*three) for three in zip(_NAMES, given, shown, strict=True)])
    present = tuple([name for name, view in zip(_NAMES, shown, strict=True) if view is not ABSENT])
    if mode.also:
        mode = mode._replace(wrt=mode.wrt + tuple([name for name in mode.also if name in present]))
        request = request._replace(mode=mode)
    each = rows.reduction == "none"
    outputs = Outputs(record, space, request, arguments, None)
    outputs.want_values(results, each and mode.value)
    scale, upstream = upstream_of(space, request, not each, results)
    labels_read = ABSENT if soft else target
    outputs.check_read(target=labels_read, weight=ABSENT if soft else class_weight, grad_output=upstream)
    # Rows of the input and class probabilities are read no more when their gradient is written; all else is.
    outputs.detach(views, (_INPUT, _TARGET))

    batch = x.shape[0] if x.ndim == 2 else 1
    count = batch * math.prod(inner)
    ignore = NO_INDEX if rows.ignore_index is None else int(rows.ignore_index)
    divisor: Any = count if rows.reduction == "mean" else 1
    if count == 0:
        for gradient in outputs.grads:
            if gradient is not ABSENT:
                backend.fill(gradient, 0.0)
        return outputs.finish(math.nan if rows.reduction == "mean" else 0.0)
    labels, operand = (ABSENT, flat(target)) if soft else (flat(target), ABSENT)
    class_weight = class_weight if class_weight is ABSENT else flat(class_weight)
    if not soft and (settings.check_indices or (rows.reduction == "mean" and rows.mean == "weights")):
        strange, counted = backend.survey(labels, class_weight, classes, ignore, settings.check_indices, real)
        if strange >= 0:
            raise out_of_range(backend, labels, strange, results, classes)
        if rows.reduction == "mean" and rows.mean == "weights":
            divisor = counted
    by: Any = divisor
    if isinstance(divisor, float | int):
        # A driver would take 0 for "count them yourself", and see one chunk of them.
        scale, by = scale / divisor if divisor else scale * math.inf, 1

    values: Any = ABSENT
    if mode.value:
        direct = outputs.values is not ABSENT and outputs.values.dtype == real
        values = flat(outputs.values) if direct else backend.empty((count,), real)
    doubled = outputs.grads[_CLASS_WEIGHT] is not ABSENT
    grads = [gradient if gradient is ABSENT else flat(gradient) for gradient in outputs.grads]
    positions = count // batch
    wanted = job.chunk_rows(batch, features, classes) if job.chunk_rows is not None else None
    row_bytes = classes * positions * real.itemsize * (2 if doubled else 1)
    bounds = chunks(batch, row_bytes, backend.chunk_times, wanted)
    x2, w2 = flat(x).reshape((batch, features)), flat(w).reshape((classes * positions, features))
    gradients = [
        grads[slot] if grads[slot] is ABSENT else grads[slot].reshape(matrix.shape)
        for slot, matrix in ((_INPUT, x2), (_WEIGHT, w2))
    ]
    products = Products(backend, real, x2, w2, (*gradients, grads[_BIAS]), len(bounds) == 1)
    bias = bias if bias is ABSENT else in_type(backend, flat(bias), real)
    upstream = upstream if upstream is ABSENT else flat(upstream)
    by_class = backend.zeros((classes,), real) if doubled else ABSENT
    for start, stop in bounds:
        chunk = products.logits(start, stop, bias)
        logits, gradient = chunk.reshape(-1), products.gradient_of(chunk)
        # Where the rows of the chunk lie in arrays of a number for each row, and in arrays like the logits.
        places = slice(start * positions, stop * positions)
        entries = slice(start * products.columns, stop * products.columns)
        d_weight = backend.empty(logits.shape, real) if doubled else ABSENT
        backend.rowwise(
            maths, logits, part(operand, entries), part(labels, places), class_weight, part(upstream, places),
            (*rows.params, 1.0 / classes), scale, by, (stop - start, classes, positions), ignore, False,
            part(values, places),
            (gradient if gradient is ABSENT else gradient.reshape(-1), part(grads[_TARGET], entries), d_weight),
            ABSENT,
        )  # fmt: skip
        products.carry_back(start, stop, gradient)
        if doubled:
            lying = d_weight.reshape((stop - start, classes, positions))
            backend.add_to(by_class, backend.sum_to(lying, (classes, 1)).reshape((classes,)))
    products.finish()
    if doubled:
        convert_into(backend, grads[_CLASS_WEIGHT], by_class)
    total = None
    if mode.value:
        if not each:
            total = sum_of(backend, values, divisor)
        elif not direct:
            convert_into(backend, flat(outputs.values), values)
    return outputs.finish(total)


def _check_map(x: Any, w: Any, bias: Any) -> None:
    """Check the shapes and dtypes of the linear map."""
    check_float(x, "input")
    check_float(w, "linear_weight")
    if x.ndim not in (1, 2):
        raise ValueError(f"input must have shape (F,) or (N, F), got shape {x.shape}")
    if w.ndim < 2:
        raise ValueError(f"linear_weight must have shape (C, F) or (C, d1, ..., dK, F), got shape {w.shape}")
    if x.shape[-1] != w.shape[-1]:
        raise ValueError(f"input {x.shape} and linear_weight {w.shape} must agree in their last axis, the features")
    if x.ndim == 1 and w.ndim > 2:
        raise ValueError(f"linear_weight of shape {w.shape} needs an input of shape (N, F), got shape {x.shape}")
    if w.shape[0] == 0:
        raise ValueError(f"linear_weight must have at least one class, got shape {w.shape}")
    if bias is not ABSENT:
        check_float(bias, "linear_bias")
        check_shape(bias, w.shape[:-1], "linear_bias", "the shape of linear_weight without its last axis,")
