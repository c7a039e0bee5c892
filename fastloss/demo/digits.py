"""Part 1: softmax regression of scikit-learn's handwritten digits, checked against scikit-learn's own."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np

import fastloss as fl

CLASSES = 10
C = 1.0  # inverse strength of the penalty, scikit-learn's default

# Both solvers stop when no entry of the gradient exceeds 1e-8. The objective is strongly convex with modulus
# m = 1 / (C n) = 7e-4: each then lies within sqrt(650) * 1e-8 / m = 3.4e-4 of the minimum, and the objectives within
# 650 * 1e-16 / 2m = 4e-11 of its value.
GRADIENT_TOLERANCE = 1e-8
OBJECTIVE_TOLERANCE = 1e-9
COEFFICIENT_TOLERANCE = 7e-4


class Fit(NamedTuple):
    """What part 1 found; later parts use the model and the held-out images."""

    coefficients: Any
    intercepts: Any
    images: Any
    labels: Any
    predicted: Any
    agrees: bool


def objective(parameters: Any, features: Any, labels: Any) -> tuple[float, Any]:
    """Return the value and the gradient of mean cross-entropy + ‖W‖² / (2 C n), as SciPy's minimize wants them.

    The loss and its gradient with respect to the logits come from one pass of fastloss; the chain rule back to the
    parameters, logits = X W + b, is two more lines.
    """
    weights = parameters[:-CLASSES].reshape(-1, CLASSES)
    intercepts = parameters[-CLASSES:]
    value, slope = fl.value_and_grad(fl.cross_entropy)(features @ weights + intercepts, labels)
    decay = 1.0 / (C * len(labels))
    value = float(value) + 0.5 * decay * float((weights * weights).sum())
    gradient = features.T @ slope + decay * weights
    return value, np.concatenate([gradient.ravel(), slope.sum(axis=0)])


def run() -> Fit:
    """Fit with SciPy and fastloss, fit with scikit-learn, compare."""
    from scipy.optimize import minimize
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    train, test, train_labels, test_labels = train_test_split(
        pixels / 16.0, labels, test_size=0.25, random_state=0, stratify=labels
    )
    print(f"1. handwritten digits: {len(train)} images of 8x8 pixels to fit, {len(test)} held out")
    start = np.zeros((train.shape[1] + 1) * CLASSES)
    objective(start, train, train_labels)  # compiles, or loads from the cache

    began = time.perf_counter()
    solution = minimize(
        objective,
        start,
        (train, train_labels),
        method="L-BFGS-B",
        jac=True,
        options={"gtol": GRADIENT_TOLERANCE, "ftol": 0.0, "maxiter": 5000, "maxfun": 10000},
    )
    our_time = time.perf_counter() - began
    weights, intercepts = solution.x[:-CLASSES].reshape(-1, CLASSES), solution.x[-CLASSES:]

    began = time.perf_counter()
    theirs = LogisticRegression(C=C, tol=GRADIENT_TOLERANCE, max_iter=5000).fit(train, train_labels)
    their_time = time.perf_counter() - began
    their_parameters = np.concatenate([theirs.coef_.T.ravel(), theirs.intercept_])

    predicted = (test @ weights + intercepts).argmax(axis=1)
    ours = _summary(solution.x, train, train_labels, predicted, test_labels)
    reference = _summary(their_parameters, train, train_labels, theirs.predict(test), test_labels)
    agrees = _compare(ours, reference, solution.x, their_parameters)
    print(f"   {'time to fit':<28}{our_time:>16.2f} s{their_time:>14.2f} s    ({solution.nfev} evaluations)")
    return Fit(weights, intercepts, test.reshape(-1, 8, 8), test_labels, predicted, agrees)


def _summary(parameters: Any, features: Any, labels: Any, predicted: Any, truth: Any) -> tuple[float, float]:
    """Return the objective on the training data and the accuracy on the held-out."""
    return objective(parameters, features, labels)[0], float((predicted == truth).mean())


def _compare(ours: tuple[float, float], theirs: tuple[float, float], x: Any, y: Any) -> bool:
    """Print both columns and whether they agree."""
    objective_gap = abs(ours[0] - theirs[0]) / theirs[0]
    # An intercept common to all classes changes nothing and is not penalised; compare without it.
    x, y = (np.concatenate([p[:-CLASSES], p[-CLASSES:] - p[-CLASSES:].mean()]) for p in (x, y))
    coefficient_gap = float(abs(x - y).max())
    fine = objective_gap <= OBJECTIVE_TOLERANCE and coefficient_gap <= COEFFICIENT_TOLERANCE and ours[1] == theirs[1]
    print(f"   {'':<28}{'SciPy + fastloss':>18}{'scikit-learn':>16}    difference")
    print(f"   {'objective, training data':<28}{ours[0]:>18.12f}{theirs[0]:>16.12f}    {objective_gap:.1e} relative")
    print(f"   {'coefficients, largest':<28}{abs(x).max():>18.6f}{abs(y).max():>16.6f}    {coefficient_gap:.1e} apart")
    print(f"   {'accuracy, held-out images':<28}{ours[1]:>18.2%}{theirs[1]:>16.2%}    {abs(ours[1] - theirs[1]):.1e}")
    verdict = "agree" if fine else "DO NOT AGREE"
    print(
        f"   they {verdict} (objective to {OBJECTIVE_TOLERANCE:.0e} relative, coefficients to "
        f"{COEFFICIENT_TOLERANCE:.0e}, accuracy exactly)"
    )
    return fine
