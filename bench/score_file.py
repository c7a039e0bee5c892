"""A file that is scored by rows against the same file read and summed: ``python bench/score_file.py [--gigabytes 4]``.

The file has 128 float32 a row, and is read once before anything is measured, so that both find it in the system's
memory if it fits there. Printed are the time of summing it in blocks with NumPy, of ``fastloss score cross_entropy``
with a value written for each row (as the command prints it, kernels compiled before), and the largest anonymous memory
of that process.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CLASSES, ROWS_OF_A_BLOCK = 128, 65536
COMMAND = (sys.executable, "-m", "fastloss", "score", "cross_entropy", "x.npy", "y.npy", "--out", "out.npy")


def write(folder: Path, rows: int) -> None:
    """Write scores and labels."""
    rng = np.random.default_rng(0)
    scores = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, (rows, CLASSES))
    block = rng.normal(size=(ROWS_OF_A_BLOCK, CLASSES)).astype(np.float32)
    for start in range(0, rows, len(block)):
        scores[start : start + len(block)] = block[: rows - start]
    scores.flush()
    np.save(folder / "y.npy", rng.integers(0, CLASSES, rows))


def summed(file: Path) -> float:
    """Return the seconds in which the file is read and summed."""
    start = time.perf_counter()
    scores = np.load(file, mmap_mode="r")
    total = 0.0
    for row in range(0, len(scores), ROWS_OF_A_BLOCK):
        total += float(scores[row : row + ROWS_OF_A_BLOCK].sum())
    assert np.isfinite(total)
    return time.perf_counter() - start


def scored(folder: Path) -> tuple[float, float]:
    """Return the seconds in which the command scores the file, and its largest anonymous memory in MB."""
    process = subprocess.Popen([*COMMAND, "--overwrite"], cwd=folder, stdout=subprocess.PIPE, text=True)
    most = 0
    while process.poll() is None:
        try:
            found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        except FileNotFoundError:
            break
        most = max(most, int(found[1]) if found else 0)
        time.sleep(0.01)
    printed = process.communicate()[0]
    assert process.returncode == 0
    return float(re.search(r"([\d.]+) s\n", printed)[1]), most / 1000  # type: ignore[index]


def main() -> None:
    """Print one line for each round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, int(given.gigabytes * 1e9) // (4 * CLASSES))
        scored(folder)
        for _ in range(given.rounds):
            read = summed(folder / "x.npy")
            seconds, memory = scored(folder)
            print(f"summed in {read:.2f} s, scored in {seconds:.2f} s ({read / seconds:.2f}), {memory:.0f} MB")


if __name__ == "__main__":
    main()
