"""Which arrays a call writes, what kernels see of them, and what becomes of them. Part of a plan."""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

from fastloss.call.checks import Shape, check_float
from fastloss.call.planning import ABSENT, Operand, Planning
from fastloss.call.request import Request
from fastloss.call.results import Finish, Results, chained, copier, finisher, fresh, given_gradient, given_out, taken
from fastloss.call.targets import check_target
from fastloss.call.weighting import Weighing
from fastloss.runtime.dtypes import real_of


class Argument(NamedTuple):
    """An array that may be differentiated: `lies` is its shape along the axes of the result, where it differs."""

    operand: Operand
    view: Any
    lies: Shape | None = None


class _Written(NamedTuple):
    """An array that a kernel writes: made anew, or the caller's, number `target` of the call's arrays."""

    slot: int | None  # 0: the values, from 1 on the derivatives, -1 the Hessian; None: zeros that no kernel writes
    make: Callable[[], Any]
    flat: Callable[[Any], Any]  # what the kernel sees of it
    prototype: Any  # an empty array of the type of that
    finish: Finish | None
    target: Operand | None = None


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
    ) -> None:
        """Plan the gradients: of `shape`, or where it is None each of its own argument's.

        What has that shape lies in C order, or with the axis `innermost` moved behind the others. Kernels may write the
        axes `last` behind the others; they are moved to their places then, into an array in C order. With
        `flat_hessian` the second derivative is zero, and no kernel's. `shift` is the kernel's slot of the values: a map
        of rows writes its entries where losses write derivatives.
        """
        self.planning, self.arguments, self._innermost, self._last = planning, arguments, innermost, last
        self._shift = shift
        self.library, self.backend = planning.library, planning.library.backend
        self.aliased = False
        self._read: list[Operand] = []
        flat = self.backend.flat
        self._flat = flat if innermost is None else lambda view: flat(self.ordered(view))
        self._written: list[_Written] = []
        self._wraps: dict[Finish | None, Callable[[Any], Any]] = {}  # what ends with an array of the user's library
        self._out: Operand | None = None
        self._targets: list[Operand] = []
        self.dtype = self._argument(0).view.dtype  # that of the input, which decides that of the value
        mode = planning.mode
        self.slots = [_slot(planning, arguments, name) for name in mode.wrt]
        given = planning.gradients(len(self.slots))
        if given is not None:
            for slot, operand in zip(self.slots, given, strict=True):
                view = self._argument(slot).view
                self._check(operand, view.shape, view.dtype)
                self._targets.append(operand)
        for number, slot in enumerate(self.slots):
            self._plan_gradient(number, slot, shape)
        if mode.hessian and flat_hessian:
            argument = self._argument(0)
            make = functools.partial(self.backend.zeros, argument.view.shape, self.dtype)
            self._written.append(_Written(None, make, flat, ABSENT, self._wrapping(self.dtype, argument.operand)))
        elif mode.hessian:
            self._plan_hessian(shape)

    # -- planning -------------------------------------------------------------------------------------------------

    def ordered(self, view: Any) -> Any:
        """Return a view with its axes in the order in which results lie in memory."""
        return view if self._innermost is None else self.backend.moved(view, self._innermost, -1)

    def maker(self, shape: Shape, dtype: Any) -> Callable[[], Any]:
        """Return what makes a new array whose axes lie in that order."""
        axis, backend = self._innermost, self.backend
        if axis is None:
            return backend.maker(shape, dtype)  # type: ignore[no-any-return]
        make = backend.maker((*shape[:axis], *shape[axis + 1 :], shape[axis]), dtype)
        return lambda: backend.moved(make(), -1, axis)

    def want_values(self, shape: Shape, wanted: bool, entries: bool = False) -> None:
        """Plan the unreduced values: a number for each row, or for each of its `entries`."""
        self.values = shape
        planning = self.planning
        out = planning.out
        if planning.sample_weight is not None:
            planning.weighing = Weighing(planning, shape, self.real)
            self._weighs_values = planning.mode.value  # which the kernel writes elsewhere
        if not wanted:
            if out is not None:
                what = "use it with reduction='none'" if self.planning.mode.value else "no value is asked for"
                raise ValueError(f"out is for an unreduced value: {what}")
            return
        slot = None if planning.sample_weight is not None else self._shift
        argument = self._argument(0)
        dtype = argument.view.dtype
        if out is not None:
            self._check(out, shape, dtype)
            dtype = out.view.dtype
        make = self.maker(shape, dtype) if entries else self.backend.maker(shape, dtype)
        kernel = make, self._flat if entries else self.backend.flat, self.backend.prototype(dtype)
        if out is None:
            self._written.insert(0, _Written(slot, *kernel, self._wrapping(dtype, argument.operand)))
            return
        self._out = out
        if (self.ordered(out.view) if entries else out.view).flags.c_contiguous:
            self._written.insert(0, _Written(slot, *kernel, given_out, out))
        else:
            self._written.insert(0, _Written(slot, *kernel, self._copying(out, given_out)))

    def check_read(self, **operands: Operand | None) -> None:
        """Check what is read beside the arguments, by name, against the arrays of the user's that are written."""
        if not self._targets and self._out is None:
            return
        self._read = [argument.operand for argument in self.arguments if argument is not None]
        self._read += [operand for operand in operands.values() if operand is not None]
        for read, operand in operands.items():
            for name, target in self._user_arrays():
                # An element is read before the gradient is written in its place, but not before the value is.
                if operand is None or not self._lies_in(target, operand):
                    continue
                if name == "out" or not self.backend.same(target.view, operand.view):
                    raise ValueError(f"{name} overlaps {read}, which is read after a part of {name} is written")

    def detach(self, operands: list[Operand | None], own: tuple[int, ...] = ()) -> None:
        """Make gradients anew that would lie in one of the arguments, which are still read when they are written.

        The slots in `own` may lie in their own argument.
        """
        for place, written in enumerate(self._written):
            target, slot = written.target, (written.slot or 0) - 1  # of a loss, not a map
            if target is None or slot < 0:
                continue
            if any(
                operand is not None and not (slot == other and slot in own) and self._overlap(target, operand)
                for other, operand in enumerate(operands)
            ):
                number = self.slots.index(slot)
                self._written[place] = written._replace(
                    target=None, finish=self._copying(target, functools.partial(given_gradient, number))
                )

    def _plan_gradient(self, number: int, slot: int, shape: Shape | None) -> None:
        argument = self._argument(slot)
        view, dtype = argument.view, argument.view.dtype
        if self._targets:
            dtype = self._targets[number].view.dtype
        lies = view.shape if shape is None else shape
        kernel = self._made(lies, dtype)
        fold = chained(self._moving(lies, dtype), None if lies == view.shape else self._folding(argument))
        if not self._targets:
            wrap = self._wrapping(dtype, argument.operand)
            self._written.append(_Written(slot + 1 + self._shift, *kernel, chained(fold, wrap)))
            return
        target, given = self._targets[number], functools.partial(given_gradient, number)
        if self._last is None and target.view.shape == lies and self.ordered(target.view).flags.c_contiguous:
            self._written.append(_Written(slot + 1 + self._shift, *kernel, given, target))
        else:
            fold = chained(fold, self._copying(target, given))
            self._written.append(_Written(slot + 1 + self._shift, *kernel, fold))

    def _plan_hessian(self, shape: Shape | None) -> None:
        argument = self._argument(0)
        dtype = argument.view.dtype
        lies = argument.view.shape if shape is None else shape
        # Each element's own second derivatives add up, as its first ones do.
        fold = chained(self._moving(lies, dtype), None if lies == argument.view.shape else self._folding(argument))
        fold = chained(fold, self._wrapping(dtype, argument.operand))
        self._written.append(_Written(-1, *self._made(lies, dtype), fold))

    def _made(self, shape: Shape, dtype: Any) -> tuple[Callable[[], Any], Callable[[Any], Any], Any]:
        """Return what makes a derivative for the kernel, what makes it flat, and its prototype."""
        if self._last is not None:
            others = [n for k, n in enumerate(shape) if k not in self._last]
            shape = (*others, *[shape[axis] for axis in self._last])
        return self.maker(shape, dtype), self._flat, self.backend.prototype(dtype)

    def _moving(self, shape: Shape, dtype: Any) -> Finish | None:
        """Return what moves the axes that a kernel writes behind the others to their places."""
        if self._last is None:
            return None
        axes, backend, make = self._last, self.backend, self.backend.maker(shape, dtype)
        first = len(shape) - len(axes)

        def move(written: Any, arrays: tuple[Any, ...], request: Request) -> Any:
            result = make()
            for k, axis in enumerate(axes):
                written = backend.moved(written, first + k, axis)
            backend.copy_into(result, written)
            return result

        return move

    def _argument(self, slot: int) -> Argument:
        argument = self.arguments[slot]
        assert argument is not None
        return argument

    def _user_arrays(self) -> list[tuple[str, Operand]]:
        return [("grad_out", target) for target in self._targets] + ([] if self._out is None else [("out", self._out)])

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

    def _lies_in(self, target: Operand, operand: Operand | None) -> bool:
        """Return whether an array that is written shares memory with one that is read, and take note of it."""
        overlaps = operand is not None and self._overlap(target, operand)
        self.aliased = self.aliased or overlaps
        return overlaps

    # -- finishing ------------------------------------------------------------------------------------------------

    def _wrapping(self, dtype: Any, operand: Operand) -> Finish | None:
        wrap = self.library.wrapping(dtype, getattr(operand.given, "dtype", None))
        if wrap is None:
            return None

        def wrapped(written: Any, arrays: tuple[Any, ...], request: Request) -> Any:
            return wrap(written)

        self._wraps[wrapped] = wrap
        return wrapped

    def _folding(self, argument: Argument) -> Finish:
        """Return what adds up what was written for the repeated elements of an argument that was broadcast."""
        backend, lies, shape = self.backend, argument.lies or argument.view.shape, argument.view.shape
        return lambda written, arrays, request: backend.sum_to(written, lies).reshape(shape)

    def _copying(self, target: Operand, given: Finish) -> Finish:
        backend, place, read = self.backend, target.place, target.read

        def copy(written: Any, arrays: tuple[Any, ...], request: Request) -> Any:
            array = arrays[place]
            backend.copy_into(array if read is None else read(array), written)
            return given(written, arrays, request)

        return copy

    @property
    def writes_over(self) -> bool:
        """Whether results are arrays of the caller's."""
        return bool(self._targets) or self._out is not None

    @property
    def first_replaces(self) -> bool:
        """Whether the kernel's first derivative lies in an array that it reads."""
        if not self._targets and self._out is None:
            return False
        firsts = [written.target for written in self._written if written.slot == 1]
        return any(target is not None and self._overlap(target, read) for target in firsts for read in self._read)

    def prototypes(self, slots: int) -> tuple[Any, ...]:
        """Return arrays of the types of what a kernel writes to its `slots`, absent ones where it writes nothing."""
        found: list[Any] = [ABSENT] * slots
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

    def sources(self, count: int) -> tuple[list[Callable[[], Any]], list[int], list[int]] | None:
        """Return what makes new arrays, and places of what a kernel of five results writes, in its order, and of all.

        Places among the `count` arrays of a call and, behind them, the new ones. None where results are not what the
        kernel wrote, each another array: the caller's own or as it was made.
        """
        makes: list[Callable[[], Any]] = []
        places, slots = [], {}
        for written in self._written:
            target = written.target
            if written.slot in slots or (
                written.finish not in self._wraps if target is None else target.read is not None
            ):
                return None
            places.append(count + len(makes) if target is None else target.place)
            if target is None:
                makes.append(written.make)
            slots[written.slot] = places[-1]
        order = sorted([(slot % 5, place) for slot, place in slots.items() if slot is not None])
        return makes, [place for _, place in order], places

    def plan(self, slots: int) -> Results:
        """Return the plan, for a kernel that writes to `slots`."""
        written = self._written
        places = [-1] * slots  # behind the arrays that are made stands ``()``, and before it values that are weighed
        if self._weighs_values:
            places[0] = -2
        copies = []  # an argument that is named twice has two gradients, of which a kernel writes the first
        for place, each in enumerate(written):
            if each.slot is not None and places[each.slot] >= 0:
                copies.append((place, places[each.slot]))
            elif each.slot is not None:
                places[each.slot] = place
        makes, flats, finishes = [], [], []
        given = ends = False
        for each in written:
            makes.append(each.make)
            flats.append(each.flat)
            finishes.append(each.finish)
            given = given or each.target is not None
            ends = ends or each.finish is not None
        make = self._maker() if given else None
        plain = self._flat is self.backend.flat
        slots_written = [each.slot if plain or each.slot == 0 else None for each in written]
        finish = finisher(finishes) if ends else None
        if copies:
            finish, slots_written = copier(self.backend, copies, finisher(finishes)), [None] * len(written)
        as_made = all(one in self._wraps for one in finishes)  # as arrays of the user's library
        wraps = tuple([self._wraps[one] for one in finishes]) if as_made else None
        return Results(make, tuple(makes), finish, tuple(flats), itemgetter(*places), slots_written, wraps)

    def _maker(self) -> Callable[[tuple[Any, ...]], list[Any]]:
        """Return what makes the arrays of which some are the caller's."""
        if len(self._written) == 1 and self._written[0].target is not None and self._written[0].target.read is None:
            place = self._written[0].target.place
            return lambda arrays: [arrays[place]]
        sources = [
            functools.partial(fresh, each.make)
            if each.target is None
            else functools.partial(taken, each.target.place, each.target.read)
            for each in self._written
        ]
        return lambda arrays: [source(arrays) for source in sources]


def _slot(planning: Planning, arguments: tuple[Argument | None, ...], name: str) -> int:
    """Return the number of the argument that a gradient is asked for."""
    for slot, argument in enumerate(arguments):
        if argument is not None and argument.operand.name == name:
            check_float(argument.view, name)
            return slot
    raise ValueError(
        f"no gradient of {planning.record.name} with respect to {name!r}: it is not given, or the target holds class "
        "indices"
    )
