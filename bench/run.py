"""Measure every loss and write bench/results/*.csv and *.json; ``python bench/run.py --help``.

The logic is that of ``fastloss bench`` (fastloss/bench/); this script only puts the files where the repository keeps
them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from fastloss.bench import main
from fastloss.cli import add_bench_arguments

RESULTS = Path(__file__).parent / "results"

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Time every loss; see fastloss/bench/measure.py for how.")
    add_bench_arguments(parser)
    raise SystemExit(main(parser.parse_args(), str(RESULTS)))
