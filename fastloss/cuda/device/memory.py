"""How kernels read and write memory: absent arrays, half types, integers, and 128 bits at a time.

Pointers carry the type of what they point at; float16 arrives as int16 bits and bfloat16 as uint16 bits, and both are
computed in float32. Reading an absent array, ``()``, gives the neutral element; writing to it does nothing.

A *pack* is a tuple of as many neighbouring elements as a thread handles at once. Reading one takes as few loads as
128 bits allow; its address must be a multiple of its size, or of 16 bytes where it is larger. All index arithmetic is
in 64 bits.

The functions here are stubs: their bodies run in the simulator, ``instructions.py`` says what the compiler puts in
their places.
"""

from __future__ import annotations

import numpy as np

from fastloss.runtime.half import narrowed, widened

# The widest load and store of a thread, in bytes.
WIDEST = 16


def load(array, i):
    """Return element `i` as the number to compute with: float32 for the half types."""
    return widened(array.at(i))[0]


def load_or(array, i, default):
    """Return element `i` as a number of the type of `default`; an absent array gives `default`."""
    return default if array == () else type(default)(load(array, i))


def load_pack(array, i, defaults):
    """Return elements `i` ... as a tuple like `defaults`, which an absent array gives."""
    return tuple(load_or(array, i + k, default) for k, default in enumerate(defaults))


def label_at(array, i):
    """Return the class index at `i` as int64; 0 of an absent array."""
    return 0 if array == () else int(array.at(i)[0])


def store(array, i, value):
    """Write element `i`, rounding to the array's type; nothing for an absent array."""
    if array != ():
        array.at(i)[0] = narrowed(np.asarray(value), array.dtype)


def store_derivatives(arrays, hess, i, outcomes):
    """Write a pack of derivatives, one (value, slopes, curvature, factor) for each element.

    Slope k times the factor goes to ``arrays[k]``, for as many as there are of both, the curvature to `hess`.
    """
    for place, (_, slopes, curvature, factor) in enumerate(outcomes):
        for array, slope in zip(arrays, slopes, strict=False):
            store(array, i + place, factor * slope)
        store(hess, i + place, factor * curvature)


def store_values(array, i, outcomes):
    """Write a pack of values, the first entries of `outcomes`."""
    for place, outcome in enumerate(outcomes):
        store(array, i + place, outcome[0])


def store_pack(arrays, i, numbers):
    """Write one pack to each of the arrays."""
    for array in arrays:
        for place, number in enumerate(numbers):
            store(array, i + place, number)


def copy_element(target, i, source, j):
    """Copy element `j` of an array to place `i` of one of the same type, bit by bit."""
    target.at(i)[0] = source.at(j)[0]


def present(array):
    """Return whether the array is not absent; a constant to the optimiser."""
    return array != ()
