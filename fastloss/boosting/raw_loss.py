"""A loss as boosting sees it: of raw scores, which are any numbers, and float labels; one value for each row."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from array_api_compat import array_namespace

import fastloss as fl
from fastloss.boosting.curvature import FLOOR, upper_bound
from fastloss.boosting.initial import LEAST_SHARE, log_frequencies, row_minimum, scalar_minimum, within_logits
from fastloss.boosting.labels import converted
from fastloss.boosting.one_pass import lifted_derivatives

Array = Any
Unit = Any  # the weight of each row times the objective's scale: an array, or a number where there are no weights

_SIGMOID = dict.fromkeys(
    ("binary_cross_entropy_with_logits", "sigmoid_focal_loss", "soft_margin_loss", "multilabel_soft_margin_loss"),
    fl.sigmoid,
)
_SOFTMAX = dict.fromkeys(("cross_entropy", "symmetric_cross_entropy"), functools.partial(fl.softmax, dim=-1))
_LINKS: dict[str, Any] = {**_SIGMOID, **_SOFTMAX}


def _logits(raw: Array, options: dict[str, Any]) -> Array:
    """Return scores as the options of cross_entropy change them: scaled, capped, without those of padding."""
    xp = array_namespace(raw)
    z, cap, classes = raw * options.get("logit_scale", 1.0), options.get("softcap"), options.get("valid_classes")
    if cap is not None:
        z = cap * xp.tanh(z / cap)
    if classes is not None:
        z[..., classes:] = -math.inf
    return z


class RawLoss:
    """What an objective or a metric computes with: shapes, labels, derivatives, starting point and link of a loss."""

    label_axes: tuple[int, ...] = (1,)  # how many axes the labels of all rows may have

    def __init__(self, record: Any, options: dict[str, Any]) -> None:
        self.name: str = record.name
        self.function = record.function
        self.options = options
        self.kind: str = record.domains.get("target", "real")
        # Whether a row's Hessian is a multiple of diag(p) - p pᵀ, p its softmax.
        plain = {"weight", "ignore_index", "label_smoothing"}
        self.multinomial = record.name == "cross_entropy" and options.keys() <= plain
        self._both = fl.grad_and_hess(record.function)
        self._partial = fl.partial_sum(record.function)

    def prepare(self, raw: Array, label: Array) -> tuple[Array, Array]:
        """Return scores and labels as the loss takes them, shapes and labels checked."""
        raise NotImplementedError

    def link(self, raw: Array) -> Array:
        """Return predictions on the scale of the labels: probabilities, rates, or the scores themselves."""
        if self.name == "poisson_nll_loss":
            return array_namespace(raw).exp(raw)
        return _LINKS[self.name](_logits(raw, self.options)) if self.name in _LINKS else raw

    def arguments(self, raw: Array, label: Array) -> tuple[Array, ...]:
        """Return the arrays of the loss, from what `prepare` returned."""
        return raw, label

    def sums(self, raw: Array, label: Array, weight: Array | None) -> tuple[float, float]:
        """Return the sum of the values, and what their mean divides it by, without an array of them."""
        given = {} if weight is None else {"sample_weight": self.spread(weight, raw)}
        part = self._partial(*self.arguments(raw, label), **given, **self.options)
        return part.total, part.weight

    def objective(self, raw: Array, label: Array, unit: Unit, curvature: str) -> tuple[Array, Array]:
        """Return gradient and curvature, multiplied by `unit`, of scores and labels as a booster has them."""
        return self.curved(*self.prepare(raw, label), unit, curvature)

    def derivatives(self, raw: Array, label: Array, unit: Unit) -> tuple[Array, Array]:
        """Return gradient and diagonal of the Hessian, multiplied by `unit`."""
        return self.multiplied(self._both, raw, label, unit)

    def multiplied(self, both: Callable[..., Any], raw: Array, label: Array, unit: Unit) -> tuple[Array, Array]:
        """Return the two that `both` computes, multiplied by `unit`."""
        if not isinstance(unit, float):
            upstream = self.spread(unit, raw)
            return both(raw, label, reduction="none", grad_output=upstream, **self.options)  # type: ignore[no-any-return]
        grad, hess = both(raw, label, reduction="none", **self.options)
        if unit != 1:
            grad *= unit
            hess *= unit
        return grad, hess

    def curved(self, raw: Array, label: Array, unit: Unit, curvature: str) -> tuple[Array, Array]:
        """Return gradient and curvature, multiplied by `unit`; the curvature is one of ``curvature.CURVATURES``."""
        grad, hess = self.derivatives(raw, label, unit)
        if curvature == "constant":
            hess[...] = unit if isinstance(unit, float) or hess.ndim == 1 else unit[:, None]
        elif curvature == "majorize":
            hess = self.bound(raw, label, grad, hess, unit)
        elif curvature == "auto":
            self.lift(raw, label, grad, hess, unit)
        return grad, hess

    def bound(self, raw: Array, label: Array, grad: Array, hess: Array, unit: Unit) -> Array:
        """Return the majorizing curvature; see :func:`fastloss.boosting.curvature.upper_bound`."""
        return upper_bound(self.name, None, grad, hess, unit)

    def lift(self, raw: Array, label: Array, grad: Array, hess: Array, unit: Unit) -> None:
        """Replace by the majorizing curvature, in place, what is not positive in `hess`."""
        if math.prod(hess.shape) and not hess.min() > FLOOR:  # one pass, and for most losses all
            low = ~(hess > FLOOR)
            hess[low] = self.bound(raw, label, grad, hess, unit)[low]

    def spread(self, weight: Array, raw: Array) -> Array:
        """Return one weight for each value of the unreduced loss."""
        return weight

    def minimum(self, label: Array, weight: Array, classes: int | None) -> Any:
        """Return the constant score, or the constant for each output, that minimises the weighted loss."""
        raise NotImplementedError

    def best_row(self, label: Array, weight: Array, start: Array) -> Array:
        """Return the row of scores that minimises the loss of all `label` together."""

        def evaluate(row: Array) -> tuple[float, Array, Array]:
            raw = np.tile(row, (len(label), 1))
            grad, bound = self.curved(raw, label, weight, "majorize")
            return self.sums(raw, label, weight)[0], grad.sum(0), bound.sum(0)

        return row_minimum(evaluate, start)


def _leaves_out(unit: Unit) -> bool:
    """Return whether there are rows of weight 0, whose curvature no loop lifts."""
    return not isinstance(unit, float) and not (math.prod(unit.shape) and unit.min() > 0)


class Elements(RawLoss):
    """A loss of one score and one label; several columns of scores have as many columns of labels."""

    label_axes = (1, 2)

    def prepare(self, raw: Array, label: Array) -> tuple[Array, Array]:
        """Return the labels in the shape of the scores."""
        return raw, self.shaped(raw, converted(self.kind, label, self.name))

    def shaped(self, raw: Array, label: Array) -> Array:
        """Return the labels in the shape of the scores, whatever they are."""
        if raw.shape != label.shape and math.prod(raw.shape) != math.prod(label.shape):
            hint = ": a loss of several classes takes a column for each" if raw.ndim == 2 else ""
            raise ValueError(
                f"{self.name} takes one label for each score, got labels {label.shape} and scores {raw.shape}{hint}"
            )
        return label if label.shape == raw.shape else label.reshape(raw.shape)

    def bound(self, raw: Array, label: Array, grad: Array, hess: Array, unit: Unit) -> Array:
        """Return the majorizing curvature, from the residuals where the labels are any numbers."""
        residual = raw - label if self.kind == "real" else None
        each = unit if isinstance(unit, float) else self.spread(unit, raw)
        return upper_bound(self.name, residual, grad, hess, each)

    def spread(self, weight: Array, raw: Array) -> Array:
        """Return a row's weight for each of its scores."""
        if raw.ndim == 1:
            return weight
        return array_namespace(weight).broadcast_to(weight[:, None], raw.shape)

    def minimum(self, label: Array, weight: Array, classes: int | None) -> Any:
        """Return the minimum, for each output by itself."""
        label = converted(self.kind, label, self.name)
        if label.ndim == 1:
            return self._column_minimum(label, weight, self._options_of(0, 1))
        count = label.shape[1]
        found = [self._column_minimum(label[:, k], weight, self._options_of(k, count)) for k in range(count)]
        return np.array(found)

    def _options_of(self, output: int, outputs: int) -> dict[str, Any]:
        """Return the options of one output: each may have a pos_weight of its own."""
        if self.options.get("pos_weight") is None:
            return self.options
        each = np.broadcast_to(np.asarray(self.options["pos_weight"]), (outputs,))
        return {**self.options, "pos_weight": each[output : output + 1]}

    def _column_minimum(self, label: Array, weight: Array, options: dict[str, Any]) -> float:
        """Return the minimum of one output; equal labels are summed up first."""
        values, places = np.unique(label, return_inverse=True)
        weights = np.bincount(places, weights=weight)
        each = fl.grad(self.function)

        def slope(score: float) -> float:
            return float(weights @ each(np.full(len(values), score), values, reduction="none", **options))

        found = scalar_minimum(slope, float(np.average(values, weights=weights)))
        return within_logits(found) if self.name in _SIGMOID else found


class Probabilities(Elements):
    """A loss of one score and one label that is a probability."""

    def __init__(self, record: Any, options: dict[str, Any]) -> None:
        super().__init__(record, options)
        self._lifted = lifted_derivatives(record)

    def objective(self, raw: Array, label: Array, unit: Unit, curvature: str) -> tuple[Array, Array]:
        """Return gradient and curvature; the usual one in one pass, which checks the labels."""
        if curvature != "auto":
            return super().objective(raw, label, unit, curvature)
        try:
            grad, hess = self.multiplied(self._lifted, raw, self.shaped(raw, label), unit)
        except ValueError:
            converted(self.kind, label, self.name)  # which says what label it is, and where
            raise
        if _leaves_out(unit):
            self.lift(raw, label, grad, hess, unit)
        return grad, hess


class ClassRows(RawLoss):
    """A loss of a row of scores, one for each class, against a class index.

    A Fortran-ordered array, which LightGBM has, is read and answered in place where the loss takes further axes: as one
    sample with a class axis and the rows along another axis.
    """

    def __init__(self, record: Any, options: dict[str, Any]) -> None:
        super().__init__(record, options)
        default = inspect.signature(record.function).parameters.get("ignore_index")
        self._ignored = options.get("ignore_index", None if default is None else default.default)
        self._lifted = lifted_derivatives(record) if self.multinomial else None

    def prepare(self, raw: Array, label: Array) -> tuple[Array, Array]:
        """Return the labels as integers."""
        if raw.ndim != 2:
            raise ValueError(
                f"{self.name} takes a score for each class, shape (rows, classes), got {raw.shape}: tell the booster "
                "how many classes there are (num_class; CatBoost: class_names), or take a loss of two classes"
            )
        if label.shape != raw.shape[:1]:
            raise ValueError(f"{self.name} takes one label for each row, got labels {label.shape}, scores {raw.shape}")
        return raw, converted(self.kind, label, self.name)

    def curved(self, raw: Array, label: Array, unit: Unit, curvature: str) -> tuple[Array, Array]:
        """Return gradient and curvature; the usual one of cross-entropy in one pass."""
        if curvature != "auto" or self._lifted is None:
            return super().curved(raw, label, unit, curvature)
        grad, hess = self.multiplied(self._lifted, raw, label, unit)
        if _leaves_out(unit) or (label == self._ignored).any():
            self.lift(raw, label, grad, hess, unit)
        return grad, hess

    def multiplied(self, both: Callable[..., Any], raw: Array, label: Array, unit: Unit) -> tuple[Array, Array]:
        """Return them in the order of `raw`."""
        flags = getattr(raw, "flags", None)  # which torch's tensors have not
        if self.name not in _SOFTMAX or flags is None or flags.c_contiguous or not flags.f_contiguous:
            return super().multiplied(both, raw, label, unit)
        units = unit if isinstance(unit, float) else unit[None]
        try:
            grad, hess = super().multiplied(both, raw.T[None], label[None], units)
        except IndexError:  # which names the place of a label in these arrays
            return super().multiplied(both, np.ascontiguousarray(raw), label, unit)
        return grad[0].T, hess[0].T

    def minimum(self, label: Array, weight: Array, classes: int | None) -> Any:
        """Return the minimum over rows of all classes, each with its summed weight."""
        index = converted(self.kind, label, self.name)
        index, weight = (array[index != self._ignored] for array in (index, weight))
        valid = self.options.get("valid_classes")
        known = [count for count in (classes, valid) if count is not None]
        wrong = (index < 0) | (index >= min(known, default=math.inf))
        if wrong.any():
            raise ValueError(f"{self.name} takes class indices 0, 1, 2, ... below num_class, got {index[wrong][0]}")
        weights = np.bincount(index, weights=weight, minlength=max(known, default=0))
        label = np.arange(len(weights) if valid is None else valid)
        if self.name not in _SOFTMAX:
            return self.best_row(label, weights, np.zeros(len(weights)))
        found = self.best_row(label, weights[: len(label)], log_frequencies(weights))
        return np.maximum(found, math.log(LEAST_SHARE))


class LabelRows(RawLoss):
    """A loss of a row of scores against a row of labels."""

    label_axes = (2,)

    def prepare(self, raw: Array, label: Array) -> tuple[Array, Array]:
        """Return both, which have the same shape."""
        if raw.ndim != 2 or raw.shape != label.shape:
            raise ValueError(f"{self.name} takes a label for each score, got labels {label.shape}, scores {raw.shape}")
        return raw, converted(self.kind, label, self.name)

    def minimum(self, label: Array, weight: Array, classes: int | None) -> Any:
        """Return the minimum over all rows."""
        label = converted(self.kind, label, self.name)
        return self.best_row(label, weight, np.zeros(label.shape[1]))
