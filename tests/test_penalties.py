"""Penalties on one array, and on the parameters of a model."""

import pickle

import numpy as np
import pytest

import fastloss as fl

RNG = np.random.default_rng(0)
PARAMS = [RNG.normal(size=(3, 4)), RNG.normal(size=5), np.array(2.0)]
PENALTIES = [
    (fl.l1_penalty, lambda p: abs(p).sum(), np.sign, np.zeros_like),
    (fl.l2_penalty, lambda p: (p * p).sum() / 2, lambda p: p, np.ones_like),
]
each = pytest.mark.parametrize(("loss", "value", "slope", "curvature"), PENALTIES)


@each
def test_one_array(loss, value, slope, curvature):
    p = PARAMS[0]
    assert loss(p, 0.3) == pytest.approx(0.3 * value(p), rel=1e-14)
    found, gradient = fl.value_and_grad(loss)(p, coefficient=0.3, grad_output=2.0)
    assert found == pytest.approx(0.3 * value(p), rel=1e-14)
    np.testing.assert_allclose(gradient, 0.6 * slope(p), rtol=1e-14)
    gradient, second = fl.grad_and_hess(loss)(p, 0.3)
    np.testing.assert_allclose(second, 0.3 * curvature(p), rtol=1e-14)
    (gradient,) = fl.grad(loss, ("params",))(p, 0.3)
    np.testing.assert_allclose(gradient, 0.3 * slope(p), rtol=1e-14)


@each
@pytest.mark.parametrize("given", [list, tuple, iter], ids=["list", "tuple", "generator"])
def test_several_arrays(loss, value, slope, curvature, given):
    expected = 0.3 * sum(value(p) for p in PARAMS)
    assert loss(given(PARAMS), 0.3) == pytest.approx(expected, rel=1e-14)
    found, gradients = fl.value_and_grad(loss)(given(PARAMS), 0.3)
    assert found == pytest.approx(expected, rel=1e-14)
    assert isinstance(gradients, list)
    for gradient, p in zip(gradients, PARAMS, strict=True):
        np.testing.assert_allclose(gradient, 0.3 * slope(p), rtol=1e-14)
    for gradient, p in zip(fl.grad(loss)(given(PARAMS), 0.3, grad_output=-2.0), PARAMS, strict=True):
        np.testing.assert_allclose(gradient, -0.6 * slope(p), rtol=1e-14)
    gradients, seconds = fl.grad_and_hess(loss)(given(PARAMS), 0.3)
    for second, p in zip(seconds, PARAMS, strict=True):
        np.testing.assert_allclose(second, 0.3 * curvature(p), rtol=1e-14)


@each
def test_no_arrays(loss, value, slope, curvature):
    assert loss([], 1.0) == 0
    assert fl.value_and_grad(loss)([], 1.0) == (0, [])
    assert fl.grad_and_hess(loss)((), 1.0) == ([], [])


def test_numbers_are_one_array():
    assert fl.l1_penalty([1.0, -2.0], 0.5) == 1.5
    assert fl.l1_penalty([[1, -2], [3, -4]], 0.5) == 5
    assert fl.l2_penalty(3.0, 1.0) == 4.5
    assert fl.l1_penalty([np.float64(1.0), np.float64(-2.0)], 0.5) == 1.5


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_narrow_types(dtype):
    arrays = [p.astype(dtype) for p in PARAMS]
    value, gradients = fl.value_and_grad(fl.l2_penalty)(arrays, 0.5)
    assert value.dtype == np.float32
    assert value == pytest.approx(sum((p.astype(float) ** 2).sum() for p in arrays) / 4, rel=1e-6)
    assert [g.dtype for g in gradients] == [np.dtype(dtype)] * 3


def test_gradients_are_written_where_the_user_says():
    p = [np.array([1.0, -2.0]), np.array([3.0])]
    given = [np.empty(2), np.empty(1)]
    _, gradients = fl.value_and_grad(fl.l2_penalty)(p, 2.0, grad_out=given)
    assert gradients is given
    np.testing.assert_array_equal(given[0], [2.0, -4.0])
    fl.grad(fl.l2_penalty)(p, 2.0, grad_out=p)
    np.testing.assert_array_equal(p[1], [6.0])
    untouched = [np.full(2, 7.0), np.full(2, 7.0)]
    with pytest.raises(ValueError, match=r"grad_out .*\(1,\).*\(2,\)"):
        fl.grad(fl.l2_penalty)(p, 2.0, grad_out=untouched)
    assert (untouched[0] == 7).all()
    with pytest.raises(ValueError, match="2 arrays"):
        fl.grad(fl.l2_penalty)(p, 2.0, grad_out=untouched[:1])


def test_what_is_refused():
    for wrong in (-1.0, float("nan")):
        for call in (lambda c: fl.l1_penalty(np.ones(2), c), lambda c: fl.l1_penalty(np.ones(2), coefficient=c)):
            with pytest.raises(ValueError, match="coefficient"):
                call(wrong)
    with pytest.raises(TypeError, match="coefficient"):
        fl.l2_penalty(np.ones(2), "wide")
    with pytest.raises(TypeError, match=r"params\[1\] must be floating point"):
        fl.l2_penalty([np.ones(2), np.ones(2, int)], 1.0)
    with pytest.raises(TypeError, match="params"):
        fl.l2_penalty(None, 1.0)
    with pytest.raises(ValueError, match="out is for an unreduced value"):
        fl.value_and_grad(fl.l2_penalty)([np.ones(2)], 1.0, out=np.ones(()))


def test_parameters_of_a_torch_model():
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    expected = 0.05 * sum((p * p).sum() for p in model.parameters())
    value, gradients = fl.value_and_grad(fl.l2_penalty)(model.parameters(), 0.1)
    assert isinstance(value, torch.Tensor)
    torch.testing.assert_close(value, expected.detach())
    for gradient, p in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, 0.1 * p.detach())


def test_classes():
    penalty = fl.L2Penalty(0.5)
    assert repr(penalty) == "L2Penalty(coefficient=0.5)"
    assert pickle.loads(pickle.dumps(penalty)) == penalty != fl.L2Penalty(0.25)
    assert penalty([np.ones(4)]) == 1
    assert penalty.value_and_grad(np.ones(4))[0] == 1
    with pytest.raises(ValueError, match="coefficient"):
        fl.L1Penalty(-1.0)
