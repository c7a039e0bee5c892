"""Part 2: a large batch of logits on disk, scored memory-mapped under several losses."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastloss as fl
from fastloss.cpu.loops import copy as copying
from fastloss.demo.digits import CLASSES, Fit
from fastloss.runtime.settings import thread_count
from fastloss.runtime.terminal import clear_status, show_status

BLOCK = 1 << 18  # rows written at a time: 10 MB
ROUNDS = 3
TORCH_ROUNDS = 2  # the faster of two: it takes most of the demo's time
NOISE = 3.0  # of the logits: enough that the classifier errs now and then
# torch accumulates float32 sums of 10^8 terms in float32.
TORCH_TOLERANCE = 1e-4


class Row(NamedTuple):
    """One line of the table; times in seconds, `torch` is NaN where it was not run."""

    label: str
    value: float
    ours: float
    copy: float
    torch: float
    gigabytes: float


class Scored(NamedTuple):
    """What part 2 measured."""

    rows: list[Row]
    shape: tuple[int, int]
    threads: int
    agrees: bool


class Job(NamedTuple):
    """A loss, its targets, and whether the gradient is wanted."""

    loss: Callable[..., Any]
    target: Any
    gradient: bool

    @property
    def label(self) -> str:
        """The name in the table."""
        return f"{self.loss.__name__}, {'value and gradient' if self.gradient else 'value'}"


def run(fit: Fit, size: int) -> Scored:
    """Write the batch to a temporary folder, score it, and remove it."""
    need = size * CLASSES * 4
    with tempfile.TemporaryDirectory(prefix="fastloss-demo-") as folder:
        free = shutil.disk_usage(folder).free
        if free < 1.1 * need:
            raise OSError(
                f"the batch needs {need / 1e6:.0f} MB in {folder}, which has {free / 1e6:.0f} MB free; pass a smaller "
                "--size, or set TMPDIR"
            )
        path = Path(folder) / "logits.npy"
        labels = _write(path, fit, size)
        logits = np.load(path, mmap_mode="r")
        scored = _score(logits, labels)
        del logits  # Windows does not remove files that are mapped
        return scored


def _write(path: Path, fit: Fit, size: int) -> Any:
    """Write the logits of `size` noisy copies of the held-out images, block by block, and return their labels."""
    generator = np.random.default_rng(0)
    clean = (fit.images.reshape(len(fit.images), -1) @ fit.coefficients + fit.intercepts).astype(np.float32)
    file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(size, CLASSES))
    labels = np.empty(size, np.int64)
    for start in range(0, size, BLOCK):
        stop = min(size, start + BLOCK)
        image = generator.integers(len(clean), size=stop - start)
        noise = generator.standard_normal((stop - start, CLASSES), dtype=np.float32)
        file[start:stop] = clean[image] + np.float32(NOISE) * noise
        labels[start:stop] = fit.labels[image]
        show_status(f"writing the batch: {stop / size:4.0%}")
    clear_status()
    file.flush()
    return labels


def _score(logits: Any, labels: Any) -> Scored:
    one_hot = np.zeros(logits.shape, np.uint8)
    one_hot[np.arange(len(labels)), labels] = 1
    jobs = [
        Job(fl.cross_entropy, labels, False),
        Job(fl.cross_entropy, labels, True),
        Job(fl.multi_margin_loss, labels, True),
        Job(fl.binary_cross_entropy_with_logits, one_hot, True),
        Job(fl.mse_loss, one_hot, True),
    ]
    gradient = np.empty(logits.shape, np.float32)
    torch_times = _torch_timer(logits)
    print(
        f"\n2. a batch of {len(logits):,} noisy copies of those, x {CLASSES} float32 logits: "
        f"{logits.nbytes / 1e6:.0f} MB on disk, memory-mapped read-only, {thread_count()} threads"
    )
    print(f"   {'':<54}{'value':>9}{'time':>10}{'speed':>12}{'of copy':>9}{'torch':>11}")
    rows, gaps = [], []
    for job in jobs:
        show_status(f"scoring: {job.label}")
        row, gap = _scored(job, logits, gradient, torch_times)
        clear_status()
        rows.append(row)
        gaps.append(gap)
        beside = "-" if np.isnan(row.torch) else f"{1e3 * row.torch:.0f} ms"
        print(
            f"   {row.label:<54}{row.value:>9.5f}{1e3 * row.ours:>7.0f} ms{row.gigabytes / row.ours:>7.1f} GB/s"
            f"{row.copy / row.ours:>8.0%}{beside:>12}"
        )
    print(
        f"   median of {ROUNDS}; speed: bytes read and written per second; of copy: the speed of a copy of the same "
        "bytes by the same\n   threads is 100 %; torch: eager, forward and backward, the faster of two"
        + (", not installed (pip install torch==2.13.0)" if torch_times is None else "")
    )
    agrees = all(gap <= TORCH_TOLERANCE for gap in gaps)
    if torch_times is not None:
        print(f"   values differ from torch's by at most {max(gaps):.0e} relative (tolerance {TORCH_TOLERANCE:.0e})")
    return Scored(rows, logits.shape, thread_count(), agrees)


def _scored(job: Job, logits: Any, gradient: Any, torch_times: Any) -> tuple[Row, float]:
    """Time a job, the copy of the same bytes, and torch; return them, and how far torch's value lies from ours."""
    sources, sinks = (logits, job.target), (gradient if job.gradient else None, None)
    both = fl.value_and_grad(job.loss)

    def ours() -> float:
        if job.gradient:
            return float(both(logits, job.target, grad_out=gradient)[0])
        return float(job.loss(logits, job.target))

    both(logits[:32], job.target[:32])  # compiles, or loads from the cache
    job.loss(logits[:32], job.target[:32])
    value = ours()
    copying.run(sources, sinks)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        times[0].append(_timed(ours))
        times[1].append(_timed(lambda: copying.run(sources, sinks)))
    theirs, their_value = torch_times(job) if torch_times is not None else (float("nan"), value)
    moved = logits.nbytes * (1 + job.gradient) + job.target.nbytes
    row = Row(job.label, value, statistics.median(times[0]), statistics.median(times[1]), theirs, moved / 1e9)
    return row, abs(value - their_value) / abs(their_value)


def _timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _torch_timer(logits: Any) -> Callable[[Job], tuple[float, float]] | None:
    """Return a function that times a job in torch, or None where torch is missing or memory is short."""
    if util.find_spec("torch") is None:
        return None
    if _available_memory() < 8 * logits.nbytes:
        print("torch is left out: it would need more memory than there is", file=sys.stderr)
        return None
    import torch

    torch.set_num_threads(thread_count())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the tensor must not be written to; nothing does
        scores = torch.from_numpy(logits)

    def timed(job: Job) -> tuple[float, float]:
        function = getattr(torch.nn.functional, job.loss.__name__)
        target = torch.from_numpy(job.target)
        if target.dtype == torch.uint8:
            target = target.float()  # torch wants the input's type; not timed
        leaf = scores.detach().requires_grad_(job.gradient)

        value = scores.new_empty(())

        def theirs() -> None:
            nonlocal value
            leaf.grad = None
            value = function(leaf, target)
            if job.gradient:
                value.backward()
            value = value.detach()

        function(scores[:1000], target[:1000])  # starts its threads
        return min(_timed(theirs) for _ in range(TORCH_ROUNDS)), float(value)

    return timed


def _available_memory() -> float:
    """Return the bytes that can be allocated without swapping; infinity where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * float(line.split()[1])
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (OSError, ValueError, AttributeError):
        return float("inf")
