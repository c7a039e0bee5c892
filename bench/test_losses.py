"""Every loss under pytest-benchmark: ``pytest bench``, add ``-k "cross_entropy and medium"`` to choose.

One group for each case; in it everybody in the catalogue of ``fastloss.bench.contenders``, after a check that all
compute the same. ``fastloss bench`` measures the same calls interleaved, which is the better comparison on a machine
that does other work too.
"""

from __future__ import annotations

import warnings

import pytest

from fastloss.bench import threads
from fastloss.bench.agreement import disagreement
from fastloss.bench.cases import SIZES, case_of
from fastloss.bench.contenders import CATALOGUE, contender
from fastloss.bench.contenders.ours import call_of, outcome

import fastloss  # noqa: F401  isort: skip  (fills the registry)
from fastloss.define.registry import LOSSES

CALLS = {"small": 100, "medium": 5, "large": 1}  # in a round, so that it lasts a millisecond or more
THREADS = threads.most()
threads.prepare(THREADS)


@pytest.mark.parametrize("who", [name for name in CATALOGUE if name != "unchecked"])
@pytest.mark.parametrize("size", SIZES["cpu"])
@pytest.mark.parametrize("name", list(LOSSES))
def test_value_and_gradient(benchmark, name, size, who):
    case = case_of(LOSSES[name], size)
    if case is None:
        pytest.skip("takes more than arrays, and has no recipe in fastloss/bench/cases.py")
    one = contender(who)
    if one.missing() is not None:
        pytest.skip(one.missing())
    with warnings.catch_warnings(), threads.limited(THREADS, [who]):
        warnings.simplefilter("ignore")  # torch's advice on reductions
        prepared = one.prepare(case)
        if prepared is None:
            pytest.skip(f"{who} has no such loss")
        result = prepared.call()
        if prepared.outcome is not None:
            assert disagreement(outcome(call_of(case)()), prepared.outcome(result)) is None
        benchmark.group = f"{name} {case.shape}"
        benchmark.pedantic(prepared.call, rounds=10, iterations=CALLS[size], warmup_rounds=2)
