"""Axes of strided arrays, merged where the arrays allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def merged_axes(arrays: Sequence[Any], shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return the lengths of the axes that are left when neighbours are merged, and the last old axis of each.

    All `arrays` have this `shape`. Two neighbours are merged where, in every array, a step along the first is as many
    bytes as all steps along the second; axes of length 1 are dropped.
    """
    lengths: list[int] = []
    last: list[int] = []
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        if last and all(a.strides[last[-1]] == a.strides[axis] * length for a in arrays):
            lengths[-1] *= length
            last[-1] = axis
        else:
            lengths.append(length)
            last.append(axis)
    return lengths, last
