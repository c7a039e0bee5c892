"""The losses without their kernels: scalar functions called as what they are, plain Python, and loops of a few lines.

What a kernel needs seconds of compilation for is looked at here in microseconds, at any point and with every option:
the maths alone, that is, while the loops, layouts and reductions are for the tests of the kernels. Numbers are NumPy's
scalars, which divide by 0 as a kernel does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastloss.define.descriptions import Elementwise, LabelSets, OfDistances, Pairwise, Penalty, RowMap, Rowwise
from fastloss.define.registry import LOSSES

NAN = np.nan


class Computed(NamedTuple):
    """The value of every element, row or pair, its derivatives by name, and the second one in the first argument."""

    value: Any
    slopes: dict[str, Any]
    second: Any


def described(loss, arrays, options):
    record = LOSSES[loss]
    unreduced = {"reduction": "none"} if "reduction" in record.options else {}
    return record.describe(**arrays, **options, **unreduced)


def computed(loss, arrays, options, hard=False):
    """Return what a loss computes of arrays: of equal shapes for elements, (N, C) for rows, (N, D) for vectors.

    `hard` takes the functions for targets that are all 0 or 1, where there are such.
    """
    job = described(loss, arrays, options)
    compute = {Elementwise: _elements, Rowwise: _rows, Pairwise: pairs, LabelSets: _sets, Penalty: _penalty}
    with np.errstate(all="ignore"):
        return compute[type(job)](job, hard) if hard else compute[type(job)](job)


def is_plain(loss, arrays, options):
    """Return whether `computed` takes a loss with these arrays."""
    kind = type(described(loss, arrays, options))
    axes = {a.ndim for name, a in arrays.items() if name not in ("target", "weight", "pos_weight", "var")}
    return kind is Elementwise or (kind not in (OfDistances, RowMap) and kind in _KINDS and axes == {2})


_KINDS = (Elementwise, Rowwise, Pairwise, LabelSets, Penalty)


def _numbers(params, kind):
    return tuple([kind(number) for number in params])


def _elements(job, hard=False):
    arrays = [np.asarray(a) for a in job.arrays]
    point = getattr(job.point, "hard", job.point) if hard else job.point
    T, shape = arrays[0].dtype.type, np.broadcast_shapes(*[a.shape for a in arrays])
    arrays = [np.broadcast_to(a, shape) for a in arrays]
    value, second = np.empty(shape, T), np.empty(shape, T)
    slopes = [np.full(shape, NAN, T) for _ in arrays]
    for k in np.ndindex(shape):
        value[k], found, second[k] = point(*[T(a[k]) for a in arrays], *_numbers(job.params, T))
        for slope, one in zip(slopes, found, strict=False):
            slope[k] = one
    return Computed(value, dict(zip(job.names, slopes, strict=True)), second)


def _rows(job):
    x, T = job.input, job.input.dtype.type
    soft = job.soft is not None and job.target.shape == x.shape
    labels = job.target if job.maths.indexed and not soft else [None] * len(x)
    maths = job.soft if soft else job.maths
    weight = np.ones(x.shape[1], T) if job.weight is None else job.weight
    targets = np.ones_like(x) if job.target is None or job.target.shape != x.shape else job.target
    params = _numbers((*job.params, 1 / x.shape[1]), T)
    rows = [row_of(maths, *row, weight, params) for row in zip(x, targets, labels, strict=True)]
    value, slopes, second = zip(*rows, strict=True)
    names = ("input", "target", "weight")
    parts = {name: np.array([s[k] for s in slopes]) for k, name in enumerate(names) if k < len(slopes[0])}
    return Computed(np.array(value), parts, np.array(second))


def row_of(maths, x, t, label, w, params):
    """Return value, derivatives (one row for each argument) and second derivatives of a row."""
    T, indexed = x.dtype.type, label is not None
    top = x.max() if maths.softmax else T(0)
    z = x - top
    largest = int(x.argmax())
    others = np.delete(np.exp(z), largest).sum() + z[largest] if maths.softmax else T(0)  # z is 0 there, or NaN
    p = np.exp(z) / (1 + others) if maths.softmax else np.zeros_like(z)
    logsum, p_others = np.log1p(others), others / (1 + others)
    zy, wy, py = (z[label], w[label], p[label]) if indexed else (T(0), T(1), T(0))
    sums = np.zeros(3, T)
    if maths.terms is not None:
        for j in range(len(x)):
            sums += maths.terms(z[j], p[j], t[j], w[j], indexed and j == label, zy, wy, params)
    value, coefs = maths.finish(top, logsum, tuple(sums), zy, wy, p_others, py, params)
    entries = [maths.entry(z[j], p[j], t[j], w[j], False, coefs, params) for j in range(len(x))]
    if indexed:
        entries[label] = maths.entry(zy, py, T(0), wy, True, coefs, params)
    slopes, second = zip(*entries, strict=True)
    return value, np.array(slopes).T, np.array(second)


def mapped(maths, x, upstream):
    """Return the results of a function of rows, the gradient of Σ upstream · results, and its diagonal Hessian."""
    with np.errstate(all="ignore"):
        found = [
            row_of(maths, row, g, None, np.ones_like(row), (x.dtype.type(1),))
            for row, g in zip(x, upstream, strict=True)
        ]
    return tuple(np.array(part) for part in zip(*[(s[0], s[1], h) for _, s, h in found], strict=True))


def pairs(job):
    """The vectors of a pair lie along the last axis."""
    arrays = np.broadcast_arrays(*job.arrays)
    T, maths = arrays[0].dtype.type, job.maths
    params = _numbers(job.params, T)
    labels = np.zeros(len(arrays[0])) if job.target is None else job.target
    value, slopes, second = [], [], []
    for y, *vectors in zip(labels, *arrays, strict=True):
        components = [(*each, *[T(0)] * (3 - len(each))) for each in zip(*[v.astype(T) for v in vectors], strict=True)]
        ones = (T(1), T(1), T(1))
        tops = ones
        if maths.peaks:
            tops = tuple(np.max([maths.peaks(*each, params) for each in components], axis=0))
        sums = _sums(maths, components, tops, params)
        again = maths.again(sums, params) if maths.again else ones
        if again != ones:
            tops, sums = again, _sums(maths, components, again, params)
        one, coefs = maths.finish(sums, tops, T(y), params)
        entries = [maths.entry(*each, coefs, params) for each in components]
        value.append(one)
        slopes.append([entry[0] for entry in entries])
        second.append([entry[1] for entry in entries])
    parts = np.moveaxis(np.array(slopes), -1, 0)
    return Computed(np.array(value), dict(zip(job.names, parts, strict=False)), np.array(second))


def _sums(maths, components, tops, params):
    found = [maths.terms(*each, tops, params) for each in components]
    T = type(components[0][0])
    return tuple([T(sum(map(float, part))) for part in zip(*found, strict=True)])


def _sets(job):
    x, T = job.input, job.input.dtype.type
    value, slope = np.zeros(len(x), T), np.zeros_like(x)
    for n, (row, listed) in enumerate(zip(x, job.target, strict=True)):
        end = np.flatnonzero(listed < 0)
        listed = listed[: end[0]] if len(end) else listed
        for y in listed:
            for c in set(range(len(row))) - set(listed.tolist()):
                one, (outside, inside), _ = job.point(row[c], row[y])
                value[n] += one / len(row)
                slope[n, c] += outside / len(row)
                slope[n, y] += inside / len(row)
    return Computed(value, {"input": slope}, np.zeros_like(x))


def _penalty(job):
    """The values of single parameters, whose sum the loss is."""
    T = job.params.dtype.type
    found = [job.point(p, T(job.coefficient)) for p in job.params]
    value, slopes, second = zip(*found, strict=True)
    return Computed(np.array(value), {"params": np.array([s[0] for s in slopes])}, np.array(second))
