"""What is known of a loss before any array is seen: an entry of the registry, and the words that it is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fastloss.define.options import Domain

# The families, each with loops of its own (or a program of the calling path), and the description that it runs.
FAMILIES = {
    "elementwise": "Elementwise",
    "rowwise": "Rowwise",
    "rowmap": "RowMap",
    "pairwise": "Pairwise, or OfDistances",
    "label_sets": "LabelSets",
    "penalty": "Penalty",
    "sequence": "Alignment",
    "projected": "Projected",
    "clustered": "Clustered",
    "sums": "Pairwise, along any axes",
    "chain": "Applied, or WeightedSum",
}

# The values an array argument may hold. Whoever makes arrays (the tests, the benchmark) has a generator for each.
KINDS = {
    "real": "any number; what an argument takes that says nothing else",
    "positive": "numbers > 0",
    "count": "numbers >= 0, as a Poisson variable takes",
    "probability": "numbers in [0, 1]",
    "log_probability": "logarithms of probabilities",
    "sign": "-1 or 1",
    "binary": "0 or 1",
    "class": "the class index of each row",
    "class_list": "class indices of each row, ended by -1",
}


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """What is known of a loss before any array is seen; one entry of the registry.

    Attributes
    ----------
    name, family
        The public name, and the family of loops that runs it, a key of ``FAMILIES``.
    function, describe
        The public function, and the undecorated one that turns arguments into a description.
    wrt, differentiable
        The arguments a gradient is taken of unless told otherwise, and all that may be named in ``wrt=``: for each
        of these the maths must return a derivative.
    hessian
        ``"exact"``, ``"zero"`` (zero almost everywhere) or ``None`` (not defined).
    options
        The domain of every keyword-only option that has one.
    domains
        For each array argument the kind of values it takes, a key of ``KINDS``, ``"real"`` where it is not named.
        Tests and benchmarks make such values. ``"class"`` also says that the target must be given.
    legacy
        Whether ``size_average`` and ``reduce`` are accepted, as by the losses of torch that had them once.
    also
        Optional arguments that a gradient is taken of too, unless told otherwise, where they are given.
    positional, operands
        The arguments that may be given by position, and those of all that are arrays: a description is made of operands
        in their place, which have shapes and dtypes but no numbers.
    common
        The options of many losses that this one has too; its description does not see them.
    modules
        The loss classes of the function.
    axis_name
        What the user calls the axis that rows or vectors lie along, or those that are summed over.
    """

    name: str
    family: str
    function: Callable[..., Any]
    describe: Callable[..., Any]
    wrt: tuple[str, ...]
    differentiable: tuple[str, ...]
    hessian: str | None
    options: Mapping[str, Domain]
    domains: Mapping[str, str]
    legacy: bool
    also: tuple[str, ...] = ()
    positional: tuple[str, ...] = ()
    operands: frozenset[str] = frozenset()
    common: tuple[str, ...] = ()
    modules: list[type] = field(default_factory=list)
    axis_name: str = field(init=False)

    def __post_init__(self) -> None:
        name = "axes" if self.family == "sums" else "axis" if "axis" in self.common else "dim"
        object.__setattr__(self, "axis_name", name)
