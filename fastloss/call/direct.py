"""Runs plans of calls whose arrays lie in C order, aligned and writable: NumPy's, and those that show their memory so.

A batch of 640 elements spends more time in the interpreter than in its kernel. So these functions tell a call of their
kind from another, make the results, and call the machine code, all in one; they return None for another kind of call,
and where the plan has more to say, of a bad label or a value that is not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, call
from typing import Any, NamedTuple

import numpy as np

from fastloss.call.by_address import by_address
from fastloss.call.dispatch import APART
from fastloss.call.plan import KernelCall, Plan, value_alone, value_and_gradient
from fastloss.call.planning import ABSENT, picker, unchanged
from fastloss.call.request import Request
from fastloss.call.signature import OTHER_KIND, Signature, extras_of
from fastloss.cpu.windows import FLAT
from fastloss.runtime.settings import settings

Run = Callable[[tuple[Any, ...], dict[str, Any], Request], Any]

# Makes the results that a frame has places for, unless they follow it, calls the machine code, and returns the answer.
Finish = Callable[..., Any]

# The bits of ``flags.num`` of an array in C order that is aligned and writable, and whose memory is also its own: it
# shares none with another that has its own.
_PLAIN = 0x0001 | 0x0100 | 0x0400
_OWN = _PLAIN | 0x0004

_dtype_and_shape = attrgetter("dtype", "shape")


class _Kind(NamedTuple):
    """What tells calls of a kind from others, and their frames: a kernel's arguments with places for arrays."""

    frames: tuple[list[Any], list[Any]]  # without and with a check of labels; the queue is last but one
    operands: tuple[tuple[int, int, Any, Any], ...]  # place among the arguments, place in the frame, dtype, shape
    constants: tuple[tuple[int, Any], ...]  # the other arguments, by their places
    amount: int  # of arguments by position
    names: list[str]  # of those by name
    plain: Request  # that of calls that bring nothing beside the loss's arguments


def direct(
    plan: Plan, found: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request, plain: Request
) -> Run | None:
    """Return what computes calls of the kind of this one; None where its arrays must be looked at."""
    kernel, arrays = plan.kernel, found.arrays
    if kernel is None:
        return None
    flags = _PLAIN if request is plain else _OWN
    if any(type(a) is not np.ndarray or a.flags.num & flags != flags for a in arrays):
        return by_address(kernel, found, args, kwargs, request, plain)
    framed = _frames_of(kernel)
    if framed is None or found.relations.count(APART) < len(found.relations):
        return None
    frames, slots = framed
    count, names = len(args), [*kwargs]
    if len(found.given) > count + len(names) + len(extras_of(request)):
        return None  # arrays that a loss class has bound
    operands = [(slot, place) for slot, place in enumerate(kernel.reads.places) if place is not None]
    looked_at = [(found.places[place], slot, arrays[place].dtype, arrays[place].shape) for slot, place in operands]
    constants = [(place, found.given[place]) for place in range(count + len(names)) if place not in found.places]
    kind = _Kind(frames, tuple(looked_at), tuple(constants), count, names, plain)
    if request is not plain:
        if request.grad_output is not None or any(found.lowers) or kernel.defined:
            return None
        return _into(kind, kernel, slots, request)
    finish = _short(kernel, slots) or _finish(kernel, slots)
    if any(found.lowers):
        if None in found.lowers:
            return None
        kinds: Any = [(type(found.given[found.places[place]]), found.lowers[place]) for _, place in operands]
        return _lowered(kind, finish, kinds)
    if not names and not constants and [place for place, *_ in looked_at] == [0, 1]:
        return _two(kind, finish)
    return _any(kind, finish)


def _frames_of(kernel: KernelCall) -> tuple[tuple[list[Any], list[Any]], list[int]] | None:
    """Return frames without arrays, and the places in them of what is written.

    None unless all arrays are the kernel's but for their shape, and numbers what it is called with.
    """
    _, plan, reads, results, scale, divisor, *_ = kernel
    written, slots = results.written, results.places()
    if callable(scale) or callable(divisor) or not (plan.divided or divisor):
        return None
    if any(reader is not FLAT for reader in reads.reads) or len(written) > len(slots) - slots.count(None):
        return None
    if any(one.flat is not FLAT or (one.given and not one.given.fits) for one in written):
        return None
    head = [ABSENT] * (len(reads.places) + len(slots))
    bare, checked = ([*head, *plan.numbers(scale, divisor, check), None, True] for check in (False, True))
    return (bare, checked), [len(reads.places) + slots.index(place) for place in range(len(written))]


# -- from the arguments to a frame with their arrays ------------------------------------------------------------------


def _two(kind: _Kind, finish: Finish) -> Run:
    """Return what computes calls of two arrays of NumPy by position and nothing else, in 0.9 of the time of `_any`."""
    frames, operands, *_, plain = kind
    (_, first, dtype_a, shape_a), (_, second, dtype_b, shape_b) = operands
    is_deep_a, is_deep_b, ndarray = len(shape_a) != 1, len(shape_b) != 1, np.ndarray

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        if request is not plain or kwargs or len(args) != 2:
            return None
        a, b = args
        if type(a) is not ndarray or a.dtype is not dtype_a or a.shape != shape_a or not a.flags.carray:
            return None
        if type(b) is not ndarray or b.dtype is not dtype_b or b.shape != shape_b or not b.flags.carray:
            return None
        frame = frames[settings.check_indices].copy()
        frame[first] = a.ravel() if is_deep_a else a
        frame[second] = b.ravel() if is_deep_b else b
        return finish(frame)

    return run


def _any(kind: _Kind, finish: Finish) -> Run:
    """Return what computes calls of arrays of NumPy, and options that are the same objects."""
    (frames, operands, constants, count, names, plain), ndarray = kind, np.ndarray

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        if request is not plain or len(args) != count:
            return None
        if names or kwargs:
            if [*kwargs] != names:
                return None
            args = (*args, *kwargs.values())
        for place, constant in constants:
            if args[place] is not constant:
                return None
        frame = frames[settings.check_indices].copy()
        for place, slot, dtype, shape in operands:
            a = args[place]
            if type(a) is not ndarray or a.dtype is not dtype or a.shape != shape or not a.flags.carray:
                return None
            frame[slot] = a.ravel()
        return finish(frame)

    return run


def _lowered(kind: _Kind, finish: Finish, kinds: list[tuple[type, Callable[[Any], Any]]]) -> Run:
    """Return what computes calls of arrays of another library, such as torch, whose memory NumPy can show."""
    frames, operands, constants, count, names, plain = kind
    looked_at = tuple([(*operand, *kind) for operand, kind in zip(operands, kinds, strict=True)])

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        if request is not plain or len(args) != count or [*kwargs] != names:
            return None
        if names:
            args = (*args, *kwargs.values())
        for place, constant in constants:
            if args[place] is not constant:
                return None
        frame = frames[settings.check_indices].copy()
        for place, slot, dtype, shape, kind, lower in looked_at:
            a = args[place]
            if type(a) is not kind:
                return None
            try:
                a = lower(a)
            except OTHER_KIND:
                return None
            if a.dtype is not dtype or a.shape != shape or a.flags.num & _OWN != _PLAIN:
                return None
            frame[slot] = a.ravel()
        return finish(frame)

    return run


def _into(kind: _Kind, kernel: KernelCall, slots: list[int], request: Request) -> Run:
    """Return what computes calls into arrays of the caller's; all have memory of their own, so that none overlaps."""
    (frames, operands, constants, count, names, _), finish = kind, _finish(kernel, slots)
    takes_out, takes_gradients = request.out is not None, request.grad_out is not None
    pick = picker([k for k in (3, 2) if request[k] is not None])  # the places of `out` and `grad_out` in a request
    several = takes_gradients and not request.mode.single
    extras, ndarray = extras_of(request), np.ndarray
    amount, like = len(extras) - takes_out, iter([*extras[-1:], *extras[:-1]] if takes_out else extras)
    makes = [
        (slot, one.make, None, None) if one.given is None else (slot, None, *_dtype_and_shape(next(like)))
        for slot, one in zip(slots, kernel.results.written, strict=True)
    ]

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        _, grad_output, grad_out, out = request
        if grad_output is not None or len(args) != count:
            return None
        if (out is not None) is not takes_out or (grad_out is not None) is not takes_gradients:
            return None
        if names or kwargs:
            if [*kwargs] != names:
                return None
            args = (*args, *kwargs.values())
        for place, constant in constants:
            if args[place] is not constant:
                return None
        given = [*pick(request)]
        if several:
            given.pop()
            if type(grad_out) is not tuple or len(grad_out) != amount:
                return None
            given += grad_out
        frame = frames[settings.check_indices].copy()
        for place, slot, dtype, shape in operands:
            a = args[place]
            if type(a) is not ndarray or a.dtype is not dtype or a.shape != shape or a.flags.num & _OWN != _OWN:
                return None
            for other in given:
                if other is a:
                    return None
            frame[slot] = a.ravel()
        made = []
        for slot, make, dtype, shape in makes:
            if make is not None:
                a = make()
            else:
                a = given.pop(0)
                if type(a) is not ndarray or a.dtype is not dtype or a.shape != shape or a.flags.num & _OWN != _OWN:
                    return None
                for other in given:
                    if other is a:
                        return None
            frame[slot] = a.ravel()
            made.append(a)
        return finish(frame, made)

    return run


# -- from a frame to the answer ---------------------------------------------------------------------------------------


def _finish(kernel: KernelCall, slots: list[int]) -> Finish:
    """Return what makes the results, calls the machine code, and returns the answer."""
    code, queue, labelled, defined, number, divisor = _code_of(kernel)
    makes, reduces, answer = tuple(zip(slots, kernel.results.makes, strict=True)), kernel.reduces, kernel.answer
    ends = [one.end for one in kernel.results.written]
    changes = ends.count(unchanged) < len(ends)

    def finish(frame: list[Any], made: list[Any] | None = None) -> Any:
        if made is None:
            made = []
            for slot, make in makes:
                array = make()
                frame[slot] = array.ravel()
                made.append(array)
        frame[-2] = queue()
        total = code(*frame)
        if labelled:
            bad, total = total
            if bad != -1:
                return None
        if defined and total != total:
            return None
        if changes:
            made = [*map(call, ends, made)]
        return answer(number(total / divisor) if reduces else None, made)

    return finish


def _short(kernel: KernelCall, slots: list[int]) -> Finish | None:
    """Return the same for a reduced value, alone or with one gradient, in 0.9 of the time; None for other results."""
    code, queue, labelled, defined, number, divisor = _code_of(kernel)

    def value(frame: list[Any]) -> Any:
        frame[-2] = queue()
        total = code(*frame)
        if labelled:
            bad, total = total
            if bad != -1:
                return None
        if defined and total != total:
            return None
        return number(total / divisor)

    if kernel.answer is value_alone:
        return value
    if kernel.answer is not value_and_gradient:
        return None
    (slot,), (one,) = slots, kernel.results.written
    make, end = one.make, None if one.end is unchanged else one.end

    def both(frame: list[Any]) -> Any:
        gradient = make()
        frame[slot] = gradient if gradient.ndim == 1 else gradient.ravel()
        frame[-2] = queue()
        total = code(*frame)
        if labelled:
            bad, total = total
            if bad != -1:
                return None
        if defined and total != total:
            return None
        return number(total / divisor), gradient if end is None else end(gradient)

    return both


def _code_of(kernel: KernelCall) -> tuple[Any, Callable[[], Any], bool, bool, Callable[[float], Any], float]:
    plan = kernel.plan
    return *plan.launch, plan.labelled, kernel.defined, kernel.number, 1 if plan.divided else kernel.divisor
