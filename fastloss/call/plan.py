"""What is kept of a kind of call whose loss is one kernel: a function of the call's arrays and its request.

It reads the operands, makes the results, calls the machine code and returns. Loops over operands and results are those
of ``map``: a batch of 640 elements spends more time in the interpreter than in its kernel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from math import nan, prod
from operator import call
from typing import Any, NamedTuple

from fastloss.call.outputs import Outputs
from fastloss.call.planning import ABSENT, Compute, Operand, Planning, Reads, Scale, Spread, reads_of
from fastloss.call.request import Mode, Request
from fastloss.call.results import Results
from fastloss.call.weighting import Execute, partial_of
from fastloss.cpu.windows import FLAT
from fastloss.runtime.plans import KernelPlan
from fastloss.runtime.settings import settings

# Raises where a loss is not defined for the arrays of a call. Given its reduced value, it need only look where that is
# NaN; without, before anything of the user's is written, it looks at once.
Domain = Callable[[tuple[Any, ...], Any], None]

# The error about the bad label number k of the arrays of a call.
BadLabel = Callable[[tuple[Any, ...], int], Exception]


class Plan(NamedTuple):
    """What is kept of a kind of call.

    `compute` serves every call of the kind. Where the arrays are plain ones of NumPy, `parts` say how the kernel is
    called without a look-up or a call that could be done without (see ``direct.py``); on a device `addressed` does.
    """

    compute: Compute
    parts: Callable[[], Parts | None] = lambda: None
    addressed: Addressed | None = None


class Addressed(NamedTuple):
    """A kernel that is handed addresses, and what is made of its result (see ``by_address.py``)."""

    library: Any
    at: Any
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]  # operands of a call's arrays
    makes: list[Callable[[], Any]]
    written: list[int]  # places of the kernel's results, in its order, among a call's arrays and what is made
    results: list[int]  # places of the call's
    labelled: bool
    answer: Answer
    reduces: bool
    defined: bool  # whether a value of NaN means that the loss may not be


class Parts(NamedTuple):
    """A kernel's arguments as a list with places for arrays, and what is made of its result (see ``direct.py``)."""

    code: Callable[..., Any]
    frames: tuple[list[Any], list[Any]]  # without and with a check of labels; the queue is last but one
    queue: Callable[[], Any]
    operands: tuple[tuple[int, int], ...]  # (place among the call's arrays, place in the frame)
    # (place in the frame, what makes the array): the unreduced values, the gradients, the second derivative
    results: tuple[tuple[int, Callable[[], Any]], ...]
    labelled: bool
    divisor: float
    number: Callable[[float], Any]  # makes a reduced value
    reduces: bool
    answer: Answer
    wrap: Callable[[list[Any]], list[Any]] | None  # makes the results of the arrays, None: they are the results
    wraps: tuple[Callable[[Any], Any], ...] | None  # the same for each alone, where it can be done so
    defined: bool  # whether a value of NaN means that the loss may not be


def kernel_call(
    planning: Planning,
    outputs: Outputs,
    kernel: KernelPlan,
    operands: tuple[Operand | None, ...],
    spreads: tuple[Spread, ...],
    scale: Scale,
    divisor: Any,
    domain: Domain | None = None,
    bad_label: BadLabel | None = None,
) -> Plan:
    """Return the plan of a call of one kernel.

    `spreads` bring the operands to the shape that the kernel wants; `divisor` is a number, or a function of the call's
    arrays that gives one.
    """
    (code, queue), _, numbers_of, labelled, divided, *_ = kernel
    reads = reads_of(operands, spreads, kernel.reads)
    pick, readers, order, _ = reads
    if planning.weighing is not None or planning.mode.partial:

        def execute(arrays: tuple[Any, ...], request: Request, written: tuple[Any, ...]) -> Any:
            read = order((*map(call, readers, pick(arrays)), ABSENT))
            found = code(*read, *written, *numbers_of(1.0, 1.0, settings.check_indices), queue(), True)
            if labelled and found[0] != -1:
                raise bad_label(arrays, found[0])  # type: ignore[misc]
            return found[1] if labelled else found

        return _weighed_or_partial(planning, outputs, execute, domain)
    results = outputs.plan()
    make, makes, finish, flats, arrange, *_ = results
    # Nothing of the user's is written where the loss is not defined.
    look_before = domain if domain is not None and outputs.writes_over else None
    dynamic, weighs = callable(scale) or callable(divisor), planning.weighs
    library = planning.library  # and not the planning: it holds the arrays of this call, which a plan may not keep
    number = library.number_of(outputs.dtype)
    reduces, answer = planning.mode.value and not outputs.each, answering(planning.mode, outputs.each)
    addressed = None
    if kernel.bound is not None and not dynamic:
        looks = domain is not None and (outputs.writes_over or not reduces)  # at the arrays themselves
        sources = None if looks else outputs.sources(len(planning.arrays))
        if sources is not None:
            at = kernel.bound(scale, divisor)  # type: ignore[arg-type]
            addressed = Addressed(library, at, pick, *sources, labelled, answer, reduces, domain is not None)

    def compute(arrays: tuple[Any, ...], request: Request) -> Any:
        if look_before is not None:
            look_before(arrays, None)
        by, factor = divisor, scale
        if dynamic:
            by = divisor(arrays) if callable(divisor) else divisor
            factor = scale(arrays, request) if callable(scale) else scale
            if weighs and by == 0:
                return answer(number(nan) if reduces else None, _zeros(library, results, arrays, request))
        made = [*map(call, makes)] if make is None else make(arrays)
        total = code(
            *order((*map(call, readers, pick(arrays)), ABSENT)),
            *arrange((*map(call, flats, made), ABSENT)),
            *numbers_of(factor, by, settings.check_indices),  # type: ignore[arg-type]
            queue(),
            True,
        )
        if labelled:
            bad, total = total
            if bad != -1:
                raise bad_label(arrays, bad)  # type: ignore[misc]
        if not divided:
            total = total / by if by else nan
        if domain is not None:
            domain(arrays, total)
        if finish is not None:
            made = finish(made, arrays, request)
        if not reduces:
            return answer(None, made)
        return answer(number(total), made)

    parts = functools.partial(
        _parts_of, planning.mode, kernel, reads, results, outputs.slots, scale, divisor, number, reduces, answer,
        domain is not None,
    )  # fmt: skip
    return Plan(compute, parts, addressed)


def _weighed_or_partial(planning: Planning, outputs: Outputs, execute: Execute, domain: Domain | None = None) -> Plan:
    """Return the plan of a call whose values are multiplied by weights of samples, or of partial sums."""
    if planning.weighing is not None:
        return Plan(planning.weighing.plan(outputs, execute, answering(planning.mode, outputs.each), domain))
    partial, absent = partial_of(planning, prod(outputs.values), outputs.real), (ABSENT,) * outputs.slots

    def compute(arrays: tuple[Any, ...], request: Request) -> Any:
        if domain is not None:
            domain(arrays, None)
        return partial(arrays, execute(arrays, request, absent))

    return Plan(compute)


def _zeros(library: Any, results: Results, arrays: tuple[Any, ...], request: Request) -> list[Any]:
    """Return the results of a call where nothing weighs anything: the mean is NaN then, and its gradient 0."""
    made = results.made(arrays)
    for flat in map(call, results.flats, made):
        library.backend.fill(flat, 0.0)
    return made if results.finish is None else results.finish(made, arrays, request)


def _parts_of(
    mode: Mode,
    kernel: KernelPlan,
    reads: Reads,
    results: Results,
    slots: int,
    scale: Scale,
    divisor: Any,
    number: Callable[[float], Any],
    reduces: bool,
    answer: Answer,
    defined: bool,
) -> Parts | None:
    """Return the parts of a plan whose arrays go to the kernel as they are, but for their shape."""
    if callable(scale) or callable(divisor) or not (kernel.divided or divisor) or None in results.slots:
        return None
    if any(reader is not FLAT for reader in reads.reads):
        return None
    wrap = wraps = None
    if results.finish is not None and results.make is None:
        finish, plain, wraps = results.finish, Request(mode), results.wraps

        def wrap(made: list[Any]) -> list[Any]:
            return [*map(call, wraps, made)] if wraps is not None else finish(made, (), plain)

    head = [ABSENT] * (len(reads.places) + slots)
    frames = [[*head, *kernel.numbers(scale, divisor, check), None, True] for check in (False, True)]
    operands = tuple([(place, slot) for slot, place in enumerate(reads.places) if place is not None])
    made_at = [len(reads.places) + slot % slots for slot in results.slots]  # type: ignore[operator]
    return Parts(
        kernel.launch.code, (frames[0], frames[1]), kernel.launch.queue, operands,
        tuple(zip(made_at, results.makes, strict=True)), kernel.labelled, 1 if kernel.divided else divisor,
        number, reduces, answer, wrap, wraps, defined,
    )  # fmt: skip


# What computes a loss that is more than one kernel: of the call's arrays, its request, and flat views of what it
# writes, absent ones ``()``. It returns the reduced value.
Body = Callable[..., Any]


def program_call(planning: Planning, outputs: Outputs, body: Body) -> Plan:
    """Return what computes a call by a small program."""
    if planning.weighing is not None or planning.mode.partial:
        return _weighed_or_partial(planning, outputs, lambda arrays, request, written: body(arrays, request, *written))
    make, makes, finish, flats, order, *_ = outputs.plan()
    scalar, dtype = planning.library.scalar, outputs.dtype
    reduces, answer = planning.mode.value and not outputs.each, answering(planning.mode, outputs.each)

    def compute(arrays: tuple[Any, ...], request: Request) -> Any:
        made = [*map(call, makes)] if make is None else make(arrays)
        total = body(arrays, request, *order((*map(call, flats, made), ABSENT)))
        if finish is not None:
            made = finish(made, arrays, request)
        return answer(scalar(total, dtype) if reduces else None, made)

    return Plan(compute)


# Makes a call's answer of the reduced value and of the results: the values if they are not reduced, the derivatives.
Answer = Callable[[Any, list[Any]], Any]


def value_alone(value: Any, results: list[Any]) -> Any:
    """Return the answer of a call for a reduced value."""
    return value


def value_and_gradient(value: Any, results: list[Any]) -> Any:
    """Return the answer of a call for a reduced value and its gradient."""
    return value, results[0]


def answering(mode: Mode, each: bool) -> Answer:
    """Return what makes the answer of a call; `each`: a value is not reduced."""
    single = mode.single and not mode.hessian
    if not mode.wrt:
        return (lambda value, results: results[0]) if each else value_alone
    if not mode.value:
        return (lambda value, results: results[0]) if single else (lambda value, results: tuple(results))
    if each and single:
        return lambda value, results: tuple(results)
    if each:
        return lambda value, results: (results[0], tuple(results[1:]))
    return value_and_gradient if single else (lambda value, results: (value, tuple(results)))
