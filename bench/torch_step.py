"""The loss of a training step, forward and backward, through fastloss.torch and through torch.

The two alternate in one process, because what else a machine does changes from second to second. Printed are medians
in microseconds, the ratio of torch's to ours, and what the door's forward adds to the bare call of a kernel.
Run as ``python bench/torch_step.py``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

import fastloss as fl
import fastloss.torch as door

SHAPES = ((64, 10), (8192, 1000))


def alternated(calls: dict[str, Callable[[], object]], rounds: int, repeat: int) -> dict[str, float]:
    """Return the median time of each call in microseconds."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(max(3, repeat // 10)):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(repeat):
                call()
            times[name].append((time.perf_counter() - start) / repeat)
    return {name: 1e6 * statistics.median(values) for name, values in times.items()}


def steps(rows: int, classes: int, compiled: bool) -> dict[str, Callable[[], object]]:
    """Return a step of torch's, one of ours, our forward alone, and the bare call."""
    theirs, ours = torch.nn.functional.cross_entropy, door.cross_entropy
    if compiled:
        theirs, ours = torch.compile(theirs, fullgraph=True), torch.compile(ours, fullgraph=True)
    x, y = torch.randn(rows, classes, requires_grad=True), torch.randint(classes, (rows,))
    bare, plain = fl.value_and_grad(fl.cross_entropy), x.detach()

    def step(function: Callable[..., torch.Tensor]) -> Callable[[], None]:
        def run() -> None:
            x.grad = None
            function(x, y).backward()

        return run

    return {
        "torch": step(theirs),
        "ours": step(ours),
        "forward": lambda: ours(x, y),
        "bare": lambda: bare(plain, y),
    }


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="both by torch.compile")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with fl.config(num_threads=chosen.threads):
        for rows, classes in SHAPES:
            repeat = max(1, 500_000 // (rows * classes))
            times = alternated(steps(rows, classes, chosen.compile), chosen.rounds, repeat)
            ratio, added = times["torch"] / times["ours"], times["forward"] - times["bare"]
            print(
                f"{rows}x{classes}: torch {times['torch']:.1f} us, ours {times['ours']:.1f} us, ratio {ratio:.2f}",
                end="",
            )
            print(f"; forward adds {added:.1f} us to {times['bare']:.1f} us")


if __name__ == "__main__":
    main()
