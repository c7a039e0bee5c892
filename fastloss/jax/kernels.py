"""What JAX calls back: kernels over arrays in host memory that have any number of leading axes, those of vmap."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import fastloss as fl
from fastloss.api.jobs import Job, Layout, Shape
from fastloss.runtime.functions import is_packaged
from fastloss.runtime.settings import in_this_thread

# What the losses that look at the numbers of their arrays are defined for; outside of it an element is NaN.
_DOMAINS: dict[str, tuple[tuple[str, ...], float]] = {
    "binary_cross_entropy": (("input", "target"), 1.0),
    "gaussian_nll_loss": (("var",), math.inf),
}


@functools.lru_cache(maxsize=4096)
def kernel_of(
    job: Job, layout: Layout | None, wrt: tuple[str, ...], given: Job | None = None, upstream: bool = False
) -> Kernel:
    """Return what computes a job, once it has been found that the arrays of `given`, as they came, are the loss's."""
    (given or job).check(wrt)
    return Kernel(job, layout, wrt, upstream)


class Kernel:
    """Values of a loss, and gradients with respect to some of its arrays.

    Parameters
    ----------
    job
        The loss and its arrays, without leading axes.
    layout
        How values lie to arrays; None for a loss whose reduction is the kernel's.
    wrt
        The arrays to differentiate with respect to.
    upstream
        Whether gradients alone are returned, for an upstream gradient that is given behind the arrays.
    """

    def __init__(self, job: Job, layout: Layout | None, wrt: tuple[str, ...], upstream: bool = False) -> None:
        self.layout, self.wrt, self.upstream = layout, wrt, upstream
        loss, shape = job.loss.function, values_of(job, layout)
        self.function: Callable[..., Any] = loss
        if wrt:
            self.function = fl.grad(loss, wrt) if upstream else fl.value_and_grad(loss, wrt)
        shapes = [job.shape(name) for name in wrt]
        shapes = shapes if upstream else [shape, *shapes]
        self.results = [jax.ShapeDtypeStruct(shape, job.real) for shape in shapes]
        self.job = job
        if upstream:
            self.job = job._replace(names=(*job.names, "grad_output"), shapes=(*job.shapes, shape))

    def __call__(self, *arrays: Any) -> tuple[Any, ...]:
        """Return values and gradients, with the leading axes of the arrays. Nothing is raised for what these hold."""
        batch = self.batch_of(arrays)
        if not batch:
            return self._computed(arrays, self.job.keywords)
        folded = self._folded(arrays, batch)
        return self._one_by_one(arrays, batch) if folded is None else folded

    def batch_of(self, arrays: Sequence[Any]) -> Shape:
        """Return the common shape of the leading axes of arrays, or of JAX's descriptions of them."""
        leading = [array.shape[: array.ndim - len(shape)] for array, shape in zip(arrays, self.job.shapes, strict=True)]
        return np.broadcast_shapes(*leading)

    def _one_by_one(self, arrays: Sequence[Any], batch: Shape) -> tuple[Any, ...]:
        """Return what a call for each entry of the leading axes returns."""
        spread = [np.broadcast_to(a, (*batch, *shape)) for a, shape in zip(arrays, self.job.shapes, strict=True)]
        made = tuple([np.empty((*batch, *one.shape), one.dtype) for one in self.results])
        for index in np.ndindex(batch):
            results = self._computed([array[index] for array in spread], self.job.keywords)
            for target, result in zip(made, results, strict=True):
                target[index] = result
        return made

    def _folded(self, arrays: Sequence[Any], batch: Shape) -> tuple[Any, ...] | None:
        """Return what one call for all entries of the leading axes returns, None where that cannot be."""
        job, layout = self.job, self.layout
        if layout is None or layout.kind is None:
            return None
        options = job.keywords
        if layout.kind == "elements":
            return self._computed([_spread(a, s, batch, layout.shape) for a, s in self._with_shapes(arrays)], options)
        if layout.kind == "samples":
            tail = layout.shape[1:] if len(layout.shape) > 1 else layout.shape
            flat = [np.broadcast_to(a, (*batch, *layout.shape)).reshape(-1, *tail) for a in arrays]
            return self._shaped(self._computed(flat, options), batch)
        rows = []
        width = math.prod([layout.shape[axis] for axis in layout.axes])
        if width == 0:
            return None
        for name, (array, shape) in zip(job.names, self._with_shapes(arrays), strict=True):
            if name == "weight":  # of classes
                if math.prod(array.shape) != math.prod(shape):
                    return None
                rows.append(array.reshape(shape))
            elif shape == layout.shape:
                spread = np.broadcast_to(array, (*batch, *shape))
                rows.append(_moved(spread, layout, len(batch)).reshape(-1, width))
            else:
                rows.append(_spread(array, shape, batch, layout.kept).reshape(-1))
        for name in ("axis", "dim", "keepdim"):
            options.pop(name, None)
        if "dim" in job.loss.describe.__annotations__:
            options["dim"] = 1
        values, *gradients = self._computed(rows, options)
        ends = (*batch, *layout.kept, *[layout.shape[axis] for axis in layout.axes])
        back = [_moved(gradient.reshape(ends), layout, len(batch), True) for gradient in gradients]
        if job.is_map:
            return (_moved(values.reshape(ends), layout, len(batch), True),)
        return self._shaped((values, *back), batch)

    def _with_shapes(self, arrays: Sequence[Any]) -> list[tuple[Any, Shape]]:
        return list(zip(arrays, self.job.shapes, strict=True))

    def _shaped(self, made: Sequence[Any], batch: Shape) -> tuple[Any, ...]:
        """Return results of one call in their shapes behind the leading axes."""
        return tuple([a.reshape(*batch, *one.shape) for a, one in zip(made, self.results, strict=True)])

    def _computed(self, arrays: Sequence[Any], options: dict[str, Any]) -> tuple[Any, ...]:
        """Return what the loss returns; what it would raise for is NaN."""
        given = dict(zip(self.job.names, arrays, strict=True))
        try:
            return self._run(given, options)
        except ValueError:
            names, most = _DOMAINS.get(self.job.loss.name, ((), math.inf))
            for name in names:
                given[name] = np.where((given[name] < 0) | (given[name] > most), np.nan, given[name])
            if names:
                return self._run(given, options)
            return tuple([np.full(one.shape, np.nan, one.dtype) for one in self.results])

    def _run(self, given: dict[str, Any], options: dict[str, Any]) -> tuple[Any, ...]:
        try:
            result = self.function(**given, **options)
        except IndexError:  # a label that is none, which makes its row NaN
            with in_this_thread(check_indices=False):
                result = self.function(**given, **options)
        if self.upstream:
            return tuple(result)
        return (result[0], *result[1]) if self.wrt else (result,)


@functools.lru_cache(maxsize=4096)
def values_of(job: Job, layout: Layout | None) -> Shape:
    """Return the shape of the values of a job."""
    if layout is not None:
        return layout.shape if job.is_map else layout.values
    if job.loss.name == "linear_log_prob":
        return job.shape("token")
    if not is_packaged(job.loss.function):
        return job.shape_of_value()
    if job.keywords.get("reduction") != "none":
        return ()
    if job.loss.name == "info_nce_loss":
        return job.shapes[0][:1]
    target = job.shape("target")
    soft = job.dtypes[job.names.index("target")].kind == "f"
    return target[:1] + target[2:] if soft and len(target) > 1 else () if soft else target


def _spread(array: Any, shape: Shape, batch: Shape, whole: Shape) -> Any:
    """Return an array of a shape behind leading axes as one of the `whole` shape behind all leading axes."""
    leading = array.shape[: array.ndim - len(shape)]
    if math.prod(shape) == 1:
        shape = ()
    return np.broadcast_to(array.reshape(*leading, *(1,) * (len(whole) - len(shape)), *shape), (*batch, *whole))


def _moved(array: Any, layout: Layout, leading: int, back: bool = False) -> Any:
    """Return an array with the axes of its rows behind all others, or back from there."""
    axes = [leading + axis for axis in layout.axes]
    ends = list(range(array.ndim - len(axes), array.ndim))
    return np.moveaxis(array, ends, axes) if back else np.moveaxis(array, axes, ends)
