"""Huge, infinite and undefined numbers: the result is the limit of the exact one, or NaN where there is none."""

import numpy as np
import pytest
from cases import LOSSES, PLAIN, assert_close, quickly, typical

import fastloss as fl

TYPES = [pytest.param(np.float64, marks=pytest.mark.slow, id="f8"), pytest.param(np.float32, id="f4")]
INF, NAN = np.inf, np.nan
each = pytest.mark.parametrize("dtype", TYPES)


def needs(*losses):
    return pytest.mark.skipif(bool(set(losses) - set(LOSSES)), reason=f"{', '.join(losses)}: not there")


def both(loss, *arrays, **options):
    value, gradient = fl.value_and_grad(loss)(*arrays, reduction="none", **options)
    # A loop that also writes gradients may contract its products in another way.
    assert_close(value, loss(*arrays, reduction="none", **options), str(value.dtype))
    return value, gradient


# -- classes ---------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("classes", quickly(200, then=[3, 70, 500, 5000]))
@pytest.mark.parametrize("size", [1e4, 1e9, 1e30])
def test_huge_logits(size, classes, dtype):
    """One class takes everything: the loss is the gap, the gradient 1 and -1."""
    x = np.full((2, classes), -size, dtype)
    x[:, 1] = size
    value, gradient = both(fl.cross_entropy, x, np.array([1, 0]))
    np.testing.assert_allclose(value, [0, 2 * size], rtol=1e-6)
    expected = np.zeros((2, classes))
    expected[1, :2] = -1, 1
    np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_array_equal(fl.softmax(x, dim=1)[:, 1], [1, 1])
    np.testing.assert_allclose(fl.log_softmax(x, dim=1)[:, 0], [-2 * size] * 2, rtol=1e-6)
    np.testing.assert_allclose(fl.logsumexp(x, dim=1), [size] * 2, rtol=1e-6)


@each
@pytest.mark.parametrize("classes", [3, 70, 200, 500, 5000])
def test_shift_of_the_logits_changes_no_bit(classes, dtype, rng):
    """Integers shift without rounding, so even the last bit must stay."""
    x = rng.integers(-20, 20, (5, classes)).astype(dtype)
    y = rng.integers(classes, size=5)
    for shift in (1024, -4096):
        shifted = x + dtype(shift)
        for one, other in zip(both(fl.cross_entropy, x, y), both(fl.cross_entropy, shifted, y), strict=True):
            np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(fl.softmax(x, dim=1), fl.softmax(shifted, dim=1))
        np.testing.assert_array_equal(fl.log_softmax(x, dim=1), fl.log_softmax(shifted, dim=1))


@each
@pytest.mark.parametrize("classes", quickly(3, 5000, then=[70, 200, 500]))
def test_minus_infinity_is_an_impossible_class(classes, dtype):
    x = np.zeros((2, classes), dtype)
    x[:, 2] = -INF
    value, gradient = both(fl.cross_entropy, x, np.array([0, 2]))
    np.testing.assert_allclose(value, [np.log(classes - 1), INF], rtol=1e-6)
    assert gradient[0, 2] == 0
    assert gradient[1, 2] == -1
    np.testing.assert_allclose(gradient[:, 1], 1 / (classes - 1), rtol=1e-6)
    np.testing.assert_array_equal(fl.softmax(x, dim=1)[:, 2], 0)
    np.testing.assert_array_equal(fl.log_softmax(x, dim=1)[:, 2], -INF)
    # smoothing gives every class a share, the impossible one too
    assert fl.cross_entropy(x[:1], np.array([0]), label_smoothing=0.1) == INF


@each
@pytest.mark.parametrize("classes", quickly(3, 5000, then=[70, 200, 500]))
@pytest.mark.parametrize("strange", ["all -inf", "+inf", "nan"])
def test_rows_without_a_softmax_are_nan(strange, classes, dtype):
    x = np.zeros((3, classes), dtype)
    x[1] = -INF if strange == "all -inf" else 0
    if strange != "all -inf":
        x[1, 1] = INF if strange == "+inf" else NAN
    value, gradient = both(fl.cross_entropy, x, np.array([0, 1, 2]))
    without_target = fl.cross_entropy(x, np.zeros_like(x), reduction="none")
    for result in (value, without_target, gradient[:, 0], fl.softmax(x, dim=1)[:, 0], fl.log_softmax(x, dim=1)[:, 0]):
        np.testing.assert_array_equal(np.isnan(result), [False, True, False])
    assert np.isnan(gradient[1]).all()
    np.testing.assert_array_equal(gradient[0], both(fl.cross_entropy, x[:1], np.array([0]))[1][0])
    expected = {"all -inf": -INF, "+inf": INF, "nan": NAN}[strange]
    np.testing.assert_array_equal(fl.logsumexp(x, dim=1)[1], expected)


@each
@pytest.mark.parametrize("shape", [(5, 4), (5, 63), (5, 64), (5, 200), (5, 5000), (5, 4, 3)], ids=str)
def test_nan_beside_infinity_is_nan(shape, dtype):
    """An infinite maximum is the log-sum-exp itself, but not where some entry is no number."""
    x = np.zeros((7, *shape[1:]), dtype)
    x[0, 0], x[0, 1] = INF, NAN
    x[1, -2], x[1, -1] = NAN, INF
    x[2, 0], x[2, -1] = INF, NAN
    x[3, 1] = INF
    x[5:] = -INF
    x[5, -2] = NAN
    result = fl.logsumexp(x, dim=1)
    first = result if result.ndim == 1 else result[:, 0]
    np.testing.assert_array_equal(first, [NAN, NAN, NAN, INF, np.log(dtype(shape[1])), NAN, -INF])
    alone = fl.logsumexp(x[5:6], dim=1)
    np.testing.assert_array_equal(alone, np.full(alone.shape, NAN))


@each
@pytest.mark.parametrize("classes", [64, 65, 127, 128, 129, 200])
def test_the_largest_may_stand_anywhere(classes, dtype):
    """A far larger entry takes everything, wherever it is: passed over, it would be infinite."""
    x = np.full((classes, classes), -1e6, dtype)
    np.fill_diagonal(x, 1e6)
    np.testing.assert_array_equal(fl.logsumexp(x, dim=1), np.full(classes, 1e6, dtype))
    np.testing.assert_array_equal(fl.softmax(x, dim=1), np.eye(classes))


@each
@pytest.mark.parametrize("hidden", [0, 3000])
@pytest.mark.parametrize("slope", [-0.01, 0.01, 0.05])
def test_long_rows_whose_largest_entry_changes(slope, hidden, dtype, rng):
    """Rows that rise or fall, from the first entry or after many impossible classes."""
    x = (rng.normal(size=(3, 9000)) + slope * np.arange(9000)).astype(dtype)
    x[:, :hidden] = -INF
    y = np.array([8999, hidden, 5000])
    exact = x.astype(np.longdouble)
    exact -= exact.max(1, keepdims=True)
    logsum = np.log(np.exp(exact).sum(1))
    p = np.exp(exact - logsum[:, None])
    value, gradient = both(fl.cross_entropy, x, y)
    tolerance = {np.float64: 1e-13, np.float32: 1e-6}[dtype]
    rows = np.arange(3)
    np.testing.assert_allclose(value, (logsum - exact[rows, y]).astype(float), tolerance)
    np.testing.assert_allclose(fl.softmax(x, dim=1), p.astype(float), 6 * tolerance, atol=1e-36)
    p[rows, y] -= 1
    np.testing.assert_allclose(gradient, p.astype(float), 6 * tolerance, atol=1e-36 + tolerance * 1e-3)
    smooth = fl.grad(fl.cross_entropy)(x[:, hidden:], y - hidden, label_smoothing=0.5, reduction="sum")
    classes = 9000 - hidden
    hit = np.zeros((3, 9000))
    hit[rows, y] = 1
    expected = (p + hit - 0.5 * hit - 0.5 / classes)[:, hidden:]
    np.testing.assert_allclose(smooth, expected.astype(float), 1e-4 if dtype is np.float32 else 1e-10, atol=tolerance)


@pytest.mark.parametrize("classes", [64, 100, 113, 300])
@pytest.mark.parametrize("rows", [1, 3, 4, 5, 11])
@pytest.mark.parametrize("dtype", quickly(np.float64, np.float32, then=[np.float16]))
def test_neighbouring_rows_do_not_touch_each_other(rows, classes, dtype, rng):
    logits = (3 * rng.standard_normal((rows, classes))).astype(dtype)
    labels = rng.integers(0, classes, rows)
    whole = both(fl.cross_entropy, logits, labels)
    exact = logits.astype(np.float64)
    exact -= exact.max(1, keepdims=True)
    gradient = np.exp(exact) / np.exp(exact).sum(1, keepdims=True)
    values = np.log(np.exp(exact).sum(1)) - exact[np.arange(rows), labels]
    gradient[np.arange(rows), labels] -= 1
    assert_close(whole[0], values.astype(dtype), np.dtype(dtype).name)
    assert_close(whole[1], gradient.astype(dtype), np.dtype(dtype).name)
    for row in range(rows):
        for strange, label in ((NAN, labels[row]), (INF, labels[row]), (NAN, -100)):
            other, marked = logits.copy(), labels.copy()
            other[row, classes // 2], marked[row] = strange, label
            found = both(fl.cross_entropy, other, marked)
            for part, expected in zip(found, whole, strict=True):
                assert_close(np.delete(part, row, 0), np.delete(expected, row, 0), np.dtype(dtype).name)
            if label == -100:
                assert found[0][row] == 0
                assert not found[1][row].any()
            else:
                assert np.isnan(found[1][row]).any()


def test_gradient_of_logsumexp_at_infinity():
    """As in torch: where the result is infinite, so is no difference from it."""
    gradient = fl.grad(fl.logsumexp)(np.array([[0.0, -INF, 1.0]]), dim=1)
    assert gradient[0, 1] == 0
    np.testing.assert_allclose(gradient.sum(), 1, rtol=1e-15)


@pytest.mark.parametrize("dtype", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)], ids=["f8", "f4"])
@pytest.mark.parametrize("smoothing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", quickly((4, 3), (4, 110), then=[(4, 200), (4, 3, 2)]))
def test_an_ignored_row_may_hold_anything(shape, smoothing, dtype, rng):
    x = rng.normal(size=shape).astype(dtype)
    y = np.zeros((4, *shape[2:]), int)
    y[1:3] = -100
    clean = fl.value_and_grad(fl.cross_entropy)(x, y, label_smoothing=smoothing)
    x[1] = NAN
    x[2] = INF
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, label_smoothing=smoothing)
    assert value == clean[0]
    np.testing.assert_array_equal(gradient, clean[1])
    assert (gradient[1:3] == 0).all()
    _, second = fl.grad_and_hess(fl.cross_entropy)(x, y, label_smoothing=smoothing)
    assert (second[1:3] == 0).all()
    none, _ = both(fl.cross_entropy, x, y, label_smoothing=smoothing)
    assert (none[1:3] == 0).all()


@each
def test_an_ignored_row_of_other_losses_may_hold_anything(dtype):
    x, y = np.array([[-1.0, -2.0], [NAN, INF]], dtype), np.array([0, -100])
    for loss in ("nll_loss", "symmetric_cross_entropy"):
        if loss in LOSSES:
            value, gradient = fl.value_and_grad(getattr(fl, loss))(x, y)
            assert np.isfinite(value)
            assert np.isfinite(gradient).all()
            assert (gradient[1] == 0).all()


@each
@pytest.mark.parametrize("classes", quickly(3, then=[70]))
def test_probability_zero_beside_an_impossible_class(classes, dtype):
    x, t = np.zeros((1, classes), dtype), np.zeros((1, classes), dtype)
    x[0, 2], t[0, 0] = -INF, 1
    value, gradients = fl.value_and_grad(fl.cross_entropy, ("input", "weight"))(x, t, np.ones(classes, dtype))
    np.testing.assert_allclose(value, np.log(classes - 1), rtol=1e-6)
    assert all(np.isfinite(gradient).all() for gradient in gradients)
    assert gradients[0][0, 2] == 0
    assert gradients[1][2] == 0


def test_whole_mass_smoothed_away():
    """label_smoothing = 1: the target does not matter any more."""
    x = np.random.default_rng(0).normal(size=(3, 4))
    expected = -fl.log_softmax(x, dim=1).mean()
    for y in ([0, 1, 2], [3, 3, 3]):
        np.testing.assert_allclose(fl.cross_entropy(x, np.array(y), label_smoothing=1.0), expected, rtol=1e-14)


def test_small_probabilities_keep_their_digits():
    """The loss of a certain class underflows to 0; the gradient of the other must not."""
    value, gradient = both(fl.cross_entropy, np.array([[40.0, 0.0]]), np.array([0]))
    np.testing.assert_allclose(value, 0, atol=1e-16)
    np.testing.assert_allclose(gradient[0, 1], np.exp(-40.0), rtol=1e-12)


def test_weight_zero_beside_infinity_is_nan():
    """Torch's result, which is that of IEEE arithmetic."""
    assert np.isnan(fl.nll_loss(np.array([[-INF, 0.0]]), np.array([0]), np.array([0.0, 1.0]), reduction="sum"))


# -- yes or no -------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("size", [1e4, 1e9, 1e30])
def test_huge_logit_of_yes_or_no(size, dtype):
    x, t = np.array([size, size, -size, -size], dtype), np.array([0, 1, 0, 1], dtype)
    value, gradient = both(fl.binary_cross_entropy_with_logits, x, t)
    np.testing.assert_allclose(value, [size, 0, 0, size], rtol=1e-6)
    np.testing.assert_array_equal(gradient, [1, 0, 0, -1])
    np.testing.assert_array_equal(fl.sigmoid(x), [1, 1, 0, 0])
    np.testing.assert_allclose(fl.logsigmoid(x), [0, 0, -size, -size], rtol=1e-6)
    _, second = fl.grad_and_hess(fl.binary_cross_entropy_with_logits)(x, t, reduction="sum")
    np.testing.assert_array_equal(second, [0, 0, 0, 0])


@each
def test_infinite_logit_of_yes_or_no(dtype):
    x, t = np.array([INF, -INF, INF, -INF, NAN], dtype), np.array([0, 1, 1, 0, 0], dtype)
    value = fl.binary_cross_entropy_with_logits(x, t, reduction="none")
    # As in torch, where the second is -inf + inf; the third and fourth have no limit in (x, t).
    np.testing.assert_array_equal(value, [INF, NAN, NAN, NAN, NAN])
    if "multilabel_soft_margin_loss" in LOSSES:
        value = fl.multilabel_soft_margin_loss(x[:, None], t[:, None], reduction="none")
        np.testing.assert_array_equal(value, [INF, INF, NAN, NAN, NAN])
    np.testing.assert_array_equal(fl.sigmoid(x), [1, 0, 1, 0, NAN])
    np.testing.assert_array_equal(fl.logsigmoid(x), [0, -INF, 0, -INF, NAN])


def test_small_loss_of_yes_or_no_keeps_its_digits():
    x = np.array([30.0, -30.0])
    value, gradient = both(fl.binary_cross_entropy_with_logits, x, np.array([1.0, 0.0]))
    np.testing.assert_allclose(value, np.log1p(np.exp(-30.0)), rtol=1e-12)
    np.testing.assert_allclose(gradient[1], np.exp(-30.0), rtol=1e-12)


def test_targets_outside_the_unit_interval_are_computed_with():
    np.testing.assert_allclose(fl.binary_cross_entropy_with_logits([0.0], [2.0]), np.log(2), rtol=1e-15)
    assert fl.binary_cross_entropy_with_logits([5.0], [2.0]) < 0


@needs("binary_cross_entropy")
@each
def test_certain_probabilities_are_clamped(dtype):
    x, t = np.array([0, 1, 0, 1], dtype), np.array([1, 0, 0, 1], dtype)
    value, gradient = both(fl.binary_cross_entropy, x, t)
    np.testing.assert_array_equal(value, [100, 100, 0, 0])
    np.testing.assert_allclose(gradient, [-1e12, 1e12, 0, 0], rtol=1e-6)
    slope = fl.grad(fl.binary_cross_entropy, "target")(x, t, reduction="sum")
    np.testing.assert_array_equal(slope, [INF, -INF, INF, -INF])


@needs("binary_cross_entropy")
def test_certain_probabilities_in_half_precision():
    """Torch's constant underflows in float16 and gives NaN; ours does not, and the gradient saturates."""
    x, t = np.array([0, 1, 0, 1], np.float16), np.array([0, 1, 1, 0], np.float16)
    value, gradient = both(fl.binary_cross_entropy, x, t)
    np.testing.assert_array_equal(value, [0, 0, 100, 100])
    assert not np.isnan(gradient).any()


@needs("binary_cross_entropy")
def test_probability_outside_the_unit_interval():
    """Torch raises; here a value without a logarithm is NaN or a ValueError, never a number."""
    for x in (-0.5, 1.5, NAN):
        try:
            value = fl.binary_cross_entropy(np.array([x]), np.array([1.0]))
        except ValueError:
            continue
        assert np.isnan(value)


@needs("soft_margin_loss")
@each
def test_soft_margin_does_not_overflow(dtype):
    x, y = np.array([1e4, -1e4, 100, -100], dtype), np.array([-1, 1, 1, -1], dtype)
    value, gradient = both(fl.soft_margin_loss, x, y)
    np.testing.assert_allclose(value, [1e4, 1e4, 0, 0], rtol=1e-6, atol=1e-37)
    np.testing.assert_allclose(gradient, [1, -1, 0, 0], rtol=1e-6, atol=1e-37)


@needs("sigmoid_focal_loss")
@each
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_loss_of_huge_logits(gamma, dtype):
    x, t = np.array([1e4, 1e4, -1e4, -1e4], dtype), np.array([0, 1, 0, 1], dtype)
    value, gradient = both(fl.sigmoid_focal_loss, x, t, gamma=gamma, alpha=-1.0)
    np.testing.assert_allclose(value, [1e4, 0, 0, 1e4], rtol=1e-6)
    np.testing.assert_allclose(gradient, [1, 0, 0, -1], rtol=1e-6)


# -- single elements -------------------------------------------------------------------------------------------------


@each
def test_infinite_residuals(dtype):
    x, t = np.array([INF, -INF, NAN, 0], dtype), np.array([0, 0, 0, NAN], dtype)
    for loss in (fl.mse_loss, fl.huber_loss):
        np.testing.assert_array_equal(loss(x, t, reduction="none"), [INF, INF, NAN, NAN])
    np.testing.assert_array_equal(fl.grad(fl.huber_loss)(x, t, reduction="sum")[:2], [1, -1])
    np.testing.assert_array_equal(fl.grad(fl.mse_loss)(x, t, reduction="sum")[:2], [INF, -INF])


def test_squares_overflow_only_where_the_result_does():
    big = np.array([1e20], np.float32)
    assert fl.mse_loss(big, -big) == INF
    assert np.isfinite(fl.huber_loss(big, -big, delta=1.0))
    # half precision computes in float32: 300² does not fit float16, the mean of two does not have to
    x = np.array([300.0, 0.0], np.float16)
    np.testing.assert_allclose(fl.mse_loss(x, np.zeros(2, np.float16)), 45000, rtol=1e-6)


@each
def test_divergence_at_zero(dtype):
    x, t = np.array([-1, -INF, -1], dtype), np.array([0, 0, 0.5], dtype)
    value = fl.kl_div(x, t, reduction="none")
    np.testing.assert_allclose(value, [0, 0, 0.5 * np.log(0.5) + 0.5], rtol=1e-6)
    assert np.isnan(fl.kl_div(np.array([-1.0]), np.array([-0.5])))
    assert fl.kl_div(np.array([-1.0]), np.array([-INF]), log_target=True) == 0


@needs("poisson_nll_loss")
def test_poisson_at_its_edges():
    value = fl.poisson_nll_loss(np.array([1000.0, -1000.0]), np.array([1.0, 1.0]), reduction="none")
    np.testing.assert_array_equal(value, [INF, 1000])
    few = fl.poisson_nll_loss(np.zeros(3), np.array([0.0, 1.0, -1.0]), full=True, reduction="none")
    np.testing.assert_array_equal(few, [1, 1, 1])
    assert np.isnan(fl.poisson_nll_loss(np.array([-1.0]), np.array([1.0]), log_input=False))


@needs("gaussian_nll_loss")
def test_gaussian_variance_is_clamped():
    value = fl.gaussian_nll_loss(np.zeros(1), np.zeros(1), np.zeros(1), eps=1e-3)
    np.testing.assert_allclose(value, 0.5 * np.log(1e-3), rtol=1e-14)
    with pytest.raises(ValueError, match="var"):
        fl.gaussian_nll_loss(np.zeros(2), np.zeros(2), np.array([1.0, -1.0]))


# -- vectors ---------------------------------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, INF])
def test_equal_vectors_have_finite_gradients(p, dtype):
    v = np.ones((2, 3), dtype)
    value, gradients = fl.value_and_grad(fl.triplet_margin_loss)(v, v, v, p=p, eps=0.0)
    assert value == 1
    assert all((gradient == 0).all() for gradient in gradients)


@each
def test_long_vectors_do_not_lose_the_cosine(dtype):
    a = np.array([[1e15, 0.0], [1e-3, 1e-3]], dtype)
    value = fl.cosine_embedding_loss(a, a, np.ones(2), reduction="none")
    np.testing.assert_allclose(value, [0, 0], atol=1e-5)


def test_labels_that_are_neither_like_nor_unlike_give_nothing():
    v = np.random.default_rng(0).normal(size=(3, 4))
    value, gradients = fl.value_and_grad(fl.cosine_embedding_loss)(v, v[::-1], np.array([0.0, 0.5, 2.0]))
    assert value == 0
    assert all((gradient == 0).all() for gradient in gradients)


# -- every loss ------------------------------------------------------------------------------------------------------


# CTC's value is one of a whole sequence; the multi-class hinges of torch skip what is not > 0, NaN included.
PASS_NAN_ON = [c for c in PLAIN if c.loss not in ("ctc_loss", "multi_margin_loss", "multilabel_margin_loss")]


@pytest.mark.parametrize("case", typical(PASS_NAN_ON))
def test_nan_stays_where_it_is(case):
    """A NaN in one element or row makes that value NaN, and no other."""
    none = {"reduction": "none"} if "reduction" in case.record.options else {}
    arrays = case.make()
    name = case.record.wrt[0]
    clean = np.asarray(case.call(arrays, **none))
    arrays[name][1] = NAN
    spoilt = np.asarray(case.call(arrays, **none))
    assert np.isnan(spoilt[1]).all()
    others = np.arange(len(spoilt)) != 1
    np.testing.assert_array_equal(spoilt[others], clean[others])
