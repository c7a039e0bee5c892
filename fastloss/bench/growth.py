"""Growth: time and memory against N over four decades and against C from 2 to 262144; one thread against all.

And shapes that somebody asks for.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastloss.bench.cases import EXTENTS, Extent
from fastloss.bench.contenders import Contender
from fastloss.bench.session import Plan, Step
from fastloss.define.registry import LOSSES

# One or two losses of each family.
BY_ELEMENTS = (
    "mse_loss", "binary_cross_entropy_with_logits", "cross_entropy", "cosine_embedding_loss", "triplet_margin_loss",
)  # fmt: skip
BY_CLASSES = ("cross_entropy", "softmax", "multi_margin_loss")

# From few classes to the vocabularies of language models. There 2**27 elements are many times the last cache, and from
# 8192 rows on every multiprocessor has work.
CLASSES_ON_GPU = (10, 32, 100, 320, 1000, 4096, 8192, 16384, 32768, 65536, 131072, 262144)

# What a quick run looks at.
QUICK = ("mse_loss", "cross_entropy", "cosine_embedding_loss")

# Rows of the growth against N have this many classes, vectors this many components.
COLUMNS = 100
FAMILIES_OF_ROWS = ("rowwise", "rowmap")
FAMILIES = ("elementwise", "pairwise", *FAMILIES_OF_ROWS)


def element_counts(quick: bool) -> list[int]:
    """Return N from a thousand to ten million, two points a decade (one when `quick`)."""
    return [round(10 ** (half / 2)) // COLUMNS * COLUMNS for half in range(6, 15, 2 if quick else 1)]


def class_counts(quick: bool) -> list[int]:
    """Return C from 2 to 262144, every power of two (every other one when `quick`)."""
    return [2**exponent for exponent in range(1, 19)][:: 2 if quick else 1] + ([1 << 18] if quick else [])


def by_elements(plan: Plan) -> list[Step]:
    """Return the steps of the growth against N, on one thread and on all."""
    extents = [Extent(n, (n // COLUMNS, COLUMNS), (n // COLUMNS, COLUMNS)) for n in element_counts(plan.quick)]
    return [
        Step("elements", loss, f"N={extent.elements}", _free(plan, threads), threads, extent, True, place)
        for loss in _known(plan, BY_ELEMENTS, FAMILIES)
        for extent in extents
        for threads in _thread_counts(plan)
        for place in plan.places
    ]


def by_classes(plan: Plan) -> list[Step]:
    """Return the steps of the growth against C, N·C being constant; on a GPU there are 4096 rows at the least."""
    if plan.device == "cpu":
        total = 1 << (20 if plan.quick else 22)
        shapes = [(total // c, c) for c in class_counts(plan.quick)]
    else:
        counts = CLASSES_ON_GPU[1::4] if plan.quick else CLASSES_ON_GPU
        shapes = [(max((1 << 27) // c, min(8192, (1 << 30) // c)), c) for c in counts]
    extents = {c: Extent(rows * c, (rows, c), (rows, c)) for rows, c in shapes}
    return [
        Step("classes", loss, f"C={c}", _free(plan, threads), threads, extent, True, place)
        for loss in _known(plan, BY_CLASSES, FAMILIES_OF_ROWS)
        for c, extent in extents.items()
        for threads in _thread_counts(plan)
        for place in plan.places
    ]


def by_shape(plan: Plan, shapes: Sequence[tuple[int, int]]) -> list[Step]:
    """Return the steps of these numbers of rows and columns, for every loss that takes them."""
    return [
        Step("shapes", loss, f"{rows}x{columns}", plan.contenders, plan.threads, extent, place=place)
        for loss in plan.losses
        if LOSSES[loss].family in FAMILIES
        for rows, columns in shapes
        for extent in [Extent(rows * columns, (rows, columns), (rows, columns))]
        for place in plan.places
    ]


def by_threads(plan: Plan) -> list[Step]:
    """Return the steps of one thread against all, for every loss at its largest size."""
    counts = _thread_counts(plan)
    size = "medium" if plan.quick else "large"
    free = [one for one in plan.contenders if not one.threads_fixed and one.name != "numpy"]
    if len(counts) < 2 or not free:
        return []
    losses = [loss for loss in plan.losses if loss in QUICK] if plan.quick else plan.losses
    return [
        Step("threads", loss, size, free, threads, EXTENTS[size], place=place)
        for loss in losses
        for threads in counts
        for place in plan.places
    ]


def _thread_counts(plan: Plan) -> list[int]:
    return sorted({1, plan.threads}) if plan.device == "cpu" else [plan.threads]


def _free(plan: Plan, threads: int) -> list[Contender]:
    """Return who can run with this number of threads: all with the number for which the process was set up."""
    return [one for one in plan.contenders if threads == plan.threads or not one.threads_fixed]


def _known(plan: Plan, preferred: Sequence[str], families: Sequence[str]) -> list[str]:
    """Return the losses that grow: the preferred ones, or those named where not all were asked for."""
    if len(plan.losses) < len(LOSSES):
        return [name for name in plan.losses if LOSSES[name].family in families]
    return [name for name in preferred if name in plan.losses and (not plan.quick or name in QUICK)]
