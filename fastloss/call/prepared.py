"""A kind of call: how it is known, and what is kept of it (see ``_quick.py``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastloss.runtime.dtypes import F32, F64
from fastloss.call.outputs import ABSENT, Mode, Request, several
from fastloss.call.straight import OWN, PLAIN, Outline, Plan, runner, straight
from fastloss.runtime.memory_pool import RECYCLED_FROM, empty

_ndarray, may_share_memory = np.ndarray, np.may_share_memory  # a look-up less for every argument

# What may be an option of a kind of call. Hashes of others say nothing of what they hold.
_OPTIONS = frozenset((int, float, bool, str, type(None)))


def signature(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...] | None:
    """Return dtypes and shapes of the arrays and the options, which decide how to compute; None if one is not plain."""
    parts: tuple[Any, ...] = ()
    for a in args:
        kind = type(a)
        if kind is _ndarray:
            if a.flags.num & PLAIN != PLAIN:
                return None
            parts += a.dtype, a.shape
        elif kind in _OPTIONS:
            parts += kind, a if a or kind is not float else str(a)  # 0.0 equals -0.0
        else:
            return None
    if kwargs:
        rest = signature(tuple(kwargs.values()), {})
        if rest is None:
            return None
        parts += *kwargs, *rest
    return parts


def are_options(values: Iterable[Any]) -> bool:
    """Return whether all are plain options, which cannot change and say all that they hold by their value."""
    return all(type(value) in _OPTIONS for value in values)


def are_plain(arrays: tuple[Any, ...], dtype: Any, shape: tuple[int, ...]) -> bool:
    """Return whether all are plain NumPy arrays of this dtype and shape."""
    for a in arrays:
        if type(a) is not np.ndarray or a.dtype != dtype or a.shape != shape or a.flags.num & PLAIN != PLAIN:
            return False
    return True


def real_dtype(x: Any) -> Any:
    """Return the dtype of an array of floats as the one object that results are compared with."""
    return F32 if x.dtype == F32 else F64


class Prepared:
    """A kind of call, decided: how it is computed from its arrays, and which results it has.

    `plan` and `is_defined` are those of an :class:`Outline`. The call is to differentiate the operands number `slots`
    of `arrays`; unreduced values have the shape `each`, None if the loss is reduced.
    """

    __slots__ = ("_straight", "dtype", "each", "first", "make", "outline", "run", "shapes")

    def __init__(
        self, plan: Plan | Callable[..., Any], mode: Mode, arrays: Sequence[Any], slots: tuple[int, ...],
        each: tuple[int, ...] | None, is_defined: Callable[..., bool] | None = None,
    ) -> None:  # fmt: skip
        self.dtype = dtype = real_dtype(arrays[0])
        self.shapes = tuple([(slot, arrays[slot].shape) for slot in slots])
        self.first = slots[0] if slots and mode.single else None
        self.each = each if mode.value else None
        largest = max([arrays[slot].nbytes for slot in slots], default=0)
        self.make = np.empty if largest < RECYCLED_FROM else empty
        self.outline = Outline(
            plan, tuple([a.shape for a in arrays]), self.shapes, self.each, mode.value, self.first is not None,
            # A number times this is one of NumPy's, rounded once; in half the time of a call of the type.
            dtype.type(1), self.make, is_defined,
        )  # fmt: skip
        self.run = runner(self.outline)
        self._straight: dict[tuple[bool, bool], Callable[..., Any]] = {}

    def compute(self, arrays: Sequence[Any], request: Request) -> Any:
        """Compute a call of this kind; None where the long way is needed."""
        shapes, each, dtype, outline = self.shapes, self.each, self.dtype, self.outline
        values: Any = ABSENT
        grads: list[Any] = [ABSENT, ABSENT, ABSENT]  # no kernel has more operands
        if request.grad_out is not None or request.out is not None:
            if outline.is_defined is not None and not outline.is_defined(arrays):
                return None
            outputs = self._given(arrays, request)
            if outputs is None:
                return None
            values, grads = outputs
        else:
            if each is not None:
                values = empty(each, dtype)
            for slot, shape in shapes:
                grads[slot] = self.make(shape, dtype)
        total = self.run(arrays, values, grads)
        if total is None:
            return None
        result: Any = None
        if shapes:
            result = tuple([grads[slot] for slot, _ in shapes]) if self.first is None else grads[self.first]
            if not outline.valued:
                return result
        if each is None:
            values = total * outline.one
        return (values, result) if shapes else values

    def straight(
        self, picks: Iterable[int], args: tuple[Any, ...], kwargs: dict[str, Any], given: tuple[bool, bool]
    ) -> Callable[..., Any] | None:
        """Return straight code for calls like this one, which has been made; None if its machine code is not known.

        `picks` are the places of the arrays among the arguments. `given`: the caller gives gradients, and values.
        """
        code, plan = self._straight.get(given), self.outline.plan
        if code is None and not (isinstance(plan, Plan) and plan.entry is None):
            self.run = runner(self.outline)  # which knows the machine code now, too
            code = self._straight[given] = straight(self.outline, picks, args, kwargs, given)
        return code

    def _given(self, arrays: Sequence[Any], request: Request) -> tuple[Any, list[Any]] | None:
        """Return the caller's arrays for values and gradients, fresh ones where there are none of the caller's.

        None if those are not plain, or share memory.
        """
        dtype, each, shapes, out, given = self.dtype, self.each, self.shapes, request.out, request.grad_out
        values, grads = ABSENT, [ABSENT, ABSENT, ABSENT]
        own = OWN & ~PLAIN
        for a in arrays:
            own &= a.flags.num
        if out is not None:
            flags = 0 if each is None else _flags_of_target(out, dtype, each, arrays, own)
            if not flags:
                return None
            values, arrays, own = out, (*arrays, out), own & flags
        elif each is not None:
            values = empty(each, dtype)
        if given is None:
            for slot, shape in shapes:
                grads[slot] = self.make(shape, dtype)
        elif self.first is not None:
            if not _flags_of_target(given, dtype, shapes[0][1], arrays, own):
                return None
            grads[self.first] = given
        else:
            for (slot, shape), target in zip(shapes, several(given, len(shapes)), strict=True):
                flags = _flags_of_target(target, dtype, shape, arrays, own)
                if not flags:
                    return None
                grads[slot], arrays, own = target, (*arrays, target), own & flags
        return values, grads


def _flags_of_target(target: Any, dtype: Any, shape: tuple[int, ...], others: Sequence[Any], own: int) -> int:
    """Return the flags of a plain array that may be written and shares no memory with others; 0 if it is none.

    `own` is the flag that says that each of the others has memory of its own, or 0.
    """
    if type(target) is not _ndarray or target.dtype is not dtype or target.shape != shape:
        return 0
    flags: int = target.flags.num
    if flags & PLAIN != PLAIN:
        return 0
    own &= flags
    for other in others:
        # may_share_memory takes 0.6 microseconds, of nine for a small loss.
        if other is target or (not own and may_share_memory(target, other)):
            return 0
    return flags
