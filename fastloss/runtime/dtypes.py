"""The dtypes that kernels read. Half types travel as integers: float16 as int16 bits, bfloat16 as uint16 bits."""

from __future__ import annotations

from typing import Any

import numpy as np

F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)
I64 = np.dtype(np.int64)
F16_BITS = np.dtype(np.int16)
BF16_BITS = np.dtype(np.uint16)

HALF = frozenset({F16_BITS, BF16_BITS})

# What an input may be, as the dtype of its view.
FLOATS = frozenset({F32, F64, F16_BITS, BF16_BITS})

_REALS = {F32: F32, F64: F64, F16_BITS: F32, BF16_BITS: F32}


def real_of(dtype: Any) -> Any:
    """Return the dtype that a kernel computes in: float32 for float32 and the half types, float64 for integers."""
    return _REALS.get(dtype, F64)
