"""What the loss classes have in common: options bound to a loss, and the calls of it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, ClassVar, dataclass_transform

from fastloss.api.partial_sums import PartialLoss
from fastloss.api.transforms import Transform, mode_of, names_of
from fastloss.call.autograd import warn_outside_autograd
from fastloss.call.call import Call
from fastloss.call.request import VALUE
from fastloss.define.descriptions import Array
from fastloss.define.record import Loss
from fastloss.define.registry import check_options, record_of, refuse_options
from fastloss.runtime import graph_break
from fastloss.runtime.graph_break import LOADED

# Options that a repr shows only where they are not what they are by default.
_SELDOM = {"axis": None, "logit_scale": 1.0, "softcap": None, "z_loss": 0.0, "valid_classes": None, "returns": ()}


@dataclass_transform(frozen_default=True, eq_default=False)
class LossModule:
    """Options of a loss, bound. A subclass names its function and lists its options as fields.

    An instance is called with the arrays and returns the value; `grad`, `value_and_grad` and `grad_and_hess` do what
    the functions of those names return, with the options bound. Instances are immutable, compare by value, and pickle.
    """

    _record: ClassVar[Loss]
    _options: dict[str, Any]

    def __init_subclass__(cls, function: Callable[..., Any] | None = None) -> None:
        if function is not None and "axis" in record_of(function).common:
            cls.__annotations__["axis"] = "int | None"
            cls.axis = dataclasses.field(default=None, kw_only=True)  # type: ignore[attr-defined]
        dataclasses.dataclass(frozen=True, eq=False, repr=False)(cls)
        if function is None:
            return
        cls._record = record_of(function)
        cls._record.modules.append(cls)
        head = inspect.cleandoc(function.__doc__ or "").partition("\nParameters\n")[0].strip()
        cls.__doc__ = (
            f"{head}\n\nThe options of :func:`fastloss.{cls._record.name}`, bound; see there for the "
            "arrays\nan instance is called with, the shapes, errors and notes.\n"
        )

    def __post_init__(self, **legacy: Any) -> None:
        names = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        options = {name: getattr(self, name) for name in names}
        given = {name: value for name, value in legacy.items() if value is not None}
        check_options(self._record, checked := {**options, **given})
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "_options", checked)

    def __call__(self, *arrays: Array, **named: Array) -> Any:
        """Return the value of the loss."""
        if "torch._dynamo" in LOADED and LOADED["torch"].compiler.is_dynamo_compiling():
            return graph_break.untraced(self, *arrays, **named)
        if named:
            refuse_options(self, named, self._options)
        call = self.__dict__.get("_call")
        if call is None:
            call = self.__dict__.setdefault("_call", Call(self._record, VALUE, self._options))
        result = call.last(arrays, named, VALUE)
        if result is not None:
            return result
        warn_outside_autograd(self._record.name, (arrays, named.values(), call.bound))
        return call.find(arrays, named, VALUE)

    def bound(self, kind: str, wrt: Any = None) -> Callable[..., Any]:
        """Return a transform of the loss with the options bound; cached."""
        wrt = wrt if wrt is None else names_of(wrt)
        cache = self.__dict__.setdefault("_bound", {})
        if (kind, wrt) not in cache:
            if graph_break.is_traced():
                return graph_break.untraced(self.bound, kind, wrt)  # type: ignore[no-any-return]
            mode = mode_of(self._record, kind, wrt)
            cache[kind, wrt] = Transform(self._record, mode, self._options, (self, kind, wrt))
        return cache[kind, wrt]  # type: ignore[no-any-return]

    def grad(self, *arrays: Array, wrt: Any = None, **named: Any) -> Any:
        """Return the gradient; see :func:`fastloss.grad`."""
        return self.bound("grad", wrt)(*arrays, **named)

    def value_and_grad(self, *arrays: Array, wrt: Any = None, **named: Any) -> Any:
        """Return value and gradient; see :func:`fastloss.value_and_grad`."""
        return self.bound("value_and_grad", wrt)(*arrays, **named)

    def grad_and_hess(self, *arrays: Array, **named: Any) -> Any:
        """Return the gradient and the diagonal of the Hessian; see :func:`fastloss.grad_and_hess`."""
        return self.bound("grad_and_hess")(*arrays, **named)

    @property
    def partial_sum(self) -> PartialLoss:
        """The loss as a :class:`fastloss.PartialSum` of a part of the data; see :func:`fastloss.partial_sum`."""
        return self.__dict__.setdefault("_partial", PartialLoss(self._record, self._options, self))  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        shown = {name: value for name, value in self._options.items() if name not in _SELDOM or value != _SELDOM[name]}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in shown.items())})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        theirs = other._options
        return all(equal(value, theirs[name]) for name, value in self._options.items())

    def __hash__(self) -> int:
        return hash((type(self), *(value for value in self._options.values() if isinstance(value, _HASHED))))

    def __reduce__(self) -> Any:
        return _made, (type(self), self._options)


def _made(cls: type[LossModule], options: dict[str, Any]) -> LossModule:
    """Build an instance from what it is pickled as; plain arguments, because copy.deepcopy copies no function."""
    return cls(**options)


def equal(a: Any, b: Any) -> bool:
    """Return whether two options are equal, arrays by value."""
    if not hasattr(a, "shape") and not hasattr(b, "shape"):
        return bool(a == b)
    if a is b:
        return True
    if type(a) is not type(b) or any(getattr(a, k, None) != getattr(b, k, None) for k in ("shape", "dtype", "device")):
        return False
    return bool((a == b).all())


# Options that enter a hash; arrays, and lists in their place, do not.
_HASHED = (str, int, float, tuple, type(None))


class LegacyModule(LossModule):
    """A class that accepts torch's deprecated pair, which becomes a reduction."""

    size_average: dataclasses.InitVar[bool | None] = dataclasses.field(default=None, kw_only=True)
    reduce: dataclasses.InitVar[bool | None] = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self, size_average: bool | None, reduce: bool | None) -> None:
        super().__post_init__(size_average=size_average, reduce=reduce)
