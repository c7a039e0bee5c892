"""Settings of the process: number of threads, index checks."""

from __future__ import annotations

import os
from types import TracebackType
from typing import Any


class _Settings:
    """The values in force."""

    num_threads: int | None = None
    check_indices: bool = True


settings = _Settings()


def _default_threads() -> int:
    """Return NUMBA_NUM_THREADS if it is set, else the number of cores this process may use."""
    given = os.environ.get("NUMBA_NUM_THREADS")
    if given:
        return max(1, int(given))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


DEFAULT_THREADS = _default_threads()


def thread_count() -> int:
    """Return how many threads a large call uses."""
    return settings.num_threads or DEFAULT_THREADS


class config:  # noqa: N801 (it reads as a function, and is one that can be undone)
    """Set options for the process, or for a ``with`` block.

    Parameters
    ----------
    num_threads : int, optional
        Threads that a large call on the CPU uses, the calling one included. The default is ``NUMBA_NUM_THREADS`` or
        the number of cores available. Results do not depend on it.
    check_indices : bool, optional
        Whether class indices and labels are checked before anything is computed (the default). Without the check a
        CUDA call does not wait for the device and can be captured in a graph; an index out of range then makes
        its row's value and gradient NaN, and is never used to read or write.

    Raises
    ------
    ValueError
        If `num_threads` is not positive.
    TypeError
        If an option has the wrong type.

    Notes
    -----
    The settings belong to the process, not to the thread: a ``with`` block in one thread is seen by all.

    Examples
    --------
    >>> import fastloss as fl
    >>> with fl.config(num_threads=1):
    ...     value = fl.mse_loss([0.0, 1.0], [1.0, 1.0])
    """

    def __init__(self, *, num_threads: int | None = None, check_indices: bool | None = None) -> None:
        new: dict[str, Any] = {}
        if num_threads is not None:
            if isinstance(num_threads, bool) or not isinstance(num_threads, int):
                raise TypeError(f"num_threads must be an int, got {num_threads!r}")
            if num_threads < 1:
                raise ValueError(f"num_threads must be at least 1, got {num_threads}")
            new["num_threads"] = num_threads
        if check_indices is not None:
            if not isinstance(check_indices, bool):
                raise TypeError(f"check_indices must be True or False, got {check_indices!r}")
            new["check_indices"] = check_indices
        self._before = {name: getattr(settings, name) for name in new}
        for name, value in new.items():
            setattr(settings, name, value)

    def __enter__(self) -> config:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, value in self._before.items():
            setattr(settings, name, value)
