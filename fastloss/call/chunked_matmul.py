"""The matrix products around the logits of a chunk of rows, summed in float32 or float64. Part of the calling path."""

from __future__ import annotations

from typing import Any

from fastloss.call.array_ops import blocks, convert_into, factor_type, in_type, scale_into
from fastloss.call.planning import ABSENT

# Bytes of the chunk of logits. A matrix product packs its larger operand anew for every chunk, so short chunks are
# slow. Value and gradient in float32 on two cores with AVX-512: of 2048 rows, 512 features and 32768 classes, with
# chunks of 32, 64 and 128 MiB, 1211, 1107 and 1007 ms, of which products of everything at once would take 947; torch's
# cross_entropy(linear(x, w), t) takes 1552. With 32, 64, 128 and 256 MiB: of 4096, 256 and 50257 2303, 2177, 1855 and
# 1770 ms, of 1024, 1024 and 32768 1140, 1014, 889 and 885. An EPYC minds less: of 2048, 512 and 16384 with 32, 64 and
# 128 MiB 393, 378 and 383.
CHUNK_BYTES = 128 << 20


def chunks(batch: int, row_bytes: int, times: int, rows: int | None = None) -> list[tuple[int, int]]:
    """Return the first and one past the last row of every chunk: of so many `rows`, or within CHUNK_BYTES `times` over.

    `times` is the backend's: a product of few rows reads the weight for nothing, and a device needs more rows to be
    busy with the product: each chunk of 256 MiB has 512 rows of 131072 classes.
    """
    if rows is None:
        most = max(1, times * CHUNK_BYTES // max(1, row_bytes))
        rows = max(1, -(-batch // max(1, -(-batch // most))))  # even chunks
    return [(start, min(start + rows, batch)) for start in range(0, batch, rows)]


def part(array: Any, stretch: slice) -> Any:
    """Return a stretch of an array that may be absent."""
    return array if array is ABSENT else array[stretch]


def multiply_into(backend: Any, a: Any, b: Any, target: Any, real: Any, scale: float = 1.0) -> None:
    """Write `scale` times a matrix product to an array of any dtype; where it must be, by way of `real`."""
    fits = target.dtype == real or (target.dtype == a.dtype and scale == 1)
    product = target if fits else backend.empty(target.shape, real)
    backend.matmul(a, b, product)
    scale_into(backend, target, product, scale)


class Products:
    """The products of one call: logits of a chunk, and where their gradient goes.

    `d_input`, `d_weight` and `d_bias` are the gradients to be written, flat or (rows, features), absent ones ``()``.
    `whole`: there is one chunk only, so that a block of the weight's gradient is final once computed. The logits are
    multiplied by `scale`: the rows of the input are, of which there are fewer. `later`: the weight's gradient is
    wanted, but written by others.
    """

    def __init__(
        self,
        backend: Any,
        real: Any,
        x: Any,
        w: Any,
        gradients: tuple[Any, ...],
        whole: bool,
        scale: float = 1.0,
        later: bool = False,
    ) -> None:
        self.backend, self.real, self.x, self.w, self.scale = backend, real, x, w, scale
        self.columns, self.features = w.shape
        self.kind = factor_type(backend, real, x, w)
        self.blocks = blocks(self.columns, self.features, real.itemsize, backend.chunk_times)
        self.wanted = any(gradient is not ABSENT for gradient in gradients)
        self.d_input, self.d_weight, self.d_bias = gradients
        if later:
            self.d_weight = ABSENT
        # Several chunks add up in the computing type: in the gradient itself if it has that.
        direct = self.d_weight is ABSENT or self.d_weight.dtype == real or whole
        self.sum_weight = self.d_weight if direct else backend.empty(self.d_weight.shape, real)
        self.sum_bias: Any = ABSENT if self.d_bias is ABSENT else backend.zeros((1, self.columns), real)
        self.memory: Any = ABSENT
        self.factors: Any = ABSENT

    def rows(self, start: int, stop: int) -> Any:
        """Return rows of the input as factors of the logits."""
        rows = self.x[start:stop]
        if self.scale == 1:
            return in_type(self.backend, rows, self.kind)
        scaled = self.backend.empty(rows.shape, self.kind)
        scale_into(self.backend, scaled, rows, self.scale)
        return scaled

    def logits(self, start: int, stop: int, bias: Any) -> Any:
        """Return the logits of rows `start` to `stop`, in memory that the next chunk uses again."""
        backend, size = self.backend, (stop - start) * self.columns
        if self.memory is ABSENT:
            self.memory = backend.empty((size,), self.real)
        chunk = self.memory[:size].reshape((stop - start, self.columns))
        rows = self.rows(start, stop)
        if self.w.dtype == self.kind:
            backend.matmul(rows, self.w.T, chunk)
        else:
            for block in self.blocks:
                backend.matmul(rows, in_type(backend, self.w[block], self.real).T, chunk[:, block])
        if bias is not ABSENT:
            backend.add_to(chunk, bias)
        return chunk

    def gradient_of(self, chunk: Any) -> Any:
        """Return where the gradient of a chunk of logits is to be written, before it is carried back.

        That is over them, or beside them where factors have another type; nowhere if nobody wants it.
        """
        if not self.wanted or self.kind == self.real:
            return chunk if self.wanted else ABSENT
        if self.factors is ABSENT:
            self.factors = self.backend.empty(self.memory.shape, self.kind)
        return self.factors[: chunk.size].reshape(chunk.shape)

    def carry_back(self, start: int, stop: int, chunk: Any) -> None:
        """Add the products of a chunk of the logits' gradient to the gradients of weight, bias and input."""
        backend, real = self.backend, self.real
        if self.d_weight is not ABSENT:
            rows = self.rows(start, stop)
            self._to_weight(rows, chunk, start == 0)
        if self.sum_bias is not ABSENT:
            ones = backend.empty((1, stop - start), self.kind)
            backend.fill(ones, 1.0)
            sums = backend.empty((1, self.columns), real)
            backend.matmul(ones, chunk, sums)
            backend.add_to(self.sum_bias, sums)
        if self.d_input is not ABSENT:  # last: it may lie in the input
            self._to_input(self.d_input[start:stop], chunk)

    def _to_weight(self, rows: Any, chunk: Any, first: bool) -> None:
        backend, total = self.backend, self.sum_weight
        if first and total.dtype in (self.real, self.kind):
            backend.matmul(chunk.T, rows, total)
            return
        if not first and backend.adds_products:
            backend.matmul(chunk.T, rows, total, add=True)
            return
        memory = backend.empty((self.blocks[0].stop, self.features), self.real)
        for block in self.blocks:
            product = memory[: block.stop - block.start]
            backend.matmul(chunk[:, block].T, rows, product)
            if first:
                convert_into(backend, total[block], product)
            else:
                backend.add_to(total[block], product)

    def _to_input(self, target: Any, chunk: Any) -> None:
        backend, real = self.backend, self.real
        if self.w.dtype == self.kind:
            multiply_into(backend, chunk, self.w, target, real, self.scale)
            return
        product = backend.zeros(target.shape, real)
        part = backend.empty(target.shape, real)
        for block in self.blocks:
            backend.matmul(chunk[:, block], in_type(backend, self.w[block], real), part)
            backend.add_to(product, part)
        scale_into(backend, target, product, self.scale)

    def finish(self) -> None:
        """Round what several chunks added up."""
        if self.sum_weight is not self.d_weight:
            convert_into(self.backend, self.d_weight, self.sum_weight)
        if self.sum_bias is not ABSENT:
            convert_into(self.backend, self.d_bias, self.sum_bias.reshape((self.columns,)))
