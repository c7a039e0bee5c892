"""Calls in code that torch.compile traces: they stand between two graphs, and run as they would without it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

# The modules that are there; before torch's compiler is, nothing is traced.
LOADED = sys.modules


def is_traced() -> bool:
    """Return whether this call is being traced.

    Hot callers (api/loss, api/transforms, nn/loss_module) inline the line.
    """
    return "torch._dynamo" in LOADED and LOADED["torch"].compiler.is_dynamo_compiling()


def _run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return function(*args, **kwargs)


def __getattr__(name: str) -> Any:
    """Make `untraced` when it is first asked for: torch need not be there before, and no tracer follows in here."""
    if name != "untraced":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    disable = LOADED["torch"].compiler.disable
    made = globals()["untraced"] = disable(_run, reason="fastloss.torch has the losses for compiled code")
    return made
