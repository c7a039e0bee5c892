"""A bar for long work, on terminals only."""

from __future__ import annotations

import time
from typing import Any

from fastloss.runtime.terminal import clear_status, clock, show_status

_WIDTH = 24
_EVERY = 0.1  # seconds between two states of the bar


class Progress:
    """How much of `total` bytes is done, how fast it goes and how long it will take, on one line of stderr.

    Nothing is written where stderr is no terminal.
    """

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.done = what, max(total, 1), 0
        self.began = self.shown = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def add(self, count: int) -> None:
        """Say that `count` bytes more are done."""
        self.done += count
        now = time.monotonic()
        if not self.done or now - self.shown < _EVERY:  # no bytes: sequences, which are read at once
            return
        self.shown = now
        speed = self.done / max(now - self.began, 1e-9)
        share = min(self.done / self.total, 1.0)
        bar = ("#" * round(share * _WIDTH)).ljust(_WIDTH, ".")
        left = clock((self.total - self.done) / speed)
        show_status(f"{self.what} {bar} {share:4.0%}  {speed / 1e9:.2f} GB/s  {left} left")

    def __exit__(self, *_: Any) -> None:
        clear_status()
