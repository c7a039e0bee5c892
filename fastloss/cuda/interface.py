"""What an array in CUDA memory says of itself: library, device, address; and what kernels and NumPy call its dtype.

Libraries are recognised through ``sys.modules``, never imported.
"""

from __future__ import annotations

import sys
from operator import attrgetter
from typing import Any

import numpy as np

from fastloss.cuda.device.numba_cuda import SIMULATED
from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.driver import device_of_address
from fastloss.runtime.dtypes import BF16_BITS, F16_BITS, F32, F64
from fastloss.runtime.loaded import is_instance


def interface_of(array: Any) -> Any:
    """Return the array's interface; that of the simulator's arrays, which have none, is the host's."""
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None and hasattr(array, "__cuda_ndarray__"):
        interface = getattr(array, "__array_interface__", None)
    return interface


def identify(array: Any) -> tuple[str, int, int]:
    """Return the name of the library that reads an array in CUDA memory, the device, and the stream of the library.

    That is the stream on which the array was made, if it names one; CuPy and torch have a current one (0 here).
    """
    if is_instance(array, "torch", "Tensor"):
        return "torch", array.device.index, 0
    if is_instance(array, "cupy", "ndarray"):
        return "CuPy", array.device.id, 0
    interface = interface_of(array)
    if interface is not None:
        return "CUDA", device_of_address(interface["data"][0]), interface.get("stream") or 0
    for module, name in (("cupy", "CuPy"), ("torch", "torch")):
        if module in sys.modules:
            return name, int(array.__dlpack_device__()[1]), 0
    raise TypeError(f"a {type(array).__name__} is read through DLPack, which needs CuPy or torch imported")


def _address_of_simulated(array: Any) -> int:
    return int(interface_of(array)["data"][0])


# Gives where an array of Numba's lies, None of an empty one; its interface costs more than a launch.
address_of = _address_of_simulated if SIMULATED else attrgetter("device_ctypes_pointer.value")


def kernel_dtype(typestr: str, dtype: Any) -> Any:
    """Return the dtype of the view, None if kernels do not read such elements."""
    if getattr(dtype, "name", "") == "bfloat16":
        return BF16_BITS
    kind = np.dtype(typestr)
    if not kind.isnative:
        return None
    if kind == np.float16:
        return F16_BITS
    if kind == np.bool_:
        return np.dtype(np.uint8)
    if kind == F32 or kind == F64:  # noqa: SIM109 (a tuple compares slower)
        return F32 if kind == F32 else F64
    return kind if kind.kind in "iu" else None


def numpy_dtype(dtype: Any) -> Any:
    """Return the NumPy dtype of a view's dtype; bits, where nobody has loaded ml_dtypes and its bfloat16."""
    if dtype == BF16_BITS:
        return np.dtype(getattr(sys.modules.get("ml_dtypes"), "bfloat16", BF16_BITS))
    return np.dtype(np.float16) if dtype == F16_BITS else dtype


def aligned(view: DeviceArray, name: str) -> DeviceArray:
    """Return the view if kernels can read it in place."""
    size = view.itemsize
    if view.pointer % size or any(step % size for step in view.strides):
        raise ValueError(f"{name}: elements must lie at multiples of their size, got strides {view.strides}")
    return view
