"""What an array in a file is to the rest of the package, whatever the format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib import import_module, util
from typing import Any, Protocol

import numpy as np

# The kinds of NumPy dtypes that hold numbers.
_NUMBERS = "fiub"


class FileError(Exception):
    """A file that cannot be used; the message is one line that names it."""


class Source(Protocol):
    """An array in a file.

    `name` is what the user called it, `shape` and `dtype` are those of the array. Nothing is read before `blocks` or
    `whole` is called.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def blocks(self, rows: int) -> Iterator[Any]:
        """Yield the array in blocks of `rows` rows, the last of which may be shorter."""
        ...

    def whole(self) -> Any:
        """Return the array."""
        ...


def check_numbers(name: str, dtype: np.dtype[Any], called: Any = None) -> None:
    """Raise if an array does not hold numbers; `called` is the dtype in words of its file, if it has any."""
    if dtype.kind not in _NUMBERS:
        raise FileError(f"{name}: expected numbers, got {f'dtype {dtype}' if called is None else called}")


def native(array: Any) -> Any:
    """Return an array in the byte order of this machine."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def in_blocks(pieces: Iterable[Any], rows: int) -> Iterator[Any]:
    """Yield what `pieces` of any lengths hold, in blocks of `rows` rows."""
    held: list[Any] = []
    count = 0
    for piece in pieces:
        start = 0
        while len(piece) - start >= rows - count:
            stop = start + rows - count
            held.append(piece[start:stop])
            yield held[0] if len(held) == 1 else np.concatenate(held)
            held, count, start = [], 0, stop
        if start < len(piece):
            held.append(piece[start:])
            count += len(piece) - start
    if held:
        yield held[0] if len(held) == 1 else np.concatenate(held)


def guest(module: str, name: str) -> Any:
    """Import the library that reads the file `name`, or say what installs it."""
    library = module.partition(".")[0]
    if util.find_spec(library) is None:
        raise FileError(
            f"{name}: {library} is not installed; pip install 'fastloss[files]' brings it (from a clone: '.[files]')"
        )
    return import_module(module)
