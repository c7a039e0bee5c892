"""The one calling path: a description in, shapes checked, outputs allocated, a driver called, arrays out.

Only this module knows shapes, broadcasting, weights and reductions. It works on views (:mod:`fastloss._dispatch`) and
asks the space's backend for everything that touches memory.
"""

from __future__ import annotations

import functools
import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from fastloss._config import settings
from fastloss._dispatch import BF16_BITS, F16_BITS, FLOATS, space_of
from fastloss._registry import jitable
from fastloss._spec import Elementwise, Loss, Pairwise, RowMap, Rowwise

_NO_INDEX = -(2**63)  # an ignore_index that no label equals
_ABSENT = ()


class Mode(NamedTuple):
    """Which results a call returns: `wrt` names the arguments to differentiate; `single` unpacks the one gradient."""

    value: bool = True
    wrt: tuple[str, ...] = ()
    single: bool = True
    hessian: bool = False


class Request(NamedTuple):
    """A mode, and what the caller of a transform passed beside the loss's own arguments."""

    mode: Mode
    grad_output: Any = None
    grad_out: Any = None
    out: Any = None


VALUE = Request(Mode())


def evaluate(record: Loss, job: Any, request: Request) -> Any:
    """Compute what is requested of the loss that `job` describes."""
    return _EVALUATORS[type(job)](record, job, request)


# -- shapes and dtypes ------------------------------------------------------------------------------------------------


def dtype_name(view: Any) -> str:
    """Return the user's name of a view's dtype."""
    if view.dtype == F16_BITS:
        return "float16"
    return "bfloat16" if view.dtype == BF16_BITS else str(view.dtype)


def _check_float(view: Any, name: str) -> None:
    if view.dtype not in FLOATS:
        raise TypeError(f"{name} must be floating point, got dtype {dtype_name(view)}")


def _check_shape(view: Any, shape: tuple[int, ...], name: str, what: str) -> None:
    if view.shape != shape:
        raise ValueError(f"{name} must have {what} {shape}, got shape {view.shape}")


def _common_shape(job: Elementwise, views: list[Any]) -> tuple[int, ...]:
    """Return the shape of the result of an elementwise loss."""
    leads = views[: job.leads]
    listed = ", ".join(f"{name} {view.shape}" for name, view in zip(job.names, leads, strict=False))
    try:
        shape = np.broadcast_shapes(*[view.shape for view in leads])
    except ValueError:
        raise ValueError(f"shapes do not go together: {listed}") from None
    if any(view.shape != leads[0].shape for view in leads):
        if job.broadcast == "exact":
            raise ValueError(f"shapes must be equal: {listed}")
        if job.broadcast == "warn":
            warnings.warn(
                f"shapes differ and are broadcast, which is rarely meant: {listed}", UserWarning, stacklevel=_stacklevel()
            )
    for name, view in zip(job.names[job.leads :], views[job.leads :], strict=True):
        _check_fits(view, shape, name)
    return shape


def _stacklevel() -> int:
    """Return the stack level of the first caller outside the package."""
    import sys

    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("fastloss."):
        frame = frame.f_back
        level += 1
    return level


def _check_fits(view: Any, shape: tuple[int, ...], name: str) -> None:
    """Check that an array broadcasts to `shape` and does not enlarge it."""
    try:
        fits = np.broadcast_shapes(view.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} of shape {view.shape} does not broadcast to {shape}")


def _upstream(space: Any, request: Request, reduced: bool, shape: tuple[int, ...]) -> tuple[float, Any]:
    """Return the upstream gradient as (scalar factor, array of the output's shape or absent)."""
    given = request.grad_output
    if given is None:
        return 1.0, _ABSENT
    if isinstance(given, int | float):
        return float(given), _ABSENT
    view = space.view(given, "grad_output")
    if reduced:
        if view.size != 1:
            raise ValueError(f"grad_output must be a scalar for a reduced loss, got shape {view.shape}")
        return space.backend.number(view.reshape(())), _ABSENT
    _check_float(view, "grad_output")
    _check_shape(view, shape, "grad_output", "the output's shape")
    return 1.0, view


# -- outputs ----------------------------------------------------------------------------------------------------------


class _Gradient(NamedTuple):
    """One gradient on its way: the kernel writes `written`; `target` is the user's array, where one was given."""

    written: Any
    lies: tuple[int, ...]
    shape: tuple[int, ...]
    like: Any
    target: Any = None
    given: Any = None


class _Outputs:
    """The arrays a call writes, and what becomes of them."""

    def __init__(self, record: Loss, job_names: tuple[str, ...], space: Any, request: Request, views: Any, arrays: Any) -> None:
        self.space, self.backend, self.request = space, space.backend, request
        self.views, self.arrays = views, arrays
        self.aliased = False
        self.summed_shapes: dict[int, tuple[int, ...]] = {}  # how an argument lies along the axes of what is written
        self.slots: list[int] = []
        for name in request.mode.wrt:
            if name not in record.differentiable:
                raise ValueError(
                    f"{record.name} is not differentiable with respect to {name!r}, only to "
                    + ", ".join(map(repr, record.differentiable))
                )
            slot = job_names.index(name) if name in job_names else -1
            if slot < 0 or arrays[slot] is None:
                raise ValueError(f"no gradient with respect to {name!r}: the argument is not given, or not real-valued here")
            _check_float(views[slot], name)
            self.slots.append(slot)

    def gradients(self, shape: tuple[int, ...], zeros: bool = False) -> list[_Gradient]:
        """Allocate, or take from ``grad_out``, the gradients; kernels write arrays of `shape`."""
        make = self.backend.zeros if zeros else self.backend.empty
        given = self.request.grad_out
        if given is None:
            targets: tuple[Any, ...] = (None,) * len(self.slots)
        else:
            targets = (given,) if self.request.mode.single else tuple(given)
            if len(targets) != len(self.slots):
                raise ValueError(f"grad_out must hold {len(self.slots)} arrays, got {len(targets)}")
        gradients = []
        for slot, user in zip(self.slots, targets, strict=True):
            view, like = self.views[slot], self.arrays[slot]
            target = None if user is None else self._checked(user, "grad_out", view.shape, view.dtype)
            if target is not None and target.shape == shape and target.flags.c_contiguous:
                written = target
            else:
                written = make(shape, view.dtype)
            lies = self.summed_shapes.get(slot, view.shape)
            gradients.append(_Gradient(written, lies, view.shape, like, target, user))
        return gradients

    def values(self, shape: tuple[int, ...], wanted: bool) -> Any:
        """Allocate, or take from ``out``, the unreduced values."""
        self._out: Any = None
        if not wanted:
            if self.request.out is not None:
                raise ValueError("out is for an unreduced value; use it with reduction='none'")
            return _ABSENT
        dtype = self.views[0].dtype
        if self.request.out is not None:
            self._out = self._checked(self.request.out, "out", shape, dtype)
            if self._out.flags.c_contiguous:
                return self._out
        return self.backend.empty(shape, dtype)

    def _checked(self, array: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
        """Return the view of an array to be written, checked against the result and against the operands."""
        view = self.space.output(array, name)
        _check_shape(view, shape, name, "shape")
        if view.dtype != dtype:
            raise TypeError(f"{name} must have the dtype of its argument, got {dtype_name(view)}")
        for operand in self.views:
            if operand is not _ABSENT and self.backend.overlap(view, operand):
                if not self.backend.same(view, operand):
                    raise ValueError(f"{name} overlaps an argument without being the same array")
                self.aliased = True
        return view

    def finish(self, total: Any, values: Any, gradients: list[_Gradient], second: Any) -> Any:
        """Turn what the kernels wrote into what the user gets."""
        mode = self.request.mode
        wrap, like = self.space.wrap, self.arrays[0]
        value = None
        if mode.value:
            if values is _ABSENT:
                value = self.space.scalar(total, self.views[0].dtype)
            elif self._out is not None:
                if self._out is not values:
                    self.backend.copy_into(self._out, values)
                value = self.request.out
            else:
                value = wrap(values, like)
            if not mode.wrt:
                return value
        results = []
        for written, lies, shape, owner, target, given in gradients:
            result = written if written.shape == shape else self.backend.sum_to(written, lies).reshape(shape)
            if target is None:
                results.append(wrap(result, owner))
            else:
                if result is not target:
                    self.backend.copy_into(target, result)
                results.append(given)
        grads = results[0] if mode.single else tuple(results)
        if mode.hessian:
            return grads, wrap(second, like)
        return (value, grads) if mode.value else grads


def _in_slots(slots: list[int], gradients: list[_Gradient], flat: Any) -> tuple[Any, Any, Any]:
    """Return the arrays that kernels write, in the order of the derivatives."""
    grads = [_ABSENT, _ABSENT, _ABSENT]
    for slot, gradient in zip(slots, gradients, strict=True):
        grads[slot] = flat(gradient.written)
    return grads[0], grads[1], grads[2]


# -- losses of single elements ------------------------------------------------------------------------------------------


@functools.cache
def _weighted(point: Any) -> Any:
    """Return the loss with the weight as a third operand, for its gradient; `centre` is the weighted mean, or 0."""

    def weighted(x, t, w, *params):  # type: ignore[no-untyped-def]
        value, slopes, curvature = point(x, t, *params[:-1])
        return w * value, (w * slopes[0], w * slopes[1], value - params[-1]), w * curvature

    weighted.__name__ = weighted.__qualname__ = f"weighted_{point.__name__}"
    return jitable(weighted)


def _elementwise(record: Loss, job: Elementwise, request: Request) -> Any:
    mode = request.mode
    names, arrays, point, params = job.names, job.arrays, job.point, job.params
    weight = job.weight
    space = space_of((*arrays, weight), (*names, "weight")) if weight is not None else space_of(arrays, names)
    views = [space.view(array, name) for array, name in zip(arrays, names, strict=True)]
    x = views[0]
    for view, name in zip(views, names, strict=True) if job.real_operands else ((x, names[0]),):
        _check_float(view, name)
    shape = x.shape
    for view in views:
        if view.shape != shape:
            shape = _common_shape(job, views)
            break
    backend = space.backend
    size = math.prod(shape)
    reduction = job.reduction

    divisor: Any = 1
    if reduction == "mean":
        divisor = size
    elif reduction == "batchmean":
        divisor = shape[0] if shape else 1
    w: Any = _ABSENT
    if weight is not None:
        w_view = space.view(weight, "weight")
        if job.exact_weight:
            _check_shape(w_view, x.shape, "weight", "the input's shape")
        _check_fits(w_view, shape, "weight")
        w = w_view if w_view.shape == shape else backend.broadcast(w_view, shape)
        if reduction == "mean" and job.mean == "weights":
            divisor = _sum_of(backend, w)
        if "weight" in mode.wrt:
            centre = 0.0
            if reduction == "mean" and job.mean == "weights":
                centre = backend.number(space.view(_elementwise(record, job, VALUE), "input"))
            names, arrays, views = (*names, "weight"), (*arrays, weight), [*views, w_view]
            point, params, w = _weighted(point), (*params, centre), _ABSENT

    each = reduction == "none"
    outputs = _Outputs(record, names, space, request, views, arrays)
    scale, upstream = _upstream(space, request, not each, shape)
    values = outputs.values(shape, each and mode.value)
    gradients = outputs.gradients(shape)
    second = backend.empty(shape, x.dtype) if mode.hessian else _ABSENT
    if size == 0:
        total = math.nan if divisor == 0 else 0.0
    else:
        total = backend.elementwise(
            point,
            tuple([view if view.shape == shape else backend.broadcast(view, shape) for view in views]),
            w,
            upstream,
            params,
            scale,
            divisor,
            values,
            _in_slots(outputs.slots, gradients, lambda written: written),
            second,
            outputs.aliased,
        )
    return outputs.finish(total, values, gradients, second)


@jitable
def _itself(x):  # type: ignore[no-untyped-def]
    T = type(x)
    return x, (T(1),), T(0)


def _sum_of(backend: Any, view: Any) -> Any:
    """Return the sum of an array, accumulated as the losses are; a number of the backend's."""
    if view.size == 0:
        return 0.0
    absent = (_ABSENT, _ABSENT, _ABSENT)
    return backend.elementwise(_itself, (view,), _ABSENT, _ABSENT, (), 1.0, 1, _ABSENT, absent, _ABSENT, False)


# -- losses of rows ---------------------------------------------------------------------------------------------------


def _split_axis(shape: tuple[int, ...], dim: int | tuple[int, ...] | None) -> tuple[int, int, tuple[int, int, int]]:
    """Return the first and one past the last class axis, and (outer, classes, inner)."""
    ndim = len(shape)
    if dim is None:
        if ndim == 0:
            raise ValueError("input must have a class axis, got shape ()")
        first = 0 if ndim == 1 else 1
        last = first + 1
    else:
        axes = sorted({_normal_axis(axis, ndim) for axis in (dim if isinstance(dim, tuple | list) else (dim,))})
        first, last = axes[0], axes[-1] + 1
        if len(axes) != last - first:
            raise ValueError(f"dim must name neighbouring axes, got {dim}")
    return first, last, (math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:]))


def _normal_axis(axis: int, ndim: int) -> int:
    """Return a non-negative axis; a number counts as having one axis, as in torch."""
    if not -max(ndim, 1) <= axis < max(ndim, 1):
        raise ValueError(f"dim {axis} is out of range for an input with {ndim} axes")
    return axis % max(ndim, 1)


def _checked_labels(view: Any, rows: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    """Return class indices, checked for dtype and shape."""
    if view.dtype.kind not in "iu" or view.dtype in FLOATS:
        raise TypeError(f"target must hold class indices of an integer dtype, got dtype {dtype_name(view)}")
    if view.shape != rows and not (rows == () and view.shape == (1,)):
        raise ValueError(
            f"target must have shape {rows}, that of the input {shape} without its class axis, got shape {view.shape}"
        )
    return view


def _rowwise(record: Loss, job: Rowwise, request: Request) -> Any:
    mode, maths, names = request.mode, job.maths, ("input", "target", "weight")
    space = space_of((job.input, job.target, job.weight), names)
    x = space.view(job.input, "input")
    _check_float(x, "input")
    first, last, split = _split_axis(x.shape, job.axis)
    if job.max_ndim is not None and x.ndim > job.max_ndim:
        raise ValueError(f"input must have at most {job.max_ndim} axes, got shape {x.shape}")
    outer, classes, inner = split
    if classes == 0:
        raise ValueError(f"input must have at least one class, got shape {x.shape}")
    rows = x.shape[:first] + x.shape[last:]
    backend, flat = space.backend, space.backend.flat
    labels: Any = _ABSENT
    operand: Any = _ABSENT
    weight: Any = _ABSENT
    if job.target is not None:
        target = space.view(job.target, "target")
        if job.soft is not None and target.shape == x.shape:
            maths, operand = job.soft, target
            _check_float(operand, "target, which has the input's shape and so holds class probabilities,")
            if job.ignore_index is not None and job.ignore_index >= 0:
                raise ValueError(f"ignore_index does not go with class probabilities, got {job.ignore_index}")
        else:
            labels = _checked_labels(target, rows, x.shape)
    if job.weight is not None:
        weight = space.view(job.weight, "weight")
        _check_shape(weight, (classes,), "weight", "one entry for each class, shape")

    each = job.reduction == "none"
    count = outer * inner
    divisor: float = 1
    if job.reduction == "mean":
        divisor = 0 if job.mean == "weights" and labels is not _ABSENT else count
    soft = operand is not _ABSENT
    arrays = (job.input, job.target if soft else None, job.weight if soft else None)
    outputs = _Outputs(record, names, space, request, (x, operand, weight), arrays)
    outputs.summed_shapes = {2: (classes,) + (1,) * (x.ndim - last)}
    kept = (1,) * (last - first) if job.keepdim else ()
    shape = x.shape[:first] + kept + x.shape[last:]
    scale, upstream = _upstream(space, request, not each, shape)
    values = outputs.values(shape, each and mode.value)
    gradients = outputs.gradients(x.shape, zeros=maths.sparse)
    second = (backend.zeros if maths.sparse else backend.empty)(x.shape, x.dtype) if mode.hessian else _ABSENT
    if count == 0:
        return outputs.finish(math.nan if job.reduction == "mean" else 0.0, values, gradients, second)
    strange, total = backend.rowwise(
        maths,
        flat(x),
        operand if operand is _ABSENT else flat(operand),
        labels if labels is _ABSENT else flat(labels),
        weight if weight is _ABSENT else flat(weight),
        upstream if upstream is _ABSENT else flat(upstream),
        (*job.params, 1.0 / classes),
        scale,
        divisor,
        split,
        _NO_INDEX if job.ignore_index is None else job.ignore_index,
        settings.check_indices,
        values if values is _ABSENT else flat(values),
        _in_slots(outputs.slots, gradients, flat),
        second if second is _ABSENT else flat(second),
        request.grad_out is not None,
    )
    if strange >= 0:
        place = tuple(int(i) for i in np.unravel_index(strange, rows))
        label = int(backend.number(flat(labels)[strange : strange + 1].reshape(())))
        raise IndexError(f"target {label} at position {place} is out of range for {classes} classes")
    return outputs.finish(total, values, gradients, second)


def _rowmap(record: Loss, job: RowMap, request: Request) -> Any:
    mode = request.mode
    space = space_of((job.input,), ("input",))
    x = space.view(job.input if job.dtype is None else space.converted(job.input, job.dtype), "input")
    _check_float(x, "input")
    shape = x.shape
    split = _split_axis(shape, job.axis)[2]
    backend, flat = space.backend, space.backend.flat
    outputs = _Outputs(record, ("input",), space, request, [x], [job.input])
    upstream = _upstream(space, request, False, shape)
    values = outputs.values(shape, mode.value)
    gradients = outputs.gradients(shape)

    def run(maths: Any, operand: Any, scale: float, written: Any) -> None:
        backend.rowwise(
            maths, flat(x), operand, _ABSENT, _ABSENT, _ABSENT, (), scale, 1, split, _NO_INDEX, False, _ABSENT,
            (flat(written), _ABSENT, _ABSENT), _ABSENT, True,
        )  # fmt: skip

    if x.size:
        if gradients:
            scale, operand = upstream
            if operand is _ABSENT:
                operand = backend.ones(shape, x.dtype)
            # The gradient may replace the input, so the value goes first.
            if mode.value:
                run(job.forward, _ABSENT, 1.0, values)
            run(job.backward, flat(operand), scale, gradients[0].written)
        elif mode.value:
            run(job.forward, _ABSENT, 1.0, values)
    return outputs.finish(None, values, gradients, _ABSENT)


# -- losses of vectors ------------------------------------------------------------------------------------------------


def _pairwise(record: Loss, job: Pairwise, request: Request) -> Any:
    mode, names, arrays = request.mode, job.names, job.arrays
    space = space_of((*arrays, job.target), (*names, "target"))
    views = [space.view(array, name) for array, name in zip(arrays, names, strict=True)]
    listed = ", ".join(f"{name} {view.shape}" for name, view in zip(names, views, strict=True))
    for view, name in zip(views, names, strict=True):
        _check_float(view, name)
    if len({view.ndim for view in views}) != 1 or views[0].ndim == 0:
        raise ValueError(f"vectors must have the same number of axes, at least one: {listed}")
    try:
        shape = np.broadcast_shapes(*[view.shape for view in views])
    except ValueError:
        raise ValueError(f"shapes do not go together: {listed}") from None
    rows, columns = shape[:-1], shape[-1]
    backend, flat = space.backend, space.backend.flat
    target: Any = _ABSENT
    if job.target is not None:
        target = space.view(job.target, "target")
        if target.shape != rows:
            if target.size != 1 or target.ndim > 1:
                raise ValueError(f"target must have shape {rows}, one entry for each vector, got shape {target.shape}")
            target = backend.broadcast(target.reshape(()), rows)
        target = flat(target)

    each = job.reduction == "none"
    count = math.prod(rows)
    outputs = _Outputs(record, names, space, request, views, arrays)
    scale, upstream = _upstream(space, request, not each, rows)
    values = outputs.values(rows, each and mode.value)
    gradients = outputs.gradients(shape)
    second = backend.empty(shape, views[0].dtype) if mode.hessian else _ABSENT
    divisor = count if job.reduction == "mean" else 1
    if count == 0:
        return outputs.finish(math.nan if divisor == 0 else 0.0, values, gradients, second)
    total = backend.pairwise(
        job.maths,
        tuple(flat(view if view.shape == shape else backend.broadcast(view, shape)) for view in views),
        target,
        flat(upstream) if upstream is not _ABSENT else upstream,
        job.params,
        scale,
        divisor,
        (count, columns),
        flat(values) if values is not _ABSENT else values,
        _in_slots(outputs.slots, gradients, flat),
        flat(second) if second is not _ABSENT else second,
    )
    return outputs.finish(total, values, gradients, second)


_EVALUATORS = {Elementwise: _elementwise, Rowwise: _rowwise, RowMap: _rowmap, Pairwise: _pairwise}
