"""The calling path of losses of sequences, see ``_call.py``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastloss.call.checks import check_float, check_integer
from fastloss.runtime.settings import settings
from fastloss.call.dispatch import host_array, space_of
from fastloss.runtime.dtypes import F64, I64
from fastloss.call.outputs import ABSENT, Argument, Outputs, Request, upstream_of
from fastloss.call.rowwise import out_of_range
from fastloss.define.descriptions import Alignment, Loss

_NAMES = ("log_probs", "targets")


def alignment(record: Loss, job: Alignment, request: Request) -> Any:
    """Compute a loss over the alignments of labels with time steps."""
    log_probs, given_targets, input_lengths, target_lengths, given_blank, reduction, zero_infinity = job
    mode = request.mode
    space = space_of((log_probs, given_targets), _NAMES)
    backend, flat = space.backend, space.backend.flat
    x = space.view(log_probs, "log_probs")
    check_float(x, "log_probs")
    shape = x.shape
    if len(shape) == 3:
        times, samples, classes = shape
    elif len(shape) == 2:
        (times, classes), samples = shape, 1
    else:
        raise ValueError(f"log_probs must have shape (T, N, C) or (T, C), got shape {shape}")
    blank = int(given_blank)
    if not 0 <= blank < classes:
        raise ValueError(f"blank must be one of the {classes} classes of log_probs of shape {shape}, got {blank}")
    steps, frames = _lengths(input_lengths, "input_lengths", samples, times, "time steps", shape)
    targets = space.view(given_targets, "targets")
    check_integer(targets, "targets", "labels")
    if targets.dtype == F64:  # an empty list; the recursion is for integers
        targets = backend.zeros(targets.shape, I64)
    if targets.ndim == 2:
        if targets.shape[0] != samples:
            raise ValueError(f"targets must have {samples} rows, as log_probs of shape {shape}, got {targets.shape}")
        most = targets.shape[1]
        lengths, counts = _lengths(target_lengths, "target_lengths", samples, most, "labels of a row", targets.shape)
        starts = np.arange(0, samples * most, most) if most else np.zeros(samples, np.int64)
    elif targets.ndim == 1:
        lengths, counts = _lengths(target_lengths, "target_lengths", samples, None, "labels", targets.shape)
        if sum(counts) != targets.shape[0]:
            raise ValueError(
                f"targets of shape {targets.shape} must hold as many labels as target_lengths has in all, {sum(counts)}"
            )
        starts = lengths.cumsum() - lengths
    else:
        raise ValueError(f"targets must have shape (N, S), (S,) or (sum of target_lengths,), got {targets.shape}")

    each = reduction == "none"
    divisor = samples if reduction == "mean" else 1
    arguments = (Argument("log_probs", log_probs, x), Argument("targets", given_targets, targets))
    outputs = Outputs(record, space, request, arguments, shape)
    results = (samples,) if len(shape) == 3 else ()
    outputs.want_values(results, each and mode.value)
    scale, upstream = upstream_of(space, request, not each, results)
    outputs.check_read(grad_output=upstream)
    if samples == 0:
        return outputs.finish(math.nan if divisor == 0 else 0.0)
    labels, values, gradient = flat(targets), outputs.values, outputs.grads[0]
    strange, total = backend.ctc(
        flat(x),
        labels,
        starts,
        steps,
        lengths,
        upstream if upstream is ABSENT else flat(upstream),
        (times, samples, classes),
        (frames, counts),
        blank,
        reduction == "mean",
        bool(zero_infinity),
        settings.check_indices,
        scale,
        divisor,
        values if values is ABSENT else flat(values),
        gradient if gradient is ABSENT else flat(gradient),
    )
    if strange >= 0:
        raise out_of_range(backend, labels, strange, targets.shape, classes, "targets: label")
    return outputs.finish(total)


def _lengths(
    given: Any, name: str, samples: int, most: int | None, what: str, shape: tuple[int, ...]
) -> tuple[Any, list[int]]:
    """Return lengths, checked, as a flat int64 array in host memory and as a list."""
    array = given if type(given) is np.ndarray else host_array(given, name)
    if array.dtype is not I64 or array.ndim != 1 or not array.flags.c_contiguous:
        if array.dtype.kind not in "iu" and (array.size or array.dtype.kind == "b"):
            raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
        array = np.ascontiguousarray(array.reshape(-1), np.int64)
    counts = array.tolist()
    if len(counts) != samples:
        raise ValueError(f"{name} must have one entry for each of {samples} samples, got {len(counts)}")
    if samples and (min(counts) < 0 or (most is not None and max(counts) > most)):
        wrong = next(n for n, count in enumerate(counts) if count < 0 or (most is not None and count > most))
        bound = "not be negative" if counts[wrong] < 0 else f"be at most {most}, the {what} of shape {shape}"
        raise ValueError(f"{name} must {bound}, got {counts[wrong]} at position {wrong}")
    return array, counts
