"""The shape of an unreduced value, from those of the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, broadcast_shapes

from fastloss.define.registry import LOSSES


def unreduced_shape(loss: str, arrays: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of the value of a loss for ``reduction="none"``, or of what has no reduction."""
    shapes = {key: array.shape for key, array in arrays.items() if isinstance(array, Tensor) and key not in _ASIDE}
    first = next(iter(shapes.values()))
    if loss == "linear_cross_entropy":
        shape = arrays["target"].shape
        return _without(shape, 1) if arrays["target"].is_floating_point() else tuple(shape)
    if loss == "linear_log_prob":
        return tuple(arrays["token"].shape)
    record = LOSSES[loss]
    if record.domains.get("target") in ("class", "class_list"):
        shape, axis = arrays["target"].shape, options.get("axis")
        return _without(first, 1 if axis is None else axis) if shape == first else tuple(shape)
    if loss == "info_nce_loss":
        return tuple(first[:1])
    if loss in ("dice_loss", "soft_dice_loss"):  # a number for each sample and class
        return tuple(first[: min(2, len(first) - 1)])
    if loss == "ctc_loss":
        return tuple(first[1:-1])
    if loss == "adaptive_log_softmax_with_loss":
        return tuple(arrays["target"].shape)
    if record.family in ("pairwise", "rowwise"):  # a number for each vector along an axis
        if loss == "cosine_embedding_loss":
            del shapes["target"]
        axis = options.get("axis")
        axis = options.get("dim", -1) if axis is None else axis
        return _without(_broadcast(shapes), axis, options.get("keepdim", False))
    return _broadcast(shapes)


# Tensors that the value does not broadcast with.
_ASIDE = frozenset(("weight", "pos_weight", "sample_weight", "divisor", "var"))


def _broadcast(shapes: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    return tuple(broadcast_shapes(*shapes.values()))  # type: ignore[no-untyped-call]


def _without(shape: Sequence[int], axes: int | Sequence[int], keep: bool = False) -> tuple[int, ...]:
    """Return a shape less some axes, the last one where there are fewer; or with 1 in their places."""
    rank = len(shape)
    gone = {min(axis, rank - 1) % rank for axis in ([axes] if isinstance(axes, int) else axes)} if rank else set()
    return tuple([1 if k in gone else size for k, size in enumerate(shape) if keep or k not in gone])
