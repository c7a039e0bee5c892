"""The files of a run: a CSV of one row for each timing, in long format, and a JSON of every sample and the machine."""

from __future__ import annotations

import csv
import datetime
import json
import math
import os
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from fastloss.bench.cases import Case
from fastloss.bench.measure import Timing
from fastloss.bench.places import HOST, Host
from fastloss.runtime.report import facts

# The mode is what was run: "sizes" (every loss at small, medium and large), "latency" (small calls), "elements" and
# "classes" (the two growths), "threads" (one thread against all), "shapes" (those asked for).
COLUMNS = (
    "mode", "loss", "size", "shape", "elements", "device", "dtype", "contender", "threads", "rounds",
    "p20_ms", "median_ms", "p80_ms", "device_ms", "host_ms", "first_call_ms", "megabytes", "gb_per_s", "peak_extra_mb",
    "machine", "fastloss", "numba", "numpy", "torch", "jax", "scikit-learn", "date",
)  # fmt: skip

_VERSIONS = ("fastloss", "numba", "numpy", "torch", "jax", "scikit-learn")
_GUESTS = ("jax", "jaxlib", "optax", "threadpoolctl")


def machine() -> dict[str, str]:
    """Return the machine and the versions that a measurement depends on."""
    found = facts()
    found.pop("kernel cache", None)  # a path of the user's says nothing about speed
    for name in _GUESTS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    blas = _blas()
    if blas:
        found["BLAS"] = blas
    compiler = os.environ.get("CXX") or shutil.which("g++")
    if compiler:
        shown = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        found["C++ compiler"] = shown.partition("\n")[0]
    return found


def _blas() -> str:
    """Return the library of NumPy's matrix products, and the kind of CPU that it takes this one for."""
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return ""
    parts = ("internal_api", "version", "architecture")
    found = [" ".join(str(one.get(part)) for part in parts) for one in threadpool_info() if one["user_api"] == "blas"]
    return next(iter(found), "")


class Results:
    """What a run has found so far."""

    def __init__(self, seconds: float, place: Host = HOST) -> None:
        self.date, _, self.time = datetime.datetime.now().isoformat(timespec="seconds").partition("T")
        self.machine = machine()
        self.processor = place.processor() or self.machine["processor"]
        self.load = os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan
        self.seconds = seconds
        self.rows: list[dict[str, Any]] = []
        self.samples: list[dict[str, Any]] = []

    def add(self, mode: str, case: Case, timing: Timing, threads: int, peak: float | None = None) -> None:
        """Keep a timing, and the bytes allocated on the way where they were measured."""
        cells = (
            mode, case.loss.name, case.size, case.shape, case.elements, case.place.device, case.place.dtype,
            timing.contender, threads, len(timing.samples),
            _ms(timing.percentile(20)), _ms(timing.median), _ms(timing.percentile(80)),
            *("" if part is None else _ms(part) for part in (timing.device, timing.host)), _ms(timing.first),
            f"{case.moved() / 1e6:.6g}", f"{case.moved() / 1e9 / timing.median:.4g}",
            "" if peak is None else f"{peak / 1e6:.6g}",
            self.processor, *(self.machine.get(name, "") for name in _VERSIONS), self.date,
        )  # fmt: skip
        self.rows.append(dict(zip(COLUMNS, cells, strict=True)))
        key = {"mode": mode, "loss": case.loss.name, "size": case.size, "shape": case.shape, "threads": threads}
        key |= {"device": case.place.device, "dtype": case.place.dtype}
        self.samples.append({**key, "contender": timing.contender, "seconds": timing.samples})

    def stem(self, threads: int) -> str:
        """Return a name that says machine, threads and date."""
        return re.sub(r"[^a-z0-9]+", "-", f"{self.processor} {threads} threads {self.date}".lower())

    def write(self, folder: Path, name: str) -> Path:
        """Write both files, and return their path without the ending."""
        path = folder / name
        with open(f"{path}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        record = {
            "date": self.date,
            "time": self.time,
            "load_at_start": self.load,
            "machine": self.machine,
            "seconds_per_case": self.seconds,
            "samples": self.samples,
        }
        text = json.dumps(_rounded(record))
        Path(f"{path}.json").write_text(text.replace('{"mode"', '\n{"mode"') + "\n")
        return path


Row = dict[str, str]


def read(path: Path) -> list[Row]:
    """Return the rows of a CSV file."""
    with open(path, newline="") as file:  # the first files had no mode, and knew one device
        return [{"mode": "sizes", "device": "cpu", **row} for row in csv.DictReader(file)]


def medians(rows: Sequence[Row], **wanted: str) -> dict[str, dict[str, float]]:
    """Return contender -> loss -> median in ms, of the rows whose columns are as wanted."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if all(row[name] == value for name, value in wanted.items()):
            found[row["contender"]][row["loss"]] = float(row["median_ms"])
    return found


def share_of_copy(copy: Row, ours: Row) -> float:
    """Return the time of a copy over that of a loss: on the device where both say it, else of whole calls."""
    column = "device_ms" if copy.get("device_ms") and ours.get("device_ms") else "median_ms"
    return float(copy[column]) / float(ours[column])


def ratios(over: Mapping[str, float], under: Mapping[str, float]) -> dict[str, float]:
    """Return the quotients of what both have."""
    return {name: over[name] / under[name] for name in over if name in under}


def _rounded(value: Any) -> Any:
    """Return nested values with floats of six digits: more than the clock has, and a third of the file."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return {key: _rounded(item) for key, item in value.items()} if isinstance(value, dict) else value


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.5g}"
