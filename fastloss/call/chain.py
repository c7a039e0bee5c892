"""Plans losses that are called on what other losses return, and weighted sums of losses.

Values are computed from the inside out, gradients from the outside in: what a loss has for the gradient of an argument
is the upstream gradient of the loss that the argument came from. The parts are calls, with plans of their own.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np

from fastloss.call.checks import check_float
from fastloss.call.composed import Arithmetic, Part
from fastloss.call.plan import Plan
from fastloss.call.planning import Operand, Planning, several
from fastloss.call.request import VALUE, Mode, Request
from fastloss.call.targets import check_out, check_targets, in_targets
from fastloss.call.weighting import RowLayout
from fastloss.define.chains import Applied, WeightedSum

# The gradients that have been found, by the names of the arguments.
Totals = dict[str, Any]


def plan(part: Part, planning: Planning, description: Applied | WeightedSum) -> Plan:
    """Plan a chain or a sum of losses."""
    planning.kept = False  # the parts are given the user's arrays, and keep their own plans
    mode, record, request = planning.mode, planning.record, planning.request
    if mode.hessian:
        raise ValueError(f"{record.name} is made of several losses and has no second derivative here")
    operands = _operands_of(description)
    planning.enter(tuple(operands.values()), tuple(operands))
    for name in mode.wrt:
        if name not in operands:
            raise ValueError(f"no gradient of {record.name} with respect to {name!r}: it is not given")
        check_float(operands[name].view, name)
    targets: list[Operand] = []
    if request.grad_out is not None:
        given = several(request.grad_out, len(mode.wrt), mode.single)
        targets = check_targets(planning, given, [operands[name] for name in mode.wrt])
    if request.out is not None and mode.wrt:
        check_out(planning, [operand.view for operand in (*_read_by_inner(description), *targets)])
    if mode.partial and isinstance(description, WeightedSum):
        raise TypeError(f"{record.name} is a sum of losses: take partial sums of these, each has a mean of its own")
    clear = _clearing(planning, description)
    root = _node_of(_with_common(description, planning), part, frozenset(mode.wrt), Arithmetic(record, part))

    def compute(_: tuple[Any, ...], request: Request) -> Any:
        totals: Totals = {}
        if mode.partial:
            return root.value(Mode(partial=True))
        value = root.run(request.grad_output, totals, mode.value, request.out)
        if not mode.wrt:
            return value
        grads = tuple([totals[name] for name in mode.wrt])
        for name, gradient in zip(mode.wrt, grads, strict=True):
            clear(planning.library.view(gradient, name))
        result = in_targets(planning, grads, targets, request)
        return (value, result) if mode.value else result

    return Plan(compute)


def _clearing(planning: Planning, description: Any) -> Callable[[Any], None]:
    """Return what writes zeros to the gradient of samples of weight 0, where a NaN has come through a chain.

    In a sum of losses, or of rows that lie across the samples, a sample may be a part of the values of others.
    """
    operand = planning.sample_weight
    if operand is None or isinstance(description, WeightedSum) or _mixes_samples(description):
        return lambda gradient: None
    weights, backend = planning.see(operand, "sample_weight"), planning.library.backend
    rows = weights.size

    def clear(gradient: Any) -> None:
        if rows and gradient.shape[:1] == weights.shape[:1] == (rows,):
            backend.clear_rows(backend.flat(weights), backend.flat(gradient), rows, RowLayout(gradient.size // rows))

    return clear


def _mixes_samples(description: Any) -> bool:
    """Return whether rows of one of the inner losses lie along the first axis."""
    return any(_lies_along_samples(inner) or _mixes_samples(inner) for inner in _parts_of(description))


def _lies_along_samples(description: Any) -> bool:
    if not isinstance(description, Applied):
        return False
    bound = inspect.signature(description.record.describe).bind(*description.args, **description.kwargs)
    bound.apply_defaults()
    axes = bound.arguments.get("dim", bound.arguments.get("axis"))
    rank = max([operand.ndim for operand in _operands_of(description).values()], default=0)
    return any(axis in (0, -rank) for axis in (axes if isinstance(axes, tuple) else (axes,)))


def _with_common(description: Any, planning: Planning) -> Any:
    """Return a chain or sum whose outermost losses have the options in common that were given."""
    common = planning.given_common()
    if not common:
        return description
    if isinstance(description, WeightedSum):
        return WeightedSum(tuple([(weight, _with_common(loss, planning)) for weight, loss in description.terms]))
    return dataclasses.replace(description, kwargs={**description.kwargs, **common})


def _operands_of(description: Any) -> dict[str, Operand]:
    """Return the operands that a chain is made of, by name."""
    if isinstance(description, Operand):
        return {description.name: description}
    found: dict[str, Operand] = {}
    for part in _parts_of(description):
        found |= _operands_of(part)
    return found


def _read_by_inner(description: Any) -> list[Operand]:
    """Return the operands of the inner losses of a chain, whose gradients are computed after the values are written.

    Those of a sum of losses are all computed before.
    """
    inner = [] if isinstance(description, WeightedSum) else _parts_of(description)
    return [one for part in inner if not isinstance(part, Operand) for one in _operands_of(part).values()]


def _parts_of(description: Any) -> list[Any]:
    if isinstance(description, WeightedSum):
        return [loss for _, loss in description.terms]
    return [*description.args, *description.kwargs.values()] if isinstance(description, Applied) else []


# -- the parts of a chain ----------------------------------------------------------------------------------------------


class _Node:
    """A loss called on operands, and on what other losses return."""

    def __init__(self, description: Applied, part: Part, wanted: frozenset[str], arithmetic: Arithmetic) -> None:
        self.part, self.arithmetic, self.record = part, arithmetic, description.record
        given = dict(zip(description.record.positional, description.args, strict=False)) | dict(description.kwargs)
        self.inner = {
            name: _node_of(value, part, wanted, arithmetic)
            for name, value in given.items()
            if isinstance(value, Applied | WeightedSum)
        }
        self.names = {name: value.name for name, value in given.items() if isinstance(value, Operand)}
        self.given = {name: value.given if isinstance(value, Operand) else value for name, value in given.items()}
        self.wrt = tuple(
            [name for name in given if self.names.get(name) in wanted or (name in self.inner and self.inner[name].wrt)]
        )
        for name in self.wrt:
            if name not in description.record.differentiable:
                raise ValueError(f"{description.record.name} is not differentiable with respect to {name!r}")

    def run(self, grad_output: Any, totals: Totals, value: bool = True, out: Any = None) -> Any:
        """Add the gradients, times an upstream one, to the totals, and return the value where it is asked for."""
        result = self._call(Request(Mode(value, self.wrt, single=False), grad_output, None, out))
        if not self.wrt:
            return result
        value_found, grads = result if value else (None, result)
        for name, gradient in zip(self.wrt, grads, strict=True):
            if name in self.inner:
                self.inner[name].run(gradient, totals, False)
            else:
                found = self.names[name]
                totals[found] = self.arithmetic.plus(totals[found], gradient) if found in totals else gradient
        return value_found

    def value(self, mode: Mode = VALUE.mode) -> Any:
        """Return the value alone."""
        return self._call(Request(mode))

    def _call(self, request: Request) -> Any:
        """Call the loss on what the inner ones return."""
        for name, node in self.inner.items():
            self.given[name] = node.value()
        return self.part(self.record, request.mode).run((), self.given, request)


class _SumNode:
    """A weighted sum of losses."""

    def __init__(self, description: WeightedSum, part: Part, wanted: frozenset[str], arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self.terms = [(weight, _node_of(loss, part, wanted, arithmetic)) for weight, loss in description.terms]
        self.wrt = any(node.wrt for _, node in self.terms)

    def run(self, grad_output: Any, totals: Totals, value: bool = True, out: Any = None) -> Any:
        """Add the gradients, times an upstream one, to the totals, and return the value where it is asked for."""
        values = []
        for weight, node in self.terms:
            if node.wrt or value:
                scaled = self.arithmetic.scaled(grad_output, weight) if node.wrt else None
                values.append(node.run(scaled, totals, value))
        return self._joined(values, out) if value else None

    def value(self) -> Any:
        """Return the value alone."""
        return self._joined([node.value() for _, node in self.terms], None)

    def _joined(self, values: list[Any], out: Any) -> Any:
        shapes = [(node.record.name, np.shape(value)) for (_, node), value in zip(self.terms, values, strict=True)]
        if len({shape for _, shape in shapes}) > 1:
            found = ", ".join([f"{name} {shape}" for name, shape in shapes])
            raise ValueError(f"unreduced losses of several shapes cannot be added: {found}")
        plus, weights = self.arithmetic.plus, [weight for weight, _ in self.terms]
        total = self.arithmetic.times(values[0], weights[0], out if len(values) == 1 else None)
        for k, (weight, value) in enumerate(zip(weights[1:], values[1:], strict=True), 2):
            total = plus(total, value, weight, out if k == len(values) else None)
        return total


def _node_of(description: Any, part: Part, wanted: frozenset[str], arithmetic: Arithmetic) -> Any:
    kind = _SumNode if isinstance(description, WeightedSum) else _Node
    return kind(description, part, wanted, arithmetic)
