"""From the float labels that boosters store to what a loss takes, with one clear error for each kind of bad label."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from array_api_compat import array_namespace

Array = Any


def converted(kind: str, label: Array, loss: str) -> Array:
    """Return labels as a target of `kind` takes them; see ``_CONVERSIONS``.

    Raises
    ------
    ValueError
        If a label is no value of that kind; the message has the label and its position.
    """
    convert = _CONVERSIONS.get(kind)
    return label if convert is None else convert(label, loss)


def _class_indices(label: Array, loss: str) -> Array:
    """Return whole numbers as int32."""
    xp = array_namespace(label)
    with np.errstate(invalid="ignore"):  # NaN and infinity become some integer, which does not equal them
        index = xp.astype(label, xp.int32)
    whole = xp.astype(index, label.dtype) == label
    if not whole.all():
        raise _refusal(label, ~whole, f"{loss} takes class indices 0, 1, 2, ...")
    return index


def _signs(label: Array, loss: str) -> Array:
    """Return 0 and 1, a classifier's labels, as -1 and 1; -1 and 1 as they are."""
    allowed = (label == 1) | (label == 0) | (label == -1)
    if not allowed.all():
        raise _refusal(label, ~allowed, f"{loss} takes labels 0 and 1, or -1 and 1")
    if (label == 0).any():
        if (label == -1).any():
            raise _refusal(label, label == -1, f"{loss} takes labels 0 and 1, or -1 and 1, not all three")
        return 2.0 * label - 1.0
    return label


def _probabilities(label: Array, loss: str) -> Array:
    if math.prod(label.shape) and not (label.min() >= 0 and label.max() <= 1):
        raise _refusal(label, ~((label >= 0) & (label <= 1)), f"{loss} takes labels 0 and 1, or probabilities between")
    return label


def _counts(label: Array, loss: str) -> Array:
    if math.prod(label.shape) and not label.min() >= 0:
        raise _refusal(label, ~(label >= 0), f"{loss} takes labels that are not negative")
    return label


# The kinds of target that a loss may declare; any other takes every number.
_CONVERSIONS = {"class": _class_indices, "sign": _signs, "probability": _probabilities, "count": _counts}


def _refusal(label: Array, bad: Array, demand: str) -> ValueError:
    """Return the error for the first label where `bad` is set."""
    xp = array_namespace(label)
    position = int(xp.argmax(xp.astype(xp.reshape(bad, (-1,)), xp.int8)))
    value = float(xp.reshape(label, (-1,))[position])
    return ValueError(f"{demand}: got {value:g} at position {position}")
