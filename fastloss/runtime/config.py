"""What a user sets: number of threads, index checks, memory kept for the next results."""

from __future__ import annotations

import itertools
import operator
import sys
import threading
from types import TracebackType
from typing import Any, SupportsIndex

from fastloss.runtime.forks import guard
from fastloss.runtime.memory_pool import trim
from fastloss.runtime.settings import put_in_force

# The `with` blocks that have begun and not ended, in the order in which their values were put in force.
_open: list[config] = []
_counter = itertools.count()
_lock = threading.RLock()
guard(sys.modules[__name__])


class config:  # noqa: N801 (it reads as a function, and is one that can be undone)
    """Set options for the process, or for a ``with`` block.

    Parameters
    ----------
    num_threads : int, optional
        Threads that a large call on the CPU uses, the calling one included. The default is ``NUMBA_NUM_THREADS`` or
        the number of cores that the process, and its container's quota, may use. Results do not depend on it. With
        ``FASTLOSS_PIN=0`` in the environment, helper threads are not kept from the core of their caller.
    check_indices : bool, optional
        Whether class indices and labels are checked before anything is computed (the default). Without the check an
        index out of range makes its row's value and gradient NaN, and is never used to read or write; a CUDA call
        then does not wait for the device and, once it has been made before, can be captured in a graph. (It still
        waits where the host needs a number: lengths or `grad_output` in device memory, and a gradient with respect
        to the weights of a weighted mean.)
    recycled_bytes : int, optional
        Bytes of memory that results of 3 MiB or more on the CPU leave behind, when they are dropped, for the next
        ones; 0 turns this off. The default is 1 GiB, or an eighth of the memory of the machine or the container where
        that is less. The operating system may take large arrays of what is kept whenever it needs memory.

    Raises
    ------
    ValueError
        If `num_threads` is not positive, or `recycled_bytes` negative.
    TypeError
        If an option has the wrong type.

    Notes
    -----
    The settings belong to the process, not to the thread: a ``with`` block in one thread is seen by all. Of blocks of
    several threads that overlap, the one that began last counts; when all have ended, what was before them does. An
    instance may be used for several blocks.

    Examples
    --------
    >>> import fastloss as fl
    >>> with fl.config(num_threads=1):
    ...     value = fl.mse_loss([0.0, 1.0], [1.0, 1.0])
    """

    def __init__(
        self,
        *,
        num_threads: int | None = None,
        check_indices: bool | None = None,
        recycled_bytes: int | None = None,
    ) -> None:
        self._new: dict[str, Any] = {}
        if num_threads is not None:
            self._new["num_threads"] = _whole("num_threads", num_threads, 1)
        if check_indices is not None:
            if not isinstance(check_indices, bool):
                raise TypeError(f"check_indices must be True or False, got {check_indices!r}")
            self._new["check_indices"] = check_indices
        if recycled_bytes is not None:
            self._new["recycled_bytes"] = _whole("recycled_bytes", recycled_bytes, 0)
        with _lock:
            self._begin()

    def _begin(self) -> None:
        self._place = next(_counter)
        self._before = _put_in_force(self._new)
        self._in_force = True

    def __enter__(self) -> config:
        with _lock:
            if not self._in_force:  # its blocks have ended
                self._begin()
            _open.append(self)
            _open.sort(key=lambda block: block._place)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            _open.remove(self)
            if self in _open:  # another of its blocks has not ended
                return
            self._in_force = False
            for name, value in self._before.items():
                later = next((each for each in _open if each._place > self._place and name in each._new), None)
                if later is None:
                    _put_in_force({name: value})
                else:  # it began within this block, and outlives it
                    later._before[name] = value


def _whole(name: str, value: Any, least: int) -> int:
    """Return an option that must be an integer, checked."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def _put_in_force(values: dict[str, Any]) -> dict[str, Any]:
    """Set values for the process, and return those before."""
    before = {name: put_in_force(name, value) for name, value in values.items()}
    if "recycled_bytes" in values:
        trim()
    return before
