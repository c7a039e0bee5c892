"""The short way for plain NumPy arrays gives what the long way gives, and takes itself out where it must."""

import numpy as np
import pytest
from cases import PLAIN

import fastloss as fl
from fastloss import _call, _quick, _quick_torch

FAMILIES = ("elementwise", "rowwise", "rowmap", "pairwise", "label_sets", "projected")
CASES = [case for case in PLAIN if case.record.family in FAMILIES]
TAKEN = [
    fl.mse_loss, fl.gaussian_nll_loss, fl.cross_entropy, fl.nll_loss, fl.multilabel_soft_margin_loss, fl.softmax,
    fl.logsumexp, fl.cosine_embedding_loss, fl.triplet_margin_loss, fl.multilabel_margin_loss,
    fl.linear_cross_entropy,
]  # fmt: skip


@pytest.fixture
def long_way(monkeypatch):
    """Return a function that computes something without the short way."""

    def compute(function):
        with monkeypatch.context() as context:
            context.setattr(_call, "QUICK", {})
            return function()

    return compute


def same(one, other):
    if isinstance(one, tuple):
        assert len(one) == len(other)
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    assert type(one) is type(other)
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one, other)
    return True


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ways_give_the_same_bits(case, long_way):
    arrays = case.make("float64", seed=3)
    for reduction in case.reductions:
        for compute in (
            lambda: case.call(arrays, **reduction),  # noqa: B023
            lambda: case.value_and_grad(arrays, **reduction),  # noqa: B023
        ):
            assert same(compute(), long_way(compute))


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_both_ways_give_the_same_tensors(case, dtype, long_way):
    torch = pytest.importorskip("torch")

    def tensor(array):
        made = torch.from_numpy(np.array(array))
        return made.requires_grad_() if made.is_floating_point() else made

    arrays = {name: tensor(array) for name, array in case.make(dtype, seed=3).items()}
    for compute in (lambda: case.call(arrays), lambda: case.value_and_grad(arrays)):
        short, long = compute(), long_way(compute)
        short, long = ([one] if isinstance(one, torch.Tensor) else _flat(one) for one in (short, long))
        for a, b in zip(short, long, strict=True):
            assert (a.dtype, a.shape, a.requires_grad) == (b.dtype, b.shape, False)
            assert torch.equal(a, b)


def _flat(results):
    return [one for part in results for one in (_flat(part) if isinstance(part, tuple) else [part])]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_both_ways_write_the_same_into_arrays_of_the_callers(case, long_way):
    arrays = case.make("float64", seed=3)
    step = case.value_and_grad(arrays)[1]

    def compute():
        given = tuple([np.full_like(g, 7) for g in step]) if isinstance(step, tuple) else np.full_like(step, 7)
        value, gradient = case.value_and_grad(arrays, grad_out=given)
        pairs = zip(gradient, given, strict=True) if isinstance(given, tuple) else [(gradient, given)]
        assert all(one is other for one, other in pairs)
        return value, gradient

    assert same(compute(), long_way(compute))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (lambda x: x, None),  # in place
        (lambda x: np.empty((3, 2)).T, None),
        (lambda x: np.empty((2, 3), np.float32), TypeError),
        (lambda x: np.empty((3, 2)), ValueError),
        (lambda x: np.broadcast_to(0.0, (2, 3)), ValueError),
        (lambda x: [[0.0] * 3] * 2, TypeError),
    ],
)
def test_what_is_not_plain_goes_the_long_way(given, expected):
    x = np.arange(6.0).reshape(2, 3)
    y = np.array([0, 2])
    right = fl.grad(fl.cross_entropy)(x, y)
    target = given(x)
    if expected is None:
        assert fl.grad(fl.cross_entropy)(x, y, grad_out=target) is target
        np.testing.assert_array_equal(target, right)
    else:
        with pytest.raises(expected, match="grad_out"):
            fl.grad(fl.cross_entropy)(x, y, grad_out=target)


def test_nothing_is_written_where_the_loss_is_not_defined():
    given = np.full(3, 7.0)
    with pytest.raises(ValueError, match="must lie in"):
        fl.grad(fl.binary_cross_entropy)(np.array([0.5, 2.0, 0.5]), np.ones(3), grad_out=given)
    with pytest.raises(IndexError):
        fl.grad(fl.cross_entropy)(np.ones((1, 3)), np.array([3]), grad_out=given.reshape(1, 3))
    assert (given == 7).all()


def test_the_short_way_is_taken(monkeypatch):
    """Or this file compares the long way with itself."""
    taken = []
    for kind, quick in _quick.QUICK.items():

        def spy(record, job, request, quick=quick):
            result = quick(record, job, request)
            taken.append(result is not None)
            return result

        monkeypatch.setitem(_call.QUICK, kind, spy)
    plain = {case.loss: case for case in CASES}
    for function in TAKEN:
        case = plain[function.__name__]
        case.call(case.make())
        gradient = case.value_and_grad(case.make())[1]
        if function is not fl.linear_cross_entropy:
            case.value_and_grad(case.make(), grad_out=gradient)
    assert taken == [True] * (3 * len(TAKEN) - 1)


def test_the_short_way_is_taken_for_tensors(monkeypatch):
    torch = pytest.importorskip("torch")
    taken = []

    def spy(record, job, request):
        result = _quick_torch.quick_torch(record, job, request)
        taken.append(result is not None)
        return result

    monkeypatch.setattr(_call, "quick_torch", spy)
    plain = {case.loss: case for case in CASES}
    for function in TAKEN:
        case = plain[function.__name__]
        case.value_and_grad({name: torch.from_numpy(np.array(a)) for name, a in case.make().items()})
    assert taken == [True] * len(TAKEN)
    fl.mse_loss(*torch.ones((2, 3), dtype=torch.bfloat16))
    fl.mse_loss(torch.ones(3), torch.ones(3), weight=torch.ones(3))
    assert taken[-2:] == [False, False]


def test_errors_come_from_the_long_way():
    x = np.ones((2, 3))
    with pytest.raises(IndexError, match=r"target 3 at position \(1,\)"):
        fl.grad(fl.cross_entropy)(x, np.array([0, 3]))
    with pytest.raises(IndexError, match=r"target 3 at position \(1, 0\)"):
        fl.grad(fl.multilabel_margin_loss)(x, np.array([[0, 1, -1], [3, -1, -1]]))
    with pytest.raises(ValueError, match="must lie in"):
        fl.grad(fl.binary_cross_entropy)(2 * x, x)
    with pytest.raises(ValueError, match="var must not be negative"):
        fl.grad(fl.gaussian_nll_loss)(x, x, -x)
    with pytest.raises(ValueError, match="out is for an unreduced value"):
        fl.value_and_grad(fl.mse_loss)(x, x, out=x)
    for call in (fl.nll_loss, fl.cross_entropy, fl.multilabel_soft_margin_loss):
        with pytest.raises(TypeError, match="target"):
            call(x, None)
    with pytest.raises(TypeError, match="target"):
        fl.cosine_embedding_loss(x, x, None)
    with pytest.raises(TypeError, match="dim must be an integer"):
        fl.softmax(x, 1.0)
    with pytest.warns(UserWarning, match="dim"):
        fl.softmax(x)
    assert np.isnan(fl.binary_cross_entropy(np.full(3, 0.5), np.full(3, np.nan)))


def test_labels_out_of_range_without_the_check():
    with fl.config(check_indices=False):
        value, gradient = fl.value_and_grad(fl.cross_entropy)(np.ones((2, 3)), np.array([0, 3]), reduction="none")
    np.testing.assert_array_equal(np.isnan(value), [False, True])
    np.testing.assert_array_equal(np.isnan(gradient).all(axis=1), [False, True])
