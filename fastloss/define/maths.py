"""The mark of scalar functions that kernels may call, and the backends that compile them.

Nothing here imports numba: a backend registers the marked functions, past and future ones, when it loads.
"""

from __future__ import annotations

import contextlib
import inspect
import types
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from fastloss.runtime.functions import global_names, is_packaged

F = TypeVar("F", bound=Callable[..., Any])

_marked: list[Callable[..., Any]] = []
_backends: list[Callable[[Callable[..., Any]], object]] = []


def maths(function: F) -> F:
    """Record `function` as one that kernels may call, and return it unchanged.

    Raises
    ------
    TypeError
        If it is no function of Python: another callable, or one that Numba has compiled already. If it has arguments
        that are given by name alone.
    """
    if not isinstance(function, types.FunctionType):
        raise TypeError(f"@maths marks functions that are written in Python, got {function!r}")
    code = function.__code__
    if code.co_kwonlyargcount or code.co_flags & inspect.CO_VARKEYWORDS:
        raise TypeError(f"@maths: {function.__name__} must take all its arguments by position, for kernels name none")
    _marked.append(function)
    for register in _backends:
        register(function)
    return function


def named(function: F, name: str) -> F:
    """Return a function that another one made, under a name of its own: kernels are cached by the names of maths."""
    function.__name__ = function.__qualname__ = name
    return function


def name_of(function: Any) -> str:
    """Return the name of a function for messages: of one that another one is called by, that of the other one."""
    return str(getattr(function, "written_as", function.__name__))


def is_marked(function: Any) -> bool:
    """Return whether kernels may call a function."""
    return function in _marked


def marked_in(one: Any, seen: set[int]) -> Iterator[Callable[..., Any]]:
    """Yield the marked functions outside of the package that a function names, or closes over, and what these need."""
    if id(one) in seen:
        return
    seen.add(id(one))
    needed: list[Any] = []
    if isinstance(one, types.FunctionType) and not is_packaged(one):
        if is_marked(one):
            yield one
        needed = [one.__globals__[name] for name in global_names(one.__code__) if name in one.__globals__]
        needed += [*(one.__defaults__ or ()), *(one.__kwdefaults__ or {}).values()]
        for cell in one.__closure__ or ():
            with contextlib.suppress(ValueError):  # nothing is in it yet
                needed.append(cell.cell_contents)
    elif isinstance(one, tuple | list):
        needed = list(one)
    elif isinstance(one, dict):
        needed = list(one.values())
    for each in needed:
        yield from marked_in(each, seen)


def hard_targets(point: Callable[..., Any]) -> Callable[[F], F]:
    """Record a function as what elementwise maths comes to where every target, its second operand, is 0 or 1.

    The CPU's loop takes it for tiles of such targets, unless the derivative with respect to them is wanted: what it
    returns may differ in the last bits only.
    """

    def record(function: F) -> F:
        point.hard = maths(function)  # type: ignore[attr-defined]
        return function

    return record


def add_backend(register: Callable[[Callable[..., Any]], object]) -> None:
    """Have `register` called with every maths function, those of the past and those to come."""
    _backends.append(register)
    for function in _marked:
        register(function)
