"""The signatures of torch's functions, with the options that only fastloss has behind them."""

from __future__ import annotations

import inspect

import torch

from fastloss.define.record import Loss
from fastloss.runtime.functions import is_packaged

# The options of each function that torch's does not have.
OURS: dict[str, list[inspect.Parameter]] = {}
_KEYWORD, EITHER = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


def is_map(record: Loss) -> bool:
    """Return whether this is no loss, and has no reduction."""
    return "reduction" not in record.options and record.family not in ("penalty", "clustered")


def is_labelled(record: Loss) -> bool:
    """Return whether a loss has labels, which on a GPU are not waited for unless `check_indices` asks for it."""
    return record.family == "clustered" or not {"class", "class_list"}.isdisjoint(record.domains.values())


def signature(record: Loss) -> inspect.Signature:
    """Return torch's signature of a function, with what only fastloss knows as keywords behind it."""
    own = inspect.signature(record.function).parameters
    theirs = _torch_parameters(record.name) if is_packaged(record.function) else list(own.values())
    if not theirs:
        theirs = [p.replace(kind=EITHER) if is_map(record) else p for p in own.values()]
    names = {p.name for p in theirs} | {"distance_vjp"}
    more = [p.replace(kind=_KEYWORD) for p in own.values() if p.name not in names]
    if is_labelled(record):
        more.append(inspect.Parameter("check_indices", _KEYWORD, default=False))
    theirs, OURS[record.name] = _bare(theirs), _bare(more)
    return inspect.Signature([*theirs, *OURS[record.name]])


def _bare(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    """Return parameters without their annotations."""
    return [p.replace(annotation=p.empty) for p in parameters]


def _torch_parameters(name: str) -> list[inspect.Parameter]:
    """Return the parameters of torch's function, none if there is no such function, or it does not tell."""
    function = getattr(torch.nn.functional, name, None)
    if function is None:
        return []
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:  # written in C++
        return []
