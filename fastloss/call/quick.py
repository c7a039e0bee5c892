"""A short way for calls of a kind that was made before: plain arrays whose shapes and dtypes are known to go together.

The calling path (``_call.py``) takes ten times as long to be right for every library, layout and option as a batch of
640 elements takes to compute. What it decides follows from dtypes, shapes and options alone. So it is decided once for
every kind of call, and kept (``_prepared.py``): the next call of the kind allocates, computes and returns. A kind is
known by its signature; the kind of the last call also by straight code (``_straight.py``), which computes it at once.
Whatever is not plain has no signature, and what turns out to be wrong returns None: both go the long way, which knows
what to do or what to complain about. Results and errors are the same.

cross_entropy of 64x10, value and gradient, on a Xeon: 45 microseconds the long way, 12 this way, 9 by straight code; of
torch tensors 26 to 30.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastloss.runtime.settings import settings
from fastloss.runtime.dtypes import F32, F64, I64
from fastloss.runtime.compile import is_small
from fastloss.call.outputs import ABSENT, Mode
from fastloss.call.penalties import job_of
from fastloss.call.prepared import Prepared, are_plain, real_dtype
from fastloss.call.rowwise import value_only
from fastloss.define.descriptions import (
    NO_INDEX,
    Alignment,
    Elementwise,
    LabelSets,
    Loss,
    Pairwise,
    Penalty,
    Projected,
    RowMap,
    RowMaths,
    Rowwise,
)
from fastloss.call.straight import CHECKED, GRADIENTS, OPERANDS, VALUES, Plan
from fastloss.cpu.loops import ctc as ctc_loop
from fastloss.cpu.loops import elementwise as elementwise_loop
from fastloss.cpu.loops import multilabel as label_sets_loop
from fastloss.cpu.loops import pairwise as pairwise_loop
from fastloss.cpu.loops import rowwise as rowwise_loop
from fastloss.cpu.loops import rowwise_split as split_loop

# Elements up to which a loss is computed twice, the first time to see whether it is defined.
SMALL_TRIAL = 1 << 12

# Entries of the logits up to which a linear map goes the short way; beyond, the long way costs less than a percent.
SMALL_LOGITS = 1 << 18

# What stands for the operands that a loss does not have.
_MISSING: tuple[tuple[Any, ...], ...] = ((), (ABSENT, ABSENT), (ABSENT,), ())
_NOTHING = (ABSENT, ABSENT, ABSENT, ABSENT, ABSENT)  # outputs of a kernel that only returns the sum
_OF_INPUT = ((), ("input",))


def prepare(record: Loss, job: Any, mode: Mode) -> tuple[Prepared, tuple[Any, ...]] | None:
    """Decide how a job is computed, and return that and its arrays; None where it takes the long way."""
    decide = _DECIDE.get(type(job))
    return None if decide is None or mode.hessian else decide(record, job, mode)


Decided = tuple[Prepared, tuple[Any, ...]] | None


def _elementwise(record: Loss, job: Elementwise, mode: Mode) -> Decided:
    arrays, params = job.arrays, job.params
    if job.weight is not None or not _is_plain_float(arrays[0]):
        return None
    dtype, shape, size = real_dtype(arrays[0]), arrays[0].shape, arrays[0].size
    slots = _slots(mode.wrt, job.names)
    if slots is None or not are_plain(arrays, dtype, shape):
        return None
    restricted = job.unit_interval or job.non_negative is not None
    divisor = job.divisor(shape, size)
    none = (*_MISSING[len(arrays)], ABSENT, ABSENT)
    trial = elementwise_loop.launcher(job.point, len(arrays), size)

    def is_defined(arrays: Sequence[Any]) -> bool:
        # The long way looks at the operands alone, which is faster where there are many.
        flat = [a.ravel() for a in arrays]
        return size <= SMALL_TRIAL and not math.isnan(trial(*flat, *none, *_NOTHING, params, 1.0))

    plan = Plan(
        elementwise_loop.launcher(job.point, len(arrays), size),
        (*OPERANDS[: len(arrays)], *none, VALUES, *GRADIENTS, ABSENT, params, 1.0 / divisor),
        divisor,
        defined=not restricted,  # else perhaps there is a value that the loss is not defined for
    )
    each = shape if job.reduction == "none" else None
    known = is_defined if restricted else None
    return Prepared(plan, mode, arrays, slots, each, known), arrays


def _rowwise(record: Loss, job: Rowwise, mode: Mode) -> Decided:
    maths, x, y = job.maths, job.input, job.target
    if job.weight is not None or job.keepdim or mode.wrt not in _OF_INPUT:
        return None
    if (job.axis is not None and not _is_last(job.axis)) or not _is_matrix(x):
        return None
    count, columns = shape = x.shape
    if y is None:
        if "target" in record.domains:
            return None
    elif not are_plain((y,), I64, (count,)) if maths.indexed else not are_plain((y,), x.dtype, shape):
        return None
    indexed = y is not None and maths.indexed
    divisor = 1
    if job.reduction == "mean":
        divisor = 0 if job.mean == "weights" and indexed else count
    ignore = NO_INDEX if job.ignore_index is None else int(job.ignore_index)
    params = (*job.params, 1.0 / columns)
    launch = _row_launcher(maths, count, columns)
    if launch is None:
        return None

    operand, labels = (ABSENT, OPERANDS[1]) if indexed else (OPERANDS[1], ABSENT)
    plan = Plan(
        launch,
        (
            OPERANDS[0], operand, labels, ABSENT, ABSENT, VALUES, GRADIENTS[0], ABSENT, ABSENT, ABSENT,
            params, 1.0, divisor, count, columns, 1, ignore, CHECKED,
        ),
        labelled=True,
    )  # fmt: skip
    each = shape[:1] if job.reduction == "none" else None
    arrays = (x,) if y is None else (x, y)
    return Prepared(plan, mode, arrays, (0,) if mode.wrt else (), each), arrays


def _row_launcher(maths: RowMaths, count: int, columns: int, replaces: bool = False) -> Callable[..., Any] | None:
    """Return the loop over rows that lie end to end; None where they are cut into pieces.

    `replaces` says that the first result replaces an operand.
    """
    if split_loop.suits(maths, count, columns, 1):
        return None
    return rowwise_loop.launcher(maths, count, columns, replaces=replaces)


def _rowmap(record: Loss, job: RowMap, mode: Mode) -> Decided:
    x = job.input
    if job.dtype is not None or not _is_last(job.axis) or not _is_matrix(x):
        return None
    count, columns = shape = x.shape
    launch = _row_launcher(job.maths if mode.wrt else value_only(job.maths), count, columns)
    if launch is None:
        return None

    plan = Plan(
        launch,
        (
            OPERANDS[0], ABSENT, ABSENT, ABSENT, ABSENT, ABSENT, VALUES, GRADIENTS[0], ABSENT, ABSENT,
            (1.0,), 1.0, 1, count, columns, 1, NO_INDEX, False,
        ),
        labelled=True,
    )  # fmt: skip
    return Prepared(plan, mode, (x,), (0,) if mode.wrt else (), shape), (x,)


def _pairwise(record: Loss, job: Pairwise, mode: Mode) -> Decided:
    arrays, y = job.arrays, job.target
    x = arrays[0]
    if job.keepdim or not _is_last(job.axis) or not _is_matrix(x) or not are_plain(arrays, x.dtype, x.shape):
        return None
    shape = x.shape
    if "target" in record.domains if y is None else not are_plain((y,), x.dtype, shape[:1]):
        return None
    slots = _slots(mode.wrt, job.names)
    if slots is None:
        return None
    operands = len(arrays)
    count, columns = shape
    divisor = count if job.reduction == "mean" else 1
    plan = Plan(
        pairwise_loop.launcher(job.maths, count, columns),
        (
            *OPERANDS[:operands], *_MISSING[operands], OPERANDS[operands] if y is not None else ABSENT, ABSENT, VALUES,
            *GRADIENTS, ABSENT, job.params, 1.0 / divisor, count, columns,
        ),
        divisor,
    )  # fmt: skip
    each = shape[:1] if job.reduction == "none" else None
    arrays = arrays if y is None else (*arrays, y)
    return Prepared(plan, mode, arrays, slots, each), arrays


def _label_sets(record: Loss, job: LabelSets, mode: Mode) -> Decided:
    x, y = job.input, job.target
    if mode.wrt not in _OF_INPUT or not _is_matrix(x) or not are_plain((y,), I64, x.shape):
        return None
    count, columns = shape = x.shape
    divisor = count if job.reduction == "mean" else 1
    plan = Plan(
        label_sets_loop.kernel(job.point).launcher(count, count * columns),
        (*OPERANDS[:2], ABSENT, VALUES, GRADIENTS[0], 1.0 / divisor, count, columns, CHECKED),
        divisor,
        labelled=True,
    )
    each = shape[:1] if job.reduction == "none" else None
    return Prepared(plan, mode, (x, y), (0,) if mode.wrt else (), each), (x, y)


def _projected(record: Loss, job: Projected, mode: Mode) -> Decided:
    rows, x, w = job.rows, job.input, job.linear_weight
    if not _is_matrix(x) or not _is_matrix(w) or w.dtype != x.dtype or w.shape[1] != x.shape[1]:
        return None
    if job.linear_bias is not None or rows.weight is not None or job.precision is not None:
        return None
    count, classes, y = x.shape[0], w.shape[0], rows.target
    if count * classes > SMALL_LOGITS or job.chunk_rows is not None or not are_plain((y,), I64, (count,)):
        return None
    slots = _slots(mode.wrt, ("input", "linear_weight"))
    if slots is None:
        return None
    ignore = NO_INDEX if rows.ignore_index is None else int(rows.ignore_index)
    params, each = (*rows.params, 1.0 / classes), rows.reduction == "none"
    divisor = 0 if rows.reduction == "mean" else 1  # 0: the rows that count
    launch = _row_launcher(rows.maths, count, classes, replaces=bool(slots))
    if launch is None:
        return None

    def run(arrays: Sequence[Any], values: Any, grads: Sequence[Any]) -> float | None:
        x, w, y = arrays
        logits = np.matmul(x, w.T)
        flat = logits.ravel()
        strange, total = launch(
            flat, ABSENT, y, ABSENT, ABSENT, values, flat if slots else ABSENT, ABSENT, ABSENT, ABSENT,
            params, 1.0, divisor, count, classes, 1, ignore, settings.check_indices,
        )  # fmt: skip
        if strange >= 0:
            return None
        if grads[0] is not ABSENT:
            np.matmul(logits, w, out=grads[0])
        if grads[1] is not ABSENT:
            np.matmul(logits.T, x, out=grads[1])
        return total  # type: ignore[no-any-return]

    return Prepared(run, mode, (x, w, y), slots, (count,) if each else None), (x, w, y)


def _alignment(record: Loss, job: Alignment, mode: Mode) -> Decided:
    x, y, steps, labels = arrays = (job.log_probs, job.targets, job.input_lengths, job.target_lengths)
    if mode.wrt not in ((), ("log_probs",)) or not _is_plain_float(x) or x.ndim != 3 or getattr(y, "ndim", 0) != 2:
        return None
    times, samples, classes = x.shape
    most, blank = y.shape[1], int(job.blank)
    if not are_plain((y,), I64, (samples, most)) or not are_plain((steps, labels), I64, (samples,)):
        return None
    work = ctc_loop.work_of(samples, times, most, x.size)  # at most: lengths are another call's
    if not is_small(work) or most == 0 or not 0 <= blank < classes:
        return None
    dtype = real_dtype(x)
    by_length, zeroed = job.reduction == "mean", bool(job.zero_infinity)
    divisor = samples if by_length else 1
    starts, nothing = np.arange(0, samples * most, most), np.empty(0, dtype)
    launch = ctc_loop.kernel().launcher(samples, work)

    def run(arrays: Sequence[Any], values: Any, grads: Sequence[Any]) -> float | None:
        x, y, steps, labels = arrays
        frames, counts = steps.tolist(), labels.tolist()
        most_steps, most_labels = max(frames), max(counts)
        if min(frames) < 0 or min(counts) < 0 or most_steps > times or most_labels > most:
            return None
        strange, total = launch(
            x.ravel(), y.ravel(), starts, steps, labels, nothing,
            np.empty(samples, dtype) if values is ABSENT else values, _flat(grads[0]),
            blank, by_length, zeroed, settings.check_indices, 1.0 / divisor, samples, classes, most_steps, most_labels,
        )  # fmt: skip
        return None if strange >= 0 else total / divisor

    each = (samples,) if job.reduction == "none" else None
    return Prepared(run, mode, arrays, (0,) if mode.wrt else (), each), arrays


def _penalty(record: Loss, job: Penalty, mode: Mode) -> Decided:
    return _elementwise(record, job_of(job, job.params, "params"), mode)


_DECIDE: dict[type, Callable[..., Decided]] = {
    Elementwise: _elementwise,
    Rowwise: _rowwise,
    RowMap: _rowmap,
    Pairwise: _pairwise,
    LabelSets: _label_sets,
    Projected: _projected,
    Alignment: _alignment,
    Penalty: _penalty,
}


def _is_plain_float(x: Any) -> bool:
    """Return whether this is a plain array of float32 or float64 that is not empty."""
    if type(x) is not np.ndarray or x.size == 0 or x.dtype not in (F32, F64):
        return False
    return are_plain((x,), x.dtype, x.shape)


def _is_matrix(x: Any) -> bool:
    return _is_plain_float(x) and x.ndim == 2


def _is_last(axis: Any) -> bool:
    """Return whether this names the last axis of a matrix."""
    return type(axis) is int and (axis == 1 or axis == -1)


def _flat(array: Any) -> Any:
    return array if array is ABSENT else array.ravel()


@functools.cache
def _slots(wrt: tuple[str, ...], names: tuple[str, ...]) -> tuple[int, ...] | None:
    """Return the numbers of the operands to differentiate; None if one is no operand, or named twice."""
    return tuple([names.index(name) for name in wrt]) if len(set(wrt) & set(names)) == len(wrt) else None
