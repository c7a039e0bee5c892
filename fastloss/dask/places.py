"""How the blocks of a call's Dask arrays lie to each other: a label for each axis, and which axes are in one block."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fastloss.api.jobs import Job

Index = tuple[str, ...]


class Places(NamedTuple):
    """How blocks lie to each other: an axis has a label, and arrays with the same label are cut in the same places.

    `sizes` has the length of each label; those in `single` are in one block.
    """

    values: Index
    single: frozenset[str]
    sizes: dict[str, int]
    of: dict[str, Index]

    @property
    def cut(self) -> Index:
        """The labels of axes that are in several blocks."""
        return tuple([label for label in self.sizes if label not in self.single])


def labels(name: str, count: int) -> Index:
    """Return labels for so many axes."""
    return tuple([f"{name} {axis}" for axis in range(count)])


def places_of(job: Job, arrays: dict[str, Any]) -> Places:
    """Return how the arrays of a call lie to each other."""
    if job.loss.name == "linear_cross_entropy":
        return _places_of_linear(job, arrays)
    if job.loss.name == "soft_dice_loss":
        return _places_of_samples(job, arrays)
    layout = job.layout()
    whole = labels("axis", len(layout.shape))
    rows = tuple([whole[axis] for axis in layout.axes])
    kept = tuple([label for label in whole if label not in rows])
    sizes = dict(zip(whole, layout.shape, strict=True))
    single = set(rows)
    values = whole if job.is_map else kept
    if layout.keeps:
        ones = {label: f"one of {label}" for label in rows}
        values = tuple([ones.get(label, label) for label in whole])
        single |= {*ones.values()}
        sizes |= dict.fromkeys(ones.values(), 1)
    of = {}
    for name, array in arrays.items():
        index = _index(job, name, array.shape, layout, whole, kept)
        of[name] = index
        for label, size in zip(index, array.shape, strict=True):
            if label not in sizes:
                sizes[label] = size
                single.add(label)
    return Places(values, frozenset(single), sizes, of)


def _index(job: Job, name: str, shape: tuple[int, ...], layout: Any, whole: Index, kept: Index) -> Index:
    """Return the labels of the axes of an array."""
    rank = len(shape)
    if name == "divisor":
        return labels(name, rank)
    if name == "sample_weight":
        return kept[:rank]
    if name == "grad_output":
        return () if rank == 0 else whole if layout.keeps or job.is_map else kept
    if layout.kind == "elements":
        return whole[len(whole) - rank :]
    if shape == layout.shape or (layout.kind == "rows" and name not in ("target", "weight")):
        return whole
    if name == "weight":
        return tuple([whole[axis] for axis in layout.axes])
    if job.loss.name == "ctc_loss":
        if name == "targets" and rank != 1 + len(kept):
            raise ValueError(f"targets of Dask arrays must have shape (N, S), got {shape}")
        return (*kept, *labels(name, rank - len(kept)))
    if shape == layout.kept:
        return kept
    if math.prod(shape) == 1:
        return labels(name, rank)
    job.check()  # says what is wrong in the words of the loss
    raise ValueError(f"{name} must have shape {layout.kept}, got {shape}")


def _places_of_linear(job: Job, arrays: dict[str, Any]) -> Places:
    """Return the places of linear_cross_entropy: rows are cut, features and classes are not."""
    job.check()
    input, target = arrays["input"], arrays["target"]
    rows = ("row",) if input.ndim == 2 else ()
    soft = target.dtype.kind == "f"
    inner = labels("inner", target.ndim - len(rows) - soft)
    values = (*rows, *inner)
    of = {}
    for name, array in arrays.items():
        index = labels(name, array.ndim)
        if name == "input":
            index = (*rows, *index[len(rows) :])
        elif name == "target":
            index = (*rows, *(("class",) if soft else ()), *inner)
        elif name in ("sample_weight", "grad_output"):
            index = values[: array.ndim]
        of[name] = index
    sizes = {label: size for name, index in of.items() for label, size in zip(index, arrays[name].shape, strict=True)}
    return Places(values, frozenset(sizes.keys() - {"row"}), sizes, of)


def _places_of_samples(job: Job, arrays: dict[str, Any]) -> Places:
    """Return the places of soft_dice_loss: samples are cut, all other axes are not."""
    shape = job.shapes[0]
    if len(shape) < 2 or job.keywords["dim"] % len(shape) == 0:
        raise ValueError(f"soft_dice_loss of Dask arrays needs samples along the first axis, got shape {shape}")
    whole = labels("axis", len(shape))
    values = whole[: min(2, len(shape) - 1)]
    of = {name: whole if array.shape == shape else values[: array.ndim] for name, array in arrays.items()}
    of |= {"divisor": ()} if "divisor" in arrays else {}
    return Places(values, frozenset(whole[1:]), dict(zip(whole, shape, strict=True)), of)
