"""Options of the softmax losses: scaled, capped and padded logits, the z-loss, and numbers of rows beside the loss."""

import pickle

import numpy as np
import pytest
from cases import quickly

import fastloss as fl

RNG = np.random.default_rng(0)
NAMES = ("lse", "log_prob", "entropy", "argmax", "z_loss")
SCALE, CAP, ZETA, SMOOTHING = 1.3, 5.0, 0.01, 0.1
OPTIONS = {"logit_scale": SCALE, "softcap": CAP, "z_loss": ZETA, "label_smoothing": SMOOTHING}


def formulas(x, y, valid, scale=SCALE, cap=CAP, zeta=ZETA, smoothing=SMOOTHING):
    """Return the values of rows and the numbers beside them, for classes along axis 1."""
    z = cap * np.tanh(scale * x[:, :valid].astype(float) / cap)
    top = z.max(1, keepdims=True)
    lse = (top + np.log(np.exp(z - top).sum(1, keepdims=True))).squeeze(1)
    log_p = z - np.expand_dims(lse, 1)
    counts = y >= 0
    own = np.take_along_axis(log_p, np.expand_dims(np.where(counts, y, 0), 1), 1).squeeze(1)
    square = zeta * lse * lse
    values = -(1 - smoothing) * own - smoothing * log_p.mean(1) + square
    entropy = -(np.exp(log_p) * log_p).sum(1)
    return [counts * one for one in (values, lse, own, entropy)] + [z.argmax(1), counts * square]


def labels(shape, classes):
    y = RNG.integers(0, classes, shape)
    y.reshape(-1)[1] = -100
    return y


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((6, 7), "float64"),
        pytest.param((3, 7, 4), "float64", marks=pytest.mark.slow),
        pytest.param((3, 7, 4), "float32", marks=pytest.mark.slow),
        pytest.param((40, 1000), "float32", marks=pytest.mark.slow),
    ],
)
def test_values_and_numbers(shape, dtype):
    x, valid = (RNG.normal(size=shape) * 3).astype(dtype), shape[1] - 2
    y = labels(shape[:1] + shape[2:], valid)
    options = {**OPTIONS, "valid_classes": valid}
    values, *numbers = formulas(x, y, valid)
    near = {"rtol": 1e-10, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-5, "atol": 1e-5}
    count = (y >= 0).sum()
    out, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, returns=NAMES, **options)
    assert out._fields == ("loss", *NAMES)
    np.testing.assert_allclose(out.loss, values.sum() / count, **near)
    for name, ours, theirs in zip(NAMES, out[1:], numbers, strict=True):
        np.testing.assert_allclose(ours, theirs, err_msg=name, **near)
    np.testing.assert_array_equal(fl.grad(fl.cross_entropy)(x, y, **options), gradient)
    assert not gradient[:, valid:].any()
    weights = RNG.uniform(size=y.shape)
    weighed = fl.cross_entropy(x, y, sample_weight=weights, **options)
    np.testing.assert_allclose(weighed, (values * weights).sum() / (weights * (y >= 0)).sum(), **near)
    each = fl.cross_entropy(x, y, reduction="none", **options)
    np.testing.assert_allclose(each, values, **near)
    part = fl.partial_sum(fl.cross_entropy)(x, y, **options)
    np.testing.assert_allclose((part.total, part.weight), (values.sum(), count), **near)


@pytest.mark.parametrize("shape", quickly((3, 7, 4), then=[(6, 7)]), ids=str)
def test_derivatives(shape):
    x, valid = RNG.normal(size=shape) * 3, 5
    y = labels(shape[:1] + shape[2:], valid)
    options = {**OPTIONS, "valid_classes": valid, "reduction": "sum"}
    gradient, hessian = fl.grad_and_hess(fl.cross_entropy)(x, y, **options)
    direction, h = RNG.normal(size=shape), 1e-6
    slope = (formulas(x + h * direction, y, valid)[0].sum() - formulas(x - h * direction, y, valid)[0].sum()) / 2 / h
    np.testing.assert_allclose((gradient * direction).sum(), slope, rtol=1e-6)
    for place in [(0,) * len(shape), (2, 3, *(1,) * (len(shape) - 2)), (1, 6, *(0,) * (len(shape) - 2))]:
        step = np.zeros(shape)
        step[place] = 1e-5
        ahead, behind = (fl.grad(fl.cross_entropy)(x + sign * step, y, **options)[place] for sign in (1, -1))
        np.testing.assert_allclose(hessian[place], (ahead - behind) / 2e-5, rtol=1e-5, atol=1e-9)


def test_class_probabilities():
    x, t = RNG.normal(size=(6, 5)), RNG.dirichlet(np.ones(5), 6)
    padded = np.concatenate([x, np.ones((6, 2))], 1), np.concatenate([t, np.zeros((6, 2))], 1)
    out, gradient = fl.value_and_grad(fl.cross_entropy)(*padded, softcap=3.0, valid_classes=5, returns=("entropy",))
    value, expected = fl.value_and_grad(fl.cross_entropy)(3 * np.tanh(x / 3), t)
    np.testing.assert_allclose(out.loss, value, rtol=1e-12)
    np.testing.assert_allclose(gradient[:, :5], expected * (1 - np.tanh(x / 3) ** 2), rtol=1e-10)
    with pytest.raises(ValueError, match="valid_classes=4"):
        fl.cross_entropy(*padded, valid_classes=4)
    with pytest.raises(ValueError, match="log_prob"):
        fl.cross_entropy(x, t, returns=("log_prob",))


@pytest.mark.parametrize(("classes", "dtype"), [(10, "f8"), pytest.param(100, "f4", marks=pytest.mark.slow)])
def test_rows_keep_their_bits(classes, dtype):
    x, y = RNG.normal(size=(50, classes)).astype(dtype), RNG.integers(0, classes, 50)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="none")
    out, other = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="none", returns=NAMES)
    np.testing.assert_array_equal(out.loss, value)
    np.testing.assert_array_equal(other, gradient)
    again = pickle.loads(pickle.dumps(out))
    assert again._fields == out._fields
    np.testing.assert_array_equal(again.lse, out.lse)


@pytest.mark.slow
@pytest.mark.parametrize("soft", [False, True])
def test_blocks_of_rows(soft):
    """So many rows that they are computed block by block have the gradients of a few, wherever these are written."""
    classes, valid, few = 1000, 997, 100
    x = RNG.normal(size=(3 * few, classes))
    y = RNG.integers(0, valid, 3 * few)
    if soft:
        y = np.zeros(x.shape)
        y[:, :valid] = RNG.uniform(size=(3 * few, valid))
    row = RNG.uniform(size=3 * few)
    options = {**OPTIONS, "valid_classes": valid, "reduction": "sum"}
    gradient = fl.value_and_grad(fl.cross_entropy)
    for more in ({}, {"returns": "lse"}, {"reduction": "none"}):
        value, whole = gradient(x, y, **options | more)
        parts = [slice(k, k + few) for k in range(0, 3 * few, few)]
        values, pieces = zip(*[gradient(x[part], y[part], **options | more) for part in parts], strict=True)
        np.testing.assert_array_equal(whole, np.concatenate(pieces))
        if "returns" in more:
            np.testing.assert_array_equal(value.lse, np.concatenate([piece.lse for piece in values]))
            value, values = value.loss, [piece.loss for piece in values]
        np.testing.assert_allclose(np.sum(value), np.sum(values), rtol=1e-12)
    weighed = gradient(x, y, **options, sample_weight=row)[1]
    np.testing.assert_allclose(weighed, whole * row[:, None], rtol=1e-12, atol=1e-15)
    _, second = fl.grad_and_hess(fl.cross_entropy)(x, y, **options)
    _, part = fl.grad_and_hess(fl.cross_entropy)(x[-few:], y[-few:], **options)
    np.testing.assert_array_equal(second[-few:], part)
    apart = np.full((3 * few, classes + 1), np.nan)[:, :classes]
    for into in (x.copy(), np.full_like(x, np.nan), apart):
        given = into if into[0, 0] == x[0, 0] else x
        gradient(given, y, **options, grad_out=into)
        np.testing.assert_array_equal(into, whole)


def test_probabilities_on_padding_leave_nothing_behind():
    """They are looked for before the first of several blocks is written."""
    x, y = RNG.normal(size=(300, 1000)), np.zeros((300, 1000))
    y[:, 0], y[-1, -1] = 1, 0.5
    into = np.full_like(x, 7.0)
    for _ in range(3):
        with pytest.raises(ValueError, match="valid_classes=997"):
            fl.value_and_grad(fl.cross_entropy)(x, y, valid_classes=997, grad_out=into)
    assert (into == 7).all()


def test_repeated_calls():
    """The first call plans, the third is told apart by itself."""
    x, y, w = RNG.normal(size=(6, 7)), labels((6,), 5), RNG.uniform(size=6)
    for options in (OPTIONS, {**OPTIONS, "returns": ("lse",)}, {**OPTIONS, "reduction": "none"}):
        for more in ({}, {"sample_weight": w}):
            found = [fl.value_and_grad(fl.cross_entropy)(x, y, **options, **more) for _ in range(4)]
            for value, gradient in found:
                np.testing.assert_array_equal(gradient, found[0][1])
                np.testing.assert_array_equal(
                    value[0] if isinstance(value, tuple) else value,
                    found[0][0][0] if isinstance(value, tuple) else found[0][0],
                )


def test_behind_a_linear_map():
    h, w, b, y = RNG.normal(size=(50, 6)), RNG.normal(size=(9, 6)), RNG.normal(size=9), labels((50,), 7)
    samples = RNG.uniform(size=50)
    samples[2] = 0
    x = h @ w.T + b
    for more in ({}, {"sample_weight": samples}, {"divisor": 9.5}, {"sample_weight": samples, "reduction": "none"}):
        options = {**OPTIONS, "valid_classes": 7, "returns": NAMES, **more}
        out, (d_h, d_w, d_b) = fl.value_and_grad(fl.linear_cross_entropy)(h, w, y, linear_bias=b, **options)
        expected, d_x = fl.value_and_grad(fl.cross_entropy)(x, y, **options)
        for ours, theirs in zip(out, expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
        for ours, theirs in ((d_h, d_x @ w), (d_w, d_x.T @ h), (d_b, d_x.sum(0))):
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)


def test_log_probabilities_of_tokens():
    h, w, b, y = RNG.normal(size=(50, 6)), RNG.normal(size=(9, 6)), RNG.normal(size=9), RNG.integers(0, 9, 50)
    x, up = h @ w.T + b, RNG.normal(size=50)
    out = fl.linear_log_prob(h, w, y, bias=b, softcap=4.0, logit_scale=0.5, returns=("entropy",))
    expected = fl.cross_entropy(x, y, reduction="none", softcap=4.0, logit_scale=0.5, returns=("entropy",))
    np.testing.assert_allclose(out.loss, -expected.loss, rtol=1e-12)
    np.testing.assert_allclose(out.entropy, expected.entropy, rtol=1e-12)
    _, (d_h, d_w, d_b) = fl.value_and_grad(fl.linear_log_prob)(h, w, y, bias=b, grad_output=up)
    d_x = fl.grad(fl.cross_entropy)(x, y, reduction="none", grad_output=-up)
    for ours, theirs in ((d_h, d_x @ w), (d_w, d_x.T @ h), (d_b, d_x.sum(0))):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    with pytest.raises(IndexError, match="token 77"):
        fl.linear_log_prob(h, w, np.full(50, 77))
    with pytest.raises(ValueError, match="bias"):
        fl.linear_log_prob(h, w, y, bias=b[:3])


BAD = [
    ({"valid_classes": 8}, "valid_classes"),
    ({"valid_classes": 0}, "valid_classes"),
    ({"softcap": 0.0}, "softcap"),
    ({"z_loss": -1.0}, "z_loss"),
    ({"logit_scale": np.inf}, "logit_scale"),
    ({"returns": ("entropie",)}, "entropie"),
    ({"returns": ("lse", "lse")}, "returns must be different names"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_options(options, message):
    x, y = np.zeros((4, 7)), np.zeros(4, int)
    with pytest.raises(ValueError, match=message):
        fl.cross_entropy(x, y, **options)
    with pytest.raises(ValueError, match=message):
        fl.linear_cross_entropy(np.zeros((4, 2)), np.zeros((7, 2)), y, **options)
    if options.get("valid_classes", 0) < 7:
        with pytest.raises(ValueError, match=message):
            fl.CrossEntropyLoss(**options)


def test_bad_calls():
    x, y = np.zeros((4, 7)), np.array([0, 1, 6, 2])
    with pytest.raises(TypeError, match="returns must be"):
        fl.cross_entropy(x, y, returns=3)
    with pytest.raises(TypeError, match="returns must be different names out of"):
        fl.cross_entropy(x, y, returns=iter(["lse"]))
    with pytest.raises(IndexError, match="target 6"):
        fl.cross_entropy(x, y, valid_classes=5)
    for transform in (fl.grad, fl.grad_and_hess):
        with pytest.raises(ValueError, match="returns"):
            transform(fl.cross_entropy)(x, y, returns=("lse",))
    with pytest.raises(ValueError, match="returns"):
        fl.partial_sum(fl.cross_entropy)(x, y, returns=("lse",))


def test_a_softcap_beyond_the_computing_type(rng):
    x, y = rng.normal(size=(4, 7)).astype("f4"), np.array([0, 1, 6, 2])
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, softcap=1e39)
    expected_value, expected = fl.value_and_grad(fl.cross_entropy)(x, y)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


def test_a_label_among_the_padding_leaves_gradients_alone(rng):
    """Behind a linear map, whose gradient is 0 for padding."""
    x, w = rng.normal(size=(4, 5)), rng.normal(size=(7, 5))
    written = np.full(x.shape, 7.0), np.full(w.shape, 7.0)
    with pytest.raises(IndexError):
        fl.value_and_grad(fl.linear_cross_entropy)(x, w, np.array([0, 1, 6, 2]), valid_classes=5, grad_out=written)
    assert all((one == 7).all() for one in written)
