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

from fastloss._config import settings
from fastloss._dispatch import F32, F64
from fastloss._outputs import ABSENT, Mode
from fastloss._spec import Elementwise, Loss, Pairwise, RowMap, RowMaths, Rowwise
from fastloss.cpu import elementwise as elementwise_loop
from fastloss.cpu import pairwise as pairwise_loop
from fastloss.cpu import rowwise as rowwise_loop

I64 = np.dtype(np.int64)
_NO_INDEX = -(2**63)  # an ignore_index that no label equals


def elementwise(record: Loss, job: Elementwise, mode: Mode) -> Any:
    """Compute a loss of single elements; None where the long way is needed."""
    arrays = job.arrays
    x = arrays[0]
    if job.weight is not None or mode.hessian or type(x) is not np.ndarray:
        return None
    dtype, shape = x.dtype, x.shape
    if dtype is not F32 and dtype is not F64:
        return None
    for a in arrays:
        if type(a) is not np.ndarray or a.dtype is not dtype or a.shape != shape:
            return None
        flags = a.flags
        if not flags.c_contiguous or not flags.aligned:
            return None
    slots, size = _slots(mode.wrt, job.names), x.size
    if slots is None or size == 0:
        return None
    reduction = job.reduction
    divisor = 1
    if reduction == "mean":
        divisor = size
    elif reduction == "batchmean":
        divisor = shape[0] if shape else 1
    values: Any = ABSENT
    if reduction == "none" and mode.value:
        values = np.empty(shape, dtype)
    grads: list[Any] = [ABSENT, ABSENT, ABSENT]
    for slot in slots:
        grads[slot] = np.empty(shape, dtype)
    inputs = (*arrays, *_MISSING[len(arrays)], ABSENT, ABSENT)
    outputs = (values, *grads, ABSENT)
    if len(shape) != 1:
        inputs = tuple([_flat(a) for a in inputs])
        outputs = tuple([_flat(a) for a in outputs])
    kernel = elementwise_loop.contiguous_kernel(job.point, len(arrays))
    total = kernel(size, size, *inputs, *outputs, job.params, 1.0 / divisor) / divisor
    if math.isnan(total) and (job.unit_interval or job.non_negative is not None):
        return None  # perhaps a value that the loss is not defined for
    return _answer(mode, dtype, total, values, grads, slots)


def rowwise(record: Loss, job: Rowwise, mode: Mode) -> Any:
    """Compute a loss of rows; None where the long way is needed."""
    maths, x, y = job.maths, job.input, job.target
    if job.weight is not None or job.keepdim or mode.hessian or mode.wrt not in _OF_INPUT:
        return None
    if (job.axis is not None and not _is_last(job.axis)) or not _is_matrix(x):
        return None
    count, columns = shape = x.shape
    dtype = x.dtype
    labels = operand = ABSENT
    if y is not None:
        if type(y) is not np.ndarray or not y.flags.c_contiguous or not y.flags.aligned:
            return None
        if y.dtype is I64 and maths.indexed and y.ndim == 1 and y.shape[0] == count:
            labels = y
        elif y.dtype is dtype and y.shape == shape and not maths.indexed:
            operand = y.reshape(-1)
        else:
            return None
    elif "target" in record.domains:
        return None
    divisor = 1
    if job.reduction == "mean":
        divisor = 0 if job.mean == "weights" and labels is not ABSENT else count
    values: Any = ABSENT
    if job.reduction == "none" and mode.value:
        values = np.empty(count, dtype)
    gradient = flat = ABSENT
    if mode.wrt:
        gradient = np.zeros(shape, dtype) if maths.sparse else np.empty(shape, dtype)
        flat = gradient.reshape(-1)
    ignore = _NO_INDEX if job.ignore_index is None else job.ignore_index
    strange, total = rowwise_loop.run(
        maths, x.reshape(-1), operand, labels, ABSENT, ABSENT, (*job.params, 1.0 / columns), 1.0, divisor,
        (count, columns, 1), ignore, settings.check_indices, values, (flat, ABSENT, ABSENT), ABSENT, False,
    )  # fmt: skip
    return None if strange >= 0 else _answer(mode, dtype, total, values, (gradient,), _FIRST if mode.wrt else ())


def rowmap(record: Loss, job: RowMap, mode: Mode) -> Any:
    """Compute a function of rows; None where the long way is needed."""
    x = job.input
    if job.dtype is not None or mode.hessian or not _is_last(job.axis) or not _is_matrix(x):
        return None
    shape, dtype = x.shape, x.dtype
    values = np.empty(shape, dtype) if mode.value else ABSENT
    gradient = np.empty(shape, dtype) if mode.wrt else ABSENT
    rowwise_loop.run(
        job.maths if mode.wrt else _value_only(job.maths), x.reshape(-1), ABSENT, ABSENT, ABSENT, ABSENT,
        (1.0,), 1.0, 1, (*shape, 1), _NO_INDEX, False, ABSENT, (_flat(values), _flat(gradient), ABSENT), ABSENT, True,
    )  # fmt: skip
    return _answer(mode, dtype, 0.0, values, (gradient,), _FIRST if mode.wrt else ())


def pairwise(record: Loss, job: Pairwise, mode: Mode) -> Any:
    """Compute a loss of vectors; None where the long way is needed."""
    arrays, y = job.arrays, job.target
    x = arrays[0]
    if mode.hessian or job.keepdim or not _is_last(job.axis) or not _is_matrix(x):
        return None
    dtype, shape = x.dtype, x.shape
    for a in arrays:
        if type(a) is not np.ndarray or a.dtype is not dtype or a.shape != shape:
            return None
        flags = a.flags
        if not flags.c_contiguous or not flags.aligned:
            return None
    if y is not None:
        if type(y) is not np.ndarray or y.dtype is not dtype or y.shape != shape[:1]:
            return None
        if not y.flags.c_contiguous or not y.flags.aligned:
            return None
    elif "target" in record.domains:
        return None
    slots = _slots(mode.wrt, job.names)
    if slots is None:
        return None
    values: Any = ABSENT
    if job.reduction == "none" and mode.value:
        values = np.empty(shape[0], dtype)
    grads: list[Any] = [ABSENT, ABSENT, ABSENT]
    for slot in slots:
        grads[slot] = np.empty(shape, dtype)
    total = pairwise_loop.run(
        job.maths, tuple([a.reshape(-1) for a in arrays]), ABSENT if y is None else y, ABSENT, job.params, 1.0,
        shape[0] if job.reduction == "mean" else 1, shape, values,
        (_flat(grads[0]), _flat(grads[1]), _flat(grads[2])), ABSENT,
    )  # fmt: skip
    return _answer(mode, dtype, total, values, grads, slots)


QUICK: dict[type, Any] = {Elementwise: elementwise, Rowwise: rowwise, RowMap: rowmap, Pairwise: pairwise}

# What stands for the operands that a loss does not have.
_MISSING: tuple[tuple[Any, ...], ...] = ((), (ABSENT, ABSENT), (ABSENT,), ())
_FIRST = (0,)
_OF_INPUT = ((), ("input",))

def _is_last(axis: Any) -> bool:
    """Return whether this names the last axis of a matrix."""
    return type(axis) is int and (axis == 1 or axis == -1)


def _flat(array: Any) -> Any:
    return array if array is ABSENT else array.reshape(-1)


@functools.cache
def _value_only(maths: RowMaths) -> RowMaths:
    """Return the maths without the sums, which only a gradient needs."""
    return maths._replace(terms=None)


def _is_matrix(x: Any) -> bool:
    """Return whether this is a plain matrix of floats that is not empty."""
    if type(x) is not np.ndarray or x.ndim != 2 or x.size == 0 or (x.dtype is not F32 and x.dtype is not F64):
        return False
    flags = x.flags
    return bool(flags.c_contiguous and flags.aligned)


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
