"""The objective's part of a boosting round: ``python bench/boosting_round.py [--rows 1000000] [--classes 5]``.

Each line is one callback as a booster makes it, in NumPy and through ``fastloss.boosting``, alternated; the least of
several times, in milliseconds. Scores come in the dtype and order of the booster: float32 in C order from XGBoost,
float64 in Fortran order from LightGBM, float64 in short ranges from CatBoost, whose documentation shows a loop in
Python. Both sides give the same numbers, or nothing is measured.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss as fl
from fastloss import boosting

Pair = tuple[np.ndarray, np.ndarray]


def logistic(label: np.ndarray, raw: np.ndarray, weight: np.ndarray) -> Pair:
    p = 1 / (1 + np.exp(-raw))
    return (p - label) * weight, np.maximum(p * (1 - p), 1e-16) * weight


def softmax(label: np.ndarray, raw: np.ndarray, weight: np.ndarray) -> Pair:
    p = np.exp(raw - raw.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    hess = np.maximum(p * (1 - p), 1e-16)
    p[np.arange(len(p)), label.astype(np.int64)] -= 1
    return p * weight[:, None], hess * weight[:, None]


def row_by_row(raw: np.ndarray, label: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return CatBoost's derivatives of the logistic loss, computed as its documentation does."""
    result = []
    for index in range(len(label)):
        e = np.exp(raw[index])
        p = e / (1 + e)
        first, second = label[index] - p, -p * (1 - p)
        result.append((first * weight[index], second * weight[index]))
    return np.array(result)


def measure(name: str, theirs: Callable[[], Any], ours: Callable[[], Any], rounds: int) -> None:
    """Print the least time of both and their ratio."""
    for expected, result in zip(theirs(), ours(), strict=True):
        np.testing.assert_allclose(result, expected, rtol=2e-3, atol=2e-6)
    best = {theirs: np.inf, ours: np.inf}
    for _ in range(rounds):
        for function in best:
            start = time.perf_counter()
            function()
            best[function] = min(best[function], time.perf_counter() - start)
    print(f"{name:42} {1e3 * best[theirs]:10.3f} {1e3 * best[ours]:10.3f} {best[theirs] / best[ours]:8.1f}")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--classes", type=int, default=5)
    options.add_argument("--rounds", type=int, default=10)
    chosen = options.parse_args()
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(chosen.rows, chosen.classes))
    weight = rng.random(chosen.rows).astype(np.float32)
    label = rng.integers(0, chosen.classes, chosen.rows).astype(np.float32)
    binary = (label > 0).astype(np.float32)
    by_class = boosting.objective(fl.cross_entropy)
    by_sign = boosting.objective(fl.binary_cross_entropy_with_logits)

    print(f"{'':42} {'NumPy':>10} {'fastloss':>10} {'ratio':>8}")
    for guest, dtype, order in (("XGBoost", np.float32, "C"), ("LightGBM", np.float64, "F")):
        raw = np.asarray(scores, dtype=dtype, order=order)
        one = np.ascontiguousarray(raw[:, 0])
        for loss, objective, numpy, y, x in (
            ("logistic", by_sign, logistic, binary, one),
            ("softmax", by_class, softmax, label, raw),
        ):
            name = f"{guest}, {loss}, {np.dtype(dtype)} {x.shape}"
            measure(name, lambda: numpy(y, x, weight), lambda: objective(y, x, weight), chosen.rounds)  # noqa: B023
    few = scores[:1000, 0].copy(), binary[:1000], weight[:1000]
    name = "CatBoost, calc_ders_range, 1,000 rows"
    measure(name, lambda: row_by_row(*few), lambda: by_sign.calc_ders_range(*few), 100)


if __name__ == "__main__":
    main()
