"""Compiled kernels on disk: in which folder, and never at the cost of a call.

Numba's cache raises where no folder can be written, where the disk is full and where an index has been cut; it has
numbers for the files of a kernel, which processes that compile at once give to kernels of different types. Here a
kernel that cannot be read is compiled, one that cannot be written stays in memory, with one warning, and the file of a
kernel is named by its types.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import pickle
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastloss.runtime.stacklevel import stacklevel


def is_off() -> bool:
    """Return whether the environment turns the cache off."""
    return os.environ.get("FASTLOSS_CACHE", "").strip().lower() in ("0", "off", "no", "false")


@functools.cache
def folders() -> tuple[Path | None, tuple[Path, ...]]:
    """Return the folder that new kernels go to, None where none can be written, and all that kernels are read from."""
    if is_off():
        return None, ()
    candidates = list(_candidates())
    writable = next((folder for folder in candidates if _is_writable(folder)), None)
    return writable, tuple([folder for folder in candidates if folder == writable or _is_folder(folder)])


def _candidates() -> Iterator[Path]:
    """Yield the folder that the environment names, or those beside the package and in the user's home."""
    for name in ("FASTLOSS_CACHE_DIR", "NUMBA_CACHE_DIR"):
        if named := os.environ.get(name):
            yield Path(named).absolute()  # the process may change its working directory
            return
    yield Path(__file__).parent.parent / "__pycache__"
    with contextlib.suppress(RuntimeError):  # a user without a home
        yield _users_folder() / "fastloss"


def _users_folder() -> Path:
    """Return where the system keeps the caches of a user."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _is_folder(folder: Path) -> bool:
    try:
        return folder.is_dir() and os.access(folder, os.R_OK)
    except OSError:
        return False


def _is_writable(folder: Path) -> bool:
    """Return whether a file can be made in a folder, which is made if it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"0")  # a full disk has room for an empty file
    except OSError:
        return False
    return True


# Why a kernel has not been kept, until the user has been told; and whether he has.
_unkept: str | None = None
_warned = False


def warn_of_memory() -> None:
    """Warn, once in a process, of a kernel that has been compiled and is kept in memory alone."""
    global _warned, _unkept
    if _unkept is None or _warned:
        return
    why, _unkept, _warned = _unkept, None, True
    warnings.warn(
        f"compiled kernels are not kept for other processes ({why}): set FASTLOSS_CACHE_DIR to a folder that can be "
        "written, or FASTLOSS_CACHE=0 to do without one",
        RuntimeWarning,
        stacklevel=stacklevel(),
    )


def _note_unkept(error: OSError | None = None) -> None:
    global _unkept
    _unkept = "no folder can be written" if error is None else f"{folders()[0]} takes no more: {error}"


class _Locator:
    """Tells Numba where the files of a kernel are; its name, which holds a hash of the sources, says that it is new."""

    def __init__(self, folder: Path, file: str) -> None:
        self._folder, self._py_file = folder, file

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Locator | None:
        """Return the locator of a function, None where there is no folder."""
        writable, readable = folders()
        folder = writable or next(iter(readable), None)
        return None if folder is None else cls(folder, file)

    def ensure_cache_path(self) -> None:
        """Make the folder, which somebody may have removed."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def get_cache_path(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def get_source_stamp(self) -> str:
        """Return what a kernel's file is compared with to be fresh."""
        return ""

    def get_disambiguator(self) -> str:
        """Return what tells functions of one name apart."""
        return "0"


class _NoFolder:
    """The cache of a kernel where there is no folder."""

    def load_overload(self, sig: Any, target_context: Any) -> None:
        """Find nothing."""

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep nothing."""
        _note_unkept()


# The class of the caches of functions, for each target; the files that know Numba's own classes provide it.
_makers: dict[str, Callable[[Callable[..., Any], bool], Any]] = {}


def keep_on_disk(compiled: Any, function: Callable[..., Any], target: str, named: bool = False) -> None:
    """Let Numba look for what it compiles of a function on disk, and keep it there; `named`: by name alone."""
    if not is_off():
        compiled._cache = _makers[target](function, named) if folders()[1] else _NoFolder()


def keep_code_alone(compiled: Any) -> None:
    """Let go of what Numba keeps of kernels beside their code: to show their types, and to make them part of others.

    Nobody asks for either. After a call of every loss (``bench/first_calls.py``) a process had grown by 217 MB where it
    had compiled the kernels, 264 with these, and by 11 MB where it had found them on the disk, 35 with these.
    """
    for types, result in list(compiled.overloads.items()):
        result.library._shared_module = None
        compiled.overloads[types] = result._replace(type_annotation="")


def provide(target: str, cache: Any, files: Any) -> None:
    """Take Numba's classes of caches, and of their files, for what is compiled for a target."""
    _makers[target] = _disk_cache(cache, files)


def _disk_cache(cache: Any, files: Any) -> Any:
    """Return the class of the caches of functions, made of Numba's."""

    class Files(files):  # type: ignore[misc]
        """An index of the types that a kernel has been compiled for, and a file for each of them."""

        def save(self, key: Any, data: Any) -> None:
            number = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
            name = self._data_name_pattern.replace("{number:d}", number)
            self._save_data(name, data)
            self._save_index({**self._load_index(), key: name})

        def _load_index(self) -> dict[Any, str]:
            try:
                return dict(super()._load_index())
            except Exception:  # cut or garbage: unpickling may raise anything
                return {}

        def _save_data(self, name: str, data: Any) -> None:
            content = self._dump(data)
            with self._open_for_write(self._data_path(name)) as file:
                file.write(hashlib.sha256(content).digest() + content)

        def _load_data(self, name: str) -> Any:
            content = Path(self._data_path(name)).read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise OSError(f"{name} is damaged")
            return pickle.loads(content[32:])

    class Implementation(cache._impl_class):  # type: ignore[misc]
        """How Numba reads and writes a kernel, in our folders."""

        _locator_classes = (_Locator,)

    class DiskCache(cache):  # type: ignore[misc]
        """The kernels of one function: what cannot be read is compiled, what cannot be written is done without."""

        _impl_class = Implementation

        def __init__(self, function: Callable[..., Any], named: bool = False) -> None:
            super().__init__(function)
            if named:
                # Numba would tell it apart by a pickle of what it closes over, too: maths of a script in which a line
                # has been added, or that comes from another process, would be compiled anew.
                self._py_func = SimpleNamespace(__code__=function.__code__, __closure__=None)
            self._files = [Files(str(folder), self._impl.filename_base, "") for folder in folders()[1]]

        def load_overload(self, sig: Any, target_context: Any) -> Any:
            for files in self._files:
                self._cache_file = files
                with contextlib.suppress(Exception):  # of another release, or damaged so that it can be unpickled
                    found = super().load_overload(sig, target_context)
                    if found is not None:
                        return found
            return None

        def save_overload(self, sig: Any, data: Any) -> None:
            writable, readable = folders()
            if writable is None:
                _note_unkept()
                return
            self._cache_file = self._files[readable.index(writable)]
            try:
                super().save_overload(sig, data)
            except OSError as error:  # the disk is full, or the folder has been removed or locked since
                _note_unkept(error)

    return DiskCache
