"""Interleaved timing of calls: every contender in turn, round after round, so that a slow spell hits all alike."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from fastloss.bench.agreement import disagreement
from fastloss.bench.cases import Case
from fastloss.bench.contenders import Call, Contender, Outcome
from fastloss.bench.contenders.ours import call_of, outcome
from fastloss.bench.memory import peak_extra
from fastloss.bench.places import Host

MAX_ROUNDS = 100

# A case goes on, until so many times what it would have taken, while the 80th percentile of a contender is more than
# SETTLED times its 20th: the median of 5 samples that differ by a factor of 3 says little.
PATIENCE = 4
SETTLED = 1.5

Report = Callable[[str], object]


class Timing(NamedTuple):
    """Seconds per call of one contender: the samples, one for each round, and the first call, which compiles.

    On a device also those that it computes, and those of the host.
    """

    contender: str
    samples: list[float]
    first: float
    device: float | None = None
    host: float | None = None

    def percentile(self, q: float) -> float:
        """Return a percentile of the samples."""
        return float(np.percentile(self.samples, q))

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)

    @property
    def settled(self) -> bool:
        """Whether the middle samples lie close together."""
        return is_settled(self.samples)


class Measured(NamedTuple):
    """What came of a case: the timings, and what was not timed and why.

    A contender that raised is in `absent` (torch.compile may lack a compiler, torch a kernel); one that computes
    something else is in `wrong`, which is an error of the benchmark. `peaks`: bytes allocated, where asked for.
    """

    timings: list[Timing]
    absent: dict[str, str]
    wrong: dict[str, str]
    peaks: dict[str, float | None]


def measure(
    case: Case,
    contenders: Sequence[Contender],
    seconds: float,
    rounds: int = 5,
    report: Report = lambda text: None,
    memory: bool = False,
    patience: float = PATIENCE,
) -> Measured:
    """Time every contender of a case for about `seconds` in all, compilation not counted, in at least `rounds`.

    Where samples scatter it takes up to `patience` times as long.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on reductions
        calls, first, absent, wrong = _prepared(case, contenders, report)
        report("timing")
        samples = interleaved(calls, seconds, rounds, case.place, patience)
        parts = {name: case.place.parts(call) for name, call in calls.items()}
        given = calls.items() if memory else ()
        peaks = {name: peak_extra(name, call, case.moved(), case.place) for name, call in given}
    del calls
    gc.collect()  # graphs of torch and JAX hold arrays in cycles
    timings = [Timing(name, samples[name], first[name], *parts[name]) for name in samples]
    return Measured(timings, absent, wrong, peaks)


def _prepared(
    case: Case, contenders: Sequence[Contender], report: Report
) -> tuple[dict[str, Call], dict[str, float], dict[str, str], dict[str, str]]:
    """Return the calls that agree with fastloss, the seconds of their first runs, and what is left out."""
    calls: dict[str, Call] = {}
    first: dict[str, float] = {}
    absent: dict[str, str] = {}
    wrong: dict[str, str] = {}
    reference: Outcome | None = None
    for one in contenders:
        report(f"{one.name}: first call")
        try:
            prepared = one.prepare(case)
            if prepared is None:
                continue
            began = time.perf_counter()
            result = prepared.call()
            case.place.synchronize()
            first[one.name] = time.perf_counter() - began
        except Exception as error:
            if one.name in ("fresh", "reused", "unchecked", "copy"):
                raise
            absent[one.name] = f"{type(error).__name__}: {' '.join(str(error).split())!s:.200}"
            continue
        if prepared.outcome is not None:
            if reference is None:
                reference = outcome(call_of(case)())
            difference = disagreement(reference, prepared.outcome(result), case.loss.name, case.place.dtype)
            if difference is not None:
                wrong[one.name] = difference
                continue
        calls[one.name] = prepared.call
    return calls, first, absent, wrong


def interleaved(
    calls: Mapping[str, Call], seconds: float, rounds: int, place: Host, patience: float = PATIENCE
) -> dict[str, list[float]]:
    """Return the samples of each call: seconds for one call, in rounds that go on for about `seconds`.

    All go on together while one of them scatters: a round of one contender alone would meet another machine.
    """
    repeats = {name: _repeats(call, place) for name, call in calls.items()}
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    planned = 0.0
    began = time.perf_counter()
    for number in range(MAX_ROUNDS):
        elapsed = time.perf_counter() - began
        if number >= rounds and elapsed > seconds:
            planned = planned or elapsed  # the least number of rounds may take longer than the seconds
            if elapsed > patience * planned or all(map(is_settled, samples.values())):
                break
        for name in order:
            time.sleep(place.settle)
            calls[name]()  # wakes the threads and brings the contender's own arrays into the cache
            samples[name].append(_block(calls[name], repeats[name], place))
        order.append(order.pop(0))  # nobody always follows the same neighbour
    return samples


def is_settled(samples: Sequence[float]) -> bool:
    """Return whether the middle ones of a contender's samples lie close together."""
    low, high = np.percentile(samples, [20, 80])
    return bool(high <= SETTLED * low)


def _repeats(call: Call, place: Host) -> int:
    """Warm up, and return how many calls make a block long enough to time."""
    call()
    call()
    return max(1, round(place.block / max(_block(call, 1, place), 1e-7)))


def _block(call: Call, repeats: int, place: Host) -> float:
    """Return the seconds of one call; its result is dropped before the next."""
    place.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    place.synchronize()
    return (time.perf_counter() - began) / repeats
