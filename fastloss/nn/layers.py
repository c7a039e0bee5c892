"""What the loss classes that hold parameters share: the parameters, their state, and the transforms."""

from __future__ import annotations

import abc
import math
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastloss.api.transforms import Transform, Wrt, function_transform, mode_of, names_of
from fastloss.call.array_ops import convert_into
from fastloss.call.autograd import bump_versions
from fastloss.call.dispatch import library_of
from fastloss.cpu.arrays import NUMPY
from fastloss.define.descriptions import Array
from fastloss.define.registry import record_of, refuse_options
from fastloss.nn.loss_module import equal
from fastloss.runtime import graph_break
from fastloss.runtime.dtypes import FLOATS


def _is_torch(thing: Any) -> bool:
    return type(thing).__module__.partition(".")[0] == "torch"


class Linear:
    """The parameters of a linear map: `weight` of shape (out_features, in_features), and `bias` or None.

    They are NumPy arrays, float32 by default; torch tensors where `dtype` is a torch dtype or `device` is anything but
    ``"cpu"``. Any other array may be put in their place.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool, device: Any, dtype: Any) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.weight: Array = _empty((out_features, in_features), device, dtype)
        self.bias: Array | None = _empty((out_features,), device, dtype) if bias else None

    def reset_parameters(self, generator: np.random.Generator) -> None:
        """Draw the parameters anew, uniform within one over the square root of `in_features`, as torch does."""
        bound = 1 / math.sqrt(self.in_features) if self.in_features else 0.0
        for array in (self.weight, self.bias):
            if array is not None:
                _write(array, generator.uniform(-bound, bound, tuple(array.shape)))


def _empty(shape: tuple[int, ...], device: Any, dtype: Any) -> Any:
    if _is_torch(dtype) or _is_torch(device) or device not in (None, "cpu"):
        torch = sys.modules.get("torch")
        if torch is None:
            raise TypeError(f"device {device!r} is torch's, which is not imported")
        array = torch.empty(shape, device=device, dtype=dtype)
        known = array.is_floating_point()
    else:
        array = np.empty(shape, np.float32 if dtype is None else dtype)
        known = NUMPY.view(array, "dtype").dtype in FLOATS
    if not known:
        raise TypeError(f"dtype must be floating point, got {array.dtype}")
    return array


def _write(array: Any, numbers: Any) -> None:
    """Write NumPy numbers to an array of any library."""
    if _is_torch(array):
        array.detach().copy_(sys.modules["torch"].from_numpy(numbers))
    else:
        array[...] = numbers


class Layer(abc.ABC):
    """What the loss classes with parameters share. A subclass lists its parameters, and calls its function."""

    _function: Callable[..., Any]
    __hash__ = None  # type: ignore[assignment]  # parameters change

    @abc.abstractmethod
    def _places(self) -> Iterator[tuple[str, Any, str]]:
        """Yield (name in the state, object, attribute) of every parameter."""

    @abc.abstractmethod
    def _options(self) -> dict[str, Any]:
        """Return the arguments of the constructor that say what the parameters are for."""

    @abc.abstractmethod
    def _maps(self) -> Iterator[Linear]:
        """Yield the linear maps."""

    def reset_parameters(self, generator: np.random.Generator | None = None) -> None:
        """Draw all parameters anew, from NumPy's generator."""
        generator = np.random.default_rng() if generator is None else generator
        for linear in self._maps():
            linear.reset_parameters(generator)

    def state_dict(self) -> dict[str, Array]:
        """Return the parameters by torch's names; the arrays themselves, no copies."""
        return {name: getattr(owner, key) for name, owner, key in self._places() if getattr(owner, key) is not None}

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Copy parameters from arrays or tensors of any floating-point dtype, such as a torch module's state.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape is another one.
        TypeError
            If an array lies on another device than the parameter.
        """
        own = self.state_dict()
        if set(own) != set(state_dict):
            raise ValueError(f"state_dict must hold {sorted(own)}, got {sorted(state_dict)}")
        moves = []
        for name, array in own.items():
            given = state_dict[name]
            library = library_of((array, given), ("parameter", name))  # refuses another device
            target = library.output(array.detach() if _is_torch(array) else array, name)
            source = library_of((given,), (name,)).view(given, name)
            if target.shape != source.shape:
                raise ValueError(f"{name} must have shape {target.shape}, got shape {source.shape}")
            if source.dtype not in FLOATS:
                raise TypeError(f"{name} must be floating point, got dtype {source.dtype}")
            moves.append((library.backend, target, source))
        for backend, target, source in moves:
            convert_into(backend, target, source)
        bump_versions(filter(_is_torch, own.values()))

    def bound(self, kind: str, wrt: Any = None) -> Callable[..., Any]:
        """Return a transform of the loss with the parameters bound; the same one as long as somebody holds it."""
        wrt = names_of(wrt)
        cache = self.__dict__.get("_bound")
        if cache is None:
            # No strong references: with its transforms the parameters would be a cycle, which is not freed at once.
            cache = self.__dict__.setdefault("_bound", weakref.WeakValueDictionary())
        made = cache.get((kind, wrt))
        if made is None:
            made = cache[kind, wrt] = LayerTransform(self, kind, wrt)
        return made  # type: ignore[no-any-return]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_bound"}  # those are of this instance

    def _transformed(self, kind: str, wrt: Any, input: Array, target: Array, extra: dict[str, Any]) -> Any:
        if graph_break.is_traced():
            return graph_break.untraced(self._transformed, kind, wrt, input, target, extra)
        arguments = self._arguments(input, target)
        if extra:
            refuse_options(self, extra, arguments)
        return function_transform(type(self)._function, kind, wrt)(**arguments, **extra)

    @abc.abstractmethod
    def _arguments(self, input: Array, target: Array) -> dict[str, Any]:
        """Return the arguments of the function for a call with these."""

    def __call__(self, input: Array, target: Array, **extra: Any) -> Any:
        """Return the loss; `sample_weight` and `divisor` as for the function."""
        arguments = self._arguments(input, target)
        if extra:
            refuse_options(self, extra, arguments)
        return type(self)._function(**arguments, **extra)

    def grad(self, input: Array, target: Array, *, wrt: Any = None, **extra: Any) -> Any:
        """Return the gradient; see :func:`fastloss.grad`."""
        return self._transformed("grad", names_of(wrt), input, target, extra)

    def value_and_grad(self, input: Array, target: Array, *, wrt: Any = None, **extra: Any) -> Any:
        """Return value and gradient; see :func:`fastloss.value_and_grad`."""
        return self._transformed("value_and_grad", names_of(wrt), input, target, extra)

    def grad_and_hess(self, input: Array, target: Array, **extra: Any) -> Any:
        """Raise: these losses have no second derivative; for the interface of the other classes."""
        return self._transformed("grad_and_hess", None, input, target, extra)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._options().items())})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = ({**one._options(), **one.state_dict()} for one in (self, other))
        return mine.keys() == theirs.keys() and all(equal(value, theirs[name]) for name, value in mine.items())


class LayerTransform(Transform):
    """A transform of a loss with parameters, which are those of the instance at the time of a call."""

    def __init__(self, layer: Layer, kind: str, wrt: Wrt) -> None:
        record = record_of(layer._function)
        super().__init__(record, mode_of(record, kind, wrt), {}, (layer, kind, wrt))
        self._bound = frozenset(layer._arguments(None, None)) - {"input", "target"}

    def __call__(self, input: Array, target: Array, **extra: Any) -> Any:  # type: ignore[override]
        """Return what the transform is of."""
        layer, kind, wrt = self._origin
        return layer._transformed(kind, wrt, input, target, extra)
