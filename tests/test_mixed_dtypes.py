"""Arrays of different dtypes in one call: `input` decides what is computed in, each gradient has its array's dtype.

Rows of few classes go through tiles (cpu/loops/rowwise_transposed.py), which have conversions of their own; eight rows
fill a block.
"""

import ml_dtypes
import numpy as np
import pytest
from cases import quickly

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


@pytest.mark.slow
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


@pytest.mark.parametrize("dim", quickly(1, then=[0]))
@pytest.mark.parametrize(
    ("own", "other"),
    [(FLOAT, DOUBLE), *[pytest.param(*pair, marks=pytest.mark.slow) for pair in ((DOUBLE, HALF), (BFLOAT16, FLOAT))]],
)
def test_grad_output_of_softmax(own, other, dim):
    x, upstream = rows(own, 7, 2), rows(other, 7, 3)
    found = fl.grad(fl.softmax)(x, dim, grad_output=upstream)
    assert found.dtype == own
    assert_near(found, fl.grad(fl.softmax)(wide(x), dim, grad_output=wide(upstream)), own)


@pytest.mark.parametrize("own", quickly(FLOAT, then=[HALF]))
@pytest.mark.parametrize("labels", quickly(np.bool_, np.uint8, then=[np.int8, np.int32, np.int64]))
def test_labels_of_integers(own, labels):
    x, t = rows(own, 5, 4), rows(FLOAT, 5, 5) > 0
    found = fl.multilabel_soft_margin_loss(x, t.astype(labels))
    assert_near(found, fl.multilabel_soft_margin_loss(wide(x), wide(t)), own)


@pytest.mark.slow
@pytest.mark.parametrize(("own", "other"), [(FLOAT, DOUBLE), (DOUBLE, HALF)])
def test_target_that_is_differentiated(own, other):
    x, t = rows(own, 5, 6), (rows(FLOAT, 5, 7) > 0).astype(other)
    w = np.linspace(0.5, 2, 5).astype(other)
    step = fl.grad(fl.multilabel_soft_margin_loss, ("input", "target", "weight"))
    for found, expected, array in zip(step(x, t, w), step(wide(x), wide(t), wide(w)), (x, t, w), strict=True):
        assert found.dtype == array.dtype
        assert_near(found, expected, own, other)


@pytest.mark.parametrize(
    ("own", "other"), PAIRS[:1] + [pytest.param(*pair, marks=pytest.mark.slow) for pair in PAIRS[1:]]
)
def test_gradient_through_a_converted_input(own, other):
    """The value and its upstream gradient have the dtype converted to, derivatives the input's own."""
    x, upstream = rows(own, 7, 8), rows(other, 7, 9)
    exact, expected = fl.value_and_grad(fl.softmax)(wide(x), 1, grad_output=wide(upstream))
    target = np.empty_like(x.T).T
    for given in (None, target):
        value, gradient = fl.value_and_grad(fl.softmax)(x, 1, dtype=other, grad_output=upstream, grad_out=given)
        assert (value.dtype, gradient.dtype) == (other, own)
        assert_near(value, exact, own, other)
        assert_near(gradient, expected, own, other)
    assert gradient is target
    assert [part.dtype for part in fl.grad_and_hess(fl.log_softmax)(x, 1, dtype=other)] == [own, own]


@pytest.mark.slow
def test_gradient_through_a_converted_tensor():
    torch = pytest.importorskip("torch")
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    expected = torch.log_softmax(x, 1, dtype=torch.float32)
    expected.sum().backward()
    value, gradient = fl.value_and_grad(fl.log_softmax)(x, 1, dtype=torch.float32)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, x.grad)
