"""What a transform is beside what it computes: one object, with a name, a signature, and a way into other processes."""

import copy
import inspect
import multiprocessing
import pickle

import ml_dtypes
import numpy as np
import pytest

import fastloss as fl

X, Y = np.arange(12.0).reshape(4, 3) % 5, np.array([0, 2, 1, 1])
EXTRA = ["grad_output", "grad_out", "out"]


@pytest.mark.parametrize("transform", [fl.grad, fl.value_and_grad, fl.grad_and_hess], ids=lambda t: t.__name__)
def test_of_a_function(transform):
    made = transform(fl.cross_entropy)
    assert transform(fl.cross_entropy) is made
    assert pickle.loads(pickle.dumps(made)) is made
    assert repr(made) == made.__name__ == f"{transform.__name__}(cross_entropy)"
    assert "class probabilities" in made.__doc__
    assert list(inspect.signature(made).parameters) == [*inspect.signature(fl.cross_entropy).parameters, *EXTRA]
    inspect.signature(made).bind(X, Y, label_smoothing=0.1, grad_output=2.0)


def test_of_chosen_arguments():
    made = fl.grad(fl.mse_loss, ["input", "target"])
    assert repr(made) == "grad(mse_loss, ('input', 'target'))"
    assert pickle.loads(pickle.dumps(made)) is fl.grad(fl.mse_loss, ("input", "target"))


def test_of_an_instance():
    made = fl.value_and_grad(fl.CrossEntropyLoss(label_smoothing=0.1, weight=np.array([1.0, 2.0, 3.0])))
    again = pickle.loads(pickle.dumps(made))
    for one, other in zip(made(X, Y), again(X, Y), strict=True):
        np.testing.assert_array_equal(one, other)
    assert list(inspect.signature(made).parameters) == ["input", "target", "sample_weight", "divisor", *EXTRA]
    assert repr(fl.grad(fl.MSELoss())) == "grad(MSELoss(reduction='mean'))"


@pytest.mark.parametrize(
    "layer",
    [fl.LinearCrossEntropyLoss(3, 4, out_features=(2,)), fl.AdaptiveLogSoftmaxWithLoss(3, 5, [2])],
    ids=lambda layer: type(layer).__name__,
)
def test_of_an_instance_with_parameters(layer):
    x, y = X[:, :3], np.zeros((4, *getattr(layer, "out_features", ())), int)
    made = fl.grad(layer, ["input"])
    assert fl.grad(layer, ("input",)) is made
    assert repr(made) == f"grad({layer!r}, ('input',))"
    names = list(inspect.signature(made).parameters)
    assert (names[:2], names[-3:]) == (["input", "target"], EXTRA)
    again = pickle.loads(pickle.dumps(made))
    np.testing.assert_array_equal(again(x, y), made(x, y))
    other = copy.copy(layer)
    assert fl.grad(other, ["input"]) is not made
    assert pickle.loads(pickle.dumps(layer)) == copy.deepcopy(layer) == layer
    with pytest.raises(TypeError, match="temperature"):
        made(x, y, temperature=2.0)


def test_in_other_processes():
    made = fl.value_and_grad(fl.CrossEntropyLoss(reduction="sum"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        (found,) = pool.starmap(made, [(X, Y)])
    for one, other in zip(found, made(X, Y), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("kind", [int, float, np.float16, np.float32, np.float64, np.int8, ml_dtypes.bfloat16])
def test_numbers_upstream_are_factors(kind, reduction):
    x = np.arange(3.0)
    gradient = fl.grad(fl.mse_loss)(x, -x, reduction=reduction, grad_output=kind(2))
    np.testing.assert_array_equal(gradient, 8 * x)
    with pytest.raises(ValueError, match="grad_output"):
        fl.grad(fl.mse_loss)(x, -x, reduction=reduction, grad_output=10**400)
    with pytest.raises(TypeError, match="grad_output"):
        fl.grad(fl.mse_loss)(x, -x, reduction=reduction, grad_output=np.complex64(2))


def test_no_arrays_are_not_nothing():
    step = fl.grad(fl.mse_loss)
    for _ in range(2):  # a plan for calls without is kept
        step(X, X)
    for given in ((), []):
        with pytest.raises(TypeError, match="grad_out must be an array"):
            step(X, X, grad_out=given)


@pytest.mark.parametrize("transform", [fl.grad, fl.partial_sum], ids=lambda t: t.__name__)
def test_of_a_class(transform):
    with pytest.raises(TypeError, match="got the class CrossEntropyLoss: call it first"):
        transform(fl.CrossEntropyLoss)
