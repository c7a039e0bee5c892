"""Where in the caller's code a warning belongs."""

from __future__ import annotations

import sys

_INSIDE = ("fastloss.", "torch._dynamo.", "jax.")


def stacklevel() -> int:
    """Return the stack level of the first caller outside the package, for a warning issued by the caller of this.

    A frame of torch's compiler or of JAX is not outside: it stands between two of the package, which is kept from
    tracing there or called back.
    """
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_INSIDE):
        frame = frame.f_back
        level += 1
    return level
