"""The calling path of losses over classes in clusters, see ``_call.py``.

The head runs over all rows, each tail over the rows whose class it holds. Logits exist chunk by chunk, as in
``_projected.py``; beyond those a tail takes copies of its rows of the input.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastloss.call.array_ops import convert_into, factor_type, in_type, map_into, negated, sum_of
from fastloss.call.checks import Shape, check_labels
from fastloss.call.adaptive_weights import HEAD, Layers
from fastloss.runtime.settings import settings
from fastloss.call.outputs import ABSENT, Argument, Outputs, Request, given_gradients, upstream_of
from fastloss.call.chunked_matmul import Products, chunks, multiply_into, part
from fastloss.call.rowwise import out_of_range
from fastloss.define.descriptions import NO_INDEX, Clustered, Loss, RowMaths


class AdaptiveOutput(NamedTuple):
    """What :func:`fastloss.adaptive_log_softmax_with_loss` returns: log-probabilities of the targets, and the loss."""

    output: Any
    loss: Any


def clustered(record: Loss, job: Clustered, request: Request) -> Any:
    """Compute a loss over classes in clusters."""
    if job.target is None:
        raise TypeError("target must be an array, got None")
    layers = Layers(job)
    space, real, views = layers.space, layers.real, layers.views
    backend, x = space.backend, views[0]
    target = space.view(job.target, "target")
    rows: Shape = x.shape[:-1]
    check_labels(target, rows, (*rows, layers.classes), "log-probabilities")

    mode = request.mode
    flat_request = _flattened(request, layers)
    arguments = tuple([Argument(*three) for three in zip(layers.names, layers.arrays, views, strict=True)])
    outputs = Outputs(record, space, flat_request, arguments, None)
    outputs.want_values(rows, mode.value)
    scale, _ = upstream_of(space, request, True, ())
    outputs.check_read(target=target)
    outputs.detach(views)

    count = math.prod(rows)
    labels = backend.flat(target)
    if settings.check_indices and count:
        strange, _ = backend.survey(labels, ABSENT, layers.classes, NO_INDEX, True, real)
        if strange >= 0:
            raise out_of_range(backend, labels, strange, rows, layers.classes)
    values = backend.zeros((count,), real) if mode.value else ABSENT
    run = _Run(job.maths, layers, outputs.grads, values, scale / count if count else 0.0, backend.host(labels))
    run.head()
    for k in range(layers.tails):
        run.tail(k)
    run.finish()
    total: Any = math.nan
    if mode.value and count:
        total = sum_of(backend, values, count)
        map_into(backend, negated, (values,), backend.flat(outputs.values))
    return _regrouped(outputs.finish(None), space.scalar(total, x.dtype) if mode.value else None, mode, layers.tails)


class _Run:
    """One call: the parts of the loss one after the other, each adding to values and gradients."""

    def __init__(
        self, maths: RowMaths, layers: Layers, grads: list[Any], values: Any, scale: float, labels: Any
    ) -> None:
        self.maths, self.layers, self.values, self.scale = maths, layers, values, scale
        self.backend, self.real = layers.space.backend, layers.real
        self.x = layers.matrix(0)
        self.grads = [g if g is ABSENT else g.reshape(self._shape(slot)) for slot, g in enumerate(grads)]
        d_input = self.grads[0]
        # Head and tails add up in the computing type: in the gradient itself if it has that.
        direct = d_input is ABSENT or d_input.dtype == self.real
        self.d_input = d_input if direct else self.backend.empty(d_input.shape, self.real)
        # The class of a row if the head holds it, else the entry of its cluster; -1 where it does not exist.
        self.cluster = np.searchsorted(layers.bounds, labels, side="right")  # 0: the head
        self.places = np.where(self.cluster == 0, labels, layers.shortlist + self.cluster - 1)
        self.places[(labels < 0) | (labels >= layers.classes)] = -1
        self.labels = labels

    def _shape(self, slot: int) -> Shape:
        shape: Shape = self.layers.views[slot].shape
        return shape if slot == 2 or len(shape) == 2 else (1, *shape)

    def head(self) -> None:
        """Run over all rows and the classes of the head."""
        w = self.layers.matrix(1)
        gradients = (self.d_input, self.grads[1], self.grads[2])
        self._softmax(self.x, w, gradients, self.backend.on_device(self.places), self.values, self.layers.bias())

    def tail(self, k: int) -> None:
        """Run over the rows whose class lies in a cluster."""
        backend, real = self.backend, self.real
        slot = self.layers.tail_slot(k)
        projection, w = self.layers.matrix(slot), self.layers.matrix(slot + 1)
        d_projection, d_w = self.grads[slot], self.grads[slot + 1]
        chosen = np.flatnonzero((self.cluster == k + 1) & (self.places >= 0))
        if chosen.size == 0:
            for gradient in (d_projection, d_w):
                if gradient is not ABSENT:
                    backend.fill(gradient, 0.0)
            return
        index = backend.on_device(chosen)
        kind = factor_type(backend, real, self.x, projection, w)
        rows = in_type(backend, backend.take(self.x, index), kind)
        wide = in_type(backend, projection, kind)
        hidden = backend.empty((chosen.size, wide.shape[0]), kind)
        backend.matmul(rows, wide.T, hidden)
        wanted = self.d_input is not ABSENT or d_projection is not ABSENT
        d_hidden = backend.empty(hidden.shape, kind) if wanted else ABSENT
        values = backend.empty((chosen.size,), real) if self.values is not ABSENT else ABSENT
        labels = backend.on_device(self.labels[chosen] - self.layers.bounds[k])
        self._softmax(hidden, w, (d_hidden, d_w, ABSENT), labels, values, ABSENT)
        if values is not ABSENT:
            backend.add_rows(self.values, index, values)
        if d_projection is not ABSENT:
            multiply_into(backend, d_hidden.T, rows, d_projection, real)
        if self.d_input is not ABSENT:
            product = rows if kind == real else backend.empty(rows.shape, real)
            backend.matmul(d_hidden, wide, product)
            backend.add_rows(self.d_input, index, product)

    def _softmax(self, x: Any, w: Any, gradients: tuple[Any, Any, Any], labels: Any, values: Any, bias: Any) -> None:
        """Run the row loss of the logits ``x @ w.T + bias``, chunk by chunk."""
        batch, columns = x.shape[0], w.shape[0]
        bounds = chunks(batch, columns * self.real.itemsize, self.backend.chunk_times)
        products = Products(self.backend, self.real, x, w, gradients, len(bounds) == 1)
        if batch == 0:
            for gradient in gradients:
                if gradient is not ABSENT:
                    self.backend.fill(gradient, 0.0)
            return
        for start, stop in bounds:
            chunk = products.logits(start, stop, bias)
            logits, gradient, places = chunk.reshape(-1), products.gradient_of(chunk), slice(start, stop)
            self.backend.rowwise(
                self.maths, logits, ABSENT, labels[places], ABSENT, ABSENT, (1.0 / columns,), self.scale, 1,
                (stop - start, columns, 1), NO_INDEX, False, part(values, places),
                (gradient if gradient is ABSENT else gradient.reshape(-1), ABSENT, ABSENT), ABSENT,
            )  # fmt: skip
            products.carry_back(start, stop, gradient)
        products.finish()

    def finish(self) -> None:
        """Round what was added up."""
        if self.d_input is not self.grads[0]:
            convert_into(self.backend, self.grads[0], self.d_input)


def _flattened(request: Request, layers: Layers) -> Request:
    """Return a request that names every array by itself."""
    names: list[str] = []
    given: list[Any] = []
    arrays = given_gradients(request, len(request.mode.wrt))
    for number, name in enumerate(request.mode.wrt):
        nested = name == "tail_weights"
        names += layers.names[HEAD:] if nested else [name]
        if arrays is not None:
            given += [one for pair in arrays[number] for one in pair] if nested else [arrays[number]]
    mode = request.mode._replace(wrt=tuple(names), single=False)
    return Request(mode, request.grad_output, None if arrays is None else tuple(given), request.out)


def _regrouped(results: Any, loss: Any, mode: Any, tails: int) -> Any:
    """Return the results of a flattened request as they were asked for."""
    if not mode.wrt:
        return AdaptiveOutput(results, loss)
    output, gradients = results if mode.value else (None, results)
    left: Iterator[Any] = iter(gradients)
    grouped = tuple(
        [
            tuple([(next(left), next(left)) for _ in range(tails)]) if name == "tail_weights" else next(left)
            for name in mode.wrt
        ]
    )
    answer = grouped[0] if mode.single else grouped
    return (AdaptiveOutput(output, loss), answer) if mode.value else answer
