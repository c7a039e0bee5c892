"""What the first call of a loss takes, and what a process keeps of it: ``python bench/first_calls.py [LOSS ...]``.

Value and gradient of small arrays in float32, in a process that compiles every kernel and in one that finds them on the
disk. Printed are milliseconds of CPU of a first call, less those of a second one, and in the last line their sums and
the megabytes that the process has grown by.
"""

from __future__ import annotations

import argparse
import functools
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss as fl
from fastloss.bench.cases import cases, chosen
from fastloss.bench.memory import status


def first_calls(names: list[str]) -> tuple[dict[str, float], float]:
    """Return milliseconds of first calls, and the megabytes that this process has grown by."""
    fl.value_and_grad(fl.mse_loss)(np.ones((4, 4)), np.zeros((4, 4)))  # what any first call sets up
    gc.collect()
    before, times = status("VmRSS"), {}
    for case in cases(names, ("small",)):
        function = fl.value_and_grad(case.loss.function, case.wrt)
        call = functools.partial(function, **case.operands, **case.options)
        times[case.loss.name] = cpu_ms(call) - cpu_ms(call)
    gc.collect()
    return times, (status("VmRSS") - before) / 1e6


def cpu_ms(call: Callable[[], Any]) -> float:
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def in_another_process(names: list[str], cache: str) -> tuple[dict[str, float], float]:
    command = [sys.executable, __file__, "--json", *names]
    found = subprocess.run(command, env={**os.environ, "FASTLOSS_CACHE_DIR": cache}, check=True, capture_output=True)
    times, grown = json.loads(found.stdout)
    return times, grown


def main() -> None:
    """Print a line for each loss."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("losses", nargs="*", metavar="LOSS", help="all, if none is named")
    options.add_argument("--json", action="store_true", help="measure in this process, with the cache there is")
    given = options.parse_args()
    names = sorted([loss.name for loss in chosen(given.losses)])
    if given.json:
        print(json.dumps(first_calls(names)))
        return
    with tempfile.TemporaryDirectory() as cache:
        (compiled, most), (loaded, least) = in_another_process(names, cache), in_another_process(names, cache)
    print(f"{'':36} {'compiled':>10} {'from disk':>10}")
    for name, time_ms in compiled.items():
        print(f"{name:36} {time_ms:10.0f} {loaded[name]:10.1f}")
    print(f"{'all, ms':36} {sum(compiled.values()):10.0f} {sum(loaded.values()):10.1f}")
    print(f"{'kept, MB':36} {most:10.0f} {least:10.1f}")


if __name__ == "__main__":
    main()
