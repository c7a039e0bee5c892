"""Arrays of different dtypes in one call: `input` decides what is computed in, each gradient has its array's dtype.

Rows of few classes go through tiles (cpu/tiles.py), which have conversions of their own; eight rows fill a block.
"""

import ml_dtypes
import numpy as np
import pytest

import fastloss as fl

HALF, BFLOAT16 = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
FLOAT, DOUBLE = np.dtype(np.float32), np.dtype(np.float64)
TOLERANCE = {HALF: 2e-3, BFLOAT16: 2e-2, FLOAT: 1e-5, DOUBLE: 1e-5}
PAIRS = [(FLOAT, DOUBLE), (DOUBLE, FLOAT), (DOUBLE, HALF), (DOUBLE, BFLOAT16), (HALF, DOUBLE), (BFLOAT16, FLOAT)]


def rows(dtype, classes, seed):
    return np.random.default_rng(seed).normal(size=(21, classes)).astype(dtype)


def wide(array):
    return np.asarray(array).astype(np.float64)


def assert_near(found, expected, *dtypes):
    tolerance = max(TOLERANCE[dtype] for dtype in dtypes)
    np.testing.assert_allclose(wide(found), wide(expected), tolerance, tolerance)


@pytest.mark.parametrize("classes", [5, 16])
@pytest.mark.parametrize(("own", "other"), PAIRS)
def test_class_probabilities(own, other, classes):
    x, w = rows(own, classes, 0), np.linspace(0.5, 2, classes).astype(other)
    p = np.abs(rows(other, classes, 1))
    assert_near(fl.cross_entropy(x, p), fl.cross_entropy(wide(x), wide(p)), own)
    step = fl.value_and_grad(fl.cross_entropy, ("input", "target", "weight"))
    value, gradients = step(x, p, weight=w, reduction="sum")
    exact, expected = step(wide(x), wide(p), weight=wide(w), reduction="sum")
    assert_near(value, exact, own)
    for found, one, array in zip(gradients, expected, (x, p, w), strict=True):
        assert found.dtype == array.dtype
        assert_near(found, one, own, other)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(("own", "other"), [(FLOAT, DOUBLE), (DOUBLE, HALF), (BFLOAT16, FLOAT)])
def test_grad_output_of_softmax(own, other, dim):
    x, upstream = rows(own, 7, 2), rows(other, 7, 3)
    found = fl.grad(fl.softmax)(x, dim, grad_output=upstream)
    assert found.dtype == own
    assert_near(found, fl.grad(fl.softmax)(wide(x), dim, grad_output=wide(upstream)), own)


@pytest.mark.parametrize("own", [FLOAT, DOUBLE, HALF])
@pytest.mark.parametrize("labels", [np.bool_, np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_labels_of_integers(own, labels):
    x, t = rows(own, 5, 4), rows(FLOAT, 5, 5) > 0
    found = fl.multilabel_soft_margin_loss(x, t.astype(labels))
    assert_near(found, fl.multilabel_soft_margin_loss(wide(x), wide(t)), own)


@pytest.mark.parametrize(("own", "other"), [(FLOAT, DOUBLE), (DOUBLE, HALF)])
def test_target_that_is_differentiated(own, other):
    x, t = rows(own, 5, 6), (rows(FLOAT, 5, 7) > 0).astype(other)
    w = np.linspace(0.5, 2, 5).astype(other)
    step = fl.grad(fl.multilabel_soft_margin_loss, ("input", "target", "weight"))
    for found, expected, array in zip(step(x, t, w), step(wide(x), wide(t), wide(w)), (x, t, w), strict=True):
        assert found.dtype == array.dtype
        assert_near(found, expected, own, other)
