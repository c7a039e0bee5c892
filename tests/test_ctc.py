"""ctc_loss: torch's results, the forms in which lengths and targets come, the ends of the range, errors."""

import itertools

import ml_dtypes
import numpy as np
import pytest
from cases import DTYPES, assert_close, quickly

import fastloss as fl

pytestmark = pytest.mark.usefixtures("axes_checked")

torch = pytest.importorskip("torch")


def log_probs(rng, *shape):
    x = rng.normal(size=shape) * 2
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def theirs(x, targets, input_lengths, target_lengths, grad_output=None, **options):
    """Return torch's value and gradient in float64."""
    x = torch.from_numpy(np.array(x, np.float64)).requires_grad_()
    arrays = [torch.from_numpy(np.array(a, np.int64)) for a in (targets, input_lengths, target_lengths)]
    value = torch.nn.functional.ctc_loss(x, *arrays, **options)
    upstream = torch.ones_like(value) if grad_output is None else torch.as_tensor(grad_output).to(value.dtype)
    value.backward(upstream)
    return value.detach().numpy(), x.grad.numpy()


def agree(x, *args, factor=1.0, **options):
    """Compare with torch: the value alone, and value and gradient."""
    value, gradient = theirs(x, *args, **options)
    found, slopes = fl.value_and_grad(fl.ctc_loss)(x, *args, **options)
    factor *= max(1, len(x) / 10)  # torch's errors grow with the number of steps
    assert_close(found, value, factor=factor)
    assert_close(slopes, gradient, factor=factor)
    options.pop("grad_output", None)
    assert_close(fl.ctc_loss(x, *args, **options), found)  # a sum may be added up in another way


def sample(rng, times, samples, classes, labels, blank=0):
    """Return arguments of random lengths, most of which fit."""
    targets = rng.integers(0, classes - 1, (samples, labels))
    targets += targets >= blank
    return (
        log_probs(rng, times, samples, classes),
        targets,
        rng.integers(times // 2, times + 1, samples),
        rng.integers(0, labels + 1, samples),
    )


# 15, 16, 17, 31, 32: the blanks or the labels fill a block, or begin one.
SHAPES = [
    (5, 2, 4, 2), (20, 4, 3, 5), (40, 2, 20, 15), (40, 3, 20, 16), (40, 2, 5, 17), (90, 2, 40, 31), (90, 2, 40, 32),
    (50, 3, 30, 49), (300, 2, 6, 40), (1, 2, 3, 1), (3, 1, 2, 2),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_torch(shape):
    rng = np.random.default_rng(sum(shape))
    for blank, reduction, zero in itertools.product((0, shape[2] - 1), ("mean", "sum", "none"), (False, True)):
        arguments = sample(rng, *shape, blank)
        agree(*arguments, blank=blank, reduction=reduction, zero_infinity=zero)
        x, targets, steps, lengths = arguments
        joined = np.concatenate([row[:n] for row, n in zip(targets, lengths, strict=True)])
        agree(x, joined, steps, lengths, blank=blank, reduction=reduction, zero_infinity=zero)
        full = np.full(len(steps), len(x))
        agree(x, targets, full, np.full(len(steps), targets.shape[1]), blank=blank, reduction=reduction)


def test_repeated_labels():
    rng = np.random.default_rng(1)
    x = log_probs(rng, 9, 4, 3)
    targets = [[1, 1, 1, 1], [1, 1, 2, 2], [2, 2, 2, 1], [1, 1, 1, 1]]
    for steps in ([9, 9, 9, 9], [7, 6, 6, 6], [8, 7, 5, 1]):
        agree(x, targets, steps, [4, 4, 4, 4], reduction="none")
        agree(x, targets, steps, [4, 4, 4, 4], reduction="sum", zero_infinity=True)


def test_blank_among_the_labels():
    """torch takes it as a label like any other."""
    rng = np.random.default_rng(2)
    x = log_probs(rng, 8, 3, 4)
    agree(x, [[1, 0, 2], [0, 0, 1], [0, 3, 3]], [8, 8, 8], [3, 3, 3], reduction="none")
    arguments = [[1, 0], [0, 0], [3, 0]], [8, 8, 8], [2, 2, 2]
    value, _ = theirs(x, *arguments, reduction="none")
    found, gradient = fl.value_and_grad(fl.ctc_loss)(x, *arguments, reduction="none")
    assert_close(found, value)
    # torch forgets one of the two last states here; posteriors add up to 1 as the probabilities do.
    np.testing.assert_allclose(gradient.sum(-1), 0, atol=1e-14)


def test_upstream_gradients():
    rng = np.random.default_rng(3)
    arguments = sample(rng, 12, 3, 5, 3)
    agree(*arguments, reduction="mean", grad_output=-2.5)
    agree(*arguments, reduction="none", grad_output=np.array([0.5, 0.0, -3.0]))
    agree(*arguments, reduction="none", zero_infinity=True, grad_output=np.array([0.5, 0.0, -3.0]))


def test_unnormalised_log_probs():
    rng = np.random.default_rng(4)
    x, *arguments = sample(rng, 12, 3, 5, 3)
    agree(x + rng.normal(size=x.shape) * 30 + 40, *arguments, reduction="none", factor=100)


# -- forms of lengths and targets ------------------------------------------------------------------------------------


def test_one_sample_without_a_batch_axis():
    rng = np.random.default_rng(5)
    x = log_probs(rng, 6, 5)
    for reduction in ("mean", "sum", "none"):
        value, gradient = theirs(x, [2, 3], 6, 2, reduction=reduction)
        for targets in (np.array([2, 3]), [2, 3], np.array([[2, 3]]), np.array([[2, 3, 4]])):
            for steps, length in ((6, 2), (np.int64(6), np.int32(2)), ([6], [2]), (np.array(6), np.array([2]))):
                found, slopes = fl.value_and_grad(fl.ctc_loss)(x, targets, steps, length, reduction=reduction)
                assert found.shape == ()
                assert_close(found, value)
                assert_close(slopes, gradient)
    agree(x[:, None], [2, 3], [6], [2], reduction="none")
    agree(x[:, None], [[2, 3, 4]], 6, 2, reduction="none")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.uint64, ">i8"])
def test_any_integers(dtype):
    rng = np.random.default_rng(6)
    x, targets, steps, lengths = sample(rng, 12, 3, 5, 3)
    expected = fl.grad(fl.ctc_loss)(x, targets, steps, lengths)
    narrow = [a.astype(dtype) for a in (targets, steps, lengths)]
    np.testing.assert_array_equal(fl.grad(fl.ctc_loss)(x, *narrow), expected)
    np.testing.assert_array_equal(fl.grad(fl.ctc_loss)(x, targets, tuple(narrow[1]), narrow[2].tolist()), expected)
    strided = [np.repeat(a, 2, axis=-1)[..., ::2] for a in (targets, steps, lengths)]
    np.testing.assert_array_equal(fl.grad(fl.ctc_loss)(x, *strided), expected)
    np.testing.assert_array_equal(fl.grad(fl.ctc_loss)(x, targets, steps[:, None], lengths[None]), expected)


def test_boolean_labels():
    x = log_probs(np.random.default_rng(7), 6, 2, 2)
    targets = np.array([[True, True], [True, False]])
    np.testing.assert_array_equal(
        fl.grad(fl.ctc_loss)(x, targets, (6, 6), (2, 1)), fl.grad(fl.ctc_loss)(x, targets.astype(int), (6, 6), (2, 1))
    )


def test_tensors():
    rng = np.random.default_rng(8)
    arguments = sample(rng, 12, 3, 5, 3)
    value, gradient = fl.value_and_grad(fl.ctc_loss)(*arguments, reduction="none")
    for kind in (torch.int64, torch.int32, torch.uint8, torch.int16):
        x, *others = (torch.from_numpy(a) for a in arguments)
        found, slopes = fl.value_and_grad(fl.ctc_loss)(x, *(a.to(kind) for a in others), reduction="none")
        assert torch.is_tensor(found)
        assert torch.is_tensor(slopes)
        np.testing.assert_array_equal(found, value)
        np.testing.assert_array_equal(slopes, gradient)
    with torch.no_grad():
        np.testing.assert_array_equal(
            fl.ctc_loss(x.requires_grad_(), others[0], *arguments[2:], reduction="none"), value
        )


def test_padding_is_not_looked_at():
    rng = np.random.default_rng(9)
    x, targets, steps, _ = sample(rng, 12, 2, 5, 3)
    expected = fl.value_and_grad(fl.ctc_loss)(x, targets[:, :2], steps, (2, 1))
    found = fl.value_and_grad(fl.ctc_loss)(x, [[*targets[0, :2], -1], [targets[1, 0], 99, 2**40]], steps, (2, 1))
    np.testing.assert_array_equal(found[1], expected[1])


def test_options_of_the_class():
    rng = np.random.default_rng(10)
    arguments = sample(rng, 6, 3, 5, 4, 2)
    module = fl.CTCLoss(2, "sum", zero_infinity=True)
    assert repr(module) == "CTCLoss(blank=2, reduction='sum', zero_infinity=True)"
    assert module(*arguments) == fl.ctc_loss(*arguments, blank=2, reduction="sum", zero_infinity=True)


# -- nothing, and what cannot be -------------------------------------------------------------------------------------


def test_empty_targets():
    rng = np.random.default_rng(11)
    x = log_probs(rng, 7, 3, 4)
    agree(x, [[1, 2], [3, 1], [1, 1]], [7, 3, 5], [0, 2, 0], reduction="none")
    agree(x, np.zeros((3, 0), int), [7, 3, 5], [0, 0, 0], reduction="mean")
    agree(x, np.zeros(0, int), [7, 3, 5], [0, 0, 0], reduction="mean")
    values = fl.ctc_loss(x, np.zeros(0, int), [7, 3, 5], [0, 0, 0], reduction="none")
    np.testing.assert_allclose(values[0], -x[:, 0, 0].sum())


def test_no_time_steps():
    rng = np.random.default_rng(12)
    x = log_probs(rng, 7, 3, 4)
    agree(x, [[1, 2], [3, 1], [1, 1]], [0, 7, 0], [0, 2, 2], reduction="none")
    value, gradient = fl.value_and_grad(fl.ctc_loss)(x[:0], [[1], [2], [3]], (0, 0, 0), (0, 1, 0), reduction="none")
    np.testing.assert_array_equal(value, [0, np.inf, 0])
    assert gradient.shape == (0, 3, 4)


def test_no_samples():
    for targets in (np.zeros((0, 3), int), np.zeros(0, int), np.zeros((0, 0), int)):
        nothing = np.zeros((5, 0, 4)), targets, [], np.zeros(0, int)
        assert np.isnan(fl.ctc_loss(*nothing))
        assert fl.ctc_loss(*nothing, reduction="sum") == 0
        value, gradient = fl.value_and_grad(fl.ctc_loss)(*nothing, reduction="none")
        assert value.shape == (0,)
        assert gradient.shape == (5, 0, 4)


def test_sequence_that_does_not_fit():
    rng = np.random.default_rng(13)
    x = log_probs(rng, 5, 3, 4)
    arguments = [[1, 1, 1], [1, 2, 3], [1, 2, 2]], [4, 3, 5], [3, 3, 3]
    for reduction in ("none", "sum", "mean"):
        agree(x, *arguments, reduction=reduction)
        agree(x, *arguments, reduction=reduction, zero_infinity=True)
    value, gradient = fl.value_and_grad(fl.ctc_loss)(x, *arguments, reduction="none")
    assert np.isinf(value[0])
    assert np.isnan(gradient[:4, 0]).all()
    assert not gradient[4, 0].any()
    assert np.isfinite(gradient[:, 1:]).all()


def test_impossible_classes():
    """A class of probability 0 that no path needs has gradient 0; one that all need makes the value infinite."""
    rng = np.random.default_rng(14)
    x = log_probs(rng, 6, 2, 5)
    arguments = [[1, 2], [2, 2]], [6, 6], [2, 2]
    reference = x.copy()
    reference[:, :, 4] = -1e4
    unused = x.copy()
    unused[:, :, 4] = -np.inf
    expected, slopes = theirs(reference, *arguments, reduction="none")
    value, gradient = fl.value_and_grad(fl.ctc_loss)(unused, *arguments, reduction="none")
    assert_close(value, expected)
    assert_close(gradient, slopes)
    assert not gradient[:, :, 4].any()

    used = x.copy()
    used[2, 0, 1] = used[0, 1, 0] = -np.inf
    almost = np.where(np.isinf(used), -1e4, used)
    expected, slopes = theirs(almost, *arguments, reduction="none")
    value, gradient = fl.value_and_grad(fl.ctc_loss)(used, *arguments, reduction="none")
    assert_close(value, expected)
    assert_close(gradient, slopes)

    used[:, 0, 1] = -np.inf
    value, gradient = fl.value_and_grad(fl.ctc_loss)(used, *arguments, reduction="none")
    assert value[0] == np.inf
    assert np.isnan(gradient[:, 0]).all()
    value, gradient = fl.value_and_grad(fl.ctc_loss)(used, *arguments, reduction="none", zero_infinity=True)
    assert value[0] == 0
    assert not gradient[:, 0].any()
    assert_close(gradient[:, 1], slopes[:, 1])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_probabilities_beyond_the_range_of_floats(dtype):
    """Alignments whose probabilities differ by thousands of orders of magnitude."""
    rng = np.random.default_rng(15)
    x = rng.normal(size=(60, 2, 4)) * 300
    x = (x - x.max(-1, keepdims=True)).astype(dtype)
    arguments = [[1, 2, 2], [3, 1, 2]], [60, 60], [3, 3]
    value, gradient = theirs(x, *arguments, reduction="none")
    assert value.min() > 1000
    found, slopes = fl.value_and_grad(fl.ctc_loss)(x, *arguments, reduction="none")
    np.testing.assert_allclose(found, value, rtol=1e-7)
    np.testing.assert_allclose(slopes, gradient, atol=1e-10 if dtype == "float64" else 1e-5)

    x[20] = [-1e9, -2e9, -1e9, -3e9]  # a mask that all paths run into
    value, gradient = theirs(x, *arguments, reduction="none")
    found, slopes = fl.value_and_grad(fl.ctc_loss)(x, *arguments, reduction="none")
    np.testing.assert_allclose(found, value, rtol=1e-6)
    if dtype == "float64":
        np.testing.assert_allclose(slopes, gradient, atol=1e-5)


def test_nan_is_handed_on():
    rng = np.random.default_rng(16)
    x = log_probs(rng, 40, 3, 5)
    x[20, 0, 1] = x[38, 1, 0] = np.nan
    arguments = [[1, 2], [2, 2], [3, 3]], [40, 40, 40], [2, 2, 2]
    value, gradient = fl.value_and_grad(fl.ctc_loss)(x, *arguments, reduction="none")
    np.testing.assert_array_equal(np.isnan(value), [True, True, False])
    np.testing.assert_array_equal(np.isnan(gradient).all((0, 2)), [True, True, False])
    assert np.isfinite(gradient[:, 2]).all()
    x = log_probs(rng, 6, 1, 5)
    x[3, 0, 4] = np.nan
    value, gradient = fl.value_and_grad(fl.ctc_loss)(x, [[1, 2]], [6], [2])
    assert np.isfinite(value)
    np.testing.assert_array_equal(np.argwhere(np.isnan(gradient)), [[3, 0, 4]])


# -- precision, layout, threads --------------------------------------------------------------------------------------


def test_float32_is_more_accurate_than_torch():
    rng = np.random.default_rng(17)
    for times, labels in ((30, 5), (1000, 100)):
        x, targets, _, _ = sample(rng, times, 2, 32, labels)
        x = x.astype(np.float32)
        arguments = targets, [times] * 2, [labels] * 2
        value, gradient = theirs(x, *arguments, reduction="none")
        tensor = torch.from_numpy(x).requires_grad_()
        plain = torch.nn.functional.ctc_loss(tensor, *map(torch.as_tensor, arguments), reduction="none")
        plain.sum().backward()
        found, slopes = fl.value_and_grad(fl.ctc_loss)(x, *arguments, reduction="none")
        assert abs(found - value).max() <= max(abs(plain.detach().numpy() - value).max(), np.spacing(found.max()))
        assert abs(slopes - gradient).max() <= min(abs(tensor.grad.numpy() - gradient).max(), 4e-6)
        np.testing.assert_allclose(found, value, rtol=2e-7)


@pytest.mark.parametrize("dtype", quickly("bfloat16", then=["float16"]))
def test_half_types(dtype):
    rng = np.random.default_rng(18)
    x, *arguments = sample(rng, 20, 3, 5, 4)
    x = x.astype(DTYPES[dtype])
    value, gradient = theirs(x, *arguments, reduction="none", zero_infinity=True)
    found, slopes = fl.value_and_grad(fl.ctc_loss)(x, *arguments, reduction="none", zero_infinity=True)
    assert found.dtype == slopes.dtype == x.dtype
    assert_close(found, value, dtype)
    assert_close(slopes, gradient, dtype)
    total, _ = fl.value_and_grad(fl.ctc_loss)(x, *arguments, zero_infinity=True)
    assert total.dtype == np.float32
    if dtype == "bfloat16":
        tensor = torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
        assert fl.grad(fl.ctc_loss)(tensor, *map(torch.from_numpy, arguments)).dtype == torch.bfloat16
        assert x.dtype == ml_dtypes.bfloat16


def test_layouts():
    rng = np.random.default_rng(19)
    x, *arguments = sample(rng, 12, 3, 5, 3)
    expected = fl.value_and_grad(fl.ctc_loss)(x, *arguments)
    batch_first = np.ascontiguousarray(x.transpose(1, 0, 2)).transpose(1, 0, 2)
    for same in (batch_first, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2], x[::-1].copy()[::-1]):
        for one, other in zip(fl.value_and_grad(fl.ctc_loss)(same, *arguments), expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_gradient_over_the_input(dtype):
    rng = np.random.default_rng(20)
    x, *arguments = sample(rng, 30, 3, 21, 7)
    x = x.astype(DTYPES[dtype])
    value, gradient = fl.value_and_grad(fl.ctc_loss)(x, *arguments, zero_infinity=True)
    found, slopes = fl.value_and_grad(fl.ctc_loss)(x, *arguments, zero_infinity=True, grad_out=x)
    assert slopes is x
    assert found == value
    np.testing.assert_array_equal(x, gradient)


def test_threads_give_the_same_bits():
    rng = np.random.default_rng(21)
    arguments = sample(rng, 150, 23, 30, 20)
    arguments = arguments[0].astype(np.float32), *arguments[1:]
    results = []
    for threads in (1, 2, 5):
        with fl.config(num_threads=threads):
            results += [fl.value_and_grad(fl.ctc_loss)(*arguments, zero_infinity=True) for _ in range(3)]
    for value, gradient in results[1:]:
        assert value == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])


# -- errors ----------------------------------------------------------------------------------------------------------

X = np.log(np.full((6, 2, 5), 0.2))
Y = np.array([[1, 2, 3], [4, 1, 2]])


@pytest.mark.parametrize(
    ("error", "message", "changed"),
    [
        (ValueError, r"log_probs .*\(6,\)", {"log_probs": X[:, 0, 0]}),
        (ValueError, r"log_probs .*\(1, 6, 2, 5\)", {"log_probs": X[None]}),
        (ValueError, r"blank .*5 classes.*5", {"blank": 5}),
        (ValueError, "blank .*-1", {"blank": -1}),
        (ValueError, r"blank .*0 classes", {"log_probs": X[:, :, :0]}),
        (ValueError, r"input_lengths .*6.*\(6, 2, 5\).*7 at position 1", {"input_lengths": [6, 7]}),
        (ValueError, "input_lengths .*-1 at position 0", {"input_lengths": (-1, 7)}),
        (ValueError, "input_lengths .*2 samples.*3", {"input_lengths": [6, 6, 6]}),
        (ValueError, "input_lengths .*2 samples.*1", {"input_lengths": 6}),
        (ValueError, r"target_lengths .*3.*\(2, 3\).*4 at position 0", {"target_lengths": np.array([4, 1])}),
        (ValueError, "target_lengths .*-3 at position 1", {"target_lengths": np.array([3, -3], np.int8)}),
        (ValueError, "target_lengths .*2 samples.*0", {"target_lengths": []}),
        (ValueError, r"targets .*\(6,\).*5", {"targets": Y.ravel(), "target_lengths": (3, 2)}),
        (ValueError, r"targets .*2 rows.*\(6, 2, 5\).*\(3, 3\)", {"targets": np.ones((3, 3), int)}),
        (ValueError, r"targets .*\(2, 3, 1\)", {"targets": Y[..., None]}),
        (ValueError, r"targets .*\(\)", {"targets": np.int64(1)}),
        (TypeError, "input_lengths .*float64", {"input_lengths": [6.0, 6.0]}),
        (TypeError, "input_lengths .*bool", {"input_lengths": np.array([True, True])}),
        (TypeError, "input_lengths .*bool", {"input_lengths": torch.tensor([True, True])}),
        (TypeError, "target_lengths .*float16", {"target_lengths": torch.ones(2, dtype=torch.float16)}),
        (TypeError, "target_lengths .*float32", {"target_lengths": np.ones(2, np.float32)}),
        (TypeError, "targets .*float64", {"targets": Y.astype(float)}),
        (TypeError, "targets .*float16", {"targets": Y.astype(np.float16)}),
        (TypeError, "log_probs .*int64", {"log_probs": X.astype(int)}),
        (TypeError, "array.*NoneType", {"input_lengths": None}),
        (IndexError, r"5 at position \(1, 2\) .*5 classes", {"targets": [[1, 2, 3], [4, 1, 5]]}),
        (IndexError, r"-1 at position \(0, 1\)", {"targets": [[1, -1, 3], [4, 1, 5]]}),
        (IndexError, r"9 at position \(4,\)", {"targets": np.uint8([1, 2, 3, 4, 9]), "target_lengths": (3, 2)}),
        (IndexError, r"at position \(0, 0\)", {"targets": Y.astype(np.uint64) + np.uint64(2**63)}),
    ],
    ids=itertools.count(),
)
def test_refused_before_anything_is_written(error, message, changed):
    given = {"log_probs": X, "targets": Y, "input_lengths": (6, 6), "target_lengths": (3, 3), **changed}
    out = np.full(np.shape(given["log_probs"]), 7.0)
    with pytest.raises(error, match=message):
        fl.ctc_loss(**given)
    with pytest.raises(error, match=message):
        fl.value_and_grad(fl.ctc_loss)(**given, grad_out=out.astype(np.asarray(given["log_probs"]).dtype))
    with pytest.raises(error, match=message):
        fl.value_and_grad(fl.ctc_loss)(**given, grad_out=out)
    assert (out == 7).all()


def test_unchecked_label_out_of_range():
    rng = np.random.default_rng(22)
    x, targets, steps, _ = sample(rng, 12, 4, 5, 3)
    expected = fl.value_and_grad(fl.ctc_loss)(x, targets, steps, (3,) * 4, reduction="none")
    wrong = targets.copy()
    wrong[1, 2], wrong[3, 0] = 5, -(2**60)
    with fl.config(check_indices=False):
        found = fl.value_and_grad(fl.ctc_loss)(x, wrong, steps, (3,) * 4, reduction="none")
        np.testing.assert_array_equal(np.isnan(found[0]), [False, True, False, True])
        assert np.isnan(fl.ctc_loss(x, wrong, steps, (3,) * 4, zero_infinity=True))
    np.testing.assert_array_equal(found[1][:, ::2], expected[1][:, ::2])
    for n in (1, 3):
        assert np.isnan(found[1][: steps[n], n]).all()
        assert not found[1][steps[n] :, n].any()
