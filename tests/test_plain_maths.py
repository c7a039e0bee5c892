"""The maths of every loss as plain Python, without a kernel: values, derivatives, and the numbers at the edges.

What is wrong in a formula is found here in a second, and `bench/mutate.py` asks whether it would be.
"""

import importlib
import pkgutil

import numpy as np
import plain
import pytest
from cases import ACTIVE, Case, assert_close

import fastloss as fl
from fastloss import losses
from fastloss.api.signature_facts import calls_of
from fastloss.define import descriptions, scalars
from fastloss.define.check_definition import check_definition
from fastloss.losses import binary, focal, margin, multiclass, softmax, symmetric, triplet

pytest.importorskip("mpmath")

import exact

NAN, INF, TINY = np.nan, np.inf, 2.0**-1074
STEP = 1e-4
WEIGHTS = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}


def full(case):
    """Return the arrays of a case, broadcast to the shape of the first where that is a matter of elements."""
    arrays = case.make()
    if case.record.family == "elementwise":
        arrays = {k: a for k, a in arrays.items() if k != "weight"}
        if case.loss == "gaussian_nll_loss" and arrays["var"].ndim < arrays["input"].ndim:
            arrays["var"] = arrays["var"][:, None]
        shape = np.broadcast_shapes(*[a.shape for a in arrays.values()])
        arrays = {k: np.broadcast_to(a, shape).copy() for k, a in arrays.items()}
    elif case.record.family == "pairwise":
        vectors = [k for k in arrays if k != "target"]
        for name, array in zip(vectors, np.broadcast_arrays(*[arrays[k] for k in vectors]), strict=True):
            arrays[name] = array.copy()
    elif "ignore_index" in case.options:
        counts = arrays["target"] != case.options["ignore_index"]
        arrays = {k: a if k == "weight" else a[counts] for k, a in arrays.items()}
    return arrays


def differences(function, array, row=False):
    """Return the derivatives of unreduced values in each entry of an array: all rows are moved at once."""
    slopes = np.zeros(array.shape)
    for column in np.ndindex(array.shape[1:]) if row else [...]:
        at = (slice(None), *column) if row else ...
        for steps, weight in WEIGHTS.items():
            moved = array.copy()
            moved[at] += steps * STEP
            found = function(moved)
            slopes[at] += weight * (found[at] if found.shape == array.shape else found) / STEP
    return slopes


def is_small(case):
    return case.make()[next(iter(case.arrays))].size < 60 and case.record.family in FAMILIES


FAMILIES = ("elementwise", "rowwise", "pairwise", "sums", "label_sets")
SCORES = {"input": ("probability", (4, 5)), "target": ("probability", (4, 5))}
SOFT = {"input": (6, 5), "target": ("class_probability", (6, 5))}
MORE = [
    *[
        Case(loss, arrays, options)
        for loss, arrays in (
            ("sigmoid_focal_loss", {**SCORES, "input": (4, 5)}),
            ("sigmoid_focal_loss", {"input": (4, 5), "target": ("binary", (4, 5))}),
            ("binary_focal_loss", SCORES),
        )
        for options in ({}, {"gamma": 4.0, "alpha": 0.0}, {"gamma": 1.5, "alpha": -1.0}, {"alpha": 1.0, "gamma": 1.0})
    ],
    Case("cross_entropy", SOFT, {"label_smoothing": 1.0}),
    Case("cross_entropy", {**SOFT, "weight": ("positive", (5,))}, {"label_smoothing": 0.1}),
    Case("hinge_embedding_loss", {"input": (4, 5), "target": ("real", (4, 5))}, {"margin": -0.5}),
    Case("soft_margin_loss", {"input": (4, 5), "target": ("real", (4, 5))}),
    Case("margin_ranking_loss", {"input1": (4, 5), "input2": (4, 5), "target": ("real", (4, 5))}, {"margin": 0.5}),
]
PLAIN = [case for case in [*ACTIVE, *MORE] if is_small(case) and plain.is_plain(case.loss, full(case), case.options)]


@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_values_and_derivatives(case):
    arrays = full(case)
    none = {"reduction": "none"} if "reduction" in case.record.options else {}
    rows = case.record.family != "elementwise"
    found = plain.computed(case.loss, arrays, case.options)
    shape = found.value.shape
    assert_close(found.value, case.expected(arrays, **none).reshape(shape))
    for name in case.wrt(arrays):
        if name in found.slopes and name != "weight":

            def value(moved, name=name):
                return case.expected({**arrays, name: moved}, **none).reshape(shape)

            assert_close(found.slopes[name], differences(value, arrays[name], rows), factor=1e5)
    if case.record.hessian is not None:
        name = case.record.wrt[0]

        def slope(moved):
            return plain.computed(case.loss, {**arrays, name: moved}, case.options).slopes[name]

        assert_close(found.second, differences(slope, arrays[name], rows), factor=1e4)


def all_maths():
    """Give the maths of every loss, by name: what its cases describe, and all that its module has for loops of rows."""
    x = np.full((2, 3), 0.5, np.float32)
    for case in ACTIVE:
        if case.record.family in ("elementwise", "rowwise", "pairwise", "label_sets"):
            job = plain.described(case.loss, case.make("float32"), case.options)
            if case.record.family == "label_sets":
                job = descriptions.Elementwise(job.point, (job.input, job.input))
            yield str(case), job
            if hasattr(getattr(job, "point", None), "hard"):
                yield f"{case}-hard", job._replace(point=job.point.hard)
    for file in pkgutil.iter_modules(losses.__path__):
        for name, value in vars(importlib.import_module(f"{losses.__name__}.{file.name}")).items():
            for maths in value.values() if isinstance(value, dict) else [value]:
                if isinstance(maths, descriptions.RowMaths):
                    yield f"{file.name}-{name}", descriptions.Rowwise(maths, x, params=(0.5,) * 3)
                elif isinstance(maths, descriptions.PairMaths):
                    yield f"{file.name}-{name}", descriptions.Pairwise(maths, (x,) * 3, tuple("abc"), params=(0.5,) * 3)


MATHS = {(type(job), getattr(job, "point", None) or job.maths): (name, job) for name, job in all_maths()}


@pytest.mark.parametrize(("name", "job"), MATHS.values(), ids=[name for name, _ in MATHS.values()])
def test_no_number_makes_float32_float64(name, job):
    """What is asked of anybody's loss when it is defined."""
    returned = []

    def noted(call):
        return lambda number: returned.append(call(number)) or returned[-1]

    check_definition(name, job, lambda description: [noted(call) for call in calls_of(description)])
    assert len(returned) == len(calls_of(job)) > 0


@pytest.mark.parametrize("loss", ["cross_entropy", "multilabel_soft_margin_loss"])
def test_slopes_in_the_weights_of_classes(loss, rng):
    """The value is linear in them."""
    x, t, w = rng.normal(size=(6, 5)), rng.uniform(size=(6, 5)), rng.uniform(0.5, 2, 5)
    for options in ({}, {"label_smoothing": 0.2}) if loss == "cross_entropy" else ({},):
        found = plain.computed(loss, {"input": x, "target": t, "weight": w}, options)
        assert_close((found.slopes["weight"] * w).sum(1), found.value)
        for k, one in enumerate(np.eye(5)):
            alone = plain.computed(loss, {"input": x, "target": t, "weight": one}, options)
            assert_close(found.slopes["weight"][:, k], alone.value)


@pytest.mark.parametrize("maths", [softmax.SOFTMAX, softmax.LOG_SOFTMAX], ids=["softmax", "log_softmax"])
def test_maps_of_rows(maths, rng):
    x, g = rng.normal(size=(2, 6, 5))

    def results(moved):
        p = np.exp(moved) / np.exp(moved).sum(1, keepdims=True)
        return p if maths is softmax.SOFTMAX else np.log(p)

    found, slope, second = plain.mapped(maths, x, g)
    assert_close(found, results(x))
    assert_close(slope, differences(lambda moved: (g * results(moved)).sum(1), x, True), factor=1e5)
    assert_close(second, differences(lambda moved: plain.mapped(maths, moved, g)[1], x, True), factor=1e4)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        ("binary_cross_entropy", {}),
        *[
            ("binary_focal_loss", o)
            for o in ({}, {"gamma": 0.0}, {"gamma": 1.5, "alpha": -1.0}, {"alpha": 0.0}, {"gamma": 1e300})
        ],
    ],
)
def test_functions_for_hard_targets(loss, options):
    near_one = [1 - 1.2e-12, 1 - 1e-13, 1 - 2**-53, 1]
    edges = np.array([-0.5, 1.5, 0, TINY, 1e-300, 1e-50, 1e-20, 9e-13, 1.2e-12, 1e-5, 0.3, 0.5, *near_one, NAN])
    x, t = np.concatenate([edges, edges]), np.repeat([0.0, 1.0], edges.size)
    general, hard = (plain.computed(loss, {"input": x, "target": t}, options, h) for h in (False, True))
    np.testing.assert_allclose(hard.value, general.value, 1e-14)
    inside = (x >= 0) & (x <= 1)  # outside the derivatives are anything
    np.testing.assert_allclose(hard.slopes["input"][inside], general.slopes["input"][inside], 1e-14)
    np.testing.assert_allclose(hard.second[inside], general.second[inside], 1e-14)


# -- at high precision -----------------------------------------------------------------------------------------------


def in_plain_python(case, arrays):
    found = plain.computed(case.loss, arrays, case.options)
    return found.value, [found.slopes[name] for name in case.wrt]


EXACT = [
    case for case in exact.EXACT if plain.is_plain(case.loss, case.make(np.random.default_rng(0), 2), case.options)
]


@pytest.mark.parametrize("case", EXACT, ids=exact.title)
def test_errors_in_ulp(case):
    value, slope = exact.errors(case, np.float64, 60, compute=in_plain_python)
    bounds = {"pairwise_distance": (40, 400), "symmetric_cross_entropy": (6, 16)}.get(case.loss, (6, 12))
    assert value <= bounds[0]
    assert slope <= bounds[1]


@pytest.mark.parametrize("case", EXACT, ids=exact.title)
def test_second_derivatives(case):
    arrays = case.make(np.random.default_rng(1), 20)
    second = plain.computed(case.loss, arrays, case.options).second
    name = case.wrt[0]
    with exact.mp.workdps(exact.DIGITS):
        for row in range(len(second)):
            args = [exact.numbers_of(a[row]) for a in arrays.values()]
            k = list(arrays).index(name)
            found, places = (second[row], range(len(args[k]))) if isinstance(args[k], list) else ([second[row]], [None])
            right = [float(exact.partial(case.value, args, k, i, 2)) for i in places]
            np.testing.assert_allclose(found, right, 1e-9, 1e-200)


# -- edges -----------------------------------------------------------------------------------------------------------

# A loss, its arrays and options, and what it has to compute there: values, slopes by name, second derivatives; what
# is left out is not asked for. Elements are lists, rows and vectors lists of lists.
REST = np.exp(-30.0)
MISS = REST / (1 + REST)  # of a row [30, 0], of which the difference from 1 has few digits
EDGES = [
    ("l1_loss", {"input": [1.0, NAN], "target": [1.0, 0.0]}, {}, [0, NAN], {"input": [0, 0], "target": [0, 0]}, [0, 0]),
    (
        "smooth_l1_loss", {"input": [0.5, -0.5, 0.49], "target": [0.0] * 3}, {"beta": 0.5},
        [0.25, 0.25, 0.49**2], {"input": [1, -1, 0.98], "target": [-1, 1, -0.98]}, [0, 0, 2],
    ),
    (
        "huber_loss", {"input": [0.5, -0.5, 0.51], "target": [0.0] * 3}, {"delta": 0.5},
        [0.125, 0.125, 0.13], {"input": [0.5, -0.5, 0.5], "target": [-0.5, 0.5, -0.5]}, [1, 1, 0],
    ),
    ("quantile_loss", {"input": [1.0], "target": [1.0]}, {"q": 0.3}, [0], {"input": [0], "target": [0]}, [0]),
    # rates and counts
    (
        "poisson_nll_loss", {"input": [0.5, 0.5, 0.5], "target": [0.0, 1.0, -1.0]}, {"full": True},
        np.exp(0.5) - np.array([0.0, 0.5, -0.5]), {"target": [-0.5] * 3}, None,
    ),
    (
        "poisson_nll_loss", {"input": [-700.0, 700.0], "target": [1e6, 2.0]}, {"full": True},
        [700e6 + 1e6 * np.log(1e6) - 1e6 + np.log(2e6 * np.pi) / 2, np.exp(700)],
        {"target": [np.log(1e6) + 700 + 0.5e-6, np.log(2) - 700 + 0.25]}, None,
    ),
    (
        "poisson_nll_loss",
        {"input": [INF, 0.0, NAN, -1.0, INF, -1.0], "target": [0.0, 0.0, 0.0, 0.0, 2.0, 1.0]},
        {"log_input": False, "eps": 0.0},
        [INF, 0, NAN, NAN, NAN, NAN],
        {"input": [1, 1, NAN, 1, 1, 2], "target": [-INF, INF, NAN, NAN, -INF, NAN]},
        [0, 0, NAN, 0, 0, 1],
    ),
    (
        "poisson_nll_loss", {"input": [0.5, 0.5], "target": [1.0, 1.5]}, {"log_input": False, "eps": 0.5, "full": True},
        [0.5, 0.5 + 1.5 * np.log(1.5) - 1.5 + np.log(3 * np.pi) / 2],
        {"input": [0, -0.5], "target": [0, np.log(1.5) + 1 / 3]}, [1, 1.5],
    ),
    (
        "poisson_nll_loss", {"input": [1e-40], "target": [2.0]}, {"log_input": False, "eps": 0.0, "full": True},
        [2 * np.log(2e40) - 2 + np.log(4 * np.pi) / 2], {"target": [np.log(2e40) + 0.25]}, [2e80],
    ),
    # variances
    (
        "gaussian_nll_loss", {"input": [1.0, 1.0, 1.0], "target": [0.0] * 3, "var": [0.0, 0.25, -TINY]}, {"eps": 0.5},
        [np.log(0.5) / 2 + 1, np.log(0.5) / 2 + 1, NAN],
        {"input": [2] * 3, "target": [-2] * 3, "var": [-1] * 3}, [2] * 3,
    ),
    (
        "gaussian_nll_loss", {"input": [1e200, 1e-200], "target": [0.0] * 2, "var": [1e250, 1.0]}, {"eps": 1e-6},
        [0.5e150, 0], {"input": [1e-50, 1e-200], "var": [-0.5e-100, 0.5]}, [1e-250, 1],
    ),
    ("gaussian_nll_loss", {"input": [1.3e154], "target": [0.0], "var": [1e308]}, {"eps": 1e-6}, None,
     {"var": [0.5e-308 * (1 - 1.69)]}, [1e-308]),
    (  # variances that nearly are the squared residual: their difference is exact
        "gaussian_nll_loss", {"input": [3.0, 3.0], "target": [0.0] * 2, "var": [9 + 2.0**-30, 9 - 2.0**-30]}, {}, None,
        {"var": [2.0**-31 / (9 + 2.0**-30) ** 2, -(2.0**-31) / (9 - 2.0**-30) ** 2]}, None,
    ),
    # divergences
    (
        "kl_div", {"input": [-1.0, -INF, NAN], "target": [0.0, 0.0, 0.0]}, {}, [0, 0, NAN],
        {"input": [0] * 3, "target": [NAN] * 3}, [0] * 3,
    ),
    (
        "kl_div", {"input": [-1.0, -INF, NAN], "target": [-INF] * 3}, {"log_target": True}, [0, 0, NAN],
        {"input": [0] * 3, "target": [NAN] * 3}, [0] * 3,
    ),
    ("kl_div", {"input": [-1.0], "target": [INF]}, {"log_target": True}, [INF],
     {"input": [-INF], "target": [INF]}, None),
    ("kl_div", {"input": [NAN, -1.0], "target": [0.5, NAN]}, {}, [NAN, NAN], {}, None),
    # yes or no
    (
        "binary_cross_entropy_with_logits", {"input": [INF, -INF, INF, -INF, NAN], "target": [0.0, 1, 1, 0, 0]}, {},
        [INF, NAN, NAN, NAN, NAN], {"input": [1, -1, 0, 0, NAN]}, [0, 0, 0, 0, NAN],
    ),
    (
        "binary_cross_entropy_with_logits",
        {"input": [INF, -INF, INF, -INF, NAN], "target": [0.0, 1, 1, 0, 0], "pos_weight": [2.0] * 5}, {},
        [INF, NAN, NAN, NAN, NAN], {"input": [1, -2, 0, 0, NAN]}, [0, 0, 0, 0, NAN],
    ),
    (
        "binary_cross_entropy", {"input": [0.0, 1.0, 0.0, 1.0, 1.2e-12], "target": [1.0, 0, 0, 1, 1]}, {},
        [100, 100, 0, 0, -np.log(1.2e-12)],
        {"input": [-1e12, 1e12, 0, 0, -1 / 1.2e-12], "target": [INF, -INF, INF, -INF, -np.log(1.2e-12)]},
        [1e24, 1e24, 1, 1, 1 / 1.44e-24],
    ),
    (
        "binary_cross_entropy", {"input": [1e-50], "target": [1.0]}, {},
        [100], {"input": [-1e12], "target": [-np.log(1e-50)]}, [1e24],
    ),
    *[
        (loss, {"input": [-0.5, 1.5, 0.5, 0.5, NAN], "target": [0.5, 0.5, -0.5, 1.5, 0.5]}, {}, [NAN] * 5, {}, None)
        for loss in ("binary_cross_entropy", "binary_focal_loss")
    ],
    ("binary_focal_loss", {"input": [0.0, 1.0, 0.0, 1.0], "target": [1.0, 0, 0, 1]}, {"alpha": 0.75},
     [75, 25, 0, 0], {"input": [-0.75 * (1e12 + 200), 0.25 * (1e12 + 200), 0, 0]},
     [0.75 * (1e24 + 4e12 - 200), 0.25 * (1e24 + 4e12 - 200), 0, 0]),
    *[
        (loss, {"input": [0.0, 0.0], "target": [1.0, 0.0]}, options, [factor * np.log(2)] * 2,
         {"input": [-factor / 2, factor / 2]}, [factor / 4] * 2)
        for loss, options, factor in (
            ("binary_cross_entropy_with_logits", {}, 1),
            ("sigmoid_focal_loss", {"gamma": 0.0, "alpha": 0.5}, 0.5),
        )
    ],
    ("soft_margin_loss", {"input": [0.0], "target": [1.0]}, {}, [np.log(2)], {"input": [-0.5]}, [0.25]),
    ("sigmoid", {"input": [0.0]}, {}, [0.5], {"input": [0.25]}, [0]),
    ("logsigmoid", {"input": [0.0]}, {}, [-np.log(2)], {"input": [0.5]}, [-0.25]),
    ("binary_focal_loss", {"input": [1e-50], "target": [1.0]}, {}, [75], {"input": [-0.75e12 - 150]}, [0.75e24 + 3e12]),
    ("binary_focal_loss", {"input": [0.5, 0.5, 0.3], "target": [0.0, 1.0, 0.5]}, {"gamma": 1e300},
     [0] * 3, {"input": [0] * 3}, [0] * 3),
    ("sigmoid_focal_loss", {"input": [0.5, -0.5, 0.3, 0.0], "target": [0.0, 1.0, 0.5, 0.0]}, {"gamma": 1e300},
     [0] * 4, {"input": [0] * 4}, [0] * 4),
    ("binary_focal_loss", {"input": [1.2e-12], "target": [1.0]}, {"alpha": 1.0, "gamma": 1.0},
     [(1.2e-12 - 1) * np.log(1.2e-12)],
     {"input": [np.log(1.2e-12) - (1 - 1.2e-12) / 1.2e-12]}, [1 / 1.2e-12**2 + 1 / 1.2e-12]),
    ("sigmoid_focal_loss", {"input": [1e4, -1e4], "target": [1.0, 0.0]}, {"gamma": 0.0, "alpha": -1.0}, [0, 0],
     {"input": [0, 0]}, [0, 0]),
    ("sigmoid_focal_loss", {"input": [1e4, 1e4, -1e4, -1e4], "target": [0.0, 1, 0, 1]}, {"gamma": 0.5, "alpha": -1.0},
     [1e4, 0, 0, 1e4], {"input": [1, 0, 0, -1]}, [0] * 4),
    ("hinge_embedding_loss", {"input": [1.0, 0.25, 2.0, NAN], "target": [-1.0, 0.0, 0.5, -1.0]}, {},
     [0, 1, 2, NAN], {"input": [0, 0, 1, 0]}, [0] * 4),
    ("margin_ranking_loss", {"input1": [2.0, 0.0], "input2": [1.0, 1.0], "target": [1.0, -1.0]}, {"margin": 1.0},
     [0, 0], {"input1": [0, 0], "input2": [0, 0], "target": [0, 0]}, [0, 0]),
    # classes
    ("cross_entropy", {"input": [[0.0, -INF], [0.0, 0.0]], "target": [1, 0], "weight": [2.0, 0.0]}, {},
     [0, 2 * np.log(2)], {"input": [[0, 0], [-1, 1]]}, [[0, 0], [0.5, 0.5]]),
    ("cross_entropy", {"input": [[0.0, -INF], [-INF, 0.0]], "target": [1, 0]}, {}, [INF, INF],
     {"input": [[1, -1], [-1, 1]]}, [[0, 0], [0, 0]]),
    ("cross_entropy", {"input": [[0.0, -INF, 0.0]], "target": [0], "weight": [1.0, 0.0, 3.0]}, {"label_smoothing": 0.3},
     [0.7 * np.log(2) + 0.1 * 4 * np.log(2)], {"input": [[0.55 - 0.8, 0, 0.55 - 0.3]]}, [[0.275, 0, 0.275]]),
    ("cross_entropy", {"input": [[0.0, -INF, 0.0]], "target": [1], "weight": [1.0, 0.0, 3.0]}, {"label_smoothing": 0.3},
     [0.1 * 4 * np.log(2)], {"input": [[0.2 - 0.1, 0, 0.2 - 0.3]]}, [[0.1, 0, 0.1]]),
    ("cross_entropy", {"input": [[0.0, -INF, 0.0]], "target": [1]}, {"label_smoothing": 0.3}, [INF], {}, None),
    ("cross_entropy", {"input": [[30.0, 0.0]], "target": [0]}, {"label_smoothing": 2.0**-40},
     [np.log1p(REST) + 30 * 2.0**-41], {"input": [[2.0**-41 - MISS, MISS - 2.0**-41]]}, [[MISS * (1 - MISS)] * 2]),
    ("cross_entropy", {"input": [[0.0, -INF, 0.0]], "target": [[0.25, 0.0, 0.75]]}, {}, [np.log(2)],
     {"input": [[0.25, 0, -0.25]], "weight": [[0.25 * np.log(2), 0, 0.75 * np.log(2)]]}, [[0.25, 0, 0.25]]),
    ("multi_margin_loss", {"input": [[0.0, 1.0]], "target": [1]}, {}, [0], {"input": [[0, 0]]}, [[0, 0]]),
    ("multi_margin_loss", {"input": [[0.0, 1.0]], "target": [1]}, {"p": 2}, [0], {"input": [[0, 0]]}, [[0, 0]]),
    ("multi_margin_loss", {"input": [[0.0, 1.0, 0.5]], "target": [1]}, {"p": 2, "margin": 1.0}, [0.25 / 3],
     {"input": [[0, -1 / 3, 1 / 3]]}, [[0, 2 / 3, 2 / 3]]),
    ("multilabel_soft_margin_loss", {"input": [[0.0, 0.0]], "target": [[1.0, 0.0]]}, {}, [np.log(2)],
     {"input": [[-0.25, 0.25]], "target": [[0, 0]]}, [[0.125, 0.125]]),
    ("multilabel_margin_loss", {"input": [[0.0, 1.0]], "target": [[1, -1]]}, {}, [0], {"input": [[0, 0]]}, [[0, 0]]),
    ("logsumexp", {"input": [[INF, 0.0, -INF], [-INF, -INF, -INF], [NAN, INF, 0.0], [-INF, 0.0, 0.0]]}, {"dim": 1},
     [INF, -INF, NAN, np.log(2)], {"input": [[NAN, 0, 0], [NAN] * 3, [NAN] * 3, [0, 0.5, 0.5]]}, None),
    # vectors
    *[
        ("pairwise_distance", {"x1": [[0.0, 0.0]], "x2": [[0.0, 0.0]]}, {"eps": 0.0, "p": p}, [0],
         {"x1": [[0, 0]], "x2": [[0, 0]]}, [[0, 0]] if p not in (0.5,) else None)
        for p in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, INF)
    ],
    ("pairwise_distance", {"x1": [[3.0, -3.0, 1.0, 0.0]], "x2": [[0.0] * 4]}, {"eps": 0.0, "p": INF}, [3],
     {"x1": [[0.5, -0.5, 0, 0]], "x2": [[-0.5, 0.5, 0, 0]]}, [[0] * 4]),
    ("pairwise_distance", {"x1": [[3.0, -1.0, 1.0, 2.0]], "x2": [[0.0] * 4]}, {"eps": 0.0, "p": -INF}, [1],
     {"x1": [[0, -0.5, 0.5, 0]], "x2": [[0, 0.5, -0.5, 0]]}, [[0] * 4]),
    ("pairwise_distance", {"x1": [[3.0, -3.0, 1.0, 0.0]], "x2": [[0.0] * 4]}, {"eps": 0.0, "p": 0.0}, [3],
     {"x1": [[0] * 4], "x2": [[0] * 4]}, [[0] * 4]),
    ("pairwise_distance", {"x1": [[3.0, 4.0], [INF, 1.0]], "x2": [[0.0] * 2] * 2}, {"eps": 0.0, "p": 2e30}, [4, INF],
     {"x1": [[0, 1], [1, 0]]}, [[0] * 2] * 2),
    ("pairwise_distance", {"x1": [[3.0, 0.0]], "x2": [[0.0, 0.0]]}, {"eps": 0.0}, [3], {"x1": [[1, 0]]}, [[0, 1 / 3]]),
    ("pairwise_distance", {"x1": [[0.0, 2.0]], "x2": [[0.0] * 2]}, {"eps": 0.0, "p": 0.5}, [2], {"x1": [[0, 1]]},
     [[0, 0]]),
    ("pairwise_distance", {"x1": [[0.0, 2.0]], "x2": [[0.0] * 2]}, {"eps": 0.0, "p": -1.0}, [0], {"x1": [[0, 0]]},
     None),
    ("pairwise_distance", {"x1": [[1e-6, 0.0]], "x2": [[0.0] * 2]}, {"eps": 0.0, "p": 60.0}, [1e-6], {"x1": [[1, 0]]},
     [[0, 0]]),
    ("pairwise_distance", {"x1": [[1e-300, 0.0]], "x2": [[0.0] * 2]}, {"eps": 0.0, "p": 1.5}, [1e-300],
     {"x1": [[1, 0]]}, [[0, 0]]),
    ("pairwise_distance", {"x1": [[1e10, 5e-310]], "x2": [[0.0] * 2]}, {"eps": 0.0, "p": 0.5}, [1e10],
     {"x1": [[1, 1e5 / np.sqrt(5e-310)]]}, None),
    ("pairwise_distance", {"x1": [[1.0, 0.5]], "x2": [[0.0] * 2]}, {"eps": 0.0, "p": 3.0}, [1.125 ** (1 / 3)],
     {"x1": [[1.125 ** (-2 / 3), 0.25 * 1.125 ** (-2 / 3)]]},
     [[2 * 1.125 ** (-2 / 3) * (1 - 1 / 1.125), 1.125 ** (-2 / 3) * (1 - 0.125 / 1.125)]]),
    ("pairwise_distance", {"x1": [[1.0, 1e-200]], "x2": [[0.0] * 2]}, {"eps": 0.0, "p": 3.0}, [1], {"x1": [[1, 0]]},
     [[0, 2e-200]]),
    ("pairwise_distance", {"x1": [[INF, 1.0], [NAN, 1.0]], "x2": [[0.0] * 2] * 2}, {"eps": 0.0, "p": 3.0}, [INF, NAN],
     {}, None),
    ("cosine_similarity", {"x1": [[0.25], [0.0], [0.0]], "x2": [[1.0], [1.0], [0.0]]}, {"eps": 0.5}, [0.5, 0, 0],
     {"x1": [[1], [2], [0]], "x2": [[0], [0], [0]]}, [[-4], [0], [0]]),
    ("cosine_similarity", {"x1": [[1.0, 0.0]], "x2": [[0.6, 0.8]]}, {}, [0.6],
     {"x1": [[0, 0.8]], "x2": [[0.64, -0.48]]}, [[0, -0.6]]),
    ("cosine_similarity", {"x1": [[0.3, 0.4]], "x2": [[0.1, 0.0]]}, {}, [0.6], {"x1": [[1.28, -0.96]]}, None),
    ("cosine_similarity", {"x1": [[3e-200, 4e-200]], "x2": [[1.0, 0.0]]}, {"eps": 1e-190}, [3e-10], {}, None),
    ("cosine_similarity", {"x1": [[1.0, 0.0]], "x2": [[3e-200, 4e-200]]}, {"eps": 1e-190}, [3e-10], {}, None),
    ("cosine_similarity", {"x1": [[3e-9, 4e-9]], "x2": [[1.0, 0.0]]}, {}, [0.3], {}, None),
    ("cosine_similarity", {"x1": [[0.0, 0.0]], "x2": [[1.0, 0.0]]}, {"eps": 0.0}, [0], {}, None),
    ("cosine_similarity", {"x1": [[3.0, 4.0]] * 2, "x2": [[3.0, 4.0], [-3.0, -4.0]]}, {"eps": 0.0}, [1, -1],
     {"x1": [[0, 0]] * 2, "x2": [[0, 0]] * 2}, [[-0.64 / 25, -0.36 / 25], [0.64 / 25, 0.36 / 25]]),
    ("cosine_embedding_loss", {"input1": [[1.0, 0.0]] * 2, "input2": [[0.0, 1.0]] * 2, "target": [-1.0, 0.0]}, {},
     [0, 0], {"input1": [[0, 0]] * 2, "input2": [[0, 0]] * 2}, [[0, 0]] * 2),
    *[
        ("cosine_embedding_loss", {one: [[0.0, 0.0]], other: [[0.0, 1.0]], "target": [-1.0]}, {"margin": -0.5}, [0.5],
         {one: [[0, 1e6 / np.sqrt(1 + 1e-12)]], other: [[0, 0]]}, None)
        for one, other in (("input1", "input2"), ("input2", "input1"))
    ],
    ("triplet_margin_loss", {"anchor": [[0.0, 0.0]], "positive": [[1.0, 0.0]], "negative": [[-2.0, 0.0]]}, {"eps": 0.0},
     [0], {name: [[0, 0]] for name in ("anchor", "positive", "negative")}, [[0, 0]]),
    ("triplet_margin_loss", {"anchor": [[0.0, 0.0]], "positive": [[2.0, 0.0]], "negative": [[1.0, 0.0]]},
     {"eps": 0.0, "swap": True}, [2],
     {"anchor": [[-0.5, 0]], "positive": [[0.5, 0]], "negative": [[0, 0]]}, [[0, 0]]),
]  # fmt: skip


def as_array(entries):
    array = np.array(entries)
    return array if array.dtype.kind == "i" else array.astype(float)


@pytest.mark.parametrize(
    ("loss", "arrays", "options", "value", "slopes", "second"), EDGES, ids=[f"{e[0]}-{k}" for k, e in enumerate(EDGES)]
)
def test_edges(loss, arrays, options, value, slopes, second):
    found = plain.computed(loss, {name: as_array(a) for name, a in arrays.items()}, options)
    close = {"rtol": 1e-12, "atol": 1e-320}
    if value is not None:
        np.testing.assert_allclose(found.value, value, **close)
    for name, slope in slopes.items():
        np.testing.assert_allclose(found.slopes[name], slope, err_msg=name, **close)
    if second is not None:
        np.testing.assert_allclose(found.second, second, err_msg="second derivative", **close)


def is_refused(loss, arrays):
    """Return whether a kernel never sees the arrays, because the loss refuses their values."""
    if loss == "gaussian_nll_loss":
        return (arrays["var"] < 0).any()
    return loss in ("binary_cross_entropy", "binary_focal_loss") and (arrays["input"] > 1).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "arrays", "options", "value", "slopes", "second"), EDGES, ids=[f"{e[0]}-{k}" for k, e in enumerate(EDGES)]
)
def test_edges_in_kernels(loss, arrays, options, value, slopes, second):
    function, record = getattr(fl, loss), plain.LOSSES[loss]
    arrays = {name: as_array(a) for name, a in arrays.items()}
    options = options | ({"reduction": "none"} if "reduction" in record.options else {})
    close = {"rtol": 1e-11, "atol": 1e-307}  # what is below the smallest normal number may be 0
    if is_refused(loss, arrays):
        with pytest.raises(ValueError, match=r"var|\[0, 1\]"):
            function(**arrays, **options)
        return
    names = tuple(name for name in slopes if name in record.differentiable and name in arrays)
    found, gradients = fl.value_and_grad(function, names or None)(**arrays, **options)
    if value is not None:
        np.testing.assert_allclose(found, value, **close)
    for name, gradient in zip(names, gradients, strict=False):
        np.testing.assert_allclose(gradient, slopes[name], err_msg=name, **close)
    if second is not None and record.hessian is not None:
        np.testing.assert_allclose(fl.grad_and_hess(function)(**arrays, **options)[1], second, **close)


@pytest.mark.parametrize("loss", ["binary_cross_entropy", "binary_focal_loss"])
def test_edges_of_probabilities_with_the_logarithm_of_kernels(loss, monkeypatch):
    """That of 0 is a number below -100, and that of what lies outside anything."""

    def log_unit(x, whole):
        if 0 <= x <= 1:
            return max(scalars.log_unit(x, whole), -104.0)
        return 3.0

    for module in (binary, focal):
        monkeypatch.setattr(module, "log_unit", log_unit)
    for edge in EDGES:
        if edge[0] == loss and 1e-50 not in edge[1]["input"]:
            test_edges(*edge)


# -- vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "options", "exponent"),
    [
        ("cosine_embedding_loss", {}, 505),  # not -505: it adds a number that does not shrink
        *[
            (loss, {"eps": 0.0, **options}, exponent)
            for loss, options in (
                ("cosine_similarity", {}),
                ("pairwise_distance", {}),
                ("pairwise_distance", {"p": 3.0}),
                ("pairwise_distance", {"p": -2.0}),
            )
            for exponent in (-505, 505)
        ],
    ],
)
def test_the_size_of_a_vector_is_a_factor(loss, options, exponent, rng):
    """Its square is no number of float64 any more, yet no digit changes."""
    names = list(plain.LOSSES[loss].wrt)
    one, other = rng.normal(size=(2, 6, 4))
    distance = loss == "pairwise_distance"
    if loss == "cosine_embedding_loss":  # whose 1e-12 is no matter of vectors that are long before
        one, other, options = one * 1e9, other * 1e9, {**options, "margin": -0.5}
    labels = {} if "similarity" in loss or distance else {"target": np.array([1.0, -1, 1, -1, 1, -1])}
    found = plain.computed(loss, {names[0]: one, names[1]: other, **labels}, options)
    c = 2.0**exponent
    for which in (names[:1], names[1:], names):
        if distance and which != names:
            continue
        factor = {name: c if name in which else 1.0 for name in names}
        arrays = {names[0]: one * factor[names[0]], names[1]: other * factor[names[1]]}
        moved = plain.computed(loss, {**arrays, **labels}, options)
        np.testing.assert_allclose(moved.value / (c if distance else 1), found.value, 1e-13, 1e-15)
        for name in names:
            slope = moved.slopes[name] * (1 if distance else factor[name])
            np.testing.assert_allclose(slope, found.slopes[name], 1e-12, 1e-14 * abs(found.slopes[name]).max())
        if loss == "cosine_embedding_loss" and names[0] in which:
            continue  # the second derivative is below the smallest normal number
        second = moved.second * factor[names[0]] * (1 if distance else factor[names[0]])
        np.testing.assert_allclose(second, found.second, 1e-12, 1e-14 * abs(found.second).max())


@pytest.mark.parametrize("p", [2.0, 1.5, 3.0, -2.0])
def test_a_single_component_has_no_curvature(p, rng):
    """Nor a negative one by rounding: its pairwise_distance is its size."""
    x = rng.normal(size=(400, 1)) * 10
    for dtype in (np.float64, np.float32):
        arrays = {"x1": x.astype(dtype), "x2": np.zeros_like(x, dtype)}
        found = plain.computed("pairwise_distance", arrays, {"p": p, "eps": 0.0})
        assert found.value.dtype == dtype
        unit = 4 * np.finfo(dtype).eps / abs(x)
        assert (abs(found.second) <= unit).all()
        assert p < 1 or (found.second >= 0).all()


def test_no_cosine_is_beyond_one(rng):
    a = rng.normal(size=(400, 5))
    for loss, names, options in (
        ("cosine_similarity", ("x1", "x2"), {"eps": 0.0}),
        ("cosine_embedding_loss", ("input1", "input2"), {}),
    ):
        labels = {} if loss == "cosine_similarity" else {"target": np.ones(400)}
        for factor in (3.0, -3.0, 7.0, -7.0):
            value = plain.computed(loss, dict(zip(names, (a, factor * a), strict=True)) | labels, options).value
            value = 1 - value if labels else value
            assert abs(value).max() <= 1
            np.testing.assert_allclose(value, np.sign(factor), 1e-10 if labels else 1e-13)
        if not labels:
            for other in (a, -a):
                found = plain.computed(loss, {"x1": a, "x2": other}, options)
                np.testing.assert_array_equal(found.value, np.sign(other[:, 0] * a[:, 0]))
                assert not found.slopes["x1"].any()
                assert not found.slopes["x2"].any()


def test_the_cosine_distance_of_triplets(rng):
    """That of triplet_margin_with_distance_loss."""
    a, b = rng.normal(size=(2, 6, 4))
    found = plain.pairs(triplet._cosine_distance(a, b))
    cosine = plain.computed("cosine_similarity", {"x1": a, "x2": b}, {})
    np.testing.assert_array_equal(found.value, 1 - cosine.value)
    for name in ("x1", "x2"):
        np.testing.assert_array_equal(found.slopes[name], -cosine.slopes[name])
    np.testing.assert_array_equal(found.second, -cosine.second)


def test_a_sure_row_of_a_map_keeps_its_digits():
    """That of log_softmax."""
    found, slope, second = plain.mapped(softmax.LOG_SOFTMAX, np.array([[30.0, 0.0]]), np.array([[1.0, 0.0]]))
    np.testing.assert_allclose(found, [[-np.log1p(REST), -np.log1p(REST) - 30]], 1e-12)
    np.testing.assert_allclose(slope, [[MISS, -MISS]], 1e-12)
    np.testing.assert_allclose(second, [[-MISS * (1 - MISS)] * 2], 1e-12)


def test_a_softmax_of_just_the_floor_is_free():
    """In symmetric_cross_entropy."""
    T, p = np.float64, np.float64(1e-4)
    entry = (T(-9), p, T(1), T(1), False)
    assert symmetric.sce_terms(*entry, T(0), T(1), (T(0), T(1))) == (p, p, 0)
    (slope,), _ = symmetric.sce_entry(*entry, (T(0.75), T(0.25), T(0), T(0.5)), (T(0), T(1)))
    np.testing.assert_allclose(slope, -np.log(1e-4) * p * 0.25, 1e-14)


def test_numbers_alone_are_vectors_of_triplet_margin_loss():
    for shape in ((), (3,), (2, 3)):
        arrays = {name: np.ones(shape) for name in ("anchor", "positive", "negative")}
        assert plain.described("triplet_margin_loss", arrays, {}).broadcast == (shape == ())


def test_nothing_has_a_logsumexp_of_minus_infinity():
    assert plain.described("logsumexp", {"input": np.ones((3, 0))}, {"dim": 1}).empty == -INF


def test_axes_of_overlaps():
    for shape, axes in (((4, 5), (1,)), ((4, 3, 5), (2,)), ((2, 3, 4, 5), (2, 3))):
        assert plain.described("dice_loss", {"input": np.ones(shape), "target": np.ones(shape)}, {}).axis == axes


@pytest.mark.parametrize("eps", [0.0, 1e-3])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, INF, -INF, -2.0])
def test_triplets_are_differences_of_distances(p, eps, rng):
    a, b, c = rng.normal(size=(3, 8, 4))
    order = {"p": p, "eps": eps}
    near, far, swapped = (
        plain.computed("pairwise_distance", {"x1": u, "x2": v}, order) for u, v in ((a, b), (a, c), (b, c))
    )
    for swap in (False, True):
        found = plain.computed(
            "triplet_margin_loss", {"anchor": a, "positive": b, "negative": c}, {**order, "swap": swap}
        )
        nearer = (swapped.value < far.value) & swap
        share = np.where(swapped.value == far.value, 0.5, nearer)[:, None] if swap else 0
        hinge = near.value - np.where(nearer, swapped.value, far.value) + 1
        active = (hinge > 0)[:, None]
        np.testing.assert_allclose(found.value, np.maximum(hinge, 0), 1e-14)
        slopes = {
            "anchor": near.slopes["x1"] - (1 - share) * far.slopes["x1"],
            "positive": near.slopes["x2"] - share * swapped.slopes["x1"],
            "negative": -(1 - share) * far.slopes["x2"] - share * swapped.slopes["x2"],
        }
        for name, slope in slopes.items():
            np.testing.assert_allclose(found.slopes[name], active * slope, 1e-13, 1e-14)
        np.testing.assert_allclose(found.second, active * (near.second - (1 - share) * far.second), 1e-12, 1e-13)


def test_named_distances(rng):
    a, b, c = rng.normal(size=(3, 40, 4))
    arrays = {"anchor": a, "positive": b, "negative": c}
    for name, distance in {
        None: lambda u, v: np.sqrt(((u - v + 1e-6) ** 2).sum(1)),
        "euclidean": lambda u, v: np.sqrt(((u - v + 1e-6) ** 2).sum(1)),
        "manhattan": lambda u, v: abs(u - v).sum(1),
        "squared_euclidean": lambda u, v: ((u - v) ** 2).sum(1),
    }.items():
        for swap in (False, True):

            def value(moved, distance=distance, swap=swap):
                u, v, w = ({**arrays, **moved}[k] for k in arrays)
                far = np.minimum(distance(u, w), distance(v, w)) if swap else distance(u, w)
                return np.maximum(0, distance(u, v) - far + 0.5)

            options = {"distance_function": name, "margin": 0.5, "swap": swap}
            found = plain.computed("triplet_margin_with_distance_loss", arrays, options)
            assert_close(found.value, value({}))
            for k in arrays:
                exact = differences(lambda moved, k=k: value({k: moved}), arrays[k], True)
                assert_close(found.slopes[k], exact, factor=1e5)
            if name != "squared_euclidean":
                continue

            def slope(moved, options=options):
                found = plain.computed("triplet_margin_with_distance_loss", {**arrays, "anchor": moved}, options)
                return found.slopes["anchor"]

            assert_close(found.second, differences(slope, a, True), factor=1e5)


def test_distances_that_triplet_margin_with_distance_loss_takes():
    for distance in (None, "euclidean", "squared_euclidean", "manhattan", "cosine", np.hypot):
        triplet.DISTANCE.check("distance_function", distance)
    for distance in ("chebyshev", "", 2, ("cosine",)):
        with pytest.raises(ValueError, match="distance_function"):
            triplet.DISTANCE.check("distance_function", distance)
    for vjp in (None, np.hypot):
        triplet.CALLABLE.check("distance_vjp", vjp)
    with pytest.raises(ValueError, match="distance_vjp"):
        triplet.CALLABLE.check("distance_vjp", 2)
    arrays = {name: np.ones((1, 2)) for name in ("anchor", "positive", "negative")}
    for distance, described in (("cosine", triplet._cosine_distance), (np.hypot, None)):
        job = plain.described("triplet_margin_with_distance_loss", arrays, {"distance_function": distance})
        assert {one.describe for one in job.distances} == {described}


def test_hinges_of_chosen_distances():
    arrays = {"anchor": np.ones((1, 2)), "positive": np.ones((1, 2)), "negative": np.ones((1, 2))}
    T = np.float64
    for swap, pairs in ((False, ((0, 1), (0, 2))), (True, ((0, 1), (0, 2), (1, 2)))):
        options = {"distance_function": "cosine", "swap": swap, "margin": 0.25}
        job = plain.described("triplet_margin_with_distance_loss", arrays, options)
        assert tuple(distance.operands for distance in job.distances) == pairs
        assert job.params == (0.25,)
        if not swap:
            assert job.point(T(1), T(0.5), T(0.25)) == (0.75, (1, -1), 0)
            assert job.point(T(0.25), T(0.5), T(0.25)) == (0, (0, 0), 0)
            continue
        assert job.point(T(1), T(0.5), T(0.75), T(0.25)) == (0.75, (1, -1, 0), 0)
        assert job.point(T(1), T(0.5), T(0.375), T(0.25)) == (0.875, (1, 0, -1), 0)
        assert job.point(T(1), T(0.5), T(0.5), T(0.25)) == (0.75, (1, -0.5, -0.5), 0)
        assert job.point(T(0.25), T(0.5), T(0.5), T(0.25)) == (0, (0, 0, 0), 0)


# -- what is beside the ordinary forms of a loss -----------------------------------------------------------------------


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_and_the_square_of_its_logarithm(soft, smoothing, rng):
    x, t = rng.normal(size=(6, 5)), rng.dirichlet(np.ones(5), 6) if soft else rng.integers(5, size=6)
    options = {"label_smoothing": smoothing}
    squared = {**options, "z_loss": 0.3}

    def with_squares(moved):
        plainly = plain.computed("cross_entropy", {"input": moved, "target": t}, options).value
        return plainly + 0.3 * np.log(np.exp(moved).sum(1)) ** 2

    def slope(moved):
        return plain.computed("cross_entropy", {"input": moved, "target": t}, squared).slopes["input"]

    found = plain.computed("cross_entropy", {"input": x, "target": t}, squared)
    assert_close(found.value, with_squares(x))
    assert_close(found.slopes["input"], differences(with_squares, x, True), factor=1e5)
    assert_close(found.second, differences(slope, x, True), factor=1e4)
    if soft:
        plainly = plain.computed("cross_entropy", {"input": x, "target": t}, options)
        np.testing.assert_array_equal(found.slopes["target"], plainly.slopes["target"])


@pytest.mark.parametrize(
    "option",
    [{"logit_scale": 2.0}, {"softcap": 30.0}, {"valid_classes": 3}, {"z_loss": 0.1}, {"returns": ("lse",)}],
    ids=str,
)
def test_options_of_logits_of_cross_entropy_alone(option):
    arrays = {"input": np.ones((2, 5)), "target": np.array([0, 1])}
    assert plain.described("cross_entropy", arrays, {}).scores is None
    scores = plain.described("cross_entropy", arrays, option).scores
    names = {"logit_scale": "scale", "valid_classes": "classes"}
    ((name, value),) = option.items()
    assert getattr(scores, names.get(name, name)) == value


def test_log_probability_of_a_token(rng):
    """That of linear_log_prob."""
    x = rng.normal(size=5)
    p = np.exp(x) / np.exp(x).sum()
    for y in range(5):
        value, (slope,), _ = plain.row_of(
            multiclass.TOKEN_LOG_PROBABILITY, x, np.ones(5), y, np.ones(5), (np.float64(0.2),)
        )
        np.testing.assert_allclose(value, np.log(p[y]), 1e-14)
        np.testing.assert_allclose(slope, np.eye(5)[y] - p, 1e-14)


def test_multilabel_soft_margin_loss_with_a_weight_of_each_entry(rng):
    x, t, w = rng.normal(size=(6, 5)), rng.uniform(size=(6, 5)), rng.uniform(0.5, 2, (6, 5))

    job = plain.described("multilabel_soft_margin_loss", {"input": x, "target": t, "weight": w}, {})
    found = plain.pairs(descriptions.Pairwise(job.pairs, (x, t, w), ("input", "target", "weight")))
    right = plain.computed("multilabel_soft_margin_loss", {"input": x, "target": t}, {})
    assert job.pairs is margin.MULTILABEL_SOFT_PAIRS
    assert_close(found.value, (w * (np.log1p(np.exp(x)) - t * x)).mean(1))
    for name in ("input", "target"):
        assert_close(found.slopes[name], w * right.slopes[name])
    assert_close(found.slopes["weight"], (np.log1p(np.exp(x)) - t * x) / 5)
    assert_close(found.second, w * right.second)


@pytest.mark.parametrize(
    ("loss", "value", "slope", "second"),
    [
        ("l1_penalty", [0.75, 0, 0.5], [-0.25, 0, 0.25], [0, 0, 0]),
        ("l2_penalty", [1.125, 0, 0.5], [-0.75, 0, 0.5], [0.25] * 3),
    ],
)
def test_penalties(loss, value, slope, second):
    found = plain.computed(loss, {"params": np.array([-3.0, 0.0, 2.0])}, {"coefficient": 0.25})
    np.testing.assert_array_equal(found.value, value)
    np.testing.assert_array_equal(found.slopes["params"], slope)
    np.testing.assert_array_equal(found.second, second)


def test_no_class_is_ignored_unless_told_otherwise():
    arrays = {"input": np.ones((2, 3)), "linear_weight": np.ones((200, 3)), "target": np.array([0, 100])}
    for smoothing, maths in ((0.0, multiclass.CROSS_ENTROPY), (0.1, multiclass.SMOOTH_CROSS_ENTROPY)):
        rows = plain.described("linear_cross_entropy", arrays, {"label_smoothing": smoothing}).rows
        assert rows.ignore_index == -100
        assert rows.maths is maths
    tokens = {"hidden": arrays["input"], "head": arrays["linear_weight"], "token": arrays["target"]}
    assert plain.described("linear_log_prob", tokens, {}).rows.ignore_index == -100
