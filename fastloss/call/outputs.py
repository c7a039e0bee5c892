"""Which arrays a call writes, what kernels see of them, and what becomes of them. Part of a plan."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

from fastloss.call.checks import Shape, check_float
from fastloss.call.planning import ABSENT, Operand, Planning, chained, unchanged
from fastloss.call.results import Given, Results, Written, results_of
from fastloss.call.targets import check_target
from fastloss.call.weighting import RowLayout, Weighing, spreading
from fastloss.runtime.dtypes import real_of


class Argument(NamedTuple):
    """An array that may be differentiated: `lies` is its shape along the axes of the result, where it differs."""

    operand: Operand
    view: Any
    lies: Shape | None = None


class Outputs:
    """Plans the arrays that a call writes.

    Kernels write the derivative with respect to argument k into slot k. A slot is the array that the user gets, or the
    user's own, unless that has another shape or layout than what kernels write; then it is made anew, and copied.
    """

    _weighs_values = False

    def __init__(
        self,
        planning: Planning,
        arguments: tuple[Argument | None, ...],
        shape: Shape | None,
        innermost: int | None = None,
        last: tuple[int, ...] | None = None,
        flat_hessian: bool = False,
        shift: int = 0,
        slots: int = 5,
    ) -> None:
        """Plan the gradients: of `shape`, or where it is None each of its own argument's.

        What has that shape lies in C order, or with the axis `innermost` moved behind the others. Kernels may write the
        axes `last` behind the others; they are moved to their places then, into an array in C order. With
        `flat_hessian` the second derivative is zero, and no kernel's. `shift` is the kernel's slot of the values: a map
        of rows writes its entries where losses write derivatives. `slots` are all that it has.
        """
        self.planning, self.arguments, self._innermost, self._last = planning, arguments, innermost, last
        self._shift, self.slots = shift, slots
        self.library, self.backend = planning.library, planning.library.backend
        self.aliased = False  # whether an array that is written shares memory with one that is read
        self.writes_over = planning.out is not None or planning.request.grad_out is not None  # arrays of the caller's
        self._read: list[Operand] = []
        flat = self._flat = self.backend.flat
        self.ordered: Callable[[Any], Any] = unchanged  # brings axes to the order in which results lie in memory
        if innermost is not None:  # and not a method: plans keep this, and may not keep the arrays of the call
            ordered = self.ordered = functools.partial(self.backend.moved, source=innermost, destination=-1)
            self._flat = lambda view: flat(ordered(view))
        self._written: list[Written] = []
        self._out: Operand | None = None
        self._targets: list[Operand] = []
        self.dtype = self._argument(0).view.dtype  # that of the input, which decides that of the value
        mode = planning.mode
        self._wanted = [_slot(planning, arguments, name) for name in mode.wrt]
        for slot, target in zip(self._wanted, planning.gradients(len(self._wanted)), strict=False):
            view = self._argument(slot).view
            self._check(target, view.shape, view.dtype)
            self._targets.append(target)
        for number, slot in enumerate(self._wanted):
            self._plan_gradient(number, slot, shape)
        if mode.hessian:
            first, dtype = self._argument(0), self.dtype
            if flat_hessian:
                zeros = functools.partial(self.backend.zeros, first.view.shape, dtype)
                self._written.append(Written(None, zeros, flat, ABSENT, None, self._wrap(dtype, first.operand)))
            else:
                self._written.append(self._derivative(-1, first, shape, dtype))

    # -- planning -------------------------------------------------------------------------------------------------

    def maker(self, shape: Shape, dtype: Any) -> Callable[[], Any]:
        """Return what makes a new array whose axes lie in that order."""
        axis, backend = self._innermost, self.backend
        if axis is None:
            return backend.maker(shape, dtype)  # type: ignore[no-any-return]
        make = backend.maker((*shape[:axis], *shape[axis + 1 :], shape[axis]), dtype)
        return lambda: backend.moved(make(), -1, axis)

    def want_values(self, shape: Shape, each: bool, entries: bool = False, layout: RowLayout | None = None) -> None:
        """Plan the values, returned unreduced where `each` is asked for: a number a row, or for each of its `entries`.

        In gradients, entries of rows of weight 0 are cleared where their `layout` says that they lie.
        """
        self.values, self.each = shape, each
        planning, out = self.planning, self.planning.out
        if planning.sample_weight is not None:
            if math.prod(shape):
                planning.weighing = Weighing(planning, shape, self.real, layout)
                self._weighs_values = planning.mode.value  # which the kernel writes elsewhere
            else:
                spreading(planning, shape)  # looks at the shape of the weights, which weigh nothing
        if not (each and planning.mode.value):
            if out is not None:
                what = "use it with reduction='none'" if planning.mode.value else "no value is asked for"
                raise ValueError(f"out is for an unreduced value: {what}")
            return
        slot, dtype, given = None if self._weighs_values else self._shift, self.dtype, None
        if out is not None:
            self._check(out, shape, dtype)
            view, self._out = self.ordered(out.view) if entries else out.view, out
            dtype, given = view.dtype, Given(out.place, out.read, attrgetter("out"), view.flags.c_contiguous)
        make = self.maker(shape, dtype) if entries else self.backend.maker(shape, dtype)
        flat, prototype = self._flat if entries else self.backend.flat, self.backend.prototype(dtype)
        wrap = None if given else self._wrap(dtype, self._argument(0).operand)
        self._written.insert(0, Written(slot, make, flat, prototype, None, wrap, given))

    def check_read(self, **operands: Operand | None) -> None:
        """Check what is read beside the arguments, by name, against the arrays of the user's that are written."""
        if not self.writes_over:
            return
        if self.planning.sample_weight is not None:
            operands["sample_weight"] = self.planning.sample_weight
        beside = {name: operand for name, operand in operands.items() if operand is not None}
        self._read = [argument.operand for argument in self.arguments if argument is not None] + [*beside.values()]
        for read, operand in beside.items():
            for target in self._targets if self._out is None else (*self._targets, self._out):
                # An element is read before the gradient is written in its place, but not before the value is; weights
                # of samples are read again after both.
                late = target is self._out or read == "sample_weight"
                together = not late and self.backend.same(target.view, operand.view)
                if self._lies_in(target, operand) and not together:
                    name = target.name
                    raise ValueError(f"{name} overlaps {read}, which is read after a part of {name} is written")

    def detach(self, operands: list[Operand | None], own: tuple[int, ...] = ()) -> None:
        """Make gradients anew that would lie in one of the arguments, which are still read when they are written.

        The slots in `own` may lie in their own argument.
        """
        for place, written in enumerate(self._written):
            slot = (written.slot or 0) - 1  # of a loss, not a map
            for target in self._written_to(written) if slot >= 0 else ():
                if any(
                    operand is not None and not (slot == other and slot in own) and self._overlap(target, operand)
                    for other, operand in enumerate(operands)
                ):
                    given = written.given._replace(fits=False)  # type: ignore[union-attr]
                    self._written[place] = written._replace(given=given)

    def _plan_gradient(self, number: int, slot: int, shape: Shape | None) -> None:
        argument = self._argument(slot)
        dtype, given = argument.view.dtype, None
        if self._targets:
            target = self._targets[number]
            view, dtype = target.view, target.view.dtype
            fits = self._last is None and shape in (None, view.shape) and self.ordered(view).flags.c_contiguous
            give: Callable[[Any], Any] = attrgetter("grad_out")
            if not self.planning.mode.single:
                give = chained(give, itemgetter(number))
            given = Given(target.place, target.read, give, fits)
        self._written.append(self._derivative(slot + 1 + self._shift, argument, shape, dtype, given))

    def _derivative(
        self, slot: int, argument: Argument, shape: Shape | None, dtype: Any, given: Given | None = None
    ) -> Written:
        """Return a derivative of an argument.

        Each element's own second derivatives add up, as its first ones do.
        """
        own, move = argument.view.shape, None
        made = lies = own if shape is None else shape
        wrap = None if given else self._wrap(dtype, argument.operand)
        fold = None if lies == own else self._folding(argument, dtype)
        if math.prod(lies) != math.prod(own):
            dtype = real_of(dtype)  # in half types what adds up would lose digits, or vanish
        if self._last is not None:
            made = (*[n for k, n in enumerate(lies) if k not in self._last], *[lies[axis] for axis in self._last])
            move = _moving(self.backend, self._last, len(lies), self.backend.maker(lies, dtype))
        if move is not None:
            fold = chained(move, fold)
        make, prototype = self.maker(made, dtype), self.backend.prototype(dtype)
        return Written(slot, make, self._flat, prototype, fold, wrap, given)

    def _argument(self, slot: int) -> Argument:
        argument = self.arguments[slot]
        assert argument is not None
        return argument

    def _check(self, target: Operand, shape: Shape, dtype: Any) -> None:
        """Check an array to be written against the result, and against the arguments."""
        name = target.name
        check_target(self.planning, target, shape, dtype)
        for other in self._targets:
            if self._overlap(target, other):
                raise ValueError(f"{name} overlaps another array that is written")
        for argument in self.arguments:
            if argument is None or not self._lies_in(target, argument.operand):
                continue
            if not self.backend.same(target.view, argument.operand.view):
                raise ValueError(f"{name} overlaps {argument.operand.name} without being the same array")

    def _overlap(self, target: Operand, other: Operand) -> bool:
        return bool(self.backend.overlap(target.view, other.view))

    def _lies_in(self, target: Operand, operand: Operand) -> bool:
        """Return whether an array that is written shares memory with one that is read, and take note of it."""
        overlaps = self._overlap(target, operand)
        self.aliased = self.aliased or overlaps
        return overlaps

    # -- finishing ------------------------------------------------------------------------------------------------

    def _wrap(self, dtype: Any, operand: Operand) -> Callable[[Any], Any] | None:
        """Return what makes arrays of the user's library, like an operand, of views; None where they are that."""
        wrap: Callable[[Any], Any] | None = self.library.wrapping(dtype, getattr(operand.given, "dtype", None))
        return wrap

    def _folding(self, argument: Argument, dtype: Any) -> Callable[[Any], Any]:
        """Return what adds up what was written for the repeated elements of an argument that was broadcast."""
        backend, lies, shape = self.backend, argument.lies or argument.view.shape, argument.view.shape
        return lambda written: backend.sum_to(written, lies, dtype).reshape(shape)

    def _written_to(self, written: Written) -> list[Operand]:
        """Return the array of the caller's that a kernel writes to, none where it is made anew."""
        given = written.given
        if given is None or not given.fits:
            return []
        targets = self._targets if self._out is None else (*self._targets, self._out)
        return [target for target in targets if target.place == given.place]

    @property
    def first_replaces(self) -> bool:
        """Whether the kernel's first derivative lies in an array that it reads."""
        if not self.writes_over:
            return False
        firsts = [target for written in self._written if written.slot == 1 for target in self._written_to(written)]
        return any(self._overlap(target, read) for target in firsts for read in self._read)

    def prototypes(self) -> tuple[Any, ...]:
        """Return arrays of the types of what a kernel writes to its slots, absent ones where it writes nothing."""
        found: list[Any] = [ABSENT] * self.slots
        for written in self._written:
            if written.slot is not None:
                found[written.slot] = written.prototype
        if self._weighs_values:
            found[0] = self.backend.prototype(self.planning.weighing.real)
        return tuple(found)

    @property
    def real(self) -> Any:
        """The dtype that the loss is computed in."""
        return real_of(self.dtype)

    def plan(self) -> Results:
        """Return the plan."""
        return results_of(self.backend, self._written, self.slots, self._weighs_values)


def _moving(backend: Any, axes: tuple[int, ...], ndim: int, make: Callable[[], Any]) -> Callable[[Any], Any]:
    """Return what moves `axes`, which a kernel writes behind the others, to their places in an array made anew."""

    def move(written: Any) -> Any:
        result = make()
        for k, axis in enumerate(axes, ndim - len(axes)):
            written = backend.moved(written, k, axis)
        backend.copy_into(result, written)
        return result

    return move


def _slot(planning: Planning, arguments: tuple[Argument | None, ...], name: str) -> int:
    """Return the number of the argument that a gradient is asked for."""
    for slot, argument in enumerate(arguments):
        if argument is not None and argument.operand.name == name:
            check_float(argument.view, name)
            return slot
    domains = planning.record.domains
    why = "it holds class indices" if domains.get(name) == "class" else "it is not given"
    if name == "weight" and domains.get("target") == "class":
        why = "it has to be given, beside class probabilities"
    raise ValueError(f"no gradient of {planning.record.name} with respect to {name!r}: {why}")
