"""Rows with a list of classes: what ends a list, what is refused, and lists of any length."""

import numpy as np
import pytest
import reference
from cases import assert_close, quickly

import fastloss as fl

LOSS = fl.multilabel_margin_loss
RNG = np.random.default_rng(5)


def lists(rows, classes, lengths):
    target = np.stack([RNG.permutation(classes) for _ in range(rows)])
    for row, length in zip(target, lengths, strict=True):
        row[length : length + 1] = -1
    return target


@pytest.mark.parametrize("dtype", quickly(np.int64, np.int8, then=[np.int32]))
def test_lists_of_any_length(dtype):
    x = RNG.normal(size=(6, 5))
    target = lists(6, 5, range(6)).astype(dtype)
    expected = reference.multilabel_margin_loss(x, target)
    assert_close(LOSS(x, target, reduction="none"), expected, factor=10)
    gradient, second = fl.grad_and_hess(LOSS)(x, target, reduction="sum")
    assert not second.any()
    assert not gradient[0].any()
    assert not gradient[5].any()  # all classes are listed: nothing to compare with
    np.testing.assert_allclose(gradient.sum(axis=1), 0, atol=1e-15)


def test_parity_with_torch():
    torch = pytest.importorskip("torch")
    x, target = RNG.normal(size=(20, 40)), lists(20, 40, RNG.integers(0, 41, 20))
    target[3, :4] = 7, 7, 2, -1  # a class listed twice counts twice
    tensor = torch.from_numpy(x).requires_grad_()
    upstream = RNG.normal(size=20)
    expected = torch.nn.functional.multilabel_margin_loss(tensor, torch.from_numpy(target), reduction="none")
    expected.backward(torch.from_numpy(upstream))
    value, gradient = fl.value_and_grad(LOSS)(x, target, reduction="none", grad_output=upstream)
    assert_close(value, expected.detach().numpy(), factor=100)
    assert_close(gradient, tensor.grad.numpy(), factor=100)


def test_what_follows_the_end_of_a_list_is_not_read():
    x = RNG.normal(size=(1, 4))
    assert LOSS(x, np.array([[2, -1, 99, -7]])) == LOSS(x, np.array([[2, -1, 0, 0]]))


@pytest.mark.parametrize(("wrong", "place"), [(5, (17, 1)), (-2, (17, 1)), (2**40, (17, 1))])
def test_labels_out_of_range(wrong, place):
    x, target = RNG.normal(size=(20, 5)), np.tile([1, 3, -1, -1, -1], (20, 1))
    target[place] = wrong
    target[19, 0] = 9
    untouched = np.full_like(x, 7.0)
    with pytest.raises(IndexError, match=rf"target {wrong} at position \(17, 1\) is out of range for 5 classes"):
        fl.grad(LOSS)(x, target, grad_out=untouched)
    assert (untouched == 7).all()
    with fl.config(check_indices=False):
        value, gradient = fl.value_and_grad(LOSS)(x, target, reduction="none")
    bad = np.isin(np.arange(20), (17, 19))
    np.testing.assert_array_equal(np.isnan(value), bad)
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), bad)
    np.testing.assert_array_equal(np.isnan(gradient).any(axis=1), bad)
    with pytest.raises(IndexError, match=r"target 4 at position \(0,\)"):
        LOSS(np.ones(3), np.array([4, -1, -1]))


def test_shapes_and_dtypes_that_are_refused():
    x = np.ones((3, 4))
    with pytest.raises(ValueError, match=r"target .*\(3, 4\).*\(3,\)"):
        LOSS(x, np.zeros(3, int))
    with pytest.raises(ValueError, match=r"input must have shape \(C,\) or \(N, C\).*\(2, 3, 4\)"):
        LOSS(np.ones((2, 3, 4)), np.zeros((2, 3, 4), int))
    with pytest.raises(ValueError, match="at least one class"):
        LOSS(np.ones((2, 0)), np.zeros((2, 0), int))
    with pytest.raises(TypeError, match=r"class indices of an integer dtype.*float64"):
        LOSS(x, x)
    with pytest.raises(TypeError, match="input must be floating point"):
        LOSS(np.ones((3, 4), int), np.zeros((3, 4), int))


def test_the_gradient_may_replace_the_input():
    x, target = RNG.normal(size=(300, 70)).astype(np.float32), lists(300, 70, RNG.integers(0, 9, 300))
    value, gradient = fl.value_and_grad(LOSS)(x, target)
    again, same = fl.value_and_grad(LOSS)(x, target, grad_out=x)
    assert same is x
    assert value == again
    np.testing.assert_array_equal(x, gradient)


def test_same_bits_on_any_number_of_threads():
    x, target = RNG.normal(size=(4000, 100)).astype(np.float32), lists(4000, 100, RNG.integers(0, 9, 4000))
    results = []
    for threads in (1, 2, 3):
        with fl.config(num_threads=threads):
            results.append(fl.value_and_grad(LOSS)(x, target))
    for value, gradient in results[1:]:
        assert value == results[0][0]
        np.testing.assert_array_equal(gradient, results[0][1])
