"""Calls whose arrays are Dask's: the loss of each block, lazily, and sums of what blocks return.

Rows stay in the blocks in which they are; the axes of rows and vectors are put into one block. A mean is the sum of all
blocks over what they count for, and the gradient of a block is divided by that: it follows from labels and weights
alone, which are read before any gradient is computed.
"""

from __future__ import annotations

import functools
import inspect
import math
import operator
from typing import Any

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.base import compute as compute_now
from dask.base import tokenize
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from fastloss.api.jobs import Job, divides_by_weights
from fastloss.call.common import NO_DIVISOR, check_common
from fastloss.call.request import Mode, Request, is_number
from fastloss.dask import blocks
from fastloss.dask.places import Index, labels, places_of
from fastloss.define.record import Loss
from fastloss.define.registry import check_options

# Results of so many blocks are added by one task.
_BRANCHES = 16


def compute(record: Loss, args: tuple[Any, ...], keywords: dict[str, Any], request: Request) -> Any:
    """Return what a call returns, lazily.

    Raises
    ------
    TypeError, ValueError
        As the loss does, for what does not depend on numbers; and for losses that cannot be computed block by block.
    """
    check_options(record, keywords)
    bound = inspect.signature(record.function).bind(*args, **keywords)
    bound.apply_defaults()
    if record.family == "penalty" and isinstance(bound.arguments["params"], list | tuple):
        return _penalties(record, bound.arguments, request)
    names = record.operands | {"sample_weight", "divisor"}
    arrays = {name: _lazy(a, name) for name, a in bound.arguments.items() if name in names and a is not None}
    options = {name: value for name, value in bound.arguments.items() if name not in names}
    if request.out is not None or request.grad_out is not None:
        raise TypeError("out and grad_out do not go with Dask arrays, whose results are made block by block")
    if options.get("returns"):
        raise ValueError(f"returns does not go with Dask arrays, got {options['returns']!r}")
    if not _is_of_blocks(record):
        raise TypeError(f"{record.name} is not computed block by block: call it on NumPy arrays")
    check_common(arrays.get("sample_weight"), arrays.get("divisor"), options.get("reduction"))
    return _Lazy(record, arrays, options, request).result()


def _penalties(record: Loss, arguments: dict[str, Any], request: Request) -> Any:
    """Return what a penalty of several arrays returns: the sum of their values, and lists of their derivatives."""
    mode = request.mode
    one = request._replace(mode=mode._replace(wrt=("params",) if mode.wrt else (), single=True))
    each = [compute(record, (), {**arguments, "params": array}, one) for array in arguments["params"]]
    values = [result[0] if mode.wrt else result for result in each] if mode.value else []
    total = sum(values[1:], values[0]).astype(values[0].dtype) if values else None
    if not mode.wrt:
        return total
    gradients = [result[0] if mode.hessian else result[1] if mode.value else result for result in each]
    found = gradients if mode.single else (gradients,)
    if mode.hessian:
        return found, [result[1] for result in each]
    return (total, found) if mode.value else found


def _is_of_blocks(record: Loss) -> bool:
    """Return whether a loss of rows in blocks is that of the blocks."""
    if record.family in ("chain", "projected"):
        return record.name in ("linear_cross_entropy", "soft_dice_loss")
    return record.family != "clustered"


def _lazy(array: Any, name: str) -> Any:
    """Return an argument as a Dask array, in one block where it is none."""
    if not isinstance(array, da.Array):
        array = array if hasattr(array, "dtype") else np.asarray(array)
        return da.from_array(array, chunks=-1)
    if any(math.isnan(size) for size in array.shape):
        raise ValueError(f"the sizes of the blocks of {name} are not known: call {name}.compute_chunk_sizes()")
    return array


def _job(record: Loss, arrays: dict[str, Any], options: dict[str, Any]) -> Job:
    """Return what is known of arrays before there are numbers."""
    shapes, dtypes = tuple([a.shape for a in arrays.values()]), tuple([np.dtype(a.dtype) for a in arrays.values()])
    return Job(record, tuple(arrays), shapes, dtypes, tuple(options.items()))


class _Lazy:
    """A call of a loss on Dask arrays."""

    def __init__(self, record: Loss, arrays: dict[str, Any], options: dict[str, Any], request: Request) -> None:
        self.record, self.mode, self.request = record, request.mode, request
        self.reduction = options.get("reduction", "sum" if record.family == "penalty" else "none")
        own = {name: a for name, a in arrays.items() if name not in ("sample_weight", "divisor")}
        _job(record, arrays, options).check()  # of whole arrays: blocks may go together where these do not
        self.job = _job(record, own, options)
        self.options, self.first = options, next(iter(own.values()))
        if record.family == "elementwise":
            shapes = self.job.aligned()
            arrays = {name: a.reshape(shapes.get(name, a.shape)) for name, a in arrays.items()}
        above = request.grad_output
        if above is not None and not is_number(above):
            arrays = {**arrays, "grad_output": self._upstream(_lazy(above, "grad_output"))}
        self.places = places = places_of(self.job, arrays)
        self.arrays = {}
        for name, array in arrays.items():
            whole = {axis: -1 for axis, label in enumerate(places.of[name]) if label in places.single}
            self.arrays[name] = array.rechunk(whole) if whole else array

    def _upstream(self, above: Any) -> Any:
        """Return an upstream gradient, without axes where the loss is a number."""
        if self.reduction == "none":
            return above
        if above.size != 1:
            raise ValueError(f"grad_output must be one number where the loss is, got shape {above.shape}")
        return above.reshape(())

    @property
    def real(self) -> Any:
        """The dtype of a reduced value."""
        return np.dtype(np.float64 if self.first.dtype == np.float64 else np.float32)

    def result(self) -> Any:
        """Return what the call returns."""
        mode = self.mode
        if mode.partial:
            if "divisor" in self.arrays or "divisor" in self.options:
                raise ValueError(NO_DIVISOR)
            (part,) = compute_now(self.parts().to_delayed().item())
            return part.total, part.weight, part.count
        if not mode.wrt:
            return self.values() if self.reduction == "none" else self.reduced()
        return self.derivatives(mode)

    def values(self) -> Any:
        """Return unreduced values."""
        places = self.places
        new = {label: places.sizes[label] for label in places.values if label not in self._labels()}
        return self.each(blocks.value, self.options, places.values, new, self.first.dtype)

    def _labels(self) -> set[str]:
        return {label for index in self.places.of.values() for label in index}

    def reduced(self) -> Any:
        """Return the reduced value."""
        if self.reduction == "sum" and (self.record.family == "sequence" or "reduction" not in self.options):
            return self._number(blocks.scalar, _added(self.each(blocks.total, self.options, self.places.cut)))
        if self.reduction == "sum":
            return self._number(blocks.total_of, self.parts({**self.options, "reduction": "mean"}))
        divisor = self.divisor(()) if self.reduction == "batchmean" else self.arrays.get("divisor")
        return self._number(blocks.mean_of, self.parts(), divisor)

    def parts(self, options: dict[str, Any] | None = None) -> Any:
        """Return the partial sum of all blocks, to be computed."""
        return _added(self.each(blocks.partial, options or self.options, self.places.cut, without=("divisor",)))

    def _number(self, function: Any, total: Any, divisor: Any = None) -> Any:
        """Return a number of all blocks, from their sum and what that is divided by."""
        pairs = (total, (), *((divisor, labels("divisor", divisor.ndim)) if isinstance(divisor, da.Array) else ()))
        if not isinstance(divisor, da.Array):
            function = functools.partial(function, divisor=divisor)
        meta = meta_from_array(self.first, 0, self.real)
        return da.blockwise(functools.partial(function, self.real), (), *pairs, dtype=self.real, meta=meta)

    def derivatives(self, mode: Mode) -> Any:
        """Return what a transform returns."""
        reduced, options, places = self.reduction != "none", dict(self.options), self.places
        wrt = (*mode.wrt, *[name for name in mode.also if name in self.arrays])
        more: dict[str, Any] = {}
        if self.reduction in ("mean", "batchmean") and "divisor" not in self.arrays:
            options["reduction"], more["divisor"] = "mean", self.divisor(wrt)
        if self.request.grad_output is not None and is_number(self.request.grad_output):
            options["grad_output"] = self.request.grad_output
        kind = "grad_and_hess" if mode.hessian else "value_and_grad" if mode.value else "grad"
        parts = self.each(
            functools.partial(_swapped, blocks.derivatives, kind, wrt, reduced), options, places.cut, more=more
        )
        if kind == "grad_and_hess":
            return self._picked(parts, 0, wrt[0]), self._picked(parts, 1, wrt[0])
        shift = kind == "value_and_grad"
        gradients = tuple([self._picked(parts, shift + k, name) for k, name in enumerate(wrt)])
        found = gradients[0] if mode.single and len(gradients) == 1 else gradients
        if not shift:
            return found
        if reduced:
            return self._number(blocks.scalar, _added(self._nth(parts, 0)), more.get("divisor")), found
        return self._pick(parts, 0, places.values, self.first.dtype), found

    def _picked(self, parts: Any, number: int, name: str) -> Any:
        """Return one of the gradients in the blocks of its array, or summed over all blocks."""
        places, array = self.places, self.arrays[name]
        index = places.of[name]
        fits = tuple([places.sizes[label] for label in index]) == array.shape
        if fits and set(places.cut) <= set(index):
            return self._pick(parts, number, index, array.dtype)
        if not fits or set(places.cut) & set(index):
            raise ValueError(f"the gradient with respect to {name} adds up over blocks: broadcast it to the input")
        new = {label: places.sizes[label] for label in index}
        whole = _added(self._nth(parts, number))
        return da.blockwise(blocks.only, index, whole, (), new_axes=new or None, dtype=array.dtype, meta=array._meta)

    def _nth(self, parts: Any, number: int) -> Any:
        """Return one of the results of each block, to be added."""
        function, cut = functools.partial(_first, number), self.places.cut
        return da.blockwise(function, cut, parts, cut, concatenate=True, dtype=object, meta=_OBJECT)

    def _pick(self, parts: Any, number: int, index: Index, dtype: Any) -> Any:
        places = self.places
        new = {label: places.sizes[label] for label in index if label in places.single}
        meta = meta_from_array(self.first, len(index), dtype)
        function = functools.partial(blocks.pick, number)
        # Said to concatenate, which it has no cause to, so that Dask does not fuse the kernel into each of its results.
        return da.blockwise(
            function, index, parts, places.cut, new_axes=new or None, concatenate=True, dtype=dtype, meta=meta
        )

    def divisor(self, wrt: tuple[str, ...]) -> Any:
        """Return what the mean is divided by, a number where it follows from the shapes."""
        job, arrays, places = self.job, self.arrays, self.places
        if self.reduction == "batchmean":
            return float(self.first.shape[0] if self.first.ndim else 1)
        by_weights = "weight" in arrays and divides_by_weights(job.loss, "sample_weight" in arrays)
        if by_weights and "weight" in wrt:
            raise ValueError("a weighted mean is not differentiated with respect to its weights block by block")
        labelled = "ignore_index" in self.options and arrays["target"].dtype.kind in "iu"
        names = [*["target"] * labelled, *["weight"] * (by_weights or (labelled and "weight" in arrays))]
        count = float(math.prod([places.sizes[label] for label in places.values]))
        if not names and "sample_weight" not in arrays:
            return count
        samples = arrays.get("sample_weight")
        names += ["sample_weight"] * (samples is not None)
        labels = {label for name in names for label in places.of[name]}
        index = tuple([label for label in places.cut if label in labels])
        pairs = [part for name in names for part in (arrays[name], places.of[name])]
        function = functools.partial(blocks.weight, tuple(names), job)
        total = _added(da.blockwise(function, index, *pairs, dtype=object, meta=_OBJECT))
        factor = 1.0
        if samples is not None and len(names) == 1:  # the weights are those of rows of several values
            factor = count / max(1, samples.size)
        scaled = functools.partial(operator.mul, factor)
        return da.blockwise(scaled, (), total, (), dtype=np.float64, meta=np.empty((), np.float64))

    def each(
        self,
        function: Any,
        options: dict[str, Any],
        index: Index,
        new_axes: dict[str, int] | None = None,
        dtype: Any = object,
        without: tuple[str, ...] = (),
        more: dict[str, Any] | None = None,
    ) -> Any:
        """Return what a function of blocks returns, along the axes of an index."""
        options = {name: value for name, value in options.items() if name not in without}
        given = {name: (a, self.places.of[name]) for name, a in self.arrays.items() if name not in without}
        for name, value in (more or {}).items():
            if isinstance(value, da.Array):
                given[name] = (value, ())
            else:
                options[name] = value
        block = blocks.Block(self.record.function, tuple(given), tuple(options.items()))
        meta = _OBJECT if dtype is object else meta_from_array(self.first, len(index), dtype)
        pairs = [part for pair in given.values() for part in pair]
        return da.blockwise(
            functools.partial(function, block), index, *pairs, new_axes=new_axes or None, dtype=dtype, meta=meta
        )


_OBJECT = np.empty((), object)


def _swapped(function: Any, kind: str, wrt: tuple[str, ...], reduced: bool, block: blocks.Block, *arrays: Any) -> Any:
    return function(block, kind, wrt, reduced, *arrays)


def _first(number: int, results: tuple[Any, ...]) -> Any:
    return results[number]


def _added(parts: Any) -> Any:
    """Return the sum of all blocks of an array, added in their order by a tree of tasks, as the one block of an array.

    The graph is written out: by way of ``dask.delayed`` each sum would have a copy of the kernels that it is of.
    """
    name = f"add-{tokenize(parts.name)}"
    keys: list[Any] = list(flatten(parts.__dask_keys__()))
    graph: dict[Any, Any] = {}
    level = 0
    while level == 0 or len(keys) > 1:
        groups = [keys[k : k + _BRANCHES] for k in range(0, len(keys), _BRANCHES)]
        keys = [(name,) if len(groups) == 1 else (f"{name}-{level}", k) for k in range(len(groups))]
        graph |= {key: (blocks.add, group) for key, group in zip(keys, groups, strict=True)}
        level += 1
    return da.Array(HighLevelGraph.from_collections(name, graph, dependencies=[parts]), name, (), meta=_OBJECT)
