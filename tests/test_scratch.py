"""Memory that kernels compute with is given back, and begins at a cache line."""

import gc
from pathlib import Path

import numba
import numpy as np
import pytest

import fastloss as fl
from fastloss.cpu.simd.nontemporal import beyond_line
from fastloss.cpu.simd.scratch import free, scratch
from fastloss.runtime.compile import NJIT_OPTIONS


@numba.njit(**NJIT_OPTIONS)
def first_of(count, like):
    """Return how far from a line an array begins, its size, and its last element."""
    array = scratch(count, like)
    for i in range(count):
        array[i] = i
    found = beyond_line(array, 0), array.size, array[count - 1]
    free(array)
    return found


@pytest.mark.parametrize("count", [1, 7, 1000, 100_000])
@pytest.mark.parametrize("like", [0, 0.0, np.float32(0)], ids=["int64", "float64", "float32"])
def test_an_array_of_any_type_begins_at_a_line(count, like):
    assert first_of(count, like) == (0, count, count - 1)


def test_too_large_an_array_is_an_error():
    assert first_of(10, 0.0) == (0, 10, 9)
    with pytest.raises(MemoryError):
        first_of(1 << 58, 0.0)


def in_use(field):
    """Return bytes of memory of this process: mapped (field 0) or resident (1)."""
    return int(Path("/proc/self/statm").read_text().split()[field]) * 4096


only_linux = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the size of a process is read as Linux tells it"
)


@only_linux
def test_a_lattice_that_is_too_large_leaves_no_memory_behind():
    """It takes more than a process can address; what is as long as its rows takes 48 MB."""
    steps, labels = 3_000_000, 2_000_000
    x, y = np.zeros((steps, 1, 2)), np.ones((1, labels), np.int64)

    before = None
    for _ in range(4):
        with pytest.raises(MemoryError, match="no memory for what a loss computes with"):
            fl.value_and_grad(fl.ctc_loss)(x, y, [steps], [labels])
        gc.collect()  # the frames of the error, which hold the gradient
        before = before or in_use(0)
    assert in_use(0) - before < 40e6


X, Y = np.random.default_rng(0).normal(size=(30, 10)), np.arange(30) % 10
LONG = np.random.default_rng(1).normal(size=(3, 5000))
CALLS = {
    "few classes": lambda: fl.value_and_grad(fl.cross_entropy)(X, Y),
    "strided classes": lambda: fl.softmax(LONG.T, dim=0),
    "rows that are computed together": lambda: fl.softmax(LONG[:, :100], dim=1),
    "long rows": lambda: fl.softmax(LONG, dim=1),
    "strided operands": lambda: fl.value_and_grad(fl.mse_loss)(LONG[:, ::2], LONG[:, 1::2]),
    "sets of labels": lambda: fl.multilabel_margin_loss(LONG, np.full(LONG.shape, -1)),
    "sequences": lambda: fl.value_and_grad(fl.ctc_loss)(X[:, None], np.array([[1, 2, 3]]), [30], [3]),
}


@only_linux
@pytest.mark.parametrize("call", CALLS)
def test_calls_leave_no_memory_behind(call):
    """Each takes 10 kB at least."""
    for _ in range(200):
        CALLS[call]()
    before = in_use(1)
    for _ in range(2000):
        CALLS[call]()
    assert in_use(1) - before < 5e6
