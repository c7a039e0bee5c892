"""Random calls, as fuzz.py draws them: of one loss here, of all with `slow`, and 100,000 by its command."""

import fuzz
import hypothesis
import numpy as np
import pytest
from cases import PLAIN

pytestmark = pytest.mark.usefixtures("axes_checked")

settings = hypothesis.settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
    print_blob=False,
)


@pytest.mark.slow
@hypothesis.settings(settings, max_examples=60)
@hypothesis.given(fuzz.calls(("mse_loss",), ("float64", "float32")))
def test_calls_of_elementwise_losses(drawn):
    fuzz.check(drawn)


@pytest.mark.slow
@hypothesis.settings(settings, max_examples=30)
@hypothesis.given(fuzz.calls(("nll_loss",), ("float64",)))
def test_calls_of_row_losses(drawn):
    fuzz.check(drawn)


@pytest.mark.slow
@hypothesis.settings(settings, max_examples=1000)
@hypothesis.given(fuzz.calls())
def test_calls_of_every_loss(drawn):
    fuzz.check(drawn)


def _writes_its_input(outcome, drawn, arrays):
    arrays["target"][...] = 0
    return outcome


def _raises_something_else(outcome, drawn, arrays):
    raise ZeroDivisionError


def _leaves_memory_as_it_is(outcome, drawn, arrays):
    return outcome[0], np.empty(outcome[1].shape)


def _returns_another_dtype(outcome, drawn, arrays):
    return outcome[0].astype(np.float32), outcome[1]


def _depends_on_the_layout(outcome, drawn, arrays):
    return outcome[0], outcome[1] + float(not arrays["input"].flags.c_contiguous)


def _fails_to_refuse(outcome, drawn, arrays):
    return ValueError("of plain copies") if arrays["input"].flags.c_contiguous else outcome


def _returns_a_wrong_value(outcome, drawn, arrays):
    return outcome[0] * 1.001, outcome[1]


@pytest.mark.parametrize(
    "wrong",
    [
        _writes_its_input,
        _raises_something_else,
        _leaves_memory_as_it_is,
        _returns_another_dtype,
        _depends_on_the_layout,
        _fails_to_refuse,
        _returns_a_wrong_value,
    ],
)
def test_violations_are_noticed(wrong, monkeypatch):
    case = next(case for case in PLAIN if case.loss == "mse_loss")
    arrays = {name: fuzz.Array("fortran") for name in case.arrays}
    drawn = fuzz.Drawn(case, 3, mode="value_and_grad", arrays=arrays, options={"reduction": "sum"})
    assert fuzz.check(drawn) == "result"
    right = fuzz._outcome
    monkeypatch.setattr(fuzz, "_outcome", lambda d, a, extra: wrong(right(d, a, extra), d, a))
    with pytest.raises((AssertionError, ZeroDivisionError)):
        fuzz.check(drawn)
