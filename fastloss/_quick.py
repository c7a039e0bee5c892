"""A short way for small batches: plain NumPy arrays that need no broadcasting, copying or converting.

The calling path (``_call.py``) takes 9 microseconds of Python to be right for every library, layout and option; a batch
of 640 elements needs 1 microsecond of arithmetic. What is checked here costs half of that. Whatever is not plain, or
turns out to be wrong, returns None and goes the long way, which knows what to do or what to complain about: results and
errors are the same.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np

from fastloss._blocks import sum_of
from fastloss._config import settings
from fastloss._dispatch import F32, F64, I64
from fastloss._outputs import ABSENT, Mode, Request, given_gradients
from fastloss._rows import NO_INDEX, value_only
from fastloss._spec import Elementwise, LabelSets, Loss, Pairwise, Projected, RowMap, Rowwise
from fastloss.cpu import backend
from fastloss.cpu import elementwise as elementwise_loop
from fastloss.cpu import label_sets as label_sets_loop
from fastloss.cpu import pairwise as pairwise_loop
from fastloss.cpu import rowwise as rowwise_loop
from fastloss.cpu.recycling import empty


def elementwise(record: Loss, job: Elementwise, request: Request) -> Any:
    """Compute a loss of single elements; None where the long way is needed."""
    mode, arrays = request.mode, job.arrays
    x = arrays[0]
    if job.weight is not None or mode.hessian or type(x) is not np.ndarray:
        return None
    dtype, shape, size = x.dtype, x.shape, x.size
    if (dtype is not F32 and dtype is not F64) or size == 0 or not _are_plain(arrays, dtype, shape):
        return None
    slots = _slots(mode.wrt, job.names)
    if slots is None:
        return None
    # What the loss is not defined for has to be found before anything of the caller's is written. The long way looks at
    # the operands alone, which is faster where there are many.
    restricted = job.unit_interval or job.non_negative is not None
    on_trial = restricted and (request.grad_out is not None or request.out is not None)
    if on_trial and size > SMALL_TRIAL:
        return None
    outputs = _outputs(request, slots, arrays, dtype, shape, shape if job.reduction == "none" else None)
    if outputs is None:
        return None
    values, grads = outputs
    divisor = job.divisor(shape, size)
    inputs = (*arrays, *_MISSING[len(arrays)], ABSENT, ABSENT)
    written = (values, *grads, ABSENT)
    if len(shape) != 1:
        inputs = tuple([_flat(a) for a in inputs])
        written = tuple([_flat(a) for a in written])
    kernel = elementwise_loop.contiguous_kernel(job.point, len(arrays))
    if on_trial and math.isnan(kernel(size, size, *inputs, *_NOTHING, job.params, 1.0)):
        return None
    total = kernel(size, size, *inputs, *written, job.params, 1.0 / divisor) / divisor
    if restricted and math.isnan(total):
        return None  # perhaps a value that the loss is not defined for
    return _answer(mode, dtype, total, values, grads, slots)


def rowwise(record: Loss, job: Rowwise, request: Request) -> Any:
    """Compute a loss of rows; None where the long way is needed."""
    mode, maths, x, y = request.mode, job.maths, job.input, job.target
    if job.weight is not None or job.keepdim or mode.hessian or mode.wrt not in _OF_INPUT:
        return None
    if (job.axis is not None and not _is_last(job.axis)) or not _is_matrix(x):
        return None
    count, columns = shape = x.shape
    dtype = x.dtype
    labels = operand = ABSENT
    if y is not None:
        if maths.indexed:
            if not _are_plain((y,), I64, (count,)):
                return None
            labels = y
        else:
            if not _are_plain((y,), dtype, shape):
                return None
            operand = y.ravel()
    elif "target" in record.domains:
        return None
    divisor = 1
    if job.reduction == "mean":
        divisor = 0 if job.mean == "weights" and labels is not ABSENT else count
    slots = _FIRST if mode.wrt else ()
    each = shape[:1] if job.reduction == "none" else None
    outputs = _outputs(request, slots, (x,) if y is None else (x, y), dtype, shape, each, maths.sparse)
    if outputs is None:
        return None
    values, grads = outputs
    ignore = NO_INDEX if job.ignore_index is None else job.ignore_index
    strange, total = rowwise_loop.run(
        maths, x.ravel(), operand, labels, ABSENT, ABSENT, (*job.params, 1.0 / columns), 1.0, divisor,
        (count, columns, 1), ignore, settings.check_indices, values, (_flat(grads[0]), ABSENT, ABSENT), ABSENT,
        request.grad_out is not None,
    )  # fmt: skip
    return None if strange >= 0 else _answer(mode, dtype, total, values, grads, slots)


def rowmap(record: Loss, job: RowMap, request: Request) -> Any:
    """Compute a function of rows; None where the long way is needed."""
    mode, x = request.mode, job.input
    if job.dtype is not None or mode.hessian or not _is_last(job.axis) or not _is_matrix(x):
        return None
    shape, dtype = x.shape, x.dtype
    slots = _FIRST if mode.wrt else ()
    outputs = _outputs(request, slots, (x,), dtype, shape, shape)
    if outputs is None:
        return None
    values, grads = outputs
    rowwise_loop.run(
        job.maths if mode.wrt else value_only(job.maths), x.ravel(), ABSENT, ABSENT, ABSENT, ABSENT,
        (1.0,), 1.0, 1, (*shape, 1), NO_INDEX, False, ABSENT, (_flat(values), _flat(grads[0]), ABSENT), ABSENT, True,
    )  # fmt: skip
    return _answer(mode, dtype, 0.0, values, grads, slots)


def pairwise(record: Loss, job: Pairwise, request: Request) -> Any:
    """Compute a loss of vectors; None where the long way is needed."""
    mode, arrays, y = request.mode, job.arrays, job.target
    x = arrays[0]
    if mode.hessian or job.keepdim or not _is_last(job.axis) or not _is_matrix(x):
        return None
    dtype, shape = x.dtype, x.shape
    if not _are_plain(arrays[1:], dtype, shape):
        return None
    if "target" in record.domains if y is None else not _are_plain((y,), dtype, shape[:1]):
        return None
    slots = _slots(mode.wrt, job.names)
    if slots is None:
        return None
    each = shape[:1] if job.reduction == "none" else None
    outputs = _outputs(request, slots, arrays if y is None else (*arrays, y), dtype, shape, each)
    if outputs is None:
        return None
    values, grads = outputs
    total = pairwise_loop.run(
        job.maths, tuple([a.ravel() for a in arrays]), ABSENT if y is None else y, ABSENT, job.params, 1.0,
        shape[0] if job.reduction == "mean" else 1, shape, values,
        (_flat(grads[0]), _flat(grads[1]), _flat(grads[2])), ABSENT,
    )  # fmt: skip
    return _answer(mode, dtype, total, values, grads, slots)


def label_sets(record: Loss, job: LabelSets, request: Request) -> Any:
    """Compute a loss of rows with a list of classes; None where the long way is needed."""
    mode, x, y = request.mode, job.input, job.target
    if mode.hessian or mode.wrt not in _OF_INPUT or not _is_matrix(x):
        return None
    dtype, shape = x.dtype, x.shape
    if not _are_plain((y,), I64, shape):
        return None
    slots = _FIRST if mode.wrt else ()
    each = shape[:1] if job.reduction == "none" else None
    outputs = _outputs(request, slots, (x, y), dtype, shape, each)
    if outputs is None:
        return None
    values, grads = outputs
    strange, total = label_sets_loop.run(
        job.point, x.ravel(), y.ravel(), ABSENT, 1.0, shape[0] if job.reduction == "mean" else 1, shape,
        settings.check_indices, values, _flat(grads[0]),
    )  # fmt: skip
    return None if strange >= 0 else _answer(mode, dtype, total, values, grads, slots)


def projected(record: Loss, job: Projected, request: Request) -> Any:
    """Compute a loss of rows behind a linear map; None where the long way is needed, or costs next to nothing."""
    mode, rows, x, w = request.mode, job.rows, job.input, job.linear_weight
    if request.grad_out is not None or request.out is not None or not _is_matrix(x) or not _is_matrix(w):
        return None
    if job.linear_bias is not None or rows.weight is not None or job.precision is not None:
        return None
    (count, features), classes, dtype, y = x.shape, w.shape[0], x.dtype, rows.target
    if w.dtype is not dtype or w.shape[1] != features or count * classes > SMALL_LOGITS:
        return None
    slots = _slots(mode.wrt, ("input", "linear_weight"))
    if slots is None or job.chunk_rows is not None or not _are_plain((y,), I64, (count,)):
        return None
    ignore = NO_INDEX if rows.ignore_index is None else rows.ignore_index
    divisor = count - int(np.count_nonzero(y == ignore)) if rows.reduction == "mean" else 1
    if divisor == 0:
        return None
    logits = empty((count, classes), dtype)
    np.matmul(x, w.T, out=logits)
    flat, values = logits.ravel(), empty((count,), dtype)
    strange, _ = rowwise_loop.run(
        rows.maths, flat, ABSENT, y, ABSENT, ABSENT, (*rows.params, 1.0 / classes), 1.0, divisor,
        (count, classes, 1), ignore, settings.check_indices, values,
        (flat if slots else ABSENT, ABSENT, ABSENT), ABSENT, True,
    )  # fmt: skip
    if strange >= 0:
        return None
    grads: list[Any] = [ABSENT, ABSENT]
    if 0 in slots:
        grads[0] = np.matmul(logits, w)
    if 1 in slots:
        grads[1] = np.matmul(logits.T, x)
    if rows.reduction == "none":
        return _answer(mode, dtype, 0.0, values, grads, slots)
    total = sum_of(backend, values, divisor) if mode.value else 0.0
    return _answer(mode, dtype, total, ABSENT, grads, slots)


QUICK: dict[type, Any] = {
    Elementwise: elementwise,
    Rowwise: rowwise,
    RowMap: rowmap,
    Pairwise: pairwise,
    LabelSets: label_sets,
    Projected: projected,
}

# Elements up to which a loss is computed twice, the first time to see whether it is defined.
SMALL_TRIAL = 1 << 12

# Entries of the logits up to which a linear map goes the short way; beyond, the long way costs less than a percent.
SMALL_LOGITS = 1 << 18

# What stands for the operands that a loss does not have.
_MISSING: tuple[tuple[Any, ...], ...] = ((), (ABSENT, ABSENT), (ABSENT,), ())
_FIRST = (0,)
_NOTHING = (ABSENT, ABSENT, ABSENT, ABSENT, ABSENT)  # outputs of a kernel that only returns the sum
_OF_INPUT = ((), ("input",))


def _are_plain(arrays: tuple[Any, ...], dtype: Any, shape: tuple[int, ...]) -> bool:
    """Return whether all are contiguous NumPy arrays of this dtype and shape."""
    for a in arrays:
        if type(a) is not np.ndarray or a.dtype is not dtype or a.shape != shape:
            return False
        flags = a.flags
        if not flags.c_contiguous or not flags.aligned:
            return False
    return True


def _outputs(
    request: Request, slots: tuple[int, ...], inputs: tuple[Any, ...], dtype: Any, shape: tuple[int, ...],
    each: tuple[int, ...] | None, zeros: bool = False,
) -> tuple[Any, list[Any]] | None:  # fmt: skip
    """Return arrays for unreduced values of shape `each`, absent without it, and for the gradients.

    They are the caller's where given; None if those are not plain, or share memory.
    """
    values: Any = ABSENT
    grads: list[Any] = [ABSENT, ABSENT, ABSENT]
    mode, out, taken = request.mode, request.out, inputs
    if out is not None:
        if each is None or not mode.value or not _may_be_written(out, dtype, each, taken):
            return None
        values, taken = out, (*taken, out)
    elif each is not None and mode.value:
        values = empty(each, dtype)
    given = given_gradients(request, len(slots))
    if given is None:
        for slot in slots:
            grads[slot] = np.zeros(shape, dtype) if zeros else empty(shape, dtype)
        return values, grads
    for slot, target in zip(slots, given, strict=True):
        if not _may_be_written(target, dtype, shape, taken):
            return None
        grads[slot], taken = target, (*taken, target)
    return values, grads


def _may_be_written(target: Any, dtype: Any, shape: tuple[int, ...], taken: tuple[Any, ...]) -> bool:
    """Return whether this is a plain array that shares no memory with others."""
    if not _are_plain((target,), dtype, shape) or not target.flags.writeable:
        return False
    return not any(np.may_share_memory(target, other) for other in taken)


def _is_last(axis: Any) -> bool:
    """Return whether this names the last axis of a matrix."""
    return type(axis) is int and (axis == 1 or axis == -1)


def _flat(array: Any) -> Any:
    return array if array is ABSENT else array.ravel()


def _is_matrix(x: Any) -> bool:
    """Return whether this is a plain matrix of floats that is not empty."""
    if type(x) is not np.ndarray or x.ndim != 2 or x.size == 0 or (x.dtype is not F32 and x.dtype is not F64):
        return False
    return _are_plain((x,), x.dtype, x.shape)


@functools.cache
def _slots(wrt: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the numbers of the operands to differentiate; None if one is no operand."""
    return tuple([names.index(name) for name in wrt]) if set(wrt) <= set(names) else None


def _answer(mode: Mode, dtype: Any, total: float, values: Any, grads: Any, slots: tuple[int, ...]) -> Any:
    """Return what the user gets."""
    if mode.value:
        value = values
        if values is ABSENT:
            value = np.float32(total) if dtype is F32 else np.float64(total)
        if not slots:
            return value
    result = grads[slots[0]] if mode.single else tuple([grads[slot] for slot in slots])
    return (value, result) if mode.value else result
