"""``fastloss demo``: a classifier fitted with SciPy, a large batch scored, a picture of both."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from fastloss.demo import batch, digits, picture
from fastloss.runtime.config import config
from fastloss.runtime.settings import thread_count
from fastloss.runtime.terminal import ended_like_interrupted


def main(options: argparse.Namespace) -> int:
    """Run both parts, draw the picture, and return 0, or 1 when a result does not agree with its reference."""
    folder = Path(options.output).parent
    if not folder.is_dir():  # found out now, not after the work
        raise FileNotFoundError(f"--output {options.output}: there is no folder {folder}")
    known = picture.formats()
    if Path(options.output).suffix[1:].lower() not in known:
        raise OSError(f"--output {options.output}: the ending must be one of {', '.join(known)}")
    started = time.perf_counter()
    with ended_like_interrupted(), config(num_threads=options.threads or thread_count()):
        fit = digits.run()
        scored = batch.run(fit, options.size)
    picture.draw(fit, scored, options.output)
    print(f"\nwrote {options.output}; {time.perf_counter() - started:.0f} s in all")
    if not (fit.agrees and scored.agrees):
        print("a result does not agree with its reference, see above", file=sys.stderr)
        return 1
    return 0
