"""On a machine with a CUDA device: ``pytest -m gpu``.

Results against the CPU for every loss and array library that is installed, streams, graphs, determinism.
"""

import inspect

import cuda_tools
import numpy as np
import pytest
from cases import LOSSES

import fastloss as fl

NAMES = [name for name, record in LOSSES.items() if record.family in cuda_tools.FAMILIES]
LIBRARIES = ["torch", "cupy", "numba"]


def _device_is_there():
    try:
        from numba import cuda

        return bool(cuda.is_available())
    except ImportError:
        return False


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::DeprecationWarning:numba"),
    pytest.mark.filterwarnings("ignore:shapes differ"),
    pytest.mark.skipif(not _device_is_there(), reason="no CUDA device, or numba-cuda is not installed"),
]


class Library:
    """How tests make arrays of a library and look at them."""

    def __init__(self, name):
        self.name = name
        if name == "numba":
            from numba import cuda

            self.module = cuda
            return
        self.module = pytest.importorskip(name)
        if name == "torch" and not self.module.cuda.is_available():
            pytest.skip("torch has no CUDA device")

    def device(self, array):
        if not isinstance(array, np.ndarray):
            return array
        if self.name == "numba":
            return self.module.to_device(array)
        if self.name == "cupy":
            return self.module.asarray(array)
        if array.dtype.name == "bfloat16":
            return self.module.from_numpy(array.view(np.int16)).view(self.module.bfloat16).cuda()
        return self.module.from_numpy(np.ascontiguousarray(array)).cuda()

    def host(self, array):
        if self.name == "numba":
            return array.copy_to_host()
        if self.name == "cupy":
            return array.get()
        return (array.float() if array.dtype == self.module.bfloat16 else array).cpu().numpy()


@pytest.fixture(params=LIBRARIES)
def library(request):
    return Library(request.param)


def compare(library, function, given, dtype, **options):
    expected = function(**given, **options)
    found = function(
        **{k: library.device(v) for k, v in given.items()}, **{k: library.device(v) for k, v in options.items()}
    )
    cuda_tools.assert_like(cuda_tools.mapped(library.host, found), expected, dtype)
    return found


@pytest.mark.parametrize("dtype", cuda_tools.DTYPES)
@pytest.mark.parametrize("shape", [(5, 7), (64, 128)])
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(library, name, shape, dtype):
    if dtype == "bfloat16" and library.name != "torch":
        pytest.skip("only torch has bfloat16 on every version")
    record = LOSSES[name]
    for optional in (False, True):
        given = cuda_tools.sample(record, dtype, shape, optional=optional)
        wrt = cuda_tools.differentiable(record, given)
        compare(library, fl.value_and_grad(record.function, wrt), given, dtype)


@pytest.mark.parametrize("name", NAMES)
def test_options_reductions_and_curvature(name):
    library = Library("numba")
    record = LOSSES[name]
    given = cuda_tools.sample(record, "float64", (6, 9))
    signature = inspect.signature(record.describe)
    for option, domain in record.options.items():
        for value in domain.examples:
            if option != "ignore_index" and value != signature.parameters[option].default:
                compare(library, fl.value_and_grad(record.function), given, "float64", **{option: value})
    if record.hessian:
        compare(library, fl.grad_and_hess(record.function), given, "float64")


@pytest.mark.parametrize(
    "shape",
    [
        *[(3000, 3), (300, 40), (30, 1000), (7, 1001), (30, 1500), (30, 2048), (5, 5000), (200, 30_000)],
        *[(200, 100_001), (200, 100_000), (3, 50_257), (2, 128_256), (5, 19, 333)],
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_row_lengths(library, shape, dtype):
    given = cuda_tools.sample(LOSSES["cross_entropy"], dtype, shape)
    compare(library, fl.value_and_grad(fl.cross_entropy), given, dtype)
    compare(library, fl.value_and_grad(fl.cross_entropy), given, dtype, label_smoothing=0.1)


@pytest.mark.parametrize("dtype", cuda_tools.DTYPES)
@pytest.mark.parametrize("chunk", [None, 7])
def test_linear_cross_entropy(library, chunk, dtype):
    rng = np.random.default_rng(6)
    kind = cuda_tools.numpy_dtype(dtype)
    given = {
        "input": rng.normal(size=(33, 20)).astype(kind),
        "linear_weight": rng.normal(size=(300, 20)).astype(kind),
        "target": rng.integers(0, 300, 33),
        "linear_bias": rng.normal(size=300).astype(kind),
    }
    if dtype == "bfloat16" and library.name != "torch":
        pytest.skip("only torch has bfloat16 on every version")
    if library.name == "numba":
        with pytest.raises(TypeError, match=r"cupy\.asarray"):
            fl.linear_cross_entropy(**{k: library.device(v) for k, v in given.items()})
        return
    options = fl.LinearCrossEntropyOptions(batch_chunk_size=chunk)
    compare(library, fl.value_and_grad(fl.linear_cross_entropy), given, dtype, options=options)
    compare(library, fl.linear_cross_entropy, given, dtype, reduction="none")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_adaptive_log_softmax(library, dtype):
    if library.name == "numba":
        pytest.skip("Numba has no matrix products")
    made = fl.AdaptiveLogSoftmaxWithLoss(20, 300, [10, 100], 2.0, True, dtype=dtype)
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(33, 20)).astype(dtype), rng.integers(0, 300, 33)
    wrt = ("input", "head_weight", "head_bias", "tail_weights")
    expected = [made.value_and_grad(x, y, wrt=wrt), made.log_prob(x), made.predict(x)]
    for linear in made._maps():
        linear.weight = library.device(linear.weight)
        linear.bias = None if linear.bias is None else library.device(linear.bias)
    x, y = library.device(x), library.device(y)
    found = [made.value_and_grad(x, y, wrt=wrt), made.log_prob(x), made.predict(x)]
    for one, other in zip(found, expected, strict=True):
        cuda_tools.assert_like(cuda_tools.mapped(library.host, one), other, dtype)


def test_large_sums():
    """Many blocks and turns of the loop."""
    library = Library("numba")
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(2, 20_000_003)).astype(np.float32)
    given = {"input": x, "target": t}
    compare(library, fl.mse_loss, given, "float32")
    compare(library, fl.grad(fl.mse_loss), given, "float32", reduction="sum")  # of the order of one


@pytest.mark.parametrize("shape", [(200, 32, 64, 40), (700, 2, 30, 300), (40, 3, 5000, 9)])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_sequences(library, shape, dtype):
    """More labels than threads, rows of many classes; the same bits from run to run."""
    times, samples, classes, most = shape
    rng = np.random.default_rng(6)
    scores = rng.normal(size=(times, samples, classes))
    given = {
        "log_probs": (scores - np.log(np.exp(scores).sum(-1, keepdims=True))).astype(dtype),
        "targets": rng.integers(1, classes, (samples, most)),
        "input_lengths": rng.integers(times // 2, times + 1, samples),
        "target_lengths": rng.integers(0, most + 1, samples),
    }
    transform = fl.value_and_grad(fl.ctc_loss)
    found = compare(library, transform, given, dtype, zero_infinity=True)
    again = compare(library, transform, given, dtype, zero_infinity=True)
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(library.host(one), library.host(other))


def test_strided_operands(library):
    if library.name == "numba":
        pytest.skip("numba device arrays cannot be transposed in general")
    rng = np.random.default_rng(1)
    x, t = rng.normal(size=(2, 40, 60))
    expected = fl.value_and_grad(fl.huber_loss)(x.T[::2], t.T[::2])
    on_device = [library.device(a).T[::2] for a in (x, t)]
    found = fl.value_and_grad(fl.huber_loss)(*on_device)
    cuda_tools.assert_like(cuda_tools.mapped(library.host, found), expected, "float64")


@pytest.mark.parametrize("shape", [(3000, 700), (200, 90_000), (2, 70_000)])
def test_same_bits_from_run_to_run(library, shape):
    rng = np.random.default_rng(2)
    x = library.device(rng.normal(size=shape).astype(np.float32))
    y = library.device(rng.integers(0, shape[1], shape[0]))
    runs = [fl.value_and_grad(fl.cross_entropy)(x, y) for _ in range(5)]
    first = cuda_tools.mapped(lambda a: library.host(a).tobytes(), runs[0])
    assert all(cuda_tools.mapped(lambda a: library.host(a).tobytes(), run) == first for run in runs)


def test_results_are_of_the_library(library):
    x = library.device(np.ones((4, 4), np.float32))
    value, gradient = fl.value_and_grad(fl.mse_loss)(x, x)
    assert type(value) is type(gradient) is type(x)
    assert tuple(value.shape) == ()
    out = library.device(np.zeros((4, 4), np.float32))
    assert fl.grad(fl.mse_loss)(x, x, grad_out=out) is out


def test_class_indices_are_checked(library):
    x, y = np.zeros((4, 3)), np.array([0, 1, 7, 2])
    with pytest.raises(IndexError, match=r"target 7 at position \(2,\)"):
        fl.cross_entropy(library.device(x), library.device(y))
    with fl.config(check_indices=False):
        value = fl.cross_entropy(library.device(x), library.device(y), reduction="none")
    assert np.array_equal(np.isnan(library.host(value)), [False, False, True, False])


def test_host_and_device_arrays_do_not_mix(library):
    x = np.ones((2, 3))
    with pytest.raises(TypeError, match=r"on cuda:0 and target is a NumPy array on the CPU"):
        fl.mse_loss(library.device(x), x)
    with pytest.raises(TypeError, match=r"on the CPU and target is a .* on cuda:0"):
        fl.mse_loss(x, library.device(x))


def test_torch_streams():
    """Work goes to the current stream: a long computation queued before it there has to be waited for."""
    torch = Library("torch").module
    x = torch.zeros(1 << 22, device="cuda")
    target = torch.zeros_like(x)
    fl.value_and_grad(fl.mse_loss)(x, target)  # compiled
    stream = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x += 3.0
        value, gradient = fl.value_and_grad(fl.mse_loss)(x, target, reduction="sum")
    stream.synchronize()
    assert value.item() == pytest.approx(9.0 * (1 << 22), rel=1e-6)
    assert bool((gradient == 6.0).all())


def test_cupy_streams():
    cupy = Library("cupy").module
    x, target = cupy.zeros((2, 1 << 26), dtype=cupy.float32)
    assert float(fl.mse_loss(x, target)) == 0  # compiled
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(200):
            x += 1.0
        value = fl.mse_loss(x, target)
    stream.synchronize()
    assert float(value) == pytest.approx(40000.0, rel=1e-6)


def test_torch_tensors_on_a_side_stream_are_checked_and_read_there():
    """The check of the classes and the lengths of CTC wait for the stream that makes them."""
    torch = Library("torch").module
    stream = torch.cuda.Stream()
    x, y = torch.randn(1000, 50, device="cuda"), torch.zeros(1000, dtype=torch.int64, device="cuda")
    fl.cross_entropy(x, y)  # compiled
    scores = torch.randn(20, 3, 7, device="cuda").log_softmax(2)
    labels = torch.ones(3, 4, dtype=torch.int64, device="cuda")
    lengths = torch.zeros(2, 3, dtype=torch.int64, device="cuda")
    expected = fl.ctc_loss(scores.cpu(), labels.cpu(), [20] * 3, [4] * 3, reduction="none")
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        y[17] = 50
        with pytest.raises(IndexError, match=r"target 50 at position \(17,\)"):
            fl.cross_entropy(x, y)
        torch.cuda._sleep(50_000_000)
        lengths[0] += 20
        lengths[1] += 4
        found = fl.ctc_loss(scores, labels, lengths[0], lengths[1], reduction="none")
    stream.synchronize()
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)


def test_an_array_of_another_stream_is_waited_for():
    """``__cuda_array_interface__`` names the stream; here Numba's arrays, one of which is made late."""
    from numba import cuda

    torch = Library("torch").module
    late = torch.cuda.Stream()
    x, t = torch.zeros(2, 1 << 22, device="cuda")
    made = [cuda.as_cuda_array(one) for one in (x, t)]
    fl.mse_loss(*made)  # compiled
    torch.cuda.synchronize()
    with torch.cuda.stream(late):
        torch.cuda._sleep(50_000_000)
        t += 2.0
    made[1].stream = cuda.external_stream(late.cuda_stream)
    assert float(fl.mse_loss(*made).copy_to_host()) == 4.0


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("offset", [1, 3, 4])
def test_misaligned_operands(library, offset, dtype):
    rng = np.random.default_rng(8)
    x, t = (rng.normal(size=5003).astype(dtype) for _ in range(2))
    views = [library.device(one)[offset:] for one in (x, t)]
    expected = fl.value_and_grad(fl.huber_loss)(x[offset:], t[offset:])
    found = fl.value_and_grad(fl.huber_loss)(*views)
    cuda_tools.assert_like(cuda_tools.mapped(library.host, found), expected, dtype)


@pytest.mark.parametrize("shape", [(20_000, 300), (200, 70_000), (3, 50_257), (2, 1 << 20)])
def test_gradient_over_the_input_of_many_blocks(library, shape):
    rng = np.random.default_rng(9)
    x, y = rng.normal(size=shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
    options = {"reduction": "sum", "label_smoothing": 0.1}
    expected = fl.grad(fl.cross_entropy)(x, y, **options)
    there = library.device(x)
    assert fl.grad(fl.cross_entropy)(there, library.device(y), grad_out=there, **options) is there
    cuda_tools.assert_like(library.host(there), expected, "float32")


@pytest.mark.parametrize("place", [5, slice(0, 8192), slice(None)])
@pytest.mark.parametrize("strange", [np.inf, -np.inf, np.nan])
def test_extreme_entries_of_long_rows(library, strange, place):
    x = np.random.default_rng(10).normal(size=(2, 70_000)).astype(np.float32)
    x[1, place] = strange
    y = np.array([3, 60_000])
    expected = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="sum")
    found = fl.value_and_grad(fl.cross_entropy)(library.device(x), library.device(y), reduction="sum")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(library.host(one), other, 1e-4, 1e-6)


def test_lists_of_classes_in_long_rows(library):
    given = cuda_tools.sample(LOSSES["multilabel_margin_loss"], "float32", (9, 3000))
    compare(library, fl.value_and_grad(fl.multilabel_margin_loss), given, "float32")


def test_what_a_capture_cannot_do_is_said():
    torch = Library("torch").module
    x, y = torch.randn(64, 100, device="cuda"), torch.zeros(64, dtype=torch.int64, device="cuda")
    fl.cross_entropy(x, y)  # compiled
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match=r"check_indices=False"), torch.cuda.graph(graph):
        fl.cross_entropy(x, y)


def test_torch_graph_capture():
    """Without index checks nothing waits for the device, and a call can be replayed."""
    torch = Library("torch").module
    x = torch.randn(64, 100, device="cuda")
    y = torch.randint(0, 100, (64,), device="cuda")
    transform = fl.value_and_grad(fl.cross_entropy)
    stream = torch.cuda.Stream()
    with fl.config(check_indices=False):
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            transform(x, y)  # compiled and loaded before the capture
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            value, gradient = transform(x, y)
        x.copy_(torch.randn_like(x))
        graph.replay()
        torch.cuda.synchronize()
        again = transform(x, y)
    torch.cuda.synchronize()
    assert torch.equal(value, again[0])
    assert torch.equal(gradient, again[1])
