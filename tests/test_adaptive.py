"""adaptive_log_softmax_with_loss, and the loss classes that hold parameters."""

import pickle

import ml_dtypes
import numpy as np
import pytest
from cases import assert_close, quickly

import fastloss as fl
from fastloss.call import array_ops as _blocks
from fastloss.call import chunked_matmul as _products

pytestmark = pytest.mark.usefixtures("axes_checked")

F, CLASSES, CUTOFFS = 8, 30, [5, 12, 20]
NAMES = ("input", "head_weight", "head_bias", "tail_weights")


def layer(head_bias=True, seed=0, dtype=np.float64, cutoffs=CUTOFFS, div_value=2.0):
    made = fl.AdaptiveLogSoftmaxWithLoss(F, CLASSES, cutoffs, div_value, head_bias, dtype=dtype)
    made.reset_parameters(np.random.default_rng(seed))
    return made


def batch(rows=11, seed=1, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(rows, F)).astype(dtype) * 3, rng.integers(CLASSES, size=rows)


def arguments(made):
    """Return the weights of a layer as the function takes them."""
    return {
        "head_weight": made.head.weight,
        "tail_weights": [(one.weight, other.weight) for one, other in made.tail],
        "head_bias": made.head.bias,
        "cutoffs": made.cutoffs[:-1],
    }


def flat(gradients):
    return [one for part in gradients for one in (flat(part) if isinstance(part, tuple) else [part])]


def in_torch(made, x, y, factor=1.0):
    """Return torch's module with the same parameters, its result, and the gradients of everything."""
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(
        made.in_features, made.n_classes, made.cutoffs[:-1], made.div_value, made.head_bias
    ).double()
    module.load_state_dict({name: torch.tensor(np.asarray(a, float)) for name, a in made.state_dict().items()})
    tensor = torch.tensor(np.asarray(x, float)).requires_grad_()
    result = module(tensor, torch.tensor(y))
    (factor * result.loss).backward()
    heads = [tensor.grad, module.head.weight.grad] + ([module.head.bias.grad] if made.head_bias else [])
    tails = [torch.zeros_like(p) if p.grad is None else p.grad for p in module.tail.parameters()]
    return module, result, [g.numpy() for g in heads + tails]


@pytest.fixture(params=["whole", "chunks"])
def budget(request, monkeypatch):
    """Everything at once, or chunks of a few rows and blocks of two classes."""
    if request.param == "chunks":
        monkeypatch.setattr(_products, "CHUNK_BYTES", 16 * 8)
        monkeypatch.setattr(_blocks, "BLOCK_BYTES", 2 * F * 8)


def names_of(made):
    return NAMES if made.head_bias else ("input", "head_weight", "tail_weights")


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("head_bias", [False, True])
@pytest.mark.parametrize(("cutoffs", "div_value"), [(CUTOFFS, 2.0), ([1], 4.0), ([29], 1.0), ([3, 4, 5], 4.0)], ids=str)
def test_parity_with_torch(cutoffs, div_value, head_bias):
    """The last one has a cluster of a single class and tails without features."""
    made = layer(head_bias, cutoffs=cutoffs, div_value=div_value)
    x, y = batch()
    with np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *a, **k: None)  # torch about tails without features
        module, expected, exact = in_torch(made, x, y, -1.5)
    found, gradients = made.value_and_grad(x, y, wrt=names_of(made), grad_output=-1.5)
    assert_close(found.output, expected.output.detach().numpy())
    assert_close(found.loss, expected.loss.item())
    for one, other in zip(flat(gradients), exact, strict=True):
        assert_close(one, other)
    tensor = module.head.weight.new_tensor(x)
    assert_close(made.log_prob(x), module.log_prob(tensor).detach().numpy(), factor=10)
    np.testing.assert_array_equal(made.predict(x), module.predict(tensor).numpy())
    assert_close(np.exp(made.log_prob(x)).sum(1), np.ones(11))


@pytest.mark.usefixtures("budget")
@pytest.mark.parametrize("y", [3, 4, 5, 19, 20, 29])
def test_unbatched(y):
    made = layer()
    x, y = batch()[0][0], np.array(y)
    _, expected, exact = in_torch(made, x, y)
    found, gradients = made.value_and_grad(x, y, wrt=NAMES)
    assert found.output.shape == found.loss.shape == ()
    assert_close(found.output, expected.output.detach().numpy())
    for one, other in zip(flat(gradients), exact, strict=True):
        assert_close(one, other)
    assert_close(made.log_prob(x), made.log_prob(x[None])[0])
    assert made.predict(x) == made.predict(x[None])[0] == made.log_prob(x).argmax()


def test_function_and_class_compute_the_same():
    made = layer()
    x, y = batch()
    weights = arguments(made)
    output, loss = fl.adaptive_log_softmax_with_loss(x, y, **weights)
    for cutoffs in (made.cutoffs, np.array(CUTOFFS), tuple(CUTOFFS)):
        again = fl.adaptive_log_softmax_with_loss(x, y, **{**weights, "cutoffs": cutoffs})
        np.testing.assert_array_equal(again.output, output)
    assert made(x, y).loss == loss
    assert_close(loss, -output.mean())
    np.testing.assert_array_equal(made(x, y).output, output)
    assert_close(output, np.take_along_axis(made.log_prob(x), y[:, None], 1)[:, 0])
    expected = fl.grad(fl.adaptive_log_softmax_with_loss)(x, y, **weights)
    assert expected.shape == x.shape
    for result in (
        made.grad(x, y),
        made.value_and_grad(x, y)[1],
        fl.grad(made)(x, y),
        fl.value_and_grad(made)(x, y)[1],
    ):
        np.testing.assert_array_equal(result, expected)
    pairs = made.grad(x, y, wrt="tail_weights")
    assert [[g.shape for g in pair] for pair in pairs] == [[w.shape for w in pair] for pair in weights["tail_weights"]]


@pytest.mark.usefixtures("budget")
def test_gradients_are_written_where_they_are_wanted():
    made = layer()
    x, y = batch()
    _, expected = made.value_and_grad(x, y, wrt=NAMES)
    targets = (
        np.full(x.shape, np.nan),
        np.full(made.head.weight.shape, np.nan, order="F"),
        np.full(made.head.bias.shape, np.nan),
        tuple((np.full(a.weight.shape, np.nan), np.full(b.weight.shape, np.nan)) for a, b in made.tail),
    )
    out = np.full(11, np.nan)
    found, gradients = made.value_and_grad(x, y, wrt=NAMES, grad_out=targets, out=out)
    assert found.output is out
    for one, other, exact in zip(flat(gradients), flat(targets), flat(expected), strict=True):
        assert one is other
        np.testing.assert_array_equal(one, exact)
    own = x.copy()
    assert made.grad(own, y, grad_out=own) is own
    assert_close(own, expected[0])


@pytest.mark.parametrize("dtype", quickly(np.float32, ml_dtypes.bfloat16, then=[np.float16]), ids=["f4", "bf16", "f2"])
@pytest.mark.usefixtures("budget")
def test_narrow_types(dtype):
    made = layer(dtype=dtype)
    x, y = batch(dtype=dtype)
    wide = layer()
    wide.load_state_dict(made.state_dict())
    found, gradients = made.value_and_grad(x, y, wrt=NAMES)
    expected, exact = wide.value_and_grad(x.astype(float), y, wrt=NAMES)
    name = {np.float32: "float32", np.float16: "float16", ml_dtypes.bfloat16: "bfloat16"}[dtype]
    assert found.loss.dtype == np.float32
    assert found.output.dtype == dtype
    assert_close(found.loss, expected.loss, "float32")
    assert_close(found.output, expected.output, name)
    for one, other in zip(flat(gradients), flat(exact), strict=True):
        assert one.dtype == dtype
        assert_close(one, other, name)
    assert made.log_prob(x).dtype == dtype
    assert_close(made.log_prob(x), wide.log_prob(x.astype(float)), name, factor=2)


def test_tensors_in_tensors_out():
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    x, y = batch()
    exact = layer()
    for dtype in (np.float64, torch.float64):
        made = layer(dtype=dtype)
        made.load_state_dict(exact.state_dict())
        tensor = torch.tensor(x).requires_grad_()
        found, gradients = made.value_and_grad(tensor, torch.tensor(y), wrt=NAMES)
        results = [*found, *flat(gradients), made.log_prob(tensor), made.predict(tensor)]
        expected, others = exact.value_and_grad(x, y, wrt=NAMES)
        assert all(isinstance(result, torch.Tensor) for result in results)
        numbers = [*expected, *flat(others), exact.log_prob(x), exact.predict(x)]
        for one, other in zip(results, numbers, strict=True):
            np.testing.assert_array_equal(one.numpy(), other)


def test_clusters_without_rows_have_gradients_of_zero():
    made = layer()
    x, _ = batch()
    _, pairs = made.value_and_grad(x, np.zeros(11, int), wrt="tail_weights")
    assert all((gradient == 0).all() for gradient in flat(pairs))


def test_no_rows():
    made = layer()
    (output, loss), gradients = made.value_and_grad(np.ones((0, F)), np.zeros(0, int), wrt=NAMES)
    assert output.shape == (0,)
    assert np.isnan(loss)
    assert all((gradient == 0).all() for gradient in flat(gradients))
    assert made.log_prob(np.ones((0, F))).shape == (0, CLASSES)
    assert made.predict(np.ones((0, F))).shape == (0,)


@pytest.mark.usefixtures("fresh_memory", "one_thread")
def test_memory_holds_no_rows_by_classes(traced_peak):
    """The log-probabilities of all classes would take 400 MB."""
    made = fl.AdaptiveLogSoftmaxWithLoss(64, 50_000, [1000, 10_000], 2.0)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((2000, 64), dtype=np.float32), rng.integers(50_000, size=2000)
    made.value_and_grad(x[:8], y[:8])
    peak, _ = traced_peak(made.value_and_grad, x, y)
    assert peak <= _products.CHUNK_BYTES + 4 * x.nbytes + 300_000


def test_unchecked_target_gives_nan_in_its_row():
    made = layer()
    x, y = batch()
    good = made.value_and_grad(x, y, wrt="input")
    y[[1, 4]] = [CLASSES, -(2**50)]
    with fl.config(check_indices=False):
        (output, loss), gradient = made.value_and_grad(x, y)
    bad = np.isin(np.arange(11), [1, 4])
    assert np.isnan(loss)
    assert np.isnan(output[bad]).all()
    assert np.isnan(gradient[bad]).all()
    assert_close(output[~bad], good[0].output[~bad])
    assert_close(gradient[~bad], good[1][~bad])


# -- bad input -------------------------------------------------------------------------------------------------------

PAIR = (np.ones((2, F)), np.ones((7, 2)))
WRONG = [
    (ValueError, r"input .*\(2, 3, 8\)", {"input": np.ones((2, 3, F))}),
    (ValueError, r"target .*\(11,\).*\(11, 30\).*\(10,\)", {"target": np.zeros(10, int)}),
    (ValueError, r"target .*\(11,\).*\(11, 1\)", {"target": np.zeros((11, 1), int)}),
    (ValueError, r"target .*\(11,\).*\(\)", {"target": np.array(1)}),
    (ValueError, r"head_weight .*\(8, 8\).*\(8, 7\)", {"head_weight": np.ones((8, 7))}),
    (ValueError, r"head_bias .*\(8,\).*\(7,\)", {"head_bias": np.ones(7)}),
    (ValueError, r"cutoffs .*3 tail_weights.*\[5, 12\]", {"cutoffs": [5, 12]}),
    (ValueError, r"cutoffs .*\[\]", {"cutoffs": []}),
    (ValueError, r"cutoffs .*\[5, 5, 12\]", {"cutoffs": [5, 5, 12]}),
    (ValueError, r"cutoffs .*\[0, 12, 20\]", {"cutoffs": [0, 12, 20]}),
    (ValueError, r"cutoffs .*\[5, 12.5, 20\]", {"cutoffs": [5, 12.5, 20]}),
    (ValueError, r"tail_weights\[0\]\[1\] .*\(7, 4\).*cutoffs \[5, 11, 20\]", {"cutoffs": [5, 11, 20]}),
    (ValueError, r"tail_weights\[2\]\[1\] .*\[5, 12, 20, 31\]", {"cutoffs": [5, 12, 20, 31]}),
    (ValueError, r"tail_weights\[1\] .*pair", {"tail_weights": [PAIR, PAIR[:1], PAIR]}),
    (
        ValueError,
        r"tail_weights\[0\]\[0\] .*\(hidden, 8\).*\(2, 7\)",
        {"tail_weights": [(np.ones((2, 7)), PAIR[1])] * 3},
    ),
    (
        ValueError,
        r"tail_weights\[0\]\[1\] .*\(classes, 2\).*\(7, 3\)",
        {"tail_weights": [(PAIR[0], np.ones((7, 3)))] * 3},
    ),
    (TypeError, "tail_weights must be a sequence of pairs of arrays, got None", {"tail_weights": None}),
    (TypeError, r"tail_weights must be a sequence of pairs of arrays, got \[3\]", {"tail_weights": [3]}),
    (TypeError, "cutoffs must be a sequence of integers, got None", {"cutoffs": None}),
    (TypeError, "input .*int64", {"input": np.ones((11, F), int)}),
    (TypeError, "head_weight .*int64", {"head_weight": np.ones((8, 8), int)}),
    (TypeError, r"tail_weights\[0\]\[1\] .*int64", {"tail_weights": [(PAIR[0], np.ones((7, 2), int))] * 3}),
    (TypeError, "target .*float64", {"target": np.zeros(11)}),
    (IndexError, r"30 at position \(3,\).* 30 classes", {"target": np.arange(27, 38)}),
    (IndexError, r"-100 at position \(0,\)", {"target": np.full(11, -100)}),
    (IndexError, r"-9223372036854775808 at position \(0,\)", {"target": np.full(11, -(2**63))}),
]


@pytest.mark.parametrize(("error", "match", "changed"), WRONG, ids=range(len(WRONG)))
def test_bad_input_is_refused_before_anything_is_written(error, match, changed):
    x, y = batch()
    given = {"input": x, "target": y, **arguments(layer()), **changed}
    with pytest.raises(error, match=match):
        fl.adaptive_log_softmax_with_loss(**given)
    untouched = np.full(given["input"].shape, 7.0)
    with pytest.raises(error, match=match):
        fl.grad(fl.adaptive_log_softmax_with_loss)(**given, grad_out=untouched)
    assert (untouched == 7).all()


def test_what_cannot_be_differentiated():
    made, (x, y) = layer(head_bias=False), batch()
    with pytest.raises(ValueError, match="head_bias"):
        made.grad(x, y, wrt="head_bias")
    with pytest.raises(ValueError, match="target"):
        made.grad(x, y, wrt="target")
    with pytest.raises(ValueError, match="no second derivative"):
        made.grad_and_hess(x, y)
    with pytest.raises(ValueError, match=r"grad_out must hold 2 arrays, got 1"):
        made.grad(x, y, wrt=("input", "head_weight"), grad_out=(x.copy(),))
    with pytest.raises(ValueError, match="grad_output"):
        made.grad(x, y, grad_output=np.ones(11))


# -- the classes -----------------------------------------------------------------------------------------------------


def test_constructor_of_the_adaptive_layer():
    for cutoffs in ([], [3, 2], [2, 2], [0, 3], [CLASSES], [2.5], [-1, 2]):
        with pytest.raises(ValueError, match="cutoffs"):
            fl.AdaptiveLogSoftmaxWithLoss(F, CLASSES, cutoffs)
    with pytest.raises(ValueError, match="div_value"):
        fl.AdaptiveLogSoftmaxWithLoss(F, CLASSES, [3], 0.0)
    with pytest.raises(TypeError, match="int64"):
        fl.AdaptiveLogSoftmaxWithLoss(F, CLASSES, [3], dtype=np.int64)
    made = fl.AdaptiveLogSoftmaxWithLoss(F, CLASSES, CUTOFFS)
    assert (made.in_features, made.n_classes, made.cutoffs) == (F, CLASSES, [*CUTOFFS, CLASSES])
    assert (made.shortlist_size, made.n_clusters, made.head_size) == (5, 3, 8)
    assert made.head.weight.dtype == np.float32
    assert made.head.bias is None
    assert [[linear.weight.shape for linear in pair] for pair in made.tail] == [
        [(2, 8), (7, 2)],
        [(0, 8), (8, 0)],
        [(0, 8), (10, 0)],
    ]


def linear_layer(**options):
    made = fl.LinearCrossEntropyLoss(4, 5, bias=True, **{"dtype": np.float64, **options})
    made.reset_parameters(np.random.default_rng(3))
    return made


def test_initial_parameters_are_uniform_as_in_torch():
    made = fl.LinearCrossEntropyLoss(100, 1000, bias=True)
    for array in made.state_dict().values():
        assert abs(np.abs(array).max() - 0.1) < 1e-3
        assert abs(array.std() - 0.1 / np.sqrt(3)) < 5e-3
    assert made != fl.LinearCrossEntropyLoss(100, 1000, bias=True)


@pytest.mark.parametrize("make", [layer, linear_layer])
def test_repr_pickle_and_equality(make):
    made = make()
    again = pickle.loads(pickle.dumps(made))
    assert again == made
    assert again.state_dict() is not made.state_dict()
    np.testing.assert_array_equal(again.state_dict().popitem()[1], made.state_dict().popitem()[1])
    same = eval(repr(made), {type(made).__name__: type(made)})
    assert repr(same) == repr(made)
    assert same != made  # other parameters
    same = type(made)(**{**made._options(), "dtype": np.float64})
    same.load_state_dict(made.state_dict())
    assert same == made
    assert made != object()


def test_state_has_the_names_and_shapes_of_torch_s():
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    pairs = [
        (
            torch.nn.AdaptiveLogSoftmaxWithLoss(F, CLASSES, [5, 12], 2.0, bias),
            fl.AdaptiveLogSoftmaxWithLoss(F, CLASSES, [5, 12], 2.0, bias),
        )
        for bias in (False, True)
    ]
    for weight in (None, np.ones(5, np.float32)):
        options = {"out_features": (2, 3), "bias": True}
        theirs = torch.nn.LinearCrossEntropyLoss(
            4, 5, **options, weight=None if weight is None else torch.from_numpy(weight)
        )
        pairs.append((theirs, fl.LinearCrossEntropyLoss(4, 5, **options, weight=weight)))
    for theirs, ours in pairs:
        state = theirs.state_dict()
        assert set(ours.state_dict()) == set(state)
        ours.load_state_dict(state)
        for name, array in ours.state_dict().items():
            np.testing.assert_array_equal(array, state[name].numpy())
        theirs.load_state_dict({name: torch.from_numpy(array) for name, array in ours.state_dict().items()})


def test_state_that_does_not_fit():
    made = layer()
    before = pickle.dumps(made)
    state = made.state_dict()
    with pytest.raises(ValueError, match=r"head\.bias.*got"):
        made.load_state_dict({k: v for k, v in state.items() if k != "head.bias"})
    with pytest.raises(ValueError, match="speed"):
        made.load_state_dict({**state, "speed": np.ones(1)})
    with pytest.raises(ValueError, match=r"tail\.2\.1\.weight .*\(10, 1\).*\(10, 2\)"):
        made.load_state_dict({**{k: v + 1 for k, v in state.items()}, "tail.2.1.weight": np.ones((10, 2))})
    with pytest.raises(TypeError, match=r"head\.bias .*int64"):
        made.load_state_dict({**{k: v + 1 for k, v in state.items()}, "head.bias": np.ones(8, int)})
    assert pickle.dumps(made) == before


@pytest.mark.slow
@pytest.mark.parametrize("out_features", [(), (2, 3)])
@pytest.mark.parametrize("dtype", ["numpy", "torch"])
def test_linear_layer_against_torch(dtype, out_features):
    torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
    weight = torch.rand(5, dtype=torch.float64)
    options = {"out_features": out_features, "bias": True, "label_smoothing": 0.1}
    theirs = torch.nn.LinearCrossEntropyLoss(4, 5, **options, weight=weight, dtype=torch.float64)
    ours = fl.LinearCrossEntropyLoss(
        4, 5, **options, weight=weight.numpy(), dtype=np.float64 if dtype == "numpy" else torch.float64
    )
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours.linear.weight, np.ndarray if dtype == "numpy" else torch.Tensor)
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, 5, (7, *out_features))
    expected = theirs(x, y)
    expected.backward()
    exact = [x.grad, theirs.linear.weight.grad, theirs.linear.bias.grad]
    x = x.detach()
    value, gradients = ours.value_and_grad(x, y)
    assert_close(value, expected.item())
    assert_close(ours(x, y), expected.item())
    for one, other in zip(gradients, exact, strict=True):
        assert_close(one, other)
    given = tuple(torch.empty_like(one) for one in exact)
    returned = ours.grad(x, y, grad_out=given)
    for one, other, number in zip(returned, given, exact, strict=True):
        assert one is other
        assert_close(one, number)
    assert_close(ours.grad(x, y, wrt="linear_weight"), exact[1])
    for single in (torch.empty_like(exact[1]), torch.full_like(exact[1].T.contiguous(), np.nan).T):
        assert fl.grad(ours, "linear_weight")(x, y, grad_out=single) is single
        assert_close(single, exact[1])


@pytest.mark.parametrize("order", ["C", "F"])
def test_given_gradients_of_a_linear_layer_must_have_its_shapes(order):
    layer = fl.LinearCrossEntropyLoss(3, 4, out_features=(2,), bias=True)
    x, y = np.ones((2, 3), np.float32), np.array([[0, 1], [1, 2]])
    wrong = np.full((3, 8), 7, np.float32, order=order)
    with pytest.raises(ValueError, match=r"grad_out must have shape \(8, 3\), got shape \(3, 8\)"):
        layer.value_and_grad(x, y, wrt="linear_weight", grad_out=wrong)
    with pytest.raises(ValueError, match=r"grad_out must have shape \(8,\), got shape \(4, 2\)"):
        layer.grad(x, y, grad_out=(x.copy(), wrong.T.copy(), np.empty((4, 2), np.float32)))
    with pytest.raises(ValueError, match="grad_out must hold 3 arrays, got 2"):
        layer.grad(x, y, grad_out=(x.copy(), wrong))
    assert (wrong == 7).all()


def test_options_of_the_linear_layer():
    for name, wrong in (("reduction", "median"), ("label_smoothing", -0.1), ("ignore_index", 0.5)):
        with pytest.raises(ValueError, match=f"{name} .*{wrong}"):
            fl.LinearCrossEntropyLoss(4, 5, **{name: wrong})
    with pytest.raises(ValueError, match=r"weight .*\(5,\).*\(4,\)"):
        fl.LinearCrossEntropyLoss(4, 5, weight=np.ones(4))
    made = linear_layer(reduction="sum", ignore_index=2, options=fl.LinearCrossEntropyOptions(batch_chunk_size=2))
    x, y = np.random.default_rng(5).normal(size=(7, 4)), np.arange(7) % 5
    logits = x @ made.linear.weight.T + made.linear.bias
    assert_close(made(x, y), fl.cross_entropy(logits, y, reduction="sum", ignore_index=2))
    assert_close(
        made.grad(x, y, wrt="input"),
        fl.grad(fl.cross_entropy)(logits, y, reduction="sum", ignore_index=2) @ made.linear.weight,
    )
    with pytest.raises(ValueError, match="no second derivative"):
        fl.grad_and_hess(made)


def test_class_weights_of_the_linear_layer_may_leave_out_padding():
    weight = np.array([1.0, 2.0, 3.0])
    made = linear_layer(weight=weight, valid_classes=3)
    x, y = np.random.default_rng(5).normal(size=(7, 4)), np.arange(7) % 3
    logits = x @ made.linear.weight.T + made.linear.bias
    assert_close(made(x, y), fl.cross_entropy(logits, y, weight, valid_classes=3))


def test_parameters_of_torch():
    torch = pytest.importorskip("torch")
    made = fl.LinearCrossEntropyLoss(4, 5, dtype=torch.float64)
    made.linear.weight.requires_grad_()
    before = made.linear.weight.detach().clone()
    made.reset_parameters()
    assert not torch.equal(before, made.linear.weight)
    with pytest.raises(TypeError, match=r"dtype must be floating point, got torch\.int64"):
        fl.LinearCrossEntropyLoss(4, 5, dtype=torch.int64)


def test_a_device_needs_torch(monkeypatch):
    import sys

    assert isinstance(fl.LinearCrossEntropyLoss(4, 5, device="cpu").linear.weight, np.ndarray)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(TypeError, match="cuda:0"):
        fl.LinearCrossEntropyLoss(4, 5, device="cuda:0")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: fl.LinearCrossEntropyLoss(3.0, 4), "in_features"),
        (lambda: fl.LinearCrossEntropyLoss(3, "4"), "num_classes"),
        (lambda: fl.LinearCrossEntropyLoss(3, 4, out_features=2), "out_features"),
        (lambda: fl.LinearCrossEntropyLoss(3, 4, out_features=(2.0,)), r"out_features\[0\]"),
        (lambda: fl.AdaptiveLogSoftmaxWithLoss(4, 10.0, [3, 5]), "n_classes"),
    ],
)
def test_sizes_that_are_no_integers(make, name):
    with pytest.raises(TypeError, match=f"{name} must be"):
        make()


def test_sizes_of_numpy():
    made = fl.LinearCrossEntropyLoss(np.int64(3), np.int32(4), out_features=[np.int64(2)])
    assert repr(made).startswith("LinearCrossEntropyLoss(in_features=3, num_classes=4, out_features=(2,), ")
