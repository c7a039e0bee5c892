"""Weights of samples: what they sum to, and how a loss is computed whose values they multiply.

Losses of elements, and on CPUs losses of rows of classes, multiply by weights of samples in their kernels. All others
are computed unreduced, with the weights in the upstream gradient; the values are multiplied and added up afterwards. A
sample of weight 0 is taken out: its value and its gradient are 0 whatever it holds.

Time with weights beside that without, value and gradient (``bench/sample_weight.py``, float32, two threads of an EPYC
with AVX-512): cross_entropy 1.12 at 64x10, 1.06 at 100,000x10, 1.03 at 65,536x100, 1.01 at 8192x1000;
cosine_embedding_loss of 65,536 pairs of 64 1.03, of 64 pairs of 10 1.7; mse_loss with a weight for each row of 64 1.4
to 1.5, for each element, one more array, 1.8; binary_cross_entropy_with_logits with a weight for each row 1.3 to 1.4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from operator import call
from typing import Any, NamedTuple

from fastloss.call.array_ops import mapping
from fastloss.call.checks import Shape
from fastloss.call.partial_sums import numbers
from fastloss.call.planning import ABSENT, Operand, Planning, Read, Scale, Spread, chained
from fastloss.call.request import Request
from fastloss.define.point_maths import are_nonzero, is_nonzero, other, product, weighed, weight_of
from fastloss.runtime.dtypes import F64, FLOATS
from fastloss.runtime.settings import settings

# Runs a kernel with the arrays of a call, and what it writes in the order of its results.
Execute = Callable[[tuple[Any, ...], Request, tuple[Any, ...]], Any]


class RowLayout(NamedTuple):
    """Where the entries of row ``o * inner + i`` lie in a gradient: at ``((o * columns + c) * inner + i) * width``."""

    columns: int = 1
    inner: int = 1
    width: int = 1


def broadcastable_shape(weights: Shape, shape: Shape) -> Shape:
    """Return the shape in which weights broadcast to values of `shape`, whose first axes they have, or all.

    Raises
    ------
    ValueError
        If their axes are neither.
    """
    all_axes = len(weights) == len(shape)
    if len(weights) > len(shape) or any(n != m and not (all_axes and n == 1) for n, m in zip(weights, shape)):  # noqa: B905
        raise ValueError(
            f"sample_weight of shape {weights} must have the first axes of the unreduced loss, whose shape is {shape}, "
            "or all of them, of the same lengths or 1"
        )
    return (*weights, *(1,) * (len(shape) - len(weights)))


def spreading(planning: Planning, shape: Shape) -> Spread:
    """Return what spreads the weights of a call over values of `shape`, None where they have it."""
    operand, backend = planning.sample_weight, planning.library.backend
    assert operand is not None
    view = planning.see(operand, "sample_weight")
    lies = broadcastable_shape(view.shape, shape)
    return None if view.shape == shape else lambda view: backend.broadcast(view.reshape(lies), shape)


def spread_weights(planning: Planning, operand: Operand, shape: Shape) -> Read:
    """Return what gives the weights of a call over values of `shape`, in a floating point type."""
    return planning.reader(operand, *_spreader(planning.library.backend, planning.see(operand, "sample_weight"), shape))


def _spreader(
    backend: Any, view: Any, shape: Shape, kept: Container[Any] = FLOATS
) -> tuple[Callable[[Any], Any] | None, Callable[[Any], Any]]:
    """Return what brings weights like `view` to float64, None for types that are `kept`, and what spreads them."""
    lies = broadcastable_shape(view.shape, shape)
    convert = None if view.dtype in kept else converting(backend, view, F64)
    return convert, lambda view: backend.broadcast(view.reshape(lies), shape)


def checked_total(total: Any, backend: Any) -> Any:
    """Return the sum of weights, after a look at it: it is NaN where one is negative."""
    if settings.check_indices or not backend.waits:
        total = total if type(total) is float else backend.number(total)
        if total != total:
            raise negative_weight_error()
    return total


def or_negative(bad_label: Callable[..., Exception] | None) -> Callable[..., Exception]:
    """Return what makes the error about a label, or about a weight that the loop over rows found to be negative."""
    return lambda arrays, bad: negative_weight_error() if bad_label is None or bad < 0 else bad_label(arrays, bad)


def negative_weight_error() -> ValueError:
    """Return the error about a weight of a sample."""
    return ValueError("sample_weight must not be negative or NaN")


def plan_sample_weights(
    planning: Planning, operand: Operand, shape: Shape, divisor: Any, weight: Operand | None, real: Any
) -> tuple[Read, Spread, bool]:
    """Return what reads the divisor of a loss whose kernel multiplies by the weights, what spreads these, and converts.

    The weights of a call are looked at where the divisor is read. `weight` counts in a mean beside them,
    and `real` is the dtype that the loss is computed in.
    """
    backend, counts = planning.library.backend, planning.counts
    view = planning.see(operand, "sample_weight")
    # Products with the other weights, for the divisor of a mean, have the type of these.
    convert, spread_real = _spreader(backend, view, shape, FLOATS if weight is None or real != F64 else (F64,))
    repeated = math.prod(shape) // view.size
    spread = chained(convert, spread_real)
    weights = view if convert is None else convert(view)
    read = planning.reader(operand, convert)
    add_up = mapping(backend, weight_of, (weights,))
    by_weights = planning.averages and planning.divisor is None
    both = None
    if counts is not None and by_weights:
        like = backend.flat(spread(view))
        both = mapping(backend, product, (like, backend.flat(backend.broadcast(weight.view, shape))))  # type: ignore[union-attr]
    read_flat = planning.reader(operand, spread, backend.flat)

    def by(arrays: tuple[Any, ...]) -> Any:
        total = checked_total(add_up((read(arrays),)), backend)
        if not by_weights:
            return divisor(arrays) if callable(divisor) else divisor
        if both is not None:
            return both((read_flat(arrays), counts(arrays)))  # type: ignore[misc]
        return total if repeated == 1 else (total if type(total) is float else backend.number(total)) * repeated

    count = mapping(backend, is_nonzero, (weights,))
    planning.how_many = lambda arrays: backend.number(count((read(arrays),))) * repeated
    return by, None if convert is None and view.shape == shape else spread, convert is not None


def converting(backend: Any, view: Any, real: Any) -> Callable[[Any], Any]:
    """Return what makes contiguous arrays of a floating point type of arrays like `view`."""
    shape = view.shape
    convert = mapping(backend, other, (backend.empty(shape, real), view), 0)

    def converted(view: Any) -> Any:
        made = backend.empty(shape, real)
        convert((made, view), made.reshape(-1))
        return made

    return converted


class Weighing:
    """The weights of a call whose values have `shape`, at least one, and what a run does with them.

    The planner of the family says what each value counts for in a mean beside its weight (``planning.counts``), and
    sets `factors`, which reads what values are multiplied by. `layout` is that of rows in gradients, None without rows.
    """

    def __init__(self, planning: Planning, shape: Shape, real: Any, layout: RowLayout | None) -> None:
        self.planning, self.shape, self.size, self.real = planning, shape, math.prod(shape), real
        self.layout = layout
        self.backend = backend = planning.library.backend
        self.place = len(planning.arrays)  # of the weights among a run's arrays; behind it their upstream gradient
        planning.arrays += [None, None]
        self.factors: Read | None = None
        self._scale: Scale = 1.0
        self._above: Operand | None = None
        spread = spreading(planning, shape)
        self._read = planning.reader(planning.sample_weight, spread)
        seen = planning.sample_weight.view  # type: ignore[union-attr]
        seen = seen if spread is None else spread(seen)
        self._like = backend.empty((self.size,), real)
        as_given = seen.dtype == real and seen.ndim == 1 and seen.flags.c_contiguous
        self._convert = None if as_given else converting(backend, seen, real)

    def take_grad_output(self, scale: Scale, operand: Operand | None) -> Operand | None:
        """Keep the caller's upstream gradient, and return the operand that the kernel is given in its place."""
        self._scale, self._above = scale, operand
        if not self.planning.mode.wrt:
            return None
        scaled = Operand("grad_output", None, self.place + 1)
        scaled.view = self._like.reshape(self.shape)
        return scaled

    def plan(self, outputs: Any, execute: Execute, answer: Any, domain: Any) -> Callable[..., Any]:
        """Return what computes calls of a kernel that `execute` runs; `domain` may look at their arrays before."""
        planning, backend, like, mode = self.planning, self.backend, self._like, self.planning.mode
        results, size, real, each = outputs.plan(), self.size, self.real, outputs.each
        begin = self._beginning()
        reduces = mode.value and not each
        first = 1 if mode.value and each else 0  # of the gradients among what is made
        scalar, dtype, partial = planning.library.scalar, outputs.dtype, mode.partial
        add_up = mapping(backend, weighed, (like, like)) if reduces else None
        write = mapping(backend, weighed, (like, like), 0, dtype) if mode.value and each else None
        count = self._counting() if partial else None
        # What follows may keep neither this object nor the planning, which hold the arrays of this call.
        place, layout = self.place, self.layout

        def compute(arrays: tuple[Any, ...], request: Request) -> Any:
            if domain is not None:
                domain(arrays, None)
            own, shares, by, above = begin(arrays, request)
            made = results.made(arrays)
            values = backend.empty((size,), real) if mode.value else ABSENT
            written = [*map(call, results.flats, made)]
            execute((*arrays[:place], own, above), request, results.order((*written, values, ABSENT)))
            if write is not None:
                write((values, shares), written[0])
            if layout is not None:
                for gradient in written[first:]:
                    backend.clear_rows(own, gradient, size, layout)
            made = results.finished(made, arrays, request)
            if add_up is None:
                return answer(None, made)
            total = add_up((values, shares), divisor=1 if partial else by)
            if count is not None:
                return numbers(backend, total, by, count(arrays, own))
            return answer(scalar(total, dtype), made)

        return compute

    def _beginning(self) -> Callable[..., Any]:
        """Return what gives weights of a call, those times the factors, the divisor, and the upstream gradient."""
        size, convert, read_own = self.size, self._convert, self._read
        divisor, shared, upstream = self._divisor(), self._shares(), self._upstream()

        def begin(arrays: tuple[Any, ...], request: Request) -> tuple[Any, ...]:
            own = read_own(arrays)
            if convert is not None:
                own = convert(own).reshape((size,))
            by, shares = divisor(arrays, own), shared(arrays, own)
            return own, shares, by, upstream(arrays, request, shares, by)

        return begin

    def _divisor(self) -> Callable[[tuple[Any, ...], Any], Any]:
        """Return what gives the divisor of the mean, 1 where there is none, after a look at the weights."""
        backend, like, counts, averages = self.backend, self._like, self.planning.counts, self.planning.averages
        given = self.planning.reads_divisor()
        add_up = mapping(backend, weight_of, (like,)) if counts is None else mapping(backend, product, (like, like))

        def divisor(arrays: tuple[Any, ...], own: Any) -> Any:
            total = checked_total(add_up((own,) if counts is None else (own, counts(arrays))), backend)
            return (total if given is None else given(arrays)) if averages else 1

        return divisor

    def _shares(self) -> Callable[[tuple[Any, ...], Any], Any]:
        """Return what gives the weights times the factors."""
        backend, like, size, real, factors = self.backend, self._like, self.size, self.real, self.factors
        if factors is None:
            return lambda arrays, own: own
        times = mapping(backend, product, (like, like), 0)

        def shared(arrays: tuple[Any, ...], own: Any) -> Any:
            shares = backend.empty((size,), real)
            times((own, factors(arrays)), shares)
            return shares

        return shared

    def _upstream(self) -> Callable[[tuple[Any, ...], Request, Any, Any], Any]:
        """Return what gives the upstream gradient that the kernel is handed."""
        planning, backend, above, scale = self.planning, self.backend, self._above, self._scale
        if not planning.mode.wrt:
            return lambda *_: ABSENT
        size, shape, real = self.size, self.shape, self.real
        read_above = None if above is None else planning.reader(above, backend.flat)
        flat = () if above is None else (backend.flat(above.view),)
        scaled = mapping(backend, weight_of if above is None else product, (self._like, *flat), 1)

        def upstream(arrays: tuple[Any, ...], request: Request, shares: Any, by: Any) -> Any:
            made = backend.empty((size,), real)
            factor = scale(arrays, request) if callable(scale) else scale
            read = (shares,) if read_above is None else (shares, read_above(arrays))
            # Where nothing weighs anything the mean is NaN, and the gradient 0.
            scaled(read, made, factor, math.inf if type(by) is float and by == 0 else by)
            return made.reshape(shape)

        return upstream

    def _counting(self) -> Callable[[tuple[Any, ...], Any], Any]:
        """Return what counts the values of a call that count in a mean."""
        backend, like, counted = self.backend, self._like, self.planning.counted
        if counted is None:
            count = mapping(backend, is_nonzero, (like,))
            return lambda arrays, own: count((own,))
        count = mapping(backend, are_nonzero, (like, like))
        return lambda arrays, own: count((own, counted(arrays)))
