"""Losses that this door makes of others, because their own kernels have no gradient for each row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastloss.api.jobs import IGNORED
from fastloss.call.adaptive_weights import checked_cutoffs
from fastloss.call.call import Call
from fastloss.call.request import VALUE
from fastloss.define.registry import LOSSES, check_options
from fastloss.jax.functional import compute, public

_dice, _softmax, _cross_entropy = public("dice_loss"), public("softmax"), public("cross_entropy")
_ranking, _triplet = public("margin_ranking_loss"), public("triplet_margin_with_distance_loss")


def soft_dice_loss(input: Any, target: Any, *, dim: int = 1, **options: Any) -> Any:
    """Return the Dice loss of a softmax."""
    return _dice(_softmax(input, dim), target, **options)


def l1_penalty(params: Any, coefficient: Any) -> Any:
    """Return the L1 penalty of an array, or of all arrays of a tree."""
    return _penalty("l1_penalty", params, coefficient)


def l2_penalty(params: Any, coefficient: Any) -> Any:
    """Return the L2 penalty of an array, or of all arrays of a tree."""
    return _penalty("l2_penalty", params, coefficient)


def _penalty(name: str, params: Any, coefficient: Any) -> Any:
    if not isinstance(coefficient, jax.core.Tracer):
        check_options(LOSSES[name], {"coefficient": coefficient})
    arrays = jax.tree.leaves(params)
    return coefficient * sum([compute(LOSSES[name], (array, 1.0), {}) for array in arrays], jnp.zeros(()))


def triplet_margin_with_distance_loss(
    anchor: Any, positive: Any, negative: Any, *, distance_function: Any = None, **options: Any
) -> Any:
    """Return the triplet loss: one kernel for the distances that it knows, else a loss of a function's results."""
    if not callable(distance_function):
        return _triplet(anchor, positive, negative, distance_function=distance_function, **options)
    if options.pop("distance_vjp", None) is not None:
        raise TypeError("distance_vjp is not needed: JAX differentiates distance_function")
    margin, swap = options.pop("margin", 1.0), options.pop("swap", False)
    check_options(LOSSES["triplet_margin_with_distance_loss"], {"margin": margin, "swap": swap})
    near, far = distance_function(anchor, positive), distance_function(anchor, negative)
    if swap:
        far = jnp.minimum(far, distance_function(positive, negative))
    return _ranking(far, near, jnp.ones_like(near), margin=margin, **options)


class AdaptiveOutput(NamedTuple):
    """What adaptive_log_softmax_with_loss returns: the log-probability of each target, and the loss."""

    output: Any
    loss: Any


def adaptive_log_softmax_with_loss(
    input: Any,
    target: Any,
    head_weight: Any,
    tail_weights: Sequence[tuple[Any, Any]],
    head_bias: Any = None,
    *,
    cutoffs: Sequence[int],
) -> AdaptiveOutput:
    """Return the adaptive softmax, all of whose clusters are computed for all rows: shapes must not depend on labels.

    Raises
    ------
    TypeError, ValueError
        As the plain call, for what does not depend on numbers.
    """
    input, target = jnp.asarray(input), jnp.asarray(target)
    arrays = {"head_weight": head_weight, "tail_weights": tail_weights, "head_bias": head_bias}
    _check_adaptive({"input": input, "target": target, **arrays}, cutoffs)
    bounds = checked_cutoffs(cutoffs)[: len(tail_weights)]
    ends = [*bounds, bounds[-1] + tail_weights[-1][1].shape[0]]
    scores, label = input @ head_weight.T, target
    scores = scores if head_bias is None else scores + head_bias
    tails = 0.0
    for k, (projection, output) in enumerate(tail_weights):
        first, last = ends[k], ends[k + 1]
        inside = (target >= first) & (target < last)
        label = jnp.where(inside, bounds[0] + k, label)
        own = jnp.where(inside, target - first, IGNORED)
        tails = tails + _cross_entropy(input @ projection.T @ output.T, own, ignore_index=IGNORED, reduction="none")
    label = jnp.where((target < 0) | (target >= ends[-1]), -1, label)  # is no class, and makes the row NaN
    values = _cross_entropy(scores, label, ignore_index=IGNORED, reduction="none") + tails
    return AdaptiveOutput(-values, jnp.mean(values, dtype=jnp.promote_types(values.dtype, jnp.float32)))


def _check_adaptive(arrays: dict[str, Any], cutoffs: Sequence[int]) -> None:
    """Raise what the plain call raises for arrays of such shapes and dtypes, whatever they hold."""
    alike = jax.tree.map(lambda array: np.empty(array.shape, array.dtype), arrays)
    Call(LOSSES["adaptive_log_softmax_with_loss"], VALUE, {}).check({**alike, "cutoffs": cutoffs})
