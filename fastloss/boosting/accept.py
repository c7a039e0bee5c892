"""Which losses can boost, and with which options: everything else is refused when the objective is made."""

from __future__ import annotations

import inspect
from typing import Any

from fastloss.boosting.gaussian import Gaussian
from fastloss.boosting.raw_loss import ClassRows, Elements, LabelRows, Probabilities, RawLoss

# Losses of probabilities or log-probabilities, which raw scores are not, and what to take in their place.
_INSTEAD = {
    "binary_cross_entropy": "binary_cross_entropy_with_logits",
    "binary_focal_loss": "sigmoid_focal_loss",
    "nll_loss": "cross_entropy",
    "kl_div": "cross_entropy",
}
_ARRAYS = ("input", "target", "var")
_OF_THE_BOOSTER = ("reduction", "sample_weight", "divisor", "size_average", "reduce", "axis", "returns")


def raw_loss(loss: Any, options: dict[str, Any], settings: dict[str, Any]) -> RawLoss:
    """Return what boosting needs of a loss function with options, or of an instance of a loss class.

    `settings` are those of the objective or metric itself.

    Raises
    ------
    TypeError
        If it is no loss of this package, has no such option, or has an option of the name of a setting.
    ValueError
        If it does not give one number for each row of raw scores and labels, or an option is out of range.
    """
    if isinstance(loss, type):
        raise TypeError(f"expected a loss function or a loss instance, got the class {loss.__name__}: call it first")
    record = getattr(loss, "__fastloss__", None) or getattr(loss, "_record", None)
    if record is None:
        raise TypeError(f"expected a loss function or a loss instance of fastloss, got {loss!r}")
    if not hasattr(loss, "__fastloss__"):
        options = {**_bound_options(loss), **options}
    form = _form(record, options)
    _check_options(record, options, settings)
    return form(record, options)


def _bound_options(instance: Any) -> dict[str, Any]:
    """Return the options of a loss instance, less the reduction: a booster sums over the rows itself."""
    names = [name for name in instance.__dataclass_fields__ if name not in _OF_THE_BOOSTER]
    return {name: getattr(instance, name) for name in names if getattr(instance, name) is not None}


def _form(record: Any, options: dict[str, Any]) -> type[RawLoss]:
    """Return the class that computes a loss, which must be one of a row's scores against its label."""
    name = record.name
    if name in _INSTEAD:
        raise ValueError(f"{name} takes probabilities, but boosters give raw scores: take {_INSTEAD[name]}")
    if name == "poisson_nll_loss" and not options.get("log_input", True):
        raise ValueError("poisson_nll_loss takes rates with log_input=False, but boosters give raw scores")
    if name == "gaussian_nll_loss":
        return Gaussian
    parameters = inspect.signature(record.function).parameters
    if record.wrt == ("input",) and record.hessian and {"target", "reduction"} <= parameters.keys():
        if record.family == "elementwise":
            return Probabilities if record.domains.get("target") == "probability" else Elements
        if record.family == "rowwise":
            return ClassRows if record.domains.get("target") == "class" else LabelRows
    if record.family == "chain":
        raise ValueError(
            f"{name} is made of other losses and has no second derivative, which boosters need: no booster can train "
            "it. A single loss of elements or of rows has one (fastloss.custom)"
        )
    raise ValueError(f"{name} does not give one number for each row of raw scores and labels: no booster can train it")


def _check_options(record: Any, options: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raise for an option that the loss lacks, that is out of range, or that is the booster's or a setting's."""
    known = [name for name in inspect.signature(record.function).parameters if name not in _ARRAYS]
    for name in settings:
        if name in known:
            raise TypeError(f"{name} would be a setting of boosting, and {record.name} has an option {name}: rename it")
    booster = {*_OF_THE_BOOSTER, *(() if record.family == "rowwise" else ("weight",))}
    for name, value in options.items():
        if name in booster:
            raise TypeError(f"{name} is no option here: the booster holds the rows and their weights, and adds up")
        if name not in known:
            names = ", ".join(option for option in known if option not in booster) or "none"
            raise TypeError(f"{record.name} has no option {name!r}; its options: {names}")
        if name in record.options:
            record.options[name].check(name, value)
