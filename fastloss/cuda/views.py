"""Facts about dtypes of views that several drivers ask for."""

from __future__ import annotations

from typing import Any

import numpy as np

F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)

_REALS = {F32: F32, F64: F64, np.dtype(np.int16): F32, np.dtype(np.uint16): F32}


def real_of(dtype: Any) -> Any:
    """Return the dtype that a kernel computes in: float32 for float32 and the half types, float64 for integers."""
    return _REALS.get(dtype, F64)
