"""JAX on the CPU: value and gradient of optax's loss, or of the formula in jax.numpy, compiled by XLA as one function.

XLA sizes its pool of threads when the first array is made; :func:`fastloss.bench.threads.prepare` has it follow the
number of threads by then.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import util
from typing import Any, cast

import numpy as np

from fastloss.bench.cases import Case
from fastloss.bench.contenders import Contender, Outcome, Prepared

Formula = Callable[..., Any]


def _missing() -> str | None:
    absent = [name for name in ("jax", "optax") if util.find_spec(name) is None]
    return f"{' and '.join(absent)} not installed" if absent else None


@functools.cache
def _formulas() -> dict[str, Formula]:
    """Return the value of every loss, by name; what reads 1e-4, 100 or 0.75 has our defaults."""
    import jax
    import jax.numpy as jnp
    import optax

    losses: Any = optax.losses
    relu, log_sigmoid = jax.nn.relu, jax.nn.log_sigmoid

    def picked(x: Any, t: Any) -> Any:
        return jnp.take_along_axis(x, t[:, None], axis=1)

    def distance(a: Any, b: Any) -> Any:
        d = a - b + 1e-6
        return jnp.sqrt((d * d).sum(-1))

    def cross_entropy(x: Any, t: Any) -> Any:
        return losses.softmax_cross_entropy_with_integer_labels(x, t).mean()

    def symmetric_cross_entropy(x: Any, t: Any) -> Any:
        p = jnp.maximum(jax.nn.softmax(x, axis=1), 1e-4)
        label = jnp.maximum(jax.nn.one_hot(t, x.shape[1], dtype=x.dtype), 1e-4)
        return cross_entropy(x, t) - (p * jnp.log(label)).sum(1).mean()

    def multi_margin_loss(x: Any, t: Any) -> Any:
        target = jnp.arange(x.shape[1]) == t[:, None]
        return jnp.where(target, 0, relu(1 - picked(x, t) + x)).sum() / x.size

    def binary_cross_entropy(x: Any, t: Any) -> Any:
        return -(t * jnp.maximum(jnp.log(x), -100) + (1 - t) * jnp.maximum(jnp.log1p(-x), -100)).mean()

    def binary_focal_loss(x: Any, t: Any) -> Any:
        return -(0.75 * t * (1 - x) ** 2 * jnp.log(x) + 0.25 * (1 - t) * x**2 * jnp.log1p(-x)).mean()

    def gaussian_nll_loss(x: Any, t: Any, var: Any) -> Any:
        var = jnp.maximum(var, 1e-6)
        return 0.5 * (jnp.log(var) + (x - t) ** 2 / var).mean()

    def cosine_embedding_loss(a: Any, b: Any, y: Any) -> Any:
        cosine = (a * b).sum(1) / jnp.sqrt(((a * a).sum(1) + 1e-12) * ((b * b).sum(1) + 1e-12))
        return jnp.where(y == 1, 1 - cosine, relu(cosine)).mean()

    def cosine_similarity(a: Any, b: Any) -> Any:
        return losses.cosine_similarity(a, b, epsilon=1e-8)

    def triplet_margin_loss(a: Any, p: Any, n: Any) -> Any:
        return relu(distance(a, p) - distance(a, n) + 1).mean()

    def ctc_loss(log_probs: Any, targets: Any, steps: Any, lengths: Any) -> Any:
        late = jnp.arange(log_probs.shape[0]) >= steps[:, None]
        beyond = jnp.arange(targets.shape[1]) >= lengths[:, None]
        values = losses.ctc_loss(log_probs.transpose(1, 0, 2), late.astype("f4"), targets, beyond.astype("f4"))
        return (values / lengths).mean()

    return {
        "mse_loss": lambda x, t: losses.squared_error(x, t).mean(),
        "l1_loss": lambda x, t: jnp.abs(x - t).mean(),
        "huber_loss": lambda x, t: losses.huber_loss(x, t, delta=1.0).mean(),
        "smooth_l1_loss": lambda x, t: losses.huber_loss(x, t, delta=1.0).mean(),
        "poisson_nll_loss": lambda x, t: (jnp.exp(x) - t * x).mean(),
        "gaussian_nll_loss": gaussian_nll_loss,
        "binary_cross_entropy": binary_cross_entropy,
        "binary_cross_entropy_with_logits": lambda x, t: losses.sigmoid_binary_cross_entropy(x, t).mean(),
        "soft_margin_loss": lambda x, t: jax.nn.softplus(-t * x).mean(),
        "hinge_embedding_loss": lambda x, t: jnp.where(t == 1, x, relu(1 - x)).mean(),
        "binary_focal_loss": binary_focal_loss,
        "sigmoid_focal_loss": lambda x, t: losses.sigmoid_focal_loss(x, t, alpha=0.25, gamma=2.0).mean(),
        "sigmoid": jax.nn.sigmoid,
        "logsigmoid": log_sigmoid,
        "softmax": lambda x: jax.nn.softmax(x, axis=1),
        "log_softmax": lambda x: jax.nn.log_softmax(x, axis=1),
        "logsumexp": lambda x: jax.nn.logsumexp(x, axis=1),
        "nll_loss": lambda x, t: -picked(x, t).mean(),
        "cross_entropy": cross_entropy,
        "symmetric_cross_entropy": symmetric_cross_entropy,
        "multi_margin_loss": multi_margin_loss,
        "multilabel_soft_margin_loss": lambda x, t: losses.sigmoid_binary_cross_entropy(x, t).mean(),
        "kl_div": lambda x, t: losses.kl_divergence(x, t).sum() / x.size,
        "cosine_embedding_loss": cosine_embedding_loss,
        "cosine_similarity": cosine_similarity,
        "pairwise_distance": distance,
        "margin_ranking_loss": lambda a, b, y: relu(y * (b - a)).mean(),
        "triplet_margin_loss": triplet_margin_loss,
        "triplet_margin_with_distance_loss": triplet_margin_loss,
        "ctc_loss": ctc_loss,
        "linear_cross_entropy": lambda x, w, t: cross_entropy(x @ w.T, t),
        "l1_penalty": lambda params: 0.5 * jnp.abs(params).sum(),
        "l2_penalty": lambda params: 0.25 * (params * params).sum(),
    }


def _prepare(case: Case) -> Prepared | None:
    formula = _formulas().get(case.loss.name)
    if formula is None:
        return None
    import jax

    arrays = [jax.numpy.asarray(_narrow(array)) for array in case.arrays()]
    places = tuple(place for place, name in enumerate(case.operands) if name in case.wrt)

    def computed(*operands: Any) -> Any:
        def of_leaves(*leaves: Any) -> Any:
            given = list(operands)
            for place, leaf in zip(places, leaves, strict=True):
                given[place] = leaf
            return formula(*given)

        value, backward = jax.vjp(of_leaves, *(operands[place] for place in places))
        return value, backward(jax.numpy.ones_like(value))

    step, wait = cast(Any, jax.jit)(computed), cast(Any, jax.block_until_ready)
    return Prepared(lambda: wait(step(*arrays)), _outcome)


def _narrow(array: Any) -> Any:
    """Return labels as int32: JAX has no 64 bits unless told so, and would warn."""
    return array.astype(np.int32) if array.dtype == np.int64 else array


def _outcome(result: Any) -> Outcome:
    value, gradients = result
    return np.asarray(value), [np.asarray(gradient) for gradient in gradients]


CONTENDERS = {"jax": Contender("jax", _prepare, _missing, threads_fixed=True)}
