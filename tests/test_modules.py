"""The loss classes: options bound to a function."""

import copy
import inspect
import pickle

import numpy as np
import pytest
from cases import ACTIVE, PLAIN, TYPICAL
from test_errors import NOT_POSSIBLE

import fastloss as fl

CLASSES = [(case, module) for case in PLAIN for module in case.record.modules]
each = pytest.mark.parametrize(("case", "module"), CLASSES, ids=[module.__name__ for _, module in CLASSES])

QUICK = [(case, module) for case, module in CLASSES if case.loss in TYPICAL]
typically = pytest.mark.parametrize(
    ("case", "module"),
    [pytest.param(*both, marks=() if both in QUICK else pytest.mark.slow, id=both[1].__name__) for both in CLASSES],
)


def split(case, module):
    """Return an instance with the case's options, and the arguments it is called with."""
    names = set(inspect.signature(module).parameters)
    arguments = {**case.make(), **case.options}
    return module(**{k: v for k, v in arguments.items() if k in names}), {
        k: v for k, v in arguments.items() if k not in names
    }


@each
def test_public_name_and_registry(case, module):
    assert getattr(fl, module.__name__) is module


# The classes of the regression losses take no weight, as in torch.
COMPLETE = [
    (case, module)
    for case in ACTIVE
    for module in case.record.modules
    if "weight" not in case.arrays or "weight" in inspect.signature(module).parameters
]


@pytest.mark.parametrize(
    ("case", "module"),
    [
        pytest.param(
            case, module, marks=() if (case, module) in QUICK else pytest.mark.slow, id=f"{module.__name__}-{case}"
        )
        for case, module in COMPLETE
    ],
)
def test_an_instance_computes_what_the_function_does(case, module):
    instance, arrays = split(case, module)
    np.testing.assert_array_equal(instance(**arrays), case.call(case.make()))


@typically
def test_gradients_of_an_instance(case, module):
    instance, arrays = split(case, module)
    whole = {**case.make(), **case.options}
    # Bits of matrix products may depend on where their arrays lie; of no other loss.
    tolerance = 1e-13 if case.record.family in ("projected", "chain") else 0
    for kind in ("grad", "value_and_grad") + (("grad_and_hess",) if case.record.hessian else ()):
        transform = getattr(fl, kind)
        expected = transform(case.function)(**whole)
        for result in (getattr(instance, kind)(**arrays), transform(instance)(**arrays)):
            for one, other in zip(_leaves(result), _leaves(expected), strict=True):
                np.testing.assert_allclose(one, other, rtol=tolerance)
    name = case.record.wrt[-1]
    np.testing.assert_allclose(instance.grad(**arrays, wrt=name), fl.grad(case.function, name)(**whole), rtol=tolerance)


def _leaves(result):
    return [leaf for part in result for leaf in _leaves(part)] if isinstance(result, tuple) else [result]


@typically
def test_extra_arguments_reach_an_instance(case, module):
    instance, arrays = split(case, module)
    names = case.wrt(arrays)
    targets = tuple(np.full(arrays[name].shape, np.nan) for name in names)
    _, gradients = instance.value_and_grad(**arrays, wrt=names, grad_out=targets, grad_output=2.0)
    _, halves = instance.value_and_grad(**arrays, wrt=names)
    for gradient, target, half in zip(gradients, targets, halves, strict=True):
        assert gradient is target
        np.testing.assert_allclose(gradient, 2 * half, rtol=1e-13)


@each
def test_repr_builds_an_equal_instance(case, module):
    changed = {
        name: domain.examples[-1]
        for name, domain in case.record.options.items()
        if name in inspect.signature(module).parameters
    }
    for options in ({}, changed):
        instance = module(**options)
        again = eval(repr(instance), {module.__name__: module, "inf": np.inf})
        assert again == instance
        assert hash(again) == hash(instance)
        assert pickle.loads(pickle.dumps(instance)) == instance
    for name in changed:
        assert f"{name}={changed[name]!r}" in repr(module(**changed))


@each
def test_equality_is_by_options(case, module):
    assert module() == module()
    assert module() != object()
    for name, domain in case.record.options.items():
        default = inspect.signature(module).parameters[name].default
        others = [value for value in domain.examples if value != default]
        assert all(module(**{name: value}) != module() for value in others)


@each
def test_instances_are_immutable(case, module):
    instance = module()
    with pytest.raises(AttributeError):
        instance.reduction = "sum"


@each
def test_options_are_checked_in_the_constructor(case, module):
    for name, domain in case.record.options.items():
        for value in NOT_POSSIBLE.get(domain.text, ("median",)):
            with pytest.raises(ValueError, match=name):
                module(**{name: value})
    with pytest.raises(TypeError, match="colour"):
        module(colour=1)


@each
def test_deprecated_pair_in_the_constructor(case, module):
    if not case.record.legacy:
        with pytest.raises(TypeError, match="size_average"):
            module(size_average=True)
        return
    with pytest.warns(DeprecationWarning, match="reduction='sum'") as caught:
        instance = module(size_average=False)
    assert instance == module(reduction="sum")
    assert caught[0].filename == __file__


def test_arrays_as_options():
    w = np.array([1.0, 2.0, 3.0])
    one, other = fl.CrossEntropyLoss(weight=w), fl.CrossEntropyLoss(weight=w.copy())
    assert one == other
    assert hash(one) == hash(other)
    assert one != fl.CrossEntropyLoss(weight=w + 1)
    assert one != fl.CrossEntropyLoss()
    assert one != fl.CrossEntropyLoss(weight=w.astype(np.float32))
    x, y = np.zeros((2, 3)), np.array([0, 2])
    again = pickle.loads(pickle.dumps(one))
    assert again == one
    assert again(x, y) == one(x, y) == fl.cross_entropy(x, y, w)
    np.testing.assert_array_equal(again.grad(x, y), fl.grad(fl.cross_entropy)(x, y, w))


def test_tensors_of_two_devices_are_not_equal():
    torch = pytest.importorskip("torch")
    weight = torch.ones(3)
    assert fl.NLLLoss(weight=weight) == fl.NLLLoss(weight=weight.clone())
    assert fl.NLLLoss(weight=weight) != fl.NLLLoss(weight=torch.ones(3, device="meta"))


def test_an_instance_with_a_list_has_a_hash():
    assert hash(fl.NLLLoss(weight=[1.0, 2.0])) == hash(fl.NLLLoss(weight=[1.0, 2.0]))


def test_an_instance_that_was_used_pickles():
    instance = fl.HuberLoss(delta=0.5)
    x = np.array([1.0, 0.25])
    expected = instance.grad(x, np.zeros(2))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(instance)).grad(x, np.zeros(2)), expected)


def test_options_are_not_taken_with_a_call():
    x, y, w = np.zeros((2, 3)), np.array([0, 2]), np.ones(3)
    layer = fl.LinearCrossEntropyLoss(3, 4)
    for instance, arrays, option in (
        (fl.MSELoss(), (x, x), {"reduction": "sum"}),
        (fl.MSELoss(), (x, x), {"size_average": False}),
        (fl.CrossEntropyLoss(weight=w), (x, y), {"weight": None}),
        (layer, (x, y), {"reduction": "sum"}),
        (layer, (x, y), {"linear_weight": w}),
    ):
        (name,) = option
        ways = [] if instance is layer else [instance]
        for way in (*ways, instance.grad, instance.value_and_grad, fl.grad(instance), fl.value_and_grad(instance)):
            with pytest.raises(TypeError, match=rf"called with arrays: {name} is an option of the class"):
                way(*arrays, **option)


def test_arguments_to_differentiate_may_be_listed():
    x, names = np.ones(3), ["input", "target"]
    _, gradients = fl.MSELoss().value_and_grad(x, 2 * x, wrt=names)
    np.testing.assert_array_equal(gradients, fl.MSELoss().grad(x, 2 * x, wrt=tuple(names)))
    assert len(fl.LinearCrossEntropyLoss(3, 4).grad(x, np.array(1), wrt=["input", "linear_weight"])) == 2


@pytest.mark.slow
def test_a_linear_layer_takes_the_options_of_its_function(rng):
    x, y, s = rng.normal(size=(6, 3)), rng.integers(3, size=6), rng.uniform(size=6)
    scores = {"logit_scale": 0.5, "softcap": 4.0, "z_loss": 0.01, "valid_classes": 3, "returns": ("entropy",)}
    layer = fl.LinearCrossEntropyLoss(3, 4, dtype=np.float64, **scores)
    ours = layer(x, y, sample_weight=s, divisor=2.0)
    theirs = fl.linear_cross_entropy(x, layer.linear.weight, y, sample_weight=s, divisor=2.0, **scores)
    assert ours.loss == theirs.loss
    np.testing.assert_array_equal(ours.entropy, theirs.entropy)
    assert layer.value_and_grad(x, y, sample_weight=s, divisor=2.0)[0].loss == ours.loss
    assert eval(
        repr(fl.LinearCrossEntropyLoss(3, 4, softcap=2.0)), {"LinearCrossEntropyLoss": fl.LinearCrossEntropyLoss}
    )
    with pytest.raises(ValueError, match="softcap"):
        fl.LinearCrossEntropyLoss(3, 4, softcap=-1.0)


def test_a_deep_copy_has_arrays_of_its_own():
    w = np.array([1.0, 2.0, 3.0])
    instance = fl.CrossEntropyLoss(weight=w)
    deep = copy.deepcopy(instance)
    assert deep == instance
    assert not np.shares_memory(deep.weight, w)
    assert copy.copy(instance).weight is w
