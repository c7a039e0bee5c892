"""Mistakes in the maths of a loss that are found when it is defined: the compiler says a page of them, or nothing.

A name that is not defined, a function that is not marked, and a number that makes float32 float64: in Numba ``0.5 * x``
is float64 for a float32 x, which costs half the speed on a CPU and much more on a GPU, and nobody says so.
"""

from __future__ import annotations

import builtins
import math
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastloss.define import named_arguments, scalars
from fastloss.define.maths import is_marked
from fastloss.runtime.functions import global_names

# A call of the maths of a description; it takes what makes a number.
Calls = list[Callable[[Callable[[float], Any]], Any]]


def check_definition(name: str, description: Any, calls_of: Callable[[Any], Calls]) -> None:
    """Raise if the maths of a description has such a mistake; `calls_of` gives calls of a description's maths."""
    seen: set[Any] = set()
    for function in _functions_of(description):
        _check_names(name, function, seen)
    twins: dict[Any, Any] = {}
    for call in calls_of(_with_twins(description, twins)):
        try:
            _check_narrow(call(_Narrow))
        except _WidenedError as error:
            returned = ", ".join([function.__name__ for function in _functions_of(description)])
            raise TypeError(f"{name}: {_place(error, twins) or f'what {returned} returns'}: {error}") from None
        except (AttributeError, NameError, TypeError) as error:  # whatever the numbers are; the compiler may take it
            place = _place(error, twins)
            if place is None:  # it lies in what a function returns, of which check_maths has better words
                continue
            kind = NameError if isinstance(error, NameError) else TypeError
            raise kind(f"{name}: {place}: {error}") from None
        except Exception:  # what cannot be run with such numbers is left to the compiler
            continue


def _functions_of(description: Any) -> Iterator[Any]:
    maths = (description.point,) if hasattr(description, "point") else getattr(description, "maths", ())
    return filter(callable, maths)


# -- names ------------------------------------------------------------------------------------------------------------


def _check_names(name: str, function: Any, seen: set[Any]) -> None:
    """Raise if a function, or one that it calls, uses a name that is not defined, or is not marked."""
    if not isinstance(function, types.FunctionType) or function in seen or _is_leaf(function):
        return
    seen.add(function)
    if not is_marked(function):
        raise TypeError(f"{name}: {function.__name__} must be marked @maths (fastloss.custom)")
    for used in global_names(function.__code__):
        if used not in function.__globals__ and not hasattr(builtins, used):
            raise NameError(f"{name}: {function.__name__} uses {used!r}, which is not defined")
        _check_value(name, function, used, function.__globals__.get(used), seen)
    for free, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            value = cell.cell_contents
        except ValueError:
            raise NameError(f"{name}: {function.__name__} uses {free!r}, which is not defined") from None
        _check_value(name, function, free, value, seen)


def _check_value(name: str, function: Any, used: str, value: Any, seen: set[Any]) -> None:
    """Raise if what a function names is nothing that can be compiled."""
    if isinstance(value, list | dict | set):
        kind = type(value).__name__
        raise TypeError(f"{name}: {function.__name__} uses {used!r}, a {kind}: maths may use tuples and arrays")
    _check_names(name, value, seen)


def _is_leaf(function: Any) -> bool:
    """Return whether backends replace a function: exp, log and the like."""
    return function.__module__ == scalars.__name__ and not is_marked(function)


# -- numbers ----------------------------------------------------------------------------------------------------------


class _WidenedError(Exception):
    """Arithmetic of a number of the loss's type with another one."""

    def __init__(self, number: Any) -> None:
        super().__init__(f"the number {number!r} turns float32 into float64; write T({number!r}) with T = type(x)")


class _Narrow(float):
    """A number of the type that a loss computes in; it refuses arithmetic with any other number."""

    def __neg__(self) -> _Narrow:
        return _Narrow(-float(self))

    def __abs__(self) -> _Narrow:
        return _Narrow(abs(float(self)))


_Narrow.__name__ = "number"  # as Python's errors say it


def _operation(compute: Callable[[Any, Any], Any], reflected: bool) -> Callable[[Any, Any], Any]:
    def operate(self: _Narrow, other: Any) -> _Narrow:
        power = compute is operator.pow and not reflected and isinstance(other, int)
        if not isinstance(other, _Narrow | bool) and not power:
            raise _WidenedError(other)
        pair = (float(other), float(self)) if reflected else (float(self), float(other))
        try:
            return _Narrow(compute(*pair))
        except (ArithmeticError, TypeError):  # IEEE has a result, Python an exception; or it is complex
            return _Narrow(math.nan)

    return operate


for _name in ("add", "sub", "mul", "truediv", "pow", "mod", "floordiv"):
    setattr(_Narrow, f"__{_name}__", _operation(getattr(operator, _name), False))
    setattr(_Narrow, f"__r{_name}__", _operation(getattr(operator, _name), True))


def _check_narrow(result: Any) -> None:
    """Raise if a result is a number of Python."""
    if isinstance(result, tuple):
        for part in result:
            _check_narrow(part)
    elif type(result) in (int, float):
        raise _WidenedError(result)


def _place(error: Exception, twins: dict[Any, Any]) -> str | None:
    """Return the function of the maths and the line that an error was raised in, None for an error outside of them."""
    place = None
    codes = {function.__code__ for function in twins}
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if code in codes and code.co_filename != named_arguments.__file__:
            place = f"{code.co_name}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


# -- twins of functions, which compute with such numbers ---------------------------------------------------------------


def _with_twins(description: Any, twins: dict[Any, Any]) -> Any:
    """Return a description whose maths are twins."""
    if hasattr(description, "point"):
        return description._replace(point=_twin(description.point, twins))
    maths = getattr(description, "maths", None)
    if maths is None:
        return description
    return description._replace(maths=type(maths)(*[_twin(one, twins) for one in maths]))


def _twin(value: Any, twins: dict[Any, Any]) -> Any:
    """Return a function whose leaves, and those of all that it calls, take and return narrow numbers."""
    if isinstance(value, types.ModuleType):
        return _TwinModule(value, twins)
    value = getattr(value, "py_func", value)  # of a function that Numba has compiled
    if isinstance(value, np.ufunc) or (isinstance(value, types.BuiltinFunctionType) and value.__module__ == "math"):
        return _narrowed(value)
    if not isinstance(value, types.FunctionType):
        return value
    if value in twins:
        return twins[value]
    if _is_leaf(value):
        return _narrowed(value)
    names = dict(value.__globals__)
    cells = tuple([types.CellType(_twin(cell.cell_contents, twins)) for cell in value.__closure__ or ()])
    twin = types.FunctionType(value.__code__, names, value.__name__, value.__defaults__, cells or None)
    twins[value] = twin
    for each in global_names(value.__code__):
        if each in names:
            names[each] = _twin(names[each], twins)
    return twin


class _TwinModule:
    """A module whose functions are twins."""

    def __init__(self, module: types.ModuleType, twins: dict[Any, Any]) -> None:
        self._module, self._twins = module, twins

    def __getattr__(self, name: str) -> Any:
        return _twin(getattr(self._module, name), self._twins)


def _narrowed(leaf: Callable[..., Any]) -> Callable[..., Any]:
    def function(*args: Any) -> Any:
        try:
            return _Narrow(leaf(*[float(x) if isinstance(x, _Narrow) else x for x in args]))
        except (ArithmeticError, ValueError):
            return _Narrow(math.nan)

    return function
