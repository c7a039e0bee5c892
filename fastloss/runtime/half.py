"""Half types in NumPy, which travel as the integers that hold their bits."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss.runtime.dtypes import BF16_BITS, F16_BITS


def widened(array: Any) -> Any:
    """Return half-precision bits as float32; others pass."""
    if array.dtype == F16_BITS:
        return array.view(np.float16).astype(np.float32)
    if array.dtype == BF16_BITS:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def narrowed(numbers: Any, dtype: Any) -> Any:
    """Return numbers in a view's dtype, rounding to nearest, ties to even."""
    if dtype == F16_BITS:
        return numbers.astype(np.float16).view(np.int16)
    if dtype == BF16_BITS:
        bits = numbers.astype(np.float32).view(np.uint32)
        rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
        return np.where(np.isnan(numbers), 0x7FC0, rounded).astype(np.uint16)
    return numbers.astype(dtype)
