"""Gradients and second derivatives against differences, and how a gradient is asked for and returned."""

import numpy as np
import pytest
from cases import ACTIVE, DTYPES, LOSSES, PLAIN, TYPICAL, assert_close, marked, typical

import fastloss as fl

# Fourth-order central differences: the error is about STEP**4 times the fifth derivative, plus 1e-16 / STEP.
STEP = 1e-4
WEIGHTS = {-2: 1 / 12, -1: -8 / 12, 1: 8 / 12, 2: -1 / 12}

CURVED = [case for case in ACTIVE if case.record.hessian is not None]


def differences(function, array):
    """Return the derivatives of a scalar function with respect to each entry of an array."""
    slopes = np.zeros(array.shape)
    for place in np.ndindex(array.shape):
        for steps, weight in WEIGHTS.items():
            moved = array.copy()
            moved[place] += steps * STEP
            slopes[place] += weight * function(moved) / STEP
    return slopes


def upstream_for(case, arrays, reduction):
    """Return an upstream gradient: a factor for a reduced loss, an array for the others."""
    shape = case.expected(arrays, **reduction).shape
    if reduction.get("reduction", "none") != "none":
        return -1.75
    return np.asarray(np.random.default_rng(5).normal(size=shape))


def compare_with_differences(case, reduction):
    arrays = case.make()
    names = case.wrt(arrays)
    upstream = upstream_for(case, arrays, reduction)
    value, gradients = case.value_and_grad(arrays, names, grad_output=upstream, **reduction)
    assert_close(value, case.expected(arrays, **reduction))
    for name, gradient in zip(names, gradients, strict=True):

        def scalar(moved, name=name):
            return np.sum(upstream * case.expected({**arrays, name: moved}, **reduction))

        assert gradient.dtype == np.float64
        assert_close(gradient, differences(scalar, arrays[name]), factor=1e5)


@pytest.mark.parametrize("case", marked(ACTIVE, lambda case: case in PLAIN and case.loss in TYPICAL))
def test_gradient_against_differences(case):
    for reduction in case.reductions:
        compare_with_differences(case, reduction)


@pytest.mark.parametrize("case", [case for case in PLAIN if case.loss not in TYPICAL], ids=str)
def test_gradient_of_the_mean_against_differences(case):
    """Of the losses whose other reductions are left to `slow`."""
    compare_with_differences(case, {"reduction": "mean"} if "reduction" in case.record.options else {})


NARROW = [
    pytest.param(*param.values, dtype, marks=param.marks, id=f"{param.id}-{dtype}")
    for cases, dtype, quick in (
        (ACTIVE, "float32", ("mse_loss", "cross_entropy", "ctc_loss")),
        (PLAIN, "bfloat16", ("mse_loss", "cross_entropy")),
        (PLAIN, "float16", ()),
    )
    for param in marked(cases, lambda case, quick=quick: case in PLAIN and case.loss in quick)
]


@pytest.mark.parametrize(("case", "dtype"), NARROW)
def test_gradient_of_narrow_types(case, dtype):
    """The reference is the float64 gradient at the rounded arguments."""
    arrays = case.make(dtype)
    names = case.wrt(arrays)
    wide = {name: array if array.dtype.kind in "iu" else array.astype(float) for name, array in arrays.items()}
    reduction = {"reduction": "none"} if "reduction" in case.record.options else {}
    upstream = upstream_for(case, arrays, reduction).astype(DTYPES[dtype])
    value, gradients = case.value_and_grad(arrays, names, grad_output=upstream, **reduction)
    _, expected = case.value_and_grad(wide, names, grad_output=upstream.astype(float), **reduction)
    assert value.dtype == DTYPES[dtype]
    assert_close(value, case.expected(arrays, **reduction), dtype)
    for gradient, exact in zip(gradients, expected, strict=True):
        assert gradient.dtype == DTYPES[dtype]
        assert_close(gradient, exact, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("columns", [3, 8, 10, 17])
@pytest.mark.parametrize("rows", [1, 7, 130])
def test_short_rows_of_half_types_are_rounded_once(rows, columns, dtype, rng):
    """Whatever the number of rows and columns: those of the float32 result, rounded to nearest, NaN kept."""
    x = rng.normal(size=(rows, columns)).astype(DTYPES[dtype])
    x[rows // 2, 0] = np.nan
    y = rng.integers(columns, size=rows)
    gradient = fl.grad(fl.cross_entropy)(x, y, reduction="sum")
    wide = fl.grad(fl.cross_entropy)(x.astype(np.float32), y, reduction="sum")
    assert gradient.dtype == DTYPES[dtype]
    np.testing.assert_array_equal(gradient.astype(np.float32), wide.astype(DTYPES[dtype]).astype(np.float32))


@pytest.mark.parametrize("case", marked(CURVED, lambda case: case in PLAIN and case.loss in TYPICAL))
def test_second_derivative_against_differences(case):
    arrays = case.make()
    name = case.record.wrt[0]
    gradient, second = fl.grad_and_hess(case.function)(**arrays, **case.options)
    plain = fl.grad(case.function, name)

    def slopes(moved):
        return plain(**{**arrays, name: moved}, **case.options)

    assert_close(gradient, slopes(arrays[name]))
    if case.record.hessian == "zero":
        np.testing.assert_array_equal(second, np.zeros(second.shape))
    expected = np.zeros(arrays[name].shape)
    for place in np.ndindex(expected.shape):
        for steps, weight in WEIGHTS.items():
            moved = arrays[name].copy()
            moved[place] += steps * STEP
            expected[place] += weight * slopes(moved)[place] / STEP
    assert_close(second, expected, factor=1e4)


@pytest.mark.parametrize("case", typical([c for c in PLAIN if c.record.hessian is not None]))
def test_second_derivative_of_reductions(case):
    """An upstream factor scales both derivatives, and a mean is a sum over its divisor."""
    arrays = case.make()
    transform = fl.grad_and_hess(case.function)
    if "reduction" not in case.record.options:
        upstream = np.full(case.expected(arrays).shape, 2.0)
        for scaled, plain in zip(
            transform(**arrays, **case.options, grad_output=upstream), transform(**arrays, **case.options), strict=True
        ):
            assert_close(scaled, 2 * plain)
        return
    sums = transform(**arrays, **case.options, reduction="sum")
    ratio = case.expected(arrays, reduction="mean") / case.expected(arrays, reduction="sum")
    for scaled, plain in zip(transform(**arrays, **case.options, grad_output=2.0), sums, strict=True):
        assert_close(scaled, 2 * ratio * plain)
    for each, plain in zip(transform(**arrays, **case.options, reduction="none"), sums, strict=True):
        assert_close(each, plain)


@pytest.mark.parametrize("shape", [(3, 5), *[pytest.param(s, marks=pytest.mark.slow) for s in ((2, 110), (2, 4, 3))]])
@pytest.mark.parametrize("function", [fl.softmax, pytest.param(fl.log_softmax, marks=pytest.mark.slow)])
def test_second_derivative_of_a_map(function, shape):
    """Of Σ g f(x): the entry itself in the first derivative, by central differences."""
    generator = np.random.default_rng(4)
    x, g = generator.normal(size=shape), generator.normal(size=shape)
    gradient, second = fl.grad_and_hess(function)(x, 1, grad_output=g)
    np.testing.assert_array_equal(gradient, fl.grad(function)(x, 1, grad_output=g))
    for place in np.ndindex(*shape):
        shift = np.zeros(shape)
        shift[place] = 1e-5
        ends = [fl.grad(function)(x + s * shift, 1, grad_output=g)[place] for s in (1, -1)]
        np.testing.assert_allclose(second[place], (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("case", [c for c in PLAIN if c.record.hessian is None], ids=str)
def test_no_second_derivative(case):
    with pytest.raises(ValueError, match=case.loss):
        fl.grad_and_hess(case.function)


@pytest.mark.parametrize("case", typical(PLAIN))
def test_grad_is_the_gradient_of_value_and_grad(case):
    arrays = case.make()
    for reduction in case.reductions:
        value, expected = case.value_and_grad(arrays, **reduction)
        gradient = fl.grad(case.function)(**arrays, **case.options, **reduction)
        default = case.record.wrt
        if len(default) == 1:
            gradient, expected = (gradient,), (expected,)
        assert len(gradient) == len(expected) == len(default)
        for one, other in zip(gradient, expected, strict=True):
            np.testing.assert_array_equal(one, other)
        # Not the same bits: a loop that also writes gradients may add in another order.
        assert_close(value, case.call(arrays, **reduction))


def test_values_of_gaussian_are_rounded_alike_beside_gradients(rng):
    x, t, v = rng.normal(size=(3, 500))
    values, _ = fl.value_and_grad(fl.gaussian_nll_loss)(x, t, v * v, reduction="none", grad_output=np.ones(500))
    np.testing.assert_array_equal(values, fl.gaussian_nll_loss(x, t, v * v, reduction="none"))


@pytest.mark.parametrize("case", typical(PLAIN))
def test_one_name_gives_an_array_and_a_tuple_a_tuple(case):
    arrays = case.make()
    name = case.record.wrt[0]
    alone = fl.grad(case.function, name)(**arrays, **case.options)
    (packed,) = fl.grad(case.function, (name,))(**arrays, **case.options)
    np.testing.assert_array_equal(alone, packed)
    names = case.wrt(arrays)
    forward = fl.grad(case.function, names)(**arrays, **case.options)
    backward = fl.grad(case.function, names[::-1])(**arrays, **case.options)
    for one, other in zip(forward, backward[::-1], strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("case", typical(PLAIN))
def test_grad_out_is_filled_and_returned(case):
    arrays = case.make()
    names = case.wrt(arrays)
    _, expected = case.value_and_grad(arrays, names)
    given = tuple(np.full(arrays[name].shape, np.nan) for name in names)
    _, returned = case.value_and_grad(arrays, names, grad_out=given)
    for target, result, gradient in zip(given, returned, expected, strict=True):
        assert result is target
        np.testing.assert_array_equal(target, gradient)


@pytest.mark.parametrize("case", typical(PLAIN))
def test_grad_out_of_any_layout(case):
    arrays = case.make()
    name = case.record.wrt[0]
    expected = fl.grad(case.function, name)(**arrays, **case.options)
    wide = np.full((*expected.shape, 2), np.nan)
    for target in (wide[..., 0], np.full(expected.shape, np.nan, order="F"), np.full(expected.shape, np.nan)[::-1]):
        result = fl.grad(case.function, name)(**arrays, **case.options, grad_out=target)
        assert result is target
        np.testing.assert_array_equal(target, expected)
    assert np.isnan(wide[..., 1]).all()


@pytest.mark.parametrize("strided", [False, True], ids=["contiguous", "strided"])
@pytest.mark.parametrize("case", typical(PLAIN))
def test_gradient_in_the_place_of_its_argument(case, strided):
    arrays = case.make()
    for name in case.wrt(arrays):
        expected_value, expected = case.value_and_grad(arrays, name)
        own = {k: np.stack([a, a], axis=-1)[..., 0] if strided else a.copy() for k, a in arrays.items()}
        value, gradient = case.value_and_grad(own, name, grad_out=own[name])
        assert gradient is own[name]
        assert_close(value, expected_value)
        assert_close(gradient, expected)
        for other in set(own) - {name}:
            np.testing.assert_array_equal(own[other], arrays[other])


@pytest.mark.parametrize("case", typical(PLAIN))
def test_all_gradients_in_the_place_of_their_arguments(case):
    arrays = case.make()
    names = case.wrt(arrays)
    _, expected = case.value_and_grad(arrays, names)
    own = {k: a.copy() for k, a in arrays.items()}
    _, gradients = case.value_and_grad(own, names, grad_out=tuple(own[name] for name in names))
    for gradient, exact in zip(gradients, expected, strict=True):
        np.testing.assert_array_equal(gradient, exact)


@pytest.mark.parametrize("case", typical([c for c in PLAIN if c.record.family in ("elementwise", "rowmap")]))
def test_gradient_in_the_place_of_the_upstream(case):
    arrays = case.make()
    name = case.record.wrt[0]
    none = {"reduction": "none"} if "reduction" in case.record.options else {}
    upstream = upstream_for(case, arrays, none)
    _, expected = case.value_and_grad(arrays, name, grad_output=upstream, **none)
    own = upstream.copy()
    _, gradient = case.value_and_grad(arrays, name, grad_output=own, grad_out=own, **none)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("case", typical(PLAIN))
def test_out_is_filled_and_returned(case):
    arrays = case.make()
    none = {"reduction": "none"} if "reduction" in case.record.options else {}
    expected = case.call(arrays, **none)
    for out in (np.full(expected.shape, np.nan), np.full((*expected.shape, 3), np.nan)[..., 1]):
        value, _ = case.value_and_grad(arrays, out=out, **none)
        assert value is out
        assert_close(out, expected)


@pytest.mark.parametrize("case", typical(PLAIN))
def test_arguments_are_not_written(case):
    arrays = case.make()
    before = {name: array.copy() for name, array in arrays.items()}
    case.value_and_grad(arrays, case.wrt(arrays))
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("case", typical([c for c in PLAIN if "reduction" in c.record.options]))
def test_zero_upstream_gives_zero(case):
    gradient = fl.grad(case.function, case.record.wrt[0])(**case.make(), **case.options, grad_output=0.0)
    np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


def test_transforms_are_cached():
    for transform in (fl.grad, fl.value_and_grad, fl.grad_and_hess):
        assert transform(fl.mse_loss) is transform(fl.mse_loss)
    assert fl.grad(fl.mse_loss, "target") is fl.grad(fl.mse_loss, "target")
    assert fl.grad(fl.mse_loss, "target") is not fl.grad(fl.mse_loss)


# -- kinks: the side that torch 2.13 takes, see each loss's docstring ------------------------------------------------

KINKS = [
    ("l1_loss", {"input": [1.0], "target": [1.0]}, {}, [0.0]),
    ("l1_loss", {"input": [np.nan], "target": [1.0]}, {}, [0.0]),
    ("smooth_l1_loss", {"input": [1.0, -1.0, 0.0], "target": [0.0, 0.0, 0.0]}, {}, [1.0, -1.0, 0.0]),
    ("smooth_l1_loss", {"input": [1.0, -1.0, 0.0], "target": [0.0] * 3}, {"beta": 0.0}, [1.0, -1.0, 0.0]),
    ("huber_loss", {"input": [0.5, -0.5, 0.0], "target": [0.0] * 3}, {"delta": 0.5}, [0.5, -0.5, 0.0]),
    ("huber_loss", {"input": [np.inf, -np.inf], "target": [0.0] * 2}, {"delta": 0.5}, [0.5, -0.5]),
    ("hinge_embedding_loss", {"input": [1.0], "target": [-1.0]}, {}, [0.0]),
    ("hinge_embedding_loss", {"input": [0.25, 2.0], "target": [0.0, 0.5]}, {}, [0.0, 1.0]),
    ("margin_ranking_loss", {"input1": [1.0, 1.0], "input2": [1.0, 1.0], "target": [1.0, -1.0]}, {}, [0.0, 0.0]),
    ("multi_margin_loss", {"input": [[0.0, 1.0]], "target": [1]}, {}, [[0.0, 0.0]]),
    ("multi_margin_loss", {"input": [[0.0, 1.0]], "target": [1]}, {"p": 2}, [[0.0, 0.0]]),
    ("multilabel_margin_loss", {"input": [[0.0, 1.0]], "target": [[1, -1]]}, {}, [[0.0, 0.0]]),
    # a hinge of exactly 0: the distances are 1 and 2, the margin 1; torch has the active side's before 2.14
    (
        "triplet_margin_loss",
        {"anchor": [[0.0, 0.0]], "positive": [[1.0, 0.0]], "negative": [[-2.0, 0.0]]},
        {"eps": 0.0},
        [[0.0, 0.0]],
    ),
    # equal distances with swap: each gets half. d(a,p) slope -1; d(a,n) slope +1 in the first component, halved
    (
        "triplet_margin_loss",
        {"anchor": [[0.0, 0.0]], "positive": [[2.0, 0.0]], "negative": [[1.0, 0.0]]},
        {"eps": 0.0, "swap": True},
        [[-1.0 + 0.5, 0.0]],
    ),
    # zero vectors
    *[
        (
            "triplet_margin_loss",
            {"anchor": [[0.0, 0.0]], "positive": [[0.0, 0.0]], "negative": [[0.0, 0.0]]},
            {"eps": 0.0, "p": p},
            [[0.0, 0.0]],
        )
        for p in (1.0, 2.0, 3.0, np.inf)
    ],
    # the maximum norm shares the gradient of a tie; the negative is far away
    (
        "triplet_margin_loss",
        {"anchor": [[0.0, 0.0]], "positive": [[1.0, -1.0]], "negative": [[1.5, 0.0]]},
        {"eps": 0.0, "p": np.inf},
        [[-0.5 + 1.0, 0.5]],
    ),
    # cos = 0, unlike: nothing at the margin, above it the slope of the cosine, b / |a||b|
    *[
        (
            "cosine_embedding_loss",
            {"input1": [[1.0, 0.0]], "input2": [[0.0, 1.0]], "target": [-1.0]},
            {"margin": margin},
            [[0.0, slope]],
        )
        for margin, slope in ((0.0, 0.0), (-0.5, 1.0))
    ],
    ("cosine_embedding_loss", {"input1": [[1.0, 0.0]], "input2": [[0.0, 1.0]], "target": [0.0]}, {}, [[0.0, 0.0]]),
    # constant of torch: 1e-12 under the square root of each norm, so a zero vector has slope 1e6
    (
        "cosine_embedding_loss",
        {"input1": [[0.0, 0.0]], "input2": [[0.0, 1.0]], "target": [-1.0]},
        {"margin": -0.5},
        [[0.0, 1e6]],
    ),
    ("pairwise_distance", {"x1": [[0.0, 0.0]], "x2": [[0.0, 0.0]]}, {"eps": 0.0}, [[0.0, 0.0]]),
    ("pairwise_distance", {"x1": [[0.0, 2.0]], "x2": [[0.0, 0.0]]}, {"eps": 0.0, "p": 0.5}, [[0.0, 1.0]]),
    # the clamp of the norm is not seen by the derivative: slope 0.5, not 1
    ("cosine_similarity", {"x1": [[0.5]], "x2": [[1.0]]}, {"eps": 1.0}, [[0.5]]),
    ("binary_cross_entropy", {"input": [0.0, 1.0], "target": [1.0, 0.0]}, {}, [-1e12, 1e12]),
    ("gaussian_nll_loss", {"input": [1.0], "target": [0.0], "var": [0.0]}, {"eps": 0.5}, [2.0]),
]


@pytest.mark.parametrize(
    ("loss", "arrays", "options", "expected"),
    [kink for kink in KINKS if kink[0] in LOSSES],
    ids=[f"{kink[0]}-{k}" for k, kink in enumerate(KINKS) if kink[0] in LOSSES],
)
def test_kink(loss, arrays, options, expected):
    function = getattr(fl, loss)
    arrays = {name: np.array(array) for name, array in arrays.items()}
    names = tuple(n for n in function.__fastloss__.differentiable if n in arrays and arrays[n].dtype.kind == "f")
    if "reduction" in function.__fastloss__.options:
        options = {**options, "reduction": "sum"}
    _, gradients = fl.value_and_grad(function, names)(**arrays, **options)
    np.testing.assert_allclose(gradients[0], expected, rtol=1e-6, atol=1e-12)


@pytest.mark.skipif("gaussian_nll_loss" not in LOSSES, reason="gaussian_nll_loss is not there")
def test_clamped_variance_has_the_slope_at_the_clamp():
    gradient = fl.grad(fl.gaussian_nll_loss, "var")(np.array([0.0]), np.array([0.0]), np.array([0.0]), reduction="sum")
    np.testing.assert_allclose(gradient, [0.5e6], rtol=1e-12)


def test_probability_of_zero_has_no_slope_as_a_target():
    """Like torch's: log 0 + 1 is infinite or NaN, not a number to be trusted."""
    gradient = fl.grad(fl.kl_div, "target")(np.array([-1.0]), np.array([0.0]), reduction="sum")
    assert not np.isfinite(gradient).any()
