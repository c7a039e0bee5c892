"""Settings shared by all tests."""

import gc
import os
import tracemalloc

# Read by torch when it is imported. Several pools of threads that spin for each other on the cores that the workers of
# pytest-xdist share make a call of torch on a few numbers last milliseconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest

import fastloss as fl
from fastloss.define.registry import LOSSES

# What dropped results leave behind, a gigabyte unless told otherwise, is memory of each worker.
fl.config(recycled_bytes=1 << 28)


def pytest_collection_finish():
    """What has been imported stays: a collector that never looks at it again saves a tenth of all compilation."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


@pytest.fixture(autouse=True, scope="module")
def _collected():
    """Compilation leaves cycles behind, a sixth of what it adds to a process, and the collector comes too seldom.

    What is in use then, kernels above all, is not looked at again: that took a tenth of the time of all tests.
    """
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True)
def _settings_survive():
    """A test that leaves the process configured would decide the outcome of the next."""
    from fastloss.runtime.settings import settings

    def values():
        return settings.num_threads, settings.check_indices, settings.recycled_bytes

    before = values()
    yield
    assert values() == before


@pytest.fixture
def forgets_losses():
    """A loss that a test registers is a loss of all tests that follow."""
    before = dict(LOSSES)
    yield
    LOSSES.clear()
    LOSSES.update(before)


@pytest.fixture
def fresh_memory():
    """Nothing serves twice: what a call allocates can be measured."""
    with fl.config(recycled_bytes=0):
        yield


@pytest.fixture
def traced_peak():
    """Return a function that tells how many bytes a call holds at most beyond what was held before, and its result.

    It calls twice and takes the less: a table of the interpreter or of the test run may grow meanwhile, once.
    """

    def once(function, arguments):
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            result = function(*arguments)
            return tracemalloc.get_traced_memory()[1] - before, result
        finally:
            tracemalloc.stop()

    def peak(function, *arguments):
        return min((once(function, arguments) for _ in range(2)), key=lambda each: each[0])

    return peak


@pytest.fixture
def one_thread():
    """No helper thread holds a chunk a little longer than the caller, while the next one is allocated."""
    with fl.config(num_threads=1):
        yield


@pytest.fixture
def threads():
    """Return a function that computes something on a given number of threads."""

    def on(count, function):
        with fl.config(num_threads=count):
            return function()

    return on


@pytest.fixture
def axes_checked(monkeypatch):
    """Kernels get arrays of as many axes as they were compiled for; Numba would write the sizes of more anywhere."""
    from fastloss.cpu.loops import check_labels, clear_rows
    from fastloss.runtime.compile import Kernel

    machine_code = Kernel.machine_code

    def checked(self, arguments, flat, params):
        code = machine_code(self, arguments, flat, params)
        axes = [1 if flat and type(a) is np.ndarray else getattr(a, "ndim", None) for a in arguments]

        def run(*given):
            assert [getattr(a, "ndim", None) for a in given[: len(axes)]] == axes
            return code(*given)

        return run

    monkeypatch.setattr(Kernel, "machine_code", checked)
    yield
    for kept in (clear_rows._launch, check_labels._weights_launch):  # their steps would be counted elsewhere
        kept.cache_clear()
