"""Results written block by block, under a temporary name that becomes the final one when all is there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from fastloss.files.source import FileError


class Result:
    """A .npy file that comes to be.

    Parameters
    ----------
    path : str
        Where the file will be, after :meth:`commit`; until then it is a hidden file of the same folder.
    overwrite : bool
        Whether a file of that name may be replaced.

    Raises
    ------
    FileError
        If the name does not end in .npy, is taken, or the folder cannot be written.
    """

    def __init__(self, path: str, overwrite: bool) -> None:
        self.path = Path(path)
        self.shape: tuple[int, ...] = ()
        self.dtype: np.dtype[Any] | None = None
        if self.path.suffix != ".npy":
            raise FileError(f"{path}: results are .npy files; give a name that ends in .npy")
        if self.path.is_dir():
            raise FileError(f"{path}: is a folder")
        if self.path.exists() and not overwrite:
            raise FileError(f"{path}: exists; --overwrite replaces it")
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            self._file = open(self._temporary, "xb")  # noqa: SIM115 (closed by commit and discard)
        except OSError as error:
            raise FileError(f"{path}: cannot be written: {os.strerror(error.errno or 0).lower()}") from None

    def write(self, block: Any, rows: int | None) -> None:
        """Append a block of an array of `rows` rows, or write all of it where `rows` is None."""
        block = np.ascontiguousarray(block).reshape(np.shape(block))  # NumPy makes (1,) of ()
        try:
            if self.dtype is None:
                self.shape, self.dtype = block.shape if rows is None else (rows, *block.shape[1:]), block.dtype
                header = {"descr": npy.dtype_to_descr(self.dtype), "fortran_order": False, "shape": self.shape}
                npy.write_array_header_1_0(self._file, header)
            self._file.write(block.data)
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written: {os.strerror(error.errno or 0).lower()}") from None

    def commit(self) -> None:
        """Give the file its name."""
        try:
            self._file.close()
            os.replace(self._temporary, self.path)
        except OSError as error:
            raise FileError(f"{self.path}: cannot be written: {os.strerror(error.errno or 0).lower()}") from None

    def discard(self) -> None:
        """Remove what has not got its name."""
        with contextlib.suppress(OSError):  # the disk is full, or the file has its name already
            self._file.close()
        self._temporary.unlink(missing_ok=True)
