"""The Gaussian likelihood of a mean and a variance: two scores a row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

import fastloss as fl
from fastloss.boosting.curvature import FLOOR
from fastloss.boosting.raw_loss import Array, RawLoss, Unit


class Gaussian(RawLoss):
    """The likelihood with the mean and the logarithm of the variance as scores."""

    def __init__(self, record: Any, options: dict[str, Any]) -> None:
        super().__init__(record, options)
        self._slopes = fl.grad(record.function, wrt=("input", "var"))
        self._eps = float(options.get("eps", 1e-6))

    def prepare(self, raw: Array, label: Array) -> tuple[Array, Array]:
        """Return both, their shapes checked."""
        if raw.ndim != 2 or raw.shape[1] != 2 or label.shape != raw.shape[:1]:
            raise ValueError(
                f"{self.name} takes two scores and one label for each row, got labels {label.shape} and scores "
                f"{raw.shape}: tell the booster (XGBoost: num_target=2, LightGBM: num_class=2; CatBoost has its own, "
                "RMSEWithUncertainty)"
            )
        return raw, label

    def link(self, raw: Array) -> Array:
        """Return mean and variance."""
        xp = array_namespace(raw)
        return xp.stack([raw[..., 0], xp.exp(raw[..., 1])], axis=-1)

    def arguments(self, raw: Array, label: Array) -> tuple[Array, ...]:
        """Return mean, label and variance."""
        return raw[:, 0], label, self._variance(raw)

    def derivatives(self, raw: Array, label: Array, unit: Unit) -> tuple[Array, Array]:
        """Return r / v and (1 - r²/v) / 2, r = mean - label and v the variance; then 1 / v and r²/v / 2."""
        xp = array_namespace(raw)
        variance = self._variance(raw)
        grad, hess = xp.empty_like(raw), xp.empty_like(raw)
        grad[:, 0], slope = self._slopes(raw[:, 0], label, variance, reduction="none", **self.options)
        grad[:, 1] = slope * variance
        hess[:, 0] = 1 / variance
        hess[:, 1] = 0.5 - grad[:, 1]
        factor = unit if isinstance(unit, float) else unit[:, None]
        grad *= factor
        hess *= factor
        return grad, hess

    def bound(self, raw: Array, label: Array, grad: Array, hess: Array, unit: Unit) -> Array:
        """Return the curvature, that of the log variance not below its expectation 1/2.

        Without it a leaf whose residuals are small beside the variance divides by next to nothing.
        """
        xp = array_namespace(hess)
        floor = xp.asarray(FLOOR, dtype=hess.dtype)
        least = xp.stack(xp.broadcast_arrays(floor, xp.asarray(0.5 * unit, dtype=hess.dtype)), axis=-1)
        return xp.maximum(xp.maximum(hess, least), floor)

    def lift(self, raw: Array, label: Array, grad: Array, hess: Array, unit: Unit) -> None:
        """Write the bound over `hess`, which it differs from only where that is low."""
        hess[...] = self.bound(raw, label, grad, hess, unit)

    def minimum(self, label: Array, weight: Array, classes: int | None) -> Any:
        """Return the mean and the logarithm of the variance of the labels."""
        mean = np.average(label, weights=weight)
        variance = np.average((label - mean) ** 2, weights=weight)
        return np.array([mean, math.log(max(variance, self._eps))])

    def _variance(self, raw: Array) -> Array:
        xp = array_namespace(raw)
        return xp.maximum(xp.exp(raw[:, 1]), xp.asarray(self._eps, dtype=raw.dtype))
