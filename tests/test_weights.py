"""Weights of samples, divisors, axes, and sums that add up: options that every loss with a reduction has."""

import itertools
import pickle

import numpy as np
import pytest
from cases import ACTIVE, PLAIN, TYPICAL, assert_close, marked, quickly, typical

import fastloss as fl

pytestmark = pytest.mark.usefixtures("axes_checked")

WEIGHED = [case for case in ACTIVE if "sample_weight" in case.record.common]
FIRST = [case for case in PLAIN if case in WEIGHED]
# Losses of class indices whose mean is divided by the weights of the classes.
BY_CLASS = {"nll_loss", "cross_entropy", "symmetric_cross_entropy", "generalized_cross_entropy", "linear_cross_entropy"}


def unreduced(case, arrays, **options):
    """Return the values, what each counts for in a mean, and what each is multiplied by before."""
    values = np.asarray(case.function(**arrays, **{**case.options, "reduction": "none"}, **options))
    counts, factors = np.ones(values.shape), np.ones(values.shape)
    weight, target = arrays.get("weight"), arrays.get("target")
    if case.loss in BY_CLASS and target.dtype.kind in "iu":
        ignored = target == case.options.get("ignore_index", -100)
        counts = np.where(ignored, 0.0, 1.0 if weight is None else weight[np.where(ignored, 0, target)])
        counts = counts.reshape(values.shape)
    elif case.loss in ("mse_loss", "l1_loss", "huber_loss") and weight is not None:
        counts = np.broadcast_to(weight, values.shape)
    elif case.loss == "ctc_loss":
        factors = 1 / np.maximum(np.reshape(case.options["target_lengths"], values.shape), 1)
    return values, counts, factors


def weights_for(values, axes=None, zero=True):
    shape = values.shape if axes is None else values.shape[:axes]
    weights = np.random.default_rng(4).uniform(0.25, 2, shape)
    if zero and weights.size > 1:
        weights.reshape(-1)[1] = 0
    return weights


def spread(weights, values):
    return np.broadcast_to(weights.reshape(weights.shape + (1,) * (values.ndim - weights.ndim)), values.shape)


def transformed(case, arrays, **extra):
    names = tuple(name for name in case.wrt(arrays) if name != "weight")
    return case.value_and_grad(arrays, names, **extra)


@pytest.mark.parametrize("case", marked(WEIGHED, lambda case: case in FIRST and case.loss in TYPICAL))
def test_values_and_gradients(case):
    """Of every second case with a weight for each value, of the others with one for each row; of typical ones both."""
    arrays = case.make(seed=5)
    values, counts, factors = unreduced(case, arrays)
    plain = case in FIRST and case.loss in TYPICAL
    both = (None, 1) if values.ndim > 1 else (None,)
    for axes in both if plain else both[WEIGHED.index(case) % len(both) :][:1]:
        weights = weights_for(values, axes)
        whole = spread(weights, values)
        for reduction in ("mean", "sum", "none"):
            if case.options.get("reduction", reduction) != reduction:
                continue
            options = {"reduction": reduction, "sample_weight": weights}
            by = (whole * counts).sum() if reduction == "mean" else 1.0
            scale = factors if reduction == "mean" else 1.0
            up = np.asarray(np.random.default_rng(6).normal(size=values.shape))
            given = up if reduction == "none" else 0.5
            _, expected = transformed(case, arrays, reduction="none", grad_output=whole * scale * given / by)
            value, gradients = transformed(case, arrays, grad_output=given, **options)
            exact = whole * values * scale
            assert_close(value, exact if reduction == "none" else exact.sum() / by, factor=1e3)
            if plain:  # another kernel, with the same maths
                assert_close(case.function(**arrays, **case.options, **options), value)
            for gradient, one in zip(gradients, expected, strict=True):
                assert_close(gradient, one, factor=1e3)


@pytest.mark.parametrize("case", typical(FIRST))
def test_a_weight_of_zero_takes_a_sample_out(case):
    arrays = case.make(seed=5)
    values, *_ = unreduced(case, arrays)
    if values.size < 2:
        pytest.skip("one value")
    weights = weights_for(values, 1)
    names = [name for name in case.wrt(arrays) if name not in ("weight", "linear_weight", "linear_bias", "pos_weight")]
    if case.loss == "info_nce_loss":
        names = ["query"]  # a key is part of every value
    spoiled = {name: array.copy() for name, array in arrays.items()}
    for name in names:
        if case.loss == "ctc_loss":
            spoiled[name][:, 1] = np.nan
        else:
            spoiled[name][1] = np.nan
    for reduction in ("mean", "none"):
        options = {"sample_weight": weights, "reduction": reduction}
        value, gradients = transformed(case, arrays, **options)
        spoilt, others = transformed(case, spoiled, **options)
        np.testing.assert_array_equal(spoilt, value)
        for gradient, other in zip(gradients, others, strict=True):
            np.testing.assert_array_equal(gradient, other)


@pytest.mark.parametrize("case", typical(FIRST))
def test_divisor(case):
    arrays = case.make(seed=5)
    values, _, factors = unreduced(case, arrays)
    for given in (7.5, np.array(7.5), np.float32(7.5), 3):
        value, gradients = transformed(case, arrays, divisor=given)
        assert_close(value, (values * factors).sum() / float(given), factor=1e3)
        _, expected = transformed(case, arrays, reduction="none", grad_output=np.asarray(factors / float(given)))
        for gradient, one in zip(gradients, expected, strict=True):
            assert_close(gradient, one, factor=1e3)
    weights = weights_for(values)
    value, _ = transformed(case, arrays, divisor=2.5, sample_weight=weights)
    assert_close(value, (values * factors * weights).sum() / 2.5, factor=1e3)


@pytest.mark.parametrize("case", typical(FIRST))
def test_partial_sums_add_up(case):
    arrays = case.make(seed=5)
    values, counts, factors = unreduced(case, arrays)
    part = fl.partial_sum(case.function)(**arrays, **case.options)
    assert_close(part.total, (values * factors).sum(), factor=1e3)
    assert_close(part.weight, counts.sum(), factor=1e3)
    assert part.count == np.count_nonzero(counts)
    assert_close(part.mean(), case.function(**arrays, **case.options), factor=1e3)
    weights = weights_for(values)
    weighed = fl.partial_sum(case.function)(**arrays, **case.options, sample_weight=weights)
    assert_close(weighed.mean(), case.function(**arrays, **case.options, sample_weight=weights), factor=1e3)
    assert weighed.count == np.count_nonzero(counts * weights)


@pytest.mark.parametrize("case", typical([case for case in FIRST if case.record.hessian == "exact"]))
def test_hessians(case):
    arrays = case.make(seed=5)
    values, counts, _ = unreduced(case, arrays)
    weights = weights_for(values)
    scaled = np.asarray(weights / (weights * counts).sum())
    unweighed = fl.grad_and_hess(case.function)(**arrays, **case.options, reduction="none")
    weighed = fl.grad_and_hess(case.function)(**arrays, **case.options, sample_weight=weights)
    for one, each in zip(weighed, unweighed, strict=True):
        assert_close(one, spread(scaled, each) * each, factor=1e3)


@pytest.mark.parametrize("dtype", quickly("float32", then=["float16"]))
@pytest.mark.parametrize("loss", quickly("cross_entropy", then=["mse_loss", "triplet_margin_loss"]))
def test_narrow_types_and_integer_weights(loss, dtype):
    """Integers with a loss of each kind of loop, weights of the other types with one of elements."""
    case = next(case for case in FIRST if case.loss == loss)
    arrays = case.make(dtype, seed=5)
    values, *_ = unreduced(case, arrays)
    weights = np.random.default_rng(4).integers(0, 4, values.shape)
    wide = {name: a if a.dtype.kind in "iu" else a.astype(float) for name, a in arrays.items()}
    exact = case.function(**wide, **case.options, sample_weight=weights)
    others = (dtype, np.uint8, float) if loss == "mse_loss" else ()
    for given in (weights, *map(weights.astype, others)):
        value = case.function(**arrays, **case.options, sample_weight=given)
        np.testing.assert_allclose(value, exact, rtol=1e-6 if dtype == "float32" else 1e-3)
    if others:
        unweighed = case.function(**arrays, **case.options, sample_weight=weights > -1)
        np.testing.assert_allclose(unweighed, case.function(**arrays, **case.options), rtol=1e-6)


def test_weights_of_nothing():
    x, y = np.linspace(-1, 1, 12).reshape(4, 3), np.array([0, 1, 2, 1])
    for loss, target in ((fl.cross_entropy, y), (fl.mse_loss, x[::-1].copy())):
        value, gradient = fl.value_and_grad(loss)(x, target, sample_weight=np.zeros(4))
        assert np.isnan(value)
        assert not gradient.any()
        assert loss(x, target, sample_weight=np.zeros(4), divisor=3) == 0
    assert fl.cross_entropy(x, np.full(4, -100), divisor=0) == 0
    assert fl.cross_entropy(np.empty((0, 3)), np.empty(0, int), divisor=4) == 0
    assert fl.partial_sum(fl.cross_entropy)(np.empty((0, 3)), np.empty(0, int)) == fl.PartialSum()


@pytest.mark.parametrize("loss", [fl.mse_loss, fl.dice_loss, fl.soft_dice_loss])
def test_weights_of_no_samples(loss):
    x, none = np.empty((0, 4)), np.empty(0)
    for reduction, total in (("mean", np.nan), ("sum", 0.0)):
        value, gradient = fl.value_and_grad(loss)(x, x, sample_weight=none, reduction=reduction)
        np.testing.assert_equal((value, gradient.shape), (total, x.shape))


def test_labels_of_rows_without_weight_are_checked():
    with pytest.raises(IndexError, match="target 7"):
        fl.cross_entropy(np.zeros((2, 3)), np.array([0, 7]), sample_weight=np.array([1.0, 0.0]))


BAD = [
    ({"sample_weight": np.ones(5)}, ValueError, "sample_weight of shape"),
    ({"sample_weight": np.ones((4, 3))}, ValueError, "sample_weight of shape"),
    ({"sample_weight": np.array([1.0, -1, 1, 1])}, ValueError, "sample_weight must not be negative"),
    ({"sample_weight": np.array([1.0, np.nan, 1, 1])}, ValueError, "sample_weight must not be negative or NaN"),
    ({"sample_weight": np.array(["a", "b", "c", "d"])}, TypeError, "sample_weight"),
    ({"divisor": -1.0}, ValueError, "divisor must be"),
    ({"divisor": np.nan}, ValueError, "divisor must be"),
    ({"divisor": np.ones(3)}, ValueError, "divisor must be"),
    ({"divisor": 10**400}, ValueError, "float64 can hold"),
    ({"divisor": 10**400, "label_smoothing": np.array(0.1)}, ValueError, "float64 can hold"),
    ({"divisor": 2.0, "reduction": "sum"}, ValueError, "divisor"),
    ({"axis": 2}, ValueError, "2"),
    ({"axis": 0.5}, TypeError, "integer"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD)
def test_bad_options(options, error, message):
    x, y = np.zeros((4, 3)), np.zeros(4, int)
    into = np.full((4, 3), 7.0)
    with pytest.raises(error, match=message):
        fl.value_and_grad(fl.cross_entropy)(x, y, grad_out=into, **options)
    assert (into == 7).all()


@pytest.mark.parametrize("case", marked(WEIGHED, lambda case: case in FIRST and case.loss in TYPICAL))
def test_no_weights_of_samples_that_are_there(case):
    arrays = case.make()
    if case.function(**arrays, **case.options, reduction="none").size:
        with pytest.raises(ValueError, match="sample_weight of shape"):
            case.function(**arrays, **case.options, sample_weight=np.empty(0))


def test_a_cap_may_be_an_array_of_no_axes():
    x, y = np.array([[0.5, -0.25]]), np.array([0])
    assert fl.cross_entropy(x, y, softcap=np.array(5.0)) == fl.cross_entropy(x, y, softcap=5.0)


ROWS = {
    "few classes": (40, 10),
    "classes": (40, 100),
    "many classes": (20, 700),
    "strided": (4, 10, 5),
}


LOSSES_OF_ROWS = ["cross_entropy", "class probabilities", "multi_margin_loss", "nll_loss", "symmetric_cross_entropy"]


@pytest.mark.parametrize(
    ("loss", "kind"),
    [
        pytest.param(loss, kind, marks=() if (loss, kind) == ("cross_entropy", "classes") else pytest.mark.slow)
        for loss in LOSSES_OF_ROWS
        for kind in ROWS
        if (loss, kind) != ("multi_margin_loss", "strided")  # which takes two axes
    ],
)
def test_rows_are_weighed_in_their_loop(loss, kind):
    """Weights that are powers of two scale a row's value and gradient exactly; 0 takes a row of NaN out."""
    shape = ROWS[kind]
    rng = np.random.default_rng(3)
    rows = shape[:1] + shape[2:]
    x, y = rng.normal(size=shape).astype("f4"), rng.integers(shape[1], size=rows)
    s = rng.choice([0.0, 0.5, 1.0, 2.0], size=rows).astype("f4")
    s.reshape(-1)[0] = 0.0
    function = getattr(fl, "cross_entropy" if loss == "class probabilities" else loss)
    target = np.moveaxis(rng.dirichlet(np.ones(shape[1]), rows), -1, 1).astype("f4") if " " in loss else y
    gradient = fl.value_and_grad(function)
    values, slopes = gradient(x, target, reduction="none")
    x_nan = x.copy()
    x_nan[0, :, *(0,) * (len(shape) - 2)] = np.nan
    weighed, weighed_slopes = gradient(x_nan, target, reduction="none", sample_weight=s)
    along = s[:, None] if len(shape) == 2 else s[:, None, :]
    np.testing.assert_array_equal(weighed, s * values)
    np.testing.assert_array_equal(weighed_slopes, along * slopes)
    total, total_slopes = gradient(x_nan, target, reduction="sum", sample_weight=s)
    np.testing.assert_allclose(total, (s * values).sum(dtype=float), rtol=1e-6)
    np.testing.assert_array_equal(total_slopes, weighed_slopes)
    mean, mean_slopes = gradient(x_nan, target, sample_weight=s.astype("f2") if loss == "nll_loss" else s)
    np.testing.assert_allclose(mean, (s * values).sum(dtype=float) / s.sum(), rtol=1e-6)
    np.testing.assert_allclose(mean_slopes, weighed_slopes / s.sum(), rtol=1e-6, atol=1e-12)
    nothing, zeros = gradient(x_nan, target, sample_weight=np.zeros_like(s))
    assert np.isnan(nothing)
    assert not zeros.any()
    s.reshape(-1)[1] = -1
    with pytest.raises(ValueError, match="sample_weight must not be negative"):
        gradient(x, target, sample_weight=s)


def test_bad_combinations():
    x = np.ones((4, 3))
    with pytest.raises(ValueError, match="batchmean"):
        fl.kl_div(x, x, reduction="batchmean", sample_weight=np.ones(4))
    with pytest.raises(ValueError, match="partial_sum"):
        fl.partial_sum(fl.mse_loss)(x, x, reduction="none")
    with pytest.raises(ValueError, match="takes no divisor"):
        fl.partial_sum(fl.mse_loss)(x, x, divisor=2.0)
    with pytest.raises(TypeError, match="no mean"):
        fl.partial_sum(fl.l2_penalty)
    with pytest.raises(TypeError, match="sample_weight"):
        fl.softmax(x, 1, sample_weight=np.ones(4))


def test_weights_are_not_written_over():
    rng = np.random.default_rng(0)
    x, other, y = rng.uniform(1, 2, (5, 5)), rng.normal(size=(5, 5)), np.ones(5)
    for function, given in (
        (fl.cosine_embedding_loss, (other, y)),
        (fl.multilabel_margin_loss, (np.full((5, 5), -1),)),
        (fl.linear_cross_entropy, (other, np.arange(5))),
    ):
        with pytest.raises(ValueError, match="grad_out overlaps sample_weight"):
            fl.grad(function, function.__fastloss__.positional[0])(x, *given, sample_weight=x[0], grad_out=x)
    each = np.arange(1.0, 7)
    both = fl.value_and_grad(fl.cosine_embedding_loss)
    with pytest.raises(ValueError, match="out overlaps sample_weight"):
        both(x, other, y, sample_weight=each[:5], reduction="none", out=each[1:])
    with pytest.raises(ValueError, match="grad_out overlaps sample_weight"):
        fl.grad(fl.margin_ranking_loss, "input1")(x[0], x[1], y, sample_weight=each[:5], grad_out=each[:5])
    assert each.tolist() == [1, 2, 3, 4, 5, 6]


def test_partial_sums_count_with_negative_class_weights():
    """As torch does, which divides by their sum."""
    x, y, w = np.random.default_rng(7).normal(size=(6, 3)), np.array([0, 1, 2, 1, 0, 2]), np.array([1, -2, 0.5])
    part = fl.partial_sum(fl.cross_entropy)(x, y, w)
    assert (part.weight, part.count) == (w[y].sum(), 6)
    assert_close(part.mean(), fl.cross_entropy(x, y, w))


def test_partial_sums_of_an_instance_take_no_options():
    part = fl.CrossEntropyLoss(ignore_index=0).partial_sum
    with pytest.raises(TypeError, match="ignore_index is an option"):
        part(np.ones((2, 3)), np.array([0, 1]), ignore_index=1)


AXES = [case for case in FIRST if "axis" in case.record.common and case.loss != "triplet_margin_with_distance_loss"]


@pytest.mark.parametrize("case", typical(AXES))
def test_axis(case):
    arrays = case.make(seed=5)
    shape = arrays[next(iter(arrays))].shape
    moved = {name: np.moveaxis(a, -1, 0).copy() if a.shape == shape else a for name, a in arrays.items()}
    expected_value, expected = transformed(case, arrays)
    value, gradients = transformed(case, moved, axis=0)
    assert_close(value, expected_value)
    for gradient, one in zip(gradients, expected, strict=True):
        assert_close(np.moveaxis(gradient, 0, -1), one)


@pytest.mark.slow
@pytest.mark.parametrize("weights", [(4, 3, 5), (1, 3, 1), (5,)])
@pytest.mark.parametrize("axis", [0, 1, -2, -1])
def test_axis_beside_weights_of_entries(axis, weights):
    """Weights that are none of classes broadcast to the input; rows lie along the axis that was asked for."""
    rng = np.random.default_rng(6)
    x, t, w = rng.normal(size=(4, 3, 5)), rng.uniform(size=(4, 3, 5)), rng.uniform(0.5, 2, weights)
    found = fl.multilabel_soft_margin_loss(x, t, w, axis=axis, reduction="none")
    assert_close(found, (w * (np.logaddexp(0, x) - t * x)).mean(axis))
    total, gradient = fl.value_and_grad(fl.multilabel_soft_margin_loss)(x, t, w, axis=axis, reduction="sum")
    assert_close(total, found.sum())
    assert_close(gradient, w * (1 / (1 + np.exp(-x)) - t) / x.shape[axis])


@pytest.mark.parametrize(("axis", "error", "match"), [(5, ValueError, "axis 5 is out"), ("x", TypeError, "axis must")])
def test_bad_axis(axis, error, match):
    x, y = np.ones((4, 3)), np.zeros(4, int)
    for call in (
        lambda: fl.cross_entropy(x, y, axis=axis),
        lambda: fl.cross_entropy(x, y, axis=axis, softcap=5.0),
        lambda: fl.triplet_margin_loss(x, x, x, axis=axis),
        lambda: fl.multilabel_margin_loss(x, x.astype(int), axis=axis),
        lambda: fl.CrossEntropyLoss(axis=axis)(x, y),
    ):
        with pytest.raises(error, match=match):
            call()
    with pytest.raises(TypeError, match="axis"):
        fl.CrossEntropyLoss(axis=0.5)


def test_axis_of_several_and_of_classes():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 7, 5)), rng.integers(0, 5, (4, 7))
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, axis=-1)
    other, moved = fl.value_and_grad(fl.cross_entropy)(np.moveaxis(x, -1, 1).copy(), y)
    assert_close(value, other)
    assert_close(gradient, np.moveaxis(moved, 1, -1))
    weights = rng.uniform(size=4)
    instance = fl.CrossEntropyLoss(axis=-1)
    assert_close(instance(x, y, sample_weight=weights), fl.cross_entropy(x, y, axis=-1, sample_weight=weights))
    assert "axis=-1" in repr(instance)
    assert pickle.loads(pickle.dumps(instance)) == instance


def test_parts_in_any_order_come_to_one_mean():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(1000, 6)).astype("f4"), rng.integers(0, 6, 1000)
    y[::7] = -100
    weight, samples = rng.uniform(0.5, 2, 6).astype("f4"), rng.uniform(0, 2, 1000)
    part = fl.partial_sum(fl.CrossEntropyLoss(weight))
    bounds = [0, 1, 1, 250, 999, 1000]
    parts = [part(x[a:b], y[a:b], sample_weight=samples[a:b]) for a, b in itertools.pairwise(bounds)]
    whole, reverse = sum(parts), sum(parts[::-1])
    assert whole == pickle.loads(pickle.dumps(whole))
    expected, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, weight, sample_weight=samples)
    assert_close(np.float32(whole.mean()), expected)
    assert_close(np.float32(reverse.mean()), expected)
    pieces = [
        fl.grad(fl.cross_entropy)(x[a:b], y[a:b], weight, sample_weight=samples[a:b], divisor=whole.weight)
        for a, b in itertools.pairwise(bounds)
    ]
    assert_close(np.concatenate(pieces), gradient)


def test_torch_tensors():
    torch = pytest.importorskip("torch")
    x, y, w = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.rand(5)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, sample_weight=w, divisor=torch.tensor(2.0))
    each = torch.nn.functional.cross_entropy(x.requires_grad_(), y, reduction="none")
    (each @ w / 2).backward()
    torch.testing.assert_close(value, (each @ w / 2).detach())
    torch.testing.assert_close(gradient, x.grad)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_divisors_of_torch_beside_lists(dtype):
    torch = pytest.importorskip("torch")
    assert fl.mse_loss([3.0, 0.0], [0.0, 0.0], divisor=torch.tensor(3.0, dtype=getattr(torch, dtype))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_what_has_no_weight_may_lie_outside_the_domain(reduction):
    p = np.random.default_rng(0).uniform(0.1, 0.9, (5, 3))
    outside, negative, weights = p.copy(), p.copy(), np.array([0, 1, 1, 1, 1])
    outside[0, 0], negative[0] = 2, -1
    options = {"reduction": reduction, "sample_weight": weights}
    for function, plain, spoiled in (
        (fl.binary_cross_entropy, (p, p), (outside, p)),
        (fl.gaussian_nll_loss, (p, p, p), (p, p, negative)),
        (fl.gaussian_nll_loss, (p, p, p[:, 0]), (p, p, negative[:, 0])),
    ):
        np.testing.assert_array_equal(function(*spoiled, **options), function(*plain, **options))
        slope = fl.grad(function, "input")
        np.testing.assert_array_equal(slope(*spoiled, **options), slope(*plain, **options))
        with pytest.raises(ValueError, match=r"(input|var) must"):
            function(*spoiled, reduction=reduction, sample_weight=weights[::-1])
    outside[3, 0] = np.nan
    assert np.isnan(fl.binary_cross_entropy(outside, p, sample_weight=weights))


@pytest.mark.parametrize("loss", quickly(fl.mse_loss, then=[fl.l1_loss, fl.huber_loss]))
def test_the_gradient_of_a_weight_knows_the_divisor(loss):
    x, t, w = np.array([3.0, 1.0]), np.array([1.0, 0.0]), np.array([1.0, 2.0])
    gradient = fl.grad(loss, "weight")(x, t, w, divisor=10.0)
    np.testing.assert_allclose(gradient, loss(x, t, reduction="none") / 10, rtol=1e-12)


def test_samples_of_weight_zero_that_are_a_part_of_others():
    """The softmax runs along the samples."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 3, 4)), rng.random((2, 3, 4))
    options = {"dim": 0, "sample_weight": np.array([1.0, 0.0]), "reduction": "sum"}
    step = np.zeros_like(x)
    step[1, 0, 0] = 1e-6
    change = fl.soft_dice_loss(x + step, y, **options) - fl.soft_dice_loss(x - step, y, **options)
    np.testing.assert_allclose(fl.grad(fl.soft_dice_loss)(x, y, **options)[1, 0, 0], change / 2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("loss", quickly(fl.mse_loss, then=[fl.l1_loss, fl.huber_loss]))
def test_two_weights_are_multiplied_in_the_precision_of_the_loss(loss, dtype):
    rng = np.random.default_rng(0)
    x, weight, samples = rng.random((5, 7)), rng.random((5, 7)), rng.random(5).astype(dtype)
    for own in (weight, weight.astype(np.float32)):
        expected = loss(x, 0 * x, weight=own.astype(np.float64), sample_weight=samples.astype(np.float64))
        assert loss(x, 0 * x, weight=own, sample_weight=samples) == pytest.approx(expected, rel=1e-15)
        part = fl.partial_sum(loss)(x, 0 * x, weight=own, sample_weight=samples)
        assert part.weight == pytest.approx((own.astype(np.float64).T * samples).sum(), rel=1e-15)
