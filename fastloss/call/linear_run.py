"""Runs losses of rows behind a linear map, at once or chunk by chunk, as ``linear.py`` plans them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastloss.call import linear_twice
from fastloss.call.array_ops import convert_into, in_type, scale_into, sum_of, writer
from fastloss.call.checks import representable
from fastloss.call.chunked_matmul import Products, chunks, part
from fastloss.call.planning import ABSENT, Planning
from fastloss.call.request import Request
from fastloss.call.row_numbers import RowNumbers
from fastloss.call.rowwise import out_of_range
from fastloss.call.scored import back_of, forward_of
from fastloss.define.descriptions import NO_INDEX, Projected, RowMaths, Scores
from fastloss.runtime.plans import KernelPlan
from fastloss.runtime.settings import settings

INPUT, WEIGHT, TARGET, BIAS, CLASS_WEIGHT = range(5)  # slots of the gradients


class _Chunked(NamedTuple):
    """What the chunks of a call share: the matrix products, the arrays of rows, and where each chunk writes."""

    products: Products
    second: linear_twice.SecondPass | None
    bias: Any
    of_rows: tuple[Any, ...]
    each: Any  # the value of each row
    d_target: Any
    by_class: Any  # the gradient of the class weights
    found: Sequence[Any]  # what is returned beside the loss
    scale: float
    by: Any


class LinearRun:
    """What all calls of a kind have in common: the shapes, the chunks, and the plans of the row loss for these."""

    def __init__(self, planning: Planning, description: Projected, soft: bool, real: Any, scale: Any) -> None:
        rows, mode = description.rows, planning.mode
        x, w = description.input.view, description.linear_weight.view
        self.backend, self.real, self.soft, self.scale = planning.library.backend, real, soft, scale
        self.valued = mode.value
        self.maths: RowMaths = rows.maths if rows.soft is None or not soft else rows.soft
        self.logit_scale = description.logit_scale
        self.each, self.averages = rows.reduction == "none", rows.reduction == "mean"
        self.weighs = self.averages and rows.mean == "weights" and not soft
        self.batch, self.features = (x.shape[0] if x.ndim == 2 else 1), x.shape[-1]
        self.scores, inner = rows.scores or Scores(), w.shape[1:-1]
        self.forward, self.back = forward_of(self.scores, real), back_of(self.scores, real)
        self.classes = self.scores.classes or w.shape[0]
        self.positions = math.prod(inner)
        self.columns, self.shape = self.classes * self.positions, (self.classes, self.positions)
        self.whole = math.prod(w.shape[:-1])  # the columns with those that are padding
        self.count = self.batch * self.positions
        self.results = (*x.shape[:-1], *inner)
        self.ignore = NO_INDEX if rows.ignore_index is None else int(rows.ignore_index)
        self.params = representable((*rows.params, 1.0 / max(1, self.classes)), real)
        doubled = "weight" in mode.wrt
        ask = description.chunk_rows
        wanted = None if ask is None else ask(self.batch, self.features, self.classes)
        row_bytes = self.columns * real.itemsize * (1 + doubled + (self.scores.softcap is not None))
        self.bounds = chunks(self.batch, row_bytes, self.backend.chunk_times, wanted) if self.count else []
        self.wanted = bool(mode.wrt)
        self.at_once = len(self.bounds) == 1 and x.dtype == w.dtype == real and not doubled and rows.scores is None
        self.numbers = RowNumbers(self.backend, real, self.scores, self.ignore)
        self.target = description.names[2] if len(description.names) > 2 else "target"
        self.multiply = self.backend.multiplier(self.batch * self.columns * self.features)
        self.ones: Any = None
        self.plans: dict[int, KernelPlan] = {}
        self.maps: dict[tuple[str, int, bool], Any] = {}

    def run(
        self,
        read: list[Any],
        arrays: tuple[Any, ...],
        request: Request,
        values: Any,
        grads: tuple[Any, ...],
        divisor: float,
        found: Sequence[Any],
    ) -> Any:
        """Write the results, flat arrays, and return the reduced value; both are divided by `divisor` too."""
        backend = self.backend
        if self.count == 0:
            for gradient in grads:
                if gradient is not ABSENT:
                    backend.fill(gradient, 0.0)
            return math.nan if self.averages else 0.0
        x, w, target, bias, class_weight, grad_output = read
        labels, operand = (ABSENT, target) if self.soft else (target, ABSENT)
        scale = (self.scale(arrays, request) if callable(self.scale) else self.scale) / divisor
        x, w = x.reshape((self.batch, self.features)), w.reshape((self.whole, self.features))
        padded = grads if self.columns < self.whole else ()
        if padded:
            w, grads = w[: self.columns], self._without_padding(grads)
            bias = bias if bias is ABSENT else bias[: self.columns]
            class_weight = class_weight if class_weight is ABSENT else class_weight[: self.classes]
        bias = bias if bias is ABSENT else in_type(backend, bias, self.real)
        of_rows = (operand, labels, class_weight, grad_output)
        if self.at_once:
            total = self._at_once(x, w, bias, of_rows, scale, values, grads)
        else:
            total = self._by_chunks(x, w, bias, of_rows, scale, values, grads, padded, found)
        return total if divisor == 1 else total / divisor

    def _without_padding(self, grads: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the parts of the gradients that belong to classes."""
        parts = list(grads)
        for slot, size in ((WEIGHT, self.columns * self.features), (BIAS, self.columns)):
            if parts[slot] is not ABSENT:
                parts[slot] = parts[slot][:size]
        return tuple(parts)

    def _at_once(
        self, x: Any, w: Any, bias: Any, of_rows: tuple[Any, ...], scale: float, values: Any, grads: tuple[Any, ...]
    ) -> Any:
        """Compute all rows as one chunk, whose row loss counts and checks the labels by itself."""
        backend, real = self.backend, self.real
        logits = backend.empty((self.batch, self.columns), real)
        if self.logit_scale != 1:
            scaled = backend.empty(x.shape, real)
            scale_into(backend, scaled, x, self.logit_scale)
            x = scaled
        self.multiply(x, w.T, logits)
        if bias is not ABSENT:
            backend.add_to(logits, bias)
        flat = logits.reshape(-1)
        by = 0 if self.weighs else self.count if self.averages else 1
        results = (values, flat if self.wanted else ABSENT, grads[TARGET], ABSENT, ABSENT)
        total = self._rows(self.batch, (flat, *of_rows), results, self.wanted, scale, by, settings.check_indices)
        if grads[WEIGHT] is not ABSENT:
            self.multiply(logits.T, x, grads[WEIGHT].reshape(w.shape))
        if grads[BIAS] is not ABSENT:
            ones = self.ones
            if ones is None:
                ones = backend.empty((1, self.batch), real)
                backend.fill(ones, 1.0)
                self.ones = ones  # filled, as other threads find it
            self.multiply(ones, logits, grads[BIAS].reshape((1, self.columns)))
        if grads[INPUT] is not ABSENT:  # last: it may lie in the input
            d_input = grads[INPUT].reshape(x.shape)
            self.multiply(logits, w, d_input)
            scale_into(backend, d_input, d_input, self.logit_scale)
        return total

    def _by_chunks(
        self,
        x: Any,
        w: Any,
        bias: Any,
        of_rows: tuple[Any, ...],
        scale: float,
        values: Any,
        grads: tuple[Any, ...],
        padded: tuple[Any, ...],
        found: Sequence[Any],
    ) -> Any:
        """Compute chunk by chunk, all labels checked and counted; `padded` are gradients of more classes than count."""
        backend, real = self.backend, self.real
        _, labels, class_weight, grad_output = of_rows
        divisor = self._divisor(labels, class_weight)
        for slot in (WEIGHT, BIAS):
            if padded and padded[slot] is not ABSENT:
                backend.fill(padded[slot], 0.0)
        by: Any = divisor
        if isinstance(divisor, float | int):
            # The row loss would take 0 for "count them yourself", and see one chunk of them.
            scale, by = scale / divisor if divisor else scale * math.inf, 1

        each: Any = ABSENT
        direct = values is not ABSENT and values.dtype == real
        if self.valued:
            each = values if direct else backend.empty((self.count,), real)
        matrices = [
            gradient if gradient is ABSENT else gradient.reshape(matrix.shape)
            for gradient, matrix in zip(grads[:2], (x, w), strict=True)
        ]
        # Weights that sum to 0 make all NaN but rows that are ignored, which the row loss tells apart.
        whole, later = len(self.bounds) == 1, self._writes_later(x, *matrices) and math.isfinite(scale)
        products = Products(backend, real, x, w, (*matrices, grads[BIAS]), whole, self.logit_scale, later)
        split = self.batch, *self.shape
        second = linear_twice.SecondPass(products, self.maths, self.params, self.ignore, split) if later else None
        by_class = ABSENT if grads[CLASS_WEIGHT] is ABSENT else backend.zeros((self.classes,), real)
        chunked = _Chunked(products, second, bias, of_rows, each, grads[TARGET], by_class, found, scale, by)
        for start, stop in self.bounds:
            self._chunk(chunked, start, stop)
        products.finish()
        if second is not None:
            back = self._back if self.scores.changes_logits else None
            second.write(matrices[1], bias, labels, grad_output, scale, self._forward, back)
        if by_class is not ABSENT:
            convert_into(backend, grads[CLASS_WEIGHT], by_class)
        if self.valued and not self.each:
            return sum_of(backend, each, divisor)
        if self.valued and not direct:
            convert_into(backend, values, each)
        return None

    def _chunk(self, chunked: _Chunked, start: int, stop: int) -> None:
        """Compute the rows from `start` to `stop`: their logits, the row loss, and what it adds to the gradients."""
        backend, (products, second, bias, of_rows, each, d_target, by_class, *_) = self.backend, chunked
        operand, labels, class_weight, grad_output = of_rows
        chunk = products.logits(start, stop, bias)
        carried = gradient = products.gradient_of(chunk)
        final = chunk
        if self.scores.softcap is not None and gradient is not ABSENT:  # which is carried back with the logits
            final = gradient = backend.empty(chunk.shape, self.real)
        self._forward(chunk, final)
        # Where the rows of the chunk lie in arrays of a number for each row, and in arrays like the logits.
        places = slice(start * self.positions, stop * self.positions)
        entries = slice(start * self.columns, stop * self.columns)
        d_weight = ABSENT if by_class is ABSENT else backend.empty((chunk.size,), self.real)
        operands = (part(operand, entries), part(labels, places), class_weight, part(grad_output, places))
        if chunked.found:
            written = [one[places] for one in chunked.found]
            self.numbers.write(written, final.reshape(-1), operands[1], (stop - start, *self.shape))
        if second is not None:
            second.keep_rows(start, stop, final, operands[1], class_weight)
        flat = gradient if gradient is ABSENT else gradient.reshape(-1)
        results = (part(each, places), flat, part(d_target, entries), d_weight, ABSENT)
        arrays, in_place = (final.reshape(-1), *operands), gradient is final
        self._rows(stop - start, arrays, results, in_place, chunked.scale, chunked.by, False)
        if gradient is not ABSENT:
            self._back(gradient, chunk, carried)
            gradient = carried
        if second is not None:
            second.keep_targets(start, stop, gradient, operands[1])
        products.carry_back(start, stop, gradient)
        if by_class is not ABSENT:
            lying = d_weight.reshape((stop - start, self.classes, self.positions))
            backend.add_to(by_class, backend.sum_to(lying, (self.classes, 1)).reshape((self.classes,)))

    def _writes_later(self, x: Any, d_input: Any, d_weight: Any) -> bool:
        """Return whether the weight's gradient is left to a second pass, which reads the input again."""
        if d_weight is ABSENT or d_weight.dtype == self.real or len(self.bounds) == 1 or self.backend.waits:
            return False
        is_large = d_weight.size * self.real.itemsize > linear_twice.SUM_BYTES
        suits = self.maths.proportional and self.classes > 1
        return is_large and suits and (d_input is ABSENT or not self.backend.overlap(x, d_input))

    def _forward(self, logits: Any, final: Any) -> None:
        """Write what is scaled and capped of logits; it may replace them."""
        if self.scores.changes_logits:
            point, params = self.forward
            self._map("forward", point, params, (logits.reshape(-1),), final.reshape(-1), final is logits)

    def _back(self, gradient: Any, logits: Any, target: Any) -> None:
        """Write the gradient of logits, from that of final ones; it may replace either."""
        if self.scores.changes_logits:
            point, params, needed = self.back
            read = (gradient.reshape(-1), logits.reshape(-1))[:needed]
            self._map("back", point, params, read, target.reshape(-1), target is logits or target is gradient)

    def _map(self, name: str, point: Any, params: tuple[float, ...], read: Any, target: Any, aliased: bool) -> None:
        """Write a function of elements; `aliased`: to one of the arrays that are read."""
        write = self.maps.get((name, target.size, aliased))
        if write is None:
            write = writer(self.backend, point, read, target.dtype, params, aliased)
            self.maps[name, target.size, aliased] = write
        write(target, *read)

    def _divisor(self, labels: Any, class_weight: Any) -> Any:
        """Check the labels of all chunks before the first one, and return what the sum is divided by."""
        divisor = self.count if self.averages else 1
        if self.soft or not (settings.check_indices or self.weighs):
            return divisor
        bad, counted = self.backend.survey(
            labels, class_weight, self.classes, self.ignore, settings.check_indices, self.real
        )
        self._refuse(labels, bad)
        return counted if self.weighs else divisor

    def _rows(
        self,
        length: int,
        operands: tuple[Any, ...],
        results: tuple[Any, ...],
        replaces: bool,
        scale: float,
        by: Any,
        check: bool,
    ) -> Any:
        """Compute the row loss of a chunk, and return its reduced value."""
        kernel = self.plans.get(length)
        if kernel is None:
            shape = (length, self.classes, self.positions)
            kernel = self.plans[length] = self.backend.plan_rowwise(
                self.maths, operands, results, self.params, shape, self.ignore, replaces
            )
        bad, total = kernel.run(operands, results, scale, by, check)
        self._refuse(operands[2], bad)
        return total

    def _refuse(self, labels: Any, bad: int) -> None:
        if bad >= 0:
            raise out_of_range(self.backend, labels, bad, self.results, self.classes, self.target)
