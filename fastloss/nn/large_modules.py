"""The loss classes that hold parameters: torch.nn's names, constructor arguments, attributes and state."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastloss.api.transforms import mode_of
from fastloss.call.adaptive_predict import log_probabilities, predictions
from fastloss.call.adaptive_softmax import AdaptiveOutput
from fastloss.call.adaptive_weights import checked_cutoffs
from fastloss.call.planning import several
from fastloss.define.descriptions import Array, Clustered
from fastloss.define.linear_options import options_of
from fastloss.define.options import FLAG, INDEX, POSITIVE
from fastloss.define.registry import check_options, record_of
from fastloss.losses.large_output import adaptive_log_softmax_with_loss, linear_cross_entropy
from fastloss.losses.softmax import LOG_SOFTMAX
from fastloss.nn.layers import Layer, Linear


def _count(name: str, value: Any) -> int:
    """Return a number of features or classes, which must be an integer by type too: arrays are made of it."""
    INDEX.check(name, value)
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


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
    reduction, weight, ignore_index, label_smoothing, options, logit_scale, softcap, z_loss, valid_classes, returns
        Those of the function.

    Attributes
    ----------
    linear
        Its `weight`, of shape (C d1 ... dK, F), and `bias`, of shape (C d1 ... dK,) or None.
    weight
        The class weight or None.
    scores
        The options from `logit_scale` on, by name.

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
        logit_scale: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
        valid_classes: int | None = None,
        returns: tuple[str, ...] = (),
    ) -> None:
        in_features, num_classes = _count("in_features", in_features), _count("num_classes", num_classes)
        if not isinstance(out_features, Sequence) or isinstance(out_features, str):
            raise TypeError(f"out_features must be a tuple of integers, got {out_features!r}")
        out_features = tuple([_count(f"out_features[{k}]", size) for k, size in enumerate(out_features)])
        FLAG.check("bias", bias)
        options_of(options)
        self.scores = {
            "logit_scale": logit_scale,
            "softcap": softcap,
            "z_loss": z_loss,
            "valid_classes": valid_classes,
            "returns": returns,
        }
        checked = {"reduction": reduction, "ignore_index": ignore_index, "label_smoothing": label_smoothing}
        known = record_of(linear_cross_entropy)
        check_options(known, {name: value for name, value in (checked | self.scores).items() if name in known.options})
        if weight is not None and tuple(np.shape(weight)) not in ((num_classes,), (valid_classes,)):
            raise ValueError(f"weight must have shape ({num_classes},), got shape {tuple(np.shape(weight))}")
        self.num_classes, self.out_features = num_classes, out_features
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
            **self._shared(),
        }

    def _shared(self) -> dict[str, Any]:
        """Return the arguments that constructor and function have in common."""
        return {
            "reduction": self.reduction,
            "weight": self.weight,
            "ignore_index": self.ignore_index,
            "label_smoothing": self.label_smoothing,
            "options": self.options,
            **self.scores,
        }

    def _arguments(self, input: Array, target: Array) -> dict[str, Any]:
        bias, shape = self.linear.bias, (self.num_classes, *self.out_features)
        return {
            "input": input,
            "linear_weight": self.linear.weight.reshape((*shape, self.linear.in_features)),
            "target": target,
            "linear_bias": None if bias is None else bias.reshape(shape),
            **self._shared(),
        }

    def _transformed(self, kind: str, wrt: Any, input: Array, target: Array, extra: dict[str, Any]) -> Any:
        if not self.out_features:
            return super()._transformed(kind, wrt, input, target, extra)
        # Gradients of parameters come and go in the shapes that the function knows.
        mode = mode_of(record_of(linear_cross_entropy), kind, wrt)
        names = mode.wrt + tuple([name for name in mode.also if self.linear.bias is not None])
        own = {"linear_weight": tuple(self.linear.weight.shape), "linear_bias": (self.linear.out_features,)}
        given = extra.get("grad_out")
        if given is not None:
            arrays = several(given, len(names), mode.single)
            shaped = tuple([self._split(a, own[n]) if n in own else a for a, n in zip(arrays, names, strict=True)])
            extra = {**extra, "grad_out": shaped[0] if mode.single else shaped}
        result = super()._transformed(kind, wrt, input, target, extra)
        found = result[1] if mode.value else result
        if given is None:
            arrays = (found,) if mode.single else found
            shaped = tuple([a.reshape(own[n]) if n in own else a for a, n in zip(arrays, names, strict=True)])
            given = shaped[0] if mode.single else shaped
        return (result[0], given) if mode.value else given

    def _split(self, array: Any, shape: tuple[int, ...]) -> Any:
        """Return an array for a parameter's gradient, which must have `shape`, as the function knows it: a view."""
        if not hasattr(array, "reshape"):
            return array  # the function says what it is not
        if tuple(array.shape) != shape:
            raise ValueError(f"grad_out must have shape {shape}, got shape {tuple(array.shape)}")
        return array.reshape((self.num_classes, *self.out_features, *shape[1:]))  # of any layout: only one axis splits


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
        in_features, n_classes = _count("in_features", in_features), _count("n_classes", n_classes)
        FLAG.check("head_bias", head_bias)
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

    def __call__(self, input: Array, target: Array, **extra: Any) -> AdaptiveOutput:
        """Return the log-probability of each target, and the loss."""
        return super().__call__(input, target, **extra)  # type: ignore[no-any-return]

    def log_prob(self, input: Array) -> Array:
        """Return the log-probability of every class, of shape (N, n_classes) or (n_classes,)."""
        return log_probabilities(LOG_SOFTMAX, self._description(input))

    def predict(self, input: Array) -> Array:
        """Return the most probable class of every row, of shape (N,) or ()."""
        return predictions(LOG_SOFTMAX, self._description(input))

    def _description(self, input: Array) -> Clustered:
        whole: Clustered = record_of(self._function).describe(**self._arguments(input, input))
        return whole._replace(target=None)
