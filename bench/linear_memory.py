"""What linear_cross_entropy holds beside its gradients: ``python bench/linear_memory.py [dtype rows features C]``.

One call of value and gradients into arrays of the caller's, in a process of its own: by how much the peak of its
resident memory rises, which Linux tells, and how long it takes, its kernels found on the disk.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import ml_dtypes
import numpy as np

import fastloss as fl
from fastloss.bench.memory import resident_extra

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def measured(dtype: str, n: int, f: int, c: int) -> tuple[float | None, float]:
    """Return by how many bytes a call lets this process grow, and how many seconds it takes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, f), dtype=np.float32).astype(DTYPES[dtype])
    w = (rng.standard_normal((c, f), dtype=np.float32) / 32).astype(DTYPES[dtype])
    y = rng.integers(c, size=n)
    gradients = np.zeros_like(x), np.zeros_like(w)
    step = fl.value_and_grad(fl.linear_cross_entropy)
    step(x[:64], w[:100], y[:64] % 100)
    start = time.perf_counter()
    grown = resident_extra(lambda: step(x, w, y, grad_out=gradients))
    return grown, time.perf_counter() - start


def main(dtype: str = "bfloat16", rows: str = "2048", features: str = "1024", classes: str = "50000") -> None:
    sizes = int(rows), int(features), int(classes)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for _ in range(2):  # the first one compiles what the second one finds on the disk
            grown, seconds = pool.submit(measured, dtype, *sizes).result()
    held = "unknown" if grown is None else f"{grown / 2**20:.0f}"
    print(f"{dtype} {rows} x {features} by {classes}: {held} MiB beside the gradients, {seconds:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
