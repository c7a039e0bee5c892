"""Plain NumPy: value and gradient of the common losses as a careful user of NumPy writes them.

Intermediate results are shared between value and gradient and written over where that is natural; nothing is fused, and
there is one thread. Means are NumPy's, in float32.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.bench.cases import Case
from fastloss.bench.contenders import Contender, Outcome, Prepared


def _mse(x: Any, t: Any) -> Any:
    r = x - t
    return np.vdot(r, r) / r.size, np.multiply(r, 2 / r.size, out=r)


def _l1(x: Any, t: Any) -> Any:
    r = x - t
    return np.abs(r).mean(), np.sign(r) / r.size


def _huber(x: Any, t: Any) -> Any:
    r = x - t
    clipped = np.clip(r, -1, 1)
    r -= 0.5 * clipped
    return np.vdot(clipped, r) / r.size, clipped / r.size


def _poisson(x: Any, t: Any) -> Any:
    e = np.exp(x)
    return (e - t * x).mean(), (e - t) / x.size


def _gaussian(x: Any, t: Any, var: Any) -> Any:
    v = np.maximum(var, 1e-6)
    r = x - t
    scaled = r / v
    r *= scaled
    value = 0.5 * (np.log(v) + r).mean()
    return value, scaled / x.size, 0.5 / x.size * (1 - r) / v * (var >= 1e-6)


def _cross_entropy_of_probabilities(x: Any, t: Any) -> Any:
    u, v = np.maximum(np.log(x), -100), np.maximum(np.log1p(-x), -100)
    return (t * (v - u) - v).mean(), (x - t) / np.maximum(x * (1 - x), 1e-12) / x.size


def _sigmoid_of(x: Any) -> tuple[Any, Any]:
    """Return the sigmoid and log(1 + exp(-|x|)), neither of which overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e), np.log1p(e)


def _cross_entropy_of_logits(x: Any, t: Any) -> Any:
    p, log1p = _sigmoid_of(x)
    return (np.maximum(x, 0) - t * x + log1p).mean(), (p - t) / x.size


def _soft_margin(x: Any, t: Any) -> Any:
    z = -t * x
    p, log1p = _sigmoid_of(z)
    return (np.maximum(z, 0) + log1p).mean(), -t * p / x.size


def _hinge_embedding(x: Any, t: Any) -> Any:
    like, rest = t == 1, 1 - x
    slope = np.where(like, 1, np.where(rest > 0, -1, 0)).astype(x.dtype)
    return np.where(like, x, np.maximum(rest, 0)).mean(), slope / x.size


def _sigmoid(x: Any) -> Any:
    p, _ = _sigmoid_of(x)
    return p, p * (1 - p)


def _logsigmoid(x: Any) -> Any:
    p, log1p = _sigmoid_of(-x)
    return np.minimum(x, 0) - log1p, p


def _shifted_exp(x: Any) -> tuple[Any, Any, Any, Any]:
    """Return x less its maximum, its exponentials, their sum, and the maximum, row by row."""
    top = x.max(axis=1, keepdims=True)
    z = x - top
    e = np.exp(z)
    return z, e, e.sum(axis=1, keepdims=True), top


def _softmax(x: Any) -> Any:
    _, e, total, _ = _shifted_exp(x)
    e /= total
    return e, e * (1 - e.sum(axis=1, keepdims=True))


def _log_softmax(x: Any) -> Any:
    z, e, total, _ = _shifted_exp(x)
    z -= np.log(total)
    e *= -x.shape[1] / total
    e += 1
    return z, e


def _logsumexp(x: Any) -> Any:
    _, e, total, top = _shifted_exp(x)
    e /= total
    return (np.log(total) + top)[:, 0], e


def _cross_entropy(x: Any, t: Any) -> Any:
    z, e, total, _ = _shifted_exp(x)
    rows = np.arange(len(x))
    value = (np.log(total[:, 0]) - z[rows, t]).mean()
    e /= total
    e[rows, t] -= 1
    e /= len(x)
    return value, e


def _nll(x: Any, t: Any) -> Any:
    rows = np.arange(len(x))
    gradient = np.zeros_like(x)
    gradient[rows, t] = -1 / len(x)
    return -x[rows, t].mean(), gradient


def _multi_margin(x: Any, t: Any) -> Any:
    rows = np.arange(len(x))
    h = 1 - x[rows, t][:, None] + x
    h[rows, t] = 0
    np.maximum(h, 0, out=h)
    value = h.sum() / x.size
    gradient = (h > 0).astype(x.dtype)
    gradient[rows, t] = -gradient.sum(axis=1)
    gradient /= x.size
    return value, gradient


def _kl(x: Any, t: Any) -> Any:
    return (t * (np.log(t) - x)).mean(), t / -x.size


def _cosine_embedding(a: Any, b: Any, y: Any) -> Any:
    dot, aa, bb = (np.einsum("nd,nd->n", u, v) for u, v in ((a, b), (a, a), (b, b)))
    aa, bb = aa + 1e-12, bb + 1e-12
    inverse = 1 / np.sqrt(aa * bb)
    cosine = dot * inverse
    slope = (np.where(y == 1, -1, cosine > 0) / len(a)).astype(a.dtype)
    value = np.where(y == 1, 1 - cosine, np.maximum(cosine, 0)).mean()
    across, along = (slope * inverse)[:, None], (slope * cosine)
    return value, across * b - (along / aa)[:, None] * a, across * a - (along / bb)[:, None] * b


def _margin_ranking(a: Any, b: Any, y: Any) -> Any:
    h = y * (b - a)
    gradient = y * (h > 0) / a.size
    return np.maximum(h, 0).mean(), -gradient, gradient


def _triplet(a: Any, p: Any, n: Any) -> Any:
    near, far = a - p + 1e-6, a - n + 1e-6
    d, e = (np.sqrt(np.einsum("nd,nd->n", v, v)) for v in (near, far))
    h = d - e + 1
    active = (h > 0).astype(a.dtype) / len(a)
    near *= (active / d)[:, None]
    far *= (active / e)[:, None]
    return np.maximum(h, 0).mean(), near - far, -near, far


def _l1_penalty(params: Any, coefficient: float) -> Any:
    return coefficient * np.abs(params).sum(), coefficient * np.sign(params)


def _l2_penalty(params: Any, coefficient: float) -> Any:
    return 0.5 * coefficient * np.vdot(params, params), coefficient * params


FORMULAS: dict[str, Callable[..., Any]] = {
    "mse_loss": _mse,
    "l1_loss": _l1,
    "huber_loss": _huber,
    "smooth_l1_loss": _huber,
    "poisson_nll_loss": _poisson,
    "gaussian_nll_loss": _gaussian,
    "binary_cross_entropy": _cross_entropy_of_probabilities,
    "binary_cross_entropy_with_logits": _cross_entropy_of_logits,
    "soft_margin_loss": _soft_margin,
    "hinge_embedding_loss": _hinge_embedding,
    "sigmoid": _sigmoid,
    "logsigmoid": _logsigmoid,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "logsumexp": _logsumexp,
    "cross_entropy": _cross_entropy,
    "nll_loss": _nll,
    "multi_margin_loss": _multi_margin,
    "multilabel_soft_margin_loss": _cross_entropy_of_logits,
    "kl_div": _kl,
    "cosine_embedding_loss": _cosine_embedding,
    "margin_ranking_loss": _margin_ranking,
    "triplet_margin_loss": _triplet,
    "l1_penalty": _l1_penalty,
    "l2_penalty": _l2_penalty,
}


def _prepare(case: Case) -> Prepared | None:
    function = FORMULAS.get(case.loss.name)
    if function is None:
        return None
    options = {name: value for name, value in case.options.items() if name != "dim"}
    return Prepared(functools.partial(function, *case.arrays(), **options), _outcome)


def _outcome(result: Any) -> Outcome:
    value, *gradients = result
    return value, gradients


CONTENDERS = {"numpy": Contender("numpy", _prepare)}
