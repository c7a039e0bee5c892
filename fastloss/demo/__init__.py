"""``fastloss demo``: a classifier fitted with SciPy, a large batch scored, a picture of both."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from fastloss.runtime.config import config
from fastloss.runtime.settings import thread_count


def main(options: argparse.Namespace) -> int:
    """Run both parts, draw the picture, and return 0, or 1 when a result does not agree with its reference."""
    from fastloss.demo import batch, digits, picture

    folder = Path(options.output).parent
    if not folder.is_dir():  # found out now, not after the work
        raise FileNotFoundError(f"--output {options.output}: there is no folder {folder}")
    started = time.perf_counter()
    if threading.current_thread() is threading.main_thread():
        # A terminated demo leaves no temporary files either: SIGTERM takes the way of Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    with config(num_threads=options.threads or thread_count()):
        fit = digits.run()
        scored = batch.run(fit, options.size)
    picture.draw(fit, scored, options.output)
    print(f"\nwrote {options.output}; {time.perf_counter() - started:.0f} s in all")
    if not (fit.agrees and scored.agrees):
        print("a result does not agree with its reference, see above", file=sys.stderr)
        return 1
    return 0


class Progress:
    """A line on stderr: rewritten in place on a terminal, else a new one now and then."""

    SPARSE = 10.0  # seconds between lines where stderr is a file

    def __init__(self, what: str) -> None:
        self.what = what
        self.live = sys.stderr.isatty()
        self.last = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def at(self, done: float, detail: str = "") -> None:
        """Say that the share `done` of the work is behind us."""
        text = f"{self.what}: {100 * done:3.0f} %  {detail}"
        if self.live:
            print(f"\r\x1b[2K{text}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - self.last > self.SPARSE:
            print(text, file=sys.stderr, flush=True)
            self.last = time.monotonic()

    def __exit__(self, *_: Any) -> None:
        if self.live:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
