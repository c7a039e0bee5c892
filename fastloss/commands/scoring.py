"""A loss of arrays that are read block by block: what is added up, and what is written."""

from __future__ import annotations

import inspect
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

import fastloss as fl
from fastloss.commands.errors import CommandError
from fastloss.define.record import Loss
from fastloss.files.result import Result
from fastloss.files.source import Source

# Bytes of a block, of all arrays together.
BLOCK = 32 << 20

# Families of losses whose arrays may be single samples: what has one axis is one row then.
_OF_ROWS = frozenset(("rowwise", "pairwise", "label_sets", "sums", "chain"))


class Scored(NamedTuple):
    """What scoring gave: the sums, the seconds that it took, and the results that were written."""

    part: fl.PartialSum
    seconds: float
    results: Mapping[str, Result]


class Job:
    """A loss, its arrays, its options and its reduction.

    `whole` are the arrays that every block needs, `rows` those that are read in blocks. All are whole, and `count` is
    None, where the loss is of one sample, or of sequences, which lie along the second axis.
    """

    def __init__(
        self, loss: Loss, arrays: Mapping[str, Any], options: dict[str, Any], reduction: str, batch: int | None
    ) -> None:
        """Raise a CommandError where arrays do not go together."""
        self.loss, self.options, self.reduction = loss, options, reduction
        try:
            loss.options["reduction"].check("reduction", reduction)
        except ValueError as error:
            raise CommandError(str(error)) from None
        ignore = inspect.signature(loss.function).parameters.get("ignore_index")
        self._ignored = None if ignore is None else ignore.default
        self.name = next(iter(arrays))  # of the array that the gradient is of
        self.first: Source = arrays[self.name]
        if 0 in self.first.shape:
            raise CommandError(f"{self.first.name}: empty, of shape {self.first.shape}")
        single = len(self.first.shape) < (2 if loss.family in _OF_ROWS else 1)
        self.count = None if loss.family == "sequence" or single else self.first.shape[0]
        sources = {name: array for name, array in arrays.items() if not isinstance(array, float)}
        self.rows = {} if self.count is None else {n: s for n, s in sources.items() if self._in_rows(n, s)}
        for name in ("axis", "dim"):
            axes = options.get(name)
            named = axes if isinstance(axes, tuple | list) else () if axes is None else (axes,)
            if self.count is not None and any(axis % len(self.first.shape) == 0 for axis in named):
                raise CommandError(f"{name} must not be the first one, along which the rows of a file lie")
        self._check_rows()
        read = {name: source.whole() for name, source in sources.items() if name not in self.rows}
        self.whole = {name: read.get(name, array) for name, array in arrays.items() if name not in self.rows}
        row_bytes = sum(_bytes(source) for source in self.rows.values()) // (self.count or 1)
        self.batch = min(batch or max(1, BLOCK // max(row_bytes, 1)), self.count or 1)

    def _in_rows(self, name: str, source: Source) -> bool:
        """Say whether an array has a row for each of the first one's, or belongs to all of them."""
        if name not in ("weight", "pos_weight"):
            return bool(source.shape) or name != "var"
        if self.loss.family != "elementwise":
            return False  # a weight for each class
        same = len(source.shape) == len(self.first.shape)
        return same and not (source.shape[0] == 1 != self.count)

    def _check_rows(self) -> None:
        for name, source in self.rows.items():
            if not source.shape or source.shape[0] != self.count:
                raise CommandError(
                    f"{name} must have the {self.count} rows of {self.name}, "
                    f"got shapes {source.shape} ({source.name}) and {self.first.shape} ({self.first.name})"
                )
            alike = self.loss.family != "elementwise" or name in ("var", "sample_weight")
            if not alike and len(source.shape) != len(self.first.shape):
                raise CommandError(
                    f"{name} must have as many axes as {self.name}, "
                    f"got shapes {source.shape} ({source.name}) and {self.first.shape} ({self.first.name})"
                )

    @property
    def two_passes(self) -> bool:
        """Whether a gradient needs what all blocks add up to."""
        return self.reduction == "mean"

    def bytes_to_read(self, results: Mapping[str, Result]) -> int:
        """Return how many bytes scoring reads."""
        once = sum(_bytes(source) for source in self.rows.values())
        return once * (2 if "grad_out" in results and self.two_passes else 1)

    def blocks(self) -> Iterator[tuple[int, str, dict[str, Any]]]:
        """Yield the arguments of the loss block by block, each with its first row and a name of its rows."""
        if self.count is None:
            yield 0, self.first.name, dict(self.whole)
            return
        streams = [source.blocks(self.batch) for source in self.rows.values()]
        for number, blocks in enumerate(zip(*streams, strict=True)):
            start = number * self.batch
            rows = f"rows {start} to {start + len(blocks[0]) - 1} of {self.first.name}"
            yield start, rows, dict(zip(self.rows, blocks, strict=True)) | self.whole

    def sum_of(self, values: Any, arrays: Mapping[str, Any]) -> fl.PartialSum | None:
        """Return the partial sum of a block by its values, which spares another look at its arrays.

        None where values count for other than 0 or 1, and for half types, whose values have fewer digits than a sum.
        """
        weighted = not {"weight", "pos_weight", "sample_weight"}.isdisjoint(arrays)
        if weighted or self.reduction == "batchmean" or self.loss.family == "sequence" or values.itemsize < 4:
            return None
        count, target = values.size, arrays.get("target")
        ignored = self.options.get("ignore_index", self._ignored)
        if ignored is not None and target is not None and target.dtype.kind in "iu":
            count = np.count_nonzero(target != ignored)
        return fl.PartialSum(float(values.sum(dtype=np.float64)), float(count), count)


def _bytes(source: Source) -> int:
    return math.prod(source.shape) * source.dtype.itemsize


def divided(part: fl.PartialSum, job: Job) -> float | None:
    """Return the reduced loss; None for the reduction ``"none"``."""
    if job.reduction == "none":
        return None
    return float(part.sum() if job.reduction == "sum" else part.mean())


Step = Callable[[dict[str, Any]], None]


def score(job: Job, results: Mapping[str, Result], add: Callable[[int], None], stopped: Callable[[], bool]) -> Scored:
    """Add up a loss, write its values and its gradient where they are wanted.

    Parameters
    ----------
    job : Job
        What to compute.
    results : mapping
        The files to write: ``"out"``, ``"grad_out"``, both or none.
    add, stopped : callable
        Called with the bytes of each block when that is done; and asked whether to stop.
    """
    began = time.perf_counter()
    part = fl.PartialSum(0.0)
    mean = {"reduction": "batchmean" if job.reduction == "batchmean" else "mean"}

    def add_up(arrays: dict[str, Any]) -> None:
        nonlocal part
        values = None
        if "out" in results:
            values = job.loss.function(**arrays, **job.options, reduction="none")
            results["out"].write(values, job.count)
        found = None if values is None else job.sum_of(values, arrays)
        if found is None:
            found = fl.partial_sum(job.loss.function)(**arrays, **job.options, **mean)
        part += found

    def write_gradient(arrays: dict[str, Any]) -> None:
        gradient = fl.grad(job.loss.function, job.name)(**arrays, **job.options, **_reduced(job, part))
        results["grad_out"].write(gradient, job.count)

    gradient: list[Step] = [write_gradient] if "grad_out" in results else []
    passes: list[list[Step]] = [[add_up], gradient] if job.two_passes and gradient else [[add_up, *gradient]]
    for one in passes:
        _pass(job, one, add, stopped)
    return Scored(part, time.perf_counter() - began, results)


def _reduced(job: Job, part: fl.PartialSum) -> dict[str, Any]:
    """Return the keyword arguments that make the gradient of a block that of the whole."""
    if job.reduction == "mean":
        return {"reduction": "mean", "divisor": part.weight}
    if job.reduction == "batchmean":
        return {"reduction": "sum", "grad_output": 1.0 / job.first.shape[0]}
    return {"reduction": "sum"}


def _pass(job: Job, steps: list[Step], add: Callable[[int], None], stopped: Callable[[], bool]) -> None:
    """Read all blocks, and do all steps with each."""
    for start, rows, arrays in job.blocks():
        if stopped():
            return
        try:
            for step in steps:
                step(arrays)
        except (ValueError, TypeError, IndexError) as error:  # what losses raise of bad data
            raise CommandError(f"{rows}: {_of_file(str(error), start)}") from None
        add(sum(arrays[name].nbytes for name in job.rows))


def _of_file(message: str, start: int) -> str:
    """Return a message about a block that begins at row `start` on one line, with the place of a label in the file."""
    line = " ".join(message.split())
    return re.sub(r"(?<=at position \()\d+", lambda row: str(start + int(row[0])), line)
