"""What is kept of a kind of call whose loss is one kernel: a function of the call's arrays and its request.

It reads the operands, makes the results, calls the machine code and returns. Loops over operands and results are those
of ``map``: a batch of 640 elements spends more time in the interpreter than in its kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import nan, prod
from operator import call
from typing import Any, NamedTuple

from fastloss.call.outputs import Outputs
from fastloss.call.partial_sums import partial_of
from fastloss.call.planning import ABSENT, Compute, Operand, Planning, Scale, Spread
from fastloss.call.reads import Reads, reads_of
from fastloss.call.request import Mode, Request
from fastloss.call.results import Results
from fastloss.call.weighting import Execute
from fastloss.runtime.plans import KernelPlan
from fastloss.runtime.settings import settings

# Raises where a loss is not defined for the arrays of a call. Given its reduced value, it need only look where that is
# NaN; without, before anything of the user's is written, it looks at once.
Domain = Callable[[tuple[Any, ...], Any], None]

# The error about the bad label number k of the arrays of a call.
BadLabel = Callable[[tuple[Any, ...], int], Exception]


class Plan(NamedTuple):
    """What is kept of a kind of call.

    `compute` serves every call of the kind. Where it is one of a kernel alone, `kernel` has what that consists of:
    plain arrays of NumPy, and addresses on a device, have shorter ways to it (``direct.py``, ``by_address.py``).
    """

    compute: Compute
    kernel: KernelCall | None = None


class KernelCall(NamedTuple):
    """What a call of one kernel consists of."""

    library: Any
    plan: KernelPlan
    reads: Reads
    results: Results
    scale: Any  # a number, or a function that gives that of a call, as the divisor is
    divisor: Any
    number: Callable[[float], Any]  # makes a reduced value
    reduces: bool
    answer: Answer
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
    _, make, makes, finish, flats, arrange = results
    # Nothing of the user's is written where the loss is not defined.
    look_before = domain if domain is not None and outputs.writes_over else None
    dynamic, weighs = callable(scale) or callable(divisor), planning.weighs
    library = planning.library  # and not the planning: it holds the arrays of this call, which a plan may not keep
    number = library.number_of(outputs.dtype)
    reduces, answer = planning.mode.value and not outputs.each, answering(planning.mode, outputs.each)

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

    defined = domain is not None
    return Plan(compute, KernelCall(library, kernel, reads, results, scale, divisor, number, reduces, answer, defined))


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


def _zeros(library: Any, results: Results, arrays: tuple[Any, ...], request: Request) -> Sequence[Any]:
    """Return the results of a call where nothing weighs anything: the mean is NaN then, and its gradient 0."""
    made = results.made(arrays)
    for flat in map(call, results.flats, made):
        library.backend.fill(flat, 0.0)
    return results.finished(made, arrays, request)


# What computes a loss that is more than one kernel: of the call's arrays, its request, and flat views of what it
# writes, absent ones ``()``. It returns the reduced value.
Body = Callable[..., Any]


def program_call(planning: Planning, outputs: Outputs, body: Body) -> Plan:
    """Return what computes a call by a small program."""
    if planning.weighing is not None or planning.mode.partial:
        return _weighed_or_partial(planning, outputs, lambda arrays, request, written: body(arrays, request, *written))
    _, make, makes, finish, flats, order = outputs.plan()
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
Answer = Callable[[Any, Sequence[Any]], Any]


def value_alone(value: Any, results: Sequence[Any]) -> Any:
    """Return the answer of a call for a reduced value."""
    return value


def value_and_gradient(value: Any, results: Sequence[Any]) -> Any:
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
