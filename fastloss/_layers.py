"""The loss classes that hold parameters: torch.nn's names, constructor arguments, attributes and state."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fastloss._blocks import convert_into
from fastloss._clustered import AdaptiveOutput, checked_cutoffs
from fastloss._dispatch import FLOATS, NUMPY, space_of
from fastloss._log_prob import log_probabilities, predictions
from fastloss._modules import equal
from fastloss._registry import check_options, record_of
from fastloss._spec import POSITIVE, Array, Clustered
from fastloss._transforms import function_transform, mode_of
from fastloss.losses.large_output import adaptive_log_softmax_with_loss, linear_cross_entropy
from fastloss.losses.softmax import LOG_SOFTMAX


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
        return torch.empty(shape, device=device, dtype=dtype)
    array = np.empty(shape, np.float32 if dtype is None else dtype)
    if NUMPY.view(array, "dtype").dtype not in FLOATS:
        raise TypeError(f"dtype must be floating point, got {array.dtype}")
    return array


def _write(array: Any, numbers: Any) -> None:
    """Write NumPy numbers to an array of any library."""
    if _is_torch(array):
        array.copy_(sys.modules["torch"].from_numpy(numbers))
    else:
        array[...] = numbers


class Layer:
    """What the loss classes with parameters share. A subclass lists its parameters, and calls its function."""

    _function: Callable[..., Any]
    __hash__ = None  # type: ignore[assignment]  # parameters change

    def _places(self) -> Iterator[tuple[str, Any, str]]:
        """Yield (name in the state, object, attribute) of every parameter."""
        raise NotImplementedError

    def _options(self) -> dict[str, Any]:
        """Return the arguments of the constructor that say what the parameters are for."""
        raise NotImplementedError

    def _maps(self) -> Iterator[Linear]:
        raise NotImplementedError

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
            space = space_of((array, given), ("parameter", name))  # refuses another device
            target, source = space.output(array, name), space_of((given,), (name,)).view(given, name)
            if target.shape != source.shape:
                raise ValueError(f"{name} must have shape {target.shape}, got shape {source.shape}")
            if source.dtype not in FLOATS:
                raise TypeError(f"{name} must be floating point, got dtype {source.dtype}")
            moves.append((space.backend, target, source))
        for backend, target, source in moves:
            convert_into(backend, target, source)

    def bound(self, kind: str, wrt: Any = None) -> Callable[..., Any]:
        """Return a transform of the loss with the parameters bound."""
        mode_of(record_of(self._function), kind, wrt)
        return lambda input, target, **extra: self._transformed(kind, wrt, input, target, extra)

    def _transformed(self, kind: str, wrt: Any, input: Array, target: Array, extra: dict[str, Any]) -> Any:
        arguments = self._arguments(input, target)
        return function_transform(type(self)._function, kind, wrt)(**arguments, **extra)

    def _arguments(self, input: Array, target: Array) -> dict[str, Any]:
        raise NotImplementedError

    def __call__(self, input: Array, target: Array) -> Any:
        """Return the loss."""
        return type(self)._function(**self._arguments(input, target))

    def grad(self, input: Array, target: Array, *, wrt: Any = None, **extra: Any) -> Any:
        """Return the gradient; see :func:`fastloss.grad`."""
        return self.bound("grad", wrt)(input, target, **extra)

    def value_and_grad(self, input: Array, target: Array, *, wrt: Any = None, **extra: Any) -> Any:
        """Return value and gradient; see :func:`fastloss.value_and_grad`."""
        return self.bound("value_and_grad", wrt)(input, target, **extra)

    def grad_and_hess(self, input: Array, target: Array, **extra: Any) -> Any:
        """Raise: these losses have no second derivative; for the interface of the other classes."""
        return self.bound("grad_and_hess")(input, target, **extra)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self._options().items())})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = ({**one._options(), **one.state_dict()} for one in (self, other))
        return mine.keys() == theirs.keys() and all(equal(value, theirs[name]) for name, value in mine.items())


class LinearCrossEntropyLoss(Layer):
    """Cross-entropy of a linear map of the input, whose logits are never stored whole.

    See :func:`fastloss.linear_cross_entropy` for the formula, the arrays, errors and notes.

    Parameters
    ----------
    in_features, num_classes : int
        Features F of the input, and classes C.
    out_features : tuple of int
        The positions d1, ..., dK of a K-dimensional loss.
    bias : bool
        Whether the map has a bias.
    device, dtype : optional
        Of the parameters: NumPy arrays, or torch tensors where these are torch's.
    reduction, weight, ignore_index, label_smoothing, options
        Those of the function.

    Attributes
    ----------
    linear
        Its `weight`, of shape (C d1 ... dK, F), and `bias`, of shape (C d1 ... dK,) or None.
    weight
        The class weight or None.

    Notes
    -----
    The names of a gradient are the function's: ``"input"`` and ``"linear_weight"`` by default, and ``"linear_bias"``
    with a bias; the gradient of a parameter has its shape.
    """

    _function = staticmethod(linear_cross_entropy)

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        out_features: tuple[int, ...] = (),
        bias: bool = False,
        device: Any = None,
        dtype: Any = None,
        reduction: str = "mean",
        weight: Array | None = None,
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        options: Any = None,
    ) -> None:
        checked = {"reduction": reduction, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
        check_options(record_of(linear_cross_entropy), checked)
        if weight is not None and tuple(np.shape(weight)) != (num_classes,):
            raise ValueError(f"weight must have shape ({num_classes},), got shape {tuple(np.shape(weight))}")
        self.num_classes, self.out_features = num_classes, tuple(out_features)
        self.reduction, self.ignore_index, self.label_smoothing = reduction, ignore_index, label_smoothing
        self.weight, self.options = weight, options
        self.linear = Linear(in_features, math.prod(self.out_features, start=num_classes), bias, device, dtype)
        self.reset_parameters()

    def _places(self) -> Iterator[tuple[str, Any, str]]:
        yield from (("weight", self, "weight"), ("linear.weight", self.linear, "weight"))
        yield "linear.bias", self.linear, "bias"

    def _maps(self) -> Iterator[Linear]:
        yield self.linear

    def _options(self) -> dict[str, Any]:
        return {
            "in_features": self.linear.in_features,
            "num_classes": self.num_classes,
            "out_features": self.out_features,
            "bias": self.linear.bias is not None,
            "reduction": self.reduction,
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "label_smoothing": self.label_smoothing,
            "options": self.options,
        }

    def _arguments(self, input: Array, target: Array) -> dict[str, Any]:
        bias, shape = self.linear.bias, (self.num_classes, *self.out_features)
        return {
            "input": input,
            "linear_weight": self.linear.weight.reshape((*shape, self.linear.in_features)),
            "target": target,
            "linear_bias": None if bias is None else bias.reshape(shape),
            "weight": self.weight,
            "reduction": self.reduction,
            "ignore_index": self.ignore_index,
            "label_smoothing": self.label_smoothing,
            "options": self.options,
        }

    def _transformed(self, kind: str, wrt: Any, input: Array, target: Array, extra: dict[str, Any]) -> Any:
        if not self.out_features:
            return super()._transformed(kind, wrt, input, target, extra)
        # Gradients of parameters come and go in the shapes that the function knows.
        mode = mode_of(record_of(linear_cross_entropy), kind, wrt)
        names = mode.wrt + tuple([name for name in mode.also if self.linear.bias is not None])
        arguments = self._arguments(input, target)
        own = {"linear_weight": tuple(self.linear.weight.shape), "linear_bias": (self.linear.out_features,)}
        given = extra.get("grad_out")
        if given is not None:
            arrays = (given,) if mode.single else tuple(given)
            shaped = tuple(
                [a.reshape(arguments[n].shape) if n in own else a for a, n in zip(arrays, names, strict=False)]
            )
            extra = {**extra, "grad_out": shaped[0] if mode.single else shaped}
        result = super()._transformed(kind, wrt, input, target, extra)
        gradients = result[1] if mode.value else result
        gradients = (gradients,) if mode.single else gradients
        back = (
            given
            if given is not None
            else tuple([g.reshape(own[n]) if n in own else g for g, n in zip(gradients, names, strict=True)])
        )
        if given is None and mode.single:
            (back,) = back
        return (result[0], back) if mode.value else back


class AdaptiveLogSoftmaxWithLoss(Layer):
    """Adaptive softmax: frequent classes in a head, the others in clusters with smaller maps of their own.

    See :func:`fastloss.adaptive_log_softmax_with_loss` for the formula, the arrays, errors and notes.

    Parameters
    ----------
    in_features, n_classes : int
        Features F of the input, and classes.
    cutoffs : sequence of int
        The first class of each cluster.
    div_value : float
        Cluster k = 0, 1, ... maps the input to ``in_features // div_value**(k + 1)`` features first.
    head_bias : bool
        Whether the head has a bias.
    device, dtype : optional
        Of the parameters: NumPy arrays, or torch tensors where these are torch's.

    Attributes
    ----------
    head
        Its `weight` and `bias`.
    tail
        For each cluster a pair, each with a `weight`.

    Notes
    -----
    An instance is called with (input, target) and returns the named tuple (output, loss). The names of a gradient are
    the function's: ``"input"`` by default, ``"head_weight"``, ``"head_bias"`` and ``"tail_weights"``.
    """

    _function = staticmethod(adaptive_log_softmax_with_loss)

    def __init__(
        self,
        in_features: int,
        n_classes: int,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        head_bias: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        first = checked_cutoffs(cutoffs)
        if first[-1] > n_classes - 1:
            raise ValueError(f"cutoffs must be at most n_classes - 1 = {n_classes - 1}, got {list(first)}")
        POSITIVE.check("div_value", div_value)
        self.in_features, self.n_classes, self.cutoffs = in_features, n_classes, [*first, n_classes]
        self.div_value, self.head_bias = div_value, head_bias
        self.shortlist_size, self.n_clusters = first[0], len(first)
        self.head_size = self.shortlist_size + self.n_clusters
        self.head = Linear(in_features, self.head_size, head_bias, device, dtype)
        self.tail = []
        for k in range(self.n_clusters):
            hidden, classes = int(in_features // div_value ** (k + 1)), self.cutoffs[k + 1] - self.cutoffs[k]
            sizes = ((in_features, hidden), (hidden, classes))
            self.tail.append(tuple([Linear(*size, False, device, dtype) for size in sizes]))
        self.reset_parameters()

    def _places(self) -> Iterator[tuple[str, Any, str]]:
        yield from (("head.weight", self.head, "weight"), ("head.bias", self.head, "bias"))
        for k, pair in enumerate(self.tail):
            for i, linear in enumerate(pair):
                yield f"tail.{k}.{i}.weight", linear, "weight"

    def _maps(self) -> Iterator[Linear]:
        yield self.head
        for pair in self.tail:
            yield from pair

    def _options(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "n_classes": self.n_classes,
            "cutoffs": self.cutoffs[:-1],
            "div_value": self.div_value,
            "head_bias": self.head_bias,
        }

    def _arguments(self, input: Array, target: Array) -> dict[str, Any]:
        return {
            "input": input,
            "target": target,
            "head_weight": self.head.weight,
            "tail_weights": [(one.weight, other.weight) for one, other in self.tail],
            "head_bias": self.head.bias,
            "cutoffs": self.cutoffs,
        }

    def __call__(self, input: Array, target: Array) -> AdaptiveOutput:
        """Return the log-probability of each target, and the loss."""
        return super().__call__(input, target)  # type: ignore[no-any-return]

    def log_prob(self, input: Array) -> Array:
        """Return the log-probability of every class, of shape (N, n_classes) or (n_classes,)."""
        return log_probabilities(LOG_SOFTMAX, self._job(input))

    def predict(self, input: Array) -> Array:
        """Return the most probable class of every row, of shape (N,) or ()."""
        return predictions(LOG_SOFTMAX, self._job(input))

    def _job(self, input: Array) -> Clustered:
        job: Clustered = record_of(self._function).describe(**self._arguments(input, None))
        return job
