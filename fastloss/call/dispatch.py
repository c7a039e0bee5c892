"""Which library and device an array belongs to.

A *library* is an array library together with a kind of memory, such as torch on the second GPU. It turns a user's array
into what kernels read (a *view*: the same memory, without a copy) and kernel outputs into the user's kind of array, and
names the backend that computes there. Libraries are recognised through ``sys.modules``, never imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import array_api_compat
import numpy as np

from fastloss.cpu import arrays as host
from fastloss.cpu import backend as host_backend
from fastloss.cpu.arrays import NUMPY, TORCH, DlpackLibrary, as_numpy
from fastloss.runtime.dtypes import F16_BITS
from fastloss.runtime.half import widened
from fastloss.runtime.loaded import is_instance

_libraries: dict[Any, Any] = {}

IN_SYMBOLIC_TRACE = (
    "what torch.fx.symbolic_trace passes has no numbers; use torch.export.export, or make_fx of "
    "torch.fx.experimental.proxy_tensor, which see the losses of fastloss.torch as operators"
)


def lazy(arrays: tuple[Any, ...]) -> Any:
    """Return the module that computes calls of lazy arrays, None where there is none among `arrays` or in a list."""
    each = (one for array in arrays for one in (array if isinstance(array, list | tuple) else (array,)))
    if any(is_instance(one, "dask.array", "Array") for one in {type(one): one for one in each}.values()):
        return import_module("fastloss.dask.calls")  # loaded with the first of them
    return None


def library_of(arrays: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    """Return the library of the first array, and check that the others lie with it.

    Raises
    ------
    TypeError
        If arrays of different devices or libraries are mixed, or one is not an array.
    """
    for array in arrays:
        if array is not None and type(array) is not np.ndarray:
            return _slow_library_of(arrays, names)
    return NUMPY


def lowering(array: Any) -> Callable[[Any], Any] | None:
    """Return what gives the memory of such arrays, NumPy's or a view of a device's; None for what is no array."""
    try:
        lower = host.lowering(array)
    except AttributeError:  # what JAX traces has the methods of its arrays, of which some fail
        if not type(array).__module__.startswith("jax"):
            raise
        raise TypeError(
            "what JAX traces has no numbers: use the losses of fastloss.jax in its transforms, and fastloss.jax.wrap "
            "for a loss of your own"
        ) from None
    if lower is not None or isinstance(array, np.ndarray | np.generic | int | float | list | tuple):
        return lower
    try:
        library = _library(array, "array")
    except TypeError:
        return None
    return None if library.backend is host_backend else library.reader


APART, SAME, OVERLAPPING = range(3)


def relation(target: Any, other: Any) -> int:
    """Return whether an array that is written shares no memory with another, is the same, or overlaps it otherwise."""
    if target is other:
        return SAME
    if type(target) is not np.ndarray or type(other) is not np.ndarray:
        return APART if type(target) is not type(other) else target.relation(other)
    if (target.flags.owndata and other.flags.owndata) or not host_backend.overlap(target, other):
        return APART
    return SAME if host_backend.same(target, other) else OVERLAPPING


def host_array(array: Any, name: str, wanted: str = "an array") -> Any:
    """Return an array of any library, a list or a number as a NumPy array; one on a device is read, which waits.

    An error says that it must be `wanted`.
    """
    if isinstance(array, list | tuple):
        try:
            return as_numpy(array, name)
        except TypeError:  # lists of several lengths, or what NumPy makes no array of
            raise TypeError(f"{name} must be {wanted}, got a {type(array).__name__} that is none") from None
    if isinstance(array, np.ndarray | np.generic | int | float):
        return as_numpy(array, name)
    if "bool" in str(getattr(array, "dtype", "")):
        return np.zeros(0, bool)  # a view would not tell it from an integer
    library = _library(array, name, wanted)
    view = library.view(array, name)
    view = view if isinstance(view, np.ndarray) else library.backend.on_host(view)
    return view.view(np.float16) if view.dtype == F16_BITS else np.asarray(widened(view))  # a number if it has no axes


def _slow_library_of(arrays: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    given = [(name, array) for name, array in zip(names, arrays, strict=True) if array is not None]
    found = [(name, array, _library(array, name)) for name, array in given]
    first_name, first, library = found[0]
    for name, array, other in found[1:]:
        if other.device != library.device:
            raise TypeError(
                f"{first_name} is {_describe(first, library)} and {name} is {_describe(array, other)}: nothing is "
                f"moved between devices silently; {_how_to_move(first_name, first, name, array, library)}"
            )
    return library


def _describe(array: Any, library: Any) -> str:
    return f"a {library.name} array on {library.device}" if hasattr(array, "dtype") else f"{type(array).__name__!r}"


def _how_to_move(first_name: str, first: Any, name: str, array: Any, library: Any) -> str:
    """Say what to call to bring an array to the device of the first."""
    if is_instance(first, "torch", "Tensor"):
        if is_instance(array, "torch", "Tensor"):
            return f"call {name}.to({first_name}.device)"
        return f"call torch.as_tensor({name}, device={first_name}.device)"
    if library.device == "the CPU":
        return f"call {name}.cpu()" if is_instance(array, "torch", "Tensor") else f"call {name}.get()"
    return f"call cupy.asarray({name})"


def _library(array: Any, name: str, wanted: str = "an array") -> Any:
    """Return the library of one array, the argument `name`; an error says that it must be `wanted`."""
    if isinstance(array, np.ndarray | np.generic | int | float | list | tuple):
        return NUMPY
    if is_instance(array, "torch.fx", "Proxy"):
        raise TypeError(f"{name}: {IN_SYMBOLIC_TRACE}")
    on_device = is_instance(array, "cupy", "ndarray")  # which would build its interface to be asked for it
    if is_instance(array, "torch", "Tensor"):
        kind = array.device.type
        if kind == "cpu":
            return TORCH
        if kind == "meta":
            raise TypeError(f"{name}: a torch tensor on meta has no numbers; use the losses of fastloss.torch there")
        if kind != "cuda":
            raise TypeError(f"{name}: a torch tensor on {array.device} is not supported; call .cpu() first")
        on_device = True  # asking for its interface raises for bfloat16, and where a gradient is required
    # __cuda_ndarray__ marks Numba's device arrays, those of its simulator too.
    exported = on_device or hasattr(array, "__cuda_array_interface__") or hasattr(array, "__cuda_ndarray__")
    if exported or _dlpack_device(array) in (2, 13):
        return import_module("fastloss.cuda.libraries").library_of_device_array(array)
    if _dlpack_device(array) == 1:
        namespace = _namespace(array)
        if namespace is not None:
            return _libraries.setdefault(namespace, DlpackLibrary(namespace))
    if hasattr(array, "__array_interface__") or hasattr(array, "__array__"):
        return NUMPY
    if isinstance(array, Sequence) and not isinstance(array, str | bytes):
        return NUMPY  # range, array.array, memoryview
    raise TypeError(f"{name} must be {wanted}, got {type(array).__name__}")


def _dlpack_device(array: Any) -> int | None:
    """Return the DLPack device type of an array, None if it has none."""
    ask = getattr(array, "__dlpack_device__", None)
    return int(ask()[0]) if ask is not None else None


def _namespace(array: Any) -> Any:
    """Return the module with the from_dlpack of the library that made `array`."""
    try:
        return array_api_compat.array_namespace(array)
    except TypeError:
        module = sys.modules.get(type(array).__module__.partition(".")[0])
        return module if hasattr(module, "from_dlpack") else None
