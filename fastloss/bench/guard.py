"""The guard: ratios of each loss against stored ones, so that a regression of more than a third does not pass.

Two ratios at medium size: ``reused/copy``, which says how far a loss is from the speed of memory, and ``fresh/torch``.
Ratios of calls that were timed in turn travel better than times; still, they belong to a kind of machine and a number
of threads, which the file names. Nothing here runs in the timed tests.
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from fastloss.bench import threads
from fastloss.bench.cases import case_of
from fastloss.bench.measure import measure
from fastloss.bench.results import machine
from fastloss.bench.session import Plan, Progress
from fastloss.define.registry import LOSSES
from fastloss.runtime.terminal import clear_status

RATIOS = {"reused/copy": ("reused", "copy"), "fresh/torch": ("fresh", "torch")}
CONTENDERS = ("fresh", "reused", "copy", "torch")
# Worse by more than a third is a regression; what looks like one is measured again, for longer.
LIMIT = 4 / 3
AGAIN = 4
# Runs of which the worst ratio is stored: torch's time for a cheap loss, most of it page faults, differs threefold from
# run to run, and held against the best of them a third more says nothing.
RUNS = 3

Ratios = dict[str, dict[str, float]]


def ratios(plan: Plan, size: str, rounds: int = 5) -> Ratios:
    """Measure the ratios of each loss: the median over the rounds of the ratio within a round."""
    found: Ratios = {}
    progress = Progress(len(plan.losses))
    for loss in plan.losses:
        progress.next(loss)
        case = case_of(LOSSES[loss], size)
        if case is None:
            continue
        measured = measure(case, plan.contenders, plan.seconds, rounds, progress.say)
        samples = {timing.contender: timing.samples for timing in measured.timings}
        found[loss] = {
            name: round(statistics.median(a / b for a, b in zip(samples[ours], samples[theirs], strict=True)), 4)
            for name, (ours, theirs) in RATIOS.items()
            if ours in samples and theirs in samples
        }
    clear_status()
    return found


def regressions(stored: Ratios, measured: Ratios) -> dict[str, str]:
    """Return the losses of which a ratio is worse than the stored one by more than a third, and in what way."""
    found = {}
    for loss, ratios_of_loss in measured.items():
        worse = [
            f"{name} {value:.3g}, was {stored[loss][name]:.3g}"
            for name, value in ratios_of_loss.items()
            if name in stored.get(loss, {}) and value > LIMIT * stored[loss][name]
        ]
        if worse:
            found[loss] = "; ".join(worse)
    return found


def worst(runs: list[Ratios]) -> Ratios:
    """Return the largest of each ratio over several runs of the same losses."""
    return {
        loss: {name: max(run[loss][name] for run in runs if name in run[loss]) for name in first}
        for loss, first in runs[0].items()
    }


def renew(path: Path, plan: Plan, size: str) -> int:
    """Measure and store; ratios of losses that were not asked for stay as they are."""
    record = _read(path) if path.exists() else {"ratios": {}}
    with threads.limited(plan.threads, [one.name for one in plan.contenders]):
        measured = worst([ratios(plan, size) for _ in range(RUNS)])
    facts = machine()
    kept = {name: value for name, value in record["ratios"].items() if name in LOSSES}
    record = {
        "processor": facts["processor"],
        "threads": plan.threads,
        "size": size,
        "machine": facts,
        "ratios": dict(sorted({**kept, **measured}.items())),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote the ratios of {len(measured)} losses to {path}")
    return 0


def check(path: Path, plan: Plan) -> int:
    """Measure and compare; 1 when a loss is worse by more than a third, in a second, longer measurement too."""
    record = _read(path)
    stored: Ratios = record["ratios"]
    here = (machine()["processor"], plan.threads)
    if here != (record["processor"], record["threads"]):
        there = f"{record['processor']}, {record['threads']} threads"
        print(f"the stored ratios are of {there}; here: {here[0]}, {here[1]} threads", file=sys.stderr)
    guarded = [loss for loss in plan.losses if loss in stored]
    missing = [loss for loss in plan.losses if loss not in stored]
    if missing:
        print(f"no stored ratio: {', '.join(missing)}", file=sys.stderr)
    with threads.limited(plan.threads, [one.name for one in plan.contenders]):
        suspects = regressions(stored, ratios(plan._replace(losses=guarded), record["size"]))
        for loss, text in suspects.items():
            print(f"measured again: {loss}: {text}", file=sys.stderr)
        longer = plan._replace(losses=list(suspects), seconds=AGAIN * plan.seconds)
        worse = regressions(stored, ratios(longer, record["size"], 4 * AGAIN))
    for loss, text in worse.items():
        print(f"WORSE by more than a third: {loss}: {text}")
    print(f"{len(guarded) - len(worse)} of {len(guarded)} losses hold their ratios of {path}")
    return 1 if worse or not guarded else 0


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text())
        return {name: record[name] for name in ("processor", "threads", "size", "ratios")}
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:  # no text, no JSON, other JSON
        raise OSError(f"{path} is no file of ratios ({error!r}); --renew writes one") from None
