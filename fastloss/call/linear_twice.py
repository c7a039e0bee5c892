"""The gradient of a linear map's weight in a second pass over the rows, one block of classes after the other.

Several chunks of rows add up that gradient in the computing type. Where it has a narrower type itself, the sum lies
beside it: for 151,936 classes of 1024 bfloat16 features in 594 MiB. Where that is too much, the chunks leave it out,
and keep of every row its log-sum-exp and what its softmax is multiplied by. The logits of a block of classes are then
computed once more, for all rows, and from these the block of the gradient: a fourth matrix product beside three.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.call.array_ops import convert_into, in_type, map_into, run_rowwise
from fastloss.call.chunked_matmul import Products, part
from fastloss.call.planning import ABSENT
from fastloss.define.descriptions import RowMaths
from fastloss.define.point_maths import scaled_softmax
from fastloss.define.row_numbers import ROW_NUMBERS, factor_of

# Bytes of the largest sum that lies beside the weight's gradient.
SUM_BYTES = 64 << 20

# Bytes of a block of the weight, of its gradient, of what is added to that, and of the rows of the input that are
# multiplied by it. The logits of a block lie in the memory of a chunk's.
BLOCK_BYTES = 8 << 20


class SecondPass:
    """What is kept of the rows of a call, and the pass that reads it.

    `maths` and `params` are those of the row loss, `split` is (rows, classes, positions) of the logits.
    """

    def __init__(
        self, products: Products, maths: RowMaths, params: tuple[float, ...], ignore: int, split: tuple[int, int, int]
    ) -> None:
        self.products, self.backend, self.real, self.split = products, products.backend, products.real, split
        self._maths, self._params, self._ignore = (ROW_NUMBERS["lse", True], factor_of(maths)), params, ignore
        self._sums, self._factors, self._at_targets = np.empty((3, split[0] * split[2]), self.real)

    def keep_rows(self, start: int, stop: int, logits: Any, labels: Any, class_weight: Any) -> None:
        """Keep the numbers of rows `start` to `stop`, whose final logits are about to be replaced."""
        _, classes, positions = self.split
        places, shape = slice(start * positions, stop * positions), (stop - start, classes, positions)
        for maths, numbers in zip(self._maths, (self._sums, self._factors), strict=True):
            operands = (logits.reshape(-1), ABSENT, labels, class_weight)
            run_rowwise(self.backend, maths, operands, (numbers[places],), self._params, shape, self._ignore)

    def keep_targets(self, start: int, stop: int, gradient: Any, labels: Any) -> None:
        """Keep the targets' entries of the gradient of the logits as they were given."""
        rows, entries = self._targets(labels, 0, self.split[1])
        self._at_targets[start * self.split[2] : stop * self.split[2]][rows] = gradient.reshape(-1)[entries]

    def write(
        self,
        target: Any,
        bias: Any,
        labels: Any,
        grad_output: Any,
        scale: float,
        forward: Callable[[Any, Any], None],
        back: Callable[[Any, Any, Any], None] | None,
    ) -> None:
        """Write the gradient of the weight to `target`.

        `forward` writes final logits; `back` carries their gradient back, to where the logits lie. It is None where
        the logits are final.
        """
        batch, classes, positions = self.split
        most, logits, beside = BLOCK_BYTES // (target.shape[1] * self.real.itemsize), self.products.memory, None
        if back is not None:
            logits, beside = logits[: logits.size // 2], logits[logits.size // 2 :]
        step = max(1, min(classes, most // positions, logits.size // positions))
        length = max(1, min(batch, most, logits.size // (step * positions)))
        for first in range(0, classes, step):
            block = slice(first * positions, min(first + step, classes) * positions)
            weight = in_type(self.backend, self.products.w[block], self.real)
            total, product = (self.backend.empty(weight.shape, self.real) for _ in range(2))
            self.backend.fill(total, 0.0)
            for start in range(0, batch, length):
                stop = min(start + length, batch)
                rows, places = self.products.rows(start, stop), slice(start * positions, stop * positions)
                z = logits[: len(rows) * len(weight)].reshape(len(rows), len(weight))
                self.backend.matmul(rows, weight.T, z)
                if bias is not ABSENT:
                    self.backend.add_to(z, bias[block])
                final = z if beside is None else beside[: z.size].reshape(z.shape)
                forward(z, final)
                self._differentiate(final, part(grad_output, places), places, scale)
                if back is not None:
                    back(final, z, z)
                own, entries = self._targets(labels[places], first, len(weight) // positions)
                z.reshape(-1)[entries] = self._at_targets[places][own]
                self.backend.matmul(z.T, rows, product)
                self.backend.add_to(total, product)
            convert_into(self.backend, target[block], total)

    def _differentiate(self, logits: Any, grad_output: Any, places: slice, scale: float) -> None:
        """Replace final logits by their gradient, right but at the targets, whose entries have been kept."""
        shape = len(logits), -1, self.split[2]
        z, scale = logits.reshape(shape), scale if grad_output is ABSENT else 1.0
        sums, factors, above = (
            one if one is ABSENT else self.backend.broadcast(one.reshape(shape), z.shape)
            for one in (self._sums[places], self._factors[places], grad_output)
        )
        operands = (z, sums, factors, above)
        map_into(self.backend, scaled_softmax, operands, logits, (scale,), True)

    def _targets(self, labels: Any, first: int, classes: int) -> tuple[Any, Any]:
        """Return which of some rows have a target among `classes` from `first` on, and where in these logits it is."""
        positions, index = self.split[2], self.backend.host(labels) - first
        rows = np.flatnonzero((index >= 0) & (index < classes))
        row, position = np.divmod(rows, positions)
        return rows, (row * classes + index[rows]) * positions + position
