"""Sums and conversions of blocks beside matrix products, by the elementwise driver. Part of the calling path.

Products are summed in float32 or float64 (a *real* dtype). A backend may multiply bfloat16 numbers as they are; blocks
of another dtype are converted where they are read, and results are rounded once, where they are final.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from operator import call
from typing import Any

from fastloss.call.planning import ABSENT
from fastloss.define.point_maths import itself, times
from fastloss.runtime.dtypes import BF16_BITS

# Bytes of a block of the weight, or of its gradient, that is held in the computing type beside the chunk of logits.
# Adding 512 rows to the weight gradient of 512 features and 16384 classes, in blocks of 0.5, 1, 2, 4 and 8 MiB: 38, 36,
# 33, 32 and 32 ms, of which the product alone is 29. The whole call with AVX-512: 1, 2, 4 and 8 MiB alike within noise.
BLOCK_BYTES = 4 << 20


def _run_elementwise(
    backend: Any,
    point: Any,
    operands: tuple[Any, ...],
    target: Any = ABSENT,
    params: tuple[float, ...] = (),
    aliased: bool = False,
    divisor: Any = 1,
) -> Any:
    """Plan a function of elements and run it once; return the sum of its values over `divisor`."""
    inputs = (*operands, *(ABSENT,) * (5 - len(operands)))
    results = (target if target is ABSENT else target.reshape(-1), *(ABSENT,) * 4)
    return backend.plan_elementwise(point, inputs, results, params, aliased).run_once(inputs, results, 1.0, divisor)[1]


def run_rowwise(
    backend: Any,
    maths: Any,
    operands: tuple[Any, ...],
    results: tuple[Any, ...],
    params: tuple[float, ...],
    shape: tuple[int, int, int],
    ignore_index: int,
    scale: float = 1.0,
    replaces: bool = False,
) -> None:
    """Plan a row loss and run it once, without a check of the labels.

    `operands` are the logits and what follows them, `results` the values and what follows those, flat arrays, as many
    as there are. `replaces`: the gradient replaces the logits.
    """
    inputs, outputs = ((*arrays, *(ABSENT,) * (5 - len(arrays))) for arrays in (operands, results))
    kernel = backend.plan_rowwise(maths, inputs, outputs, params, shape, ignore_index, replaces)
    kernel.run_once(inputs, outputs, scale, 1, False)


def map_into(
    backend: Any,
    point: Any,
    operands: tuple[Any, ...],
    target: Any,
    params: tuple[float, ...] = (),
    aliased: bool = False,
) -> None:
    """Write a function of elements, and `params`, to the contiguous `target`.

    `operands` are the function's arguments, up to three, and a weight. `aliased`: the target shares memory with one.
    """
    if target.size:
        _run_elementwise(backend, point, operands, target, params, aliased)


def scale_into(backend: Any, target: Any, source: Any, factor: float) -> None:
    """Write `source` times a factor to the contiguous `target`, which may be the source."""
    if factor == 1:
        if target is not source:
            convert_into(backend, target, source)
    else:
        map_into(backend, times, (source,), target, (factor,), target is source)


def convert_into(backend: Any, target: Any, source: Any) -> None:
    """Write `source` to the contiguous `target` of the same shape, in the target's dtype."""
    map_into(backend, itself, (source,), target)


def factor_type(backend: Any, real: Any, *arrays: Any) -> Any:
    """Return the dtype in which arrays are multiplied: their own if the backend can, else `real`.

    float16 is not multiplied as it is: gradients of logits, which are factors too, are smaller than its smallest number
    wherever a probability is small and rows are many.
    """
    mixes = backend.multiplies_bfloat16 and all(array.dtype == BF16_BITS for array in arrays)
    return BF16_BITS if mixes else real


def in_type(backend: Any, block: Any, dtype: Any) -> Any:
    """Return a block in another dtype, itself where it has that."""
    if block.dtype == dtype:
        return block
    converted = backend.empty(block.shape, dtype)
    convert_into(backend, converted, block)
    return converted


def sum_of(backend: Any, view: Any, divisor: Any = 1, point: Any = itself, beside: tuple[Any, ...] = ()) -> Any:
    """Return the sum of a function of the elements over `divisor`, a number of the backend's; 0 of none.

    `beside` are arrays of the same shape, whose elements the function takes too.
    """
    if view.size == 0:
        return 0.0
    return _run_elementwise(backend, point, (view, *beside), divisor=divisor)


def mapping(
    backend: Any,
    point: Any,
    views: tuple[Any, ...],
    slot: int | None = None,
    dtype: Any = None,
) -> Any:
    """Return what computes a function of elements of arrays like `views`, in the type of the first.

    ``run(arrays, target, scale, divisor)`` writes the values (`slot` 0) or the first derivatives (1), these times
    `scale` over `divisor`, to a target of `dtype`, and returns the sum of the values over `divisor`.
    """
    missing = (ABSENT,) * (5 - len(views))
    before, behind = (ABSENT,) * (slot or 0), (ABSENT,) * (4 - (slot or 0))
    prototype = ABSENT if slot is None else backend.prototype(dtype or views[0].dtype)
    kernel = backend.plan_elementwise(point, (*views, *missing), (*before, prototype, *behind), (), False)
    reads, (code, queue) = kernel.reads[: len(views)], kernel.launch
    numbers_of, divided = kernel.numbers, kernel.divided

    def run(arrays: tuple[Any, ...], target: Any = ABSENT, scale: float = 1.0, divisor: Any = 1) -> Any:
        read, numbers = map(call, reads, arrays), numbers_of(scale, divisor, True)
        total = code(*read, *missing, *before, target, *behind, *numbers, queue(), True)
        return total if divided else total / divisor if divisor else math.nan

    return run


def writer(
    backend: Any, point: Any, views: tuple[Any, ...], dtype: Any, params: tuple[float, ...], aliased: bool = False
) -> Callable[..., None]:
    """Return what writes the values of a function of elements of arrays like `views` to a target of `dtype`.

    The target may be one of them where it is `aliased`. ``write(target, *arrays)`` does what the run of a mapping does
    in half the interpreter's steps.
    """
    missing, behind = (ABSENT,) * (5 - len(views)), (ABSENT,) * 4
    kernel = backend.plan_elementwise(point, (*views, *missing), (backend.prototype(dtype), *behind), params, aliased)
    (code, queue), reads = kernel.launch, kernel.reads[: len(views)]
    rest = (*behind, *kernel.numbers(1.0, 1, True))

    def write(target: Any, *arrays: Any) -> None:
        code(*map(call, reads, arrays), *missing, target, *rest, queue(), True)

    return write


def blocks(rows: int, columns: int, itemsize: int, times: int) -> list[slice]:
    """Return the stretches of rows that keep blocks of so many columns within BLOCK_BYTES `times` over."""
    step = max(1, times * BLOCK_BYTES // max(1, columns * itemsize))
    return [slice(k, min(k + step, rows)) for k in range(0, rows, step)]
