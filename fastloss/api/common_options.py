"""Options that losses have in common, as signatures and docstrings tell of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

# Families whose losses are of rows or vectors along an axis.
_ALONG_AXES = frozenset(("label_sets", "pairwise", "rowwise"))

_ANNOTATIONS = {"sample_weight": "Array | None", "divisor": "Array | float | None", "axis": "int | None"}

# What docstrings say of them.
TEXTS = {
    "sample_weight": """\
sample_weight : array, optional
    Weights of values, not negative: its axes are the first ones of the unreduced loss, or all of them. A mean is
    divided by the sum of the weights that count. A weight of 0 takes a value out, whatever it holds. Weights count
    in the type of the computation, float32 unless `input` is float64.""",
    "divisor": """\
divisor : float or array of one number, optional
    What a mean is divided by instead, such as the ``weight`` of :func:`partial_sum` of all blocks of a batch.""",
    "axis": """\
axis : int, optional
    The axis of `input` that rows or vectors lie along, instead of that of the shapes above.""",
}


def common_options(describe: Callable[..., Any], family: str) -> tuple[str, ...]:
    """Return the options that a loss of a family has in common with others."""
    names = inspect.signature(describe).parameters
    if "reduction" not in names:
        return ()
    along = family in _ALONG_AXES and "dim" not in names
    return tuple([name for name in _ANNOTATIONS if name not in names and (name != "axis" or along)])


def extended(describe: Callable[..., Any], common: tuple[str, ...]) -> inspect.Signature:
    """Return the signature of a loss with the options in common."""
    signature = inspect.signature(describe)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_ANNOTATIONS[name])
        for name in common
    ]
    return signature.replace(parameters=[*signature.parameters.values(), *more])
