"""The triplet loss of the door with a distance function of one's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def with_distance(fused: Callable[..., Any], ranking: Callable[..., Any]) -> Callable[..., Any]:
    """Return triplet_margin_with_distance_loss: one kernel without a distance function, else a loss of its results."""

    @functools.wraps(fused)
    def triplet_margin_with_distance_loss(
        anchor: Tensor,
        positive: Tensor,
        negative: Tensor,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        **options: Any,
    ) -> Any:
        if distance_function is None or _is_torchs_default(distance_function):
            return fused(anchor, positive, negative, **options)
        if not callable(distance_function):
            raise TypeError(
                f"distance_function must be a function of two tensors, or None, got {distance_function!r}: names of "
                "distances are known to fastloss.triplet_margin_with_distance_loss"
            )
        margin, swap = options.pop("margin", 1.0), options.pop("swap", False)
        if options.pop("axis", None) is not None:
            raise ValueError("axis does not go with a distance_function of one's own")
        if margin <= 0:
            raise ValueError(f"margin must be positive, got {margin}")
        near, far = distance_function(anchor, positive), distance_function(anchor, negative)
        if swap:
            far = torch.minimum(far, distance_function(positive, negative))
        device = "cuda" if near.is_cuda else "cpu"  # a meta tensor has no autocast
        with torch.autocast(device, enabled=False):  # torch's is made of operations that it leaves alone
            return ranking(far, near, torch.ones_like(near), margin=margin, **options)

    return triplet_margin_with_distance_loss


def _is_torchs_default(distance: Any) -> bool:
    """Return whether a distance is what torch's module of the loss has for none."""
    default = type(distance) is torch.nn.PairwiseDistance
    return default and (distance.norm, distance.eps, distance.keepdim) == (2.0, 1e-6, False)
