"""Sums that add up: a loss of a part of the data, as a sum and what its mean is divided by."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastloss.call.call import Call
from fastloss.call.request import Mode, Request
from fastloss.define.registry import record_of, refuse_options


@dataclass(frozen=True, slots=True)
class PartialSum:
    """A loss summed over a part of the data, and what that counts for: see :func:`partial_sum`.

    Parts are added with ``+`` or ``sum``; a part of nothing changes nothing.

    Attributes
    ----------
    total : float
        The sum of the values, times their weights.
    weight : float
        What the mean divides the sum by.
    count : int
        How many values count.
    """

    total: float = 0.0
    weight: float = 0.0
    count: int = 0

    def __add__(self, other: PartialSum) -> PartialSum:
        """Return both parts as one."""
        if not isinstance(other, PartialSum):
            return NotImplemented
        return PartialSum(self.total + other.total, self.weight + other.weight, self.count + other.count)

    def __radd__(self, other: int) -> PartialSum:
        """Return this part: `sum` begins with 0."""
        return self if type(other) is int and other == 0 else NotImplemented

    def mean(self) -> float:
        """Return the mean over all parts, NaN over nothing."""
        return self.total / self.weight if self.weight else math.nan

    def sum(self) -> float:
        """Return the sum over all parts."""
        return self.total


def partial_sum(loss: Callable[..., Any]) -> Callable[..., PartialSum]:
    """Return a function that computes a loss of a part of the data, so that the parts add up.

    Averages of parts cannot be averaged where these differ in what they count: in rows, in labels that are ignored, in
    weights. Sums can be added, and what they are divided by.

    Parameters
    ----------
    loss : function or loss instance
        A loss of this package with a `reduction`, or an instance of one of its loss classes, of reduction "mean".

    Returns
    -------
    callable
        It takes the arguments of `loss` and returns a :class:`PartialSum`: `total`, the sum of the values; `weight`,
        what the mean divides it by; `count`, how many values count. Where `loss` reduces to a mean, ``weight`` of all
        parts together is the `divisor` to give to each part's gradient.

    Raises
    ------
    TypeError
        If `loss` is not a loss of this package, or has no mean.
    ValueError
        If the reduction is neither ``"mean"`` nor ``"batchmean"``.

    Examples
    --------
    >>> import fastloss as fl
    >>> part = fl.partial_sum(fl.cross_entropy)
    >>> whole = part([[2.0, 0.0], [0.0, 0.0]], [0, -100]) + part([[0.0, 2.0]], [0])
    >>> print(whole.count, round(whole.mean(), 4))
    2 1.1269
    """
    if isinstance(loss, type):
        raise TypeError(f"expected a loss function or a loss instance, got the class {loss.__name__}: call it first")
    bound = getattr(loss, "partial_sum", None)
    if bound is not None and not hasattr(loss, "__fastloss__"):
        return bound  # type: ignore[no-any-return]
    record_of(loss)
    return _of_function(loss)


@functools.cache
def _of_function(loss: Callable[..., Any]) -> Callable[..., PartialSum]:
    return PartialLoss(record_of(loss), {}, loss)


class PartialLoss:
    """A loss that returns a :class:`PartialSum`, as :func:`partial_sum` makes it; it pickles where the loss does."""

    def __init__(self, record: Any, options: dict[str, Any], origin: Any) -> None:
        if "sample_weight" not in record.common:
            raise TypeError(f"{record.name} has no mean, so that parts of it do not add up to one")
        self._request = Request(Mode(partial=True))
        self._call = Call(record, self._request, options)
        self._bound, self._origin = frozenset(options), origin
        self.__name__ = self.__qualname__ = f"partial_sum({record.name})"
        self.__doc__ = f"The partial sum of a loss: {record.function.__doc__}"

    def __call__(self, *args: Any, **kwargs: Any) -> PartialSum:
        """Return the sum, what a mean divides it by, and how many values count."""
        if kwargs and self._bound:
            refuse_options(self._origin, kwargs, self._bound)
        total, weight, count = self._call.run(args, kwargs, self._request)
        return PartialSum(float(total), float(weight), int(count))

    def __reduce__(self) -> Any:
        return partial_sum, (self._origin,)
