"""Plans losses of rows whose logits are scaled, capped or padded, or that return more of a row than its value.

Blocks of rows are worked through while they are in cache: what becomes of the logits is written to a buffer, the row
loss runs over that, and its gradient is carried back. Where the logits stay what they are it is a loss of rows like any
other, and further numbers of the rows are computed before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import call
from typing import Any

from fastloss.call import rowwise
from fastloss.call.array_ops import sum_of, writer
from fastloss.call.checks import check_float, check_shape, representable, split_axis
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Plan, program_call
from fastloss.call.planning import ABSENT, Planning
from fastloss.call.request import Request
from fastloss.call.row_numbers import RowNumbers, Split, check_returns, returning, returning_rows
from fastloss.call.weighting import RowLayout
from fastloss.define.descriptions import NO_INDEX, RowMaths, Rowwise, Scores
from fastloss.define.point_maths import capped, itself, times, uncapped, uncapped_twice
from fastloss.runtime.dtypes import real_of
from fastloss.runtime.settings import settings

# Bytes of the buffer of a block.
BLOCK_BYTES = 1 << 20

# Writes the results of a block, and returns (row of the first bad label or -1, reduced value).
Block = Callable[..., tuple[int, Any]]


def plan(planning: Planning, description: Rowwise) -> Plan:
    """Plan a loss of rows; one whose logits count as they are is a loss of rows like any other."""
    scores = description.scores
    if scores is None:
        return rowwise.plan(planning, description)
    x, target, weight = planning.enter((description.input, description.target, description.weight), rowwise.NAMES)
    backend = planning.library.backend
    check_float(x, "input")
    shape = x.shape
    first, last, split = split_axis(shape, description.axis, planning.record.axis_name)
    outer, classes, inner = split
    valid = valid_classes(scores, classes, f"input has {classes} of shape {shape}")
    if classes == 0:
        raise ValueError(f"input must have at least one class, got shape {shape}")
    maths, labels, operand, rows = rowwise.target_of(description, target, shape, shape[:first] + shape[last:])
    check_returns(planning, scores, operand is not None)
    if description.weight is not None and weight.shape != (valid,):
        check_shape(weight, (classes,), "weight", "one entry for each class, shape")

    ignore = NO_INDEX if description.ignore_index is None else int(description.ignore_index)
    real = real_of(x.dtype)
    numbers = RowNumbers(backend, real, scores, ignore)
    is_converted = x.dtype != real and "argmax" in scores.returns
    if not scores.changes_logits and valid == classes and not is_converted:
        if not scores.returns:
            return rowwise.plan(planning, description)
        read_rows = rowwise.reads_of_rows(planning, (description.input, operand, labels, description.weight, None))
        return returning_rows(planning, rowwise.plan(planning, description), numbers, read_rows, rows, split)

    each, count = description.reduction == "none", outer * inner
    place = len(planning.arrays)  # of what is returned beside the loss
    if scores.returns:
        planning.arrays.append(None)
    arguments: tuple[Argument | None, ...] = (Argument(description.input, x),)
    if operand is not None:
        arguments = (*arguments, Argument(operand, target))
        if "weight" in planning.mode.wrt:
            raise ValueError(f"there is no gradient with respect to weight beside {', '.join(_changes(scores))}")
    outputs = Outputs(planning, arguments, shape)
    outputs.want_values(rows, each, layout=RowLayout(classes, inner))
    divisor: Any = 1
    if description.reduction == "mean":
        if labels is not None:
            rowwise.set_counts(planning, description, labels, x.dtype, valid)
        divisor = planning.over(count if labels is None else 0)
    if planning.weighing is not None:
        divisor = 1
    scale, grad_output = planning.take_grad_output(not each, rows)
    outputs.check_read(target=labels, weight=description.weight, grad_output=grad_output)
    read_rows = rowwise.reads_of_rows(planning, (description.input, operand, labels, description.weight, grad_output))
    params = representable((*description.params, 1.0 / valid), x.dtype)
    blocks = Blocks(backend, maths, params, scores, split, valid, numbers)
    run = blocks.runner()
    if operand is not None and valid < classes and count:
        run = blocks.without_padding(run)
    empty_mean = planning.empty_mean
    bad_label = None if labels is None else rowwise.bad_label_of(backend, labels, rows, valid)
    returns, dynamic = bool(scores.returns), callable(divisor) or callable(scale)

    def body(arrays: tuple[Any, ...], request: Request, values: Any, *grads: Any) -> Any:
        by, factor = divisor, scale
        if dynamic:
            by = divisor(arrays) if callable(divisor) else divisor
            factor = scale(arrays, request) if callable(scale) else scale
        bad, total = run(read_rows(arrays), values, grads, factor, by, arrays[place] if returns else ())
        if bad >= 0:
            raise bad_label(arrays, bad)  # type: ignore[misc]
        return empty_mean if total is None else total

    made = program_call(planning, outputs, body)
    return returning(planning, made, place, numbers, rows) if returns else made


def valid_classes(scores: Scores, classes: int, what: str) -> int:
    """Return the number of classes that are no padding."""
    if scores.classes is not None and scores.classes > classes:
        raise ValueError(f"valid_classes must be at most the number of classes, got {scores.classes}: {what}")
    return classes if scores.classes is None else int(scores.classes)


def forward_of(scores: Scores, real: Any) -> tuple[Any, tuple[float, ...]]:
    """Return the function of a logit that is scaled and capped, and its parameters in the computing type."""
    if scores.softcap is None:
        return times, representable((scores.scale,), real)
    return capped, representable((scores.scale, scores.softcap), real)


def back_of(scores: Scores, real: Any, second: bool = False) -> tuple[Any, tuple[float, ...], int]:
    """Return the function that carries a derivative back, its parameters, and how many operands it takes.

    They are the derivative and the logit as it was given; of the `second`, the second derivative, the first, the logit.
    """
    if scores.softcap is None:
        return times, representable((scores.scale * scores.scale if second else scores.scale,), real), 1
    params = representable((scores.scale, scores.softcap), real)
    return (uncapped_twice, params, 3) if second else (uncapped, params, 2)


def _changes(scores: Scores) -> list[str]:
    """Return the names of the options that are not what they are by default."""
    names = ("logit_scale", "softcap", "valid_classes", "z_loss", "returns")  # in the order of the fields
    return [name for name, value, plain in zip(names, scores, Scores(), strict=True) if value != plain]


class Blocks:
    """The blocks of rows of a kind of call whose logits change, and the plans of the loops for these."""

    def __init__(
        self,
        backend: Any,
        maths: RowMaths,
        params: tuple[float, ...],
        scores: Scores,
        split: Split,
        valid: int,
        numbers: RowNumbers,
    ) -> None:
        self.backend, self.maths, self.params, self.scores, self.numbers = backend, maths, params, scores, numbers
        self.real, self.ignore, self.split, self.valid = numbers.real, numbers.ignore, split, valid
        outer, _, inner = split
        step = max(1, BLOCK_BYTES // max(1, valid * inner * self.real.itemsize))
        self.bounds = [(start, min(start + step, outer)) for start in range(0, outer, step)] if inner else []
        self.planned: dict[int, Block] = {}

    def runner(self) -> Block:
        """Return what writes the results and returns (row of the first bad label or -1, reduced value).

        The value is None without rows. What the sum is divided by is 0 where the rows are to be counted. One block
        counts and checks its labels itself.
        """
        length, planned, plan = self.split[0], self.planned, self._plan

        def at_once(read: Any, values: Any, grads: Any, scale: float, by: Any, found: Sequence[Any]) -> tuple[int, Any]:
            block = planned.get(length) or plan(length, read, values, grads)
            return block(read, values, grads, scale, by, settings.check_indices, found)

        return at_once if len(self.bounds) == 1 else self._by_blocks if self.bounds else lambda *_: (-1, None)

    def without_padding(self, run: Block) -> Block:
        """Return `run`, after a look whether class probabilities lie on padding: nothing is written then."""
        backend, split, valid = self.backend, self.split, self.valid

        def checked(read: Any, *rest: Any) -> tuple[int, Any]:
            padding = backend.flat(read[1].reshape(split)[:, valid:])
            if backend.number(sum_of(backend, padding)) != 0:
                raise ValueError(f"target has probability on classes from valid_classes={valid} on")
            return run(read, *rest)

        return checked

    def _by_blocks(
        self, read: Any, values: Any, grads: Any, scale: float, by: Any, found: Sequence[Any]
    ) -> tuple[int, Any]:
        """Compute block by block, when all labels have been checked and counted."""
        x, operand, labels, weight, grad_output = read
        backend, (outer, classes, inner) = self.backend, self.split
        if labels is not ABSENT:
            used = weight if weight is ABSENT else weight[: self.valid]
            bad, counted = backend.survey(labels, used, self.valid, self.ignore, settings.check_indices, self.real)
            if bad >= 0:
                return bad, None
            by = counted if type(by) is int and by == 0 else by
        each = backend.empty((outer * inner,), self.real) if values is ABSENT else values
        for start, stop in self.bounds:
            rows, entries = slice(start * inner, stop * inner), slice(start * classes * inner, stop * classes * inner)
            of_entries = [one if one is ABSENT else one[entries] for one in (x, operand, *grads)]
            of_rows = [one if one is ABSENT else one[rows] for one in (labels, grad_output, each)]
            part = (*of_entries[:2], of_rows[0], weight, of_rows[1]), of_rows[2], of_entries[2:]
            block = self.planned.get(stop - start) or self._plan(stop - start, *part)
            block(*part, scale, by, False, [one[rows] for one in found])
        return -1, sum_of(backend, each, by) if values is ABSENT else 0.0

    def _plan(self, length: int, read: Any, values: Any, grads: Any) -> Block:
        """Plan blocks of `length` rows, from the arrays of one of them."""
        backend, numbers, (_, classes, inner), valid = self.backend, self.numbers, self.split, self.valid
        given, shape = (length, classes, inner), (length, valid, inner)
        make = backend.maker((math.prod(shape),), self.real)
        is_padded = valid < classes
        x = self._cut(read[0], given) if is_padded else read[0]
        forward = self._forward(x, make)
        # The first derivative may replace the logits, which the others are carried back with: it is the last.
        like, wanted = make(), [k for k in reversed(range(len(grads))) if grads[k] is not ABSENT]
        makes = [make if k in wanted else tuple for k in range(4)]  # an absent array is an empty tuple
        operands, results = (like, *self._used(read[1:], given)), (values, *map(call, makes))
        kernel = backend.plan_rowwise(self.maths, operands, results, self.params, shape, self.ignore, False)
        backs = [self._back(k, like, x, grads[k], given) for k in wanted]
        (code, queue), numbers_of, used = kernel.launch, kernel.numbers, self._used
        narrows = is_padded and not (read[1] is read[3] is ABSENT)

        def block(
            read: Any, each: Any, grads: Any, scale: float, by: Any, check: bool, found: Sequence[Any]
        ) -> tuple[int, Any]:
            x, *rest = read
            if is_padded:
                x = self._cut(x, given)
            if narrows:
                rest = used(rest, given)
            z, derivatives = forward(x), [*map(call, makes)]
            bad, total = code(z, *rest, each, *derivatives, *numbers_of(scale, by, check), queue(), True)
            if bad >= 0:
                return bad, total
            if found:
                numbers.write(found, z, rest[1], shape)
            for back in backs:
                back(grads, derivatives, x)
            return bad, total

        self.planned[length] = block
        return block

    def _used(self, operands: Sequence[Any], given: Split) -> Sequence[Any]:
        """Return the operands behind the logits without the padding of a block of the shape `given`."""
        probabilities, labels, weight, grad_output = operands
        valid = self.valid
        if valid == given[1]:
            return operands
        if probabilities is not ABSENT:
            probabilities = self._cut(probabilities, given)
        return probabilities, labels, weight if weight is ABSENT else weight[:valid], grad_output

    def _cut(self, array: Any, given: Split) -> Any:
        """Return a flat array of the shape `given` without its padding."""
        return self.backend.flat(array.reshape(given)[:, : self.valid])

    def _forward(self, x: Any, make: Callable[[], Any]) -> Callable[[Any], Any]:
        """Return what makes final logits of those like `x`, in the computing type."""
        if not self.scores.changes_logits and x.dtype == self.real:
            return lambda x: x
        point, params = forward_of(self.scores, self.real)
        write = writer(self.backend, point, (x,), self.real, params)

        def forward(x: Any) -> Any:
            z = make()
            write(z, x)
            return z

        return forward

    def _back(self, k: int, like: Any, x: Any, target: Any, given: Split) -> Callable[..., None]:
        """Return what writes derivative number `k`, with respect to logits like `x` or probabilities, to a target."""
        backend, valid, scores, dtype = self.backend, self.valid, self.scores, target.dtype
        shape, size, is_padded = (given[0], valid, given[2]), like.size, valid < given[1]
        if is_padded and not scores.changes_logits and dtype == self.real:
            pad = backend.pad
            return lambda grads, derivatives, x: pad(grads[k].reshape(given), derivatives[k].reshape(shape), valid)
        point, params, needed = (itself, (), 1) if k == 1 else back_of(scores, self.real, second=k == 3)
        operands = ((like,), (like, x), (like, like, x))[needed - 1]
        aliased = needed > 1 and not is_padded and backend.overlap(x, target)
        write = writer(backend, point, operands, dtype, params, aliased)

        def alone(grads: Sequence[Any], derivatives: list[Any], x: Any) -> None:
            write(grads[k], derivatives[k])

        def capped(grads: Sequence[Any], derivatives: list[Any], x: Any) -> None:
            write(grads[0], derivatives[0], x)

        def twice(grads: Sequence[Any], derivatives: list[Any], x: Any) -> None:
            write(grads[k], derivatives[k], derivatives[0], x)

        back = alone if needed == 1 else capped if k == 0 else twice

        def padded(grads: Sequence[Any], derivatives: list[Any], x: Any) -> None:
            made = [*grads]
            made[k] = backend.empty((size,), dtype)
            back(made, derivatives, x)
            backend.pad(grads[k].reshape(given), made[k].reshape(shape), valid)

        return padded if is_padded else back
