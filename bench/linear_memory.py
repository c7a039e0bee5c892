"""What linear_cross_entropy holds beside its gradients: ``python bench/linear_memory.py [dtype rows features C]``.

One call of value and gradients into arrays of the caller's, in a process of its own: how much its resident memory grows
at most, looked at every two milliseconds, and how long it takes, its kernels found on the disk.
"""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import ml_dtypes
import numpy as np

import fastloss as fl

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def resident() -> int:
    """Return the bytes that this process holds in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Watch(threading.Thread):
    """Keeps the most memory that the process has held."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most, self.done = resident(), threading.Event()

    def run(self) -> None:
        while not self.done.wait(0.002):
            self.most = max(self.most, resident())


def measured(dtype: str, n: int, f: int, c: int) -> tuple[int, float]:
    """Return by how many bytes a call lets this process grow, and how many seconds it takes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, f), dtype=np.float32).astype(DTYPES[dtype])
    w = (rng.standard_normal((c, f), dtype=np.float32) / 32).astype(DTYPES[dtype])
    y = rng.integers(c, size=n)
    gradients = np.zeros_like(x), np.zeros_like(w)
    step = fl.value_and_grad(fl.linear_cross_entropy)
    step(x[:64], w[:100], y[:64] % 100)
    before, watch = resident(), Watch()
    watch.start()
    start = time.perf_counter()
    step(x, w, y, grad_out=gradients)
    seconds = time.perf_counter() - start
    watch.done.set()
    watch.join()
    return watch.most - before, seconds


def main(dtype: str = "bfloat16", rows: str = "2048", features: str = "1024", classes: str = "50000") -> None:
    sizes = int(rows), int(features), int(classes)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        for _ in range(2):  # the first one compiles what the second one finds on the disk
            grown, seconds = pool.submit(measured, dtype, *sizes).result()
    print(f"{dtype} {rows} x {features} by {classes}: {grown / 2**20:.0f} MiB beside the gradients, {seconds:.2f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
