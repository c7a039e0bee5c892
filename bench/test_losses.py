"""Every loss under pytest-benchmark: ``pytest bench/test_losses.py``, add ``-k "cross_entropy and medium"`` to choose.

One group for each case; in it ``fresh`` (gradients allocated by the call), ``reused`` (``grad_out=``), ``copy`` (the
same bytes read and written) and ``torch`` (eager, forward and backward). ``python bench/run.py`` measures the same
calls interleaved, which is the better comparison on a machine that does other work too.
"""

from __future__ import annotations

import warnings
from importlib import util

import pytest

from fastloss._config import thread_count
from fastloss.bench.cases import ELEMENTS, case_of
from fastloss.bench.measure import contenders

import fastloss  # noqa: F401  isort: skip  (fills the registry)
from fastloss._registry import LOSSES

WITH_TORCH = util.find_spec("torch") is not None
CALLS = {"small": 100, "medium": 5, "large": 1}  # in a round, so that it lasts a millisecond or more


@pytest.mark.parametrize("contender", ["fresh", "reused", "copy", "torch"])
@pytest.mark.parametrize("size", list(ELEMENTS))
@pytest.mark.parametrize("name", list(LOSSES))
def test_value_and_gradient(benchmark, name, size, contender):
    case = case_of(LOSSES[name], size)
    if case is None:
        pytest.skip("takes more than arrays, and has no recipe in fastloss/bench/cases.py")
    if contender == "torch":
        if not WITH_TORCH:
            pytest.skip("torch is not installed: pip install torch==2.13.0")
        import torch

        torch.set_num_threads(thread_count())
    call = dict(contenders(case, with_torch=contender == "torch", with_compile=False)).get(contender)
    if call is None:
        pytest.skip("torch has no such loss")
    benchmark.group = f"{name} {case.shape}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on reductions
        benchmark.pedantic(call, rounds=10, iterations=CALLS[size], warmup_rounds=2)
