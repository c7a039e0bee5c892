"""``fastloss bench``: time every loss beside what else computes it, and write the results as CSV and JSON.

:mod:`~fastloss.bench.cases` makes the arrays, :mod:`~fastloss.bench.contenders` the calls,
:mod:`~fastloss.bench.measure` times them in turn, :mod:`~fastloss.bench.session` runs one case after the other, and
:mod:`~fastloss.bench.results` writes the files, from which ``bench/plot.py`` and ``bench/readme.py`` draw.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fastloss.bench import growth, guard, latency, places, threads
from fastloss.bench.cases import EXTENTS, SIZES, chosen
from fastloss.bench.contenders import CATALOGUE, available
from fastloss.bench.results import Results
from fastloss.bench.session import Plan, Session, Step

# Load average from which results are not worth keeping: with a core taken, an OpenMP pool waits for the scheduler and
# every barrier of torch then costs a time slice.
BUSY = 0.5


def main(options: argparse.Namespace) -> int:
    """Do what the command line asks for; 1 when a contender computes something else, or the guard sees a regression."""
    try:
        plan = _plan(options)
    except ValueError as error:
        print(f"fastloss bench: {error}", file=sys.stderr)
        return 2
    threads.prepare(plan.threads)
    return _guard(options, plan) if options.guard else _run(options, plan)


def _plan(options: argparse.Namespace) -> Plan:
    """Return who takes part in what, and say who cannot."""
    for size in options.sizes or ():
        if size not in EXTENTS:
            raise ValueError(f"unknown size {size}; known: {', '.join(EXTENTS)}")
    if options.shapes and (options.sizes or options.growth or options.guard):
        raise ValueError("--shapes stands instead of --sizes, --growth and --guard")
    if options.renew and not options.guard:
        raise ValueError("--renew goes with --guard FILE")
    if options.device and options.guard:
        raise ValueError("--guard is for the CPU and NumPy arrays: leave --device out")
    found_places = places.asked_for(options.device, options.dtype)
    names = options.contenders or _default_contenders(options, found_places[0])
    if options.guard:
        names = [name for name in guard.CONTENDERS if name in names]
    strangers = set(names).intersection(CATALOGUE) - set(found_places[0].contenders or CATALOGUE)
    if strangers:
        raise ValueError(f"{', '.join(sorted(strangers))} cannot take part with --device {options.device}")
    found, lacking = available(names)
    for name, reason in lacking.items():
        print(f"{name} is left out: {reason}; pip install 'fastloss[bench]' brings all but compilers", file=sys.stderr)
    if not found:
        raise ValueError("no contender is left")
    losses = [loss.name for loss in chosen(options.losses)]
    seconds = options.seconds or (0.3 if options.quick else 1.0 if options.growth else 4.0)
    return Plan(losses, found, options.threads or threads.most(), seconds, options.quick, found_places)


def _default_contenders(options: argparse.Namespace, place: places.Host) -> list[str]:
    """Return all; but torch.compile compiles for longer than the rest of a quick run or of a point of growth takes."""
    if place.contenders is not None:
        return [name for name in place.contenders if name != "compile" or not options.quick]
    if options.quick and options.growth:
        return ["fresh", "reused", "copy", "torch"]
    left_out = {"unchecked", *(("compile",) if options.quick or options.growth else ())}
    return [name for name in CATALOGUE if name not in left_out]


def _run(options: argparse.Namespace, plan: Plan) -> int:
    results = Results(plan.seconds, plan.places[0])
    # A quick run is for a look: it does not wait for noise to settle.
    session = Session(results, rounds=3, patience=1.0) if plan.quick else Session(results, rounds=5)
    if results.load > BUSY:
        print(f"the machine is busy (load {results.load:.1f}): figures favour whoever spins least", file=sys.stderr)
    print(f"{results.processor}, {plan.threads} threads; copy: the same bytes read and written")
    name = options.name or results.stem(plan.threads)
    Path(options.out).mkdir(parents=True, exist_ok=True)  # found out now, not after the work
    try:
        session.run(_steps(options, plan))
    finally:  # what an interrupted run has found is worth keeping
        if results.rows:
            ending = "-growth" if options.growth else "-shapes" if options.shapes else ""
            path = results.write(Path(options.out), name + ending)
            print(f"\nwrote {path}.csv and {path}.json")
    return 1 if session.disagreements else 0


def _steps(options: argparse.Namespace, plan: Plan) -> list[Step]:
    if options.shapes:
        return growth.by_shape(plan, options.shapes)
    return _growth(plan) if options.growth else _plain(plan, options.sizes)


def _plain(plan: Plan, sizes: list[str] | None) -> list[Step]:
    """Every loss at the sizes asked for, and small calls."""
    sizes = sizes or (["medium"] if plan.quick else list(SIZES[plan.device]))
    steps = [
        Step("sizes", loss, size, plan.contenders, plan.threads, place=place)
        for loss in plan.losses
        for size in sizes
        for place in plan.places
    ]
    return steps + latency.steps(plan)


def _growth(plan: Plan) -> list[Step]:
    """Against N, against C, and one thread against all; a GPU has no threads to choose."""
    if plan.device != "cpu":
        return [*growth.by_elements(plan), *growth.by_classes(plan)]
    return [*growth.by_elements(plan), *growth.by_classes(plan), *growth.by_threads(plan)]


def _guard(options: argparse.Namespace, plan: Plan) -> int:
    path = Path(options.guard)
    return guard.renew(path, plan, (options.sizes or ["medium"])[0]) if options.renew else guard.check(path, plan)
