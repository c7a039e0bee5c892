"""The maths of every loss as plain Python, without a kernel: values, derivatives, and the numbers at the edges.

What is wrong in the formula of a loss is found here in a second; `bench/mutate.py` asks whether it would be.
"""

import numpy as np
import plain
import pytest
from cases import ACTIVE, assert_close

from fastloss.losses import softmax

exact = pytest.importorskip("exact", reason="mpmath is not installed", exc_type=ImportError)

NAN, INF = np.nan, np.inf
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
PLAIN = [case for case in ACTIVE if is_small(case) and plain.is_plain(case.loss, full(case), case.options)]


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


@pytest.mark.parametrize("options", [{}, {"gamma": 0.0}, {"gamma": 1.5, "alpha": -1.0}], ids=str)
@pytest.mark.parametrize("loss", ["binary_cross_entropy", "binary_focal_loss"])
def test_functions_for_hard_targets(loss, options):
    if options and loss == "binary_cross_entropy":
        pytest.skip("has no options")
    edges = np.array([0, 5e-324, 1e-300, 1e-50, 1e-24, 1e-20, 9e-13, 2e-12, 1e-5, 0.3, 0.5, 1 - 1e-13, 1 - 2**-53, 1, NAN])
    x, t = np.concatenate([edges, edges]), np.repeat([0.0, 1.0], edges.size)
    general, hard = (plain.computed(loss, {"input": x, "target": t}, options, h) for h in (False, True))
    np.testing.assert_allclose(hard.value, general.value, 1e-14)
    np.testing.assert_allclose(hard.slopes["input"], general.slopes["input"], 1e-14)
    np.testing.assert_allclose(hard.second, general.second, 1e-14)


# -- at high precision -----------------------------------------------------------------------------------------------


def in_plain_python(case, arrays):
    found = plain.computed(case.loss, arrays, case.options)
    return found.value, [found.slopes[name] for name in case.wrt]


EXACT = [
    case
    for case in exact.EXACT
    if plain.is_plain(case.loss, case.make(np.random.default_rng(0), 2), case.options)
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
