"""What the page of a loss draws: its value and its gradient while one argument moves along a line.

One sample, or one small batch, is computed at each point by the loss itself in float64. A loss of single elements, and
one of a row of classes, is drawn as its family and the kinds of its arrays say; the others have an entry each.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import fastloss as fl
from fastloss.define.record import Loss

POINTS = 241
# A jump of the gradient is looked for at the multiples of this step, so far to either side, and counts from here on.
STEP, NEAR, JUMP = 0.25, 1e-7, 1e-3
# Colours on light pages, and what they are on dark ones.
TEXT, COLOURS = "#222832", ("#0072b2", "#d55e00", "#007f5f")
COLOURED = ("text.color", "axes.labelcolor", "axes.titlecolor", "axes.edgecolor", "xtick.color", "ytick.color")
DARK = {TEXT: "#ced6dd", **dict(zip(COLOURS, ("#6cb8f0", "#ff9d5c", "#5fd3a8"), strict=True))}

Arguments = dict[str, Any]


class Sketch(NamedTuple):
    """A line through the arguments of a loss: the argument `moved` gets ``start + s * along`` for s from low to high.

    `curves` has the other arguments of each curve by its label; `s` is the label of the horizontal axis. Of a result
    that is an array the entry `picked` is drawn. The argument is `through` of what moves, where a loss takes the
    gradient with respect to that.
    """

    s: str
    low: float
    high: float
    moved: str
    start: Any
    along: Any
    curves: dict[str, Arguments]
    picked: int | None = None
    through: Callable[[Any], Any] = np.asarray


class Kink(NamedTuple):
    """A point where the gradient jumps: the curve's label, the point, the gradient before, at and after it."""

    label: str
    s: float
    before: float
    at: float
    after: float


# Range of s by the kind of the moved array, and values of the target by its kind.
RANGES = {"positive": (0.05, 6.0), "probability": (0.01, 0.99), "log_probability": (-4.0, 0.0)}
TARGETS = {
    "binary": (1.0, 0.0),
    "probability": (1.0, 0.0, 0.5),
    "sign": (1.0, -1.0),
    "count": (0.0, 1.0, 3.0),
    "real": (0.0,),
}


def sketch_of(loss: Loss) -> Sketch | None:
    """Return what is drawn of a loss; None where nothing says how."""
    if loss.name in SKETCHES:
        return SKETCHES[loss.name]
    if loss.family == "elementwise":
        return _of_elements(loss)
    return _of_rows(loss) if loss.family in ("rowwise", "rowmap") else None


def _of_elements(loss: Loss) -> Sketch:
    low, high = RANGES.get(loss.domains.get("input", "real"), (-3.0, 3.0))
    if "target" not in loss.operands:
        return Sketch("input", low, high, "input", [0.0], [1.0], {"": {}})
    targets = TARGETS[loss.domains.get("target", "real")]
    curves = {f"target {t:g}": {"target": np.array([t])} for t in targets}
    return Sketch("input", low, high, "input", [0.0], [1.0], curves)


def _of_rows(loss: Loss) -> Sketch:
    logits = loss.domains.get("input", "real") == "real"
    along, low, high = np.array([[1.0, 0.0, 0.0]]), *((-6.0, 6.0) if logits else (-4.0, 0.0))
    curves: dict[str, Arguments] = {"": {"dim": 1}}
    if loss.domains.get("target") == "class":
        curves = {"the target is class 0": {"target": [0]}, "the target is class 1": {"target": [1]}}
    elif "target" in loss.operands:
        curves = {"targets 1, 0, 0": {"target": [[1.0, 0.0, 0.0]]}, "targets 0, 0, 0": {"target": [[0.0, 0.0, 0.0]]}}
    picked = 0 if loss.family == "rowmap" else None
    return Sketch("input of class 0, the others are 0", low, high, "input", 0 * along, along, curves, picked)


def _pair(first: str, second: str, label: str, curves: dict[str, Arguments], **options: Any) -> Sketch:
    """Return a pair of vectors in the plane: (1, 0), and the `first`, which moves from (s, 0.5) along the axis."""
    fixed = {second: np.array([[1.0, 0.0]]), **options}
    curves = {name: {**fixed, **one} for name, one in curves.items()}
    return Sketch(label, -3.0, 3.0, first, np.array([[0.0, 0.5]]), np.array([[1.0, 0.0]]), curves)


def _triplet(**options: Any) -> Sketch:
    """Return an anchor between positive and negative, away from both: there the distances have kinks of their own."""
    given = {"positive": np.zeros((1, 2)), "negative": np.array([[2.0, 0.0]]), **options}
    curves = {f"margin {m:g}": {**given, "margin": m} for m in (1.0, 0.5)}
    label = "s in anchor (s, 0), positive (0, 0), negative (2, 0)"
    return Sketch(label, 0.1, 1.9, "anchor", np.zeros((1, 2)), np.array([[1.0, 0.0]]), curves)


def _masks() -> Sketch:
    along = np.array([[1.0, 0.0, 0.0]])
    curves = {f"target {t}, 1, 0": {"target": np.array([[float(t), 1.0, 0.0]])} for t in (1, 0)}
    return Sketch("input (s, 0.9, 0.2)", 0.0, 1.0, "input", np.array([[0.0, 0.9, 0.2]]), along, curves)


def _soft_masks() -> Sketch:
    along = np.array([[[1.0, 0.0], [0.0, 0.0]]])
    curves = {
        "target class 0": {"target": np.array([[[1.0, 0.0], [0.0, 1.0]]])},
        "target class 1": {"target": np.array([[[0.0, 0.0], [1.0, 1.0]]])},
    }
    return Sketch("logit of class 0 at one of two positions", -6.0, 6.0, "input", 0 * along, along, curves)


def _penalty() -> Sketch:
    return Sketch("a parameter", -3.0, 3.0, "params", [0.0], [1.0], {"": {"coefficient": 1.0}})


def _ctc() -> Sketch:
    along = np.zeros((3, 1, 3))
    along[1, 0, 1] = 1.0
    lengths = {"input_lengths": [3]}
    curves = {
        f"labels {', '.join(map(str, labels))}": {**lengths, "targets": [labels], "target_lengths": [len(labels)]}
        for labels in ([1], [1, 2], [2])
    }
    label = "logit of label 1, second of three frames"
    return Sketch(label, -6.0, 6.0, "log_probs", 0 * along, along, curves, through=lambda x: fl.log_softmax(x, 2))


def _linear() -> Sketch:
    along = np.array([[1.0, 0.0]])
    weight = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]])
    curves = {f"the target is class {k}": {"linear_weight": weight, "target": [k]} for k in (0, 1, 2)}
    return Sketch("first of two features", -6.0, 6.0, "input", np.array([[0.0, 0.5]]), along, curves)


def _adaptive() -> Sketch:
    along = np.array([[1.0, 0.0]])
    given = {
        "head_weight": np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.5]]),
        "tail_weights": [(np.eye(2), np.array([[1.0, 0.0], [0.0, 1.0]]))],
        "cutoffs": [2],
    }
    curves = {f"the target is class {k}": {**given, "target": [k]} for k in (0, 1, 3)}
    return Sketch("first of two features", -6.0, 6.0, "input", np.array([[0.0, 0.5]]), along, curves)


def _contrast() -> Sketch:
    query, key = np.array([[0.0, 0.5], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    along = np.array([[1.0, 0.0], [0.0, 0.0]])
    curves = {f"temperature {t:g}": {"key": key, "temperature": t} for t in (1.0, 0.5)}
    return Sketch("first query (s, 0.5) of two; its key is (1, 0)", -3.0, 3.0, "query", query, along, curves)


def _label_sets() -> Sketch:
    along = np.array([[1.0, 0.0, 0.0]])
    curves = {f"target class {k}": {"target": np.array([[k, -1, -1]])} for k in (0, 1)}
    return Sketch("input of class 0, the others are 0", -3.0, 3.0, "input", 0 * along, along, curves)


_SIGNED = {f"target {t:g}": {"target": np.array([t])} for t in (1.0, -1.0)}
SKETCHES: dict[str, Sketch] = {
    "gaussian_nll_loss": Sketch(
        "input", -3.0, 3.0, "input", [0.0], [1.0],
        {f"target 0, var {v:g}": {"target": np.array([0.0]), "var": np.array([v])} for v in (1.0, 0.25, 4.0)},
    ),
    "kl_div": Sketch(
        "input, a log-probability", -4.0, 0.0, "input", [0.0], [1.0],
        {f"target {t:g}": {"target": np.array([t])} for t in (0.9, 0.5, 0.1)},
    ),
    "poisson_nll_loss": Sketch(
        "input, the logarithm of the rate", -3.0, 3.0, "input", [0.0], [1.0],
        {f"target {t:g}": {"target": np.array([t])} for t in TARGETS["count"]},
    ),
    "quantile_loss": Sketch(
        "input - target", -3.0, 3.0, "input", [0.0], [1.0],
        {f"q = {q:g}": {"target": np.zeros(1), "q": q} for q in (0.5, 0.1, 0.9)},
    ),
    "huber_loss": Sketch(
        "input - target", -3.0, 3.0, "input", [0.0], [1.0],
        {f"delta = {d:g}": {"target": np.zeros(1), "delta": d} for d in (1.0, 0.5, 2.0)},
    ),
    "smooth_l1_loss": Sketch(
        "input - target", -3.0, 3.0, "input", [0.0], [1.0],
        {f"beta = {b:g}": {"target": np.zeros(1), "beta": b} for b in (1.0, 0.5, 2.0)},
    ),
    "margin_ranking_loss": Sketch(
        "input1, with input2 = 0", -3.0, 3.0, "input1", [0.0], [1.0],
        {name: {**one, "input2": np.zeros(1), "margin": 0.5} for name, one in _SIGNED.items()},
    ),
    "cosine_similarity": _pair("x1", "x2", "s in x1 = (s, 0.5), x2 = (1, 0)", {"": {}}),
    "cosine_embedding_loss": _pair("input1", "input2", "s in input1 = (s, 0.5), input2 = (1, 0)", _SIGNED),
    "pairwise_distance": _pair(
        "x1", "x2", "s in x1 = (s, 0.5), x2 = (1, 0)", {f"p = {p:g}": {"p": p} for p in (2.0, 1.0, math.inf)}, eps=0.0
    ),
    "triplet_margin_loss": _triplet(eps=0.0),
    "triplet_margin_with_distance_loss": _triplet(),
    "dice_loss": _masks(),
    "soft_dice_loss": _soft_masks(),
    "l1_penalty": _penalty(),
    "l2_penalty": _penalty(),
    "ctc_loss": _ctc(),
    "linear_cross_entropy": _linear(),
    "adaptive_log_softmax_with_loss": _adaptive(),
    "info_nce_loss": _contrast(),
    "multilabel_margin_loss": _label_sets(),
}  # fmt: skip


def computed(loss: Loss, sketch: Sketch, others: Arguments) -> Callable[[float], tuple[float, float]]:
    """Return what gives value and derivative of a curve at a point."""
    step = fl.value_and_grad(loss.function, wrt=sketch.moved)
    start, along = np.asarray(sketch.start, np.float64), np.asarray(sketch.along, np.float64)
    options: Arguments = {}
    if sketch.picked is not None:
        options["grad_output"] = (np.arange(along.size) == sketch.picked).astype(float).reshape(along.shape)

    def at(s: float) -> tuple[float, float]:
        value, gradient = step(**{sketch.moved: sketch.through(start + s * along)}, **others, **options)
        value = getattr(value, "loss", value)
        return float(np.ravel(value)[sketch.picked or 0]), float(np.sum(gradient * along))

    return at


def kinks(loss: Loss, sketch: Sketch) -> list[Kink]:
    """Return where the gradient of a curve jumps, of the multiples of a quarter inside the range."""
    found = []
    for label, others in sketch.curves.items():
        at = computed(loss, sketch, others)
        first, last = math.ceil(sketch.low / STEP), math.floor(sketch.high / STEP)
        for s in (STEP * k for k in range(first, last + 1) if sketch.low < STEP * k < sketch.high):
            before, here, after = at(s - NEAR)[1], at(s)[1], at(s + NEAR)[1]
            if abs(after - before) > JUMP:
                found.append(Kink(label, s, before, here, after))
    return found


def draw(loss: Loss, sketch: Sketch, jumps: Sequence[Kink], light: Path, dark: Path) -> None:
    """Write the picture of a loss for light pages, and the same in other colours for dark ones."""
    grid = np.linspace(sketch.low, sketch.high, POINTS)
    with mpl.rc_context(dict.fromkeys(COLOURED, TEXT)):
        figure = Figure(figsize=(8.4, 3.3), layout="constrained")
        value, gradient = figure.subplots(1, 2)
    for (label, others), colour, dash in zip(sketch.curves.items(), COLOURS, ("-", "--", "-."), strict=False):
        values, slopes = np.transpose([computed(loss, sketch, others)(s) for s in grid])
        places = [kink.s for kink in jumps if kink.label == label]
        slopes[np.isclose(grid[:, None], places, atol=1e-9).any(axis=1)] = np.nan  # no line across a jump
        for axis, line in ((value, values), (gradient, slopes)):
            axis.plot(grid, line, dash, color=colour, label=label or None, linewidth=2)
    for axis, title in ((value, "value"), (gradient, f"gradient with respect to {sketch.moved}")):
        axis.set(title=title, xlabel=sketch.s, xlim=(sketch.low, sketch.high))
        axis.grid(alpha=0.25, color=TEXT)
    if any(sketch.curves):
        value.legend(frameon=False, labelcolor=TEXT)
    with mpl.rc_context({"svg.hashsalt": loss.name, "svg.fonttype": "path"}):
        figure.savefig(light, transparent=True, metadata={"Date": None})
    text = light.read_text("utf-8")
    for here, there in DARK.items():
        text = text.replace(here, there)
    dark.write_text(text, "utf-8")
