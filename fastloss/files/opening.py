"""From what the user writes to an array in a file: FILE.npy, FILE.npz:MEMBER, FILE.zarr, FILE.parquet:COLUMN,..."""

from __future__ import annotations

import os
import re

from fastloss.files.npy import Npy, Npz
from fastloss.files.parquet import Parquet
from fastloss.files.source import FileError, Source
from fastloss.files.zarr_array import Zarr

# A member of an archive may have the name of a file.
_NPZ = re.compile(r"(?P<path>.*?\.(?P<kind>npz)):(?P<inside>.*)", re.DOTALL)
# A shell completes the name of a folder with a slash.
_WRITTEN = re.compile(r"(?P<path>.*\.(?P<kind>npy|npz|zarr|parquet)/?)(:(?P<inside>.*))?", re.DOTALL)


def opened(text: str) -> Source:
    """Open the array that `text` names.

    Raises
    ------
    FileError
        If there is none, or none that holds numbers.
    """
    found = _NPZ.fullmatch(text) or _WRITTEN.fullmatch(text)
    if found is None:
        raise FileError(f"{text}: expected FILE.npy, FILE.npz:MEMBER, FILE.zarr or FILE.parquet:COLUMN,...")
    path, kind, inside = found["path"], found["kind"], found["inside"] or ""
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise FileError(f"{text}: is no file but a pipe or a device")  # to open a pipe would wait for its writer
    try:
        if kind == "npy":
            if inside:
                raise FileError(f"{text}: a .npy file has no members")
            return Npy(text, path)
        if kind == "npz":
            return Npz(text, path, inside)
        if kind == "zarr":
            return Zarr(text, path, inside)
        return Parquet(text, path, inside)
    except OSError as error:
        raise FileError(f"{text}: {os.strerror(error.errno).lower() if error.errno else error}") from None
