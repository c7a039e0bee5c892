"""The table that all test files iterate over: for every loss, arguments to call it with.

The first case of a loss is its plainest; tests that cross many dtypes, layouts or threads use that one alone, because
every combination of dtype, present arguments and result compiles a kernel. Further cases with the same arguments and
another shape cost nothing.
"""

import inspect
import zlib
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import pytest
import reference

import fastloss as fl
from fastloss.define.registry import LOSSES

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


class Case(NamedTuple):
    """Arguments of a loss: the shape of each array, or (kind, shape); a kind is a key of KINDS."""

    loss: str
    arrays: dict[str, Any]
    options: dict[str, Any] = {}  # noqa: RUF012 (a field of a tuple, never written)

    def __str__(self):
        shapes = "-".join("x".join(map(str, _shape(spec))) or "scalar" for spec in self.arrays.values())
        options = "".join(f"-{name}={value}" for name, value in self.options.items())
        return f"{self.loss}-{shapes}{options}"

    @property
    def record(self):
        return LOSSES[self.loss]

    @property
    def function(self):
        return getattr(fl, self.loss)

    @property
    def reductions(self):
        """Return the reductions of the loss, as options."""
        domain = self.record.options.get("reduction")
        return [{"reduction": r} for r in domain.examples] if domain else [{}]

    def make(self, dtype="float64", seed=0):
        """Return the arrays by name; floating ones in `dtype`, the others as their kind has them."""
        rng = np.random.default_rng(zlib.crc32(f"{self}{seed}".encode()))
        domains = LOSSES[self.loss].domains if self.loss in LOSSES else {}
        made = {}
        for name, spec in self.arrays.items():
            kind, shape = spec if _has_kind(spec) else (domains.get(name, "real"), spec)
            array = np.asarray(KINDS[kind](rng, shape, made, self.options))
            made[name] = array.astype(DTYPES[dtype]) if array.dtype.kind == "f" else array
        return made

    def wrt(self, arrays):
        """Return the names of the arguments that can be differentiated with these arrays."""
        hard = "target" in arrays and arrays["target"].dtype.kind in "iu"
        names = [name for name in self.record.differentiable if name in arrays]
        if hard and self.record.family in ("rowwise", "projected"):
            names = [name for name in names if name not in ("target", "weight")]
        return tuple(name for name in names if arrays[name].dtype.kind not in "iu")

    def expected(self, arrays, **extra):
        """Return the reference in float64."""
        wide = {name: a if a.dtype.kind in "iu" else a.astype(np.float64) for name, a in arrays.items()}
        return np.asarray(reference.reduced(self.loss, wide, {**self.options, **extra}))

    def call(self, arrays, **extra):
        return self.function(**arrays, **self.options, **extra)

    def value_and_grad(self, arrays, wrt=None, **extra):
        return fl.value_and_grad(self.function, wrt)(**arrays, **self.options, **extra)


def _has_kind(spec):
    return bool(spec) and isinstance(spec[0], str)


def _shape(spec):
    return spec[1] if _has_kind(spec) else spec


def _labels(rng, shape, made, options):
    """Class indices for the input's class axis; every fourth is ignored where the loss can ignore."""
    x = made["input"]
    labels = np.asarray(rng.integers(x.shape[0 if x.ndim == 1 else 1], size=shape))
    if "ignore_index" in options and labels.size > 3:
        labels.reshape(-1)[::4] = options["ignore_index"]
    return labels


def _probabilities(rng, shape, made, options):
    """Rows that sum to one along the class axis, where there is one."""
    p = rng.uniform(0.05, 0.95, shape)
    return p / p.sum(axis=1, keepdims=True)


def _label_lists(rng, shape, made, options):
    """Rows of distinct class indices, ended by -1 and followed by what must be ignored."""
    lists = np.stack([rng.permutation(shape[-1]) for _ in range(int(np.prod(shape[:-1])))])
    for k, row in enumerate(lists):
        row[k % (shape[-1] + 1) : k % (shape[-1] + 1) + 1] = -1
    return lists.reshape(shape)


# Moderate numbers: bounds and infinities have tests of their own. Those of a loss's `domains`, and some more that the
# cases below name.
KINDS = {
    "real": lambda rng, shape, made, options: rng.normal(size=shape) * 1.5,
    "positive": lambda rng, shape, made, options: rng.uniform(0.25, 3, shape),
    "count": lambda rng, shape, made, options: rng.uniform(1.25, 6, shape),
    "probability": lambda rng, shape, made, options: rng.uniform(0.05, 0.95, shape),
    "log_probability": lambda rng, shape, made, options: np.log(rng.uniform(0.05, 0.95, shape)),
    "sign": lambda rng, shape, made, options: rng.choice([-1.0, 1.0], shape),
    "binary": lambda rng, shape, made, options: rng.choice([0.0, 1.0], shape),
    "class": _labels,
    "class_probability": _probabilities,
    "class_list": _label_lists,
    "index": lambda rng, shape, made, options: rng.integers(1, 4, size=shape),
    "log_softmax": lambda rng, shape, made, options: reference.log_softmax(rng.normal(size=shape), dim=-1),
}


def _pair(loss, options=({},), target=None, shapes=((4, 5), (), (7,), (2, 3, 4)), **more):
    """Return cases of an input and a target of equal shapes, the options with the first shape only."""
    spec = (lambda shape: (target, shape)) if target else (lambda shape: shape)
    first = shapes[0]
    extra = dict.fromkeys(more.get("arrays", ()), first)
    cases = [Case(loss, {"input": first, "target": spec(first)}, o) for o in options]
    cases += [Case(loss, {"input": s, "target": spec(s)}) for s in shapes[1:]]
    if extra:
        cases.append(Case(loss, {"input": first, "target": spec(first), **extra}))
    return cases


WEIGHT = {"arrays": ("weight",)}
ROWS = {"input": (6, 5), "target": ("class", (6,))}
STRIDED = {"input": (3, 5, 2, 3), "target": ("class", (3, 2, 3))}
ALONG = {"input": (5, 110), "target": ("class", (5,))}
WIDE = {"input": (4, 333), "target": ("class", (4,))}
UNBATCHED = {"input": (5,), "target": ("class", ())}
CLASS_WEIGHT = {"weight": ("positive", (5,))}
SOFT = {"input": (6, 5), "target": ("class_probability", (6, 5))}
TRIPLET = {"anchor": (5, 4), "positive": (5, 4), "negative": (5, 4)}
PAIR = {"input1": (6, 4), "input2": (6, 4), "target": ("sign", (6,))}
CTC = {"log_probs": ("log_softmax", (7, 3, 5)), "targets": ("index", (3, 3))}

CASES = [
    *_pair("l1_loss", **WEIGHT),
    *_pair("mse_loss", **WEIGHT),
    *_pair("smooth_l1_loss", ({}, {"beta": 0.4}, {"beta": 0.0})),
    *_pair("huber_loss", ({}, {"delta": 0.4}, {"delta": float("inf")}), **WEIGHT),
    *_pair("poisson_nll_loss", ({}, {"full": True}, {"log_input": True, "eps": 1e-3}), "count"),
    Case("poisson_nll_loss", {"input": ("positive", (4, 5)), "target": ("count", (4, 5))}, {"log_input": False}),
    Case("gaussian_nll_loss", {"input": (4, 5), "target": (4, 5), "var": ("positive", (4, 5))}),
    Case("gaussian_nll_loss", {"input": (4, 5), "target": (4, 5), "var": ("positive", (4, 1))}, {"full": True}),
    Case("gaussian_nll_loss", {"input": (4, 5), "target": (4, 5), "var": ("positive", (4,))}, {"eps": 1e-2}),
    Case("binary_cross_entropy", {"input": ("probability", (4, 5)), "target": ("probability", (4, 5))}),
    Case("binary_cross_entropy", {"input": ("probability", ()), "target": ("probability", ())}),
    Case(
        "binary_cross_entropy",
        {"input": ("probability", (4, 5)), "target": ("probability", (4, 5)), "weight": ("positive", (5,))},
    ),
    *_pair("binary_cross_entropy_with_logits", target="probability"),
    *[
        Case("binary_cross_entropy_with_logits", {"input": (4, 5), "target": ("probability", (4, 5)), **more})
        for more in (
            {"weight": ("positive", (4, 5))},
            {"pos_weight": ("positive", (5,))},
            {"weight": ("positive", (4, 1)), "pos_weight": ("positive", (5,))},
        )
    ],
    *_pair("soft_margin_loss", target="sign"),
    *_pair("hinge_embedding_loss", ({}, {"margin": 0.5}), "sign"),
    *_pair("hinge_embedding_loss", target="binary", shapes=((4, 5),)),
    Case("binary_focal_loss", {"input": ("probability", (4, 5)), "target": ("binary", (4, 5))}),
    Case(
        "binary_focal_loss",
        {"input": ("probability", (4, 5)), "target": ("binary", (4, 5))},
        {"gamma": 1.5, "alpha": 0.3},
    ),
    *_pair("sigmoid_focal_loss", ({}, {"gamma": 1.5, "alpha": 0.6}, {"alpha": -1.0}, {"gamma": 0.0}), "binary"),
    *[Case("nll_loss", arrays) for arrays in (ROWS, STRIDED, UNBATCHED)],
    Case("nll_loss", {**ROWS, **CLASS_WEIGHT}, {"ignore_index": 1}),
    *[Case("cross_entropy", arrays) for arrays in (ROWS, STRIDED, ALONG, WIDE, UNBATCHED)],
    Case("cross_entropy", {"input": (300, 3), "target": ("class", (300,))}),
    Case("cross_entropy", {"input": (9, 1), "target": ("class", (9,))}),
    Case("cross_entropy", {**ROWS, **CLASS_WEIGHT}, {"ignore_index": -7}),
    Case("cross_entropy", {**ROWS, **CLASS_WEIGHT}, {"label_smoothing": 0.2, "ignore_index": 2}),
    Case("cross_entropy", {**WIDE, "weight": ("positive", (333,))}, {"label_smoothing": 0.2, "ignore_index": 2}),
    Case("cross_entropy", SOFT, {"label_smoothing": 0.1}),
    Case("cross_entropy", {**SOFT, **CLASS_WEIGHT}),
    Case("cross_entropy", {"input": (5, 110), "target": ("class_probability", (5, 110))}),
    Case("cross_entropy", {"input": (3, 5, 4), "target": ("class_probability", (3, 5, 4)), **CLASS_WEIGHT}),
    Case("symmetric_cross_entropy", ROWS),
    Case("symmetric_cross_entropy", ALONG, {"a": 0.3, "b": 2.0}),
    Case("symmetric_cross_entropy", ROWS, {"ignore_index": 1}),
    Case("multi_margin_loss", ROWS),
    Case("multi_margin_loss", ROWS, {"margin": 2.5}),
    Case("multi_margin_loss", {**ROWS, **CLASS_WEIGHT}, {"p": 2}),
    Case("multi_margin_loss", ALONG, {"p": 2}),
    Case("multi_margin_loss", UNBATCHED),
    Case("multilabel_margin_loss", {"input": (7, 5), "target": ("class_list", (7, 5))}),
    Case("multilabel_margin_loss", {"input": (5,), "target": ("class_list", (5,))}),
    *_pair("multilabel_soft_margin_loss", target="binary", shapes=((4, 5), (5,), (3, 2, 4))),
    Case("multilabel_soft_margin_loss", {"input": (4, 5), "target": ("binary", (4, 5)), **CLASS_WEIGHT}),
    Case("kl_div", {"input": ("log_probability", (4, 5)), "target": ("probability", (4, 5))}),
    Case("kl_div", {"input": ("log_probability", ()), "target": ("probability", ())}),
    Case("kl_div", {"input": ("log_probability", (4, 5)), "target": ("probability", (5,))}),
    Case("kl_div", {"input": ("log_probability", (4, 5)), "target": ("log_probability", (4, 5))}, {"log_target": True}),
    Case("cosine_embedding_loss", PAIR),
    Case("cosine_embedding_loss", {**PAIR, "input2": (1, 4)}, {"margin": 0.3}),
    Case("cosine_embedding_loss", {"input1": (4,), "input2": (4,), "target": ("sign", ())}),
    Case("margin_ranking_loss", {"input1": (6,), "input2": (6,), "target": ("sign", (6,))}),
    Case("margin_ranking_loss", {"input1": (4, 5), "input2": (4, 1), "target": ("sign", (4, 5))}, {"margin": 0.5}),
    *[
        Case("triplet_margin_loss", TRIPLET, o)
        for o in ({}, {"margin": 0.3, "swap": True}, {"p": 1.0}, {"p": 3.0, "swap": True}, {"p": float("inf")})
    ],
    Case("triplet_margin_loss", {"anchor": (2, 3, 4), "positive": (2, 1, 4), "negative": (2, 3, 4)}, {"eps": 1e-3}),
    Case("triplet_margin_loss", {"anchor": (4,), "positive": (4,), "negative": (4,)}),
    Case("triplet_margin_with_distance_loss", TRIPLET),
    Case("triplet_margin_with_distance_loss", TRIPLET, {"margin": 0.5, "swap": True}),
    Case("ctc_loss", CTC, {"input_lengths": (7, 5, 6), "target_lengths": (3, 2, 1)}),
    Case(
        "ctc_loss",
        {**CTC, "targets": ("index", (6,))},
        {"input_lengths": (7, 5, 6), "target_lengths": (3, 2, 1), "zero_infinity": True},
    ),
    Case("linear_cross_entropy", {"input": (6, 4), "linear_weight": (4, 4), "target": ("index", (6,))}),
    Case(
        "linear_cross_entropy",
        {"input": (6, 4), "linear_weight": (5, 4), "target": ("index", (6,)), "linear_bias": (5,), **CLASS_WEIGHT},
        {"ignore_index": 1},
    ),
    *_pair("quantile_loss", ({"q": 0.3}, {"q": 0.9})),
    *[Case("generalized_cross_entropy", arrays) for arrays in (ROWS, STRIDED, ALONG, UNBATCHED)],
    Case("generalized_cross_entropy", {**ROWS, **CLASS_WEIGHT}, {"q": 1.0, "ignore_index": 1}),
    Case("dice_loss", {"input": ("probability", (4, 5)), "target": ("probability", (4, 5))}),
    Case("dice_loss", {"input": ("probability", (2, 3, 4, 5)), "target": ("binary", (2, 3, 4, 5))}, {"smooth": 0.0}),
    Case("soft_dice_loss", {"input": (2, 3, 4), "target": ("binary", (2, 3, 4))}),
    Case("soft_dice_loss", {"input": (2, 4, 3), "target": ("binary", (2, 4, 3))}, {"dim": -1, "smooth": 0.1}),
    Case("info_nce_loss", {"query": (6, 4), "key": (6, 4)}, {"temperature": 0.5}),
    Case("info_nce_loss", {"query": (4, 3), "key": (6, 3)}, {"temperature": 2.0}),
    Case("info_nce_loss", {"query": (5, 4), "key": (5, 4)}, {"temperature": 0.5, "symmetric": True}),
    *[Case("softmax", {"input": (4, 5)}, {"dim": dim}) for dim in (1, 0, -1)],
    Case("softmax", {"input": (3, 4, 5)}, {"dim": 1}),
    Case("softmax", {"input": (3, 110)}, {"dim": 1}),
    *[Case("log_softmax", {"input": (4, 5)}, {"dim": dim}) for dim in (1, 0, -1)],
    Case("log_softmax", {"input": (3, 4, 5)}, {"dim": 1}),
    Case("log_softmax", {"input": (3, 110)}, {"dim": 1}),
    Case("logsumexp", {"input": (4, 5)}, {"dim": 1}),
    Case("logsumexp", {"input": (3, 4, 5)}, {"dim": (0, 1), "keepdim": True}),
    Case("logsumexp", {"input": (3, 110)}, {"dim": -1}),
    *[Case("sigmoid", {"input": s}) for s in ((4, 5), ())],
    *[Case("logsigmoid", {"input": s}) for s in ((4, 5), ())],
    Case("cosine_similarity", {"x1": (6, 4), "x2": (6, 4)}),
    Case("cosine_similarity", {"x1": (3, 4, 2), "x2": (3, 4, 1)}, {"dim": 1}),
    Case("pairwise_distance", {"x1": (6, 4), "x2": (6, 4)}),
    Case("pairwise_distance", {"x1": (6, 4), "x2": (1, 4)}, {"p": 1.0, "keepdim": True}),
]

# Losses with no case here: their arguments are not arrays alone, and they have tests of their own.
ELSEWHERE = frozenset({"adaptive_log_softmax_with_loss", "l1_penalty", "l2_penalty", "linear_log_prob"})


def natural(record):
    """Return the cases of a loss that has none above: its arrays by family and domain, every value of its options."""
    parameters = inspect.signature(record.describe).parameters.values()
    arrays = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in (*record.options, "dim")]
    indexed = record.domains.get("target") == "class"

    def made(shapes, names):
        vectors, rows = shapes[:-1], shapes[:1] + shapes[2:]
        found = {}
        for name in names:
            if name == "weight":
                found[name] = ("positive", shapes[1:2] if record.family == "rowwise" else shapes)
            elif name == "target" and record.family == "pairwise":
                found[name] = (record.domains.get("target", "sign"), vectors)
            else:
                found[name] = rows if name == "target" and indexed else shapes
        return found

    first, *more = {"elementwise": ((4, 5), (), (2, 3, 4)), "rowwise": ((6, 5), (5, 110), (3, 5, 2))}.get(
        record.family, ((6, 4), (5, 110))
    )
    required = [p.name for p in arrays if p.default is p.empty]
    optional = [p.name for p in arrays if p.default is None]
    fixed = {"dim": 1} if any(p.name == "dim" for p in parameters) else {}
    cases = [Case(record.name, made(shape, required), fixed) for shape in (first, *more)]
    if optional:
        cases.append(Case(record.name, made(first, [*required, *optional]), fixed))
    defaults = {p.name: p.default for p in parameters}
    for option, domain in record.options.items():
        values = [value for value in domain.examples if option != "reduction" and value != defaults[option]]
        cases += [Case(record.name, made(first, required), {**fixed, option: value}) for value in values]
    return cases


NATURAL = ("elementwise", "rowwise", "rowmap", "pairwise")
_given = {case.loss for case in CASES} | ELSEWHERE
_plain = [record for record in LOSSES.values() if record.family in NATURAL and record.name not in _given]
CASES += [case for record in _plain for case in natural(record)]
ACTIVE = [case for case in CASES if case.loss in LOSSES]
# The plainest case of every registered loss.
PLAIN = list({case.loss: case for case in reversed(ACTIVE)}.values())[::-1]
# Row kernels take a second each to compile: those of the further cases run in the narrow types only with `slow`.
HEAVY = [case for case in ACTIVE if case.record.family in ("rowwise", "rowmap") and case not in PLAIN]


# One loss of each family, for tests that compile a kernel for every dtype, layout or choice of arguments: the minutes
# that this takes for all the others are left to `slow`.
TYPICAL = frozenset(
    {
        "mse_loss",
        "cross_entropy",
        "softmax",
        "triplet_margin_loss",
        "multilabel_margin_loss",
        "ctc_loss",
        "linear_cross_entropy",
    }
)


def marked(cases, quick=lambda case: case not in HEAVY):
    """Return the cases as parameters; those that are not quick, by default the heavy ones, are marked as slow."""
    return [pytest.param(case, marks=() if quick(case) else pytest.mark.slow, id=str(case)) for case in cases]


def quickly(*values, then=()):
    """Return values for the quick run, `then` others that compile further kernels for the slow one."""
    return [*values, *[pytest.param(value, marks=pytest.mark.slow) for value in then]]


def typical(cases):
    """Return cases, or names of losses, as parameters; all but those of one loss a family are marked as slow."""
    return marked(cases, lambda case: getattr(case, "loss", case) in TYPICAL)


def positional(case):
    """Return the names of the arguments that may be given by position, in order."""
    parameters = inspect.signature(case.function).parameters.values()
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


# Relative errors: of one rounding in the type, times the few operations behind a value in the computing type.
_TOLERANCE = {"float64": 1e-13, "float32": 4e-6, "float16": 1.2e-3, "bfloat16": 8e-3}


def assert_close(actual, expected, dtype="float64", factor=1.0):
    """Compare with a reference to the precision of a dtype; the largest entry sets the scale of the absolute error."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    tolerance = factor * _TOLERANCE[dtype]
    finite = np.abs(expected[np.isfinite(expected)]).astype(float)
    scale = max(1.0, finite.max(initial=0.0))
    np.testing.assert_allclose(actual.astype(float), expected.astype(float), rtol=tolerance, atol=tolerance * scale)
