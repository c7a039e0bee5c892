"""Arrays in Zarr stores, read by whole chunks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastloss.files.source import FileError, check_numbers, guest, in_blocks, native


class Zarr:
    """An array in a folder or file that Zarr reads."""

    def __init__(self, name: str, path: str, member: str) -> None:
        zarr = guest("zarr", name)
        if not Path(path).exists():
            raise FileError(f"{name}: no such file or folder")
        try:
            array = zarr.open(path, mode="r", path=member) if member else zarr.open(path, mode="r")
        except Exception as error:  # its stores and codecs raise errors of many kinds
            raise FileError(f"{name}: cannot be read by Zarr ({_line(error)})") from None
        if not hasattr(array, "dtype"):
            listed = ", ".join(sorted(array.array_keys()))
            inside = f"{path}:{member.rstrip('/')}/" if member else f"{path}:"
            raise FileError(f"{name}: a group; name an array of it, as in {inside}ARRAY (it has {listed or 'none'})")
        codecs = (*array.filters, *array.compressors, getattr(array, "serializer", None))
        if any("pickle" in repr(codec).lower() for codec in codecs):
            raise FileError(f"{name}: holds pickles, which are never read")
        self.name, self.shape, self.dtype = name, tuple(array.shape), np.dtype(array.dtype)
        check_numbers(name, self.dtype)
        self._array = array

    def blocks(self, rows: int) -> Iterator[Any]:
        """Yield the array in blocks of `rows` rows; each chunk is decompressed once."""
        return in_blocks(self._pieces(rows), rows)

    def whole(self) -> Any:
        """Return the array."""
        return self._read(...)

    def _pieces(self, rows: int) -> Iterator[Any]:
        chunk = max(self._array.chunks[0], 1)
        step = chunk * max(rows // chunk, 1)
        for start in range(0, self.shape[0], step):
            yield self._read(slice(start, start + step))

    def _read(self, part: Any) -> Any:
        try:
            return native(np.asarray(self._array[part]))
        except Exception as error:  # a damaged chunk raises what its codec raises
            raise FileError(f"{self.name}: cannot be read ({_line(error)})") from None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
