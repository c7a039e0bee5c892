"""The same numbers in another layout of memory."""

import numpy as np


def filler(dtype):
    """Return what marks memory that belongs to nobody."""
    return np.frombuffer(b"\x45" * dtype.itemsize, dtype)[0]


def apart(a):
    """Every second element of an array twice as long along every axis."""
    wide = np.full([2 * n for n in a.shape], filler(a.dtype), a.dtype)
    view = wide[(..., *(slice(None, None, 2) for _ in a.shape))]
    view[...] = a
    return view


def backwards(a):
    flip = (..., *(slice(None, None, -1) for _ in a.shape))
    return np.array(a[flip], order="C")[flip]


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a):
    raw = np.empty(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    assert not a.size or a.dtype.alignment == 1 or not raw.flags.aligned
    return raw


def swapped(a):
    return a.astype(a.dtype.newbyteorder()) if a.dtype.kind in "fiu" else a
