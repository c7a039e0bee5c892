"""What weights of samples cost: ``python bench/sample_weight.py [--seconds 1]``.

Each line is value and gradient of a loss in float32, into an array of the caller's, without weights and with a float32
weight for each row (or for each element), alternated; the medians in microseconds, and their ratio. A mean is divided
by the sum of the weights: they are read once before anything is computed, and again beside the rows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss as fl

# Of each loss, the shapes of its input.
ROWS: dict[str, tuple[tuple[int, int], ...]] = {
    "cross_entropy": ((64, 10), (100_000, 10), (65_536, 100), (8192, 1000)),
    "mse_loss": ((64, 10), (16_384, 64), (262_144, 64)),
    "binary_cross_entropy_with_logits": ((64, 10), (16_384, 64), (262_144, 64)),
    "cosine_embedding_loss": ((64, 10), (65_536, 64)),
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=1.0, help="for each line")
    seconds = options.parse_args().seconds
    rng = np.random.default_rng(0)
    print(f"{'':56}{'without':>10}{'with':>10}{'ratio':>8}")
    for name, shapes in ROWS.items():
        for rows, columns in shapes:
            x, args = _arguments(name, rows, columns, rng)
            shares = {"a row": (rows,)} | ({"an element": (rows, columns)} if name == "mse_loss" else {})
            for each, shape in shares.items():
                weight = rng.uniform(0.5, 2.0, shape).astype(np.float32)
                without, weighted = _medians(name, args, weight, np.empty_like(x), seconds)
                label = f"{name} {rows} x {columns}, {each}"
                print(f"{label:56}{without:10.1f}{weighted:10.1f}{weighted / without:8.2f}")


def _arguments(name: str, rows: int, columns: int, rng: np.random.Generator) -> tuple[Any, tuple[Any, ...]]:
    x = rng.normal(size=(rows, columns)).astype(np.float32)
    if name == "cross_entropy":
        return x, (x, rng.integers(0, columns, rows))
    if name == "cosine_embedding_loss":
        return x, (x, x[::-1].copy(), rng.choice([-1.0, 1.0], rows).astype(np.float32))
    return x, (x, rng.uniform(size=(rows, columns)).astype(np.float32))


def _medians(name: str, args: tuple[Any, ...], weight: Any, gradient: Any, seconds: float) -> tuple[float, float]:
    """Return the median time of a call without weights, and of one with them."""
    step = fl.value_and_grad(getattr(fl, name), "input1" if name == "cosine_embedding_loss" else "input")
    calls: tuple[Callable[[], Any], ...] = (
        lambda: step(*args, grad_out=gradient),
        lambda: step(*args, sample_weight=weight, grad_out=gradient),
    )
    times: tuple[list[float], list[float]] = [], []
    for call in calls * 3:
        call()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            kept.append(time.perf_counter() - start)
    without, weighted = (1e6 * float(np.median(kept[len(kept) // 10 :])) for kept in times)
    return without, weighted


if __name__ == "__main__":
    main()
