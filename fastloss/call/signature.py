"""How kinds of call are told apart: by types and layouts of arrays, and by the values of options.

Two calls of one signature are computed by one plan. The arrays of a call are those that the caller passes, then those
that a loss class has bound, then `grad_output` if it is an array, those of `grad_out`, and `out`.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter, call, is_
from typing import Any, NamedTuple

import numpy as np

from fastloss.call.dispatch import lowering, relation
from fastloss.call.planning import picker, unchanged
from fastloss.call.request import Request, is_number
from fastloss.cpu.arrays import shows_memory

# What decides how an array in host memory is read, and written; of an array in device memory.
_host_layout = attrgetter("dtype", "shape", "strides", "flags.num")
_device_layout = attrgetter("dtype", "shape", "strides")

# What may be an option of a kind of call. Hashes of others say nothing of what they hold.
OPTIONS = frozenset((int, float, bool, str, type(None), type, np.float64, np.float32, np.int64, np.int32, np.bool_))

_ARRAYS = {np.ndarray}
NUMBERS = frozenset((int, float, np.float64, np.float32, np.int64, np.int32))


def is_option(value: Any) -> bool:
    """Return whether a value may be an option of a kind of call, itself or as a tuple of such."""
    return type(value) in OPTIONS or (type(value) is tuple and all(type(one) in OPTIONS for one in value))


# What a lowering raises for an array that is not of its kind.
OTHER_KIND = (TypeError, ValueError, RuntimeError, BufferError, AttributeError)

Take = Callable[[tuple[Any, ...], dict[str, Any], Request], Any]


class Signature(NamedTuple):
    """A kind of call, and the arrays of the call it was taken of."""

    key: Any
    arrays: tuple[Any, ...]  # as arrays of NumPy, or of device memory
    places: tuple[int, ...]  # of the arrays among all that was given
    given: tuple[Any, ...]
    lowers: tuple[Callable[[Any], Any] | None, ...]
    relations: tuple[int, ...]


def extras_of(request: Request) -> tuple[Any, ...]:
    """Return the arrays that a transform is given beside the loss's own arguments."""
    _, grad_output, grad_out, out = request
    if grad_output is grad_out is out is None:
        return ()
    extras: tuple[Any, ...] = () if grad_output is None or is_number(grad_output) else (grad_output,)
    if isinstance(grad_out, tuple | list):
        extras += tuple(grad_out) or ((),)  # an empty one is a mistake, and not like none
    elif grad_out is not None:
        extras += (grad_out,)
    return extras if out is None else (*extras, out)


def _form(request: Request) -> tuple[Any, ...]:
    """Return which of them are given."""
    _, grad_output, grad_out, out = request
    shape = len(grad_out) if isinstance(grad_out, tuple | list) else grad_out is not None
    return grad_output is None, is_number(grad_output), type(shape), shape, out is None


def pairs_of(count: int, request: Request) -> list[tuple[int, int]]:
    """Return each array that a call of `count` arrays writes, which are the last ones, with every array before it."""
    written = len(extras_of(request)) - (request.grad_output is not None and not is_number(request.grad_output))
    return [(k, n) for k in range(count - written, count) for n in range(k)]


def signature(
    args: tuple[Any, ...], kwargs: dict[str, Any], bound: tuple[Any, ...], request: Request
) -> Signature | None:
    """Return the signature of a call, None if something in it has none, such as a list or a function."""
    extras = extras_of(request)
    given = (*args, *kwargs.values(), *bound, *extras)
    if {*map(type, given)} == _ARRAYS and not extras and request.grad_output is None:
        count = len(given)
        layouts = tuple(map(_host_layout, given))
        return Signature((len(args), *kwargs, layouts), given, tuple(range(count)), given, (None,) * count, ())
    parts: list[Any] = [len(args), *kwargs]
    places, arrays, lowers = [], [], []
    numbered = len(args) + [*kwargs].index("divisor") if "divisor" in kwargs else -1
    for place, a in enumerate(given):
        kind = type(a)
        lower: Callable[[Any], Any] | None = None
        if kind is np.ndarray:
            layout = _host_layout(a)
        elif place == numbered and kind in NUMBERS:  # which differs from call to call
            lower, a = _as_array, _as_array(a)
            layout = _host_layout(a)
        elif kind in OPTIONS or is_option(a):
            parts.append((kind, repr(a) if kind is tuple else a or str(a)))  # 0.0 equals -0.0, and (0, 1) (False, 1.0)
            continue
        else:
            lower = lowering(a)
            if lower is None:
                return None
            try:
                a = lower(a)
            except OTHER_KIND:  # planning knows what to say of it
                return None
            if type(a) is np.ndarray and not shows_memory(a):
                return None
            layout = _layout(a)
        parts.append((kind, lower, layout))
        places.append(place)
        arrays.append(a)
        lowers.append(lower)
    relations: tuple[int, ...] = ()
    if extras or request.grad_output is not None:
        relations = tuple([relation(arrays[k], arrays[n]) for k, n in pairs_of(len(arrays), request)])
        parts.append((_form(request), relations))
    return Signature(tuple(parts), tuple(arrays), tuple(places), given, tuple(lowers), relations)


def _as_array(number: Any) -> Any:
    try:
        return np.array(number, np.float64)
    except OverflowError:
        raise ValueError("divisor must be a number that float64 can hold") from None


def _layout(array: Any) -> Any:
    return _host_layout(array) if type(array) is np.ndarray else _device_layout(array)


def taker(
    found: Signature,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    bound: tuple[Any, ...],
    request: Request,
    plain: Request,
    as_given: tuple[Callable[[Any], Any], tuple[Callable[[Any], Any], ...]] | None = None,
) -> Take:
    """Return ``take(args, kwargs, request)``: the arrays of a call of the signature, None for a call of another one.

    `plain` is the request of calls that bring nothing beside the loss's arguments. With `as_given`, functions
    that give all that decides how an array is read but its address, the arrays are those of the caller.
    """
    arrays = [found.given[place] for place in found.places]
    kinds = tuple(map(type, arrays))
    count, names = len(args), [*kwargs]
    rest = [place for place in range(len(found.given)) if place not in found.places]
    pick, others = picker(found.places), picker(rest)
    constants = others(found.given)
    lowers = tuple([lower or unchanged for lower in found.lowers]) if any(found.lowers) else None
    on_host = {type(array) is np.ndarray for array in found.arrays}
    layout: Any = _layout if len(on_host) > 1 else _host_layout if True in on_host else _device_layout
    more = _extras_like(request) if request is not plain else None
    pairs = pairs_of(len(arrays), request)
    firsts, seconds = picker([k for k, _ in pairs]), picker([n for _, n in pairs])
    relations = found.relations
    layouts: Any = tuple(map(_layout, found.arrays))
    more_layouts: Any = ()  # functions, each as often as there are arrays
    times = answers = None
    if as_given is not None:
        lowers, relations = None, ()
        layout, asked = as_given
        times, more_layouts = len(asked), tuple([function for function in asked for _ in arrays])
        layouts, answers = tuple(map(layout, arrays)), [*map(call, more_layouts, arrays * times)]

    def take(args: tuple[Any, ...], kwargs: dict[str, Any], request: Request) -> Any:
        if len(args) != count or [*kwargs] != names:
            return None
        given = (*args, *kwargs.values(), *bound) if kwargs or bound else args
        if more is not None:
            extras = more(request)
            if extras is None:
                return None
            given += extras
        elif request is not plain:
            return None
        arrays = pick(given)
        if tuple(map(type, arrays)) != kinds or (constants and not all(map(is_, others(given), constants))):
            return None
        if lowers is not None:
            try:
                arrays = tuple(map(call, lowers, arrays))
            except OTHER_KIND:
                return None
        if tuple(map(layout, arrays)) != layouts:
            return None
        if more_layouts and [*map(call, more_layouts, arrays * times)] != answers:
            return None
        if relations and tuple(map(relation, firsts(arrays), seconds(arrays))) != relations:
            return None
        return arrays

    return take


def _extras_like(request: Request) -> Callable[[Request], Any]:
    """Return what gives the arrays beside the loss's arguments of requests with the same of them; None for others."""
    _, grad_output, gradients, written = request
    kind, is_array = type(grad_output), not (grad_output is None or is_number(grad_output))
    has_gradient, has_out = gradients is not None, written is not None
    count = len(gradients) if isinstance(gradients, tuple | list) else None

    def extras(request: Request) -> Any:
        _, grad_output, grad_out, out = request
        if (
            type(grad_output) is not kind
            or (grad_out is not None) is not has_gradient
            or (out is not None) is not has_out
        ):
            return None
        found = (grad_output,) if is_array else ()
        if count is not None:
            if not isinstance(grad_out, tuple | list) or len(grad_out) != count:
                return None
            found += tuple(grad_out)
        elif has_gradient:
            if isinstance(grad_out, tuple | list):
                return None
            found += (grad_out,)
        return (*found, out) if has_out else found

    return extras
