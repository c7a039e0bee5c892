"""Plans losses over classes in clusters.

The head runs over all rows, each tail over the rows whose class it holds. Logits exist chunk by chunk, as behind a
linear map; beyond those a tail takes copies of its rows of the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastloss.call.adaptive_weights import HEAD, Layers
from fastloss.call.array_ops import convert_into, factor_type, in_type, map_into, run_rowwise, sum_of
from fastloss.call.checks import Shape, check_labels
from fastloss.call.chunked_matmul import Products, chunks, multiply_into, part
from fastloss.call.outputs import Argument, Outputs
from fastloss.call.plan import Plan
from fastloss.call.planning import ABSENT, Operand, Planning, several
from fastloss.call.request import Mode, Request
from fastloss.call.rowwise import out_of_range
from fastloss.define.descriptions import NO_INDEX, Clustered, RowMaths
from fastloss.define.point_maths import negated
from fastloss.runtime.settings import settings


class AdaptiveOutput(NamedTuple):
    """What :func:`fastloss.adaptive_log_softmax_with_loss` returns: log-probabilities of the targets, and the loss."""

    output: Any
    loss: Any


def plan(planning: Planning, description: Clustered) -> Plan:
    """Plan a loss over classes in clusters, of this call alone: its tails are read from sequences."""
    planning.kept = False
    mode = planning.mode
    layers = Layers(description._replace(**{name: _given(getattr(description, name)) for name in _OPERANDS}))
    library, real, views = layers.library, layers.real, layers.views
    planning.library, backend, x = library, library.backend, views[0]
    target = description.target
    labels_view = planning.see(target, "target")
    rows: Shape = x.shape[:-1]
    check_labels(labels_view, rows, (*rows, layers.classes), "log-probabilities")

    operands = [
        None if array is None else planning.operand(name, array)
        for name, array in zip(layers.names, layers.arrays, strict=True)
    ]
    arguments = tuple(
        [None if operand is None else Argument(operand, planning.see(operand, operand.name)) for operand in operands]
    )
    _flatten(planning, layers)
    outputs = Outputs(planning, arguments, None, slots=1 + len(arguments))
    outputs.want_values(rows, True)
    scale, _ = planning.take_grad_output(True, ())
    outputs.check_read(target=target)
    outputs.detach(operands)
    count = math.prod(rows)
    results, flattened = outputs.plan(), planning.request

    def compute(arrays: tuple[Any, ...], request: Request) -> Any:
        made = results.made(arrays)
        values, *grads = results.order((*made, ABSENT))
        labels = backend.flat(labels_view)
        if settings.check_indices and count:
            bad, _ = backend.survey(labels, ABSENT, layers.classes, NO_INDEX, True, real)
            if bad >= 0:
                raise out_of_range(backend, labels, bad, rows, layers.classes)
        factor = scale(arrays, request) if callable(scale) else scale
        each = backend.zeros((count,), real) if mode.value else ABSENT
        run = _Run(description.maths, layers, grads, each, factor / count if count else 0.0, backend.host(labels))
        run.head()
        for k in range(layers.tails):
            run.tail(k)
        run.finish()
        total: Any = math.nan
        if mode.value and count:
            total = sum_of(backend, each, count)
            map_into(backend, negated, (each,), backend.flat(values))
        made = results.finished(made, arrays, flattened)
        output = AdaptiveOutput(made[0], library.scalar(total, x.dtype)) if mode.value else None
        return _answer(output, made[mode.value :], mode, layers.tails)

    return Plan(compute)


_OPERANDS = ("input", "target", "head_weight", "head_bias")


def _given(operand: Operand | None) -> Any:
    return None if operand is None else operand.given


class _Run:
    """One call: the parts of the loss one after the other, each adding to values and gradients."""

    def __init__(
        self, maths: RowMaths, layers: Layers, grads: list[Any], values: Any, scale: float, labels: Any
    ) -> None:
        self.maths, self.layers, self.values, self.scale = maths, layers, values, scale
        self.backend, self.real = layers.library.backend, layers.real
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
        self._softmax(self.x, w, gradients, self.backend.upload(self.places), self.values, self.layers.bias())

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
        index = backend.upload(chosen)
        kind = factor_type(backend, real, self.x, projection, w)
        rows = in_type(backend, backend.take(self.x, index), kind)
        wide = in_type(backend, projection, kind)
        hidden = backend.empty((chosen.size, wide.shape[0]), kind)
        backend.matmul(rows, wide.T, hidden)
        wanted = self.d_input is not ABSENT or d_projection is not ABSENT
        d_hidden = backend.empty(hidden.shape, kind) if wanted else ABSENT
        values = backend.empty((chosen.size,), real) if self.values is not ABSENT else ABSENT
        labels = backend.upload(self.labels[chosen] - self.layers.bounds[k])
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
            gradient, places, shape = products.gradient_of(chunk), slice(start, stop), (stop - start, columns, 1)
            operands = (chunk.reshape(-1), ABSENT, labels[places])
            results = (part(values, places), gradient if gradient is ABSENT else gradient.reshape(-1))
            replaces, params = gradient is chunk, (0.0, 1.0 / columns)  # as cross_entropy has them: the same kernel
            run_rowwise(self.backend, self.maths, operands, results, params, shape, NO_INDEX, self.scale, replaces)
            products.carry_back(start, stop, gradient)
        products.finish()

    def finish(self) -> None:
        """Round what was added up."""
        if self.d_input is not self.grads[0]:
            convert_into(self.backend, self.grads[0], self.d_input)


def _flatten(planning: Planning, layers: Layers) -> None:
    """Have every array differentiated by itself: a pair of `tail_weights` is two."""
    request, mode = planning.request, planning.mode
    names: list[str] = []
    given: list[Any] = []
    arrays = None
    if request.grad_out is not None:
        arrays = several(request.grad_out, len(mode.wrt), mode.single)
    for number, name in enumerate(mode.wrt):
        nested = name == "tail_weights"
        names += layers.names[HEAD:] if nested else [name]
        if arrays is not None:
            given += [one for pair in arrays[number] for one in pair] if nested else [arrays[number]]
    planning.mode = mode._replace(wrt=tuple(names), single=False)
    planning.request = request._replace(mode=planning.mode, grad_out=None if arrays is None else tuple(given))
    planning.targets = [planning.operand("grad_out", array) for array in given]


def _answer(output: AdaptiveOutput | None, gradients: Sequence[Any], mode: Mode, tails: int) -> Any:
    """Return the output and the gradients of single arrays as they were asked for."""
    if not mode.wrt:
        return output
    left = iter(gradients)
    grouped = tuple(
        [
            tuple([(next(left), next(left)) for _ in range(tails)]) if name == "tail_weights" else next(left)
            for name in mode.wrt
        ]
    )
    answer = grouped[0] if mode.single else grouped
    return (output, answer) if mode.value else answer
