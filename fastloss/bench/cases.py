"""One natural case for every loss of the registry: arrays by family and domain, and torch's counterpart."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastloss._registry import LOSSES
from fastloss._spec import Loss

# Floats of the main operand: in cache, beside it, far beyond it.
ELEMENTS = {"small": 1 << 12, "medium": 1 << 20, "large": 1 << 24}
# Shapes (rows, columns) of losses over a class axis and of losses over vectors.
ROWS = {"small": (64, 10), "medium": (4096, 256), "large": (16384, 1000)}
VECTORS = {"small": (64, 64), "medium": (4096, 256), "large": (65536, 256)}
# (time, batch, classes, labels) of ctc_loss; (tokens, features, vocabulary) of losses with a large output.
CTC = {"small": (20, 4, 16, 5), "medium": (100, 32, 64, 20), "large": (200, 64, 64, 40)}
OUTPUT = {"small": (32, 32, 500), "medium": (256, 128, 8000), "large": (2048, 512, 16384)}


class Case(NamedTuple):
    """A loss with arguments; `wrt` is what is differentiated, `operands` the arrays by name, `options` the rest."""

    loss: Loss
    size: str
    operands: dict[str, Any]
    options: dict[str, Any]
    wrt: tuple[str, ...]

    @property
    def shape(self) -> str:
        """The shape of the main operand, as text."""
        first = next(iter(self.operands.values()))
        return "x".join(map(str, first.shape))

    def arrays(self) -> list[Any]:
        """Return every array that the call reads."""
        return list(self.operands.values())

    def gradients(self) -> list[Any]:
        """Return an array for each gradient, touched."""
        return [np.zeros_like(self.operands[name]) + np.float32(0) for name in self.wrt]


def case_of(loss: Loss, size: str) -> Case | None:
    """Return the case of a loss, or None for one that takes more than arrays and has no recipe here."""
    recipe = _RECIPES.get(loss.name, _FAMILIES.get(loss.family))
    if recipe is None:
        return None
    operands, options = recipe(loss, size, np.random.default_rng(0))
    wrt = tuple(name for name in loss.wrt if name in operands)
    return Case(loss, size, operands, options, wrt)


def cases(names: list[str] | None = None, sizes: tuple[str, ...] = ("small", "medium", "large")) -> list[Case]:
    """Return the cases of the named losses, or of all."""
    unknown = [name for name in names or () if name not in LOSSES]
    if unknown:
        raise ValueError(f"unknown loss {', '.join(unknown)}; known: {', '.join(sorted(LOSSES))}")
    found = (case_of(LOSSES[name], size) for name in names or LOSSES for size in sizes)
    return [case for case in found if case is not None]


# -- arrays by domain -------------------------------------------------------------------------------------------------


def values(domain: str | None, shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    """Return float32 numbers of a domain; real numbers where it has no name here."""
    if domain in ("probability", "unit_interval", "unit"):
        return generator.uniform(0.01, 0.99, shape).astype(np.float32)
    if domain == "log_probability":
        raw = generator.standard_normal(shape, dtype=np.float32)
        return raw - np.log(np.exp(raw).sum(axis=-1, keepdims=True))
    if domain in ("positive", "non_negative", "variance"):
        return generator.uniform(0.1, 2.0, shape).astype(np.float32)
    if domain == "sign":
        return generator.choice(np.array([-1, 1], np.float32), shape)
    if domain in ("count", "counts"):
        return generator.poisson(3.0, shape).astype(np.float32)
    if domain in ("binary", "multilabel"):
        return generator.integers(0, 2, shape).astype(np.float32)
    return generator.standard_normal(shape, dtype=np.float32)


def _required(loss: Loss) -> list[str]:
    """Return the arguments of a loss that have no default."""
    parameters = inspect.signature(loss.describe).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]


Recipe = Callable[[Loss, str, np.random.Generator], tuple[dict[str, Any], dict[str, Any]]]


def _elementwise(loss: Loss, size: str, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    shape: tuple[int, ...] = (ELEMENTS[size],)
    if "log_probability" in loss.domains.values():
        shape = (ELEMENTS[size] // 64, 64)
    names = [name for name in _required(loss) if name not in loss.options]
    return {name: values(loss.domains.get(name), shape, generator) for name in names}, {}


def _rowwise(loss: Loss, size: str, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    rows, columns = ROWS[size]
    operands = {"input": values(loss.domains.get("input"), (rows, columns), generator)}
    names = _required(loss)
    if "target" in names:
        if loss.domains.get("target") == "class":
            operands["target"] = generator.integers(0, columns, rows)
        else:
            operands["target"] = values(loss.domains.get("target"), (rows, columns), generator)
    return operands, {"dim": 1} if "dim" in names else {}


def _pairwise(loss: Loss, size: str, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    shape = VECTORS[size]
    names = [name for name in _required(loss) if name not in loss.options]
    return {
        name: values(loss.domains.get(name), shape[:1] if name == "target" else shape, generator) for name in names
    }, {}


def _multilabel_margin(loss: Loss, size: str, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    rows, columns = ROWS[size]
    target = np.full((rows, columns), -1, np.int64)
    target[:, :3] = np.arange(3) + generator.integers(0, columns - 3, (rows, 1))
    return {"input": generator.standard_normal((rows, columns), dtype=np.float32), "target": target}, {}


def _ctc(loss: Loss, size: str, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    times, batch, classes, labels = CTC[size]
    operands = {
        "log_probs": values("log_probability", (times, batch, classes), generator),
        "targets": generator.integers(1, classes, (batch, labels)),
        "input_lengths": np.full(batch, times),
        "target_lengths": np.full(batch, labels),
    }
    return operands, {}


def _linear(loss: Loss, size: str, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    tokens, features, vocabulary = OUTPUT[size]
    weight = generator.standard_normal((vocabulary, features), dtype=np.float32) / np.float32(math.sqrt(features))
    names = _required(loss)
    operands = {
        names[0]: generator.standard_normal((tokens, features), dtype=np.float32),
        "linear_weight": weight,
        "target": generator.integers(0, vocabulary, tokens),
    }
    return {name: operands[name] for name in names}, {}


def _penalty(loss: Loss, size: str, generator: np.random.Generator) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"params": generator.standard_normal(ELEMENTS[size], dtype=np.float32)}, {"coefficient": 0.5}


_FAMILIES: Mapping[str, Recipe] = {
    "elementwise": _elementwise,
    "rowwise": _rowwise,
    "rowmap": _rowwise,
    "pairwise": _pairwise,
}
_RECIPES: Mapping[str, Recipe] = {
    "multilabel_margin_loss": _multilabel_margin,
    "ctc_loss": _ctc,
    "linear_cross_entropy": _linear,
    "l1_penalty": _penalty,
    "l2_penalty": _penalty,
}


# -- torch ------------------------------------------------------------------------------------------------------------


def torch_call(case: Case) -> tuple[Callable[..., Any], list[Any]] | None:
    """Return torch's function and its tensors, those of `wrt` requiring a gradient; None where torch has none."""
    import torch

    function = _torch_function(case.loss.name)
    if function is None:
        return None
    tensors = []
    for name, array in case.operands.items():
        tensor = torch.from_numpy(array)
        tensors.append(tensor.clone().requires_grad_(True) if name in case.wrt else tensor)
    return functools.partial(function, **case.options), tensors


def _torch_function(name: str) -> Callable[..., Any] | None:
    import torch

    functional: Any = torch.nn.functional
    composed: dict[str, Callable[..., Any]] = {
        "linear_cross_entropy": lambda x, w, t: functional.cross_entropy(functional.linear(x, w), t),
        "l1_penalty": lambda params, coefficient: coefficient * params.abs().sum(),
        "l2_penalty": lambda params, coefficient: 0.5 * coefficient * (params * params).sum(),
    }
    found = composed.get(name) or getattr(functional, name, None) or getattr(torch, name, None)
    return found if callable(found) else None
