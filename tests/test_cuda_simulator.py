"""Every CUDA kernel runs in Numba's simulator and agrees with the CPU.

The simulator is a setting of the process. Without it this file holds tests that run the others in processes that have
it: a tiny case of each family at once, all else with `slow`. Blocks have 8 threads there, warps 2, a row in registers
1, 2, 4, 8 or 16: shapes as small as these cross all boundaries. Some rows run in blocks and warps of a device's size.
"""

import functools
import os
import subprocess
import sys
import weakref
import zlib

import cuda_tools
import numpy as np
import pytest
from cases import LOSSES, TYPICAL

import fastloss as fl

pytestmark = pytest.mark.filterwarnings("ignore:shapes differ")
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
FULL_BLOCKS = os.environ.get("FASTLOSS_FULL_BLOCKS") == "1"
NAMES = [name for name, record in LOSSES.items() if record.family in cuda_tools.FAMILIES]
if SIMULATED:
    # The simulator polls its threads from another one, which holds the interpreter for 5 ms at a time otherwise: that
    # takes 12 times as long.
    sys.setswitchinterval(1e-4)
quick_in_simulator = pytest.mark.skipif(not SIMULATED, reason="run by another test in a process of its own")


def in_simulator(test):
    """Mark a test for a process that has the simulator, and as slow."""
    return pytest.mark.slow(quick_in_simulator(test))


# The processes that share the tests, so that as many cores have work.
PARTS = 4
PART = os.environ.get("FASTLOSS_TEST_PART", "")


@pytest.fixture(autouse=True)
def _part(request):
    if SIMULATED and PART and zlib.crc32(request.node.nodeid.encode()) % PARTS != int(PART):
        pytest.skip("run by another process")


def simulate(marked, test="", **environment):
    """Run the tests of this file that are marked so, or the one of a name, in a process that has the simulator."""
    pytest.importorskip("numba_cuda", reason="numba-cuda is not installed")
    place = f"{__file__}::{test}" if test else __file__
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", marked, place],
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert " passed" in run.stdout


@pytest.mark.skipif(SIMULATED, reason="the others are running")
def test_each_family_in_the_simulator():
    simulate("not slow")


@pytest.mark.slow
@pytest.mark.skipif(SIMULATED, reason="the others are running")
@pytest.mark.parametrize("part", range(PARTS))
def test_in_the_simulator(part):
    simulate("slow", FASTLOSS_TEST_PART=str(part))


@pytest.mark.slow
@pytest.mark.skipif(SIMULATED, reason="the others are running")
def test_in_blocks_of_a_device():
    simulate("slow", "test_rows_in_blocks_of_a_device", FASTLOSS_FULL_BLOCKS="1")


def device(array):
    """Return a device array, of any strides, with the numbers of a host array; other objects as they are."""
    from numba import cuda

    if not isinstance(array, np.ndarray):
        return array
    copied = cuda.to_device(np.ascontiguousarray(array))
    copied._ary = array.copy(order="K") if array.flags.c_contiguous else array
    return copied


def host(array):
    return array.copy_to_host()


def compare(function, given, dtype, **options):
    """Call a loss or a transform on the CPU and in the simulator."""
    expected = function(**given, **options)
    found = function(**{k: device(v) for k, v in given.items()}, **{k: device(v) for k, v in options.items()})
    cuda_tools.assert_like(cuda_tools.mapped(host, found), expected, dtype)
    return found


@pytest.mark.slow
@pytest.mark.skipif(not FULL_BLOCKS, reason="run by another test in a process of its own")
@pytest.mark.parametrize(
    ("name", "columns"),
    [
        *[("cross_entropy", columns) for columns in (7, 33, 129, 600, 1100, 2100, 5000)],
        *[("multi_margin_loss", columns) for columns in (100, 600)],
        *[("triplet_margin_loss", columns) for columns in (3, 100, 700)],
        *[("multilabel_margin_loss", 30), ("mse_loss", 300)],
    ],
)
def test_rows_in_blocks_of_a_device(name, columns):
    """Groups of one thread to several warps, with more rows than a block has groups of a warp."""
    given = cuda_tools.sample(LOSSES[name], "float32", (5, columns))
    compare(fl.value_and_grad(LOSSES[name].function), given, "float32")


@quick_in_simulator
@pytest.mark.parametrize("name", [name for name in NAMES if name in TYPICAL])
def test_each_family(name):
    compare(fl.value_and_grad(LOSSES[name].function), cuda_tools.sample(LOSSES[name], "float64", (2, 3)), "float64")


@quick_in_simulator
@pytest.mark.parametrize(
    "shape", [(2, 3, 2), (3, 12), (1, 18), (1, 80)], ids=["strided", "two warps", "a block", "in memory"]
)
def test_each_way_of_rows(shape):
    given = cuda_tools.sample(LOSSES["cross_entropy"], "float64", shape)
    compare(fl.value_and_grad(fl.cross_entropy), given, "float64")


@in_simulator
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name, dtype):
    record = LOSSES[name]
    given = cuda_tools.sample(record, dtype)
    compare(fl.value_and_grad(record.function, cuda_tools.differentiable(record, given)), given, dtype)


@in_simulator
@pytest.mark.parametrize("name", NAMES)
def test_optional_arrays(name):
    record = LOSSES[name]
    given = cuda_tools.sample(record, "float64", (3, 5), optional=True)
    compare(record.function, given, "float64")
    compare(fl.value_and_grad(record.function, cuda_tools.differentiable(record, given)), given, "float64")


@in_simulator
@pytest.mark.parametrize("name", [name for name in NAMES if "reduction" in LOSSES[name].options])
def test_reductions_and_upstream_gradients(name):
    record = LOSSES[name]
    given = cuda_tools.sample(record, "float64", (3, 4))
    for reduction in record.options["reduction"].examples:
        value = record.function(**given, reduction=reduction)
        upstream = np.linspace(-1, 2, value.size).reshape(value.shape) if value.ndim else 3.0
        compare(fl.value_and_grad(record.function), given, "float64", reduction=reduction, grad_output=upstream)


@in_simulator
@pytest.mark.parametrize("name", [name for name in NAMES if "sample_weight" in LOSSES[name].common])
def test_weights_of_samples(name):
    record = LOSSES[name]
    given = cuda_tools.sample(record, "float64", (3, 4))
    shape = np.shape(record.function(**given, reduction="none"))
    weights = np.array([2.0, 0.0, 0.5])[: shape[0]] if shape else np.array(2.0)
    for options in ({"sample_weight": weights}, {"divisor": 2.5}, {"sample_weight": weights, "reduction": "none"}):
        compare(fl.value_and_grad(record.function), given, "float64", **options)
    part = fl.partial_sum(record.function)
    theirs = part(**{name: device(array) for name, array in given.items()}, sample_weight=device(weights))
    ours = part(**given, sample_weight=weights)
    assert (theirs.total, theirs.weight, theirs.count) == pytest.approx((ours.total, ours.weight, ours.count))


@in_simulator
def test_options_of_the_softmax():
    given = cuda_tools.sample(LOSSES["cross_entropy"], "float64", (4, 5))
    given["target"] = given["target"] % 3
    options = {"softcap": 3.0, "valid_classes": 3, "z_loss": 0.01, "logit_scale": 0.5}
    compare(fl.value_and_grad(fl.cross_entropy), given, "float64", **options)
    compare(fl.cross_entropy, given, "float64", returns=("lse", "log_prob", "entropy", "z_loss"), **options)


@in_simulator
@pytest.mark.parametrize(("name", "option", "value"), list(cuda_tools.further_options(NAMES)))
def test_options(name, option, value):
    given = cuda_tools.sample(LOSSES[name], "float64", (3, 4))
    compare(fl.value_and_grad(LOSSES[name].function), given, "float64", **{option: value})


@in_simulator
@pytest.mark.parametrize("name", [name for name in NAMES if LOSSES[name].hessian])
def test_hessian(name):
    given = cuda_tools.sample(LOSSES[name], "float64", (3, 4))
    compare(fl.grad_and_hess(LOSSES[name].function), given, "float64")


@in_simulator
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(7,), (40, 3), (5, 8), (5, 24), (3, 30), (2, 45), (2, 72), (3, 2, 11), (2, 3, 2, 2)])
def test_row_shapes(shape, dtype):
    record = LOSSES["cross_entropy"]
    given = cuda_tools.sample(record, dtype, shape if len(shape) > 1 else (1, *shape))
    if len(shape) == 1:
        given = {"input": given["input"][0], "target": np.array(3)}
    compare(fl.value_and_grad(record.function), given, dtype)
    compare(fl.value_and_grad(record.function), given, dtype, label_smoothing=0.1)


@in_simulator
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("shape", [(1, 64), (3, 75), (2, 333)])
def test_pieces_of_a_few_long_rows(shape, dtype):
    """Cut at 32 classes here; the gradient may replace the input, and rows may be ignored or unknown."""
    rng = np.random.default_rng(11)
    given = cuda_tools.sample(LOSSES["cross_entropy"], dtype, shape)
    given["target"] = rng.integers(0, shape[1], shape[0])
    transform = fl.value_and_grad(fl.cross_entropy)
    weight = rng.uniform(0.5, 2, shape[1]).astype(cuda_tools.numpy_dtype(dtype))
    for options in ({}, {"label_smoothing": 0.1}, {"weight": weight, "label_smoothing": 0.1}, {"reduction": "none"}):
        compare(transform, given, dtype, **options)
    compare(fl.value_and_grad(fl.softmax), {"input": given["input"]}, dtype, dim=1)
    compare(fl.logsumexp, {"input": given["input"]}, dtype, dim=1)
    expected = fl.grad(fl.cross_entropy)(**given)
    there = device(given["input"])
    fl.grad(fl.cross_entropy)(there, device(given["target"]), grad_out=there)
    cuda_tools.assert_like(host(there), expected, dtype)
    if shape[0] == 3:
        given["target"][1] = -100
        compare(transform, given, dtype)
        given["target"][2] = 1000
        with fl.config(check_indices=False):
            compare(transform, given, dtype, reduction="none")
    probabilities = rng.dirichlet(np.ones(shape[1]), shape[0]).astype(cuda_tools.numpy_dtype(dtype))
    compare(fl.value_and_grad(fl.cross_entropy, ("input", "target")), {**given, "target": probabilities}, dtype)


@in_simulator
@pytest.mark.parametrize("place", [0, 40, slice(0, 32), slice(32, 75), slice(None)])
@pytest.mark.parametrize("strange", [np.inf, -np.inf, np.nan])
def test_extreme_entries_in_pieces(strange, place):
    x = np.random.default_rng(12).normal(size=(2, 75)).astype(np.float32)
    x[1, place] = strange
    y = np.array([3, 60])
    transform = fl.value_and_grad(fl.cross_entropy)
    expected, found = transform(x, y, reduction="sum"), transform(device(x), device(y), reduction="sum")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(host(one), other, 1e-5, 1e-6)


@in_simulator
@pytest.mark.parametrize("columns", [1, 9, 40, 72])
def test_vector_lengths(columns):
    rng = np.random.default_rng(1)
    given = {name: rng.normal(size=(5, columns)) for name in ("anchor", "positive", "negative")}
    compare(fl.value_and_grad(fl.triplet_margin_loss), given, "float64")


@in_simulator
@pytest.mark.parametrize("shape", [(7, 4), (5, 24), (2, 72), (2, 3, 2), (1, 64), (2, 333)], ids=str)
def test_rows_that_are_sure(shape):
    """Of these the other exponentials are summed by themselves, in each way of rows; beside them rows that are not."""
    x = np.random.default_rng(4).normal(size=shape).astype(np.float32)
    x[:, 1:2] += np.linspace(20, 0, shape[0], dtype=np.float32).reshape(-1, *(1,) * (len(shape) - 1))
    y = np.ones((shape[0], *shape[2:]), int)
    for transform in (fl.value_and_grad, fl.grad_and_hess):
        expected = transform(fl.cross_entropy)(x, y, reduction="none")
        found = transform(fl.cross_entropy)(device(x), device(y), reduction="none")
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(host(one), other, 1e-5)


@in_simulator
@pytest.mark.parametrize("columns", [2, 9, 40, 72])
def test_vectors_whose_squares_overflow(columns):
    """Their sums are taken again, of scaled components; beside them vectors of ordinary size."""
    a, b = np.random.default_rng(5).normal(size=(2, 6, columns)).astype(np.float32)
    a *= np.float32([1, 1e25, 1e-30, 1, 1e-25, 1e30])[:, None]
    b *= np.float32([1, 1, 1e-30, 1e28, 1e-25, 1e30])[:, None]
    for function, options in (
        (fl.pairwise_distance, {"eps": 0.0}),
        (fl.pairwise_distance, {"eps": 0.0, "p": 3.0}),
        (fl.cosine_similarity, {"eps": 0.0}),
    ):
        expected = fl.value_and_grad(function)(a, b, **options)
        found = fl.value_and_grad(function)(device(a), device(b), **options)
        np.testing.assert_allclose(host(found[0]), expected[0], 2e-5)
        for one, other in zip(found[1], expected[1], strict=True):
            size = abs(other).max(1, keepdims=True)
            np.testing.assert_allclose(host(one) / size, other / size, 1e-4, 1e-5)


@in_simulator
def test_class_probabilities():
    rng = np.random.default_rng(2)
    x, t, w = rng.normal(size=(4, 9)), rng.uniform(size=(4, 9)), rng.uniform(size=9)
    transform = fl.value_and_grad(fl.cross_entropy, ("input", "target", "weight"))
    compare(transform, {"input": x, "target": t, "weight": w}, "float64", label_smoothing=0.1)


@in_simulator
@pytest.mark.parametrize("size", [0, 1, 3, 8, 33, 350])
def test_sizes(size):
    rng = np.random.default_rng(3)
    x, t = rng.normal(size=(2, size)).astype(np.float32)
    compare(fl.value_and_grad(fl.mse_loss), {"input": x, "target": t}, "float32", reduction="sum")


@in_simulator
def test_layouts():
    """Transposed, reversed, broadcast and four-dimensional operands are read in place."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2, 3, 4, 3))
    for a in (x.transpose(1, 0, 3, 2), x[:, ::2, ::-1, 1:], x[:, :, 0], x.T):
        t = rng.normal(size=a.shape)
        compare(fl.value_and_grad(fl.huber_loss), {"input": a, "target": t}, "float64")
    t = rng.normal(size=(3, 1, 3))
    compare(fl.value_and_grad(fl.kl_div, ("input", "target")), {"input": x, "target": np.abs(t)}, "float64")
    y = rng.integers(0, 3, (2, 4, 3))
    given = {"input": np.asfortranarray(x), "target": np.asfortranarray(y)}
    compare(fl.value_and_grad(fl.cross_entropy), given, "float64")


@in_simulator
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss", "multi_margin_loss"])
def test_class_indices_are_checked(name):
    record = LOSSES[name]
    given = cuda_tools.sample(record, "float64", (20, 4))
    given["target"][17] = 4
    given["target"][19] = -3
    messages = []
    for arrays in (given, {k: device(v) for k, v in given.items()}):
        with pytest.raises(IndexError) as caught:
            record.function(**arrays)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with fl.config(check_indices=False):
        value, gradient = fl.value_and_grad(record.function)(
            **{k: device(v) for k, v in given.items()}, reduction="none"
        )
    wrong = np.isin(np.arange(20), (17, 19))
    assert np.array_equal(np.isnan(host(value)), wrong)
    assert np.array_equal(np.isnan(host(gradient)).all(axis=1), wrong)
    assert np.array_equal(np.isnan(host(gradient)).any(axis=1), wrong)
    given["target"][[17, 19]] = -(2**63), 0
    with pytest.raises(IndexError, match="-9223372036854775808"):
        record.function(**{k: device(v) for k, v in given.items()})


@in_simulator
def test_lists_of_classes_are_checked():
    x = np.random.default_rng(6).normal(size=(20, 4))
    y = np.tile([1, 3, -1, 9], (20, 1))
    y[17, 1], y[19, 0] = -2, 4
    messages = []
    for arrays in ((x, y), (device(x), device(y))):
        with pytest.raises(IndexError) as caught:
            fl.multilabel_margin_loss(*arrays)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with fl.config(check_indices=False):
        value, gradient = fl.value_and_grad(fl.multilabel_margin_loss)(device(x), device(y), reduction="none")
        expected, exact = fl.value_and_grad(fl.multilabel_margin_loss)(x, y, reduction="none")
    cuda_tools.assert_like(host(value), expected, "float64")
    cuda_tools.assert_like(host(gradient), exact, "float64")


@in_simulator
def test_ignored_rows_have_no_gradient():
    x = np.array([[np.nan, 1.0, 2.0], [0.5, 1.0, -1.0], [np.inf, 0.0, 0.0]])
    y = np.array([-100, 2, -100])
    for function in (fl.cross_entropy, fl.nll_loss):
        value, gradient = fl.value_and_grad(function)(device(x), device(y))
        assert np.isfinite(host(value))
        assert not host(gradient)[[0, 2]].any()


OVER_THE_INPUT = ["mse_loss", "cross_entropy", "nll_loss", "triplet_margin_loss", "softmax", "ctc_loss"]


@in_simulator
@pytest.mark.parametrize("name", OVER_THE_INPUT)
def test_gradient_over_the_input(name):
    record = LOSSES[name]
    given = cuda_tools.sample(record, "float64", (5, 18))
    wrt = next(iter(given))
    expected = fl.grad(record.function, wrt)(**given)
    arrays = {k: device(v) for k, v in given.items()}
    found = fl.grad(record.function, wrt)(**arrays, grad_out=arrays[wrt])
    assert found is arrays[wrt]
    cuda_tools.assert_like(host(found), expected, "float64")


@in_simulator
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("shape", [(1,), (2, 1)])
def test_gradients_of_broadcast_half_types_are_rounded_once(shape, dtype):
    """A share of this mean's gradient has 4 bits in float16."""
    kind = cuda_tools.numpy_dtype(dtype)
    x, t = np.zeros(shape, kind), np.full((2, 1000), 1.125 * 2.0**-10, kind)
    with pytest.warns(UserWarning, match="broadcast"):
        found = host(fl.grad(fl.mse_loss)(device(x), device(t)))
    assert found.dtype == kind
    np.testing.assert_array_equal(found, np.full(shape, -2 / x.size * float(t[0, 0]), kind))


@in_simulator
@pytest.mark.parametrize("shape", [(5, 3, 4, 2), (11, 2, 9, 6), (20, 2, 3, 9), (9, 2, 20, 8), (18, 7, 5, 3)])
def test_sequences(shape):
    """More states than threads, a long row of classes, repeated labels, sequences that do not fit, several launches."""
    times, samples, classes, most = shape
    rng = np.random.default_rng(times)
    x = rng.normal(size=(times, samples, classes)) * 5
    targets = rng.integers(0, classes, (samples, most))
    given = {"log_probs": x, "targets": targets, "input_lengths": rng.integers(times // 2, times + 1, samples)}
    lengths = rng.integers(0, most + 1, samples)
    lengths[0], given["input_lengths"][0] = most, times
    joined = np.concatenate([row[:n] for row, n in zip(targets, lengths, strict=True)])
    upstream = rng.normal(size=samples)
    for labels in (targets, joined.astype(np.int32)):
        given |= {"targets": labels, "target_lengths": lengths}
        compare(fl.value_and_grad(fl.ctc_loss), given, "float64", reduction="none", blank=1, grad_output=upstream)
    compare(fl.ctc_loss, given, "float64", reduction="none")
    compare(fl.value_and_grad(fl.ctc_loss), given, "float64", zero_infinity=True)
    for dtype in ("float32", "float16"):
        given["log_probs"] = x.astype(dtype)
        compare(fl.value_and_grad(fl.ctc_loss), given, dtype, reduction="none")


@in_simulator
def test_sequences_of_impossible_and_unknown_classes():
    x = np.log(np.full((6, 4, 5), 0.2))
    x[:, 0, 4] = x[2, 1, 1] = x[:, 2, 3] = -np.inf
    x[3, 3, 0] = np.nan
    targets = np.array([[1, 2], [1, 1], [3, 1], [2, 2]])
    given = {"log_probs": x, "targets": targets, "input_lengths": (6, 5, 6, 6), "target_lengths": (2, 2, 2, 2)}
    compare(fl.value_and_grad(fl.ctc_loss), given, "float64", reduction="none")
    compare(fl.value_and_grad(fl.ctc_loss), given, "float64", reduction="none", zero_infinity=True)
    targets[2, 1], targets[3, 0] = 5, -9
    messages = []
    for arrays in (given, {k: device(v) for k, v in given.items()}):
        with pytest.raises(IndexError) as caught:
            fl.ctc_loss(**arrays)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with fl.config(check_indices=False):
        compare(fl.value_and_grad(fl.ctc_loss), given, "float64", reduction="none")


@in_simulator
def test_outputs_that_overlap_another_input_are_refused():
    """A row of the input that is broadcast as the target begins where the input does."""
    x = np.random.default_rng(3).normal(size=(4, 6))
    whole = device(x)
    first = device(x[0])
    first._ary = whole._ary[0]
    with pytest.raises(ValueError, match="grad_out overlaps target"):
        fl.grad(fl.mse_loss)(whole, first, grad_out=whole)


@in_simulator
def test_results_are_device_arrays():
    x = device(np.ones((2, 3), np.float16))
    value, gradient = fl.value_and_grad(fl.mse_loss)(x, x)
    assert type(value) is type(gradient) is type(x)
    assert value.shape == () and value.dtype == np.float32  # noqa: PT018
    assert gradient.dtype == np.float16


@in_simulator
def test_host_and_device_arrays_do_not_mix():
    x = np.ones((2, 3))
    with pytest.raises(TypeError, match=r"input is a .* on cuda:0 and target is a NumPy array on the CPU"):
        fl.mse_loss(device(x), x)
    with pytest.raises(TypeError, match=r"input is a NumPy array on the CPU and target is a .* on cuda:0"):
        fl.mse_loss(x, device(x))


@in_simulator
def test_places_beyond_32_bits():
    """A stride so large that its products overflow 32 bits: the addresses are right all the same."""
    from fastloss.cuda.device.memory import load_or
    from fastloss.cuda.device.numba_cuda import SimulatedPointer
    from fastloss.cuda.loops.elementwise import place_of

    seen = []

    class Spy(SimulatedPointer):
        def at(self, i):
            seen.append(self.address + i * self.dtype.itemsize)
            return np.zeros(1, self.dtype)

    pointer = Spy(1 << 40, np.dtype(np.float32))
    load_or(pointer, place_of(5, (2, 2), (3_000_000_000, 0, 7)), np.float32(0))
    assert seen == [(1 << 40) + 4 * (3_000_000_000 + 7)]


@pytest.fixture
def torch_in_simulator(monkeypatch):
    """The paths of CUDA tensors, on tensors in host memory, which is what the simulator has."""
    torch = pytest.importorskip("torch")
    from fastloss.call import dispatch as _dispatch
    from fastloss.cuda.torch_arrays import TorchLibrary

    monkeypatch.setattr(TorchLibrary, "current_stream", lambda self: 0)
    library = TorchLibrary(0)
    library.device = "cpu"
    library.reader = functools.partial(library.view, name="array")  # not of a CUDA device, as `read` would have it
    monkeypatch.setattr(_dispatch, "_library", lambda array, name: library)
    monkeypatch.setattr(_dispatch.host, "lowering", lambda array: None)
    for product in ("mm", "addmm"):
        monkeypatch.setattr(torch, product, _with_wider_result(torch, getattr(torch, product)))
    return torch


def _with_wider_result(torch, product):
    """Return a product that knows of `out_dtype`, which torch's on the CPU do not."""

    def wider(*arrays, out, out_dtype=None):
        if out_dtype is None:
            return product(*arrays, out=out)
        assert out_dtype == out.dtype == torch.float32
        assert [array.dtype for array in arrays[-2:]] == [torch.bfloat16] * 2
        return product(*arrays[:-2], *[array.float() for array in arrays[-2:]], out=out)

    return wider


@in_simulator
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("inner", [(), (2,)])
def test_linear_cross_entropy_in_chunks(torch_in_simulator, monkeypatch, inner, soft, dtype):
    """The products are torch's; chunks of two rows, blocks of two classes."""
    torch = torch_in_simulator
    from fastloss.call import array_ops as _blocks
    from fastloss.call import chunked_matmul as _products
    from fastloss.cuda.backend import Backend

    size = 8 if dtype == "float64" else 4
    monkeypatch.setattr(Backend, "chunk_times", 1)
    monkeypatch.setattr(_products, "CHUNK_BYTES", 2 * 5 * len(inner or "a") * size * (4 if soft else 2))
    monkeypatch.setattr(_blocks, "BLOCK_BYTES", 2 * 3 * size)
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    given = {
        "input": torch.randn(5, 3).to(kind),
        "linear_weight": torch.randn(5, *inner, 3).to(kind),
        "target": torch.rand(5, 5, *inner).to(kind) if soft else torch.randint(0, 5, (5, *inner)),
        "linear_bias": torch.randn(5, *inner).to(kind),
        "weight": torch.rand(5).to(kind),
    }
    names = tuple(name for name in given if soft or name not in ("target", "weight"))
    arrays = {k: v.to(torch.float64).requires_grad_(k in names) if k in names else v for k, v in given.items()}
    arrays["weight"] = arrays["weight"].to(torch.float64)
    if soft:
        arrays["weight"] = arrays["weight"].detach().requires_grad_()
    tolerance = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 2e-2}[dtype]
    for reduction in ("mean", "none"):
        for tensor in arrays.values():
            tensor.grad = None
        expected = torch.nn.functional.linear_cross_entropy(**arrays, reduction=reduction)
        expected.sum().backward()
        value, gradients = fl.value_and_grad(fl.linear_cross_entropy, names)(**given, reduction=reduction)
        assert torch.allclose(value.to(torch.float64), expected.detach(), rtol=tolerance, atol=tolerance)
        for name, gradient in zip(names, gradients, strict=True):
            assert gradient.dtype == given[name].dtype
            assert torch.allclose(gradient.to(torch.float64), arrays[name].grad, rtol=tolerance, atol=tolerance), name
    if not soft:
        given["target"].reshape(-1)[4] = 5
        with pytest.raises(IndexError, match="target 5 at position"):
            fl.linear_cross_entropy(**given)


@in_simulator
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_adaptive_log_softmax(torch_in_simulator, monkeypatch, dtype):
    """The products are torch's; chunks of two rows."""
    torch = torch_in_simulator
    from fastloss.call import chunked_matmul as _products
    from fastloss.cuda.backend import Backend

    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    theirs = torch.nn.AdaptiveLogSoftmaxWithLoss(6, 9, [2, 5], div_value=2.0, head_bias=True).to(kind).double()
    ours = fl.AdaptiveLogSoftmaxWithLoss(6, 9, [2, 5], div_value=2.0, head_bias=True, dtype=kind)
    for name, tensor in theirs.state_dict().items():
        ours.state_dict()[name].copy_(tensor)
    x = torch.randn(5, 6).to(kind)
    wide = x.double().requires_grad_()
    y = torch.tensor([0, 8, 4, 8, 2])
    monkeypatch.setattr(Backend, "chunk_times", 1)
    monkeypatch.setattr(_products, "CHUNK_BYTES", 2 * 4 * 8)
    expected = theirs(wide, y)
    expected.loss.backward()
    found, gradients = ours.value_and_grad(x, y, wrt=("input", "head_weight", "head_bias", "tail_weights"))
    tolerance = {"rtol": 1e-12, "atol": 1e-12} if dtype == "float64" else {"rtol": 2e-2, "atol": 2e-2}
    assert found.output.dtype == kind
    tails = [linear.weight.grad for pair in theirs.tail for linear in pair]
    exact = [expected.output, expected.loss, wide.grad, theirs.head.weight.grad, theirs.head.bias.grad, *tails]
    others = [one for pair in gradients[3] for one in pair]
    for one, other in zip([found.output, found.loss, *gradients[:3], *others], exact, strict=True):
        assert torch.allclose(one.double(), other, **tolerance)
    assert torch.allclose(ours.log_prob(x).double(), theirs.log_prob(wide), **tolerance)
    assert torch.equal(ours.predict(x), theirs.predict(wide))
    with pytest.raises(IndexError, match="target 9 at position"):
        ours(x, y + 1)


@in_simulator
def test_matrix_products_need_a_library():
    x, w, y = np.ones((2, 3), np.float32), np.ones((4, 3), np.float32), np.zeros(2, int)
    target = device(np.full((2, 3), 7, np.float32))
    with pytest.raises(TypeError, match=r"torch\.as_tensor.*cupy\.asarray"):
        fl.grad(fl.linear_cross_entropy, "input")(device(x), device(w), device(y), grad_out=target)
    assert (host(target) == 7).all()


@in_simulator
def test_torch_tensors(torch_in_simulator):
    torch = torch_in_simulator
    x, t = torch.randn(3, 5), torch.rand(3, 5)
    y = torch.randint(0, 5, (3,))
    for dtype, tolerance in ((torch.float64, 1e-7), (torch.float32, 1e-6), (torch.bfloat16, 1e-2)):
        given = x.to(dtype, copy=True).requires_grad_()
        expected = torch.nn.functional.cross_entropy(given, y)
        expected.backward()
        value, gradient = fl.value_and_grad(fl.cross_entropy)(given, y.to(torch.int16))
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert gradient.dtype == dtype
        assert value.item() == pytest.approx(expected.item(), rel=tolerance)
        assert torch.allclose(gradient.float(), given.grad.float(), rtol=tolerance, atol=tolerance)
    assert fl.grad(fl.mse_loss)(x, t, grad_out=x) is x
    assert fl.softmax(x, 1, dtype=torch.float64).dtype == torch.float64
    assert fl.mse_loss(x.T[::2], t.T[::2]).item() == pytest.approx(((x - t)[:, ::2] ** 2).mean().item(), rel=1e-5)
    with pytest.raises(ValueError, match="must lie in"):
        fl.binary_cross_entropy(t + 1, t, reduction="none")


@in_simulator
def test_tensors_whose_memory_does_not_hold_their_numbers(torch_in_simulator):
    """Views that torch negates when it reads them, as ``z.conj().imag`` is; sparse ones have no memory to read."""
    torch = torch_in_simulator
    x, t = torch.randn(9, 7), torch.randn(9, 7)
    negated, loss, expected = torch._neg_view(x), fl.grad(fl.mse_loss), 2 * (-x - t) / 63
    for _ in range(4):
        loss(x, t)
        torch.testing.assert_close(loss(negated, t), expected)
        with pytest.raises(ValueError, match="grad_out is a negated view"):
            loss(x, t, grad_out=negated)
        with pytest.raises(TypeError, match=r"input: .* layout torch.sparse_coo .* call \.to_dense\(\) first"):
            loss(x.to_sparse(), t)


@in_simulator
def test_repeated_calls_find_values_that_are_none(torch_in_simulator):
    """From the third call on the value alone tells whether to look at the arrays."""
    torch = torch_in_simulator
    loss, t = fl.value_and_grad(fl.binary_cross_entropy), torch.full((9, 7), 0.6)
    for level in (0.3, 0.4, 0.5, 0.6):
        x = torch.full((9, 7), level)
        torch.testing.assert_close(loss(x, t)[0], torch.nn.functional.binary_cross_entropy(x, t))
        x[2, 3] = 1.5
        with pytest.raises(ValueError, match=r"input must lie in \[0, 1\]"):
            loss(x, t)
        x[2, 3] = float("nan")
        value, gradient = loss(x, t)
        assert value.isnan()
        assert gradient.isnan().sum() == 1


@in_simulator
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16", "int32", "int64"])
def test_a_divisor_on_the_device_is_read_by_the_kernel(torch_in_simulator, monkeypatch, dtype):
    """The host does not wait for it."""
    from fastloss.cuda.backend import Backend

    torch = torch_in_simulator
    x, t, y, sign = torch.randn(9, 5), torch.randn(9, 5), torch.randint(0, 5, (9,)), torch.ones(9)
    losses = [
        (fl.mse_loss, (x, t)),
        (fl.mse_loss, (x.T, t.T)),
        (fl.cross_entropy, (x, y)),
        (fl.nll_loss, (x, y)),
        (fl.cosine_embedding_loss, (x, t, sign)),
        (fl.multilabel_margin_loss, (x, torch.tensor([[0, 2, -1, 0, 0]] * 9))),
    ]
    expected = [fl.value_and_grad(loss)(*arrays, divisor=3) for loss, arrays in losses]

    def wait(*args):
        raise AssertionError("the host reads a number")

    monkeypatch.setattr(Backend, "number", wait)
    divisor = torch.tensor([3], dtype=getattr(torch, dtype))
    with fl.config(check_indices=False):
        for (loss, arrays), (value, gradients) in zip(losses, expected, strict=True):
            found, slopes = fl.value_and_grad(loss)(*arrays, divisor=divisor)
            torch.testing.assert_close(found, value)
            torch.testing.assert_close(slopes, gradients)


@in_simulator
def test_no_tensor_is_kept_between_calls(torch_in_simulator, monkeypatch):
    """Where torch.compile first calls what it will capture, a tensor that is none of the results is an error."""
    torch, made = torch_in_simulator, []
    empty = torch.empty

    def noted(*args, **kwargs):
        tensor = empty(*args, **kwargs)
        made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(torch, "empty", noted)
    x, t, y = torch.randn(41, 9), torch.randn(41, 9), torch.zeros(41, dtype=torch.int64)  # several blocks
    for _ in range(3):
        fl.value_and_grad(fl.mse_loss)(x, t)
        fl.value_and_grad(fl.cross_entropy)(x, y)
    assert len(made) >= 15
    assert not [tensor for tensor in made if tensor() is not None]


@in_simulator
def test_repeated_calls_write_into_tensors(torch_in_simulator):
    """From the third call on by addresses alone: into another array, in place, never over what overlaps."""
    torch = torch_in_simulator
    torch.manual_seed(0)
    loss = fl.value_and_grad(fl.mse_loss)
    for _ in range(4):
        x, t, gradient, whole = torch.randn(9, 7), torch.randn(9, 7), torch.empty(9, 7), torch.randn(100)
        version, slope = gradient._version, 2 * (x - t) / 63
        value, found = loss(x, t, grad_out=gradient)
        assert found is gradient
        assert gradient._version == version + 1
        torch.testing.assert_close(gradient, slope)
        torch.testing.assert_close(value, torch.nn.functional.mse_loss(x, t))
        with pytest.raises(ValueError, match="overlaps"):
            loss(whole[:63].view(9, 7), t, grad_out=whole[10:73].view(9, 7))
        loss(x, t, grad_out=x)
        torch.testing.assert_close(x, slope)
