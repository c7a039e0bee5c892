"""Runs plans of calls whose arrays lie in C order, aligned and writable: NumPy's, and those that show their memory so.

A batch of 640 elements spends more time in the interpreter than in its kernel. So these functions tell a call of their
kind from another, make the results, and call the machine code, all in one; they return None for another kind of call,
and where the plan has more to say, of a bad label or a value that is not defined.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np

from fastloss.call.by_address import by_address
from fastloss.call.dispatch import APART
from fastloss.call.plan import Parts, Plan, value_alone, value_and_gradient
from fastloss.call.request import Request
from fastloss.call.signature import OTHER_KIND, Signature, extras_of
from fastloss.runtime.settings import settings

Run = Callable[[tuple[Any, ...], dict[str, Any], Request], Any]

# Makes the results that a frame has places for, calls the machine code, and returns the answer.
Finish = Callable[[list[Any]], Any]

# The bits of ``flags.num`` of an array in C order that is aligned and writable, and whose memory is also its own: it
# shares none with another that has its own.
_PLAIN = 0x0001 | 0x0100 | 0x0400
_OWN = _PLAIN | 0x0004

Looked = tuple[int, int, Any, Any]  # place among the arguments, place in the frame, dtype, shape


def direct(
    plan: Plan, found: Signature, args: tuple[Any, ...], kwargs: dict[str, Any], request: Request, plain: Request
) -> Run | None:
    """Return what computes calls of the kind of this one; None where its arrays are not plain.

    `plain` is the request of calls that bring nothing beside the loss's arguments.
    """
    parts, arrays = plan.parts(), found.arrays
    flags = _PLAIN if request is plain else _OWN
    if parts is None or any(type(a) is not np.ndarray or a.flags.num & flags != flags for a in arrays):
        return None if plan.addressed is None else by_address(plan.addressed, found, args, kwargs, request, plain)
    if found.relations.count(APART) < len(found.relations):
        return None
    count, names = len(args), [*kwargs]
    if len(found.given) > count + len(names) + len(extras_of(request)):
        return None  # arrays that a loss class has bound
    operands = tuple(
        [(found.places[place], slot, arrays[place].dtype, arrays[place].shape) for place, slot in parts.operands]
    )
    constants = tuple([(place, found.given[place]) for place in range(count + len(names)) if place not in found.places])
    frames = parts.frames
    if request is not plain:
        if request.grad_output is not None or any(found.lowers):
            return None
        return _into(parts, operands, constants, count, names, request)
    finish = _finish(parts)
    if any(found.lowers):
        if None in found.lowers:
            return None
        kinds: Any = [(type(found.given[found.places[place]]), found.lowers[place]) for place, _ in parts.operands]
        return _lowered(finish, frames, operands, kinds, constants, count, names, plain)
    if not names and not constants and [place for place, *_ in operands] == [0, 1]:
        return _two(finish, frames, operands, plain)
    return _any(finish, frames, operands, constants, count, names, plain)


# -- from the arguments to a frame with their arrays ------------------------------------------------------------------


def _two(finish: Finish, frames: tuple[list[Any], list[Any]], operands: tuple[Looked, ...], plain: Request) -> Run:
    """Return what computes calls of two arrays of NumPy by position and nothing else, in 0.9 of the time of `_any`."""
    (_, first, dtype_a, shape_a), (_, second, dtype_b, shape_b) = operands
    is_deep_a, is_deep_b = len(shape_a) != 1, len(shape_b) != 1
    ndarray = np.ndarray

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


def _any(
    finish: Finish,
    frames: tuple[list[Any], list[Any]],
    operands: tuple[Looked, ...],
    constants: tuple[tuple[int, Any], ...],
    count: int,
    names: list[str],
    plain: Request,
) -> Run:
    """Return what computes calls of arrays of NumPy, and options that are the same objects."""
    ndarray = np.ndarray

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


def _lowered(
    finish: Finish,
    frames: tuple[list[Any], list[Any]],
    operands: tuple[Looked, ...],
    kinds: list[tuple[type, Callable[[Any], Any]]],
    constants: tuple[tuple[int, Any], ...],
    count: int,
    names: list[str],
    plain: Request,
) -> Run:
    """Return what computes calls of arrays of another library, such as torch, whose memory NumPy can show."""
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


def _into(
    parts: Parts,
    operands: tuple[Looked, ...],
    constants: tuple[tuple[int, Any], ...],
    count: int,
    names: list[str],
    request: Request,
) -> Run | None:
    """Return what computes calls into arrays of the caller's; all have memory of their own, so that none overlaps."""
    if parts.defined or parts.wrap is not None:
        return None
    code, frames, queue, labelled = parts.code, parts.frames, parts.queue, parts.labelled
    divisor, number, reduces, answer = parts.divisor, parts.number, parts.reduces, parts.answer
    takes_out, takes_gradients, single = request.out is not None, request.grad_out is not None, request.mode.single
    made_by = _results_like(parts, request)
    ndarray, amount = np.ndarray, len(request.grad_out) if takes_gradients and not single else 0

    def run(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        _, grad_output, grad_out, out = request
        if grad_output is not None or len(args) != count or [*kwargs] != names:
            return None
        if (out is not None) is not takes_out or (grad_out is not None) is not takes_gradients:
            return None
        if names:
            args = (*args, *kwargs.values())
        for place, constant in constants:
            if args[place] is not constant:
                return None
        given = [out] if takes_out else []
        if takes_gradients and single:
            given.append(grad_out)
        elif takes_gradients:
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
        for slot, make, dtype, shape in made_by:
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
        frame[-2] = queue()
        total = code(*frame)
        if labelled:
            bad, total = total
            if bad != -1:
                return None
        return answer(number(total / divisor) if reduces else None, made)

    return run


def _results_like(parts: Parts, request: Request) -> tuple[tuple[int, Any, Any, Any], ...]:
    """Return of each result its place in the frame, and what makes it, or the dtype and shape of the caller's array."""
    values = [request.out] if request.mode.value and not parts.reduces else []
    gradients = () if request.grad_out is None else (request.grad_out,) if request.mode.single else request.grad_out
    return tuple(
        [
            (slot, make, None, None) if array is None else (slot, None, array.dtype, array.shape)
            for (slot, make), array in zip_longest(parts.results, (*values, *gradients))
        ]
    )


# -- from a frame to the answer ---------------------------------------------------------------------------------------


def _finish(parts: Parts) -> Finish:
    """Return what makes the results, calls the machine code, and returns the answer."""
    reduces, results, answer, wrap = parts.reduces, parts.results, parts.answer, parts.wrap
    if reduces and len(results) <= 1 and answer in (value_alone, value_and_gradient):
        if not results:
            return _value(parts)
        if wrap is None or parts.wraps is not None:
            return _value_and_gradient(parts)
    code, queue, labelled, defined = parts.code, parts.queue, parts.labelled, parts.defined
    divisor, number = parts.divisor, parts.number

    def finish(frame: list[Any]) -> Any:
        made = []
        for slot, make in results:
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
        if wrap is not None:
            made = wrap(made)
        if not reduces:
            return answer(None, made)
        return answer(number(total / divisor), made)

    return finish


def _value_and_gradient(parts: Parts) -> Finish:
    """Return the same for a reduced value and one gradient, in 0.9 of the time."""
    code, queue, labelled, defined = parts.code, parts.queue, parts.labelled, parts.defined
    divisor, number, ((slot, make),) = parts.divisor, parts.number, parts.results
    wrap = None if parts.wraps is None else parts.wraps[0]

    def finish(frame: list[Any]) -> Any:
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
        return number(total / divisor), gradient if wrap is None else wrap(gradient)

    return finish


def _value(parts: Parts) -> Finish:
    """Return the same for a reduced value alone."""
    code, queue, labelled, defined = parts.code, parts.queue, parts.labelled, parts.defined
    divisor, number = parts.divisor, parts.number

    def finish(frame: list[Any]) -> Any:
        frame[-2] = queue()
        total = code(*frame)
        if labelled:
            bad, total = total
            if bad != -1:
                return None
        if defined and total != total:
            return None
        return number(total / divisor)

    return finish
