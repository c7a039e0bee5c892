"""``fastloss bench``: time every loss, and write a CSV file and a JSON file that say on what machine."""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
import os
import re
import sys
from importlib import util
from pathlib import Path
from typing import Any

from fastloss._config import config, thread_count
from fastloss._report import facts
from fastloss.bench.cases import Case, cases
from fastloss.bench.measure import Timing, measure

# Load average from which results are not worth keeping: with a core taken, an OpenMP pool waits for the scheduler and
# every barrier of torch then costs a time slice.
BUSY = 0.5

COLUMNS = (
    "loss", "size", "shape", "dtype", "contender", "threads", "rounds", "p20_ms", "median_ms", "p80_ms",
    "megabytes", "gb_per_s", "machine", "fastloss", "numba", "torch", "date",
)  # fmt: skip


def main(options: argparse.Namespace, folder: str = "fastloss-bench") -> int:
    """Measure what the command line asks for and write the two files."""
    sizes = tuple(options.sizes or (("medium",) if options.quick else ("small", "medium", "large")))
    seconds = options.seconds or (0.5 if options.quick else 4.0)
    try:
        chosen = cases(options.losses, sizes)
    except ValueError as error:
        print(f"fastloss bench: {error}", file=sys.stderr)
        return 2
    with_torch = not options.no_torch and util.find_spec("torch") is not None
    if not with_torch and not options.no_torch:
        print("torch is not installed and left out; pip install 'fastloss[bench]' brings it", file=sys.stderr)
    with config(num_threads=options.threads or thread_count()):
        path = run(chosen, seconds, with_torch, options.compile, Path(options.output or folder), options.name)
    print(f"wrote {path.with_suffix('.csv')} and {path.with_suffix('.json')}")
    return 0


def run(
    chosen: list[Case], seconds: float, with_torch: bool, with_compile: bool, folder: Path, name: str | None = None
) -> Path:
    """Measure the cases, print a line for each, write the files, and return their path without the ending."""
    if with_torch:
        import torch

        torch.set_num_threads(thread_count())
    date, machine = datetime.date.today().isoformat(), facts()
    machine.pop("kernel cache", None)  # a path of the user's says nothing about speed
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
    if load > BUSY:
        print(f"the machine is busy (load {load:.1f}): these figures will favour whoever spins least", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    samples: list[dict[str, Any]] = []
    print(f"milliseconds, medians; {thread_count()} threads; copy: the same bytes read and written, nothing computed")
    print(f"{'':<46}{'fresh':>10}{'reused':>10}{'copy':>10}{'torch':>10}{'torch/fresh':>13}")
    for number, case in enumerate(chosen):
        if sys.stderr.isatty():
            text = f"\r\x1b[2K{number}/{len(chosen)} {case.loss.name} {case.shape}"
            print(text, end="", file=sys.stderr, flush=True)
        timings = measure(case, seconds, with_torch, with_compile)
        if sys.stderr.isatty():
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
        print(_line(case, timings), flush=True)
        for timing in timings:
            rows.append(_row(case, timing, machine, date))
            key = {"loss": case.loss.name, "size": case.size, "contender": timing.contender}
            samples.append({**key, "seconds": timing.samples})
    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^a-z0-9]+", "-", f"{machine['processor']} {thread_count()} threads {date}".lower())
    path = folder / (name or stem)
    with open(f"{path}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    record = {"date": date, "load_at_start": load, "machine": machine, "seconds_per_case": seconds, "samples": samples}
    Path(f"{path}.json").write_text(json.dumps(record, indent=1) + "\n")
    return path


def _row(case: Case, timing: Timing, machine: dict[str, str], date: str) -> dict[str, Any]:
    moved = sum(a.nbytes for a in case.arrays()) + sum(case.operands[name].nbytes for name in case.wrt)
    cells = (
        case.loss.name, case.size, case.shape, str(case.operands[case.wrt[0]].dtype), timing.contender, thread_count(),
        len(timing.samples), _ms(timing.percentile(20)), _ms(timing.median), _ms(timing.percentile(80)),
        f"{moved / 1e6:.6g}", f"{moved / 1e9 / timing.median:.4g}", machine["processor"], machine["fastloss"],
        machine["numba"], machine.get("torch", ""), date,
    )  # fmt: skip
    return dict(zip(COLUMNS, cells, strict=True))


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.5g}"


def _line(case: Case, timings: list[Timing]) -> str:
    median = {timing.contender: timing.median for timing in timings}
    shown = [f"{1e3 * median[c]:.4g}" if c in median else "-" for c in ("fresh", "reused", "copy", "torch")]
    ratio = median.get("torch", math.nan) / median["fresh"]
    last = "-" if math.isnan(ratio) else f"{ratio:.1f}x"
    return f"{case.loss.name + ' ' + case.shape:<46}" + "".join(f"{text:>10}" for text in shown) + f"{last:>13}"
