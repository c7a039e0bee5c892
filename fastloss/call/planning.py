"""A call that is being planned: its arguments as operands, its request, and the library that its arrays belong to.

What a plan keeps follows from types, shapes, layouts and options alone. It may not keep an array of the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import nan
from operator import itemgetter, methodcaller
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np

from fastloss.call.checks import Shape, check_float, check_shape
from fastloss.call.dispatch import host_array, library_of, lowering
from fastloss.call.request import Mode, Request, is_number
from fastloss.cpu.arrays import NUMPY, TENSOR_BF16, kernel_view
from fastloss.define.record import Loss
from fastloss.runtime.dtypes import BF16_BITS, FLOATS, I64
from fastloss.runtime.half import widened

ABSENT: Any = ()

# The dtypes of a divisor that a kernel on a device reads.
IN_KERNEL = FLOATS | {np.dtype(np.int32), I64}

# What computes the results of a call of its arrays and its request.
Compute = Callable[[tuple[Any, ...], Request], Any]

# What reads something of a call's arrays.
Read = Callable[[tuple[Any, ...]], Any]

# What brings the view of an operand to the shape that a loop wants, None where it has that.
Spread = Callable[[Any], Any] | None

# A factor of the derivatives, or what gives that of a call.
Scale = float | Callable[[tuple[Any, ...], Request], float]


class Operand:
    """An array that a call was given, as descriptions and planners see it.

    `place` is its place among the arrays of the call, `view` what kernels see of it, and `read` what makes that of the
    array, ``None`` where it is that.
    """

    __slots__ = ("given", "name", "place", "read", "view")

    def __init__(self, name: str, given: Any, place: int) -> None:
        self.name, self.given, self.place = name, given, place
        self.view: Any = None
        self.read: Callable[..., Any] | None = None

    @property
    def shape(self) -> Shape:
        """The shape of the array."""
        return tuple(self.given.shape) if hasattr(self.given, "shape") else self._seen().shape

    @property
    def ndim(self) -> int:
        """The number of its axes."""
        return len(self.shape)

    @property
    def dtype(self) -> Any:
        """Its dtype, one of its own library."""
        return self.given.dtype if hasattr(self.given, "dtype") else self._seen().dtype

    def _seen(self) -> Any:
        return library_of((self.given,), (self.name,)).view(self.given, self.name)

    def _refuse(self, *_: Any) -> NoReturn:
        raise TypeError(
            f"a loss must return a description (fastloss.custom) of what is to be computed: it sees the shape and "
            f"dtype of {self.name}, not its numbers"
        )

    def __getattr__(self, name: str) -> NoReturn:
        if name in self.__slots__:  # not yet set, in a copy that is being made
            raise AttributeError(name)
        raise AttributeError(f"a loss sees shape, ndim and dtype of {self.name}, not its numbers: there is no {name!r}")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __pow__ = __rpow__ = __matmul__ = __rmatmul__ = __neg__ = __abs__ = __getitem__ = __iter__ = _refuse
    __lt__ = __le__ = __gt__ = __ge__ = __float__ = __int__ = __bool__ = __len__ = __array__ = _refuse


class Planning:
    """What planners are given of a call, and what they find out."""

    # Options that losses have in common, and what the families say of their mean for them.
    averages = True
    common: Mapping[str, Any] = MappingProxyType({})  # as they were given
    sample_weight: Operand | None = None
    weighs = False  # whether a kernel multiplies by the weights of samples itself
    divisor: Operand | None = None
    weighing: Any = None
    denominator: Any = 1  # of the mean: a number, or what reads it
    counts: Read | None = None  # what each value counts for in the mean, beside its weight
    counted: Read | None = None  # the same, but 1 or 0
    how_many: Read | None = None  # how many values have a weight that is not 0
    library: Any = None
    grad_output: Operand | None = None
    out: Operand | None = None

    def __init__(self, record: Loss, request: Request, arrays: list[Any], kept: bool) -> None:
        self.record, self.request = record, request
        self.mode: Mode = request.mode
        self.arrays = arrays  # of this call; a planner may look at them where the plan is not kept
        self.kept = kept
        self.targets: list[Operand] = []

    def over(self, denominator: Any, in_kernel: bool = False) -> Any:
        """Return what the sum is divided by, a number or what reads it: in a mean the caller's divisor if there is one.

        `denominator` is the loss's own; `in_kernel` says that a single kernel divides.
        """
        if self.mode.partial:
            self.denominator = denominator
            return 1
        return denominator if self.divisor is None else self.reads_divisor(in_kernel)

    def reads_divisor(self, in_kernel: bool = False) -> Read | None:
        """Return what reads the divisor that was given; None without one.

        A divisor of 0 is read as the smallest number, over which nothing is still 0. One that lies on a device stays
        there if the kernel can read it: the host would wait for it.
        """
        if self.divisor is None:
            return None
        place, given, backend = self.divisor.place, self.divisor.given, self.library.backend
        array = self.arrays[place]
        wanted = "a number or an array of one"
        if array is None:
            self.arrays[place] = array = host_array(given, "divisor", wanted)
        number: Callable[[Any], float] = float if isinstance(array, np.ndarray) else backend.number
        if number is float and array.dtype.kind == "O":
            raise ValueError("divisor must be a number that float64 can hold")
        if number is float and array.dtype.kind not in "biufV":  # bfloat16 is V
            raise TypeError(f"divisor must be {wanted}, got dtype {array.dtype}")
        if array.size != 1:
            raise ValueError(f"divisor must be {wanted}, got shape {array.shape}")
        if number is float and array.dtype == TENSOR_BF16:  # of which NumPy knows no number
            number = _number_of_bfloat16
        if in_kernel and not isinstance(array, np.ndarray) and array.dtype in IN_KERNEL:
            return itemgetter(place)

        def read(arrays: tuple[Any, ...]) -> float:
            divisor = number(arrays[place].reshape(()))
            if not divisor >= 0:
                raise ValueError(f"divisor must be a number >= 0, got {divisor}")
            return divisor or 5e-324

        return read

    def given_common(self) -> dict[str, Any]:
        """Return the options in common as they were given, for the parts of a loss of losses."""
        return {name: operand.given for name, operand in self.common.items() if name != "axis"}

    @property
    def empty_mean(self) -> float:
        """The reduced value of a loss without values."""
        return nan if self.averages and self.divisor is None and not self.mode.partial else 0.0

    def enter(self, operands: tuple[Operand | None, ...], names: tuple[str, ...]) -> list[Any]:
        """Settle the library, set names and views of operands, and return the views, ``()`` for those not given."""
        for operand in operands:
            if operand is not None and type(operand.given) is not np.ndarray:
                given = tuple([None if operand is None else operand.given for operand in operands])
                self.library = library_of(given, names)
                break
        else:
            self.library = NUMPY
        return [
            ABSENT if operand is None else self.see(operand, name)
            for operand, name in zip(operands, names, strict=True)
        ]

    def see(self, operand: Operand, name: str) -> Any:
        """Set the name and the view of an operand, and return the view."""
        operand.name = name
        if operand.view is None:
            low = self.arrays[operand.place]
            reader = getattr(self.library, "reader", None)
            if reader is not None and lowering(operand.given) != reader:
                self.kept, low = False, None  # of another library or stream, which every call waits for
            if low is None:
                low = self.arrays[operand.place] = self.library.lower(operand.given, name)
            operand.read = self.library.reading(low)
            operand.view = low if operand.read is None else kernel_view(low, name)
        return operand.view

    def operand(self, name: str, array: Any) -> Operand:
        """Return an operand for an array that is a part of an argument; the plan cannot be kept then."""
        self.kept = False
        self.arrays.append(None)
        return Operand(name, array, len(self.arrays) - 1)

    def reader(self, operand: Operand | None, *steps: Callable[[Any], Any] | None) -> Read:
        """Return what gives the view of an operand, taken through `steps`, of the arrays of a call; ``()`` of None."""
        if operand is None:
            return lambda arrays: ABSENT
        place, read = operand.place, chained(operand.read, *steps) if operand.read or any(steps) else unchanged
        return lambda arrays: read(arrays[place])

    def gradients(self, count: int) -> list[Operand]:
        """Return the caller's arrays for `count` gradients, none where they are not given."""
        given = self.request.grad_out
        if given is None:
            return []
        if not self.mode.single:
            several(given, count)
        elif isinstance(given, tuple | list):
            raise TypeError(f"grad_out must be an array, as one gradient is asked for, got a {type(given).__name__}")
        return self.targets

    def take_grad_output(self, reduced: bool, shape: Shape) -> tuple[Scale, Operand | None]:
        """Return the upstream gradient as a factor, or what gives it of each call, and as an operand of `shape`."""
        if self.request.grad_output is self.weighing is None:
            return 1.0, None
        found = self._given_grad_output(reduced, shape)
        return found if self.weighing is None else (1.0, self.weighing.take_grad_output(*found))

    def _given_grad_output(self, reduced: bool, shape: Shape) -> tuple[Scale, Operand | None]:
        given = self.request.grad_output
        if given is None:
            return 1.0, None
        if is_number(given):
            scale_of(given)
            return _number_given, None
        operand = self.grad_output
        assert operand is not None
        view = self.see(operand, "grad_output")
        if reduced:
            if view.size != 1:
                raise ValueError(f"grad_output must be a scalar for a reduced loss, got shape {view.shape}")
            number, place = self.library.backend.number, operand.place
            read = chained(operand.read, methodcaller("reshape", ()))
            return lambda arrays, request: number(read(arrays[place])), None
        check_float(view, "grad_output")
        check_shape(view, shape, "grad_output", "the output's shape")
        return 1.0, operand


def _number_given(arrays: tuple[Any, ...], request: Request) -> float:
    return scale_of(request.grad_output)


def unchanged(array: Any) -> Any:
    """Return an array as it is."""
    return array


def scale_of(grad_output: Any) -> float:
    """Return an upstream gradient that is a number."""
    try:
        return float(grad_output)
    except OverflowError:
        raise ValueError("grad_output must be a number that float64 can hold") from None


def several(given: Any, count: int, single: bool = False) -> tuple[Any, ...]:
    """Return a part of ``grad_out`` that must be `count` arrays, or where it is of a `single` gradient that one."""
    if single:
        return (given,)
    if not isinstance(given, tuple | list):
        raise TypeError(f"grad_out must be a tuple of arrays, got {type(given).__name__}")
    if len(given) != count:
        raise ValueError(f"grad_out must hold {count} arrays, got {len(given)}")
    return tuple(given)


def picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Any]:
    """Return what gives the entries at `places` of a sequence, as a sequence."""
    if len(places) > 1:
        return itemgetter(*places)
    place = places[0] if places else 0
    return itemgetter(slice(place, place + len(places)))


def chained(*functions: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """Return functions one after the other as one."""
    present = [function for function in functions if function is not None]
    if len(present) == 1:
        return present[0]

    def chain(array: Any) -> Any:
        for function in present:
            array = function(array)
        return array

    return chain


def _number_of_bfloat16(array: Any) -> float:
    return float(widened(array.view(BF16_BITS)))
