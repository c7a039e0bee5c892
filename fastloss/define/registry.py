"""The registry of losses, and the checks of their options."""

from __future__ import annotations

import contextlib
import difflib
import operator
import warnings
from collections.abc import Iterable
from typing import Any

from fastloss.define.options import AXIS_OR_NONE, INTEGERS
from fastloss.define.record import Loss
from fastloss.runtime.stacklevel import stacklevel

LOSSES: dict[str, Loss] = {}

# torch's deprecated pair of options.
LEGACY = frozenset(("size_average", "reduce"))


def loss_named(name: str) -> Loss:
    """Return the loss of a name, or raise ValueError with the names that are like it."""
    if name in LOSSES:
        return LOSSES[name]
    lower = {one.lower().replace("_", ""): one for one in LOSSES}
    classes = {cls.__name__.lower(): one for one, loss in LOSSES.items() for cls in loss.modules}
    known = {**classes, **lower}
    like = difflib.get_close_matches(name.lower().replace("_", ""), known, n=3, cutoff=0.6)
    suggested = " or ".join(dict.fromkeys(known[one] for one in like))
    raise ValueError(
        f"unknown loss {name!r}" + (f"; did you mean {suggested}?" if like else "; `fastloss list` shows all")
    )


def check_options(record: Loss, kwargs: dict[str, Any]) -> None:
    """Check the options in `kwargs` against their domains.

    In place, size_average and reduce become reduction, and arrays without axes, where an integer is wanted, integers.
    """
    if record.legacy and not LEGACY.isdisjoint(kwargs):
        _map_legacy_reduction(kwargs)
    domains = record.options if "axis" not in record.common else {**record.options, "axis": AXIS_OR_NONE}
    for name, value in kwargs.items():
        if name in domains:
            if getattr(value, "shape", None) == () and domains[name] in INTEGERS:
                with contextlib.suppress(TypeError):  # no integer
                    value = kwargs[name] = operator.index(value)
            domains[name].check(name, value)


def refuse_options(instance: Any, named: dict[str, Any], options: Iterable[str]) -> None:
    """Raise if a call of an instance of a loss class names one of the `options`, which are bound."""
    bound = named.keys() & LEGACY.union(options)
    if bound:
        raise TypeError(f"{type(instance).__name__} is called with arrays: {min(bound)} is an option of the class")


def _map_legacy_reduction(kwargs: dict[str, Any]) -> None:
    """Replace torch's deprecated pair by the reduction that it means."""
    average = kwargs.pop("size_average", None)
    reduce = kwargs.pop("reduce", None)
    if average is None and reduce is None:
        return
    average, reduce = average is not False, reduce is not False
    kwargs["reduction"] = ("mean" if average else "sum") if reduce else "none"
    message = f"size_average and reduce are deprecated, use reduction={kwargs['reduction']!r}"
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel())


def record_of(function: Any) -> Loss:
    """Return the registry entry of a public loss function."""
    record = getattr(function, "__fastloss__", None)
    if not isinstance(record, Loss):
        raise TypeError(f"expected a loss function or a loss instance of fastloss, got {function!r}")
    return record
