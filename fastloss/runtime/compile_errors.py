"""What Numba says of maths that it cannot compile, less the page around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from numba import errors

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

# What stands before the cause of an error, and before that of a part of Numba's own which refuses what it is given.
_STEP = "Failed in nopython mode pipeline"
_REFUSAL = re.compile(r"^\w+Error: (.+)$", re.MULTILINE)
_CALLED = re.compile(r"No implementation of function Function\(<function (\S+) at ")
# A line of the maths, and none of Numba's own.
_PLACE = re.compile(
    r'(?:File "|^During: lowering ".*" at )((?!.*-packages/numba/).+)(?:", line | \()(\d+)', re.MULTILINE
)

# What Numba says of arrays, and of lists and strings, where references are not counted, see cpu/simd/scratch.py.
_MEMORY_WANTED = ("Only accept returning of array passed into the function", "NRT required but not enabled")


@contextmanager
def in_one_line(own: bool) -> Iterator[None]:
    """Raise a TypeError with the cause and its place for an error of the compiler, where maths is the user's `own`."""
    try:
        yield
    except errors.NumbaError as error:
        if not own:
            raise
        raise TypeError(_cause(str(error))) from None


def _cause(page: str) -> str:
    """Return the innermost cause of an error, the function that it lies in, and its file and line."""
    lines = [line.strip() for line in _COLOUR.sub("", page).splitlines() if line.strip()]
    start = max([k for k, line in enumerate(lines) if _STEP in line], default=-1) + 1
    within = _CALLED.findall("\n".join(lines[:start]))
    name = within[-1].rpartition(".")[2] if within else "the maths"
    rest = lines[start:] or lines
    refused = _REFUSAL.findall("\n".join(rest))
    cause = refused[-1] if refused and rest[0].startswith("No implementation") else rest[0]
    if cause.startswith(_MEMORY_WANTED):
        cause = "it makes an array, a list or a string, and a function of single numbers makes none"
    place = _PLACE.search("\n".join(rest))
    return f"Numba cannot compile {name}: {cause}" + (f" ({place[1]}, line {place[2]})" if place else "")
