"""linear_cross_entropy: equal to the loss of the whole logits, in chunks, in bounded memory."""

import itertools
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from cases import assert_close, marked, quickly

import fastloss as fl
from fastloss.call import array_ops as _blocks
from fastloss.call import chunked_matmul as _products
from fastloss.call import linear_run as _projected
from fastloss.call import linear_twice as _twice

pytestmark = pytest.mark.usefixtures("axes_checked")

F, C = 4, 5


def arrays_of(shape=(7,), inner=(), bias=False, weight=False, soft=False, seed=0):
    """Return arguments by name: `shape` is that of the batch, `inner` the positions d1, ..., dK."""
    rng = np.random.default_rng(seed)
    arrays = {"input": rng.normal(size=(*shape, F)), "linear_weight": rng.normal(size=(C, *inner, F))}
    if soft:
        arrays["target"] = rng.uniform(0.1, 1, (*shape, C, *inner))
        arrays["target"] /= arrays["target"].sum(axis=len(shape), keepdims=True)
    else:
        arrays["target"] = rng.integers(C, size=(*shape, *inner))
    if bias:
        arrays["linear_bias"] = rng.normal(size=(C, *inner))
    if weight:
        arrays["weight"] = rng.uniform(0.5, 2, C)
    return arrays


def names_of(arrays):
    soft = arrays["target"].dtype.kind == "f"
    return tuple(name for name in arrays if soft or name not in ("target", "weight"))


def value_and_grad(arrays, wrt=None, **options):
    return fl.value_and_grad(fl.linear_cross_entropy, wrt)(**arrays, **options)


@pytest.fixture(params=["whole", "chunks"])
def budget(request, monkeypatch):
    """Everything at once, or chunks of two rows and blocks of two classes."""
    if request.param == "chunks":
        monkeypatch.setattr(_products, "CHUNK_BYTES", 2 * C * 8)
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", 2 * F * 8)


@pytest.fixture(params=["sum", "second pass"])
def passes(request, monkeypatch):
    """The weight's gradient over several chunks in an array beside it, or in a second pass."""
    if request.param == "second pass":
        monkeypatch.setattr(_twice, "SUM_BYTES", 0)
        monkeypatch.setattr(_twice, "BLOCK_BYTES", 2 * F * 4)


GRID = [
    {"shape": shape, "inner": inner, "bias": bias, "weight": weight, "soft": soft}
    for shape, inner in (((7,), ()), ((7,), (3,)), ((5,), (2, 2)), ((1,), ()), ((), ()))
    for bias, weight, soft in itertools.product((False, True), repeat=3)
]


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("kind", marked(GRID[::3], GRID[24:25].__contains__))
def test_parity_with_torch(kind):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    arrays = arrays_of(**kind)
    names = names_of(arrays)
    for reduction, smoothing, ignored in itertools.product(("mean", "sum", "none"), (0.0, 0.2), (None, 2)):
        if kind["soft"] and ignored is not None:
            continue
        options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
        tensors = {k: torch.from_numpy(np.array(a)).requires_grad_(k in names) for k, a in arrays.items()}
        expected = torch.nn.functional.linear_cross_entropy(**tensors, **options)
        upstream = np.asarray(np.random.default_rng(1).normal(size=expected.shape))
        expected.backward(torch.from_numpy(upstream))
        given = upstream if reduction == "none" else float(upstream)
        value, gradients = value_and_grad(arrays, names, **options, grad_output=given)
        assert_close(value, expected.detach().numpy(), factor=100)
        assert_close(fl.linear_cross_entropy(**arrays, **options), expected.detach().numpy(), factor=100)
        for name, gradient in zip(names, gradients, strict=True):
            assert_close(gradient, tensors[name].grad.numpy(), factor=100)


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("soft", [False, True])
def test_equal_to_cross_entropy_of_the_logits(soft):
    arrays = arrays_of(bias=True, weight=True, soft=soft)
    logits = arrays["input"] @ arrays["linear_weight"].T + arrays["linear_bias"]
    value, slopes = fl.value_and_grad(fl.cross_entropy)(logits, arrays["target"], arrays["weight"])
    found, (d_input, d_weight, d_bias) = value_and_grad(arrays)
    assert_close(found, value)
    assert_close(d_input, slopes @ arrays["linear_weight"])
    assert_close(d_weight, slopes.T @ arrays["input"])
    assert_close(d_bias, slopes.sum(0))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rows", [3, 700], ids=["short way", "long way"])
def test_many_classes(rows, smoothing):
    """The gradient replaces the logits while they are still needed, unlike that of cross_entropy."""
    rng = np.random.default_rng(5)
    x, w, y = rng.normal(size=(rows, 7)), rng.normal(size=(500, 7)), rng.integers(500, size=rows)
    value, slopes = fl.value_and_grad(fl.cross_entropy)(x @ w.T, y, label_smoothing=smoothing)
    found, (d_input, d_weight) = fl.value_and_grad(fl.linear_cross_entropy)(x, w, y, label_smoothing=smoothing)
    assert_close(found, value, factor=100)
    assert_close(d_input, slopes @ w, factor=100)
    assert_close(d_weight, slopes.T @ x, factor=100)


def test_the_bias_joins_the_gradients_where_it_is_given():
    assert len(value_and_grad(arrays_of())[1]) == 2
    assert len(value_and_grad(arrays_of(bias=True))[1]) == 3
    assert len(value_and_grad(arrays_of(bias=True), ("input", "linear_weight"))[1]) == 2
    assert value_and_grad(arrays_of(bias=True), "linear_bias")[1].shape == (C,)
    with pytest.raises(ValueError, match="linear_bias"):
        value_and_grad(arrays_of(), "linear_bias")
    for name in ("target", "weight"):
        with pytest.raises(ValueError, match=name):
            value_and_grad(arrays_of(weight=True), name)


def test_bits_do_not_depend_on_threads(threads):
    rng = np.random.default_rng(2)
    x, w = rng.standard_normal((300, 64), dtype=np.float32), rng.standard_normal((3000, 64), dtype=np.float32)
    arrays = {"input": x, "linear_weight": w, "target": rng.integers(3000, size=300), "linear_bias": w[:, 0].copy()}
    options = SimpleNamespace(
        batch_chunk_size=77, chunking_method="auto", acc_policy="auto", acc_dtype=None, allow_retain_graph=False
    )
    value, gradients = threads(1, lambda: value_and_grad(arrays, options=options))
    for count in (2, 3):
        other, others = threads(count, lambda: value_and_grad(arrays, options=options))
        assert other == value
        for one, again in zip(gradients, others, strict=True):
            np.testing.assert_array_equal(one, again)


# -- half types and mixtures -----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("budget", "passes")
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize(
    "dtype",
    [pytest.param(np.float16, id="float16"), pytest.param(ml_dtypes.bfloat16, id="bfloat16")],
)
def test_half_types_are_rounded_once(dtype, soft):
    arrays = arrays_of((9,), (2,), bias=True, weight=True, soft=soft)
    narrow = {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in arrays.items()}
    wide = {k: a.astype(np.float32) if k != "target" or soft else a for k, a in narrow.items()}
    names = names_of(arrays)
    value, gradients = value_and_grad(narrow, names)
    expected, exact = value_and_grad(wide, names)
    assert value.dtype == np.float32
    assert_close(value, expected, "float32")
    for gradient, one in zip(gradients, exact, strict=True):
        assert gradient.dtype == dtype
        # Half a unit in the last place, and the float32 sums in another order.
        bound = 0.5001 * float(ml_dtypes.finfo(dtype).eps) * np.abs(one) + 1e-6
        assert (np.abs(gradient.astype(float) - one) <= bound).all()
    each = fl.linear_cross_entropy(**narrow, reduction="none")
    assert each.dtype == dtype
    assert_close(each, fl.linear_cross_entropy(**wide, reduction="none").astype(dtype).astype(float), "bfloat16")


@pytest.mark.parametrize("inner", quickly((), then=[(3,)]))
@pytest.mark.parametrize(
    "options",
    [
        {"linear_bias": (C,), "weight": (C,), "ignore_index": 1},
        *[
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"softcap": 2.0, "z_loss": 0.1, "logit_scale": 0.5, "reduction": "sum"},
                {"logit_scale": 1.5, "valid_classes": C - 1, "sample_weight": (9,)},
                {"reduction": "none", "grad_output": (9,)},
            )
        ],
    ],
    ids=lambda options: "-".join(options),
)
def test_weight_in_a_second_pass(options, inner, monkeypatch):
    rng = np.random.default_rng(6)
    x, w = (rng.normal(size=(*shape, F)).astype(ml_dtypes.bfloat16) for shape in ((9,), (C, *inner)))
    target = rng.integers(C - 1, size=(9, *inner))
    options = {
        name: rng.uniform(0, 2, (*value, *inner) if name != "weight" else value).astype(np.float32)
        if isinstance(value, tuple)
        else value
        for name, value in options.items()
    }
    step = fl.value_and_grad(fl.linear_cross_entropy, ("input", "linear_weight"))
    monkeypatch.setattr(_products, "CHUNK_BYTES", 2 * C * 8)
    value, (d_input, expected) = step(x, w, target, **options)
    monkeypatch.setattr(_twice, "SUM_BYTES", 0)
    monkeypatch.setattr(_twice, "BLOCK_BYTES", 2 * F * 4)
    monkeypatch.setattr(_products.Products, "_to_weight", None)  # what adds chunks up
    found, (same, d_weight) = step(x, w, target, **options)
    np.testing.assert_array_equal(found, value)
    np.testing.assert_array_equal(same, d_input)
    # Both are rounded from float32 sums in another order.
    np.testing.assert_allclose(
        d_weight.astype(float), expected.astype(float), rtol=float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps), atol=1e-7
    )


@pytest.mark.usefixtures("budget", "passes")
@pytest.mark.parametrize("name", quickly("linear_weight", "linear_bias", then=["weight"]))
def test_arguments_of_another_float_type(name):
    arrays = arrays_of(bias=True, weight=True)
    arrays[name] = arrays[name].astype(np.float32)
    exact = {k: a.astype(float) if a.dtype.kind == "f" else a for k, a in arrays.items()}
    value, gradients = value_and_grad(arrays)
    expected, others = value_and_grad(exact)
    assert value.dtype == np.float64
    assert_close(value, expected)
    for key, one, other in zip(("input", "linear_weight", "linear_bias"), gradients, others, strict=True):
        assert one.dtype == arrays[key].dtype
        assert_close(one, other, "float32" if key == name else "float64")


# -- outputs ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("soft", [False, True])
def test_gradients_in_the_place_of_arguments(soft):
    arrays = arrays_of(bias=True, weight=True, soft=soft)
    names = names_of(arrays)
    value, expected = value_and_grad(arrays, names)
    own = {k: a.copy() for k, a in arrays.items()}
    found, gradients = value_and_grad(own, names, grad_out=tuple(own[name] for name in names))
    assert found == value
    for name, gradient, one in zip(names, gradients, expected, strict=True):
        assert gradient is own[name]
        assert_close(gradient, one)


@pytest.mark.usefixtures("budget")
def test_gradients_in_the_place_of_each_other_s_arguments():
    """The gradient of the input where the weight lies, and the other way round."""
    rng = np.random.default_rng(3)
    x, w, y = rng.normal(size=(F, F)), rng.normal(size=(F, F)), rng.integers(F, size=F)
    transform = fl.grad(fl.linear_cross_entropy)
    expected = transform(x, w, y)
    own, other = x.copy(), w.copy()
    d_input, d_weight = transform(own, other, y, grad_out=(other, own))
    assert d_input is other
    assert d_weight is own
    assert_close(d_input, expected[0])
    assert_close(d_weight, expected[1])


# -- memory ----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("fresh_memory", "one_thread")
@pytest.mark.parametrize("wrt", [None, "input", "value"])
def test_memory_beyond_the_results_is_a_chunk_and_a_block(wrt, traced_peak):
    """The logits would take 512 MiB."""
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((8192, 16), dtype=np.float32), rng.standard_normal((16384, 16), dtype=np.float32)
    y = rng.integers(16384, size=8192)
    step = fl.linear_cross_entropy if wrt == "value" else fl.value_and_grad(fl.linear_cross_entropy, wrt)
    # Compile all that is measured: too large for the short way, and several chunks.
    step(x[:32], w, y[:32], options=fl.LinearCrossEntropyOptions(batch_chunk_size=16))
    peak, result = traced_peak(step, x, w, y)
    gradients = 0 if wrt == "value" else x.nbytes if wrt == "input" else sum(g.nbytes for g in result[1])
    assert peak <= gradients + _products.CHUNK_BYTES + _blocks.BLOCK_BYTES + 300_000


@pytest.mark.slow
@pytest.mark.usefixtures("fresh_memory", "one_thread")
def test_memory_of_a_second_pass(monkeypatch, traced_peak):
    """The logits would take 512 MiB, and the sum of the weight's gradient 16."""
    monkeypatch.setattr(_twice, "SUM_BYTES", 8 << 20)
    monkeypatch.setattr(_twice, "BLOCK_BYTES", 1 << 20)
    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal((n, 64), dtype=np.float32).astype(ml_dtypes.bfloat16) for n in (2048, 65536))
    y = rng.integers(65536, size=2048)
    step = fl.value_and_grad(fl.linear_cross_entropy)
    step(x[:32], w, y[:32], options=fl.LinearCrossEntropyOptions(batch_chunk_size=16))
    peak, (_, gradients) = traced_peak(step, x, w, y)
    blocks = _blocks.BLOCK_BYTES + 4 * _twice.BLOCK_BYTES
    assert peak <= sum(g.nbytes for g in gradients) + _products.CHUNK_BYTES + blocks + 500_000


# -- options ---------------------------------------------------------------------------------------------------------


def test_options_choose_the_chunks(monkeypatch):
    seen = []
    chunks = _projected.chunks
    monkeypatch.setattr(_projected, "chunks", lambda *a: seen.append(chunks(*a)) or seen[-1])
    arrays = arrays_of((8,))
    expected = fl.linear_cross_entropy(**arrays)
    for options, rows in (
        ({"batch_chunk_size": 3}, 3),
        ({"batch_chunk_size": 100}, 8),
        ({"batch_chunk_size": 3, "chunking_method": None}, 3),
        ({"chunking_method": "aspect_ratio"}, 4),  # 8 rows of 4 features, 5 classes: 8 / ceil(5 / 4)
        ({"chunking_method": "aspect_ratio:2"}, 2),
        ({"chunking_method": "aspect_ratio:9"}, 1),
        ({}, 8),
    ):
        value = fl.linear_cross_entropy(**arrays, options=fl.LinearCrossEntropyOptions(**options))
        assert_close(value, expected)
        assert seen[-1][0] == (0, rows)
        assert [stop for _, stop in seen[-1]] == [min(k + rows, 8) for k in range(0, 8, rows)]


def test_options_of_torch():
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    arrays = arrays_of((8,))
    for options in ({}, {"batch_chunk_size": 3}, {"chunking_method": "aspect_ratio"}, {"acc_policy": "compact"}):
        given = torch.nn.LinearCrossEntropyOptions(**options)
        assert_close(fl.linear_cross_entropy(**arrays, options=given), fl.linear_cross_entropy(**arrays))
    given = torch.nn.LinearCrossEntropyOptions(acc_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"float64.* in float64, not in float32"):
        fl.linear_cross_entropy(**arrays, options=given)
    narrow = {k: a.astype(np.float32) if k != "target" else a for k, a in arrays.items()}
    assert_close(fl.linear_cross_entropy(**narrow, options=given), fl.linear_cross_entropy(**arrays), "float32")


def test_options_out_of_range():
    for name, wrong in (
        ("batch_chunk_size", 0),
        ("batch_chunk_size", 1.5),
        ("chunking_method", "halves"),
        ("chunking_method", "aspect_ratio:0"),
        ("acc_policy", "sloppy"),
    ):
        with pytest.raises(ValueError, match=f"{name} .*{wrong}"):
            fl.LinearCrossEntropyOptions(**{name: wrong})
    both = fl.LinearCrossEntropyOptions(batch_chunk_size=3, chunking_method="aspect_ratio")
    with pytest.raises(ValueError, match=r"batch_chunk_size 3 .*4"):
        fl.linear_cross_entropy(**arrays_of((8,)), options=both)
    with pytest.raises(TypeError, match="options"):
        fl.linear_cross_entropy(**arrays_of(), options={"batch_chunk_size": 3})
    with pytest.raises(ValueError, match="float16"):
        fl.linear_cross_entropy(**arrays_of(), options=fl.LinearCrossEntropyOptions(acc_dtype=np.float16))


# -- bad input -------------------------------------------------------------------------------------------------------

X, W, Y = np.ones((3, F)), np.ones((C, F)), np.zeros(3, int)
WRONG = [
    (ValueError, r"input .*\(2, 3, 4\)", {"input": np.ones((2, 3, 4))}),
    (ValueError, r"input .*\(\)", {"input": np.ones(())}),
    (ValueError, r"linear_weight .*\(4,\)", {"linear_weight": np.ones(F)}),
    (ValueError, r"input \(3, 4\) .*linear_weight \(5, 3\)", {"linear_weight": np.ones((C, 3))}),
    (ValueError, r"linear_weight .*\(0, 4\)", {"linear_weight": np.ones((0, F))}),
    (ValueError, r"\(5, 2, 4\) .*\(N, F\).*\(4,\)", {"input": np.ones(F), "linear_weight": np.ones((C, 2, F))}),
    (ValueError, r"target .*\(3,\).*\(3, 5\).*\(4,\)", {"target": np.zeros(4, int)}),
    (ValueError, r"target .*\(3, 2\).*\(3, 5, 2\).*\(3,\)", {"linear_weight": np.ones((C, 2, F))}),
    (ValueError, r"linear_bias .*\(5,\).*\(4,\)", {"linear_bias": np.ones(4)}),
    (ValueError, r"linear_bias .*\(5,\).*\(\)", {"linear_bias": np.ones(())}),
    (ValueError, r"weight .*\(5,\).*\(3,\)", {"weight": np.ones(3)}),
    (ValueError, "ignore_index .*1", {"target": np.full((3, C), 0.2), "ignore_index": 1}),
    (TypeError, "linear_weight .*int64", {"linear_weight": np.ones((C, F), int)}),
    (TypeError, "linear_bias .*int64", {"linear_bias": np.ones(C, int)}),
    (TypeError, "target .*float64", {"target": np.zeros(3)}),
    (TypeError, "target, .*int64", {"target": np.ones((3, C), int)}),
    (IndexError, r"5 at position \(1,\).* 5 classes", {"target": np.array([0, C, 99])}),
    (IndexError, r"-1 at position \(2,\)", {"target": np.array([0, -100, -1])}),
    (IndexError, r"-100 at position \(1,\)", {"target": np.array([0, -100, 1]), "ignore_index": 1}),
    (
        IndexError,
        r"7 at position \(2, 1\)",
        {"linear_weight": np.ones((C, 2, F)), "target": np.array([[0, 0], [1, 1], [2, 7]])},
    ),
]


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize(("error", "match", "changed"), WRONG, ids=range(len(WRONG)))
def test_bad_input_is_refused_before_anything_is_written(error, match, changed):
    arguments = {"input": X, "linear_weight": W, "target": Y, **changed}
    with pytest.raises(error, match=match):
        fl.linear_cross_entropy(**arguments)
    for name in ("input", "linear_weight"):
        untouched = np.full(arguments[name].shape, 7.0)
        with pytest.raises(error, match=match):
            fl.grad(fl.linear_cross_entropy, name)(**arguments, grad_out=untouched)
        assert (untouched == 7).all()


@pytest.mark.usefixtures("budget")
def test_unchecked_index_gives_nan_in_its_row():
    arrays = arrays_of()
    good = value_and_grad(arrays, "input", reduction="none")
    arrays["target"][[1, 4]] = [C, -(2**50)]
    with fl.config(check_indices=False):
        value, gradient = value_and_grad(arrays, "input", reduction="none")
        assert np.isnan(fl.linear_cross_entropy(**arrays))
    bad = np.isin(np.arange(7), [1, 4])
    assert np.isnan(value[bad]).all()
    assert np.isnan(gradient[bad]).all()
    assert_close(value[~bad], good[0][~bad])
    assert_close(gradient[~bad], good[1][~bad])


# -- nothing, and rows that do not count -----------------------------------------------------------------------------


@pytest.mark.usefixtures("budget")
def test_only_ignored_rows_have_mean_nan_and_gradient_zero():
    arrays = {**arrays_of(bias=True), "target": np.full(7, -100)}
    value, gradients = value_and_grad(arrays)
    assert np.isnan(value)
    assert fl.linear_cross_entropy(**arrays, reduction="sum") == 0
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, np.zeros(gradient.shape))


@pytest.mark.usefixtures("budget", "passes")
@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.bfloat16], ids=["float64", "bfloat16"])
def test_weights_that_sum_to_zero_have_mean_nan(dtype):
    arrays = {name: a.astype(dtype) if a.dtype.kind == "f" else a for name, a in arrays_of().items()}
    value, gradients = value_and_grad({**arrays, "weight": np.zeros(C)})
    assert np.isnan(value)
    for gradient in gradients:
        assert np.isnan(gradient.astype(float)).all()


def test_no_rows_have_gradients_of_zero():
    value, (d_input, d_weight, d_bias) = value_and_grad(arrays_of((0,), bias=True))
    assert np.isnan(value)
    assert d_input.shape == (0, F)
    np.testing.assert_array_equal(d_weight, np.zeros((C, F)))
    np.testing.assert_array_equal(d_bias, np.zeros(C))


def test_no_features_leave_even_odds():
    x, w = np.ones((3, 0)), np.ones((C, 0))
    value, (d_input, d_weight) = fl.value_and_grad(fl.linear_cross_entropy)(x, w, Y)
    assert_close(value, np.log(C))
    assert d_input.shape == (3, 0)
    assert d_weight.shape == (C, 0)


def test_no_second_derivative():
    with pytest.raises(ValueError, match="linear_cross_entropy has no second derivative"):
        fl.grad_and_hess(fl.linear_cross_entropy)


# -- tensors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_tensors_in_tensors_out(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    arrays = arrays_of(bias=True)
    tensors = {k: torch.from_numpy(a) for k, a in arrays.items()}
    tensors = {k: t.to(getattr(torch, dtype)) if k != "target" else t for k, t in tensors.items()}
    tensors["linear_weight"].requires_grad_()
    value, gradients = value_and_grad(tensors)
    assert isinstance(value, torch.Tensor)
    assert value.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    assert all(g.dtype == tensors["input"].dtype for g in gradients)
    if dtype == "float64":
        np.testing.assert_array_equal(gradients[1], value_and_grad(arrays)[1][1])
