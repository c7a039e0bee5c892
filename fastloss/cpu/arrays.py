"""Libraries whose arrays lie in host memory: what kernels read of an array, and the array for what they wrote.

On the CPU a view is a NumPy array whose dtype tells kernels how to read it: float16 becomes its int16 bits and bfloat16
its uint16 bits; true 16-bit integers are copied to int32 to keep the two apart. Libraries are recognised through
``sys.modules``, never imported.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import numpy as np

from fastloss.cpu import backend
from fastloss.cpu.in_parts import copied
from fastloss.cpu.windows import unlocked
from fastloss.runtime.dtypes import BF16_BITS, F16_BITS, F32, F64, real_of
from fastloss.runtime.loaded import is_instance

# dtypes that kernels read as they are.
_DIRECT = frozenset({F32, F64, *map(np.dtype, ("i1", "u1", "i4", "u4", "i8", "u8"))})


_ONE_F32, _ONE_F64 = np.float32(1), np.float64(1)


class NumpyLibrary:
    """NumPy arrays, lists and numbers."""

    name = "NumPy"
    device = "the CPU"
    backend = backend  # the module that allocates and computes

    def lower(self, array: Any, name: str) -> Any:
        """Return the memory of an array as a NumPy array."""
        if type(array) is np.ndarray:
            return array
        if is_instance(array, "torch", "Tensor"):  # beside another library's input; DLPack refuses some
            return tensor_memory(array, name)
        return as_numpy(array, name)

    def view(self, array: Any, name: str) -> Any:
        """Return the view that kernels read."""
        return kernel_view(self.lower(array, name), name)

    @staticmethod
    def reading(low: Any) -> Callable[..., Any] | None:
        """Return what makes of such arrays the views that kernels read; None where they are those views."""
        if not (low.flags.aligned and low.flags.writeable):
            return kernel_view
        return None if low.dtype in _DIRECT else _AS_BITS.get(low.dtype, kernel_view)

    def output(self, array: Any, name: str) -> Any:
        """Return the view of an array that the user wants written."""
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} must be a NumPy array like the input, got {type(array).__name__}")
        if not array.flags.writeable:
            raise ValueError(f"{name} is read-only")
        if not (array.dtype.isnative and array.flags.aligned):  # what would be written is a copy
            raise ValueError(f"{name} must be aligned and in the machine's byte order")
        _refuse_masked(array, name)
        return kernel_view(array.view(np.ndarray), name)

    def number_of(self, dtype: Any) -> Callable[[float], Any]:
        """Return what makes reduced values of Python's numbers: `scalar`, in half its time."""
        return _ONE_F64.__mul__ if dtype == F64 else _ONE_F32.__mul__

    def wrapping(self, view_dtype: Any, dtype: Any) -> Callable[[Any], Any] | None:
        """Return what makes arrays of this library of output views, None where they are."""
        return None if view_dtype in (F32, F64) else functools.partial(self.wrap, dtype=dtype)

    def wrap(self, view: Any, dtype: Any) -> Any:
        """Return an output view as an array of this library; `dtype`, the user's, says which bfloat16."""
        if view.dtype == F16_BITS:
            return view.view(np.float16)
        return view.view(dtype) if view.dtype == BF16_BITS else view

    def scalar(self, value: float, dtype: Any) -> Any:
        """Return a reduced value: float64 for float64 input, else float32."""
        return np.float64(value) if dtype == F64 else np.float32(value)

    def converted(self, array: Any, dtype: Any) -> Any:
        """Return a copy in another dtype of the library."""
        return np.asarray(array).astype(dtype)


class TorchLibrary(NumpyLibrary):
    """torch tensors in host memory."""

    name = "torch"

    def output(self, array: Any, name: str) -> Any:
        if not isinstance(array, sys.modules["torch"].Tensor):
            raise TypeError(f"{name} must be a torch tensor like the input, got {type(array).__name__}")
        if array.is_neg():
            raise ValueError(f"{name} is a negated view, which cannot be written")
        return self.view(array, name)

    def number_of(self, dtype: Any) -> Callable[[float], Any]:
        # By way of NumPy, which makes infinity of a number beyond float32; torch refuses it. A third of the time of
        # torch.scalar_tensor.
        from_numpy, array, real = sys.modules["torch"].from_numpy, np.array, real_of(dtype)
        return lambda value: from_numpy(array(value, real))

    def wrapping(self, view_dtype: Any, dtype: Any) -> Callable[[Any], Any] | None:
        if view_dtype in (F32, F64):
            return sys.modules["torch"].from_numpy
        return functools.partial(self.wrap, dtype=dtype)

    def wrap(self, view: Any, dtype: Any) -> Any:
        torch = sys.modules["torch"]
        if view.dtype == BF16_BITS:
            return torch.from_numpy(view.view(F16_BITS)).view(torch.bfloat16)
        return torch.from_numpy(view.view(np.float16) if view.dtype == F16_BITS else view)

    def converted(self, array: Any, dtype: Any) -> Any:
        if not isinstance(dtype, sys.modules["torch"].dtype):
            raise TypeError(f"dtype must be one of torch's, like the input, got {dtype!r}")
        return array.to(dtype)

    def scalar(self, value: float, dtype: Any) -> Any:
        return self.number_of(dtype)(value)


class DlpackLibrary(NumpyLibrary):
    """Arrays of any other library that exports host memory through DLPack and imports it through from_dlpack."""

    def __init__(self, module: Any) -> None:
        self.name = module.__name__
        self._module = module

    def output(self, array: Any, name: str) -> Any:
        raise TypeError(
            f"{name} cannot be given with arrays of {self.name}, which are not written in place: leave it out, and use "
            "the array that is returned"
        )

    def number_of(self, dtype: Any) -> Callable[[float], Any]:
        return functools.partial(self.scalar, dtype=dtype)

    def wrapping(self, view_dtype: Any, dtype: Any) -> Callable[[Any], Any] | None:
        return functools.partial(self.wrap, dtype=dtype)

    def wrap(self, view: Any, dtype: Any) -> Any:
        return self._module.from_dlpack(super().wrap(view, dtype))

    def converted(self, array: Any, dtype: Any) -> Any:
        array = super().converted(array, dtype)
        if array.dtype.name == "bfloat16":  # NumPy does not export it
            raise TypeError(f"dtype bfloat16 is not supported for arrays of {self.name}")
        return array

    def scalar(self, value: float, dtype: Any) -> Any:
        return self._module.from_dlpack(np.asarray(super().scalar(value, dtype)))


NUMPY = NumpyLibrary()
TORCH = TorchLibrary()


# bfloat16 of torch as a dtype of NumPy, which has none of its own: no other array has this one.
TENSOR_BF16 = np.dtype([("bfloat16", np.uint16)])

# What gives the bits of half types: a method that is called without a step of the interpreter.
_AS_BITS = {np.dtype(np.float16): methodcaller("view", F16_BITS), TENSOR_BF16: methodcaller("view", BF16_BITS)}


def lowering(array: Any) -> Callable[[Any], Any] | None:
    """Return what gives the memory of arrays of this kind as NumPy arrays; None for what is no array of its own.

    It may fail, with an error that names no argument, for an array of another kind.
    """
    if is_instance(array, "torch", "Tensor"):
        if array.device.type != "cpu":
            return None
        is_bfloat16 = array.dtype is sys.modules["torch"].bfloat16
        if array.requires_grad and (is_bfloat16 or is_tracked(array)):
            return _tracked_bfloat16_memory if is_bfloat16 else _tracked_memory
        return _bfloat16_memory if is_bfloat16 else _plain_memory
    if isinstance(array, np.ndarray):
        return None if isinstance(array, np.ma.MaskedArray) else _base_array
    if not hasattr(array, "__dlpack__") or isinstance(array, np.generic) or hasattr(array, "__cuda_ndarray__"):
        return None  # the arrays of Numba's simulator say that they lie on the host
    return np.from_dlpack if array.__dlpack_device__()[0] == 1 else None


_base_array = methodcaller("view", np.ndarray)


_plain_memory = methodcaller("numpy")  # which refuses a tensor that autograd follows


def _tracked_memory(tensor: Any) -> Any:
    return tensor.detach().numpy()


def _bfloat16_memory(tensor: Any) -> Any:
    torch = sys.modules["torch"]
    if tensor.dtype is not torch.bfloat16 or tensor.requires_grad:
        raise TypeError("not bfloat16, or one that autograd may follow")
    return tensor.view(torch.int16).numpy().view(TENSOR_BF16)


def _tracked_bfloat16_memory(tensor: Any) -> Any:
    return _bfloat16_memory(tensor.detach())


def is_tracked(array: Any) -> bool:
    """Return whether torch's autograd follows what is done with an array."""
    torch = sys.modules.get("torch")
    return is_instance(array, "torch", "Tensor") and array.requires_grad and bool(torch.is_grad_enabled())  # type: ignore[union-attr]


def tensor_memory(tensor: Any, name: str) -> Any:
    """Return the memory of any torch tensor on the CPU as a NumPy array."""
    torch = sys.modules["torch"]
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name}: a torch tensor of layout {tensor.layout} is not supported; call .to_dense() first")
    tensor = tensor.detach().resolve_neg()
    try:
        array = _bfloat16_memory(tensor) if tensor.dtype == torch.bfloat16 else tensor.numpy()
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"{name}: {_why_not_read(tensor, error)}") from None
    if not shows_memory(array):
        raise TypeError(f"{name}: {_IN_TRANSFORM}")
    return array


_IN_TRANSFORM = (
    "a tensor inside of a transform of torch.func (grad, vmap, jvp, functionalize) does not show its numbers; use the "
    "losses of fastloss.torch there"
)


def _why_not_read(tensor: Any, error: Exception) -> str:
    """Say what is wrong with a tensor that NumPy cannot show."""
    torch = sys.modules["torch"]
    if tensor.is_nested:
        return "a nested torch tensor is not supported"
    if isinstance(error, TypeError) or tensor.dtype.is_complex:
        return f"a torch tensor of dtype {tensor.dtype} is not supported"
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return (
            f"a {type(tensor).__name__} does not show its numbers; in code that is traced with such tensors use the "
            "losses of fastloss.torch"
        )
    return _IN_TRANSFORM


def shows_memory(array: Any) -> bool:
    """Return whether an array is a window on another's memory: torch's functionalize gives NumPy none, nor an error."""
    return not (array.flags.owndata and array.size)


def _refuse_masked(array: Any, name: str) -> None:
    """Raise for a masked array: masked elements would count."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, which is not supported; fill it, or compress all arrays alike")


def as_numpy(array: Any, name: str) -> Any:
    """Return an array, list or number as a NumPy array."""
    if isinstance(array, np.ndarray):
        _refuse_masked(array, name)
        return array.view(np.ndarray)
    if array is None:
        raise TypeError(f"{name} must be an array, got None")
    if hasattr(array, "__dlpack__"):
        try:
            return np.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:  # Arrow's, of nulls, are of both kinds
            what = f"{type(array).__name__} of dtype {getattr(array, 'dtype', 'unknown')}"
            raise TypeError(f"{name}: NumPy cannot read this {what}: {error}") from None
    was_array = any(hasattr(array, each) for each in ("dtype", "__array_interface__", "__array__"))
    try:
        array = np.asarray(array)
    except ValueError as error:
        raise TypeError(f"{name} is not an array: {error}") from None
    if not was_array and array.dtype.kind in "iu" and name in _REAL_ARGUMENTS:
        array = array.astype(np.float64)  # [1, 2] is as good as [1.0, 2.0]; an integer *array* is a mistake
    return array


# Arguments for which a list of Python integers means real numbers.
_REAL_ARGUMENTS = frozenset(
    ("input", "input1", "input2", "anchor", "positive", "negative", "log_probs", "x1", "x2", "params", "grad_output")
)


def kernel_view(array: Any, name: str = "array") -> Any:
    """Return a NumPy array as kernels read it; see the module's docstring."""
    if array.dtype not in _DIRECT or not array.flags.aligned:
        array = _kernel_dtype(array, name)
    return array if array.flags.writeable else unlocked(array)


def _kernel_dtype(array: Any, name: str) -> Any:
    """Return the array as kernels read it; see the module's docstring."""
    dtype = array.dtype
    if not dtype.isnative:
        array = copied(array, dtype.newbyteorder("="), "K")
        dtype = array.dtype
    if not array.flags.aligned:
        array = copied(array)
    if dtype in _DIRECT:
        return array
    if dtype == np.float16:
        return array.view(F16_BITS)
    if dtype.name == "bfloat16" or dtype is TENSOR_BF16:
        return array.view(BF16_BITS)
    if dtype == np.bool_:
        return array.view(np.uint8)
    if dtype.kind in "iu":
        return copied(array, np.int32, "K")
    how = _OF_OBJECTS if dtype.kind == "O" else ""
    raise TypeError(f"{name}: dtype {dtype} is not supported{how}")


# A frame of pandas with columns of its own dtypes, or missing values among them, becomes such an array.
_OF_OBJECTS = "; make numbers of it first, with .astype(dtype), or of pandas .to_numpy(dtype, na_value=...)"
