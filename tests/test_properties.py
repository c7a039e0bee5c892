"""What holds for any input, on random shapes and layouts."""

import hypothesis
import numpy as np
import pytest
from cases import assert_close, quickly
from hypothesis import strategies as st

import fastloss as fl
from fastloss.cpu.loops.rowwise_short import TOGETHER_BYTES
from fastloss.cpu.simd import stack_arrays as stack
from fastloss.cpu.simd import sum_exp as exponentials

# Kernels are compiled by then, but the machine may be busy: no deadline.
hypothesis.settings.register_profile("fastloss", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("fastloss")

seeds = st.integers(0, 2**31)
rows = st.integers(1, 40)
classes = st.integers(1, 90)
shapes = st.lists(st.integers(0, 6), max_size=5).map(tuple)


@hypothesis.given(seeds, rows, classes)
def test_permuting_rows_permutes_results(seed, n, c):
    rng = np.random.default_rng(seed)
    x, y, order = rng.normal(size=(n, c)) * 3, rng.integers(c, size=n), rng.permutation(n)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="none")
    permuted, permuted_gradient = fl.value_and_grad(fl.cross_entropy)(x[order], y[order], reduction="none")
    np.testing.assert_array_equal(permuted, value[order])
    np.testing.assert_array_equal(permuted_gradient, gradient[order])


@hypothesis.given(seeds, rows, classes)
def test_permuting_classes_permutes_the_gradient(seed, n, c):
    rng = np.random.default_rng(seed)
    x, y, order = rng.normal(size=(n, c)) * 3, rng.integers(c, size=n), rng.permutation(c)
    place = np.argsort(order)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
    permuted, permuted_gradient = fl.value_and_grad(fl.cross_entropy)(x[:, order], place[y])
    assert_close(permuted, value)
    assert_close(permuted_gradient, gradient[:, order])


@hypothesis.given(seeds, rows, classes, st.floats(-1e3, 1e3))
def test_a_shift_of_the_logits_changes_nothing(seed, n, c, shift):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, c)), rng.integers(c, size=n)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
    shifted, shifted_gradient = fl.value_and_grad(fl.cross_entropy)(x + shift, y)
    assert_close(shifted, value, factor=1e3)
    assert_close(shifted_gradient, gradient, factor=1e3)
    assert_close(gradient.sum(axis=1), np.zeros(n))  # the derivative along the shift


@hypothesis.given(seeds, shapes)
def test_sum_is_the_sum_and_mean_the_mean(seed, shape):
    rng = np.random.default_rng(seed)
    x, t = rng.normal(size=shape), rng.normal(size=shape)
    each = fl.huber_loss(x, t, reduction="none")
    assert each.shape == shape
    assert_close(fl.huber_loss(x, t, reduction="sum"), each.sum())
    assert_close(fl.huber_loss(x, t), each.mean() if each.size else np.nan)


@hypothesis.given(seeds, shapes.filter(bool), st.data())
def test_any_view_equals_its_copy(seed, shape, data):
    """Axes permuted, cut and reversed at random, each array in its own way."""
    rng = np.random.default_rng(seed)

    def view():
        order = data.draw(st.permutations(range(len(shape))))
        steps = data.draw(st.lists(st.sampled_from([1, 2, -1, -3]), min_size=len(shape), max_size=len(shape)))
        cut = tuple(slice(None, None, step) for step in steps)
        whole = [0] * len(shape)
        for k, axis in enumerate(order):
            whole[k] = shape[axis] * abs(steps[k])
        return rng.normal(size=whole)[cut].transpose(np.argsort(order))

    x, t = view(), view()
    assert x.shape == t.shape == shape
    value, gradient = fl.value_and_grad(fl.huber_loss)(x, t, reduction="sum")
    expected, exact = fl.value_and_grad(fl.huber_loss)(x.copy(), t.copy(), reduction="sum")
    assert_close(value, expected)
    np.testing.assert_array_equal(gradient, exact)


@hypothesis.given(seeds, st.integers(2, 40), classes, st.data())
def test_pieces_make_the_whole(seed, n, c, data):
    rng = np.random.default_rng(seed)
    cut = data.draw(st.integers(1, n - 1))
    x, y = rng.normal(size=(n, c)), rng.integers(c, size=n)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="sum")
    parts = [fl.value_and_grad(fl.cross_entropy)(x[s], y[s], reduction="sum") for s in (slice(cut), slice(cut, None))]
    assert_close(parts[0][0] + parts[1][0], value)
    np.testing.assert_array_equal(np.concatenate([parts[0][1], parts[1][1]]), gradient)


@hypothesis.given(seeds, st.integers(1, 4), st.integers(1, 90), st.integers(1, 20))
def test_inner_axes_are_rows(seed, n, c, inner):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, c, inner)), rng.integers(c, size=(n, inner))
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="sum")
    moved = np.ascontiguousarray(np.moveaxis(x, 1, 2)).reshape(-1, c)
    expected, exact = fl.value_and_grad(fl.cross_entropy)(moved, y.reshape(-1), reduction="sum")
    assert_close(value, expected)
    assert_close(np.moveaxis(gradient, 1, 2).reshape(-1, c), exact)


@hypothesis.given(seeds, rows, classes)
def test_weights_of_classes_multiply_rows(seed, n, c):
    rng = np.random.default_rng(seed)
    x, y, w = rng.normal(size=(n, c)), rng.integers(c, size=n), rng.uniform(0.1, 2, c)
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y, w, reduction="none")
    plain, plain_gradient = fl.value_and_grad(fl.cross_entropy)(x, y, reduction="none")
    assert_close(value, w[y] * plain)
    assert_close(gradient, w[y][:, None] * plain_gradient)
    assert_close(fl.cross_entropy(x, y, w), (w[y] * plain).sum() / w[y].sum())


@hypothesis.given(seeds, rows, st.integers(1, 90), st.booleans())
def test_triplets_are_their_distances(seed, n, d, swap):
    rng = np.random.default_rng(seed)
    a, p, q = rng.normal(size=(3, n, d))
    near, far, third = (np.linalg.norm(u - v + 1e-6, axis=1) for u, v in ((a, p), (a, q), (p, q)))
    expected = np.maximum(0, near - (np.minimum(far, third) if swap else far) + 1)
    value, gradients = fl.value_and_grad(fl.triplet_margin_loss)(a, p, q, swap=swap, reduction="none")
    assert_close(value, expected)
    # moving all three together changes no distance
    assert_close(sum(gradients), np.zeros((n, d)))


@pytest.mark.parametrize("loss", quickly(fl.cross_entropy, then=[fl.multi_margin_loss, fl.symmetric_cross_entropy]))
@pytest.mark.parametrize(
    "dtype", [*[pytest.param(t, marks=pytest.mark.slow) for t in (np.float16, np.float64)], np.float32]
)
@pytest.mark.parametrize("c", [10, 48, 64, 100, 137, 138, 275, 276, 640, 3000])
def test_a_row_is_computed_alike_wherever_it_lies(c, dtype, loss, rng):
    x, y = rng.normal(size=(11, c)).astype(dtype), rng.integers(c, size=11)
    function = fl.value_and_grad(loss)
    value, gradient = function(x, y, reduction="none")
    for start, stop in ((0, 1), (3, 4), (4, 6), (5, 8), (7, 11), (10, 11)):
        part, part_gradient = function(x[start:stop], y[start:stop], reduction="none")
        np.testing.assert_array_equal(part, value[start:stop])
        np.testing.assert_array_equal(part_gradient, gradient[start:stop])


def test_rows_that_are_computed_together_have_room():
    assert exponentials.TOGETHER * TOGETHER_BYTES // np.dtype(np.float32).itemsize <= stack.GROUP
