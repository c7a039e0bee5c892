"""How loops read arrays: as flat ones, and as flat windows of their memory."""

from __future__ import annotations

from operator import methodcaller
from typing import Any

import numpy as np

# The elements of an array in C order as a flat one, copied only where they do not lie so.
FLAT = methodcaller("ravel")

# The same for each of the operands of a kernel, as many as there are at most.
ALL_FLAT = (FLAT,) * 5


class _Window:
    """An array interface of a stretch of memory; `base` keeps it alive."""

    __slots__ = ("__array_interface__", "base")

    def __init__(self, base: Any, interface: dict[str, Any]) -> None:
        self.base, self.__array_interface__ = base, interface


def flat_window(array: Any, offset: int, extent: int) -> Any:
    """Return `extent` elements of the array's memory as a flat array that may be written.

    The first lies `offset` bytes from the array's own first element. Numba compiles a kernel for arrays that are
    read-only and one for others; no kernel writes to an operand, so one will do.
    """
    interface = array.__array_interface__
    data = interface["data"][0] + offset, False
    return np.asarray(_Window(array, {"data": data, "shape": (extent,), "typestr": interface["typestr"], "version": 3}))


def unlocked(array: Any) -> Any:
    """Return a read-only array as one that may be written, for the reason of :func:`flat_window`."""
    interface = array.__array_interface__
    return np.asarray(_Window(array, {**interface, "data": (interface["data"][0], False)}))
