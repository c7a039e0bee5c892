"""Numbers are right to the last digits: errors in ulp over wide samples, and the inputs on which others lose them."""

import numpy as np
import pytest
from cases import quickly

mp = pytest.importorskip("mpmath")

import exact  # noqa: E402

import fastloss as fl  # noqa: E402

F4, F8 = np.float32, np.float64
INF, NAN = np.inf, np.nan
slow = pytest.mark.slow
each = pytest.mark.parametrize("dtype", [F4, pytest.param(F8, marks=slow)], ids=["f4", "f8"])


# Bounds on the errors of value and gradient in ulp; of losses that are not named, ORDINARY.
ORDINARY = (4, 4)
BOUNDS = {
    "sigmoid_focal_loss": (6, 8),
    "binary_focal_loss": (6, 8),
    "cross_entropy": (4, 10),
    "symmetric_cross_entropy": (4, 12),
    "pairwise_distance": (4, 5),
    "pairwise_distance, p=-2.0": (4, 30),  # powers by logarithm: a component far from the smallest loses some digits
}


QUICK = ("binary_cross_entropy_with_logits", "gaussian_nll_loss", "cross_entropy", "pairwise_distance")
CASES = [
    pytest.param(case, id=exact.title(case), marks=() if exact.title(case).strip("`") in QUICK else slow)
    for case in exact.EXACT
]


@each
@pytest.mark.parametrize("case", CASES)
def test_errors_in_ulp(case, dtype):
    value, gradient = exact.errors(case, dtype, 40)
    name = case.loss if case.options.get("p") != -2.0 else f"{case.loss}, p=-2.0"
    bounds = BOUNDS.get(name, ORDINARY)
    assert value <= bounds[0], f"value: {value:.2f} ulp"
    assert gradient <= bounds[1], f"gradient: {gradient:.2f} ulp"


def each_value_and_slope(loss, *arrays, ulps=4, **options):
    value, slope = fl.value_and_grad(loss)(*arrays, reduction="none", **options)
    alone = loss(*arrays, reduction="none", **options)  # a kernel of its own, with its own order of summation
    np.testing.assert_allclose(alone, value, ulps * np.finfo(value.dtype).eps, np.finfo(value.dtype).smallest_normal)
    return value, slope


def close(found, expected, ulps=8):
    """Compare to relative precision; zeros, infinities and NaN exactly."""
    found = np.asarray(found)
    np.testing.assert_allclose(found, np.asarray(expected, F8).astype(found.dtype), ulps * np.finfo(found.dtype).eps)


# -- norms and cosines -----------------------------------------------------------------------------------------------

# Vectors with components that are huge, small, or both; the largest and the smallest numbers are of float32.
SPREAD = [
    [1e20, 1, 1], [3e38, 1e38, 0], [-2e19, 2e19, 5], [1e-20, 2e-20, 0], [1e-30, -1e-38, 1e-31], [1e30, 1e-30, 0],
    [3e-44, 0, 1e-44], [5, 5, 5], [1e-5, 1e-5, 1e-5], [3e38, 3e38, 3e38], [7e18, 1e19, 2.5e19], [0.3, 0, -0.4],
]  # fmt: skip


def scaled(vector, dtype):
    """Return the vector, with float64's range of exponents for float64."""
    v = np.array(vector, F4).astype(F8)
    return v.astype(F4) if dtype is F4 else np.sign(v) * abs(v) ** 8


def norm_and_slopes(v, p):
    with mp.workdps(60):
        d = [mp.mpf(float(u)) for u in v]
        if p in (INF, -INF):
            known = [abs(u) for u in d]
            n = max(known) if p == INF else min(known)
            return n, [mp.sign(u) / known.count(n) if abs(u) == n else 0 for u in d]
        if p < 0 and 0 in d:
            return mp.mpf(0), [0] * len(d)
        n = mp.fsum(abs(u) ** p for u in d if u) ** (1 / mp.mpf(p))
        return n, [mp.sign(u) * (abs(u) / n) ** (p - 1) if u else 0 for u in d]


@each
@pytest.mark.parametrize("p", quickly(2.0, 60.0, then=(1.0, 3.0, INF, 0.5, 10.0, -1.0, -3.0, -INF, 1.5, 1000.0)))
def test_norms_of_any_finite_vector(p, dtype):
    v = np.array([scaled(one, dtype) for one in SPREAD])
    value, (slope, other) = fl.value_and_grad(fl.pairwise_distance)(v, np.zeros_like(v), p=p, eps=0.0)
    np.testing.assert_array_equal(other, -slope)
    bound = 4 if p in (1, 2, INF, -INF) else 150 if dtype is F4 else 800  # x**p by logarithms loses |p log x| units
    for found, slopes, row in zip(value, slope, v, strict=True):
        n, expected = norm_and_slopes(row, p)
        assert exact.ulp(found, n, 0, dtype) <= bound
        for one, right in zip(slopes, expected, strict=True):
            assert exact.ulp(one, mp.mpf(right), 0, dtype) <= max(bound, abs(p) / 4)


@each
@pytest.mark.parametrize("p", quickly(2.0, 60.0, then=(1.0, 3.0, INF, 0.5)))
def test_triplets_of_any_finite_vectors(p, dtype):
    """The gradient is the difference of two unit vectors, wherever on the scale of numbers the vectors lie."""
    zero = np.zeros((len(SPREAD) - 1, 3), dtype)
    near = np.array([scaled(one, dtype) for one in SPREAD[1:]])
    value, (anchor, positive, negative) = fl.value_and_grad(fl.triplet_margin_loss)(
        zero, near, zero, p=p, eps=0.0, reduction="none"
    )
    expected, (slope, _) = fl.value_and_grad(fl.pairwise_distance)(near, zero, p=p, eps=0.0)
    np.testing.assert_allclose(value, expected + dtype(1), 8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(positive, slope, 8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(anchor, -positive)
    np.testing.assert_array_equal(negative, 0)


@each
@pytest.mark.parametrize("columns", [1, 3, 8, 100])
def test_a_long_vector_is_summed_again_as_a_whole(columns, dtype):
    """Its pieces may each be representable."""
    huge = dtype(np.finfo(dtype).max) / dtype(64)
    for size in (huge, dtype(np.finfo(dtype).smallest_normal)):
        v = np.full((5, columns), size, dtype)
        value, (slope, _) = fl.value_and_grad(fl.pairwise_distance)(v, np.zeros_like(v), eps=0.0)
        np.testing.assert_allclose(value / size, np.sqrt(columns), 4 * np.finfo(dtype).eps)
        np.testing.assert_allclose(slope, 1 / np.sqrt(columns), 4 * np.finfo(dtype).eps)
        close(fl.cosine_similarity(v, np.ones_like(v), eps=0.0), np.ones(5))


@slow
@each
def test_second_derivatives_of_norms_at_any_size(dtype):
    """Those of a vector that is c times as long are 1 / c of them."""
    v = np.array([[3.0, 1.0, -2.0]], dtype)
    for p in (2.0, 3.0, 1.5):
        plain = fl.grad_and_hess(fl.pairwise_distance)(v, np.zeros_like(v), p=p, eps=0.0)[1]
        for k in (80, -80) if dtype is F4 else (800, -800):
            c = dtype(2.0**k)
            second = fl.grad_and_hess(fl.pairwise_distance)(c * v, np.zeros_like(v), p=p, eps=0.0)[1]
            np.testing.assert_allclose(second * c, plain, (16 if p > 1.5 else 512) * np.finfo(dtype).eps)
    assert fl.grad_and_hess(fl.pairwise_distance)(v[:, :1], np.zeros((1, 1), dtype), eps=0.0)[1] >= 0


@slow
@each
def test_infinite_and_undefined_vectors(dtype):
    v = np.array([[INF, 1.0], [NAN, 1.0], [0.0, 0.0], [-INF, 0.0]], dtype)
    for p in (1.0, 2.0, 3.0, INF):
        value = fl.pairwise_distance(v, np.zeros_like(v), p=p, eps=0.0)
        np.testing.assert_array_equal(value, [INF, NAN, 0, INF])
    slope, second = fl.grad_and_hess(fl.pairwise_distance)(v[2:3], np.zeros((1, 2), dtype), p=3.0, eps=0.0)
    assert not slope.any()
    assert not second.any()


@slow
@pytest.mark.parametrize("p", [-1.0, -2.0, -0.5, -INF])
def test_negative_orders_are_torchs(p):
    torch = pytest.importorskip("torch")
    v = np.array([[3.0, 1.0, 2.0], [1.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    tensor = torch.from_numpy(v).requires_grad_()
    expected = torch.nn.functional.pairwise_distance(tensor, torch.zeros_like(tensor), p=p, eps=0.0)
    expected.sum().backward()
    value, (slope, _) = fl.value_and_grad(fl.pairwise_distance)(v, np.zeros_like(v), p=p, eps=0.0)
    np.testing.assert_allclose(value, expected.detach(), 1e-14)
    np.testing.assert_allclose(slope, tensor.grad, 1e-14)


@each
def test_no_cosine_is_beyond_one(dtype):
    rng = np.random.default_rng(4)
    a = (rng.normal(size=(4000, 7)) * 10 ** rng.uniform(-30, 30, (4000, 1))).astype(dtype)
    np.testing.assert_array_equal(fl.cosine_similarity(a, a, eps=0.0), 1)
    np.testing.assert_array_equal(fl.cosine_similarity(a, -a, eps=0.0), -1)
    third = a * dtype(3)
    assert abs(fl.cosine_similarity(a, third, eps=0.0)).max() <= 1
    loss = fl.cosine_embedding_loss(a, third, np.ones(4000), reduction="none")
    assert loss.min() >= 0


@each
def test_the_cosine_of_huge_and_small_vectors(dtype):
    top, small = np.finfo(dtype).max, np.finfo(dtype).smallest_subnormal
    a = np.array([[top, top], [top, 0], [small * 8, small * 6], [top, -top], [0.6, 0.8]], dtype)
    b = np.array([[1, 1], [small, small], [4, 3], [top, top], [0, 0]], dtype)
    value, (slope_a, slope_b) = fl.value_and_grad(fl.cosine_similarity)(a, b, eps=0.0)
    np.testing.assert_allclose(value, [1, np.sqrt(0.5), 1, 0, 0], 8 * np.finfo(dtype).eps, np.finfo(dtype).eps)
    np.testing.assert_allclose(slope_b[2], 0, atol=1e-6)
    np.testing.assert_allclose(slope_a[3].astype(F8) * float(top), [0.5, 0.5], 1e-5)
    value, (slope_a, slope_b) = fl.value_and_grad(fl.cosine_embedding_loss)(
        np.full((1, 2), dtype(1e20)), np.full((1, 2), dtype(1e20)), np.ones(1)
    )
    assert value == 0
    assert not slope_a.any()
    assert not slope_b.any()


@slow
@each
def test_cosines_of_vectors_below_eps(dtype):
    """A norm below eps counts as eps, whatever the other vector's."""
    zero, b = np.zeros((1, 2), dtype), np.array([[3e18, 4e18]], dtype)
    for eps in (1e-4, 1e-8, 1e-20, 1e-30):
        value, (slope, other) = fl.value_and_grad(fl.cosine_similarity)(zero, b, eps=eps)
        assert value == 0
        close(slope, np.array([[0.6, 0.8]]) / eps)
        assert not other.any()
    assert fl.cosine_similarity(zero, zero, eps=1e-50) == 0
    tiny = np.array([[3e-25, 4e-25]], dtype)
    close(fl.cosine_similarity(tiny, b), [5e-25 / 1e-8])
    close(fl.cosine_similarity(tiny, b, eps=1e-30), [1.0])


# -- yes or no -------------------------------------------------------------------------------------------------------


def test_positive_weights_keep_the_digits_of_a_sure_negative():
    x = np.array([-12, -16, -20, -60, 12, 20], F4)
    q = np.array([1, 2, 1e-6, 1e6, 3, 0.5], F4)
    for t in (np.zeros(6, F4), np.ones(6, F4)):
        value, slope = each_value_and_slope(fl.binary_cross_entropy_with_logits, x, t, pos_weight=q)
        soft = np.log1p(np.exp(-abs(x.astype(F8))))
        right = np.where(t == 1, q * (soft - np.minimum(x, 0)), soft + np.maximum(x, 0))
        close(value, right)
        p = 1 / (1 + np.exp(-x.astype(F8)))
        close(slope, np.where(t == 1, -q / (1 + np.exp(x.astype(F8))), p))


MIRRORED = [
    (fl.binary_cross_entropy_with_logits, {}, lambda t: 1 - t),
    (fl.sigmoid_focal_loss, {"alpha": -1}, lambda t: 1 - t),
    (fl.sigmoid_focal_loss, {"alpha": 0.5, "gamma": 1.5}, lambda t: 1 - t),
    (fl.soft_margin_loss, {}, lambda t: 1 - t),
]


@slow
@pytest.mark.parametrize("dtype", [F4, F8])
@pytest.mark.parametrize(("loss", "options", "other"), MIRRORED)
def test_mirror_images_have_mirrored_bits(loss, options, other, dtype):
    rng = np.random.default_rng(5)
    x = np.concatenate([exact.logits(rng, 300), np.arange(-40, 41)]).astype(dtype)
    t = rng.integers(0, 2, x.size).astype(dtype)
    signs = loss is fl.soft_margin_loss
    target, mirrored = (2 * t - 1, 1 - 2 * t) if signs else (t, other(t))
    found, image = loss(x, target, reduction="none", **options), loss(-x, mirrored, reduction="none", **options)
    np.testing.assert_array_equal(found, image)
    slope, second = fl.grad_and_hess(loss)(x, target, reduction="none", **options)
    slope_of_image, second_of_image = fl.grad_and_hess(loss)(-x, mirrored, reduction="none", **options)
    np.testing.assert_array_equal(slope, -slope_of_image)
    np.testing.assert_array_equal(second, second_of_image)


@slow
def test_a_class_more_mirrors_the_logistic_loss():
    """Two classes are a logit; multilabel_soft_margin_loss is binary cross-entropy."""
    x = np.linspace(-30, 30, 61, dtype=F4)[:, None]
    t = (x > 3).astype(F4)
    value, slope = each_value_and_slope(fl.binary_cross_entropy_with_logits, x, t)
    labels, slopes = each_value_and_slope(fl.multilabel_soft_margin_loss, x, t)
    close(labels, value[:, 0], 2)
    close(slopes, slope, 2)
    classes, of_classes = each_value_and_slope(fl.cross_entropy, np.hstack([np.zeros_like(x), x]), t[:, 0].astype(int))
    close(classes, value[:, 0])
    close(of_classes[:, 1:], slope)
    close(of_classes[:, :1], -slope)


@slow
@each
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_second_derivatives_of_sure_predictions(t, dtype):
    x = np.array([17.0, 30.0, 3.0, -17.0, -30.0, 0.25], dtype)
    target = np.full_like(x, t)
    with mp.workdps(80):
        for loss, function, options in (
            (fl.binary_cross_entropy_with_logits, lambda u: exact.bce_with_logits(u, t), {}),
            (fl.sigmoid_focal_loss, lambda u: exact.sigmoid_focal(u, t), {}),
            (fl.soft_margin_loss, lambda u: exact.softplus(-(2 * t - 1) * u), {}),
        ):
            given = 2 * target - 1 if loss is fl.soft_margin_loss else target
            slope, second = fl.grad_and_hess(loss)(x, given, reduction="none", **options)
            for k, u in enumerate(x):
                assert exact.ulp(slope[k], mp.diff(function, mp.mpf(float(u))), 0, dtype) < 8
                assert exact.ulp(second[k], mp.diff(function, mp.mpf(float(u)), 2), 0, dtype) < 24


def test_focal_loss_at_a_sure_positive():
    slope, second = fl.grad_and_hess(fl.sigmoid_focal_loss)(F4([17]), F4([1]), alpha=-1, reduction="sum")
    np.testing.assert_allclose(slope, -2.1286e-22, 1e-4)
    np.testing.assert_allclose(second, 6.3859e-22, 1e-4)


# -- classes ---------------------------------------------------------------------------------------------------------

LAYOUTS = [(2,), (5,), (63,), (64,), (100,), (300,), (700,), (5000,), (3, 2), (70, 3)]


def sure_rows(shape, dtype):
    """Rows that are the surer the further down: the loss of the last is about exp(-30) for each class."""
    gaps = np.array([0.5, 2.0, 8.0, 12.0, 20.0, 30.0])
    x = np.zeros((gaps.size, *shape), dtype)
    x[:, 1] = gaps.reshape(-1, *(1,) * (len(shape) - 1)) + 40
    x[:, 0] = -1
    x[:, 1:2] -= 40
    return x, np.ones((gaps.size, *shape[1:]), int)


def rest_of(x):
    """Return Σ exp(x - x_1) over all classes but the second."""
    z = x.astype(np.longdouble) - x[:, 1:2]
    return np.delete(np.exp(z), 1, axis=1).sum(1)


@each
@pytest.mark.parametrize("shape", quickly((5,), then=LAYOUTS[:1] + LAYOUTS[2:]), ids=str)
def test_cross_entropy_of_sure_rows(shape, dtype):
    x, y = sure_rows(shape, dtype)
    rest = rest_of(x)
    ulps = 8 + np.sqrt(shape[0])
    value, slope = each_value_and_slope(fl.cross_entropy, x, y, ulps=max(4, np.sqrt(shape[0])))
    close(value, np.log1p(rest), ulps)
    close(slope[:, 1], -rest / (1 + rest), ulps)
    close(slope[:, 0], np.exp(np.longdouble(-1) - x[:, 1]) / (1 + rest), ulps)
    close(fl.log_softmax(x, dim=1)[:, 1], -np.log1p(rest), ulps)
    _, second = fl.grad_and_hess(fl.cross_entropy)(x, y, reduction="none")
    close(second[:, 1], rest / (1 + rest) ** 2, ulps)


@pytest.mark.slow
@each
def test_gradients_of_many_equal_logits(dtype):
    """Each has the largest softmax, which is small: no digit is lost to a difference from 1."""
    x, t = np.zeros((1, 5000), dtype), np.zeros((1, 5000), dtype)
    t[0, 7] = 1
    expected = 1 / 5000 - t
    close(fl.grad(fl.cross_entropy)(x, t), expected)
    close(fl.grad(fl.log_softmax)(x, 1, grad_output=-t), expected)
    weight = np.ones(5000, dtype)
    weight[7] = 0
    slope = fl.grad(fl.cross_entropy)(x, np.array([7]), weight=weight, label_smoothing=0.5, reduction="sum")
    close(slope[0, 7], 0.5 / 5000 * 4999 / 5000)


@slow
@pytest.mark.parametrize("shape", quickly((5,), then=((100,), (5000,))), ids=str)
def test_relatives_of_cross_entropy_of_sure_rows(shape):
    x, y = sure_rows(shape, F4)
    rest = rest_of(x).astype(F8)
    hot = np.zeros_like(x)
    hot[:, 1] = 1
    value, slope = each_value_and_slope(fl.cross_entropy, x, hot)
    close(value, np.log1p(rest), 20)
    close(slope[:, 1], -rest / (1 + rest), 20)
    value, slope = each_value_and_slope(fl.symmetric_cross_entropy, x, y, b=0.0)
    close(value, np.log1p(rest), 20)
    close(slope[:, 1], -rest / (1 + rest), 20)
    slope = fl.grad(fl.log_softmax)(x, dim=1, grad_output=hot)
    close(slope[:, 1], rest / (1 + rest), 20)
    _, second = fl.grad_and_hess(fl.logsumexp)(x, dim=1)
    close(second[:, 1], rest / (1 + rest) ** 2, 20)
    shifted = np.where(hot == 1, 0, x - x[:, 1:2]).astype(F4)
    close(fl.logsumexp(shifted, dim=1), np.log1p(np.delete(np.exp(shifted.astype(F8)), 1, 1).sum(1)), 20)


@slow
@pytest.mark.parametrize("slope", [3.0, 0.001])
def test_many_strided_classes_are_summed_to_the_last_digits(slope, rng):
    """Of exponentials added up one by one in float32, 10 to 500 units in the last place were wrong."""
    logits, labels = (slope * rng.standard_normal((1, 100_000, 16))).astype(np.float32), rng.integers(100_000, size=16)
    exact, expected = fl.value_and_grad(fl.cross_entropy)(logits.astype(np.float64), labels[None], reduction="none")
    value, gradient = fl.value_and_grad(fl.cross_entropy)(logits, labels[None], reduction="none")
    np.testing.assert_allclose(value, exact, rtol=3e-7)
    np.testing.assert_allclose(gradient, expected, rtol=3e-6)


@slow
def test_many_strided_classes_beside_one_that_is_nearly_sure(rng):
    """The others are summed without the one, whose gradient they are."""
    logits = (0.1 * rng.standard_normal((1, 100_000, 16))).astype(np.float32)
    labels = np.arange(16)[None]
    logits[0, labels[0], labels[0]] = 14.0
    expected = fl.grad(fl.cross_entropy)(logits.astype(np.float64), labels, reduction="none")[0, labels[0], labels[0]]
    gradient = fl.grad(fl.cross_entropy)(logits, labels, reduction="none")[0, labels[0], labels[0]]
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


def test_a_loss_of_two_classes_that_is_nearly_nothing():
    value, slope = each_value_and_slope(fl.cross_entropy, F4([[20, 0]]), np.array([0]))
    close(value, [2.0611536e-09], 4)
    close(slope, [[-2.0611536e-09, 2.0611536e-09]], 4)


@slow
def test_sure_rows_whose_gradient_replaces_the_logits():
    for shape in LAYOUTS[1:8]:
        x, y = sure_rows(shape, F4)
        expected = fl.grad(fl.cross_entropy)(x, y, reduction="sum")
        close(fl.grad(fl.cross_entropy)(x, y, reduction="sum", grad_out=x), expected, 2)


@slow
def test_many_sure_rows_among_others(rng):
    """A tile of rows is summed as a whole where many are sure, row by row where few are."""
    for share in (0.01, 0.5, 1.0):
        x = rng.normal(size=(500, 10)).astype(F4)
        y = rng.integers(0, 10, 500)
        x[np.arange(500), y] += np.where(rng.random(500) < share, 18, 0).astype(F4)
        value, slope = each_value_and_slope(fl.cross_entropy, x, y)
        z = x.astype(F8) - x[np.arange(500), y][:, None]
        rest = np.exp(z).sum(1, where=np.arange(10) != y[:, None])
        close(value, np.log1p(rest), 24)
        close(slope[np.arange(500), y], -rest / (1 + rest), 24)


@slow
def test_half_precision_keeps_small_losses_where_it_can():
    value = fl.cross_entropy(np.array([[12, 0]], np.float16), np.array([0]))
    close(value, 6.144193e-06, 4)


# -- zero times infinity -----------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("classes", quickly(3, then=(70, 700)))
def test_a_class_of_weight_zero_may_be_impossible(classes, dtype):
    x, w = np.zeros((2, classes), dtype), np.ones(classes, dtype)
    x[:, 0], x[:, 2], x[:, 1], w[1] = 1, 2, -INF, 0
    options = {"label_smoothing": 0.1, "reduction": "none"}
    value, slope = fl.value_and_grad(fl.cross_entropy)(x, np.array([0, 1]), w, **options)
    known = np.delete(x[0], 1).astype(F8)
    whole = np.log(np.exp(known).sum())
    share = 0.1 / classes * (whole - known).sum()
    close(value, [0.9 * (whole - 1) + share, share], 20)
    assert np.isfinite(slope).all()
    assert not slope[:, 1].any()
    plain, slope = fl.value_and_grad(fl.cross_entropy)(x, np.array([0, 1]), w, reduction="none")
    close(plain, [whole - 1, 0], 20)
    assert not slope[1].any()


@slow
def test_smoothing_beside_an_impossible_class_of_weight_zero():
    value = fl.cross_entropy(F4([[1, -INF, 2]]), np.array([0]), F4([1, 0, 1]), label_smoothing=0.1)
    np.testing.assert_allclose(value, 0.9 * np.log1p(np.e) + 0.1 / 3 * (2 * np.log1p(np.e) - 1), 1e-6)


@each
def test_probabilities_of_zero_contribute_nothing(dtype):
    x, t = np.array([-INF, INF, -1, NAN, -INF], dtype), np.array([0, 0, 0, 0, 0.5], dtype)
    np.testing.assert_array_equal(fl.kl_div(x, t, reduction="none"), [0, 0, 0, NAN, INF])
    with np.errstate(divide="ignore"):
        logs = np.log(t)
    np.testing.assert_array_equal(fl.kl_div(x, logs, reduction="none", log_target=True), [0, 0, 0, NAN, INF])
    np.testing.assert_array_equal(fl.grad(fl.kl_div)(x, t, reduction="sum"), -t)


# -- counts and variances ----------------------------------------------------------------------------------------------


@slow
@each
@pytest.mark.parametrize("rate", [4.0, 1e3, 1e6, 1e7])
def test_counts_near_their_rate(rate, dtype):
    t = np.round(rate * np.array([1.001, 0.97, 1.2, 1.0, 1.9, 0.55, 3.0])).astype(dtype)
    x = np.full_like(t, rate)
    for given, options in ((x, {"log_input": False, "eps": 0.0}), (np.log(x), {})):
        value, slopes = fl.value_and_grad(fl.poisson_nll_loss, ("input", "target"))(
            given, t, full=True, reduction="none", **options
        )
        with mp.workdps(50):
            for k, u in enumerate(given):
                u, n = mp.mpf(float(u)), mp.mpf(float(t[k]))
                y = u if options else mp.exp(u)
                right = exact.poisson(u, n, mp.mpf(0), not options, True)
                # what the rounding of exp makes, which is less than that of its argument
                scale = abs(y - n) if not options else 0
                assert exact.ulp(value[k], right, scale, dtype) < 16
                assert exact.ulp(slopes[0][k], 1 - n / u if options else y - n, 0 if options else y, dtype) < 4
                assert exact.ulp(slopes[1][k], mp.log(n / y) + 1 / (2 * n), 1 / (2 * n) if n == y else 1, dtype) < 8


@each
def test_what_eps_adds_to_a_rate_near_one(dtype):
    """The rounded sum of both may have lost all of it, and its logarithm is hardly more."""
    one = dtype(1)
    x = np.array([1, np.nextafter(one, 2), np.nextafter(one, 0), 1.0001, 0.99, 1e-9, 0.3, 100], dtype)
    t = np.full_like(x, 1e4)
    for eps in (2.0**-27, 1.0):
        value, (_, slope) = fl.value_and_grad(fl.poisson_nll_loss, ("input", "target"))(
            x, t, log_input=False, eps=eps, reduction="none"
        )
        full = fl.grad(fl.poisson_nll_loss, "target")(t, t, log_input=False, full=True, eps=eps, reduction="sum")
        with mp.workdps(60):
            for k, u in enumerate(x):
                u, n = mp.mpf(float(u)), mp.mpf(float(t[k]))
                log = mp.log(u + eps)
                assert exact.ulp(slope[k], -log, 0, dtype) < 4
                assert exact.ulp(value[k], u - n * log, max(u, n * abs(log)), dtype) < 8
                assert exact.ulp(full[k], mp.log(n / (n + eps)) + 1 / (2 * n), 1 / (2 * n), dtype) < 4
    assert fl.poisson_nll_loss(np.array([INF], dtype), np.zeros(1, dtype), log_input=False) == INF


@slow
def test_the_constant_of_poisson():
    """Stirling's approximation of log t!, which itself is right to 1 / 12 t."""
    t = np.array([20.0, 300.0])
    for options in ({"log_input": False, "eps": 0.0}, {}):
        x = np.log(np.array([7.0, 250.0])) if not options else np.array([7.0, 250.0])
        full, plain = (fl.poisson_nll_loss(x, t, full=flag, reduction="none", **options) for flag in (True, False))
        factorial = np.array([float(mp.log(mp.factorial(int(n)))) for n in t])
        np.testing.assert_allclose(full - plain, factorial - 1 / (12 * t), 1e-6)


@slow
@each
def test_a_count_of_zero_beside_a_rate_of_zero(dtype):
    zero = np.zeros(1, dtype)
    for eps in (0.0, 1e-8, 1e-50):
        for full in (False, True):
            slope, second = fl.grad_and_hess(fl.poisson_nll_loss)(zero, zero, log_input=False, eps=eps, full=full)
            assert fl.poisson_nll_loss(zero, zero, log_input=False, eps=eps, full=full) == 0
            assert slope == 1
            assert second == 0


@each
def test_variances_that_fit(dtype):
    """At v = r² the derivative in the variance is 0, and exact beside it."""
    r = np.array([0.5, 3.0, 1e-3, 1e4], dtype)
    v = np.nextafter(r * r, dtype(INF))
    slope = fl.grad(fl.gaussian_nll_loss, "var")(np.zeros_like(r), r, v, eps=1e-30, reduction="sum")
    with mp.workdps(60):
        for k, one in enumerate(slope):
            e, w = mp.mpf(float(r[k])), mp.mpf(float(v[k]))
            assert exact.ulp(one, (w - e * e) / (2 * w * w), 0, dtype) < 4


@each
def test_a_variance_far_below_a_square_that_overflows(dtype):
    """The loss is infinite, its derivative in the variance is not."""
    r, v = np.array([[1e20, -1e30], [10, 1e18]] if dtype is F4 else [[1e155, -1e300], [10, 1e153]], dtype)
    slope = fl.grad(fl.gaussian_nll_loss, "var")(r, np.zeros_like(r), v, reduction="sum")
    close(slope, -0.5 * (r / v) ** 2)


@each
def test_a_variance_of_exactly_zero(dtype):
    zero = np.zeros(1, dtype)
    value, slopes = fl.value_and_grad(fl.gaussian_nll_loss, ("input", "target", "var"))(zero, zero, zero)
    close(value, 0.5 * np.log(1e-6))
    close(slopes[2], [0.5e6])
    least = np.finfo(dtype).smallest_normal
    value, slopes = fl.value_and_grad(fl.gaussian_nll_loss, ("input", "target", "var"))(zero, zero, zero, eps=1e-320)
    close(value, 0.5 * np.log(F8(least)))
    close(slopes[2], [0.5 / F8(least)])


# -- options that leave the computing type -----------------------------------------------------------------------------


@slow
@pytest.mark.parametrize("loss", [fl.sigmoid_focal_loss, fl.binary_focal_loss])
def test_exponents_of_focal_losses(loss):
    for gamma in (INF, NAN, -1.0):
        with pytest.raises(ValueError, match="gamma"):
            loss(F4([0.5]), F4([1.0]), gamma=gamma)
    for gamma in (1e39, 1e300, 1e4):
        value, slope = each_value_and_slope(loss, F4([0.25, 0.5]), F4([1, 0]), gamma=gamma)
        assert not value.any()
        assert not slope.any()
        assert not fl.grad_and_hess(loss)(F4([0.25, 0.5]), F4([1, 0]), gamma=gamma)[1].any()


@slow
@each
def test_orders_of_norms_beyond_the_computing_type(dtype):
    v, zero = np.array([[3.0, -3.0, 1.0]], dtype), np.zeros((1, 3), dtype)
    for p in (1e25, 1e39, 1e300):
        value, (slope, _) = fl.value_and_grad(fl.pairwise_distance)(v, zero, p=p, eps=0.0)
        close(value, [3])
        close(slope, [[0.5, -0.5, 0]])
        close(fl.pairwise_distance(v, zero, p=-p, eps=0.0), [1])
    close(fl.pairwise_distance(v, zero, p=1e-50, eps=0.0), [INF])
    with pytest.raises(ValueError, match="p must be"):
        fl.pairwise_distance(v, zero, p=NAN)


def test_small_scales_of_robust_losses():
    x, t = F4([0.0, 2.0, -3.0]), np.zeros(3, F4)
    for small in (1e-40, 1e-50):
        np.testing.assert_array_equal(fl.smooth_l1_loss(x, t, beta=small, reduction="none"), [0, 2, 3])
        np.testing.assert_array_equal(fl.grad(fl.smooth_l1_loss)(x, t, beta=small, reduction="sum"), [0, 1, -1])


# -- kinks and shapes as torch has them since 2.14 -------------------------------------------------------------------


def _hinges():
    zero, one, score = np.zeros((1, 2)), np.array([[1.0, 0.0]]), np.array([1.0])
    triplets = ("anchor", "positive", "negative")
    return {
        "hinge_embedding_loss": ((score, -score), {}, ("input",)),
        "margin_ranking_loss": ((2 * score, score, score), {"margin": 1.0}, ("input1", "input2", "target")),
        "triplet_margin_loss": ((zero, zero, one), {"eps": 0.0}, triplets),
        "triplet_margin_with_distance_loss": ((zero, zero, one), {"distance_function": "manhattan"}, triplets),
        "cosine_embedding_loss": ((one, one, np.array([-1.0])), {"margin": 1.0}, ("input1", "input2")),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(_hinges()))
def test_the_gradient_at_a_hinges_boundary_is_zero(name):
    arrays, options, wrt = _hinges()[name]
    if name == "cosine_embedding_loss":  # long, so that torch's 1e-12 beside the squared norm does not count
        arrays = (arrays[0] * 1e6, arrays[1] * 1e6, arrays[2])
    value, slopes = fl.value_and_grad(getattr(fl, name), wrt)(*arrays, **options)
    assert value == 0
    assert not any(slope.any() for slope in slopes)


@slow
def test_the_boundary_of_a_hinge_of_chosen_distances():
    zero, one = np.zeros((1, 2)), np.array([[1.0, 0.0]])
    for name in ("cosine", lambda a, b: abs(a - b).sum(-1)):
        options = {} if name == "cosine" else {"distance_vjp": lambda a, b, g: (np.sign(a - b) * g[:, None],) * 2}
        anchor, negative = (one, -one) if name == "cosine" else (zero, one)
        margin = 2.0 if name == "cosine" else 1.0
        for swap in (False, True):
            value, slopes = fl.value_and_grad(fl.triplet_margin_with_distance_loss)(
                anchor, anchor, negative, distance_function=name, margin=margin, swap=swap, **options
            )
            assert value == 0
            assert not any(slope.any() for slope in slopes)


def test_hinge_embedding_agrees_with_torch_of_its_kind():
    torch = pytest.importorskip("torch")
    x = torch.tensor([1.0, 0.5, 2.0], requires_grad=True)
    torch.nn.functional.hinge_embedding_loss(x, -torch.ones(3), reduction="sum").backward()
    expected = x.grad.numpy().copy()
    if tuple(map(int, torch.__version__.split("+")[0].split(".")[:2])) < (2, 14):
        expected[0] = 0  # -1 before 2.14
    slope = fl.grad(fl.hinge_embedding_loss)(x.detach().numpy(), -np.ones(3), reduction="sum")
    np.testing.assert_array_equal(slope, expected)


def test_the_cosine_of_two_numbers():
    value, (one, other) = fl.value_and_grad(fl.cosine_similarity)(np.array(2.0), np.array(-3.0), dim=0)
    assert value == -1
    assert value.shape == one.shape == other.shape == ()
    assert fl.cosine_similarity(np.array(2.0), np.array([3.0, 4.0]), dim=-1) > 0.98
    with pytest.raises(ValueError, match="dim 1 is out of range"):
        fl.cosine_similarity(np.array(2.0), np.array(-3.0), dim=1)


@pytest.mark.parametrize("shape", [(1, 1, 4), (2, 1, 1), (1, 3, 1), (1, 1, 1), (2, 3, 1), ()], ids=str)
def test_variances_with_axes_of_length_one(shape, rng):
    x, t, v = rng.normal(size=(2, 3, 4)), rng.normal(size=(2, 3, 4)), rng.uniform(0.5, 2, shape)
    value, slope = fl.value_and_grad(fl.gaussian_nll_loss, "var")(x, t, v)
    whole, slopes = fl.value_and_grad(fl.gaussian_nll_loss, "var")(x, t, np.broadcast_to(v, x.shape).copy())
    np.testing.assert_allclose(value, whole, 1e-14)
    assert slope.shape == shape
    axes = tuple(k for k in range(3) if len(shape) < 3 or shape[k] == 1)
    np.testing.assert_allclose(slope, slopes.sum(axes, keepdims=len(shape) == 3), 1e-12, 1e-15)


# -- more of the same kinds ---------------------------------------------------------------------------------------


@slow
@each
def test_generalized_cross_entropy_of_sure_rows(dtype):
    """At q near 0 it is the cross-entropy; its derivatives are p_y**q times the cross-entropy's."""
    x, y = sure_rows((5,), dtype)
    rest = rest_of(x)
    log_p = -np.log1p(rest)
    for q in (1.0, 0.5, 1e-50, 1e-320):
        value, slope = each_value_and_slope(fl.generalized_cross_entropy, x, y, q=q)
        close(value, -np.expm1(q * log_p) / q if q > 1e-9 else -log_p, 16)
        close(slope[:, 1], -np.exp(q * log_p) * rest / (1 + rest), 16)
        _, second = fl.grad_and_hess(fl.generalized_cross_entropy)(x, y, q=q, reduction="none")
        miss = rest / (1 + rest)
        expected = np.exp(q * log_p) * miss * (1 / (1 + rest) - q * miss)
        close(second[1:, 1], expected[1:], 24)  # of the first row, which is not sure, it is a difference


@each
def test_symmetric_cross_entropy_of_rows_that_are_sure_of_another_class(dtype):
    """The reverse term's derivatives are small differences: here the mass of all that is free is nearly 1."""
    x, y = sure_rows((5,), dtype)
    rest = rest_of(x)
    whole = 1 + rest
    p = np.exp(x.astype(np.longdouble) - x[:, 1:2]) / whole[:, None]
    apart = np.where((p < 1e-4) | (np.arange(5) == 0), p, 0).sum(1)
    slope, second = fl.grad_and_hess(fl.symmetric_cross_entropy)(x, 0 * y, reduction="none")
    pull = -np.log(np.longdouble(1e-4)) * p[:, 1] * apart
    miss = rest / whole
    close(slope[:, 1], p[:, 1] + pull, 24)
    error = abs(second[:, 1] - (p[:, 1] * miss + pull * (miss - p[:, 1])))
    assert (error <= 16 * np.finfo(dtype).eps * (p[:, 1] * miss + pull)).all()


@slow
@each
def test_losses_of_linear_maps_of_sure_rows(dtype):
    x, y = sure_rows((5,), dtype)
    rest = rest_of(x)
    unit = np.eye(5, dtype=dtype)
    close(fl.linear_cross_entropy(x, unit, y, reduction="none"), np.log1p(rest), 16)
    slope = fl.grad(fl.linear_cross_entropy, "input")(x, unit, y, reduction="sum")
    close(slope[:, 1], -rest / (1 + rest), 16)


@each
def test_overlaps_that_are_nearly_whole(dtype):
    """What differs is summed, and not taken from what agrees."""
    t = np.array([[1, 0, 1, 0]], dtype)
    for gap in (1e-3, 1e-6, 2.0**-24):
        x = abs(t - dtype(gap))
        differ = (x.astype(F8) * (1 - t) + t * (1 - x.astype(F8))).sum()
        close(fl.dice_loss(x, t), differ / (float(x.astype(F8).sum()) + 2 + 1), 4)
    empty = np.zeros((1, 4), dtype)
    for smooth in (1e-50, 1e50, 1e-320):
        value, slope = fl.value_and_grad(fl.dice_loss)(empty, empty, smooth=smooth)
        assert value == 0
        assert np.isfinite(slope).all()
    with pytest.raises(ValueError, match="smooth"):
        fl.dice_loss(t, t, smooth=INF)


OPTIONS_BEYOND_FLOAT32 = [
    ("huber_loss", "delta", 1e50, 1e38), ("huber_loss", "delta", 1e-50, 0.0), ("smooth_l1_loss", "beta", 1e50, 1e38),
    ("l1_penalty", "coefficient", 1e-60, 0.0), ("l2_penalty", "coefficient", 1e-60, 0.0),
]  # fmt: skip


@pytest.mark.parametrize(("name", "option", "value", "instead"), OPTIONS_BEYOND_FLOAT32)
def test_options_beyond_float32(name, option, value, instead):
    """They count as the number of the type that comes next: the result is that of one which is as good as it."""
    loss, x = getattr(fl, name), F4([3.0, 0.0, -0.5])
    arrays = (x,) if "penalty" in name else (x, np.zeros_like(x))
    found, slope = fl.value_and_grad(loss)(*arrays, **{option: value})
    if instead == 0:
        assert abs(found) < 1e-37
        assert abs(slope).max() < 1e-37
    else:
        expected, slopes = fl.value_and_grad(loss)(*arrays, **{option: instead})
        np.testing.assert_allclose(found, expected, 1e-6, 1e-37)
        np.testing.assert_allclose(slope, slopes, 1e-6, 1e-37)


def test_a_huge_coefficient_of_nothing_is_nothing():
    for penalty in (fl.l1_penalty, fl.l2_penalty):
        value, slope = fl.value_and_grad(penalty)(np.zeros(3, F4), coefficient=1e50)
        assert value == 0
        assert not slope.any()
        with pytest.raises(ValueError, match="coefficient"):
            penalty(np.zeros(3, F4), coefficient=INF)


@each
def test_curvature_of_the_logistic_function_near_0(dtype):
    x = np.array([1e-30, -1e-8, 1e-4, -0.01, 0.3, -0.9, 1, 5, -30, 0], dtype)
    _, second = fl.grad_and_hess(fl.sigmoid)(x)
    with mp.workdps(60):
        for found, u in zip(second, x, strict=True):
            p = 1 / (1 + mp.exp(-mp.mpf(float(u))))
            assert exact.ulp(found, p * (1 - p) * (1 - 2 * p), 0, dtype) < 8


@each
def test_the_second_derivative_of_the_logistic_function_has_mirrored_bits(dtype):
    x = np.concatenate([exact.logits(np.random.default_rng(6), 100), np.arange(41)]).astype(dtype)
    (one, second), (other, mirrored) = fl.grad_and_hess(fl.sigmoid)(x), fl.grad_and_hess(fl.sigmoid)(-x)
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(second, -mirrored)


@slow
@pytest.mark.parametrize("p", quickly(-2.0, 0.0, then=(-1.0, -0.5, -INF)))
def test_triplets_of_any_order_are_torchs(p):
    torch = pytest.importorskip("torch")
    arrays = np.random.default_rng(7).normal(size=(3, 6, 4))
    for swap in (False, True):
        tensors = [torch.from_numpy(a).requires_grad_() for a in arrays]
        expected = torch.nn.functional.triplet_margin_loss(*tensors, p=p, swap=swap)
        expected.backward()
        value, slopes = fl.value_and_grad(fl.triplet_margin_loss)(*arrays, p=p, swap=swap)
        np.testing.assert_allclose(value, expected.item(), 1e-12)
        for slope, tensor in zip(slopes, tensors, strict=True):
            expected = np.zeros_like(slope) if tensor.grad is None else tensor.grad
            np.testing.assert_allclose(slope, expected, 1e-10, 1e-13)
    assert fl.triplet_margin_loss(np.array(2.0), np.array(-3.0), np.array(2.0)) == 6


def test_more_axes_than_numpy_broadcasts(rng):
    """torch takes 64 axes, NumPy's own broadcasting of shapes 32."""
    lengths = np.ones((2, 40), int)
    lengths[0, [3, 35]], lengths[1, 35] = (2, 3), 3
    wide, narrow = (rng.normal(size=shape) for shape in lengths)
    flat, other = wide.reshape(2, 3), narrow.reshape(3)
    with pytest.warns(UserWarning, match="broadcast"):
        value, slopes = fl.value_and_grad(fl.mse_loss, ("input", "target"))(wide, narrow)
    with pytest.warns(UserWarning, match="broadcast"):
        expected, given = fl.value_and_grad(fl.mse_loss, ("input", "target"))(flat, other)
    np.testing.assert_allclose(value, expected, 1e-14)
    for slope, right in zip(slopes, given, strict=True):
        np.testing.assert_allclose(slope.reshape(right.shape), right, 1e-14)
    weighted = fl.binary_cross_entropy_with_logits(wide, abs(np.tanh(wide)), weight=abs(narrow))
    assert weighted == fl.binary_cross_entropy_with_logits(flat, abs(np.tanh(flat)), weight=abs(other))
    cosine = fl.cosine_similarity(wide, narrow, dim=35)
    np.testing.assert_allclose(cosine.reshape(2), fl.cosine_similarity(flat, other, dim=1), 1e-14)
    with pytest.raises(ValueError, match="do not go together"):
        fl.pairwise_distance(wide, np.zeros((*lengths[1, :-1], 2)).swapaxes(35, 39))


def test_policies_of_accumulation_are_those_of_torch():
    for policy in ("auto", "accurate", "compact"):
        fl.LinearCrossEntropyOptions(acc_policy=policy)
    with pytest.raises(ValueError, match="acc_policy"):
        fl.LinearCrossEntropyOptions(acc_policy="balanced")


@each
def test_slopes_of_logits_far_beyond_their_cap(dtype):
    """1 / cosh² of 40 is 7e-35; as 1 - tanh² it is 0 from 9 on in float32, and from 19 on in float64."""
    x, y = np.linspace(-40, 40, 16, dtype=dtype).reshape(4, 4), np.array([0, 3, 1, 2])
    wide = x.astype(F8)
    z, e = np.tanh(wide), np.exp(-2 * abs(wide))
    slope = 4 * e / (1 + e) ** 2
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    above = p - (np.arange(4) == y[:, None])
    expected = above * slope
    gradient, second = fl.grad_and_hess(fl.cross_entropy)(x, y, softcap=1.0, reduction="sum")
    rtol = 50 * np.finfo(dtype).eps  # exponentials of -80 have 2^-24 of that as their error in float32
    np.testing.assert_allclose(gradient, expected, rtol=rtol)
    np.testing.assert_allclose(second, slope * (p * (1 - p) * slope - 2 * above * z), rtol=4 * rtol)
    gradient = fl.grad(fl.linear_cross_entropy, "input")(x, np.eye(4, dtype=dtype), y, softcap=1.0, reduction="sum")
    np.testing.assert_allclose(gradient, expected, rtol=rtol)
    gradient = fl.grad(fl.cross_entropy)(x, y, softcap=1.0, reduction="sum", grad_out=x)
    np.testing.assert_allclose(gradient, expected, rtol=rtol)


@each
@pytest.mark.parametrize("shape", [(50, 10), *quickly(then=[(50, 3000), (10, 5, 7)])])
def test_gradients_of_a_softmax_one_of_whose_classes_is_nearly_certain(dtype, shape, rng):
    """Of float32 rows with p = 1 - 1e-8 no digit was right: g less Σ p g cancels."""
    x, g = rng.standard_normal((2, *shape)).astype(dtype)
    x[:, 1] += 18
    wide, above = x.astype(np.longdouble), g.astype(np.longdouble)
    p = np.exp(wide - wide.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    less = above - above[:, 1:2]
    others = np.delete(p, 1, 1).sum(axis=1, keepdims=True)
    expected = p * (less - (p * less).sum(axis=1, keepdims=True))
    curvature = np.where(np.arange(shape[1]).reshape(-1, *(1,) * (x.ndim - 2)) == 1, others - p, 1 - 2 * p)
    gradient, second = fl.grad_and_hess(fl.softmax)(x, 1, grad_output=g)
    terms = abs(p * less) + p * (p * abs(less)).sum(axis=1, keepdims=True)
    assert (abs(gradient - expected) <= 30 * np.finfo(dtype).eps * terms).all()
    assert (abs(second - expected * curvature) <= 30 * np.finfo(dtype).eps * terms).all()
