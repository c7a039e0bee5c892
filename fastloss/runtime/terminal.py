"""What commands share at a terminal: a line on stderr that says how far they are, and signals that end them."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


def has_terminal() -> bool:
    """Return whether stderr is a terminal; it may be closed: fastloss score ... 2>&-."""
    return sys.stderr is not None and sys.stderr.isatty()


def show_status(text: str) -> None:
    """Write `text` over the last line of the terminal; nothing where stderr is none."""
    if has_terminal():
        print(f"\r\x1b[2K{text:.118}", end="", file=sys.stderr, flush=True)


def clear_status() -> None:
    """Take the line away."""
    show_status("")


def clock(seconds: float) -> str:
    """Write a time as minutes and seconds."""
    minutes, rest = divmod(max(round(seconds), 0), 60)
    return f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """Let a request to terminate, and the end of the terminal, be a KeyboardInterrupt: files are then removed.

    A signal that is ignored, as under nohup, stays ignored.
    """
    taken: list[int] = []
    if threading.current_thread() is threading.main_thread():  # the only one that may set handlers
        known = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
        taken = [one for one in known if signal.getsignal(one) is signal.SIG_DFL]
    for one in taken:
        signal.signal(one, signal.default_int_handler)
    try:
        yield
    finally:
        for one in taken:
            signal.signal(one, signal.SIG_DFL)
