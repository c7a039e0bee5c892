"""Plans losses of rows whose logits are scaled, capped or padded, or that return more of a row than its value.

Blocks of rows are worked through while they are in cache: what becomes of the logits is written to a buffer, the row
loss runs over that, and its gradient is carried back. Where the logits stay what they are there is one block, without
a buffer.
"""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Callable
from typing import Any

from fastloss.call import rowwise
from fastloss.call.array_ops import mapping
from fastloss.call.checks import check_float, check_shape, split_axis
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Plan, program_call
from fastloss.call.planning import ABSENT, Planning
from fastloss.call.request import Request
from fastloss.call.weighting import Layout
from fastloss.define.descriptions import NO_INDEX, RETURNS, RowMaths, Rowwise, Scores
from fastloss.define.point_maths import (
    capped,
    itself,
    kept,
    scaled_square,
    times,
    uncapped,
    uncapped_twice,
)
from fastloss.define.row_numbers import ENTROPY, LOG_PROBABILITY, LOG_SUM
from fastloss.runtime.dtypes import F32, F64, I64
from fastloss.runtime.plans import KernelPlan
from fastloss.runtime.settings import settings

# Bytes of the buffer of a block.
BLOCK_BYTES = 1 << 20


def plan(planning: Planning, job: Rowwise) -> Plan:
    """Plan a loss of rows."""
    return rowwise.plan(planning, job) if job.scores is None else _plan(planning, job, job.scores)


def check_returns(planning: Planning, scores: Scores, soft: bool) -> None:
    """Raise where what is to be returned beside the loss is unknown, or cannot be."""
    for name in scores.returns:
        if name not in RETURNS:
            raise ValueError(f"returns must be names out of {', '.join(map(repr, RETURNS))}, got {name!r}")
        if name == "log_prob" and soft:
            raise ValueError("returns: 'log_prob' is that of a class index, and the target holds class probabilities")
    mode = planning.mode
    if scores.returns and (mode.hessian or mode.partial or not mode.value):
        raise ValueError("returns goes with the value, alone or with its gradient")


def _plan(planning: Planning, job: Rowwise, scores: Scores) -> Plan:
    mode = planning.mode
    x, target, weight = planning.enter((job.input, job.target, job.weight), ("input", "target", "weight"))
    backend = planning.space.backend
    check_float(x, "input")
    shape = x.shape
    first, last, (outer, classes, inner) = split_axis(shape, job.axis)
    valid = valid_classes(scores, classes, f"input has {classes} of shape {shape}")
    if classes == 0:
        raise ValueError(f"input must have at least one class, got shape {shape}")
    if job.target is None:
        raise TypeError("target must be an array, got None")
    maths, labels, operand, rows = rowwise.target_of(job, target, shape, shape[:first] + shape[last:])
    check_returns(planning, scores, operand is not None)
    if job.weight is not None and weight.shape != (valid,):
        check_shape(weight, (classes,), "weight", "one entry for each class, shape")

    each, count = job.reduction == "none", outer * inner
    place = len(planning.arrays)  # of what is returned beside the loss
    if scores.returns:
        planning.arrays.append(None)
    arguments: tuple[Argument | None, ...] = (Argument(job.input, x),)
    if operand is not None:
        arguments = (*arguments, Argument(operand, target))
        if "weight" in mode.wrt:
            raise ValueError(f"there is no gradient with respect to weight beside {', '.join(_changes(scores))}")
    outputs = Outputs(planning, arguments, shape)
    outputs.want_values(rows, each and mode.value)
    averages = job.reduction == "mean"
    counted = averages and labels is not None
    if counted:
        rowwise.set_counts(planning, job, labels, x.dtype, valid)
    divisor = planning.over(0 if counted else count) if averages else 1
    if planning.weighing is not None:
        planning.weighing.layout, divisor = Layout(classes, inner), 1
    scale, upstream = planning.upstream(not each, rows)
    outputs.check_read(target=labels, weight=job.weight, grad_output=upstream)
    run = _Run(planning, job, scores, maths, (outer, classes, inner), valid, outputs.first_replaces)
    readers = [planning.reader(one, backend.flat) for one in (job.input, operand, labels, job.weight, upstream)]
    empty_mean = planning.empty_mean
    bad_label = None if labels is None else rowwise.bad_label_of(backend, labels, rows, valid)

    def body(arrays: tuple[Any, ...], request: Request, values: Any, *grads: Any) -> Any:
        read = [reader(arrays) for reader in readers]
        by = divisor(arrays) if callable(divisor) else divisor
        bad, found = run.survey(read[2], read[3])
        if bad >= 0:
            raise bad_label(arrays, bad)  # type: ignore[misc]
        by = found if type(by) is int and by == 0 and counted else by
        factor = scale(arrays, request) if callable(scale) else scale
        total = run.run(read, values, grads, factor, by, arrays[place] if scores.returns else {})
        return empty_mean if total is None else total

    made = program_call(planning, outputs, each, body, slots=5)
    if not scores.returns:
        return made
    return Plan(returning(planning, made, place, scores.returns, rows))


def valid_classes(scores: Scores, classes: int, what: str) -> int:
    """Return the number of classes that are no padding."""
    if scores.classes is not None and scores.classes > classes:
        raise ValueError(f"valid_classes must be at most the number of classes, got {scores.classes}: {what}")
    return classes if scores.classes is None else int(scores.classes)


def forward_of(scores: Scores) -> tuple[Any, tuple[float, ...]]:
    """Return the function of a logit that is scaled and capped, and its parameters."""
    scale, cap = float(scores.scale), scores.softcap
    return (times, (scale,)) if cap is None else (capped, (scale, float(cap)))


def back_of(scores: Scores, second: bool = False) -> tuple[Any, tuple[float, ...], int]:
    """Return the function that carries a derivative back, its parameters, and how many operands it takes.

    They are the derivative and the capped logit; of the `second`, the second derivative, the first, and the logit.
    """
    scale, cap = float(scores.scale), scores.softcap
    if cap is None:
        return times, (scale * scale if second else scale,), 1
    return (uncapped_twice, (scale, float(cap)), 3) if second else (uncapped, (scale, float(cap)), 2)


def _changes(scores: Scores) -> list[str]:
    """Return the names of the options that are not what they are by default."""
    names = ("logit_scale", "softcap", "valid_classes", "z_loss", "returns")  # in the order of the fields
    return [name for name, value, plain in zip(names, scores, Scores(), strict=True) if value != plain]


def returning(planning: Planning, made: Plan, place: int, names: tuple[str, ...], rows: tuple[int, ...]) -> Any:
    """Return what computes calls whose value comes with further numbers of its rows, which the plan puts in a dict."""
    kind, space, single = output_class(names), planning.space, not planning.mode.wrt

    def wrapped(view: Any) -> Any:
        wrap = space.wrapping(view.dtype, None)
        view = view.reshape(rows)
        return view if wrap is None else wrap(view)

    def compute(arrays: tuple[Any, ...], request: Request) -> Any:
        found: dict[str, Any] = {}
        result = made.compute((*arrays[:place], found), request)
        more = [wrapped(found[name]) for name in names]
        return kind(result, *more) if single else (kind(result[0], *more), *result[1:])

    return compute


@functools.cache
def output_class(names: tuple[str, ...]) -> Any:
    """Return the class of a loss with further numbers of its rows."""
    named: Any = namedtuple  # of names that are known here only
    made = named("LossOutput", ["loss", *names])
    made.__module__ = __name__
    made.__reduce__ = lambda self: (_output, (names, tuple(self)))
    return made


def _output(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return output_class(names)(*values)


class RowNumbers:
    """The numbers of rows that are returned beside the loss, block by block of logits that are final."""

    def __init__(self, backend: Any, real: Any, scores: Scores, ignore: int) -> None:
        self.backend, self.real, self.scores, self.ignore = backend, real, scores, ignore
        self.kernels: dict[Any, KernelPlan] = {}

    def make(self, count: int) -> dict[str, Any]:
        """Return the arrays for the numbers of all rows."""
        backend = self.backend
        names = dict.fromkeys((*self.scores.returns, *(("lse",) if "z_loss" in self.scores.returns else ())))
        return {name: backend.empty((count,), I64 if name == "argmax" else self.real) for name in names}

    def fill(self, found: dict[str, Any], places: slice, z: Any, labels: Any, shape: tuple[int, int, int]) -> None:
        """Write the numbers of a block of rows, whose flat logits `z` have `shape`."""
        outer, classes, inner = shape
        maths = {"lse": LOG_SUM, "log_prob": LOG_PROBABILITY, "entropy": ENTROPY}
        for name in maths.keys() & found.keys():
            self._rows(maths[name], z, labels, shape, found[name][places])
        if "argmax" in found:
            lying = z.reshape((outer, classes, inner))
            if inner > 1:
                lying = self.backend.flat(self.backend.moved(lying, 1, 2))
            self.backend.argmax(lying.reshape((outer * inner, classes)), found["argmax"][places])

    def _rows(self, maths: RowMaths, z: Any, labels: Any, shape: tuple[int, int, int], values: Any) -> None:
        operands = (z, ABSENT, labels if maths.indexed else ABSENT, ABSENT, ABSENT)
        results = (values, ABSENT, ABSENT, ABSENT, ABSENT)
        key = maths, shape, z.dtype
        kernel = self.kernels.get(key)
        if kernel is None:
            kernel = self.kernels[key] = self.backend.plan_rowwise(
                maths, operands, results, (1 / shape[1],), shape, self.ignore, False
            )
        kernel.run(operands, results, 1.0, 1.0, False)

    def finish(self, found: dict[str, Any], labels: Any, classes: int) -> None:
        """Write zeros for rows that are ignored, but for `argmax`, and what follows from other numbers."""
        backend, count = self.backend, next(iter(found.values())).size if found else 0
        if not count:
            return
        like = backend.empty((count,), self.real)
        if labels is not ABSENT:
            counted = backend.class_weights(labels, ABSENT, classes, self.ignore, self.real)
            for name in found.keys() - {"argmax", "log_prob", "z_loss"}:
                keep = mapping(backend, kept, (like, like), 0)
                masked = backend.empty((count,), self.real)
                keep((found[name], counted), masked)
                found[name] = masked
        if "z_loss" in found:
            square = mapping(backend, scaled_square, (like,), 0, None, (float(self.scores.z_loss),))
            square((found["lse"],), found["z_loss"])


class _Run:
    """What all calls of a kind have in common: the blocks, and the plans of the loops for these."""

    def __init__(
        self,
        planning: Planning,
        job: Rowwise,
        scores: Scores,
        maths: RowMaths,
        split: tuple[int, int, int],
        valid: int,
        replaces: bool,
    ) -> None:
        x = job.input.view
        self.backend, self.maths, self.scores, self.split, self.valid = (
            planning.space.backend, maths, scores, split, valid,
        )  # fmt: skip
        self.dtype, self.real = x.dtype, F64 if x.dtype == F64 else F32
        self.ignore = NO_INDEX if job.ignore_index is None else int(job.ignore_index)
        self.params = (*job.params, 1.0 / valid)
        self.reduces = planning.mode.value and job.reduction != "none" and planning.weighing is None
        self.valued = planning.mode.value
        outer, classes, inner = split
        self.as_given = not scores.changes_logits and valid == classes
        self.as_given = self.as_given and (x.dtype == self.real or "argmax" not in scores.returns)
        step = outer if self.as_given else max(1, BLOCK_BYTES // max(1, valid * inner * self.real.itemsize))
        self.bounds = [(start, min(start + step, outer)) for start in range(0, outer, step)] if inner else []
        self.replaces = replaces
        self.numbers = RowNumbers(self.backend, self.real, scores, self.ignore)
        self.kernels: dict[int, KernelPlan] = {}
        self.maps: dict[Any, Any] = {}

    def survey(self, labels: Any, weight: Any) -> tuple[int, Any]:
        """Return the first row whose label is no class, and what the rows that count weigh."""
        if labels is ABSENT or labels.size == 0:
            return -1, math.nan
        found: tuple[int, Any] = self.backend.survey(
            labels, weight, self.valid, self.ignore, settings.check_indices, self.real
        )
        return found

    def run(
        self, read: list[Any], values: Any, grads: tuple[Any, ...], scale: float, by: Any, found: dict[str, Any]
    ) -> Any:
        """Write the results and return the reduced value; None without rows."""
        backend, (outer, classes, inner), valid = self.backend, self.split, self.valid
        x, operand, labels, weight, upstream = read
        found.update(self.numbers.make(outer * inner))
        if not self.bounds:
            return None
        self._check_padding(operand)
        if valid < classes:
            for gradient in grads:
                if gradient is not ABSENT:
                    backend.fill(gradient, 0.0)
        weight = weight if weight is ABSENT else weight[:valid]
        each = values
        if self.reduces:
            each = backend.empty((outer * inner,), self.real)
        for start, stop in self.bounds:
            places, entries = slice(start * inner, stop * inner), slice(start * classes * inner, stop * classes * inner)
            parts = [one if one is ABSENT else one[entries] for one in (x, operand, *grads)]
            per_row = [one if one is ABSENT else one[places] for one in (labels, upstream, each)]
            self._block(stop - start, parts, per_row, weight, (scale, by), found, places)
        self.numbers.finish(found, labels, valid)
        if not self.reduces:
            return 0.0
        return self._map("sum", itself, (each,))((each,), divisor=by)

    def _block(
        self,
        length: int,
        parts: list[Any],
        per_row: list[Any],
        weight: Any,
        factors: tuple[float, Any],
        found: dict[str, Any],
        places: slice,
    ) -> None:
        """Compute a block of rows: its flat logits, class probabilities and derivatives, and numbers of each row."""
        backend, (_, classes, inner), valid, real = self.backend, self.split, self.valid, self.real
        (x, operand, *grads), (labels, upstream, each) = parts, per_row
        shape, size = (length, valid, inner), length * valid * inner

        def cut(array: Any) -> Any:
            return array if array is ABSENT else array.reshape((length, classes, inner))[:, :valid]

        z, derivatives, operand_seen = x, list(grads), operand
        if not self.as_given:
            z = backend.empty((size,), real)
            self._forward(cut(x), z.reshape(shape))
            derivatives = [one if one is ABSENT else backend.empty((size,), real) for one in grads]
            operand_seen = operand if operand is ABSENT or valid == classes else backend.flat(cut(operand))
        if found:
            self.numbers.fill(found, places, z, labels, shape)
        operands = (z, operand_seen, labels, weight, upstream)
        results = (each, *derivatives)
        kernel = self.kernels.get(length)
        if kernel is None:
            kernel = self.kernels[length] = backend.plan_rowwise(
                self.maths, operands, results, self.params, shape, self.ignore, self.replaces and self.as_given
            )
        kernel.run(operands, results, *factors, False)
        if not self.as_given:
            self._back(z, derivatives, grads, cut, shape)

    def _forward(self, x: Any, z: Any) -> None:
        """Write what becomes of logits."""
        point, params = forward_of(self.scores)
        self._map(("forward", x.shape), point, (x,), 0, self.real, params)((x,), z.reshape((z.size,)))

    def _back(self, z: Any, derivatives: list[Any], grads: list[Any], cut: Callable[[Any], Any], shape: Any) -> None:
        """Write the derivatives with respect to the logits as they were given, and class probabilities."""
        dtype, whole = self.dtype, self.valid == self.split[1]
        first = derivatives[0]
        for k, (derivative, gradient) in enumerate(zip(derivatives, grads, strict=True)):
            if gradient is ABSENT:
                continue
            point, params, needed = (itself, (), 1) if k == 1 else back_of(self.scores, second=k == 3)
            operands = ((first, z) if k == 0 else (derivative, first, z))[:needed]
            target = gradient if whole else self.backend.empty((z.size,), dtype)
            self._map(("back", k, z.size), point, operands, 0, dtype, params)(operands, target)
            if not whole:
                self.backend.copy_into(cut(gradient), target.reshape(shape))

    def _map(self, key: Any, *plan: Any) -> Any:
        found = self.maps.get(key)
        if found is None:
            found = self.maps[key] = mapping(self.backend, *plan)
        return found

    def _check_padding(self, operand: Any) -> None:
        """Raise where class probabilities lie on padding."""
        if operand is ABSENT or self.valid == self.split[1]:
            return
        padding = self.backend.flat(operand.reshape(self.split)[:, self.valid :])
        if self.backend.number(self._map("padding", itself, (padding,))((padding,))) != 0:
            raise ValueError(f"target has probability on classes from valid_classes={self.valid} on")
