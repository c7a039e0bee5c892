"""Every loss at high precision, an element, a row or a pair of vectors at a time, and how far computed numbers are off.

Gradients are numerical derivatives of the values, with so many digits that all which float64 could hold are right.
Errors are in ulp: units in the last place of the exact number, or of the largest of the terms that it is the difference
of (`scale`, `slope_scale`) where the loss is such a difference by its definition, such as x - t log x.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import mpmath as mp
import numpy as np

import fastloss as fl

DIGITS = 110

# Options that float32 holds exactly.
EPS, SMOOTHING = 2.0**-27, 0.125


class Exact(NamedTuple):
    """A loss with options: a sample of its arguments, and its exact value."""

    loss: str
    make: Callable[[Any, int], dict[str, Any]]
    value: Callable[..., Any]
    options: dict[str, Any] = {}  # noqa: RUF012 (a field of a tuple, never written)
    wrt: tuple[str, ...] = ("input",)
    scale: Callable[..., Any] | None = None
    slope_scale: Callable[..., Any] | None = None

    def __str__(self):
        return self.loss + "".join(f", {name}={value}" for name, value in self.options.items())


# -- samples ---------------------------------------------------------------------------------------------------------


def logits(rng, *shape):
    """Numbers of either sign, as many of each order of magnitude from 1e-4 to 80."""
    return rng.choice([-1.0, 1.0], shape) * 10 ** rng.uniform(-4, 1.9, shape)


def probabilities(rng, *shape):
    """Numbers in (0, 1), as many of each order of magnitude from 1e-10, and as near to 1."""
    near = np.minimum(10 ** rng.uniform(-10, -0.1, shape), 0.5)
    return np.where(rng.random(shape) < 0.5, near, 1 - np.maximum(near, 1e-7))


def yes_or_no(rng, *shape):
    return rng.integers(0, 2, shape).astype(float)


def vectors(rng, *shape):
    """Vectors, each of a length of its own from 1e-30 to 1e30."""
    return rng.normal(size=shape) * 10 ** rng.uniform(-30, 30, (*shape[:-1], 1))


def rows(rng, n, classes=5):
    """Rows of logits, some of them sure: two entries apart by up to 80."""
    x = logits(rng, n, classes) * rng.choice([0.1, 1.0], (n, 1))
    return x, np.where(rng.random(n) < 0.6, x.argmax(1), rng.integers(0, classes, n))


def indexed(rng, n):
    x, y = rows(rng, n)
    return {"input": x, "target": y}


def soft(rng, n):
    x, y = rows(rng, n)
    t = rng.dirichlet(np.ones(x.shape[1]), n)
    hard = rng.random(n) < 0.5
    t[hard] = np.eye(x.shape[1])[y[hard]]
    return {"input": x, "target": t}


def counts(rng, n):
    """Rates from 1e-3 to 1e7, and counts near to most of them."""
    rate = 10 ** rng.uniform(-3, 7, n)
    return rate, np.where(rng.random(n) < 0.7, np.round(rate * (1 + rng.normal(size=n) / 10)), rng.integers(0, 9, n))


# -- values ----------------------------------------------------------------------------------------------------------


def softplus(x):
    return mp.log1p(mp.exp(x))


def sigma(x):
    return 1 / (1 + mp.exp(-x))


def bce_with_logits(x, t, q=1):
    return q * t * softplus(-x) + (1 - t) * softplus(x)


def sigmoid_focal(x, t, gamma=2, alpha=0.25):
    miss = sigma(-x) if t else sigma(x)
    return miss**gamma * bce_with_logits(x, t) * (alpha if t else 1 - alpha)


def binary_focal(x, t, gamma=2, alpha=0.75):
    return -alpha * (1 - x) ** gamma * mp.log(x) if t else -(1 - alpha) * x**gamma * mp.log1p(-x)


def poisson(x, t, eps=EPS, log_input=True, full=False):
    rate, log_rate = (mp.exp(x), x) if log_input else (x, mp.log(x + eps))
    stirling = t * mp.log(t) - t + mp.log(2 * mp.pi * t) / 2 if full and t > 1 else 0
    return rate - t * log_rate + stirling


def gaussian(x, t, v):
    return (mp.log(v) + (x - t) ** 2 / v) / 2


def log_sum(x):
    return mp.log(mp.fsum(mp.exp(z) for z in x))


def cross_entropy(x, t, label_smoothing=0):
    """Against a class index, or probabilities."""
    share = mp.mpf(label_smoothing) / len(x)
    t = t if isinstance(t, list) else [mp.mpf(k == t) for k in range(len(x))]
    whole = log_sum(x)
    return mp.fsum(((1 - label_smoothing) * q + share) * (whole - z) for q, z in zip(t, x, strict=True))


def symmetric(x, y):
    floor, whole = mp.mpf("1e-4"), log_sum(x)
    p = [mp.exp(z - whole) for z in x]
    reverse = -mp.log(floor) * mp.fsum(max(q, floor) for k, q in enumerate(p) if k != y)
    return whole - x[y] + reverse


def generalized(x, y, q=0.75):
    return -mp.expm1(q * (x[y] - log_sum(x))) / q


def dice(x, t, smooth=1):
    overlap = mp.fsum(u * v for u, v in zip(x, t, strict=True))
    return 1 - (2 * overlap + smooth) / (mp.fsum(x) + mp.fsum(t) + smooth)


def multi_margin(x, y, p=1, margin=1):
    return mp.fsum(max(0, margin - x[y] + z) ** p for k, z in enumerate(x) if k != y) / len(x)


def _logit_scale(x, y, *_):
    """What the rounding of differences of logits may make of a cross-entropy: no more than that of the logits."""
    t = y if isinstance(y, list) else [mp.mpf(k == y) for k in range(len(x))]
    whole = log_sum(x)
    return _largest(x) * mp.fsum(abs(mp.exp(z - whole) - q) for z, q in zip(x, t, strict=True))


def _softmax_scale(args, name, i):
    x, whole = args[0], log_sum(args[0])
    p = mp.exp(x[i] - whole)
    rest = mp.fsum(mp.exp(z - whole) for k, z in enumerate(x) if k != i)
    return _largest(x) * p * (rest if x[i] == max(x) else 1)


def _power_scale(args, name, i):
    """What the rounding of a difference of logits makes of p_y**q (p - [y])."""
    x, y = args
    whole = log_sum(x)
    return _largest(x) * mp.exp((x[y] - whole) * 3 / 4) * abs(mp.exp(x[i] - whole) - (i == y))


def norm(d, p=2):
    if mp.isinf(p):
        return max(map(abs, d))
    return mp.fsum(abs(u) ** p for u in d) ** (1 / mp.mpf(p))


def distance(a, b, p=2, eps=0):
    return norm([u - v + eps for u, v in zip(a, b, strict=True)], p)


def cosine(a, b, eps2=0):
    dot = mp.fsum(u * v for u, v in zip(a, b, strict=True))
    return dot / mp.sqrt((mp.fsum(u * u for u in a) + eps2) * (mp.fsum(v * v for v in b) + eps2))


def cosine_embedding(a, b, y):
    c = cosine(a, b, mp.mpf(1e-12))
    return 1 - c if y == 1 else max(0, c)


def triplet(a, p, n, eps=0, margin=1, order=2):
    return max(0, distance(a, p, order, eps) - distance(a, n, order, eps) + margin)


def _largest(*arrays):
    return max(abs(u) for a in arrays for u in (a if isinstance(a, list) else [a]))


def _inner_scale(a, b, *_):
    return norm([u * v for u, v in zip(a, b, strict=True)], 1) / norm(a) / norm(b)


def _cosine_slope_scale(args, name, i):
    own, other = args[:2] if name in ("x1", "input1") else (args[1], args[0])
    return (_largest(other) / norm(other) + _largest(own) / norm(own)) / norm(own)


PAIRS = {"wrt": ("x1", "x2")}


def _pair_of(rng, n):
    return {"x1": vectors(rng, n, 4), "x2": np.zeros((n, 4))}


def _two(rng, n):
    return {"x1": vectors(rng, n, 4), "x2": vectors(rng, n, 4)}


def _embedded(rng, n):
    a, b = rng.normal(size=(2, n, 4)) * 10 ** rng.uniform(-3, 25, (2, n, 1))
    return {"input1": a, "input2": b, "target": rng.choice([-1.0, 1.0], n)}


def _three(rng, n):
    return dict(zip(("anchor", "positive", "negative"), rng.normal(size=(3, n, 4)) * 10 ** rng.uniform(-2, 2, (n, 1)),
                    strict=True))  # fmt: skip


def _poisson_terms(log_input):
    def scale(x, t):
        rate, log_rate = (mp.exp(x), x) if log_input else (x, mp.log(x))
        return max(rate, abs(t * log_rate))

    return scale


def _poisson_rates(rng, n):
    rate, t = counts(rng, n)
    return {"input": rate, "target": t}


def _poisson_logs(rng, n):
    rate, t = counts(rng, n)
    return {"input": np.log(rate), "target": t}


def _elements(*makers, names=("input", "target")):
    return lambda rng, n: {name: make(rng, n) for name, make in zip(names, makers, strict=True)}


NEAR = _elements(logits, logits)
CLASSIFIED = _elements(logits, yes_or_no)
POSITIVE = _elements(logits, logits, lambda rng, n: 10 ** rng.uniform(-5, 5, n), names=("input", "target", "var"))
WEIGHTS = ("input", "target", "pos_weight")
WEIGHTED = _elements(logits, yes_or_no, lambda rng, n: 10 ** rng.uniform(-2, 2, n), names=WEIGHTS)
SIGNED = _elements(logits, lambda rng, n: rng.choice([-1.0, 1.0], n))

EXACT = [
    Exact("mse_loss", NEAR, lambda x, t: (x - t) ** 2),
    Exact("l1_loss", NEAR, lambda x, t: abs(x - t)),
    Exact("smooth_l1_loss", NEAR, lambda x, t: (x - t) ** 2 / 2 if abs(x - t) < 1 else abs(x - t) - mp.mpf(0.5)),
    Exact("huber_loss", NEAR, lambda x, t: (x - t) ** 2 / 2 if abs(x - t) <= 1 else abs(x - t) - mp.mpf(0.5)),
    Exact("poisson_nll_loss", _poisson_logs, poisson, scale=_poisson_terms(True),
          slope_scale=lambda a, name, i: mp.exp(a[0])),
    Exact("poisson_nll_loss", _poisson_rates, lambda x, t: poisson(x, t, log_input=False, eps=EPS),
          {"log_input": False, "eps": EPS}, scale=_poisson_terms(False)),
    Exact("poisson_nll_loss", _poisson_logs, lambda x, t: poisson(x, t, full=True), {"full": True},
          scale=lambda x, t: abs(mp.exp(x) - t) + (0 if t > 1 else mp.exp(x) + abs(t * x)),
          slope_scale=lambda a, name, i: mp.exp(a[0])),
    Exact("poisson_nll_loss", _poisson_rates,
          lambda x, t: poisson(x, t, log_input=False, full=True, eps=EPS),
          {"log_input": False, "full": True, "eps": EPS}, scale=lambda x, t: 0 if t > 1 else x + abs(t * mp.log(x))),
    Exact("gaussian_nll_loss", POSITIVE, gaussian, wrt=("input", "target", "var"),
          scale=lambda x, t, v: max(abs(mp.log(v)), (x - t) ** 2 / v) / 2,
          slope_scale=lambda a, name, i: (a[0] - a[1]) ** 2 / a[2] ** 2 if name == "var" else 0),
    Exact("kl_div", _elements(lambda rng, n: -abs(logits(rng, n)), probabilities), lambda x, t: t * (mp.log(t) - x),
          scale=lambda x, t: abs(t * mp.log(t))),
    Exact("kl_div", _elements(lambda rng, n: -abs(logits(rng, n)), lambda rng, n: -abs(logits(rng, n))),
          lambda x, t: mp.exp(t) * (t - x), {"log_target": True}),
    Exact("binary_cross_entropy_with_logits", CLASSIFIED, bce_with_logits),
    Exact("binary_cross_entropy_with_logits", WEIGHTED, bce_with_logits),
    Exact("binary_cross_entropy", _elements(probabilities, yes_or_no),
          lambda x, t: -mp.log(x) if t else -mp.log1p(-x)),
    Exact("soft_margin_loss", SIGNED, lambda x, t: softplus(-t * x)),
    Exact("hinge_embedding_loss", SIGNED, lambda x, t: x if t == 1 else max(0, 1 - x)),
    Exact("sigmoid_focal_loss", CLASSIFIED, sigmoid_focal),
    Exact("binary_focal_loss", _elements(probabilities, yes_or_no), binary_focal),
    Exact("sigmoid", _elements(logits, names=("input",)), sigma),
    Exact("logsigmoid", _elements(logits, names=("input",)), lambda x: -softplus(-x)),
    Exact("quantile_loss", NEAR, lambda x, t: max((t - x) / 4, (x - t) * 3 / 4), {"q": 0.25}),
    Exact("dice_loss", lambda rng, n: {"input": probabilities(rng, n, 5), "target": yes_or_no(rng, n, 5)}, dice),
    Exact("margin_ranking_loss", lambda rng, n: {"input1": logits(rng, n), "input2": logits(rng, n),
                                                 "target": rng.choice([-1.0, 1.0], n)},
          lambda a, b, y: max(0, -y * (a - b)), wrt=("input1", "input2")),
    Exact("nll_loss", indexed, lambda x, y: -x[y]),
    Exact("cross_entropy", indexed, cross_entropy, scale=_logit_scale, slope_scale=_softmax_scale),
    Exact("cross_entropy", indexed, lambda x, y: cross_entropy(x, y, SMOOTHING), {"label_smoothing": SMOOTHING},
          scale=_logit_scale, slope_scale=lambda a, name, i: max(_softmax_scale(a, name, i), SMOOTHING / len(a[0]))),
    Exact("cross_entropy", soft, cross_entropy, scale=_logit_scale,
          slope_scale=lambda a, name, i: max(_softmax_scale(a, name, i), a[1][i] if max(a[1]) < 1 else 0)),
    Exact("symmetric_cross_entropy", indexed, symmetric, scale=_logit_scale,
          slope_scale=lambda a, name, i: _largest(a[0]) * mp.exp(a[0][i] - log_sum(a[0]))),
    Exact("generalized_cross_entropy", indexed, generalized, {"q": 0.75}, scale=_logit_scale,
          slope_scale=_power_scale),
    Exact("logsumexp", lambda rng, n: {"input": rows(rng, n)[0]}, log_sum, {"dim": 1},
          scale=lambda x: abs(max(x)), slope_scale=_softmax_scale),
    Exact("multi_margin_loss", indexed, multi_margin, scale=lambda x, y: 1 + _largest(x)),
    Exact("multi_margin_loss", indexed, lambda x, y: multi_margin(x, y, 2), {"p": 2},
          scale=lambda x, y: (1 + _largest(x)) ** 2, slope_scale=lambda a, name, i: 1 + _largest(a[0])),
    Exact("multilabel_soft_margin_loss", lambda rng, n: {"input": logits(rng, n, 5), "target": yes_or_no(rng, n, 5)},
          lambda x, t: mp.fsum(map(bce_with_logits, x, t)) / len(x)),
    Exact("pairwise_distance", _pair_of, distance, {"eps": 0.0}, **PAIRS),
    Exact("pairwise_distance", _pair_of, lambda a, b: distance(a, b, 1), {"p": 1.0, "eps": 0.0}, **PAIRS),
    Exact("pairwise_distance", _pair_of, lambda a, b: distance(a, b, 3), {"p": 3.0, "eps": 0.0}, **PAIRS),
    Exact("pairwise_distance", _pair_of, lambda a, b: distance(a, b, mp.inf), {"p": np.inf, "eps": 0.0}, **PAIRS),
    Exact("pairwise_distance", _pair_of, lambda a, b: distance(a, b, mp.mpf(0.5)), {"p": 0.5, "eps": 0.0}, **PAIRS),
    Exact("pairwise_distance", _pair_of, lambda a, b: distance(a, b, -2), {"p": -2.0, "eps": 0.0}, **PAIRS),
    Exact("cosine_similarity", _two, cosine, {"eps": 0.0}, **PAIRS, scale=_inner_scale,
          slope_scale=_cosine_slope_scale),
    Exact("cosine_embedding_loss", _embedded, cosine_embedding, wrt=("input1", "input2"), scale=lambda *_: 1,
          slope_scale=_cosine_slope_scale),
    Exact("triplet_margin_loss", _three, triplet, {"eps": 0.0}, wrt=("anchor", "positive", "negative"),
          scale=lambda a, p, n: 1 + distance(a, p) + distance(a, n), slope_scale=lambda a, name, i: 1),
    Exact("triplet_margin_with_distance_loss", _three, lambda a, p, n: triplet(a, p, n, order=1),
          {"distance_function": "manhattan"}, wrt=("anchor", "positive", "negative"),
          scale=lambda a, p, n: 1 + distance(a, p, 1) + distance(a, n, 1)),
]  # fmt: skip


# -- errors ----------------------------------------------------------------------------------------------------------


def numbers_of(entry):
    """Return an entry of an array, a number or a vector, as mpmath's; integers as they are."""
    if entry.ndim:
        return [mp.mpf(float(u)) for u in entry]
    return int(entry) if entry.dtype.kind == "i" else mp.mpf(float(entry))


def ulp(found, exact, scale, dtype):
    """Return the error in units of the last place of the exact number or the scale, of the smallest normal at least.

    A result that must be below the smallest normal number may be 0, and one past the largest number infinite.
    """
    info = np.finfo(dtype)
    if abs(exact) < info.smallest_normal and abs(found) <= 2 * info.smallest_normal:
        return 0.0
    if abs(exact) > float(info.max) * (1 - 1e-6):
        return 0.0 if np.isinf(found) or abs(found) > 0.99 * info.max else np.inf
    if not np.isfinite(found):
        return np.inf
    size = max(abs(exact), min(scale, float(info.max)), float(info.smallest_normal))
    return float(abs(mp.mpf(float(found)) - exact) / float(np.spacing(dtype(size))))


def partial(value, args, k, i, order=1):
    """Return the derivative of the value with respect to entry `i` of argument `k`, a number where `i` is None."""

    def moved(u):
        changed = list(args)
        changed[k] = u if i is None else [*args[k][:i], u, *args[k][i + 1 :]]
        return value(*changed)

    at = args[k] if i is None else args[k][i]
    return mp.diff(moved, at, order, h=mp.mpf(10) ** -45 * (abs(at) or mp.mpf(10) ** -30))


def by_kernels(case, arrays):
    none = {"reduction": "none"} if takes_reduction(case) else {}
    return fl.value_and_grad(getattr(fl, case.loss), case.wrt)(**arrays, **case.options, **none)


def errors(case, dtype, n, seed=0, compute=by_kernels):
    """Return the worst errors in ulp of value and gradient over a sample of `n` elements, rows or pairs."""
    arrays = {name: a if a.dtype.kind == "i" else a.astype(dtype)
              for name, a in case.make(np.random.default_rng(seed), n).items()}  # fmt: skip
    found, slopes = compute(case, arrays)
    slopes = dict(zip(case.wrt, slopes, strict=True))
    worst = [0.0, 0.0]
    with mp.workdps(DIGITS):
        for row in range(n):
            args = [numbers_of(a[row]) for a in arrays.values()]
            scale = case.scale(*args) if case.scale else 0
            worst[0] = max(worst[0], ulp(found[row], case.value(*args), scale, dtype))
            for name, slope in slopes.items():
                k = list(arrays).index(name)
                for i in range(len(args[k])) if isinstance(args[k], list) else (None,):
                    if i is not None and args[k][i] == 0:
                        continue
                    scale = case.slope_scale(args, name, i) if case.slope_scale else 0
                    computed = slope[row] if i is None else slope[row, i]
                    worst[1] = max(worst[1], ulp(computed, partial(case.value, args, k, i), scale, dtype))
    return tuple(worst)


def takes_reduction(case):
    return "reduction" in inspect.signature(getattr(fl, case.loss)).parameters


def title(case):
    """Return the loss and its options for a table."""
    options = ", ".join(f"{name}={value!r}" for name, value in case.options.items() if name not in ("eps", "dim"))
    form = {soft: "class probabilities", WEIGHTED: "pos_weight"}.get(case.make, "")
    return f"`{case.loss}`" + "".join(f", {text}" for text in (options, form) if text)
