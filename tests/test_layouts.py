"""The same numbers in another layout give the same result, bit for bit."""

import functools

import ml_dtypes
import numpy as np
import pytest
from cases import LOSSES, PLAIN, assert_close, marked, quickly, typical
from layouts import apart, backwards, misaligned, read_only, swapped

import fastloss as fl
from fastloss.cpu.loops import elementwise

describe_mse = LOSSES["mse_loss"].describe


def _columns(a):
    """The first of two interleaved arrays: strides that merge into a single one, which is not the item size."""
    return np.stack([a, np.full_like(a, 77)], axis=-1)[..., 0]


class Dlpack:
    """An array of a library that offers nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def from_dlpack(array):
    return Dlpack(np.from_dlpack(array))


class Subclass(np.ndarray):
    pass


LAYOUTS = {
    "fortran": np.asfortranarray,
    "apart": apart,
    "columns": _columns,
    "backwards": backwards,
    "read-only": read_only,
    "misaligned": misaligned,
    "big-endian": swapped,
    "subclass": lambda a: a.view(Subclass),
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
}


def follows(one, like):
    """Return whether an array has its class axis innermost because the input has."""
    return one.ndim > 2 and one.strides[1] == one.itemsize and like.strides[1] == like.itemsize


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("case", typical(PLAIN))
def test_layout(case, layout):
    arrays = case.make()
    names = case.wrt(arrays)
    value, gradients = case.value_and_grad(arrays, names)
    laid = {name: layout(array) for name, array in arrays.items()}
    value_of_laid, gradients_of_laid = case.value_and_grad(laid, names)
    # A strided loop vectorises in another way, and so adds in another order.
    assert_close(value_of_laid, value)
    for one, other, name in zip(gradients_of_laid, gradients, names, strict=True):
        assert_close(one, other)
        assert one.flags.c_contiguous or follows(one, laid["input"]), name
    for name, array in laid.items():
        np.testing.assert_array_equal(array, arrays[name])


@pytest.mark.parametrize("size", [8, 1 << 16])
def test_read_only_arrays_need_no_kernel_of_their_own(size, rng):
    x, t = rng.normal(size=(2, size))
    expected = fl.value_and_grad(fl.mse_loss)(x, t)
    kernel = elementwise.contiguous_kernel(describe_mse(x, t).point, 2)
    compiled = len(kernel.compiled.signatures)
    for _ in range(3):
        value, gradient = fl.value_and_grad(fl.mse_loss)(read_only(x), read_only(t))
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])
    assert len(kernel.compiled.signatures) == compiled


@pytest.mark.parametrize(("layout", "dtype"), [(_columns, "float16"), (apart, "bfloat16")], ids=["columns", "apart"])
@pytest.mark.parametrize("case", typical([c for c in PLAIN if c.record.family in ("elementwise", "pairwise")]))
def test_layout_of_half_types(case, layout, dtype):
    arrays = case.make(dtype)
    value, gradient = case.value_and_grad(arrays, case.record.wrt[0])
    laid = {name: layout(array) for name, array in arrays.items()}
    value_of_laid, gradient_of_laid = case.value_and_grad(laid, case.record.wrt[0])
    assert_close(value_of_laid, value, "float32")
    assert_close(gradient_of_laid.astype(float), gradient.astype(float), dtype)


@pytest.mark.parametrize("layout", ["columns", "backwards"])
def test_layout_of_weights_and_labels(layout, rng):
    lay = LAYOUTS[layout]
    x, y, w = rng.normal(size=(6, 5)), rng.integers(5, size=6), rng.uniform(1, 2, 5)
    for function in (fl.cross_entropy, fl.nll_loss, fl.multi_margin_loss):
        expected = fl.value_and_grad(function)(x, y, w)
        for arguments in ((x, lay(y), w), (x, y, lay(w))):
            value, gradient = fl.value_and_grad(function)(*arguments)
            np.testing.assert_array_equal(value, expected[0])
            np.testing.assert_array_equal(gradient, expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["columns", "backwards"])
def test_layout_of_class_weights_beside_sample_weights(layout, rng):
    x, y, w, s = rng.normal(size=(6, 5)), rng.integers(5, size=6), rng.uniform(1, 2, 5), rng.uniform(1, 2, 6)
    laid = LAYOUTS[layout](w)
    for function in (fl.cross_entropy, fl.nll_loss, fl.partial_sum(fl.nll_loss)):
        assert function(x, y, laid, sample_weight=s) == function(x, y, w, sample_weight=s)


@pytest.mark.slow
@pytest.mark.parametrize("cut", [slice(None), slice(1, None), slice(None, None, 2)], ids=["whole", "shifted", "apart"])
def test_classes_that_lie_innermost(cut, rng):
    """Rows along such an axis are read as they lie, and what has the input's shape lies in the same way."""
    logits = rng.normal(size=(3, 7, 70))[:, cut]
    x, y = logits.transpose(0, 2, 1), rng.integers(70, size=logits.shape[:2])
    soft, upstream = rng.uniform(size=(2, *x.shape))
    plain = x.copy()
    for function, wrt, arguments in (
        (fl.cross_entropy, ("input",), (y,)),
        (fl.cross_entropy, ("input", "target"), (soft,)),
        (fl.nll_loss, ("input",), (y,)),
    ):
        value, expected = fl.value_and_grad(function, wrt)(plain, *arguments)
        found, gradients = fl.value_and_grad(function, wrt)(x, *arguments)
        assert_close(found, value)
        for one, other in zip(gradients, expected, strict=True):
            assert_close(one, other)
            assert np.moveaxis(one, 1, 2).flags.c_contiguous
        for out in (np.empty_like(x), np.empty_like(plain)):
            assert fl.grad(function)(x, *arguments, grad_out=out) is out
            np.testing.assert_array_equal(out, gradients[0])
    softened, gradient = fl.value_and_grad(fl.softmax)(x, 1, grad_output=upstream)
    assert_close(softened, fl.softmax(plain, 1))
    assert_close(gradient, fl.grad(fl.softmax)(plain, 1, grad_output=upstream))
    assert np.moveaxis(softened, 1, 2).flags.c_contiguous
    _, curvature = fl.grad_and_hess(fl.cross_entropy)(x, y)
    assert_close(curvature, fl.grad_and_hess(fl.cross_entropy)(plain, y)[1])
    assert fl.grad(fl.cross_entropy)(x, y, grad_out=x) is x
    assert_close(x, fl.grad(fl.cross_entropy)(plain, y))


@pytest.mark.parametrize("inner", [5, 37, 300])
def test_a_strided_class_axis_in_chunks(inner, rng):
    """Chunks of strided rows begin at whole cache lines, and the last of them is not whole."""
    x, y = rng.normal(size=(2, 900, inner)), rng.integers(900, size=(2, inner))
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
    rows = np.ascontiguousarray(x.transpose(0, 2, 1)).reshape(-1, 900)
    expected, of_rows = fl.value_and_grad(fl.cross_entropy)(rows, y.reshape(-1))
    assert_close(value, expected)
    assert_close(gradient, of_rows.reshape(2, inner, 900).transpose(0, 2, 1))
    for threads in (1, 2):
        with fl.config(num_threads=threads):
            np.testing.assert_array_equal(fl.grad(fl.cross_entropy)(x, y), gradient)


def test_layout_of_the_upstream(rng):
    x, y, g = rng.normal(size=(6, 5)), rng.integers(5, size=6), rng.normal(size=6)
    a, t, u = rng.normal(size=(3, 4, 5))[:, :, :4]
    for function, arguments, upstream in ((fl.cross_entropy, (x, y), g), (fl.mse_loss, (a, t), u)):
        expected = fl.grad(function)(*arguments, reduction="none", grad_output=upstream.copy())
        for layout in (_columns, apart, backwards):
            gradient = fl.grad(function)(*arguments, reduction="none", grad_output=layout(upstream))
            np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("case", typical([c for c in PLAIN if c.record.family == "elementwise"]))
def test_axes_that_do_not_merge(case):
    """Five axes, transposed and cut so that no two of them are one run of memory."""
    small = case.make()
    rng = np.random.default_rng(1)
    order = (3, 1, 4, 0, 2)
    laid = {}
    for name, array in small.items():
        drawn = rng.choice(array.reshape(-1), size=(4, 6, 4, 6, 4))
        laid[name] = drawn[::2, ::3, 1::2, ::2, ::-2].transpose(order)
    expected = case.value_and_grad({k: v.copy() for k, v in laid.items()})
    value, gradient = case.value_and_grad(laid)
    assert_close(value, expected[0])
    for one, other in zip(np.atleast_1d(gradient), np.atleast_1d(expected[1]), strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("case", typical([c for c in PLAIN if c.record.family == "elementwise"]))
def test_broadcast_views(case):
    """Arrays with strides of 0 are read in place."""
    arrays = {name: np.broadcast_to(a[:1], (50, *a.shape[1:])) for name, a in case.make().items()}
    value, gradient = case.value_and_grad(arrays, case.record.wrt[0])
    expected = case.value_and_grad({name: a.copy() for name, a in arrays.items()}, case.record.wrt[0])
    assert_close(value, expected[0])
    assert_close(gradient, expected[1])
    assert gradient.shape == arrays[case.record.wrt[0]].shape


def test_broadcast_row_losses(rng):
    x, y = np.broadcast_to(rng.normal(size=5), (6, 5)), np.broadcast_to(np.int64(3), 6)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
    expected = fl.value_and_grad(fl.cross_entropy)(x.copy(), y.copy())
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(gradient, expected[1])


@pytest.mark.parametrize("shapes", [((4, 5), (5,)), ((4, 1), (1, 5)), ((), (4, 5)), ((4, 5), (1, 1))])
def test_gradient_of_a_broadcast_argument_is_summed(shapes, rng):
    """The chain rule: an argument that is repeated gets the sum over its copies."""
    x, t = (rng.normal(size=shape) for shape in shapes)
    with pytest.warns(UserWarning, match="broadcast"):
        value, gradients = fl.value_and_grad(fl.mse_loss, ("input", "target"))(x, t, reduction="sum")
    slopes = 2 * (x - t)
    assert_close(value, ((x - t) ** 2).sum())
    for gradient, argument, sign in zip(gradients, (x, t), (1, -1), strict=True):
        axes = tuple(range(2 - argument.ndim)) + tuple(
            k + 2 - argument.ndim for k, n in enumerate(argument.shape) if n == 1
        )
        assert_close(gradient, sign * slopes.sum(axis=axes).reshape(argument.shape))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_gradient_of_a_broadcast_argument_of_a_half_type_is_rounded_once(dtype):
    """Each of a hundred thousand shares of a mean's gradient is less than the smallest float16."""
    t = np.full((2, 100_000), 2.0**-10, dtype)
    t[:, ::3] = 2.0**-8
    for x in (np.zeros(1, dtype), np.zeros((2, 1), dtype)):
        with pytest.warns(UserWarning, match="broadcast"):
            gradient, second = fl.grad_and_hess(fl.mse_loss)(x, t)
        expected = -2 * t.astype(np.float64).mean() / x.size
        np.testing.assert_array_equal(gradient, np.full(x.shape, expected).astype(dtype))
        np.testing.assert_array_equal(second, np.full(x.shape, 2 / x.size).astype(dtype))
    gaps = np.full((50, 40, 2), 0.375, dtype)  # vectors, in the dtype of which 2000 shares of a sum do not add up
    gradient = fl.grad(fl.pairwise_distance, "x2")(
        gaps, np.zeros(2, dtype), p=1.0, grad_output=np.full((50, 40), 1 / 3, dtype)
    )
    np.testing.assert_array_equal(gradient, np.full(2, -2000 * np.float64(dtype(1 / 3))).astype(dtype))


def test_broadcast_warning_points_at_the_caller():
    with pytest.warns(UserWarning, match=r"input \(4, 5\), target \(5,\)") as caught:
        fl.mse_loss(np.ones((4, 5)), np.ones(5))
    assert caught[0].filename == __file__


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_memory_mapped(tmp_path, dtype, rng):
    x, y = rng.normal(size=(6, 5)).astype(dtype), rng.integers(5, size=6)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    value, gradient = fl.value_and_grad(fl.cross_entropy)(mapped, y)
    expected = fl.value_and_grad(fl.cross_entropy)(x, y)
    assert value == expected[0]
    np.testing.assert_array_equal(gradient, expected[1])
    assert type(gradient) is np.ndarray


def test_lists_and_numbers():
    np.testing.assert_allclose(fl.mse_loss([1.0, 2.0], [0.0, 0.0]), 2.5)
    np.testing.assert_allclose(fl.mse_loss([1, 2], [0, 0]), 2.5)
    np.testing.assert_allclose(fl.mse_loss(3.0, 1), 4)
    np.testing.assert_allclose(fl.mse_loss(np.float64(3), np.float64(1)), 4)
    np.testing.assert_allclose(fl.cross_entropy([[0.0, 0.0]], [1]), np.log(2))
    np.testing.assert_allclose(fl.cross_entropy([0.0, 0.0], 1), np.log(2))
    gradient = fl.grad(fl.mse_loss)([1.0, 2.0], [0.0, 0.0])
    np.testing.assert_array_equal(gradient, [1.0, 2.0])
    assert fl.mse_loss(3.0, 1.0).dtype == np.float64


INTEGERS = [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64]


@pytest.mark.parametrize("dtype", marked(INTEGERS, lambda dtype: dtype is np.uint8))
def test_class_indices_of_any_integer(dtype, rng):
    x, y = rng.normal(size=(6, 5)), rng.integers(5, size=6)
    for function in (fl.cross_entropy, fl.nll_loss):
        value, gradient = fl.value_and_grad(function)(x, y.astype(dtype))
        expected = fl.value_and_grad(function)(x, y)
        assert value == expected[0]
        np.testing.assert_array_equal(gradient, expected[1])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.uint64], ids=lambda t: t.__name__)
def test_class_indices_use_their_whole_range(dtype, rng):
    """An index that would be negative as a signed number of the same width, and one out of range."""
    classes = 250
    x = rng.normal(size=(3, classes))
    y = np.array([249, 200, 0])
    step = fl.value_and_grad(fl.nll_loss)
    value, gradient = step(x, y.astype(dtype))
    assert value == step(x, y)[0]
    np.testing.assert_array_equal(gradient, step(x, y)[1])
    y[1] = 251
    with pytest.raises(IndexError, match="251"):
        step(x, y.astype(dtype))


@pytest.mark.parametrize("dtype", quickly(np.uint8, np.int32, then=[np.int64, np.uint64]))
@pytest.mark.parametrize(
    "case", typical([c for c in PLAIN if "target" in c.arrays and c.record.family == "elementwise"])
)
def test_integer_targets_of_elementwise_losses(case, dtype):
    """Targets may be integers where torch takes them; KL's may not."""
    arrays = case.make()
    arrays["target"] = (np.arange(arrays["target"].size) % 2.0).reshape(arrays["target"].shape)
    as_integers = {**arrays, "target": arrays["target"].astype(dtype)}
    if case.loss == "kl_div":
        with pytest.raises(TypeError, match="target"):
            case.call(as_integers)
        return
    value, gradient = case.value_and_grad(as_integers)
    expected = case.value_and_grad(arrays)
    assert_close(value, expected[0])
    for one, other in zip(np.atleast_1d(gradient), np.atleast_1d(expected[1]), strict=True):
        assert_close(one, other)


def test_boolean_targets_of_elementwise_losses(rng):
    x, y = rng.normal(size=20), rng.random(20) < 0.5
    assert_close(fl.binary_cross_entropy_with_logits(x, y), fl.binary_cross_entropy_with_logits(x, y.astype(float)))


@pytest.mark.parametrize("dtype", quickly(np.float32, then=[np.float16, ml_dtypes.bfloat16]), ids=["f4", "f2", "bf16"])
def test_weights_and_targets_of_another_float_type(dtype, rng):
    """The input decides; the rest is converted."""
    x, y, w = rng.normal(size=(6, 5)), rng.integers(5, size=6), rng.uniform(1, 2, 5).astype(dtype)
    value = fl.cross_entropy(x, y, w)
    assert value.dtype == np.float64
    assert_close(value, fl.cross_entropy(x, y, w.astype(float)))
    t = rng.normal(size=(6, 5)).astype(dtype)
    value, gradients = fl.value_and_grad(fl.mse_loss, ("input", "target"))(x, t)
    expected, exact = fl.value_and_grad(fl.mse_loss, ("input", "target"))(x, t.astype(float))
    assert_close(value, expected)
    assert [g.dtype for g in gradients] == [x.dtype, t.dtype]
    assert_close(gradients[0], exact[0])


@pytest.mark.parametrize("case", typical(PLAIN))
def test_arrays_that_offer_dlpack_alone(case):
    arrays = case.make()
    wrapped = {name: Dlpack(array) for name, array in arrays.items()}
    value, gradient = case.value_and_grad(wrapped, case.record.wrt[0])
    expected = case.value_and_grad(arrays, case.record.wrt[0])
    np.testing.assert_array_equal(_plain(value), expected[0])
    np.testing.assert_array_equal(_plain(gradient), expected[1])


def _plain(array):
    return array.array if isinstance(array, Dlpack) else array


@pytest.mark.skipif("cross_entropy" not in LOSSES, reason="cross_entropy is not there")
@pytest.mark.parametrize("classes", [1, 2, 3, 20, 63, 64, 65, 99, 100, 127, 137, 138, 160, 500, 639, 640])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 130])
def test_every_number_of_classes_and_rows(rows, classes, rng):
    """Around the tiles and the thresholds between the loops, against the definition."""
    x, y = rng.standard_normal((rows, classes), dtype=np.float32), rng.integers(classes, size=rows)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="sum")
    e = np.exp(x, dtype=np.float64)
    p, hot = e / e.sum(1, keepdims=True), np.eye(classes)[y]
    assert_close(value, -(np.log(p) * hot).sum(), "float32")
    assert_close(gradient, p - hot, "float32")


@pytest.mark.parametrize("shape", [(2, 3, 1), (2, 3, 5), (2, 3, 17), (1, 4, 33, 7), (3, 70, 2), (2, 200, 19)])
def test_every_length_of_inner_axes(shape, rng):
    x = rng.standard_normal(shape, dtype=np.float32)
    y = rng.integers(shape[1], size=(shape[0], *shape[2:]))
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="none")
    moved = np.moveaxis(x, 1, -1).reshape(-1, shape[1])
    expected, exact = fl.value_and_grad(fl.cross_entropy)(moved, y.reshape(-1), reduction="none")
    assert_close(value, expected.reshape(value.shape), "float32")
    assert_close(np.moveaxis(gradient, 1, -1).reshape(moved.shape), exact, "float32")


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 8, 9, 10, 12, 13, 15, 16, 17, 23, 24, 25, 31, 33, 47, 98, 99])
@pytest.mark.parametrize("rows", [1, 7, 8, 9, 17, 129, 40_003])
def test_rows_of_few_classes_stay_within_their_rows(rows, columns, rng):
    """They are moved in blocks that reach beyond a row; nothing may be left there, nor beyond the array."""
    x = rng.standard_normal((rows, columns), dtype=np.float32)
    y = rng.integers(columns, size=rows)
    memory = np.full(rows * columns + 64, 7, np.float32)
    given = memory[: rows * columns].reshape(rows, columns)
    fl.grad(fl.cross_entropy)(x, y, reduction="sum", grad_out=given)
    p = np.exp(x - x.max(axis=1, keepdims=True), dtype=np.float64)
    expected = p / p.sum(axis=1, keepdims=True) - (np.arange(columns) == y[:, None])
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
    assert (memory[rows * columns :] == 7).all()
    fl.grad(fl.cross_entropy)(x, y, reduction="sum", grad_out=x)
    np.testing.assert_array_equal(x, given)


@pytest.mark.parametrize("columns", [3, 10, 13, 24])
@pytest.mark.parametrize("rows", [9, 17, 129])
def test_rows_of_few_classes_are_rounded_alike_wherever_they_lie(rows, columns, rng):
    x = rng.standard_normal((rows, columns)).astype(np.float16)
    y = rng.integers(columns, size=rows)
    exact = fl.grad(fl.cross_entropy)(x.astype(np.float32), y, reduction="sum")
    fl.grad(fl.cross_entropy)(x, y, reduction="sum", grad_out=x)
    np.testing.assert_array_equal(x, exact.astype(np.float16))


@pytest.mark.parametrize(
    ("dtype", "soft", "place", "smoothing"),
    [
        pytest.param(np.float16, False, 0, 0.0, marks=pytest.mark.slow),
        (np.float32, False, 0, 0.0),
        pytest.param(np.float32, False, 0, 0.1, marks=pytest.mark.slow),
        pytest.param(np.float32, True, 0, 0.0, marks=pytest.mark.slow),
        pytest.param(np.float32, True, 1, 0.0, marks=pytest.mark.slow),
    ],
)
def test_gradients_of_long_rows_may_replace_what_they_are_computed_from(dtype, soft, place, smoothing, rng):
    """Elsewhere exponentials lie where the gradient will."""
    x = rng.normal(size=(3, 5000)).astype(dtype)
    arguments = (x, rng.dirichlet(np.ones(5000), 3).astype(dtype) if soft else rng.integers(5000, size=3))
    compute = functools.partial(fl.value_and_grad(fl.cross_entropy), reduction="none", label_smoothing=smoothing)
    value, gradient = compute(*arguments)
    found, same = compute(*arguments, grad_out=arguments[place])
    assert same is arguments[place]
    np.testing.assert_array_equal(found, value)
    np.testing.assert_array_equal(same, gradient)


def test_the_gradient_of_a_long_row_may_replace_its_weights(rng):
    x, weight = rng.normal(size=5000), rng.random(5000)
    expected = fl.grad(fl.cross_entropy)(x, 7, weight=weight, label_smoothing=0.1)
    fl.grad(fl.cross_entropy)(x, 7, weight=weight, label_smoothing=0.1, grad_out=weight)
    np.testing.assert_array_equal(weight, expected)


@pytest.mark.slow
@pytest.mark.parametrize("function", [fl.softmax, fl.log_softmax])
def test_results_of_long_rows_may_replace_them(function, rng):
    x = rng.normal(size=(3, 5000))
    expected, slopes = fl.value_and_grad(function)(x, 1)
    gradient = np.empty_like(x)
    result, _ = fl.value_and_grad(function)(x, 1, out=x, grad_out=gradient)
    assert result is x
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(gradient, slopes)


@pytest.mark.parametrize("case", typical([c for c in PLAIN if c.record.family in ("elementwise", "pairwise")]))
def test_bits_do_not_depend_on_how_near_a_result_lies(case):
    arrays, name = case.make(), case.record.wrt[0]
    gradient = fl.grad(case.function, name)
    expected = gradient(**arrays, **case.options)
    size, buffer = arrays[name].size, np.zeros(3 * arrays[name].size + 20)
    read = buffer[:size].reshape(arrays[name].shape)
    read[...] = arrays[name]
    for distance in (0, *range(size, size + 18)):  # in place, and up to two vectors behind
        near = buffer[distance : distance + size].reshape(read.shape)
        np.testing.assert_array_equal(gradient(**{**arrays, name: read}, **case.options, grad_out=near), expected)
        read[...] = arrays[name]
