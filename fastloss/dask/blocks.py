"""What a worker computes of one block, and how the results of blocks are put together."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastloss as fl
from fastloss.api.jobs import Job, counts_of
from fastloss.call.weighting import broadcastable_shape
from fastloss.runtime.settings import in_this_thread


class Block(NamedTuple):
    """A loss, the names of its arrays in the order in which blocks of them come, and its options."""

    loss: Callable[..., Any]
    names: tuple[str, ...]
    options: tuple[tuple[str, Any], ...]

    def arguments(self, arrays: Sequence[Any]) -> dict[str, Any]:
        """Return the arguments of a call."""
        return {**dict(zip(self.names, map(only, arrays), strict=True)), **dict(self.options)}


def only(block: Any) -> Any:
    """Return the one block that there is along the axes that a result does not have."""
    while isinstance(block, list):
        (block,) = block
    return block


def own_threads() -> contextlib.AbstractContextManager[None]:
    """Let kernels have one thread each while tasks run in threads or processes of a scheduler, which has the cores."""
    if threading.current_thread() is threading.main_thread() and multiprocessing.parent_process() is None:
        return contextlib.nullcontext()
    return in_this_thread(num_threads=1)


def value(block: Block, *arrays: Any) -> Any:
    """Return the values of a block."""
    with own_threads():
        result = block.loss(**block.arguments(arrays))
    return np.asarray(result) if isinstance(result, np.generic) else result


def partial(block: Block, *arrays: Any) -> fl.PartialSum:
    """Return the sum of a block, and what it counts for."""
    with own_threads():
        return fl.partial_sum(block.loss)(**block.arguments(arrays))


def total(block: Block, *arrays: Any) -> float:
    """Return the reduced value of a block."""
    return float(value(block, *arrays))


def derivatives(block: Block, kind: str, wrt: tuple[str, ...], reduced: bool, *arrays: Any) -> tuple[Any, ...]:
    """Return what a transform returns of a block, gradients one after the other."""
    function = fl.grad_and_hess(block.loss) if kind == "grad_and_hess" else getattr(fl, kind)(block.loss, wrt)
    with own_threads():
        result = function(**block.arguments(arrays))
    if kind != "value_and_grad":
        return tuple(result)
    return (float(result[0]) if reduced else result[0], *result[1])


def weight(names: tuple[str, ...], job: Job, *arrays: Any) -> float:
    """Return what a mean over a block is divided by, from its labels and weights alone."""
    given = dict(zip(names, map(_on_host, map(only, arrays)), strict=True))
    samples = given.pop("sample_weight", None)
    if samples is not None and not given:
        return float(np.sum(samples, dtype=np.float64))
    shape = given["target" if "target" in given else "weight"].shape
    weights = None if samples is None else samples.reshape(broadcastable_shape(samples.shape, shape)).astype(np.float64)
    return float(np.sum(np.broadcast_to(counts_of(job, np, given, weights), shape), dtype=np.float64))


def _on_host(block: Any) -> Any:
    """Return labels or weights as a NumPy array; CuPy's are copied."""
    return block.get() if hasattr(block, "__cuda_array_interface__") else np.asarray(block)


def pick(number: int, results: tuple[Any, ...]) -> Any:
    """Return one of the results of a block."""
    result = results[number]
    return np.asarray(result) if isinstance(result, np.generic) else result


def add(parts: Sequence[Any]) -> Any:
    """Return the sum of the results of blocks, or of arrays of them."""
    first, *others = parts
    for one in others:
        first = first + one
    return first


def mean_of(dtype: Any, part: fl.PartialSum, divisor: Any = None) -> Any:
    """Return the mean of what all blocks come to; over a given divisor nothing is 0."""
    if divisor is None:
        return np.asarray(float(part.mean()), dtype)
    divisor = float(np.asarray(only(divisor)).reshape(()))
    if not divisor >= 0:
        raise ValueError(f"divisor must be a number >= 0, got {divisor}")
    return np.asarray(float(part.total) / divisor if divisor else math.inf if part.total else 0.0, dtype)


def total_of(dtype: Any, part: fl.PartialSum, divisor: None = None) -> Any:
    """Return the sum of what all blocks come to."""
    return np.asarray(float(part.total), dtype)


def scalar(dtype: Any, number: float, divisor: Any = None) -> Any:
    """Return a number as an array without axes; NaN where it is a mean over nothing."""
    nothing = divisor is not None and float(only(divisor)) == 0
    return np.asarray(math.nan if nothing else number, dtype)
