"""Interleaved timing of a case: every contender in turn, round after round, so that a slow spell hits all alike."""

from __future__ import annotations

import functools
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastloss._transforms import value_and_grad
from fastloss.bench.cases import Case, torch_call
from fastloss.cpu import copying

MIN_ROUNDS, MAX_ROUNDS = 5, 100
# A timed block lasts at least this long, so that the clock's grain and the call of the timer do not show.
BLOCK_SECONDS = 1e-3
# An OpenMP pool spins for some 15 ms after use and holds its cores; wait until it sleeps.
SETTLE_SECONDS = 0.02

Call = Callable[[], Any]


class Timing(NamedTuple):
    """Seconds per call of one contender: the samples, one for each round."""

    contender: str
    samples: list[float]

    def percentile(self, q: float) -> float:
        """Return a percentile of the samples."""
        return float(np.percentile(self.samples, q))

    @property
    def median(self) -> float:
        """The median of the samples."""
        return statistics.median(self.samples)


def contenders(case: Case, with_torch: bool, with_compile: bool) -> Iterator[tuple[str, Call]]:
    """Yield the name and the call of everything that is timed on a case.

    ``fresh`` allocates its gradients as a user's call does; ``reused`` writes into arrays that are there already;
    ``copy`` reads the same inputs and writes the same gradients with the same threads, and computes nothing. (A map
    such as softmax writes its values too; the copy does not.)
    """
    function = value_and_grad(case.loss.function, case.wrt[0] if len(case.wrt) == 1 else case.wrt)
    fresh = functools.partial(function, *case.arrays(), **case.options)
    given = case.gradients()
    yield "fresh", fresh
    yield "reused", functools.partial(fresh, grad_out=given[0] if len(given) == 1 else tuple(given))
    sinks = [None if name not in case.wrt else np.zeros_like(array) for name, array in case.operands.items()]
    yield "copy", functools.partial(copying.run, case.arrays(), sinks)
    found = torch_call(case) if with_torch else None
    if found is not None:
        yield "torch", _torch_step(*found)
        if with_compile:
            import torch

            yield "compile", _torch_step(torch.compile(found[0]), found[1])


def _torch_step(function: Callable[..., Any], tensors: list[Any]) -> Call:
    """Return torch's forward and backward, gradients allocated anew as after ``zero_grad``."""
    leaves = [tensor for tensor in tensors if tensor.requires_grad]

    def step() -> Any:
        for leaf in leaves:
            leaf.grad = None
        value = function(*tensors)
        # A map such as softmax gets ones, as fastloss does.
        value.backward(None if value.ndim == 0 else value.new_ones(()).expand_as(value))
        return value

    return step


def measure(case: Case, seconds: float, with_torch: bool = True, with_compile: bool = False) -> list[Timing]:
    """Time every contender of a case for about `seconds` in all."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's advice on reductions
        return _measure(case, seconds, with_torch, with_compile)


def _measure(case: Case, seconds: float, with_torch: bool, with_compile: bool) -> list[Timing]:
    calls: dict[str, tuple[Call, int]] = {}
    for name, call in contenders(case, with_torch, with_compile):
        try:
            calls[name] = call, _repeats(call)
        except Exception as error:  # torch.compile may lack a compiler, torch a kernel: the others still count
            if name not in ("torch", "compile"):
                raise
            print(f"{case.loss.name}: {name} left out: {error!s:.200}", file=sys.stderr)
    samples: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    began = time.perf_counter()
    for number in range(MAX_ROUNDS):
        if number >= MIN_ROUNDS and time.perf_counter() - began > seconds:
            break
        for name in order:
            call, repeats = calls[name]
            time.sleep(SETTLE_SECONDS)
            call()  # wakes the threads and brings the contender's own arrays into the cache
            samples[name].append(_block(call, repeats))
        order.append(order.pop(0))  # nobody always follows the same neighbour
    return [Timing(name, samples[name]) for name in calls]


def _repeats(call: Call) -> int:
    """Warm up, and return how many calls make a block long enough to time."""
    call()
    call()
    return max(1, round(BLOCK_SECONDS / max(_block(call, 1), 1e-7)))


def _block(call: Call, repeats: int) -> float:
    """Return the seconds of one call; its result is dropped before the next."""
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - began) / repeats
