"""Results that are written past the caches: the same bits as elsewhere, and nothing beside them."""

import numpy as np
import pytest
from cases import LOSSES, marked, quickly, typical

import fastloss as fl
from fastloss.bench.cases import Extent, case_of
from fastloss.cpu.loops import copy as copying
from fastloss.cpu.loops import elementwise, pairwise, rowwise
from fastloss.cpu.simd import nontemporal as streaming

# More than a small call, several chunks, no whole tiles; rows of half a line more than whole ones; whole vectors.
EXTENT = Extent(50_003, (61, 1000), (900, 64))
SHORT_ROWS = Extent(50_003, (611, 100), (900, 64))
LONG_ROWS = Extent(50_003, (7, 9001), (900, 64))
STREAMED = [name for name, loss in LOSSES.items() if loss.family in ("elementwise", "penalty", "pairwise", "rowwise")]
STREAMED += ["softmax", "log_softmax", "logsumexp"]
FURTHER = marked(
    ["mse_loss", "cross_entropy", "gaussian_nll_loss", "sigmoid", "triplet_margin_loss", "softmax"],
    ("mse_loss", "cross_entropy").__contains__,
)
ROWS = [name for name in STREAMED if LOSSES[name].family not in ("elementwise", "penalty", "pairwise")]
# Of other loops: nothing but zeros, and much arithmetic for each entry.
ELSEWHERE = {"nll_loss", "multilabel_soft_margin_loss"}


@pytest.fixture(autouse=True)
def streamed(monkeypatch):
    """Return the list of the calls of large enough arrays: True where they are streamed. Here that begins early."""
    monkeypatch.setattr(streaming, "STREAMED_FROM", 1)
    asked = []

    def are_streamed(*args):
        asked.append(streaming.are_streamed(*args))
        return asked[-1]

    for module in (elementwise, pairwise, rowwise, copying):
        monkeypatch.setattr(module, "are_streamed", are_streamed)
    return asked


def outputs(like, beyond):
    """Return arrays like these in memory of their own, so many bytes beyond the start of a line, and that memory."""
    memory, arrays = [], []
    for array in like:
        whole = np.full(array.nbytes + 256, 0xAB, np.uint8)
        start = -whole.ctypes.data % streaming.LINE_BYTES + streaming.LINE_BYTES + beyond
        memory.append((whole, start))
        arrays.append(whole[start : start + array.nbytes].view(array.dtype).reshape(array.shape))
    return arrays, memory


def untouched(memory, arrays):
    return all(
        (whole[:start] == 0xAB).all() and (whole[start + array.nbytes :] == 0xAB).all()
        for (whole, start), array in zip(memory, arrays, strict=True)
    )


def into(function, arguments, options, like, beyond):
    """Return value and gradients, computed into memory so many bytes beyond the start of a line."""
    (values, *gradients), memory = outputs(like, beyond)
    given = {"out": values} if values.ndim else {}
    grad_out = tuple(gradients) if len(gradients) > 1 else gradients[0]
    value, _ = function(*arguments, **options, grad_out=grad_out, **given)
    assert untouched(memory[1:], gradients)
    assert untouched(memory[:1], [values])
    return [np.asarray(value), *gradients]


def computed(case, arguments, options):
    """Return the function of a case, and value and gradients of these arguments."""
    function = fl.value_and_grad(case.loss.function, case.wrt if len(case.wrt) > 1 else case.wrt[0])
    value, gradients = function(*arguments, **options)
    return function, [np.asarray(value), *(gradients if isinstance(gradients, tuple) else (gradients,))]


def compare(case, arguments, options, streamed):
    function, like = computed(case, arguments, options)
    del streamed[:]
    found = into(function, arguments, options, like, 0)
    # Not the calls that look at operands of a bounded domain, which write nothing.
    assert any(streamed) == (case.loss.name not in ELSEWHERE)
    del streamed[:]
    expected = into(function, arguments, options, like, 16)
    assert not any(streamed)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def of_dtype(case, dtype):
    return [a.astype(dtype) if a.dtype == np.float32 else a for a in case.operands.values()]


@pytest.mark.slow
@pytest.mark.parametrize("name", STREAMED)
def test_the_same_bits_whether_streamed_or_not(name, streamed):
    case = case_of(LOSSES[name], "streamed", EXTENT)
    compare(case, case.arrays(), case.options, streamed)


@pytest.mark.parametrize("extent", [SHORT_ROWS, LONG_ROWS])
@pytest.mark.parametrize("name", typical(ROWS))
def test_the_same_bits_of_other_rows(name, extent, streamed):
    case = case_of(LOSSES[name], "streamed", extent)
    compare(case, case.arrays(), case.options, streamed)


@pytest.mark.parametrize(
    ("name", "extent"),
    [
        pytest.param(*param.values, extent, marks=param.marks)
        for param in FURTHER
        for extent in ([EXTENT, SHORT_ROWS, LONG_ROWS] if param.values[0] in ROWS else [EXTENT])
    ],
)
def test_nan_and_infinity(name, extent, streamed, rng):
    case = case_of(LOSSES[name], "streamed", extent)
    arguments = [a.copy() for a in case.arrays()]
    flat = arguments[0].reshape(-1)
    places = rng.integers(0, flat.size, 90)
    flat[places] = np.resize([np.nan, np.inf, -np.inf], 90)
    compare(case, arguments, case.options, streamed)


@pytest.mark.parametrize("name", FURTHER)
def test_float64(name, streamed):
    case = case_of(LOSSES[name], "streamed", EXTENT)
    compare(case, of_dtype(case, np.float64), case.options, streamed)


@pytest.mark.parametrize("name", ["mse_loss", "triplet_margin_loss"])
def test_half_types(name, streamed):
    case = case_of(LOSSES[name], "streamed", EXTENT)
    compare(case, of_dtype(case, np.float16), case.options, streamed)


def test_rows_in_half_precision_are_not_streamed(streamed):
    case = case_of(LOSSES["cross_entropy"], "streamed", EXTENT)
    arguments = of_dtype(case, np.float16)
    function, like = computed(case, arguments, {})
    found = into(function, arguments, {}, like, 0)
    assert not any(streamed)
    np.testing.assert_array_equal(found[1], like[1])


@pytest.mark.parametrize("columns", [64, 65, 100, 127, 256, 275, 276, 401, 639, 640, 1000, 4093, 9001, 32000])
def test_rows_of_any_length_of_classes_that_are_ignored_or_unknown(columns, rng, streamed):
    x = rng.standard_normal((40_000 // columns + 41, columns), dtype=np.float32)
    y = rng.integers(0, columns, len(x))
    y[[0, 7, 8, -1]] = -100
    y[[3, 20]] = columns
    function = fl.value_and_grad(fl.cross_entropy)
    with fl.config(check_indices=False):
        like = [np.empty((), np.float32), np.empty_like(x)]
        found = into(function, (x, y), {"reduction": "sum"}, like, 0)
        assert streamed[-1]
        expected = into(function, (x, y), {"reduction": "sum"}, like, 16)
        assert not streamed[-1]
    assert np.isnan(found[1][3]).all()
    assert not found[1][7].any()
    np.testing.assert_array_equal(found[1], expected[1])


@pytest.mark.parametrize("shape", quickly((61, 1000), then=[(611, 100), (7, 9001)]))
@pytest.mark.parametrize("wrt", quickly("input", then=["target", ("target", "input"), ("input", "target")]))
def test_gradients_of_class_probabilities(wrt, shape, rng, streamed):
    x = rng.standard_normal(shape)
    p = rng.dirichlet(np.ones(shape[1]), shape[0])
    function = fl.value_and_grad(fl.cross_entropy, wrt)
    _, gradients = function(x, p)
    like = [np.empty(()), *(gradients if isinstance(wrt, tuple) else (gradients,))]
    found, expected = into(function, (x, p), {}, like, 0), into(function, (x, p), {}, like, 16)
    assert any(streamed) == ("input" in wrt)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("shape", [(61, 1000), (611, 100)])
@pytest.mark.parametrize("loss", quickly(fl.cross_entropy, then=[fl.multi_margin_loss]))
def test_rows_that_replace_the_input_are_not_streamed(loss, shape, rng, streamed):
    (x,), memory = outputs([np.empty(shape, np.float32)], 0)
    x[:] = rng.standard_normal(x.shape)
    y = rng.integers(0, shape[1], shape[0])
    _, expected = fl.value_and_grad(loss)(x.copy(), y)
    del streamed[:]
    fl.value_and_grad(loss)(x, y, grad_out=x)
    np.testing.assert_array_equal(x, expected)
    assert not any(streamed)
    assert untouched(memory, [x])


@pytest.mark.parametrize("shape", quickly((61, 1000), then=[(611, 100), (7, 9001)]))
def test_rows_that_replace_class_probabilities(shape, rng, streamed):
    """A row is written when all of it has been read, and none of the row after."""
    x = rng.standard_normal(shape)
    (p,), memory = outputs([np.empty(shape)], 0)
    p[:] = rng.dirichlet(np.ones(shape[1]), shape[0])
    _, expected = fl.value_and_grad(fl.cross_entropy)(x, p.copy())
    del streamed[:]
    fl.value_and_grad(fl.cross_entropy)(x, p, grad_out=p)
    np.testing.assert_array_equal(p, expected)
    assert untouched(memory, [p])


@pytest.mark.parametrize("name", ["mse_loss", "triplet_margin_loss", "softmax"])
def test_any_number_of_threads(name, threads, streamed):
    case = case_of(LOSSES[name], "streamed", Extent(300_007, (307, 1000), (5000, 64)))
    function, like = computed(case, case.arrays(), case.options)
    one, three = (threads(n, lambda: into(function, case.arrays(), case.options, like, 0)) for n in (1, 3))
    assert streamed[-1]
    for a, b in zip(one, three, strict=True):
        np.testing.assert_array_equal(a, b)


def test_vectors_that_are_no_whole_lines_are_not_streamed(rng, streamed):
    x, y = rng.standard_normal((2, 900, 65), dtype=np.float32)
    like = [np.empty(900, np.float32), x, y]
    into(fl.value_and_grad(fl.pairwise_distance), (x, y), {}, like, 0)
    assert not any(streamed)


def test_few_bytes_are_not_streamed(monkeypatch):
    monkeypatch.undo()
    (a,), _ = outputs([np.empty(1 << 16, np.float32)], 0)
    assert not streaming.are_streamed((a,), (a,))
    assert not streaming.are_streamed((np.broadcast_to(a, (1000, 1 << 16)),), ((),))
    assert streaming.are_streamed((np.broadcast_to(a, (1000, 1 << 16)),), (a, ()))


def test_the_copy_is_streamed_too(streamed):
    (sink,), memory = outputs([np.empty(100_003)], 0)
    source = np.arange(100_003.0)
    copying.run([source], [sink])
    assert streamed == [True]
    np.testing.assert_array_equal(source, sink)
    assert untouched(memory, [sink])
