"""Plans losses of sequences."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss.call.checks import check_float, check_integer
from fastloss.call.dispatch import host_array
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Plan, program_call
from fastloss.call.planning import Operand, Planning, Read
from fastloss.call.request import Request
from fastloss.call.rowwise import out_of_range
from fastloss.call.weighting import RowLayout
from fastloss.define.descriptions import Alignment
from fastloss.runtime.dtypes import F64, I64
from fastloss.runtime.settings import settings

_NAMES = ("log_probs", "targets")


def plan(planning: Planning, description: Alignment) -> Plan:
    """Plan a loss over the alignments of labels with time steps; the lengths are numbers, and are read in each call."""
    x, targets = planning.enter((description.log_probs, description.targets), _NAMES)
    backend = planning.library.backend
    check_float(x, "log_probs")
    shape = x.shape
    if len(shape) == 3:
        times, samples, classes = shape
    elif len(shape) == 2:
        (times, classes), samples = shape, 1
    else:
        raise ValueError(f"log_probs must have shape (T, N, C) or (T, C), got shape {shape}")
    blank = int(description.blank)
    if not 0 <= blank < classes:
        raise ValueError(f"blank must be one of the {classes} classes of log_probs of shape {shape}, got {blank}")
    lengths = [
        _Lengths(planning, description.input_lengths, "input_lengths", samples, times, "time steps", shape),
        _target_lengths(planning, description.target_lengths, targets, samples, shape),
    ]
    label_shape = targets.shape  # for what is kept, which may not hold an array of the call
    no_labels = targets.dtype == F64  # an empty list; the recursion is for integers
    if no_labels:
        targets = backend.zeros(label_shape, I64)

    each, by_length = description.reduction == "none", description.reduction == "mean"
    divisor = planning.over(samples) if by_length else 1
    arguments = (Argument(description.log_probs, x), Argument(description.targets, targets))
    outputs = Outputs(planning, arguments, shape, slots=2)
    results = (samples,) if len(shape) == 3 else ()
    outputs.want_values(results, each, layout=RowLayout(times, samples, classes))
    scale, grad_output = planning.take_grad_output(not each, results)
    outputs.check_read(grad_output=grad_output)
    if planning.weighing is not None:
        if by_length:
            planning.weighing.factors = _shares(planning, lengths[1], outputs.real)
        by_length, divisor = False, 1
    read_x, read_labels, read_upstream = (
        planning.reader(operand, backend.flat) for operand in (description.log_probs, description.targets, grad_output)
    )
    zero_infinity, empty_mean = bool(description.zero_infinity), planning.empty_mean

    def body(arrays: tuple[Any, ...], request: Request, values: Any, gradient: Any) -> Any:
        (steps, frames), (labels_of, counts) = (one.of(arrays) for one in lengths)
        if samples == 0:
            return empty_mean
        labels = backend.zeros(label_shape, I64).reshape(-1) if no_labels else read_labels(arrays)
        if len(label_shape) == 2:
            most = label_shape[1]
            starts = np.arange(0, samples * most, most) if most else np.zeros(samples, np.int64)
        else:
            starts = labels_of.cumsum() - labels_of
        read = read_x(arrays), labels, starts, steps, labels_of, read_upstream(arrays)
        sizes, options = ((times, samples, classes), (frames, counts)), (blank, by_length, zero_infinity)
        factor = scale(arrays, request) if callable(scale) else scale
        by = divisor(arrays) if callable(divisor) else divisor
        bad, total = backend.ctc(*read, *sizes, *options, settings.check_indices, factor, by, values, gradient)
        if bad >= 0:
            raise out_of_range(backend, labels, bad, label_shape, classes, "targets: label")
        return total

    return program_call(planning, outputs, body)


def _shares(planning: Planning, lengths: _Lengths, real: Any) -> Read:
    """Return what reads one over the number of labels of each sample, 1 where there are none."""
    upload = planning.library.backend.upload
    return lambda arrays: upload((1 / np.maximum(lengths.of(arrays)[0], 1)).astype(real))


def _target_lengths(planning: Planning, given: Operand, targets: Any, samples: int, shape: tuple[int, ...]) -> _Lengths:
    """Return the lengths of padded rows of labels, or of labels one after the other."""
    check_integer(targets, "targets", "labels")
    if targets.ndim == 2:
        if targets.shape[0] != samples:
            raise ValueError(f"targets must have {samples} rows, as log_probs of shape {shape}, got {targets.shape}")
        most = targets.shape[1]
        return _Lengths(planning, given, "target_lengths", samples, most, "labels of a row", targets.shape)
    if targets.ndim == 1:
        return _Lengths(planning, given, "target_lengths", samples, None, "labels", targets.shape, targets.shape[0])
    raise ValueError(f"targets must have shape (N, S), (S,) or (sum of target_lengths,), got {targets.shape}")


class _Lengths:
    """Lengths, one for each sample, as a call gives them: at most `most`, or `total` in all."""

    def __init__(
        self,
        planning: Planning,
        operand: Operand,
        name: str,
        samples: int,
        most: int | None,
        what: str,
        shape: tuple[int, ...],
        total: int | None = None,
    ) -> None:
        self.name, self.samples, self.most, self.what, self.shape, self.total = name, samples, most, what, shape, total
        self.place = operand.place
        if not isinstance(planning.arrays[operand.place], np.ndarray):  # a list, or in device memory
            planning.kept = False
            planning.arrays[operand.place] = host_array(operand.given, name)
        self.of(planning.arrays)

    def of(self, arrays: Any) -> tuple[Any, list[int]]:
        """Return the lengths of a call, checked, as a flat array of int64 and as a list."""
        array, name, samples, most = arrays[self.place], self.name, self.samples, self.most
        if array.dtype is not I64 or array.ndim != 1 or not array.flags.c_contiguous:
            if array.dtype.kind not in "iu" and (array.size or array.dtype.kind == "b"):
                raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
            array = np.ascontiguousarray(array.reshape(-1), np.int64)
        counts: list[int] = array.tolist()
        if len(counts) != samples:
            raise ValueError(f"{name} must have one entry for each of {samples} samples, got {len(counts)}")
        if samples and (min(counts) < 0 or (most is not None and max(counts) > most)):
            wrong = next(n for n, count in enumerate(counts) if count < 0 or (most is not None and count > most))
            bound = (
                "not be negative" if counts[wrong] < 0 else f"be at most {most}, the {self.what} of shape {self.shape}"
            )
            raise ValueError(f"{name} must {bound}, got {counts[wrong]} at position {wrong}")
        if self.total is not None and sum(counts) != self.total:
            raise ValueError(
                f"targets of shape {self.shape} must hold as many labels as target_lengths has in all, {sum(counts)}"
            )
        return array, counts
