"""One natural case for every loss of the registry: arrays by family and domain, at the size asked for."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastloss.bench.places import HOST, Host
from fastloss.define.record import Loss
from fastloss.define.registry import LOSSES, loss_named


class Extent(NamedTuple):
    """How large a case is, for every kind of loss.

    `elements` of the main operand; `rows` (rows, classes) of losses over a class axis; `vectors` (vectors, components);
    `ctc` (time, batch, classes, labels) of ctc_loss; `output` (tokens, features, vocabulary) of losses with a large
    output.
    """

    elements: int
    rows: tuple[int, int]
    vectors: tuple[int, int]
    ctc: tuple[int, int, int, int] = (20, 4, 16, 5)
    output: tuple[int, int, int] = (32, 32, 500)


# In the first cache, in the last one, far beyond it; "huge" is far beyond the last cache of a GPU.
EXTENTS = {
    "small": Extent(1 << 12, (64, 10), (64, 64)),
    "medium": Extent(1 << 20, (4096, 256), (4096, 256), (100, 32, 64, 20), (256, 128, 8000)),
    "large": Extent(1 << 24, (16384, 1000), (65536, 256), (200, 64, 64, 40), (2048, 512, 16384)),
    "huge": Extent(1 << 26, (8192, 8192), (262144, 256), (200, 512, 64, 40), (8192, 1024, 32768)),
}
# What is run unless sizes are named, by device.
SIZES = {"cpu": ("small", "medium", "large"), "cuda": ("small", "large", "huge")}


class Case(NamedTuple):
    """A loss with arguments.

    `operands` are the arrays by name, at `place`; `wrt` names what is differentiated, `options` are the rest.
    """

    loss: Loss
    size: str
    operands: dict[str, Any]
    options: dict[str, Any]
    wrt: tuple[str, ...]
    place: Host = HOST

    @property
    def shape(self) -> str:
        """The shape of the main operand, as text."""
        first = next(iter(self.operands.values()))
        return "x".join(map(str, first.shape))

    @property
    def elements(self) -> int:
        """How many elements the main operand has."""
        first = next(iter(self.operands.values()))
        return math.prod(first.shape)

    def moved(self) -> int:
        """Return how many bytes have to be read and written at the least: the operands and the gradients."""
        return int(sum(a.nbytes for a in self.arrays()) + sum(self.operands[name].nbytes for name in self.wrt))

    def arrays(self) -> list[Any]:
        """Return every array that the call reads."""
        return list(self.operands.values())


def case_of(loss: Loss, size: str, extent: Extent | None = None, place: Host = HOST) -> Case | None:
    """Return the case of a loss at an extent (that of `size` by default); None for one that no recipe here covers."""
    recipe = _RECIPES.get(loss.name, _FAMILIES.get(loss.family))
    if recipe is None:
        return None
    operands, options = recipe(loss, extent or EXTENTS[size], np.random.default_rng(0))
    wrt = tuple(name for name in loss.wrt if name in operands)
    if not wrt or set(_required(loss)) - set(operands) - set(options):
        return None
    return Case(loss, size, {name: place.put(array) for name, array in operands.items()}, options, wrt, place)


def chosen(names: Sequence[str] | None) -> list[Loss]:
    """Return the named losses, or all."""
    return [loss_named(name) for name in names or LOSSES]


def cases(names: Sequence[str] | None = None, sizes: Sequence[str] = SIZES["cpu"]) -> Iterator[Case]:
    """Yield the cases of the named losses, or of all; made one by one, for the large ones fill the memory."""
    for loss in chosen(names):
        for size in sizes:
            case = case_of(loss, size)
            if case is not None:
                yield case


# -- arrays by domain -------------------------------------------------------------------------------------------------


def _log_probability(generator: np.random.Generator, shape: tuple[int, ...]) -> Any:
    raw = generator.standard_normal(shape, dtype=np.float32)
    return raw - np.log(np.exp(raw).sum(axis=-1, keepdims=True))


# Kinds of values (KINDS of fastloss/define/record.py) but for those of class indices, which depend on the number
GENERATORS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "real": lambda generator, shape: generator.standard_normal(shape, dtype=np.float32),
    "positive": lambda generator, shape: generator.uniform(0.1, 2.0, shape),
    "count": lambda generator, shape: generator.poisson(3.0, shape),
    "probability": lambda generator, shape: generator.uniform(0.01, 0.99, shape),
    "log_probability": _log_probability,
    "sign": lambda generator, shape: generator.choice([-1, 1], shape),
    "binary": lambda generator, shape: generator.integers(0, 2, shape),
}


def values(kind: str | None, shape: tuple[int, ...], generator: np.random.Generator) -> Any:
    """Return float32 numbers of a kind; real numbers where there is none."""
    return GENERATORS[kind or "real"](generator, shape).astype(np.float32)


def _required(loss: Loss) -> list[str]:
    """Return the arguments of a loss that have no default."""
    parameters = inspect.signature(loss.describe).parameters.values()
    return [p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]


# Arrays and options, by name.
Arguments = tuple[dict[str, Any], dict[str, Any]]
Recipe = Callable[[Loss, Extent, np.random.Generator], Arguments]


def _elementwise(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    shape: tuple[int, ...] = (extent.elements,)
    if "log_probability" in loss.domains.values():
        shape = (max(1, extent.elements // 64), 64)
    names = [name for name in _required(loss) if name not in loss.options]
    return {name: values(loss.domains.get(name), shape, generator) for name in names}, {}


def _rowwise(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    rows, columns = extent.rows
    operands = {"input": values(loss.domains.get("input"), (rows, columns), generator)}
    names = _required(loss)
    if "target" in names:
        if loss.domains.get("target") == "class":
            operands["target"] = generator.integers(0, columns, rows)
        else:
            operands["target"] = values(loss.domains.get("target"), (rows, columns), generator)
    return operands, {"dim": 1} if "dim" in inspect.signature(loss.describe).parameters else {}


def _pairwise(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    shape = extent.vectors
    names = [name for name in _required(loss) if name not in loss.options]
    return {
        name: values(loss.domains.get(name), shape[:1] if name == "target" else shape, generator) for name in names
    }, {}


def _multilabel_margin(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    rows, columns = extent.rows
    target = np.full((rows, columns), -1, np.int64)
    target[:, :3] = np.arange(3) + generator.integers(0, columns - 3, (rows, 1))
    return {"input": generator.standard_normal((rows, columns), dtype=np.float32), "target": target}, {}


def _ctc(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    times, batch, classes, labels = extent.ctc
    operands = {
        "log_probs": values("log_probability", (times, batch, classes), generator),
        "targets": generator.integers(1, classes, (batch, labels)),
        "input_lengths": np.full(batch, times),
        "target_lengths": np.full(batch, labels),
    }
    return operands, {}


def _linear(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    tokens, features, vocabulary = extent.output
    weight = generator.standard_normal((vocabulary, features), dtype=np.float32) / np.float32(math.sqrt(features))
    names = _required(loss)
    operands = {
        names[0]: generator.standard_normal((tokens, features), dtype=np.float32),
        "linear_weight": weight,
        "target": generator.integers(0, vocabulary, tokens),
    }
    return {name: operands[name] for name in names}, {}


def _segmentation(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    shape = (max(1, extent.elements // 4096), 4, min(1024, max(1, extent.elements // 4)))
    return {name: values(loss.domains.get(name), shape, generator) for name in ("input", "target")}, {}


def _contrastive(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    pairs, features, _ = extent.output
    shape = pairs, features
    return {name: generator.standard_normal(shape, dtype=np.float32) for name in ("query", "key")}, {}


def _penalty(loss: Loss, extent: Extent, generator: np.random.Generator) -> Arguments:
    return {"params": generator.standard_normal(extent.elements, dtype=np.float32)}, {"coefficient": 0.5}


_FAMILIES: Mapping[str, Recipe] = {
    "elementwise": _elementwise,
    "rowwise": _rowwise,
    "rowmap": _rowwise,
    "pairwise": _pairwise,
    "sums": _segmentation,
}
_RECIPES: Mapping[str, Recipe] = {
    "multilabel_margin_loss": _multilabel_margin,
    "ctc_loss": _ctc,
    "linear_cross_entropy": _linear,
    "info_nce_loss": _contrastive,
    "soft_dice_loss": _segmentation,
    "l1_penalty": _penalty,
    "l2_penalty": _penalty,
}
