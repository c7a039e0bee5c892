"""What is returned of rows beside their loss: log-sum-exp, log-probability, entropy, argmax, z-loss."""

from __future__ import annotations

import functools
import math
from collections import namedtuple
from collections.abc import Callable, Sequence
from operator import call, methodcaller
from typing import Any

from fastloss.call.plan import Plan
from fastloss.call.planning import ABSENT, Planning, Read, chained
from fastloss.call.request import Request
from fastloss.define.descriptions import Scores
from fastloss.define.row_numbers import ROW_NUMBERS
from fastloss.runtime.dtypes import I64

_NO_DERIVATIVES = (ABSENT,) * 4

Split = tuple[int, int, int]  # (outer, classes, inner)


def check_returns(planning: Planning, scores: Scores, soft: bool) -> None:
    """Raise where what is to be returned beside the loss cannot be."""
    if "log_prob" in scores.returns and soft:
        raise ValueError("returns: 'log_prob' is that of a class index, and the target holds class probabilities")
    mode = planning.mode
    if scores.returns and (mode.hessian or mode.partial or not mode.value):
        raise ValueError("returns goes with the value, alone or with its gradient")


class RowNumbers:
    """The numbers of rows that are returned beside the loss, block by block of logits that are final."""

    def __init__(self, backend: Any, real: Any, scores: Scores, ignore: int) -> None:
        self.backend, self.real, self.ignore = backend, real, ignore
        self.names, self.factor = scores.returns, float(scores.z_loss)
        self.planned: dict[Split, Callable[..., None]] = {}

    def makes(self, count: int) -> list[Callable[[], Any]]:
        """Return what makes the arrays for the numbers of all rows."""
        return [self.backend.maker((count,), I64 if name == "argmax" else self.real) for name in self.names]

    def write(self, made: Sequence[Any], z: Any, labels: Any, shape: Split) -> None:
        """Write the numbers of a block of rows, whose flat logits `z` have `shape`; 0 for rows that are ignored.

        The place of the largest logit is that of every row.
        """
        write = self.planned.get(shape) or self._plan(made, z, labels, shape)
        write(made, z, labels)

    def _plan(self, made: Sequence[Any], z: Any, labels: Any, shape: Split) -> Callable[..., None]:
        writes = [
            self._argmax(shape) if name == "argmax" else self._kernel(name, array, z, labels, shape)
            for name, array in zip(self.names, made, strict=True)
        ]

        def write(made: Sequence[Any], z: Any, labels: Any) -> None:
            for write, array in zip(writes, made):  # noqa: B905 (of the same length)
                write(array, z, labels)

        self.planned[shape] = write
        return write

    def _kernel(self, name: str, array: Any, z: Any, labels: Any, shape: Split) -> Callable[..., None]:
        maths, params = ROW_NUMBERS[name, labels is not ABSENT], (self.factor, 1 / shape[1])
        operands, results = (z, ABSENT, labels, ABSENT, ABSENT), (array, *_NO_DERIVATIVES)
        kernel = self.backend.plan_rowwise(maths, operands, results, params, shape, self.ignore, False)
        (code, queue), rest = kernel.launch, (*_NO_DERIVATIVES, *kernel.numbers(1.0, 1.0, False))

        def write(array: Any, z: Any, labels: Any) -> None:
            code(z, ABSENT, labels, ABSENT, ABSENT, array, *rest, queue(), True)

        return write

    def _argmax(self, shape: Split) -> Callable[..., None]:
        backend, argmax, (outer, classes, inner) = self.backend, self.backend.argmax, shape
        matrix = outer * inner, classes
        if inner == 1:
            return lambda array, z, labels: argmax(z.reshape(matrix), array)
        return lambda array, z, labels: argmax(
            backend.flat(backend.moved(z.reshape(shape), 1, 2)).reshape(matrix), array
        )


def returning_rows(
    planning: Planning, made: Plan, numbers: RowNumbers, read_rows: Read, rows: tuple[int, ...], split: Split
) -> Plan:
    """Return the plan of a loss of rows as `made` plans it that comes with further numbers of these rows."""
    count, answer = split[0] * split[2], answering_with(planning, numbers, rows)
    makes = numbers.makes(count)

    def compute(arrays: tuple[Any, ...], request: Request) -> Any:
        # First: the gradient may replace the input.
        found = [*map(call, makes)]
        if count:
            x, _, labels, *_ = read_rows(arrays)
            numbers.write(found, x, labels, split)
        return answer(made.compute(arrays, request), found)

    return Plan(compute)


def returning(planning: Planning, made: Plan, place: int, numbers: RowNumbers, rows: tuple[int, ...]) -> Plan:
    """Return the plan of a loss that writes further numbers of its `rows` to arrays at a place among the others."""
    answer, makes = answering_with(planning, numbers, rows), numbers.makes(math.prod(rows))

    def compute(arrays: tuple[Any, ...], request: Request) -> Any:
        found = [*map(call, makes)]
        return answer(made.compute((*arrays[:place], found), request), found)

    return Plan(compute)


def answering_with(planning: Planning, numbers: RowNumbers, rows: tuple[int, ...]) -> Callable[[Any, list[Any]], Any]:
    """Return what puts numbers of `rows`, which lie in flat arrays, beside the value of a loss."""
    library, kind, single = planning.library, output_class(numbers.names), not planning.mode.wrt
    wraps = [library.wrapping(I64 if name == "argmax" else numbers.real, None) for name in numbers.names]
    shape = methodcaller("reshape", rows)
    finish = [shape if wrap is None else chained(shape, wrap) for wrap in wraps]

    def answer(result: Any, found: list[Any]) -> Any:
        more = map(call, finish, found)
        return kind(result, *more) if single else (kind(result[0], *more), *result[1:])

    return answer


@functools.cache
def output_class(names: tuple[str, ...]) -> Any:
    """Return the class of a loss with further numbers of its rows."""
    named: Any = namedtuple  # of names that are known here only
    made = named("LossOutput", ["loss", *names])
    made.__module__ = __name__
    made.__reduce__ = lambda self: (_output, (names, tuple(self)))
    return made


def _output(names: tuple[str, ...], values: tuple[Any, ...]) -> Any:
    return output_class(names)(*values)
