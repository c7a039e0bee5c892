"""Objective and metric: how XGBoost, LightGBM and CatBoost call them, and what each wants back."""

from __future__ import annotations

import math
import numbers
from typing import Any, ClassVar

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj

from fastloss.boosting.accept import raw_loss
from fastloss.boosting.curvature import CURVATURES
from fastloss.boosting.raw_loss import Array
from fastloss.define.linear_options import dtype_name


class Boosted:
    """What objective and metric have in common: the loss, its name, link, starting point, and value for CatBoost.

    Objects are immutable: equal by value, pickled by what they were made of, and their own copies.
    """

    no_jit: ClassVar[bool] = True  # CatBoost would compile the methods, which are compiled already

    def __init__(self, loss: Any, settings: dict[str, Any], options: dict[str, Any]) -> None:
        self._made_of = loss, settings, options
        self._loss = raw_loss(loss, options, settings)
        self.name = self.__name__ = settings.get("name", self._loss.name)

    def init_score(self, y: Array, sample_weight: Array | None = None, *, num_class: int | None = None) -> Any:
        """Return the constant raw score that minimises the loss of labels `y`: where boosting should start.

        Parameters
        ----------
        y : array, shape (n,), or (n, k) for k outputs
            Labels, as the booster gets them.
        sample_weight : array, shape (n,), optional
            Weights of the rows.
        num_class : int, optional
            Number of classes, where `y` may lack the last ones.

        Returns
        -------
        float or array of float64
            A number; for several outputs or classes one for each.

        Raises
        ------
        ValueError
            If there are no rows, a label or weight does not fit, or no constant minimises the loss.
        """
        label = np.asarray(y, dtype=np.float64)
        if label.ndim not in self._loss.label_axes:
            shapes = " or ".join(("(rows,)", "(rows, outputs)")[axes - 1] for axes in self._loss.label_axes)
            raise ValueError(f"{self.name} takes labels of shape {shapes} to start from, got shape {label.shape}")
        weight = np.ones(len(label)) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        if not label.size:
            raise ValueError("init_score takes at least one row")
        if not np.isfinite(label).all():
            raise ValueError(f"{self.name} takes finite labels to start from, got {label[~np.isfinite(label)][0]}")
        wrong = ~((weight >= 0) & (weight < math.inf))
        if wrong.any():
            raise ValueError(f"init_score takes finite weights that are not negative, got {weight[wrong][0]}")
        if weight.shape != label.shape[:1] or not weight.sum() > 0:
            raise ValueError(f"init_score takes one weight for each row, not all 0: {weight.shape} for {label.shape}")
        return self._loss.minimum(label, weight, num_class)

    def inverse_link(self, raw: Array) -> Array:
        """Return predictions on the scale of the labels.

        Probabilities of logistic and softmax losses, the rate of a Poisson loss, mean and variance of the Gaussian
        likelihood, the scores themselves of all others. XGBClassifier has applied its sigmoid or softmax already:
        hand over ``predict(X, output_margin=True)``.
        """
        return self._loss.link(_array(raw))

    def evaluate(self, approxes: Any, target: Array, weight: Array | None) -> tuple[float, float]:
        """Return the summed loss and the summed weight, as CatBoost asks for them."""
        raw = approxes[0] if len(approxes) == 1 else np.stack(approxes, axis=-1)
        return self._sums(raw, target, weight)

    def get_final_error(self, error: float, weight: float) -> float:
        """Return the mean loss, from the sums that CatBoost has added up."""
        return error / weight if weight else math.nan

    def is_max_optimal(self) -> bool:
        """Return that smaller is better."""
        return False

    def _sums(self, raw: Array, label: Array, weight: Array | None) -> tuple[float, float]:
        raw, label, weight = self._arrays(raw, label, weight)
        return self._loss.sums(*self._loss.prepare(raw, label), weight)

    def _arrays(self, raw: Array, label: Array, weight: Array | None) -> tuple[Array, Array, Array | None]:
        """Return the arrays, an empty weight as None; raise for scores that no booster has and weights of no rows."""
        found = dtype_name(getattr(raw, "dtype", type(raw)))
        if found not in ("float32", "float64"):
            raise TypeError(f"{self.name} takes scores of float32 or float64, as boosters have them, got {found}")
        label = _array(label)
        if weight is None or math.prod(np.shape(weight)) == 0:
            return raw, label, None
        weight = _array(weight)
        if weight.shape != raw.shape[:1]:
            raise ValueError(f"{self.name} takes a weight for each row, got weights {weight.shape}, scores {raw.shape}")
        return raw, label, weight if "float" in str(weight.dtype) else array_namespace(raw).astype(weight, raw.dtype)

    def __reduce__(self) -> Any:
        return _made, (type(self), *self._made_of)

    def __copy__(self) -> Boosted:
        return self

    def __deepcopy__(self, memo: Any) -> Boosted:
        return self

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        (loss, *given), (other_loss, *other_given) = self._made_of, other._made_of
        return bool(loss == other_loss) and all(map(_equal, given, other_given))

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __repr__(self) -> str:
        loss, settings, options = self._made_of
        given = {**settings, **options}
        shown = getattr(loss, "__name__", None) or repr(loss)
        return f"{type(self).__name__.lower()}({', '.join([shown, *(f'{k}={v!r}' for k, v in given.items())])})"


def _array(values: Any) -> Array:
    """Return an array as it is, and what is none, such as a list or a column of a table, as a NumPy array."""
    return values if is_array_api_obj(values) else np.asarray(values)


def _factor(name: str, settings: dict[str, Any]) -> float:
    """Return a setting that is a positive number; raise for one that is none."""
    value = settings.get(name, 1.0)
    if not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a positive number, got {value!r}")
    number = float(value)
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a positive number, got {value!r}")
    return number


def _equal(options: dict[str, Any], others: dict[str, Any]) -> bool:
    """Return whether options are equal, arrays by value."""
    return options.keys() == others.keys() and all(np.array_equal(options[name], others[name]) for name in options)


def _made(kind: type[Boosted], loss: Any, settings: dict[str, Any], options: dict[str, Any]) -> Boosted:
    return kind(loss, settings, options)


class Objective(Boosted):
    """Gradient and curvature of a loss, as :func:`fastloss.boosting.objective` describes them."""

    def __init__(self, loss: Any, settings: dict[str, Any], options: dict[str, Any]) -> None:
        super().__init__(loss, settings, options)
        self._curvature = settings.get("curvature", "auto")
        if self._curvature not in CURVATURES:
            raise ValueError(f"curvature must be one of {', '.join(map(repr, CURVATURES))}, got {self._curvature!r}")
        self._scale, self._hessian_scale = (_factor(name, settings) for name in ("scale", "hessian_scale"))

    def __call__(self, first: Any, second: Any, sample_weight: Array | None = None) -> tuple[Array, Array]:
        """Return gradient and curvature of each score.

        Native interfaces call it with scores and their data, scikit-learn's with labels, scores, and weights if there
        are any.
        """
        if hasattr(second, "get_label"):
            return self._derivatives(first, second.get_label(), second.get_weight())
        return self._derivatives(second, first, sample_weight)

    def calc_ders_range(self, approxes: Array, targets: Array, weights: Array | None) -> Array:
        """Return minus gradient and minus curvature of each row, shape (n, 2), as CatBoost asks for them."""
        result = np.empty((len(targets), 2))
        for column, part in enumerate(self._derivatives(np.asarray(approxes), np.asarray(targets), weights)):
            np.negative(part, out=result[:, column])
        return result

    def calc_ders_multi(self, approxes: Array, target: float, weight: float) -> tuple[Array, Array]:
        """Return minus gradient and minus Hessian matrix of one row, as CatBoost asks for them.

        The Hessian of cross-entropy is complete unless ``curvature`` says otherwise; of all others it is the diagonal.
        It is a multiple of diag(p) - p pᵀ, p the softmax of the row, whatever class weights and smoothing are.
        """
        raw = np.asarray(approxes)[None]
        grad, curvature = self._derivatives(raw, np.array([target]), np.array([weight]))
        hess = np.diag(curvature[0])
        if self._loss.multinomial and self._curvature in ("auto", "exact"):
            p = np.exp(raw[0] - raw.max())
            p /= p.sum()
            spread = p.sum() - p @ p
            if spread > 1e-12:  # else the row is sure of its class, and there is next to nothing to share
                hess = (np.diag(p) - np.outer(p, p)) * (curvature.sum() / spread)
        return -grad[0], -hess

    def _derivatives(self, raw: Array, label: Array, weight: Array | None) -> tuple[Array, Array]:
        raw, label, weight = self._arrays(raw, label, weight)
        unit = self._scale if weight is None else weight if self._scale == 1 else weight * self._scale
        grad, curvature = self._loss.objective(raw, label, unit, self._curvature)
        if self._hessian_scale != 1:
            curvature *= self._hessian_scale
        return grad, curvature


class Metric(Boosted):
    """The mean of a loss over raw scores, as :func:`fastloss.boosting.metric` describes it."""

    def __call__(self, first: Any, second: Any, *lightgbm: Any, sample_weight: Array | None = None) -> Any:
        """Return the weighted mean of the loss, in the form that the caller expects.

        XGBoost's native interface gets (name, value), its scikit-learn interface, which names `sample_weight`, the
        value alone. LightGBM gets (name, value, False); its scikit-learn interface hands over weights and groups by
        position, None where there are none.
        """
        if hasattr(second, "get_label"):
            value = self._mean(first, second.get_label(), second.get_weight())
            return (self.name, value, False) if hasattr(second, "get_init_score") else (self.name, value)
        if lightgbm:
            return self.name, self._mean(second, first, lightgbm[0]), False
        return self._mean(second, first, sample_weight)

    def _mean(self, raw: Array, label: Array, weight: Array | None) -> float:
        return self.get_final_error(*self._sums(raw, label, weight))
