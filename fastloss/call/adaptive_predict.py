"""Log-probabilities and predictions of classes in clusters. See ``adaptive_softmax.py``."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastloss.call.adaptive_weights import Layers
from fastloss.call.array_ops import convert_into, in_type, map_into, run_rowwise
from fastloss.call.chunked_matmul import Products, chunks
from fastloss.call.planning import ABSENT
from fastloss.call.rowwise import value_only
from fastloss.define.descriptions import NO_INDEX, Clustered, RowMaths
from fastloss.define.point_maths import plus
from fastloss.runtime.dtypes import I64


def log_probabilities(maths: RowMaths, description: Clustered) -> Any:
    """Return the logarithm of the probability of every class; the entries of `maths` are a row's log-softmax."""
    layers = Layers(description)
    backend, x = layers.library.backend, layers.views[0]
    result = backend.empty((*x.shape[:-1], layers.classes), x.dtype)
    rows = layers.matrix(0)
    matrix = result.reshape((rows.shape[0], layers.classes))
    for start, stop in chunks(rows.shape[0], layers.classes * layers.real.itemsize, backend.chunk_times):
        target, head = matrix[start:stop], _head(layers, rows[start:stop])
        wide = target if x.dtype == layers.real else backend.empty(target.shape, layers.real)
        _fill(maths, layers, rows[start:stop], head, wide)
        if wide is not target:
            convert_into(backend, target, wide)
    return layers.library.wrap(result, getattr(description.input, "dtype", None))


def predictions(maths: RowMaths, description: Clustered) -> Any:
    """Return the most probable class of every row.

    Where the head's largest entry is a class, no class of a cluster is as probable: only the other rows need the tails.
    """
    layers = Layers(description)
    backend, x, real = layers.library.backend, layers.views[0], layers.real
    rows = layers.matrix(0)
    best = np.empty(rows.shape[0], I64)
    for start, stop in chunks(rows.shape[0], layers.classes * real.itemsize, backend.chunk_times):
        part = rows[start:stop]
        head = _head(layers, part)
        best[start:stop] = _largest(backend, head)
        chosen = np.flatnonzero(best[start:stop] >= layers.shortlist)
        if chosen.size:
            index = backend.upload(chosen)
            full = backend.empty((chosen.size, layers.classes), real)
            _fill(maths, layers, backend.take(part, index), backend.take(head, index), full)
            best[start + chosen] = _largest(backend, full)
    return layers.library.wrap(backend.upload(best).reshape(x.shape[:-1]), None)


def _largest(backend: Any, matrix: Any) -> Any:
    found = backend.empty(matrix.shape[:1], I64)
    backend.argmax(matrix, found)
    return backend.host(found)


def _head(layers: Layers, rows: Any) -> Any:
    """Return the head's logits of some rows."""
    return _logits(layers, rows, 1, layers.bias())


def _logits(layers: Layers, rows: Any, slot: int, bias: Any) -> Any:
    products = Products(layers.library.backend, layers.real, rows, layers.matrix(slot), (ABSENT,) * 3, True)
    return products.logits(0, rows.shape[0], bias)


def _fill(maths: RowMaths, layers: Layers, rows: Any, head: Any, target: Any) -> None:
    """Write the log-probabilities of some rows, whose logits `head` are overwritten, to a real matrix."""
    backend, real = layers.library.backend, layers.real
    _log_softmax(backend, maths, head)
    first = layers.shortlist
    backend.copy_into(target[:, :first], head[:, :first])
    wide = in_type(backend, rows, real)
    for k in range(layers.tails):
        projection = in_type(backend, layers.matrix(layers.tail_slot(k)), real)
        hidden = backend.empty((rows.shape[0], projection.shape[0]), real)
        backend.matmul(wide, projection.T, hidden)
        logits = _logits(layers, hidden, layers.tail_slot(k) + 1, ABSENT)
        _log_softmax(backend, maths, logits)
        cluster = backend.broadcast(head[:, first + k : first + k + 1], logits.shape)
        map_into(backend, plus, (logits, cluster), logits, aliased=True)
        backend.copy_into(target[:, layers.bounds[k] : layers.bounds[k + 1]], logits)


def _log_softmax(backend: Any, maths: RowMaths, matrix: Any) -> None:
    if not math.prod(matrix.shape):
        return
    logits, shape = matrix.reshape(-1), (*matrix.shape, 1)
    run_rowwise(backend, value_only(maths), (logits,), (ABSENT, logits), (1.0,), shape, NO_INDEX, replaces=True)
