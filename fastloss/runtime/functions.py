"""Whose a function is, and what it reads: its globals, those that functions inside of it read included."""

from __future__ import annotations

import dis
from collections.abc import Callable
from types import CodeType
from typing import Any


def is_packaged(function: Callable[..., Any]) -> bool:
    """Return whether a function is one of this package, not one of its users'."""
    return (function.__module__ or "").startswith("fastloss.")  # none, where it was made by exec


def codes_in(code: CodeType) -> list[CodeType]:
    """Return the code of a function and that of all functions inside of it."""
    return [code, *[each for one in code.co_consts if isinstance(one, CodeType) for each in codes_in(one)]]


def global_names(code: CodeType) -> list[str]:
    """Return the names of the globals that a function reads, each once, in the order of its instructions."""
    read = [each for one in codes_in(code) for each in dis.get_instructions(one)]
    return list(dict.fromkeys([each.argval for each in read if each.opname == "LOAD_GLOBAL"]))
