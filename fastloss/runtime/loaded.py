"""Whether an object is of a class of a library that may not be imported; nothing is imported to tell."""

from __future__ import annotations

import sys
from typing import Any


def is_instance(array: Any, module: str, name: str) -> bool:
    """Return whether `array` is an instance of a class of a library that may not be there."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(array, kind)
