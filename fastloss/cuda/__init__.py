"""Kernels for arrays in device memory. Importing it imports numba.cuda and makes the maths callable from kernels."""

from fastloss.define.maths import add_backend

try:
    from fastloss.cuda.device.numba_cuda import jitable
except ImportError as error:
    raise ImportError(f"arrays in CUDA memory need numba-cuda: install fastloss[cu13] or [cu12] ({error})") from error

import fastloss.cuda.device.instructions
import fastloss.cuda.device.polynomials  # noqa: F401  (register what kernels call before anything that calls it is compiled)

add_backend(jitable)
