"""Cross-entropy over shards of classes, float32 results of half types, and the checks of fastloss.testing."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from cases import quickly

import fastloss as fl
import fastloss.testing
from fastloss.custom import Elementwise, loss, maths

RNG = np.random.default_rng(0)
LABELS = np.array([0, 6, 3, -100, 8])


@pytest.mark.parametrize("dtype", quickly("float32", then=["float64", "float16"]))
def test_shards_come_to_the_whole(dtype):
    x = (RNG.normal(size=(5, 9)) * 4).astype(dtype)
    bounds = [0, 2, 2, 7, 9]
    parts = list(itertools.pairwise(bounds))
    stats = [fl.shard_stats(x[:, a:b], LABELS, class_offset=a, num_classes=9) for a, b in parts]
    loss, lse = fl.combine_shards(stats)
    wide = x.astype(float)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(loss, fl.cross_entropy(wide, LABELS, reduction="none"), rtol=tolerance, atol=tolerance)
    assert lse.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert loss[3] == 0
    assert lse[3] == -np.inf
    assert all(one.max[3] == -np.inf and one.sum_exp[3] == one.target_logit[3] == 0 for one in stats)
    up = RNG.normal(size=5)
    expected = fl.grad(fl.cross_entropy)(wide, LABELS, reduction="none", grad_output=up / 4)
    pieces = [fl.shard_grad(x[:, a:b], LABELS, lse, class_offset=a, divisor=4, grad_output=up) for a, b in parts]
    gradient = np.concatenate(pieces, axis=1)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gradient, expected, atol=1e-3 if dtype == "float16" else tolerance * 10)
    into = np.empty((5, 9), dtype)
    assert fl.shard_grad(x, LABELS, lse, divisor=4, grad_output=up, grad_out=into) is into
    np.testing.assert_array_equal(into, gradient)


def test_autograd_does_not_follow_a_part_of_shards():
    torch = pytest.importorskip("torch")
    x, y = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.tensor([0, 3, 1])
    loss, lse = fl.combine_shards([fl.shard_stats(x, y)])
    gradient = fl.shard_grad(x, y, lse, grad_output=torch.ones(3, dtype=torch.float64, requires_grad=True))
    assert not any(made.requires_grad for made in (loss, lse, gradient))
    torch.nn.functional.cross_entropy(x, y, reduction="sum").backward()
    torch.testing.assert_close(gradient, x.grad)


def test_statistics_of_one_shard_stand_in_a_list():
    x, y = RNG.normal(size=(3, 4)), [0, 3, 1]
    stats = fl.shard_stats(x, y)
    with pytest.raises(TypeError, match="stats must be a list"):
        fl.combine_shards(stats)
    _, lse = fl.combine_shards([stats])
    np.testing.assert_array_equal(fl.shard_grad(x, y, lse, divisor=np.array(2.0)), fl.shard_grad(x, y, lse, divisor=2))


def test_shards_of_extreme_logits():
    x = np.array([[1e4, -1e4, 1e4], [-np.inf, -np.inf, 2.0]])
    stats = [fl.shard_stats(x[:, :2], [0, 2]), fl.shard_stats(x[:, 2:], [0, 2], class_offset=2)]
    loss, lse = fl.combine_shards(stats[::-1])
    np.testing.assert_allclose(loss, [np.log(2), 0])
    np.testing.assert_allclose(lse, [1e4 + np.log(2), 2])


def test_the_loss_of_shards_of_large_logits_keeps_its_digits():
    x = np.float32([[1e6, 1e6 - 1, 1e6 - 2, 1e6 - 0.5]])
    loss, _ = fl.combine_shards([fl.shard_stats(x[:, :2], [1]), fl.shard_stats(x[:, 2:], [1], class_offset=2)])
    np.testing.assert_allclose(loss, fl.cross_entropy(x.astype(float), [1]), rtol=3e-7)


@pytest.mark.parametrize("x", [[np.nan, 0.0, 1.0], [np.inf, 0.0, 1.0], [-np.inf] * 3])
def test_shards_of_rows_that_are_not_defined(x):
    x, y = np.array([x, [1.0, 2.0, 3.0]]), np.array([1, -100])
    loss, lse = fl.combine_shards([fl.shard_stats(x[:, :1], y), fl.shard_stats(x[:, 1:], y, class_offset=1)])
    gradient = np.hstack([fl.shard_grad(x[:, :1], y, lse), fl.shard_grad(x[:, 1:], y, lse, class_offset=1)])
    assert np.isnan(loss[0])
    assert loss[1] == 0
    assert np.isnan(gradient[0]).all()
    assert (gradient[1] == 0).all()


def test_shards_of_half_types_are_computed_in_float32():
    x, y = np.array([[8.0, 0.0]], np.float16), np.array([0])
    loss, lse = fl.combine_shards([fl.shard_stats(x, y)])
    np.testing.assert_allclose(loss, np.log1p(np.exp(-8.0)), rtol=2e-3)
    np.testing.assert_allclose(fl.shard_grad(x, y, lse), fl.grad(fl.cross_entropy)(x, y), rtol=2e-3)


def test_shards_of_tensors():
    torch = pytest.importorskip("torch")
    x, y = torch.randn(5, 9), torch.from_numpy(LABELS)
    loss, lse = fl.combine_shards([fl.shard_stats(x[:, :4], y), fl.shard_stats(x[:, 4:], y, class_offset=4)])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(x, y, reduction="none"))
    assert isinstance(fl.shard_grad(x[:, 4:], y, lse, class_offset=4), torch.Tensor)


def test_shards_are_no_arrays_of_dask():
    x = pytest.importorskip("dask.array").zeros((2, 3))
    with pytest.raises(TypeError, match=r"^logits_shard .* call logits_shard.compute\(\)$"):
        fl.shard_stats(x, [0, 1])
    with pytest.raises(TypeError, match=r"^logits_shard .* call logits_shard.compute\(\)$"):
        fl.shard_grad(x, [0, 1], np.zeros(2))


def test_bad_shards():
    x = np.zeros((2, 3))
    with pytest.raises(IndexError, match="target 9"):
        fl.shard_stats(x, [0, 9], num_classes=9)
    with pytest.raises(IndexError, match="target -3"):
        fl.shard_stats(x, [0, -3])
    with pytest.raises(ValueError, match="class_offset"):
        fl.shard_stats(x, [0, 1], class_offset=-1)
    with pytest.raises(ValueError, match="beyond num_classes 9"):
        fl.shard_stats(x, [0, 1], class_offset=8, num_classes=9)
    with pytest.raises(TypeError, match="class_offset must be an integer"):
        fl.shard_stats(x, [0, 1], class_offset=1.5)
    with pytest.raises(TypeError, match="target must hold class indices"):
        fl.shard_stats(x, [0.5, 1])
    with pytest.raises(ValueError, match="lse"):
        fl.shard_grad(x, [0, 1], np.zeros(3))
    with pytest.raises(ValueError, match="grad_output must have shape"):
        fl.shard_grad(x, [0, 1], [0.0, 0.0], grad_output=np.ones(3))
    with pytest.raises(ValueError, match="divisor must be a number"):
        fl.shard_grad(x, [0, 1], [0.0, 0.0], divisor=None)
    given = fl.shard_grad(x, [0, 1], np.zeros(2), grad_output=np.array([1.0, 2.0]))
    np.testing.assert_array_equal(fl.shard_grad(x, [0, 1], [0.0, 0.0], grad_output=[1, 2]), given)
    with pytest.raises(ValueError, match="at least one"):
        fl.combine_shards([])


@pytest.mark.parametrize("dtype", quickly(np.float16, then=[ml_dtypes.bfloat16]))
def test_float32_results_of_half_types(dtype):
    x, y = RNG.normal(size=(6, 5)).astype(dtype), np.array([0, 1, 2, 3, 4, 0])
    into, out = np.empty((6, 5), np.float32), np.empty(6, np.float32)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="none", grad_out=into, out=out)
    assert value is out
    assert gradient is into
    exact, expected = fl.value_and_grad(fl.cross_entropy)(x.astype(float), y, reduction="none")
    np.testing.assert_allclose(out, exact, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(into, expected, rtol=1e-5, atol=1e-7)
    t = RNG.normal(size=(6, 5)).astype(dtype)
    fl.grad(fl.mse_loss)(x, t, grad_out=into)
    np.testing.assert_allclose(into, (x.astype(float) - t.astype(float)) / 15, rtol=1e-6)
    with pytest.raises(TypeError, match="grad_out"):
        fl.grad(fl.mse_loss)(x, t, grad_out=np.empty((6, 5)))
    with pytest.raises(TypeError, match="grad_out"):
        fl.grad(fl.mse_loss)(x.astype("f4"), t, grad_out=np.empty((6, 5)))


@pytest.mark.parametrize(
    "loss", ["mse_loss", "cross_entropy", "triplet_margin_loss", "quantile_loss", "ctc_loss", "linear_cross_entropy"]
)
def test_checks_of_our_losses(loss):
    fastloss.testing.check(getattr(fl, loss))


@pytest.mark.slow
def test_checks_of_options_and_instances():
    x, y, weights = RNG.normal(size=(6, 5)), RNG.integers(0, 5, 6), RNG.uniform(0.5, 2, 6)
    fastloss.testing.check(fl.cross_entropy, x, y, sample_weight=weights)
    fastloss.testing.check(fl.cross_entropy, x.T, y, axis=0, divisor=3.0, returns=("lse", "entropy"))
    fastloss.testing.check(fl.CrossEntropyLoss(reduction="sum"), x, y, weight=weights[:5])
    fastloss.testing.check(fl.l2_penalty, coefficient=0.1)


# Few classes: rows side by side in vectors, and one by one in what is left of them.
@pytest.mark.parametrize(
    "options",
    quickly(
        {"softcap": 5.0, "z_loss": 0.1, "sample_weight": np.ones(300)},
        then=[{"probabilities": True}, {}, {"z_loss": 0.1}],
    ),
    ids=["softcap", "probabilities", "smoothing", "z_loss"],
)
def test_batch_invariance_of_few_classes(options):
    x, y = RNG.normal(size=(300, 37)).astype("f4") * 3, RNG.integers(0, 37, 300)
    if "probabilities" in options:
        options, y = {}, fl.softmax(RNG.normal(size=(300, 37)).astype("f4"), dim=1)
    smoothing = 0.1 if not options else 0.0
    fastloss.testing.assert_batch_invariant(fl.cross_entropy, x, y, label_smoothing=smoothing, **options)


def test_batch_invariance_of_squared_hinges():
    x, y = RNG.normal(size=(300, 5)), RNG.integers(0, 5, 300)
    fastloss.testing.assert_batch_invariant(fl.MultiMarginLoss(p=2), x, y)


def test_batch_invariance_of_tensors():
    torch = pytest.importorskip("torch")
    x, y = torch.from_numpy(RNG.normal(size=(60, 37))), torch.from_numpy(RNG.integers(0, 37, 60))
    for dtype in (torch.float32, torch.bfloat16):
        fastloss.testing.assert_batch_invariant(fl.cross_entropy, x.to(dtype), y)


def test_batch_invariance_of_many_rows():
    x, y = RNG.normal(size=(300, 100)).astype("f4"), RNG.integers(0, 100, 300)
    fastloss.testing.assert_batch_invariant(fl.CrossEntropyLoss(label_smoothing=0.1), x, y)
    fastloss.testing.assert_batch_invariant(fl.cross_entropy, x, y, returns=("lse", "argmax"), divisor=3.0)
    with pytest.raises(ValueError, match="no rows"):
        fastloss.testing.assert_batch_invariant(fl.cross_entropy, x[:0], y[:0])
    with pytest.raises(TypeError, match="matrix products"):
        fastloss.testing.assert_batch_invariant(fl.linear_cross_entropy, x, x, y)
    with pytest.raises(TypeError, match="no value of their own"):
        fastloss.testing.assert_batch_invariant(fl.l2_penalty, x, 1.0)


@maths
def wrong_slope(x, t):
    T = type(x)
    return (x - t) * (x - t), (x - t, t - x), T(1)


@maths
def wrong_curvature(x, t):
    T = type(x)
    return (x - t) * (x - t), (T(2) * (x - t), T(2) * (t - x)), T(1)


@pytest.mark.usefixtures("forgets_losses")
@pytest.mark.parametrize(
    ("point", "message"), [(wrong_slope, "gradient of input"), (wrong_curvature, "second derivative in input")]
)
def test_checks_find_what_is_wrong(point, message):
    @loss
    def wrong_loss(input, target, *, reduction="mean"):
        return Elementwise(point)

    with pytest.raises(AssertionError, match=message):
        fastloss.testing.check(wrong_loss)


@pytest.mark.parametrize("arrays", [np.ones((2, 3), np.float32), np.ones((2, 3), int)], ids=["float32", "int"])
def test_checks_take_float64(arrays):
    with pytest.raises(TypeError, match=r"input must be float64, .* got"):
        fastloss.testing.check(fl.mse_loss, arrays, arrays)


def test_a_gradient_of_rates_of_counts_has_the_same_bits_at_any_place():
    x, t = 5 * RNG.random((2, 130)).astype(np.float32) + np.float32(0.1)
    both = fl.grad_and_hess(fl.poisson_nll_loss)
    whole = both(x, t, log_input=False, reduction="none")
    for k in range(130):
        alone = both(x[k : k + 1], t[k : k + 1], log_input=False, reduction="none")
        assert [part[k] for part in whole] == [part[0] for part in alone]
