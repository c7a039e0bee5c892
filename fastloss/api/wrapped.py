"""Losses of one's own as functions of a guest's arrays: what the doors' `wrap` is given, and returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fastloss.api.docstrings import summary_of
from fastloss.define.record import Loss
from fastloss.define.registry import record_of
from fastloss.runtime.functions import is_packaged


def own_record(loss: Callable[..., Any], door: str) -> Loss:
    """Return the registry entry of a loss of one's own; raise for one of the package's, which the `door` has."""
    record = record_of(loss)
    if is_packaged(record.function):
        raise TypeError(f"{record.name} is no loss of one's own: its function is {door}.{record.name}")
    return record


class Wrapped:
    """A loss of one's own that `compute` computes of positional arguments and keywords; it pickles if the loss does.

    `wrap` is what made it, and `arrays` says of what, and where.
    """

    def __init__(
        self,
        record: Loss,
        wrap: Callable[..., Any],
        compute: Callable[[tuple[Any, ...], dict[str, Any]], Any],
        signature: inspect.Signature,
        arrays: str,
    ) -> None:
        self._loss, self._wrap, self._compute = record.function, wrap, compute
        self.__name__ = self.__qualname__ = record.name
        self.__signature__ = signature
        self.__doc__ = f"{summary_of(record.function)}\n\n    {record.name} for {arrays}."

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss."""
        return self._compute(args, kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._wrap, (self._loss,)

    def __repr__(self) -> str:
        return f"{self._wrap.__module__.rpartition('.')[0]}.wrap({self.__name__})"
