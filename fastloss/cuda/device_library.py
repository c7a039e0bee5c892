"""Arrays in CUDA memory that say where they lie by ``__cuda_array_interface__``, such as Numba's.

Strides, dtypes and half types follow the convention of ``cpu/arrays.py``.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from itertools import repeat
from operator import and_, attrgetter
from typing import Any

import numpy as np

from fastloss.cuda.backend import Backend
from fastloss.cuda.device.numba_cuda import SIMULATED, cuda
from fastloss.cuda.device_array import DeviceArray, contiguous_strides
from fastloss.cuda.driver import external_stream, single_device, wait_for
from fastloss.cuda.interface import address_of, aligned, identify, interface_of, kernel_dtype, numpy_dtype

# The class of Numba's arrays. The simulator's have another one, and no address but in their interface.
_NUMBA_ARRAY = None if SIMULATED else getattr(cuda, "devicearray").DeviceNDArray  # noqa: B009 (a type checker sees none)

# Dtypes of Numba's arrays whose views have the same.
_AS_THEY_ARE = frozenset(map(np.dtype, ("f4", "f8", "i4", "u4", "i8", "u8")))


class Maker:
    """Makes views of new arrays of a library; `bare` makes the arrays alone, `address` says where one lies."""

    __slots__ = ("address", "bare", "dtype", "shape", "strides")

    def __init__(
        self, bare: Callable[[], Any], address: Callable[[Any], Any], shape: tuple[int, ...], dtype: Any
    ) -> None:
        self.bare, self.address, self.shape, self.dtype = bare, address, shape, dtype
        self.strides = contiguous_strides(shape, dtype.itemsize)

    def __call__(self) -> DeviceArray:
        """Return the view of a new array."""
        array = self.bare()
        return DeviceArray(self.address(array) or 0, self.shape, self.dtype, array, self.strides)


class DeviceLibrary:
    """Arrays with ``__cuda_array_interface__``; results are Numba device arrays unless a library does better."""

    name = "CUDA"
    adds_products = multiplies_bfloat16 = False  # what the library's matrix product does

    def __init__(self, ordinal: int, stream: int = 0) -> None:
        self.ordinal, self.stream = ordinal, stream
        self.device = f"cuda:{ordinal}"
        self.reader = self.read  # one object, by which kinds of call are told apart

    @property
    def layout(self) -> tuple[Callable[[Any], Any], tuple[Callable[[Any], Any], ...]] | None:
        """What gives all that decides how an array of the library is read but its address; None: nothing does.

        The functions behind the first are called where that finds what it has found before.
        """
        settled = not SIMULATED and single_device()
        return (attrgetter("dtype", "shape", "strides", "stream"), ()) if settled else None

    @property
    def address(self) -> Callable[[Any], int]:
        """What gives the address of one of the library's arrays that is not empty."""
        return address_of

    @functools.cached_property
    def backend(self) -> Any:
        """The object that allocates and computes."""
        return Backend(self)

    def owns(self, array: Any) -> bool:
        """Return whether the library made the array."""
        return hasattr(array, "__cuda_ndarray__")

    def view(self, array: Any, name: str) -> DeviceArray:
        """Return the view that kernels read."""
        if type(array) is DeviceArray:
            return array
        return self._interface_view(array, name, False)

    def lower(self, array: Any, name: str) -> DeviceArray:
        """Return the view of an array's memory, which is what kernels read."""
        return self.view(array, name)

    @staticmethod
    def reading(view: DeviceArray) -> None:
        """Return None: kernels read the views of arrays as they are."""

    def read(self, array: Any) -> DeviceArray:
        """Return the view of an array of a call that is repeated; ValueError for one of another device or stream."""
        if type(array) is _NUMBA_ARRAY and not self.stream and not array.stream and single_device():
            dtype, pointer, strides = array.dtype, address_of(array) or 0, array.strides
            if dtype in _AS_THEY_ARE and not any(map(and_, (pointer, *strides), repeat(dtype.itemsize - 1))):
                return DeviceArray(pointer, array.shape, dtype, array, strides)
        if identify(array) != (self.name, self.ordinal, self.stream):
            raise ValueError
        return self.view(array, "array")

    def output(self, array: Any, name: str) -> DeviceArray:
        """Return the view of an array that the user wants written."""
        if not self.owns(array):
            raise TypeError(f"{name} must be a {self.name} array like the input, got {type(array).__name__}")
        return self._interface_view(array, name, True)

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        """Return the view of a new array of the library."""
        return self.maker(shape, dtype)()

    def maker(self, shape: tuple[int, ...], dtype: Any) -> Maker:
        """Return what makes such views."""
        return Maker(self.making(shape, dtype), self.address, shape, dtype)

    def making(self, shape: tuple[int, ...], dtype: Any) -> Callable[[], Any]:
        """Return what makes new arrays of the library."""
        stream = external_stream(self.ordinal, self.stream)
        # A copy to the host waits for the stream that computes the array.
        make = functools.partial(cuda.device_array, shape, numpy_dtype(dtype), stream=stream)

        def activate_and_make() -> Any:
            with self.backend.activated():
                return make()

        return make if single_device() else activate_and_make

    def number_of(self, dtype: Any) -> Any:
        """Return what makes reduced values."""
        return functools.partial(self.scalar, dtype=dtype)

    def wrapping(self, view_dtype: Any, dtype: Any) -> Any:
        """Return what makes arrays of this library of output views."""
        return functools.partial(self.wrap, dtype=dtype)

    def wrap(self, view: DeviceArray, dtype: Any) -> Any:
        """Return an output view as an array of this library."""
        owner = view.owner
        return owner if tuple(owner.shape) == view.shape else owner.reshape(view.shape)

    def scalar(self, value: Any, dtype: Any) -> Any:
        """Return a reduced value: float64 for float64 input, else float32."""
        if type(value) is not DeviceArray:
            number = value
            value = self.backend.scalar(dtype)
            self.backend.fill(value, number)
        return value.owner

    def converted(self, array: Any, dtype: Any) -> Any:
        """Return a copy in another dtype of the library."""
        if hasattr(array, "astype"):
            return array.astype(dtype)
        raise TypeError(f"a {self.name} array cannot be converted to {dtype}; convert it first")

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray, add: bool = False) -> None:
        """Write the matrix product into `out`, or add it where the library `adds_products`.

        Factors of bfloat16 give float32 or bfloat16 where it `multiplies_bfloat16`.
        """
        raise TypeError(
            "matrix products need the library of the arrays, and Numba has none: pass torch tensors "
            "(torch.as_tensor(array, device='cuda')) or CuPy arrays (cupy.asarray(array))"
        )

    def argmax(self, view: DeviceArray, out: DeviceArray) -> None:
        """Write to `out` the place of the largest entry of every row."""
        raise TypeError("argmax needs the library of the arrays, and Numba has none: pass torch tensors or CuPy arrays")

    def current_stream(self) -> int:
        """Return the address of the stream that the library's caller works on, 0 for the default one."""
        return self.stream

    def in_order(self, array: Any) -> bool:
        """Return whether an array that names a stream is used on the library's current one as the library does."""
        return False

    def _wait_for(self, stream: int | None) -> None:
        """Let work on the current stream begin when what was queued on another is done; None asks for nothing."""
        # 1 is the default stream too, as the interface writes it.
        here, there = (0 if address == 1 else address for address in (self.current_stream(), stream or 0))
        if stream is not None and here != there:
            wait_for(self.backend, there)

    def _interface_view(self, array: Any, name: str, written: bool) -> DeviceArray:
        interface = interface_of(array)
        if interface is None:
            return self._imported(array, name, written)
        dtype = kernel_dtype(interface["typestr"], getattr(array, "dtype", None))
        if dtype is None:
            raise TypeError(f"{name}: dtype {getattr(array, 'dtype', interface['typestr'])} is not supported")
        if dtype.kind in "iu" and dtype.itemsize == 2 and np.dtype(interface["typestr"]).kind in "iu":
            if not (hasattr(array, "astype") and not written):
                raise TypeError(f"{name}: 16-bit integers are not supported here; convert to 32 bits first")
            return self._interface_view(array.astype(np.int32), name, written)
        pointer, read_only = interface["data"]
        if written and read_only:
            raise ValueError(f"{name} is read-only")
        if not self.in_order(array):
            self._wait_for(interface.get("stream"))
        shape, strides = tuple(interface["shape"]), interface.get("strides")
        return aligned(DeviceArray(pointer or 0, shape, dtype, array, strides and tuple(strides)), name)

    def _imported(self, array: Any, name: str, written: bool) -> DeviceArray:
        """Return the view of an array that has nothing but DLPack, through this library."""
        module = None if type(self) is DeviceLibrary else sys.modules.get(self.name.lower())
        if written or module is None or not hasattr(array, "__dlpack__"):
            raise TypeError(f"{name} must be a {self.name} array, got {type(array).__name__}")
        return self.view(module.from_dlpack(array), name)
