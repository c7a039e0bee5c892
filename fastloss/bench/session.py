"""A run of the benchmark: steps, one after the other, a line of the table for each, and the progress on stderr."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from fastloss.bench import threads
from fastloss.bench.cases import Extent, case_of
from fastloss.bench.contenders import Contender
from fastloss.bench.measure import PATIENCE, Measured, measure
from fastloss.bench.places import HOST, Host
from fastloss.bench.results import Results
from fastloss.define.registry import LOSSES
from fastloss.runtime.terminal import clear_status, clock, show_status


class Plan(NamedTuple):
    """What the command line asks for; `seconds` is the time for each case, `places` differ in dtype."""

    losses: list[str]
    contenders: list[Contender]
    threads: int
    seconds: float
    quick: bool = False
    places: Sequence[Host] = (HOST,)

    @property
    def device(self) -> str:
        """The device of all places."""
        return self.places[0].device


class Step(NamedTuple):
    """One case under some contenders with some number of threads; `extent` is that of `size` unless given."""

    mode: str
    loss: str
    size: str
    contenders: Sequence[Contender]
    threads: int
    extent: Extent | None = None
    memory: bool = False
    place: Host = HOST


class Session:
    """Runs steps and gathers what they find.

    Attributes
    ----------
    results
        What will be written.
    disagreements
        How many contenders computed something else than fastloss; they were not timed.
    """

    def __init__(self, results: Results, rounds: int, patience: float = PATIENCE) -> None:
        self.results, self.rounds, self.patience = results, rounds, patience
        self.disagreements = 0
        self._said: set[str] = set()

    def run(self, steps: Sequence[Step]) -> None:
        """Run the steps in order; those whose loss has no case here are passed over."""
        progress = Progress(len(steps))
        columns = {mode: _columns(steps, mode) for mode in {step.mode for step in steps}}
        mode = None
        for step in steps:
            title = f"{step.loss} {step.size}"
            progress.next(title)
            case = case_of(LOSSES[step.loss], step.size, step.extent, step.place)
            if case is None:
                continue
            step.place.release()
            try:
                with threads.limited(step.threads, [one.name for one in step.contenders]):
                    found = measure(
                        case, step.contenders, self.results.seconds, self.rounds, progress.say, step.memory,
                        self.patience,
                    )  # fmt: skip
            except RuntimeError as error:  # a smaller card than the case was made for
                if step.place is HOST or "out of memory" not in str(error):
                    raise
                clear_status()
                print(f"{title} left out: {str(error).partition('. ')[0]}", file=sys.stderr)
                continue
            clear_status()
            for timing in found.timings:
                if step.place.device != "cpu" and not timing.settled:  # a busy host: nothing to publish
                    low, high = (1e3 * timing.percentile(q) for q in (20, 80))
                    print(f"{title}: {timing.contender} not kept, {low:.4g} to {high:.4g} ms", file=sys.stderr)
                    continue
                peak = found.peaks.get(timing.contender)
                self.results.add(step.mode, case, timing, step.threads, peak)
            if mode != step.mode:
                mode = step.mode
                _print_heading(mode, columns[mode])
            dtype = "" if step.place.dtype == "float32" else f" {step.place.dtype}"
            _print_line(f"{step.loss} {case.shape}{dtype}", step.threads, columns[mode], found)
            self._explain(step.loss, found)

    def _explain(self, loss: str, found: Measured) -> None:
        """Say on stderr what was not timed, once for each reason."""
        for name, reason in found.wrong.items():
            self.disagreements += 1
            print(f"ERROR: {loss}: {name} computes something else and is not timed: {reason}", file=sys.stderr)
        for name, reason in found.absent.items():
            text = f"{loss}: {name} left out: {reason}"
            if text not in self._said:
                self._said.add(text)
                print(text, file=sys.stderr)


# The contender whose ratio to `fresh` (in small calls, to `transform`) ends a line.
_RATIOS = {"torch": "fresh", "torch_gradient": "transform"}


def _columns(steps: Sequence[Step], mode: str) -> list[str]:
    """Return who takes part in the steps of a mode, in the order they come."""
    return list(dict.fromkeys(one.name for step in steps if step.mode == mode for one in step.contenders))


def _print_heading(mode: str, names: Sequence[str]) -> None:
    cells = [f"{name:>{_width(name)}}" for name in names]
    cells += [f"{ratio:>{_width(ratio)}}" for ratio in _ratios(names)]
    print(f"\n{f'{mode}, median ms':<46}{'threads':>8}{''.join(cells)}")


def _print_line(title: str, threads: int, names: Sequence[str], found: Measured) -> None:
    median = {timing.contender: 1e3 * timing.median for timing in found.timings}
    cells = [f"{f'{median[name]:.4g}' if name in median else '-':>{_width(name)}}" for name in names]
    for ratio in _ratios(names):
        theirs, ours = (median.get(name, math.nan) for name in ratio.split("/"))
        cells.append(f"{'-' if math.isnan(theirs / ours) else f'{theirs / ours:.1f}x':>{_width(ratio)}}")
    print(f"{title:<46}{threads:>8}{''.join(cells)}", flush=True)


def _ratios(names: Sequence[str]) -> list[str]:
    return [f"{theirs}/{ours}" for theirs, ours in _RATIOS.items() if theirs in names and ours in names]


def _width(name: str) -> int:
    return max(10, len(name) + 2)


class Progress:
    """A line on stderr that says how far a run is, where there is a terminal to say it on."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began = total, 0, time.monotonic()
        self.title = ""

    def next(self, title: str) -> None:
        """Go on to the next step."""
        self.title = title
        self.done += 1
        self.say("")

    def say(self, text: str) -> None:
        """Show what is being done within a step."""
        elapsed = time.monotonic() - self.began
        finished = self.done - 1
        left = f", about {clock(elapsed / finished * (self.total - finished))} left" if finished > 2 else ""
        show_status(f"[{self.done}/{self.total}, {clock(elapsed)}{left}] {self.title} {text}")
