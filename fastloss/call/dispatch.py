"""Where an array lies and which library it belongs to; nothing else in the package knows devices.

A *space* is an array library together with a kind of memory. It turns a user's array into what kernels read (a *view*:
the same memory, without a copy) and kernel outputs into the user's kind of array, and names the backend that computes
there. Libraries are recognised through ``sys.modules``, never imported.

On the CPU a view is a NumPy array whose dtype tells kernels how to read it: float16 becomes its int16 bits and bfloat16
its uint16 bits; true 16-bit integers are copied to int32 to keep the two apart.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)
I64 = np.dtype(np.int64)
F16_BITS = np.dtype(np.int16)
BF16_BITS = np.dtype(np.uint16)

# What an input may be, as the dtype of its view.
FLOATS = frozenset({F32, F64, F16_BITS, BF16_BITS})


# dtypes that kernels read as they are.
_DIRECT = frozenset({F32, F64, *map(np.dtype, ("i1", "u1", "i4", "u4", "i8", "u8"))})


class _Unlocked:
    """A read-only array, shown as one that may be written.

    Numba compiles a kernel for each of the two; no kernel writes to an operand, so one will do.
    """

    def __init__(self, array: Any) -> None:
        interface = array.__array_interface__
        self.array, self.__array_interface__ = array, {**interface, "data": (interface["data"][0], False)}


class NumpySpace:
    """NumPy arrays, lists and numbers."""

    name = "NumPy"
    device = "the CPU"

    def view(self, array: Any, name: str) -> Any:
        """Return the view that kernels read."""
        if type(array) is not np.ndarray:
            if _is_instance(array, "torch", "Tensor"):  # beside another library's input; DLPack refuses some
                return _torch_space().view(array, name)
            array = _as_numpy(array, name)
        view = array if array.dtype in _DIRECT and array.flags.aligned else _kernel_dtype(array, name)
        return view if view.flags.writeable else np.asarray(_Unlocked(view))

    def output(self, array: Any, name: str) -> Any:
        """Return the view of an array that the user wants written."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array like the input, got {type(array).__name__}")
        if not array.flags.writeable:
            raise ValueError(f"{name} is read-only")
        if not (array.dtype.isnative and array.flags.aligned):  # what would be written is a copy
            raise ValueError(f"{name} must be aligned and in the machine's byte order")
        _refuse_masked(array, name)
        return _kernel_dtype(array, name)

    def wrap(self, view: Any, like: Any) -> Any:
        """Return an output view as an array of this library; `like`, whose output it is, says which bfloat16."""
        dtype = view.dtype
        if dtype is F32 or dtype is F64:
            return view
        if dtype == F16_BITS:
            return view.view(np.float16)
        return view.view(like.dtype) if dtype == BF16_BITS else view

    def scalar(self, value: float, dtype: Any) -> Any:
        """Return a reduced value: float64 for float64 input, else float32."""
        return np.float64(value) if dtype == F64 else np.float32(value)

    def converted(self, array: Any, dtype: Any) -> Any:
        """Return a copy in another dtype of the library."""
        return np.asarray(array).astype(dtype)

    @functools.cached_property
    def backend(self) -> Any:
        """The module that allocates and computes."""
        import fastloss.cpu.backend as backend

        return backend


class TorchSpace(NumpySpace):
    """torch tensors in host memory."""

    name = "torch"

    def view(self, array: Any, name: str) -> Any:
        torch = sys.modules["torch"]
        if not isinstance(array, torch.Tensor):
            return super().view(array, name)
        if array.layout is not torch.strided:
            raise TypeError(f"{name}: a torch tensor of layout {array.layout} is not supported; call .to_dense() first")
        array = array.detach().resolve_neg()
        if array.dtype == torch.bfloat16:
            return array.view(torch.int16).numpy().view(BF16_BITS)
        try:
            return super().view(array.numpy(), name)
        except (TypeError, RuntimeError):
            what = "nested torch tensor" if array.is_nested else f"torch tensor of dtype {array.dtype}"
            raise TypeError(f"{name}: a {what} is not supported") from None

    def output(self, array: Any, name: str) -> Any:
        if not isinstance(array, sys.modules["torch"].Tensor):
            raise TypeError(f"{name} must be a torch tensor like the input, got {type(array).__name__}")
        if array.is_neg():
            raise ValueError(f"{name} is a negated view, which cannot be written")
        return self.view(array, name)

    def wrap(self, view: Any, like: Any) -> Any:
        torch = sys.modules["torch"]
        if view.dtype == BF16_BITS:
            return torch.from_numpy(view.view(F16_BITS)).view(torch.bfloat16)
        return torch.from_numpy(view.view(np.float16) if view.dtype == F16_BITS else view)

    def converted(self, array: Any, dtype: Any) -> Any:
        if not isinstance(dtype, sys.modules["torch"].dtype):
            raise TypeError(f"dtype must be one of torch's, like the input, got {dtype!r}")
        return array.to(dtype)

    def scalar(self, value: float, dtype: Any) -> Any:
        torch = sys.modules["torch"]
        # By way of NumPy, which makes infinity of a number beyond float32; torch refuses it.
        return torch.scalar_tensor(super().scalar(value, dtype), dtype=torch.float64 if dtype == F64 else torch.float32)


class DlpackSpace(NumpySpace):
    """Arrays of any other library that exports host memory through DLPack and imports it through from_dlpack."""

    def __init__(self, module: Any) -> None:
        self.name = module.__name__
        self._module = module

    def wrap(self, view: Any, like: Any) -> Any:
        return self._module.from_dlpack(super().wrap(view, like))

    def converted(self, array: Any, dtype: Any) -> Any:
        array = super().converted(array, dtype)
        if array.dtype.name == "bfloat16":  # NumPy does not export it
            raise TypeError(f"dtype bfloat16 is not supported for arrays of {self.name}")
        return array

    def scalar(self, value: float, dtype: Any) -> Any:
        return self._module.from_dlpack(np.asarray(super().scalar(value, dtype)))


NUMPY = NumpySpace()
_spaces: dict[Any, Any] = {}


def _torch_space() -> Any:
    return _spaces.setdefault("torch", TorchSpace())


def space_of(arrays: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    """Return the space of the first array, and check that the others lie with it.

    Raises
    ------
    TypeError
        If arrays of different devices or libraries are mixed, or one is not an array.
    """
    for array in arrays:
        if array is not None and type(array) is not np.ndarray:
            return _slow_space_of(arrays, names)
    return NUMPY


def host_array(array: Any, name: str) -> Any:
    """Return an array of any library, a list or a number as a NumPy array; one on a device is read, which waits."""
    if isinstance(array, np.ndarray | np.generic | int | float | list | tuple):
        return _as_numpy(array, name)
    if "bool" in str(getattr(array, "dtype", "")):
        return np.zeros(0, bool)  # a view would not tell it from an integer
    space = _space(array, name)
    view = space.view(array, name)
    view = view if isinstance(view, np.ndarray) else space.backend.on_host(view)
    return view.view(np.float16) if view.dtype in (F16_BITS, BF16_BITS) else view


def _slow_space_of(arrays: tuple[Any, ...], names: tuple[str, ...]) -> Any:
    found = [(name, array, _space(array, name)) for name, array in zip(names, arrays, strict=True) if array is not None]
    first_name, first, space = found[0]
    for name, array, other in found[1:]:
        if other.device != space.device:
            raise TypeError(
                f"{first_name} is {_describe(first, space)} and {name} is {_describe(array, other)}: nothing is moved "
                f"between devices silently; {_how_to_move(first_name, first, name, array, space)}"
            )
    return space


def _describe(array: Any, space: Any) -> str:
    return f"a {space.name} array on {space.device}" if hasattr(array, "dtype") else f"{type(array).__name__!r}"


def _how_to_move(first_name: str, first: Any, name: str, array: Any, space: Any) -> str:
    """Say what to call to bring an array to the device of the first."""
    if _is_instance(first, "torch", "Tensor"):
        if _is_instance(array, "torch", "Tensor"):
            return f"call {name}.to({first_name}.device)"
        return f"call torch.as_tensor({name}, device={first_name}.device)"
    if space.device == "the CPU":
        return f"call {name}.cpu()" if _is_instance(array, "torch", "Tensor") else f"call {name}.get()"
    return f"call cupy.asarray({name})"


def _space(array: Any, name: str) -> Any:
    """Return the space of one array, the argument `name`."""
    if isinstance(array, np.ndarray | np.generic | int | float | list | tuple):
        return NUMPY
    on_device = _is_instance(array, "cupy", "ndarray")  # which would build its interface to be asked for it
    if _is_instance(array, "torch", "Tensor"):
        kind = array.device.type
        if kind == "cpu":
            return _torch_space()
        if kind != "cuda":
            raise TypeError(f"{name}: a torch tensor on {array.device} is not supported; call .cpu() first")
        on_device = True  # asking for its interface raises for bfloat16, and where a gradient is required
    # __cuda_ndarray__ marks Numba's device arrays, those of its simulator too.
    exported = on_device or hasattr(array, "__cuda_array_interface__") or hasattr(array, "__cuda_ndarray__")
    if exported or _dlpack_device(array) in (2, 13):
        from fastloss.cuda.libraries import space_of_device_array

        return space_of_device_array(array)
    if _dlpack_device(array) == 1:
        namespace = _namespace(array)
        if namespace is not None:
            return _spaces.setdefault(namespace, DlpackSpace(namespace))
    if hasattr(array, "__array_interface__") or hasattr(array, "__array__"):
        return NUMPY
    if isinstance(array, Sequence) and not isinstance(array, str | bytes):
        return NUMPY  # range, array.array, memoryview
    raise TypeError(f"{name} must be an array, got {type(array).__name__}")


def _is_instance(array: Any, module: str, name: str) -> bool:
    """Return whether `array` is an instance of a class of a library that may not be there."""
    loaded = sys.modules.get(module)
    kind = getattr(loaded, name, None)
    return isinstance(kind, type) and isinstance(array, kind)


def _dlpack_device(array: Any) -> int | None:
    """Return the DLPack device type of an array, None if it has none."""
    ask = getattr(array, "__dlpack_device__", None)
    return int(ask()[0]) if ask is not None else None


def _namespace(array: Any) -> Any:
    """Return the module with the from_dlpack of the library that made `array`."""
    import array_api_compat

    try:
        return array_api_compat.array_namespace(array)
    except TypeError:
        module = sys.modules.get(type(array).__module__.partition(".")[0])
        return module if hasattr(module, "from_dlpack") else None


def _refuse_masked(array: Any, name: str) -> None:
    """Raise for a masked array: masked elements would count."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, which is not supported; fill it, or compress all arrays alike")


def _as_numpy(array: Any, name: str) -> Any:
    if isinstance(array, np.ndarray):
        _refuse_masked(array, name)
        return array.view(np.ndarray)
    if array is None:
        raise TypeError(f"{name} must be an array, got None")
    if hasattr(array, "__dlpack__"):
        try:
            return np.from_dlpack(array)
        except (BufferError, RuntimeError) as error:
            what = f"{type(array).__name__} of dtype {getattr(array, 'dtype', 'unknown')}"
            raise TypeError(f"{name}: NumPy cannot read this {what}: {error}") from None
    was_array = hasattr(array, "dtype")
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise TypeError(f"{name} is not an array: {error}") from None
    if not was_array and array.dtype.kind in "iu" and name in _REAL_ARGUMENTS:
        array = array.astype(np.float64)  # [1, 2] is as good as [1.0, 2.0]; an integer *array* is a mistake
    return array


# Arguments for which a list of Python integers means real numbers.
_REAL_ARGUMENTS = frozenset(
    {
        *("input", "input1", "input2", "anchor", "positive", "negative", "log_probs", "x1", "x2", "params"),
        "grad_output",
    }
)


def _kernel_dtype(array: Any, name: str) -> Any:
    """Return the array as kernels read it; see the module's docstring."""
    dtype = array.dtype
    if not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
        dtype = array.dtype
    if not array.flags.aligned:
        array = array.copy()
    if dtype in _DIRECT:
        return array
    if dtype == np.float16:
        return array.view(F16_BITS)
    if dtype.name == "bfloat16":
        return array.view(BF16_BITS)
    if dtype == np.bool_:
        return array.view(np.uint8)
    if dtype.kind in "iu":
        return array.astype(np.int32)
    raise TypeError(f"{name}: dtype {dtype} is not supported")
