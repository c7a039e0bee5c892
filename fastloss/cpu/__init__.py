"""Kernels for arrays in host memory. Importing it imports numba and makes the maths callable from kernels."""

from collections.abc import Callable
from typing import Any

# Numba loads its array functions (and SciPy's linear algebra, where that is installed) when it first compiles: 0.15 s
# that are better spent here than in the first call.
import numba.np.arraymath  # noqa: F401
from numba.extending import register_jitable

import fastloss.cpu.simd.polynomials  # noqa: F401 registers exp, log ... before anything that calls them is compiled
from fastloss.define.maths import add_backend
from fastloss.runtime.compile import MATHS_FASTMATH, NJIT_OPTIONS, OWN_MATHS_FASTMATH
from fastloss.runtime.functions import is_packaged


def _register(function: Callable[..., Any]) -> None:
    """Make a function of the maths one that kernels call.

    It is always inlined: a call that LLVM finds too long to inline is a loop that it cannot vectorise.
    """
    fastmath = MATHS_FASTMATH if is_packaged(function) else OWN_MATHS_FASTMATH
    register_jitable(**NJIT_OPTIONS, fastmath=fastmath, forceinline=True)(function)


add_backend(_register)
