"""Softmax regression by SciPy's L-BFGS-B, the loss through fastloss and written in NumPy.

Both fits take the same steps: what is measured is a whole fit, matrix products included, alternated in one process.
Printed are the medians in milliseconds and their ratio. Run as ``python bench/scipy_fit.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import OptimizeResult, minimize

import fastloss as fl

Loss = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]


def written_out(logits: np.ndarray, target: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean cross-entropy and its gradient as a user of NumPy writes them."""
    rows = np.arange(len(target))
    z = logits - logits.max(axis=1, keepdims=True)
    gradient = np.exp(z)
    total = gradient.sum(axis=1, keepdims=True)
    value = np.mean(np.log(total[:, 0]) - z[rows, target])
    gradient /= total
    gradient[rows, target] -= 1
    return float(value), gradient / len(target)


def fit(loss: Loss, x: np.ndarray, target: np.ndarray, classes: int) -> OptimizeResult:
    """Return the fit of a matrix of coefficients, a row for each class."""

    def objective(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        matrix = parameters.reshape(classes, -1)
        value, slope = loss(x @ matrix.T, target)
        return value + 5e-4 * parameters @ parameters, (slope.T @ x + 1e-3 * matrix).ravel()

    return minimize(objective, np.zeros(classes * x.shape[1]), jac=True, method="L-BFGS-B")


def main() -> None:
    """Print a line for the chosen size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=20)
    parser.add_argument("--classes", type=int, default=10)
    chosen = parser.parse_args()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(chosen.rows, chosen.features))
    scores = x @ rng.normal(size=(chosen.features, chosen.classes))
    target = (scores + rng.gumbel(size=scores.shape)).argmax(axis=1)
    losses: dict[str, Loss] = {"NumPy": written_out, "fastloss": fl.value_and_grad(fl.cross_entropy)}
    fits = {name: fit(loss, x, target, chosen.classes) for name, loss in losses.items()}
    np.testing.assert_allclose(fits["fastloss"].x, fits["NumPy"].x, atol=1e-4)
    times: dict[str, list[float]] = {name: [] for name in losses}
    for _ in range(chosen.rounds):
        for name, loss in losses.items():
            start = time.perf_counter()
            fit(loss, x, target, chosen.classes)
            times[name].append(1e3 * (time.perf_counter() - start))
    theirs, ours = (statistics.median(times[name]) for name in losses)
    size = f"{chosen.rows}x{chosen.features}, {chosen.classes} classes, {fits['fastloss'].nfev} evaluations"
    print(f"{size}: NumPy {theirs:.0f} ms, fastloss {ours:.0f} ms, ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
