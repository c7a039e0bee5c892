"""torch tensors in CUDA memory: where they lie, how new ones are made, and torch's matrix product."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from operator import attrgetter, methodcaller
from typing import Any

import numpy as np

from fastloss.cuda.device_array import DeviceArray
from fastloss.cuda.device_library import DeviceLibrary
from fastloss.runtime.dtypes import BF16_BITS, F16_BITS, F32, F64

_DTYPES = {F32: "float32", F64: "float64", F16_BITS: "float16", BF16_BITS: "bfloat16"}
_VIEWS: dict[str, Any] = {
    "float32": F32, "float64": F64, "float16": F16_BITS, "bfloat16": BF16_BITS, "bool": np.dtype(np.uint8),
    **{name: np.dtype(name) for name in ("int8", "uint8", "int32", "uint32", "int64", "uint64")},
}  # fmt: skip


class TorchLibrary(DeviceLibrary):
    """torch tensors in CUDA memory."""

    name = "torch"
    address = methodcaller("data_ptr")

    layout = attrgetter("dtype", "shape", "device", "layout"), (methodcaller("stride"), methodcaller("is_neg"))
    adds_products = True

    @property
    def multiplies_bfloat16(self) -> bool:  # type: ignore[override]
        """Whether this release of torch gives float32 products of bfloat16."""
        return "dtype_out" in sys.modules["torch"].ops.aten.addmm.overloads()

    def owns(self, array: Any) -> bool:
        return isinstance(array, sys.modules["torch"].Tensor)

    def view(self, array: Any, name: str) -> DeviceArray:
        torch = sys.modules["torch"]
        if not isinstance(array, torch.Tensor):
            return super().view(array, name)
        if array.layout is not torch.strided:
            raise TypeError(f"{name}: a torch tensor of layout {array.layout} is not supported; call .to_dense() first")
        array = array.resolve_neg()  # a copy of z.conj().imag, whose memory holds the numbers of z.imag
        kind = str(array.dtype).removeprefix("torch.")
        if kind in ("int16", "uint16"):
            return self.view(array.to(torch.int32), name)
        dtype = _VIEWS.get(kind)
        if dtype is None:
            raise TypeError(f"{name}: a torch tensor of dtype {array.dtype} is not supported")
        size = dtype.itemsize
        strides = tuple([step * size for step in array.stride()])
        return DeviceArray(array.data_ptr(), tuple(array.shape), dtype, array, strides)

    def output(self, array: Any, name: str) -> DeviceArray:
        if not self.owns(array):
            raise TypeError(f"{name} must be a torch tensor like the input, got {type(array).__name__}")
        if array.is_neg():
            raise ValueError(f"{name} is a negated view, which cannot be written")
        return self.view(array, name)

    def making(self, shape: tuple[int, ...], dtype: Any) -> Callable[[], Any]:
        torch = sys.modules["torch"]
        kind = getattr(torch, _DTYPES.get(dtype) or dtype.name)
        return functools.partial(torch.empty, shape, dtype=kind, device=self.device)

    def matmul(self, a: DeviceArray, b: DeviceArray, out: DeviceArray, add: bool = False) -> None:
        torch = sys.modules["torch"]
        factors, target = (self._window(a), self._window(b)), self._window(out)
        # Tensor cores sum products of bfloat16 in float32; only this option lets the sums out unrounded.
        wider = {} if a.dtype == out.dtype else {"out_dtype": target.dtype}
        with torch.no_grad():
            if add:
                torch.addmm(target, *factors, **wider, out=target)
            else:
                torch.mm(*factors, **wider, out=target)

    def argmax(self, view: DeviceArray, out: DeviceArray) -> None:
        sys.modules["torch"].argmax(self._window(view), 1, out=self._window(out))

    def _window(self, view: DeviceArray) -> Any:
        """Return the tensor of a view."""
        torch = sys.modules["torch"]
        owner = view.owner.detach() if self.owns(view.owner) else torch.as_tensor(view.owner, device=self.device)
        offset = owner.storage_offset() + (view.pointer - owner.data_ptr()) // view.itemsize
        return owner.as_strided(view.shape, [step // view.itemsize for step in view.strides], offset)

    def converted(self, array: Any, dtype: Any) -> Any:
        return array.to(dtype)

    @functools.cached_property
    def current_stream(self) -> Callable[[], int]:
        torch, ordinal = sys.modules["torch"], self.ordinal
        raw = getattr(torch._C, "_cuda_getCurrentRawStream", None)  # what the code asks that torch generates
        if raw is not None:
            return functools.partial(raw, ordinal)
        return lambda: int(torch.cuda.current_stream(ordinal).cuda_stream)
