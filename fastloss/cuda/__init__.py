"""Kernels for arrays in device memory. Importing it imports numba.cuda and makes the maths callable from kernels."""

import fastloss.cuda.math  # noqa: F401  (registers exp, log ... before anything that calls them is compiled)
from fastloss._registry import add_backend
from fastloss.cuda.target import jitable

add_backend(jitable)
