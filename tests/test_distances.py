"""Triplets under a distance of one's choice; distances along any axis and of arrays that broadcast."""

import dataclasses
import pickle

import numpy as np
import pytest
from cases import assert_close, quickly

import fastloss as fl

RNG = np.random.default_rng(3)
TRIPLET = tuple(RNG.normal(size=(3, 6, 4)))
NAMES = ("anchor", "positive", "negative")
LOSS = fl.triplet_margin_with_distance_loss


def squared(a, b):
    return ((a - b) ** 2).sum(-1)


def squared_vjp(a, b, upstream):
    slope = 2 * (a - b) * upstream[..., None]
    return slope, -slope


DISTANCES = {
    "euclidean": lambda a, b: np.sqrt(((a - b + 1e-6) ** 2).sum(-1)),
    "squared_euclidean": squared,
    "manhattan": lambda a, b: abs(a - b).sum(-1),
    "cosine": lambda a, b: 1 - (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1)),
}
NAMED = quickly("cosine", then=[name for name in DISTANCES if name != "cosine"])


def by_definition(distance, swap, margin=0.7):
    a, p, n = TRIPLET
    far = np.minimum(distance(a, n), distance(p, n)) if swap else distance(a, n)
    return np.maximum(0, distance(a, p) - far + margin)


@pytest.mark.parametrize("swap", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", NAMED)
def test_named_distances(name, swap):
    options = {"distance_function": name, "margin": 0.7, "swap": swap}
    for reduction, combine in (("none", np.asarray), ("sum", np.sum), ("mean", np.mean)):
        found = LOSS(*TRIPLET, **options, reduction=reduction)
        assert_close(found, combine(by_definition(DISTANCES[name], swap)), factor=10)
    if name == "euclidean":
        assert_close(LOSS(*TRIPLET, margin=0.7, swap=swap), by_definition(DISTANCES[name], swap).mean(), factor=10)


@pytest.mark.parametrize("swap", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", NAMED)
def test_derivatives_of_named_distances(name, swap):
    """Along a random direction, by central differences; the second derivative from the first."""
    options = {"distance_function": name, "margin": 0.7, "swap": swap, "reduction": "sum"}
    step, slopes = 1e-5, fl.grad(LOSS, NAMES)
    gradients = slopes(*TRIPLET, **options)
    for k, gradient in enumerate(gradients):
        direction = RNG.normal(size=TRIPLET[k].shape)
        moved = [[a + s * step * direction if i == k else a for i, a in enumerate(TRIPLET)] for s in (1, -1)]
        expected = (LOSS(*moved[0], **options) - LOSS(*moved[1], **options)) / (2 * step)
        np.testing.assert_allclose((gradient * direction).sum(), expected, rtol=1e-7)
    gradient, second = fl.grad_and_hess(LOSS)(*TRIPLET, **options)
    np.testing.assert_allclose(gradient, gradients[0], rtol=1e-12)
    for place in ((0, 0), (2, 3), (5, 1)):
        shift = np.zeros_like(TRIPLET[0])
        shift[place] = step
        ends = [slopes(TRIPLET[0] + s * shift, *TRIPLET[1:], **options)[0][place] for s in (1, -1)]
        np.testing.assert_allclose(second[place], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("swap", [False, True])
def test_callable_distance(swap):
    options = {"margin": 0.7, "swap": swap, "reduction": "none"}
    own = {**options, "distance_function": squared, "distance_vjp": squared_vjp}
    upstream = RNG.normal(size=6)
    value, gradients = fl.value_and_grad(LOSS)(*TRIPLET, **own, grad_output=upstream)
    known, exact = fl.value_and_grad(LOSS)(
        *TRIPLET, **options, distance_function="squared_euclidean", grad_output=upstream
    )
    assert_close(value, known, factor=10)
    for gradient, one in zip(gradients, exact, strict=True):
        assert_close(gradient, one, factor=10)
    target, out = np.empty((6, 4)), np.empty(6)
    value, gradient = fl.value_and_grad(LOSS, "positive")(
        *TRIPLET, **own, grad_output=upstream, grad_out=target, out=out
    )
    assert gradient is target
    assert value is out
    assert_close(target, exact[1], factor=10)


def test_callable_distance_without_its_product():
    assert LOSS(*TRIPLET, distance_function=squared) == pytest.approx(
        LOSS(*TRIPLET, distance_function="squared_euclidean"), rel=1e-14
    )
    with pytest.raises(ValueError, match=r"vector-Jacobian product.*distance_vjp"):
        fl.grad(LOSS)(*TRIPLET, distance_function=squared)
    with pytest.raises(ValueError, match="no second derivative"):
        fl.grad_and_hess(LOSS)(*TRIPLET, distance_function=squared, distance_vjp=squared_vjp)


def test_callables_that_return_something_else():
    with pytest.raises(TypeError, match="two gradients"):
        fl.grad(LOSS)(*TRIPLET, distance_function=squared, distance_vjp=lambda a, b, g: a)
    with pytest.raises(ValueError, match=r"distance_vjp's gradient of anchor.*\(6, 4\).*\(6,\)"):
        fl.grad(LOSS)(*TRIPLET, distance_function=squared, distance_vjp=lambda a, b, g: (g, g))
    shapes = iter([(6,), (5,)])
    with pytest.raises(ValueError, match=r"distance of anchor and positive \(6,\).*negative \(5,\)"):
        LOSS(*TRIPLET, distance_function=lambda a, b: np.zeros(next(shapes)))
    with pytest.raises(ValueError, match="same number of axes"):
        LOSS(TRIPLET[0], TRIPLET[1], TRIPLET[2][0], distance_function=squared)
    with pytest.raises(TypeError, match="negative must be floating point"):
        LOSS(TRIPLET[0], TRIPLET[1], np.ones((6, 4), int), distance_function="cosine")


def test_class_with_a_callable():
    loss = fl.TripletMarginWithDistanceLoss(distance_function=squared, distance_vjp=squared_vjp, swap=True)
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert len(loss.grad(*TRIPLET)) == 3


def test_a_callable_without_a_hash():
    @dataclasses.dataclass
    class Scaled:
        factor: float

        def __call__(self, a, b):
            return self.factor * squared(a, b)

    assert LOSS(*TRIPLET, distance_function=Scaled(1.0)) == LOSS(*TRIPLET, distance_function=squared)


def test_torch_tensors_and_callables():
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    tensors = [torch.from_numpy(a.copy()).requires_grad_() for a in TRIPLET]
    F.triplet_margin_with_distance_loss(*tensors, distance_function=squared, swap=True).backward()
    gradients = fl.grad(LOSS)(
        *[t.detach() for t in tensors], distance_function=squared, distance_vjp=squared_vjp, swap=True
    )
    for gradient, tensor in zip(gradients, tensors, strict=True):
        torch.testing.assert_close(gradient, tensor.grad)


@pytest.mark.parametrize(("shapes", "dim"), [(((3, 4, 2), (3, 4, 2)), 0), (((4, 3), (2, 1, 3)), 1), (((5,), (5,)), 0)])
def test_cosine_similarity_along_any_axis(shapes, dim):
    x1, x2 = (RNG.normal(size=shape) for shape in shapes)
    value, (g1, g2) = fl.value_and_grad(fl.cosine_similarity)(x1, x2, dim=dim)
    a, b = np.broadcast_arrays(x1, x2)
    norms = [np.sqrt((v * v).sum(dim, keepdims=True)) for v in (a, b)]
    cosine = (a * b).sum(dim, keepdims=True) / norms[0] / norms[1]
    assert_close(value, cosine.squeeze(dim), factor=10)
    for gradient, x, own, other, norm in ((g1, x1, a, b, norms[0]), (g2, x2, b, a, norms[1])):
        full = other / norms[0] / norms[1] - cosine * own / norm**2
        lead = tuple(range(full.ndim - x.ndim))
        full = full.sum(lead)
        stretched = tuple(k for k in range(x.ndim) if x.shape[k] != full.shape[k])
        assert_close(gradient, full.sum(stretched, keepdims=True), factor=100)
        assert gradient.flags.c_contiguous
    target = np.empty_like(x1)
    assert fl.grad(fl.cosine_similarity, "x1")(x1, x2, dim=dim, grad_out=target) is target
    np.testing.assert_array_equal(target, g1)


def test_cosine_similarity_of_short_vectors():
    """Norms below eps count as eps, their derivatives flow; a zero vector has similarity 0."""
    value, gradient = fl.value_and_grad(fl.cosine_similarity, "x1")([[0.5]], [[1.0]], eps=1.0)
    assert value == 0.5
    assert gradient == 0.5
    for dtype in (np.float64, np.float32, np.float16):
        zero, one = np.zeros((1, 3), dtype), np.ones((1, 3), dtype)
        assert fl.cosine_similarity(zero, one) == 0
    np.testing.assert_allclose(fl.grad(fl.cosine_similarity, "x1")(zero.astype(float), one), 1e8 / np.sqrt(3))


def test_cosine_similarity_needs_an_axis_of_the_common_shape():
    with pytest.raises(ValueError, match="dim 2 is out of range"):
        fl.cosine_similarity(np.ones((2, 3)), np.ones((2, 3)), dim=2)
    with pytest.raises(ValueError, match="dim 1 is out of range"):
        fl.cosine_similarity(np.ones(3), np.ones(3))


@pytest.mark.parametrize("p", [0.0, 0.5, 1.0, 2.0, 3.0, np.inf])
def test_pairwise_distance_broadcasts(p):
    torch = pytest.importorskip("torch")
    x1, x2 = RNG.normal(size=(5, 4)), RNG.normal(size=4)
    tensors = [torch.from_numpy(x).requires_grad_() for x in (x1, x2)]
    expected = torch.nn.functional.pairwise_distance(*tensors, p=p, keepdim=True)
    value, gradients = fl.value_and_grad(fl.pairwise_distance)(x1, x2, p=p, keepdim=True)
    assert_close(value, expected.detach().numpy(), factor=100)
    if p == 0:
        assert not any(gradient.any() for gradient in gradients)
        return
    expected.sum().backward()
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert_close(gradient, tensor.grad.numpy(), factor=100)


def test_second_derivatives_of_a_broadcast_input_add_up():
    """The diagonal belongs to the input: an element used several times gets the sum."""
    x, t = np.array([[0.5], [2.0]]), np.zeros((2, 3))
    with pytest.warns(UserWarning, match="broadcast"):
        gradient, second = fl.grad_and_hess(fl.mse_loss)(x, t, reduction="sum")
    np.testing.assert_array_equal(gradient, [[3.0], [12.0]])
    np.testing.assert_array_equal(second, [[6.0], [6.0]])


@pytest.mark.parametrize("distance", ["cosine", lambda a, b: ((a - b) ** 2).sum(-1)])
def test_weighted_sums(distance):
    a, p, n = RNG.standard_normal((3, 7, 16))
    weights = np.array([0.0, 1, 2, 0.5, 0, 1, 3])
    values = fl.triplet_margin_with_distance_loss(a, p, n, distance_function=distance, reduction="none")
    for reduction, divisor in (("sum", 1), ("mean", weights.sum())):
        found = fl.triplet_margin_with_distance_loss(
            a, p, n, distance_function=distance, reduction=reduction, sample_weight=weights
        )
        np.testing.assert_allclose(found, (values * weights).sum() / divisor, rtol=1e-12)
