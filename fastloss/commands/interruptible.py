"""Work that Ctrl-C ends at once, also while a kernel is compiled or runs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from fastloss.runtime.terminal import ended_like_interrupted

_PATIENCE = 0.25  # seconds that the work has to notice, before the process ends without it


def run(work: Callable[[threading.Event], Any], discard: Callable[[], None]) -> Any:
    """Return ``work(stop)``, called in a thread of its own, and raise what it raises.

    Python hands a signal to the main thread when that returns to Python, which may take seconds where it compiles or
    runs a kernel; so the main thread waits, and another one works. On Ctrl-C, or when the process is told to terminate,
    `stop` is set; work that has not ended soon after ends with the process, after ``discard()``.
    """
    outcome: dict[str, Any] = {}
    stop = threading.Event()

    def target() -> None:
        try:
            outcome["value"] = work(stop)
        except BaseException as error:
            outcome["error"] = error

    worker = threading.Thread(target=target, daemon=True)
    try:
        with ended_like_interrupted():
            worker.start()
            while worker.is_alive():
                worker.join(0.1)
    except KeyboardInterrupt:
        stop.set()
        worker.join(_PATIENCE)
        if worker.is_alive():
            discard()
            with contextlib.suppress(OSError):  # the terminal may be gone
                print("\ninterrupted", file=sys.stderr, flush=True)
            os._exit(130)
        raise
    if "error" in outcome:
        raise outcome["error"]
    return outcome["value"]
