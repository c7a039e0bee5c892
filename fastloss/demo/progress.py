"""Progress of long work, on stderr."""

from __future__ import annotations

import sys
import time
from typing import Any


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
