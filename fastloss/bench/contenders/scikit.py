"""scikit-learn's private losses, those of its gradient boosting and linear models.

They return a value for each sample and the gradient of their sum, both into fresh arrays, with OpenMP threads; the
mean, which is part of every other contender's work, is not timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from importlib import util
from typing import Any

import numpy as np

from fastloss.bench.cases import Case
from fastloss.bench.contenders import Contender, Outcome, Prepared
from fastloss.runtime.settings import thread_count


def _missing() -> str | None:
    return None if util.find_spec("sklearn") else "scikit-learn is not installed"


def _losses() -> dict[str, tuple[Callable[[int], Any], float]]:
    """Return for each of our losses scikit-learn's, made for some number of classes, and ours / theirs."""
    from sklearn._loss import loss

    return {
        "mse_loss": (lambda classes: loss.HalfSquaredError(), 2.0),
        "l1_loss": (lambda classes: loss.AbsoluteError(), 1.0),
        "huber_loss": (lambda classes: _huber(loss, 1.0), 1.0),
        "smooth_l1_loss": (lambda classes: _huber(loss, 1.0), 1.0),
        "poisson_nll_loss": (lambda classes: loss.HalfPoissonLoss(), 1.0),
        "binary_cross_entropy_with_logits": (lambda classes: loss.HalfBinomialLoss(), 1.0),
        "cross_entropy": (lambda classes: loss.HalfMultinomialLoss(n_classes=classes), 1.0),
    }


def _huber(module: Any, delta: float) -> Any:
    """Return the Huber loss with its delta fixed; the public class would estimate it from a quantile."""
    made = module.HuberLoss(delta=delta)
    made.closs = module.CyHuberLoss(delta=delta)
    return made


def _prepare(case: Case) -> Prepared | None:
    found = _losses().get(case.loss.name)
    if found is None:
        return None
    make, factor = found
    prediction, target = case.operands["input"], case.operands["target"]
    loss = make(prediction.shape[-1])
    # Labels as the floats that scikit-learn wants: converted before, as its models do.
    call = functools.partial(
        loss.loss_gradient,
        y_true=np.ascontiguousarray(target, dtype=prediction.dtype),
        raw_prediction=prediction,
        n_threads=thread_count(),
    )
    return Prepared(call, functools.partial(_outcome, factor))


def _outcome(factor: float, result: Any) -> Outcome:
    values, gradient = result
    return factor * values.mean(dtype=np.float64), [np.float32(factor / values.size) * gradient]


CONTENDERS = {"sklearn": Contender("sklearn", _prepare, _missing)}
