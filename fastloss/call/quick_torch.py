"""The short way (``_quick.py``) for torch tensors: their memory as NumPy arrays, and the results back."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def as_numpy(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments | None:
    """Return the arguments with NumPy arrays for tensors; None unless all arrays are plain tensors in host memory."""
    tensor = getattr(sys.modules.get("torch"), "Tensor", None)
    if tensor is None:  # or torch is being imported
        return None
    found = False
    arrays: list[Any] = []
    for a in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(a, tensor):
            if a.dtype not in _plain_dtypes():
                return None
            found = True
            try:
                a = a.detach().numpy() if a.requires_grad else a.numpy()
            except (TypeError, RuntimeError):  # another device, or a layout that NumPy does not have
                return None
        elif isinstance(a, np.ndarray):
            return None
        arrays.append(a)
    if not found:
        return None
    count = len(args)
    return tuple(arrays[:count]), dict(zip(kwargs, arrays[count:], strict=True)) if kwargs else kwargs


@functools.cache
def _plain_dtypes() -> frozenset[Any]:
    torch = sys.modules["torch"]
    return frozenset((torch.float32, torch.float64, torch.int64))


def as_tensors(result: Any) -> Any:
    """Return a result with tensors in place of NumPy's arrays and numbers."""
    if type(result) is tuple:
        return tuple([as_tensors(one) for one in result])
    # Half the time of torch.scalar_tensor, for a number.
    array = result if type(result) is np.ndarray else np.array(result)
    return sys.modules["torch"].from_numpy(array)
