"""NumPy's own files: .npy, mapped into memory, and the members of .npz, read as a stream."""

from __future__ import annotations

import math
import mmap
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from fastloss.files.source import FileError, check_numbers, native

# Format versions of .npy, and the functions that read their headers.
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Npy:
    """An array in a .npy file, mapped into memory."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        with open(path, "rb") as file:
            self.shape, columns_first, self.dtype = _header(name, file)
            self._start = file.tell()
            size, needed = file.seek(0, 2), self._start + math.prod(self.shape) * self.dtype.itemsize
            if size < needed:
                raise FileError(
                    f"{name}: truncated: {size} bytes, where shape {self.shape} of {self.dtype} has {needed}"
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._order: Any = "F" if columns_first else "C"

    def blocks(self, rows: int) -> Iterator[Any]:
        """Yield the array in blocks of `rows` rows."""
        array = self._mapped()
        for start in range(0, len(array), rows):
            yield native(array[start : start + rows])

    def whole(self) -> Any:
        """Return the array, still in the file."""
        return native(self._mapped())

    def _mapped(self) -> Any:
        return np.ndarray(self.shape, self.dtype, self._map, self._start, order=self._order)


class Npz:
    """A member of a .npz file, which is compressed or not, and read from its beginning to its end."""

    def __init__(self, name: str, path: str, member: str) -> None:
        self.name, self._path = name, path
        try:
            with zipfile.ZipFile(path) as archive:
                self._member = _member(name, archive, member)
                with archive.open(self._member) as file:
                    self.shape, columns_first, self.dtype = _header(name, file)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise FileError(f"{name}: no .npz file, or a damaged one ({error})") from None
        if columns_first and len(self.shape) > 1:
            raise FileError(f"{name}: lies column by column; save it in C order, or in a .npy file")

    def blocks(self, rows: int) -> Iterator[Any]:
        """Yield the array in blocks of `rows` rows."""
        return self._read(rows)

    def whole(self) -> Any:
        """Return the array."""
        count = self.shape[0] if self.shape else 1
        return next(self._read(count), np.empty(0, self.dtype)).reshape(self.shape)

    def _read(self, rows: int) -> Iterator[Any]:
        entry = self.shape[1:]
        row_bytes = math.prod(entry) * self.dtype.itemsize
        left = self.shape[0] if self.shape else 1
        try:
            with zipfile.ZipFile(self._path) as archive, archive.open(self._member) as file:
                _header(self.name, file)
                while left:
                    count = min(rows, left)
                    data = file.read(count * row_bytes)
                    if len(data) < count * row_bytes:
                        raise FileError(f"{self.name}: truncated")
                    yield native(np.frombuffer(data, self.dtype).reshape(count, *entry))
                    left -= count
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise FileError(f"{self.name}: damaged ({error})") from None


def _member(name: str, archive: zipfile.ZipFile, member: str) -> str:
    """Return the name of an array inside an archive, or raise with those that there are."""
    files = archive.namelist()
    members = [one.removesuffix(".npy") for one in files] or ["none"]
    listed = ", ".join(members)
    if not member:
        raise FileError(f"{name}: name a member, as in {name.removesuffix(':')}:{members[0]} (it has {listed})")
    for one in (f"{member}.npy", member):
        if one in files:
            return one
    raise FileError(f"{name}: no member {member!r}; it has {listed}")


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return shape, whether columns lie first, and dtype; nothing but these few bytes is read, nothing unpickled."""
    try:
        version = npy.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"version {version} of the format")
        shape, columns_first, dtype = _HEADERS[version](file)
        if any(n < 0 for n in shape):
            raise ValueError(f"shape {shape}")
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0]
        raise FileError(f"{name}: no .npy array (empty, damaged or a pickle, which is never read): {reason}") from None
    check_numbers(name, dtype)
    return shape, columns_first, dtype
