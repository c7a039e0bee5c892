"""CuPy arrays: where they lie, how new ones are made, and CuPy's matrix product."""

from __future__ import annotations

import sys
from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np

from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.device_library import DeviceLibrary
from fastloss.cuda.interface import aligned
from fastloss.runtime.dtypes import BF16_BITS, F16_BITS, F32, F64

_VIEWS = {F32: F32, F64: F64, np.dtype(np.float16): F16_BITS, np.dtype(np.int64): np.dtype(np.int64)}


class CupyLibrary(DeviceLibrary):
    """CuPy arrays."""

    name = "CuPy"
    layout = attrgetter("dtype", "shape", "strides", "device.id"), ()
    address = attrgetter("data.ptr")

    def owns(self, array: Any) -> bool:
        return isinstance(array, sys.modules["cupy"].ndarray)

    def view(self, array: Any, name: str) -> DeviceArray:
        dtype = _VIEWS.get(array.dtype) if self.owns(array) else None
        if dtype is None:
            return super().view(array, name)
        return aligned(DeviceArray(array.data.ptr, array.shape, dtype, array, array.strides), name)

    def making(self, shape: tuple[int, ...], dtype: Any) -> Callable[[], Any]:
        cupy = sys.modules["cupy"]
        kind = {F16_BITS: np.float16, BF16_BITS: "bfloat16"}.get(dtype, dtype)

        def make() -> Any:
            with cupy.cuda.Device(self.ordinal):
                return cupy.empty(shape, kind)

        return make

    def in_order(self, array: Any) -> bool:
        return self.owns(array)  # CuPy names its current stream, whatever the array was made on

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray, add: bool = False) -> None:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.ordinal):
            cupy.matmul(self._window(a), self._window(b), out=self._window(out))

    def argmax(self, view: DeviceArray, out: DeviceArray) -> None:
        with sys.modules["cupy"].cuda.Device(self.ordinal):
            self._window(out)[...] = self._window(view).argmax(1)

    def _window(self, view: DeviceArray) -> Any:
        """Return the CuPy array of a view."""
        cupy = sys.modules["cupy"]
        owner = view.owner if self.owns(view.owner) else cupy.asarray(view.owner)
        start = owner.data + (view.pointer - owner.data.ptr)
        return cupy.ndarray(view.shape, view.dtype, start, view.strides)

    def current_stream(self) -> int:
        return int(sys.modules["cupy"].cuda.get_current_stream(self.ordinal).ptr)
