"""What a call is asked for, and the arrays it writes. Part of the calling path, see ``_call.py``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastloss.call.checks import Shape, check_float, check_shape, dtype_name
from fastloss.define.descriptions import Loss

ABSENT: Any = ()


class Mode(NamedTuple):
    """Which results a call returns: `wrt` names the arguments to differentiate; `single` unpacks the one gradient.

    `also` names optional arguments to be differentiated too where they are given.
    """

    value: bool = True
    wrt: tuple[str, ...] = ()
    single: bool = True
    hessian: bool = False
    also: tuple[str, ...] = ()


class Request(NamedTuple):
    """A mode, and what the caller of a transform passed beside the loss's own arguments."""

    mode: Mode
    grad_output: Any = None
    grad_out: Any = None
    out: Any = None


VALUE = Request(Mode())


def upstream_of(space: Any, request: Request, reduced: bool, shape: Shape) -> tuple[float, Any]:
    """Return the upstream gradient as (scalar factor, view of the output's shape or absent)."""
    given = request.grad_output
    if given is None:
        return 1.0, ABSENT
    if isinstance(given, int | float) or (isinstance(given, np.generic) and _is_real(given)):
        try:
            return float(given), ABSENT
        except OverflowError:
            raise ValueError("grad_output must be a number that float64 can hold") from None
    view = space.view(given, "grad_output")
    if reduced:
        if view.size != 1:
            raise ValueError(f"grad_output must be a scalar for a reduced loss, got shape {view.shape}")
        return space.backend.number(view.reshape(())), ABSENT
    check_float(view, "grad_output")
    check_shape(view, shape, "grad_output", "the output's shape")
    return 1.0, view


def _is_real(scalar: np.generic) -> bool:
    return scalar.dtype.kind in "biuf" or scalar.dtype.name == "bfloat16"


def given_gradients(request: Request, count: int) -> tuple[Any, ...] | None:
    """Return the `count` arrays of ``grad_out``, one for each argument to differentiate; None where none is given."""
    given = request.grad_out
    if given is None or request.mode.single:
        return None if given is None else (given,)
    return several(given, count)


def several(given: Any, count: int) -> tuple[Any, ...]:
    """Return a part of ``grad_out`` that must be `count` arrays."""
    if not isinstance(given, tuple | list):
        raise TypeError(f"grad_out must be a tuple of arrays, got {type(given).__name__}")
    if len(given) != count:
        raise ValueError(f"grad_out must hold {count} arrays, got {len(given)}")
    return tuple(given)


def checked_targets(space: Any, given: tuple[Any, ...], views: list[Any]) -> list[Any]:
    """Return the views of the arrays of ``grad_out``, which must be like `views`, before anything is written."""
    targets: list[Any] = []
    for array, view in zip(given, views, strict=True):
        target = checked_target(space, array, "grad_out", view.shape, view.dtype)
        if any(space.backend.overlap(target, other) for other in targets):
            raise ValueError("grad_out overlaps another array that is written")
        targets.append(target)
    return targets


def checked_target(space: Any, array: Any, name: str, shape: Shape, dtype: Any) -> Any:
    """Return the view of an array to be written, which must have a shape and a dtype."""
    view = space.output(array, name)
    check_shape(view, shape, name, "shape")
    if view.dtype != dtype:
        raise TypeError(f"{name} must have the dtype of its argument, got {dtype_name(view)}")
    if not view.flags.c_contiguous and _may_overlap_itself(view):
        raise ValueError(f"{name} has elements that share memory with each other: strides {view.strides}")
    return view


def _may_overlap_itself(view: Any) -> bool:
    """Return whether two elements may lie in the same place: an axis is shorter than what the finer axes span."""
    span = view.itemsize
    for stride, length in sorted((abs(stride), n) for stride, n in zip(view.strides, view.shape, strict=True) if n > 1):
        if stride < span:
            return True
        span += stride * (length - 1)
    return False


class Argument(NamedTuple):
    """An array the loss was given: `lies` is its shape along the axes of the result, where it differs from its own."""

    name: str
    given: Any
    view: Any
    lies: Shape | None = None


class Outputs:
    """The arrays that one call writes, and what becomes of them.

    Kernels write the derivative with respect to argument k into slot k of `grads`. A slot is the array that the user
    gets, or the user's own, unless that has another shape or layout than what kernels write; then it is a temporary.
    """

    __slots__ = (
        "_given",
        "_innermost",
        "_slots",
        "_targets",
        "aliased",
        "arguments",
        "backend",
        "grads",
        "request",
        "space",
        "values",
    )

    def __init__(
        self,
        record: Loss,
        space: Any,
        request: Request,
        arguments: tuple[Argument, ...],
        shape: Shape | None,
        innermost: int | None = None,
    ) -> None:
        """Allocate the gradients: of `shape`, or where it is None each of its own argument's.

        What has that shape lies in C order, or with the axis `innermost` moved behind the others.
        """
        self._innermost = innermost
        self.space, self.backend, self.request, self.arguments = space, space.backend, request, arguments
        self.aliased = False
        self.values: Any = ABSENT
        self.grads: list[Any] = [ABSENT] * max(3, len(arguments))
        self._slots = [_slot(record, arguments, name) for name in request.mode.wrt]
        self._targets: list[Any] | None = None
        given = given_gradients(request, len(self._slots))
        if given is not None:
            self._take_gradients(given)
        for number, slot in enumerate(self._slots):
            target = None if self._targets is None else self._targets[number]
            lies = arguments[slot].view.shape if shape is None else shape
            if target is not None and target.shape == lies and self.ordered(target).flags.c_contiguous:
                self.grads[slot] = target
            else:
                self.grads[slot] = self.allocate(lies, arguments[slot].view.dtype)

    def ordered(self, view: Any) -> Any:
        """Return a view with its axes in the order in which results lie in memory."""
        return view if self._innermost is None else self.backend.moved(view, self._innermost, -1)

    def allocate(self, shape: Shape, dtype: Any) -> Any:
        """Return a new array whose axes lie in that order."""
        axis, backend = self._innermost, self.backend
        if axis is None:
            return backend.empty(shape, dtype)
        return backend.moved(backend.empty((*shape[:axis], *shape[axis + 1 :], shape[axis]), dtype), -1, axis)

    def want_values(self, shape: Shape, wanted: bool, entries: bool = False) -> None:
        """Allocate, or take from ``out``, the unreduced values: a number for each row, or for each of its `entries`."""
        out = self.request.out
        if not wanted:
            if out is not None:
                what = "use it with reduction='none'" if self.request.mode.value else "no value is asked for"
                raise ValueError(f"out is for an unreduced value: {what}")
            return
        dtype = self.arguments[0].view.dtype
        if out is not None:
            view = self._checked(out, "out", shape, dtype)
            self._given = view
            if (self.ordered(view) if entries else view).flags.c_contiguous:
                self.values = view
                return
        self.values = self.allocate(shape, dtype) if entries else self.backend.empty(shape, dtype)

    def check_read(self, **views: Any) -> None:
        """Check what is read beside the arguments, by name, against the arrays of the user's that are written."""
        request = self.request
        if request.grad_out is None and request.out is None:
            return
        written = [("grad_out", target) for target in self._targets or ()]
        if request.out is not None:
            written.append(("out", self._given))
        for read, view in views.items():
            for name, target in written:
                # An element is read before the gradient is written in its place, but not before the value is.
                if self._lies_in(target, view) and (name == "out" or not self.backend.same(target, view)):
                    raise ValueError(f"{name} overlaps {read}, which is read after a part of {name} is written")

    def detach(self, views: list[Any], own: tuple[int, ...] = ()) -> None:
        """Replace gradients that lie in one of the arguments `views`, which are still read when they are written.

        The slots in `own` may lie in their own argument.
        """
        if self.request.grad_out is None:
            return
        for slot, gradient in enumerate(self.grads):
            if gradient is not ABSENT and any(
                view is not ABSENT and not (slot == other and slot in own) and self.backend.overlap(gradient, view)
                for other, view in enumerate(views)
            ):
                self.grads[slot] = self.backend.empty(gradient.shape, gradient.dtype)

    def _take_gradients(self, given: tuple[Any, ...]) -> None:
        """Check the arrays of ``grad_out``."""
        self._targets = []
        for slot, array in zip(self._slots, given, strict=True):
            view = self.arguments[slot].view
            self._targets.append(self._checked(array, "grad_out", view.shape, view.dtype))

    def _checked(self, array: Any, name: str, shape: Shape, dtype: Any) -> Any:
        """Return the view of an array to be written, checked against the result and against the arguments."""
        view = checked_target(self.space, array, name, shape, dtype)
        for other in self._targets or ():
            if self.backend.overlap(view, other):
                raise ValueError(f"{name} overlaps another array that is written")
        for argument in self.arguments:
            if self._lies_in(view, argument.view) and not self.backend.same(view, argument.view):
                raise ValueError(f"{name} overlaps {argument.name} without being the same array")
        return view

    def _lies_in(self, target: Any, view: Any) -> bool:
        """Return whether an array that is written shares memory with one that is read, and take note of it."""
        overlaps: bool = view is not ABSENT and self.backend.overlap(target, view)
        self.aliased = self.aliased or overlaps
        return overlaps

    def finish(self, total: Any, second: Any = ABSENT) -> Any:
        """Turn what the kernels wrote into what the user gets."""
        mode, arguments, wrap = self.request.mode, self.arguments, self.space.wrap
        value = None
        if mode.value:
            if self.values is ABSENT:
                value = self.space.scalar(total, arguments[0].view.dtype)
            elif self.request.out is not None:
                if self._given is not self.values:
                    self.backend.copy_into(self._given, self.values)
                value = self.request.out
            else:
                value = wrap(self.values, arguments[0].given)
            if not mode.wrt:
                return value
        if mode.single:
            grads = self._result(0, self._slots[0])
        else:
            grads = tuple([self._result(number, slot) for number, slot in enumerate(self._slots)])
        if mode.hessian:
            first = arguments[0]
            if second.shape != first.view.shape:  # each element's own second derivatives add up, as its first ones do
                second = self.backend.sum_to(second, first.lies or first.view.shape).reshape(first.view.shape)
            return grads, wrap(second, first.given)
        return (value, grads) if mode.value else grads

    def _result(self, number: int, slot: int) -> Any:
        """Return the user's gradient of one argument."""
        written, (_, given, view, lies) = self.grads[slot], self.arguments[slot]
        if written.shape != view.shape:
            written = self.backend.sum_to(written, lies or view.shape).reshape(view.shape)
        if self._targets is None:
            return self.space.wrap(written, given)
        target = self._targets[number]
        if written is not target:
            self.backend.copy_into(target, written)
        return self.request.grad_out if self.request.mode.single else self.request.grad_out[number]


def _slot(record: Loss, arguments: tuple[Argument, ...], name: str) -> int:
    """Return the number of the argument that a gradient is asked for."""
    for slot, argument in enumerate(arguments):
        if argument.name == name and argument.view is not ABSENT:
            check_float(argument.view, name)
            return slot
    raise ValueError(f"no gradient of {record.name} with respect to {name!r}: it is not given, or holds class indices")
