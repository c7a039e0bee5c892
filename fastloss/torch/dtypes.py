"""The dtypes that torch computes its losses in, and has for their values."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from fastloss.define.record import Loss
from fastloss.torch.signatures import is_labelled

# Losses with tensors of several dtypes that torch brings to a common one; the others follow their first tensor.
PROMOTING = frozenset(
    (
        "binary_cross_entropy_with_logits",
        "cosine_embedding_loss",
        "cosine_similarity",
        "cross_entropy",
        "gaussian_nll_loss",
        "kl_div",
        "l1_loss",
        "margin_ranking_loss",
        "mse_loss",
        "multilabel_soft_margin_loss",
        "pairwise_distance",
        "poisson_nll_loss",
        "smooth_l1_loss",
        "triplet_margin_loss",
        "triplet_margin_with_distance_loss",
    )
)
# Losses whose targets do not count for that: torch chooses by them, or computes with the input's dtype before.
TARGET_APART = frozenset(("cosine_embedding_loss", "huber_loss"))
# Losses that torch multiplies by their weights after they are computed: only there dtypes meet.
WEIGHTED_AFTER = frozenset(("huber_loss",))
# What autocast leaves in half precision, on the devices that have it.
KEPT_BY_AUTOCAST = {
    "cpu": frozenset(
        (
            "cosine_similarity",
            "gaussian_nll_loss",
            "log_softmax",
            "logsigmoid",
            "logsumexp",
            "multilabel_soft_margin_loss",
            "pairwise_distance",
            "sigmoid",
            "softmax",
            "triplet_margin_with_distance_loss",
        )
    ),
    "cuda": frozenset(
        ("gaussian_nll_loss", "logsigmoid", "logsumexp", "multilabel_soft_margin_loss", "sigmoid"),
    ),
}
# What torch computes by single operations where there are weights, which autocast leaves in half precision too.
WEIGHTED_BY_HAND = frozenset(("l1_loss", "mse_loss"))
HALF = (torch.float16, torch.bfloat16)


def converted(
    record: Loss, first: str, arguments: dict[str, Any], is_array: bool
) -> tuple[dict[str, Any], torch.dtype]:
    """Return the arguments in the dtypes that are computed in, and the dtype of the value.

    `first` is the argument that others follow, `is_array` whether the value is no number.
    """
    arguments, asked = dict(arguments), arguments.get("dtype")
    if asked is not None:
        arguments[first] = arguments[first].to(asked)
    arguments.pop("dtype", None)
    counted = [a for name, a in arguments.items() if name != "target" or record.name not in TARGET_APART]
    dtypes = [a.dtype for a in counted if isinstance(a, Tensor) and a.dtype.is_floating_point]
    together, own = promotes(record, arguments), arguments[first].dtype
    computed = dtype = functools.reduce(torch.promote_types, dtypes, own) if together else own
    if dtype in HALF:
        if leaves_half(record.name, arguments[first].device.type, arguments.get("weight") is not None):
            dtype = torch.float32
        # A gradient is scaled after it is computed: float16 would lose small ones, for which a scale is there.
        if computed is torch.float16 or (dtype is torch.float32 and is_array):
            computed = torch.float32

    def cast(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [cast(one) for one in value]
        changes = isinstance(value, Tensor) and value.dtype.is_floating_point
        return value.to(computed) if changes and (together or value.dtype in HALF) else value

    return {name: cast(value) for name, value in arguments.items()}, dtype


def promotes(record: Loss, arguments: dict[str, Any]) -> bool:
    """Return whether torch brings the tensors to a common dtype, which it does not beside class indices."""
    if record.name in WEIGHTED_AFTER:
        return arguments.get("weight") is not None
    target = arguments.get("target")
    indices = is_labelled(record) and isinstance(target, Tensor) and not target.is_floating_point()
    return record.name in PROMOTING and not indices


def leaves_half(name: str, device: str, weighted: bool) -> bool:
    """Return whether autocast is on, and computes this loss in float32."""
    if device not in KEPT_BY_AUTOCAST or name in KEPT_BY_AUTOCAST[device]:
        return False
    return not (weighted and name in WEIGHTED_BY_HAND) and torch.is_autocast_enabled(device)
