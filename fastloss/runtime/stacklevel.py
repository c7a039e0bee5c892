"""Where in the caller's code a warning belongs."""

from __future__ import annotations

import sys


def stacklevel() -> int:
    """Return the stack level of the first caller outside the package, for a warning issued by the caller of this.

    Numba calls the package when it has compiled something, and the package Numba.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("fastloss.", "numba.")):
        frame = frame.f_back
        level += 1
    return level
