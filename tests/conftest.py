"""Settings shared by all tests."""

import numpy as np
import pytest

import fastloss as fl


@pytest.fixture
def rng():
    return np.random.default_rng(20240229)


@pytest.fixture(autouse=True)
def _settings_survive():
    """A test that leaves the process configured would decide the outcome of the next."""
    from fastloss._config import settings

    before = settings.num_threads, settings.check_indices
    yield
    assert (settings.num_threads, settings.check_indices) == before


@pytest.fixture
def threads():
    """Return a function that computes something on a given number of threads."""

    def on(count, function):
        with fl.config(num_threads=count):
            return function()

    return on
