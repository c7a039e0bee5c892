"""The same call in torch: values and gradients of every argument, and torch tensors as arguments.

Arguments are random, so ties at kinks, where later versions of torch may choose another side, do not occur.
"""

import warnings

import numpy as np
import pytest
import reference
from cases import ACTIVE, CASES, LOSSES, PLAIN, TYPICAL, assert_close, marked, typical

import fastloss as fl

torch = pytest.importorskip("torch", reason="torch is not installed: nothing to compare with")
F = torch.nn.functional

# torch's function where it is not torch.nn.functional's of the same name.
ELSEWHERE = {
    "sigmoid": torch.sigmoid,
    "logsumexp": torch.logsumexp,
}
# What torch lacks; test_values.py compares with the definition.
ABSENT = {name for name in LOSSES if name not in ELSEWHERE and not hasattr(F, name)}

PARITY = [case for case in ACTIVE if case.loss not in ABSENT]


def in_torch(case, arrays, dtype, reduction, upstream=None):
    """Return torch's value, and its gradients with respect to what the case differentiates."""
    names = case.wrt(arrays)
    tensors = {
        name: torch.from_numpy(np.array(a)) if a.dtype.kind in "iu" else torch.from_numpy(np.array(a)).to(dtype)
        for name, a in arrays.items()
    }
    for name in names:
        tensors[name].requires_grad_()
    options = {**case.options, **reduction}
    function = ELSEWHERE.get(case.loss) or getattr(F, case.loss)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kl_div announces a change with every call
        value = function(**tensors, **options)
    value.backward(torch.ones_like(value) if upstream is None else torch.as_tensor(upstream, dtype=value.dtype))
    return value.detach().numpy(), [tensors[name].grad.numpy() for name in names]


def upstream_for(case, arrays, reduction):
    shape = case.expected(arrays, **reduction).shape
    return np.asarray(np.random.default_rng(8).normal(size=shape))


# An upstream gradient of each value is another kernel of every case: the loops of a family read it in one way.
REDUCED = [
    pytest.param(*param.values, reduction, marks=marks, id="-".join([param.id, *reduction.values()]))
    for param in marked(PARITY)
    for case in param.values
    for reduction in case.reductions
    for whole in [
        reduction.get("reduction") != "none" or (case in PLAIN and case.loss in ("mse_loss", "cross_entropy"))
    ]
    for marks in [param.marks if whole else pytest.mark.slow]
]


@pytest.mark.parametrize(("case", "reduction"), REDUCED)
def test_parity_in_float64(case, reduction):
    arrays = case.make(seed=1)
    upstream = upstream_for(case, arrays, reduction)
    value, gradients = case.value_and_grad(
        arrays, case.wrt(arrays), grad_output=upstream if upstream.ndim else float(upstream), **reduction
    )
    expected, exact = in_torch(case, arrays, torch.float64, reduction, upstream)
    assert_close(value, expected, factor=1e3)
    for gradient, one in zip(gradients, exact, strict=True):
        assert_close(gradient, one, factor=1e5 if case.loss == "binary_cross_entropy" else 1e3)


# Shapes that torch takes beside the usual ones. An integer array is a target; a shape stands for random numbers.
UNUSUAL = [
    ("mse_loss", {"input": (4, 1), "target": (1, 5), "weight": (4, 1)}, {}),
    ("l1_loss", {"input": (5,), "target": (4, 5), "weight": (5,)}, {}),
    ("kl_div", {"input": (5,), "target": (4, 5)}, {"reduction": "batchmean"}),
    ("kl_div", {"input": (), "target": (3,)}, {"reduction": "batchmean"}),
    *[("kl_div", {"input": shape, "target": shape}, {"reduction": "batchmean"}) for shape in ((0, 5), (4, 0))],
    ("gaussian_nll_loss", {"input": (4, 1), "target": (4, 5), "var": (4, 1)}, {}),
    *[
        ("multilabel_soft_margin_loss", {"input": (2, 3, 4), "target": (2, 3, 4), "weight": weight}, {})
        for weight in ((3, 4), (2, 3, 1), (1,), ())
    ],
    ("multilabel_soft_margin_loss", {"input": (2, 0), "target": (2, 0)}, {}),
    ("multi_margin_loss", {"input": (5,), "target": np.array([2])}, {}),
    ("multi_margin_loss", {"input": (), "target": np.array(0)}, {}),
    ("multilabel_margin_loss", {"input": (), "target": np.array(0)}, {}),
    ("logsumexp", {"input": ()}, {"dim": 0, "keepdim": True}),
    ("logsumexp", {"input": (3, 0)}, {"dim": 1}),
    ("pairwise_distance", {"x1": (4, 5), "x2": ()}, {}),
    ("cosine_similarity", {"x1": (), "x2": (4, 5)}, {"dim": 1}),
]

INF, NAN = np.inf, np.nan
_ONE_STRANGE = np.array([[1.0, 2.0, 0.5], [-1.0, NAN, 0.25], [0.5, 0.25, -2.0]])
_INFINITE = np.where(np.isnan(_ONE_STRANGE), INF, _ONE_STRANGE)
_OTHER, _THIRD = np.arange(9.0).reshape(3, 3), np.ones((3, 3)) / 3

# NaN and infinity where not only the value but the gradient, too, has a right answer.
STRANGE = [
    ("smooth_l1_loss", {"input": np.array([NAN, 1.0]), "target": np.zeros(2)}, {"beta": 0.0}),
    ("hinge_embedding_loss", {"input": np.array([NAN, NAN]), "target": np.array([1.0, -1.0])}, {}),
    ("poisson_nll_loss", {"input": np.array([INF, INF]), "target": np.array([0.5, 2.0])}, {}),
    ("kl_div", {"input": np.array([-1.0, -2.0]), "target": np.array([0.0, 0.5])}, {}),
    *[
        ("triplet_margin_loss", {"anchor": a, "positive": _OTHER, "negative": _THIRD}, {"p": p})
        for p, a in ((1.0, _ONE_STRANGE), (2.0, _ONE_STRANGE), (3.0, _ONE_STRANGE), (1.0, _INFINITE), (INF, _INFINITE))
    ],
    *[("pairwise_distance", {"x1": _ONE_STRANGE, "x2": _OTHER}, {"p": p}) for p in (2.0, 3.0)],
    ("cosine_similarity", {"x1": _ONE_STRANGE, "x2": _OTHER}, {}),
    ("logsumexp", {"input": _INFINITE}, {"dim": 1}),
    ("margin_ranking_loss", {"input1": np.array([NAN, INF]), "input2": np.ones(2), "target": np.ones(2)}, {}),
]


def spell(spec, rng):
    return spec if isinstance(spec, np.ndarray) else np.asarray(rng.uniform(0.1, 0.9, spec))


@pytest.mark.slow
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(("loss", "arrays", "options"), UNUSUAL + STRANGE)
def test_parity_at_the_edges(loss, arrays, options, reduction):
    arrays = {name: spell(spec, np.random.default_rng(3)) for name, spec in arrays.items()}
    function = getattr(fl, loss)
    if "reduction" in function.__fastloss__.options:
        options = {"reduction": reduction, **options}
    wrt = [n for n in function.__fastloss__.differentiable if n in arrays and arrays[n].dtype.kind == "f"]
    tensors = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    for name in wrt:
        tensors[name].requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = (ELSEWHERE.get(loss) or getattr(F, loss))(**tensors, **options)
        value, gradients = fl.value_and_grad(function, tuple(wrt))(**arrays, **options)
    theirs.backward(torch.ones_like(theirs))
    assert np.shape(value) == tuple(theirs.shape)
    assert_close(value, theirs.detach().numpy(), factor=1e3)
    for name, gradient in zip(wrt, gradients, strict=True):
        assert_close(gradient, tensors[name].grad.numpy(), factor=1e3)


@pytest.mark.parametrize("loss", ["cross_entropy", "nll_loss"])
def test_one_row_with_a_target_of_one_axis(loss):
    """The value has no axis, unlike that of multi_margin_loss; torch cannot differentiate it."""
    x, y = np.linspace(-1, 1, 5), np.array([2])
    expected = getattr(F, loss)(torch.from_numpy(x), torch.from_numpy(y), reduction="none")
    value, gradient = fl.value_and_grad(getattr(fl, loss))(x, y, reduction="none")
    assert np.shape(value) == tuple(expected.shape) == ()
    assert_close(value, expected.numpy(), factor=1e3)
    assert gradient.shape == x.shape


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("loss", ["softmax", "log_softmax"])
def test_softmax_along_an_axis_that_is_not_named(loss, shape):
    x = np.random.default_rng(4).normal(size=shape)
    with pytest.warns(UserWarning, match="dim"):
        value = getattr(fl, loss)(x)
    with pytest.warns(UserWarning, match="dimension"):
        assert_close(value, getattr(F, loss)(torch.from_numpy(np.array(x))).numpy(), factor=10)


@pytest.mark.parametrize("case", marked(PARITY, lambda case: case in PLAIN and case.loss in TYPICAL))
def test_float32_is_as_exact_as_torch(case):
    """The error against float64 is at most a small multiple of torch's, or a few roundings of the largest entry."""
    arrays = case.make("float32", seed=2)
    wide = {name: a if a.dtype.kind in "iu" else a.astype(float) for name, a in arrays.items()}
    reduction = {"reduction": "none"} if "reduction" in case.record.options else {}
    # Not ones, for which the gradient of a softmax is 0 but for rounding.
    upstream = upstream_for(case, arrays, reduction).astype(np.float32)
    given = {"grad_output": upstream if upstream.ndim else float(upstream)}
    value, gradients = case.value_and_grad(arrays, case.wrt(arrays), **given, **reduction)
    theirs, their_gradients = in_torch(case, arrays, torch.float32, reduction, upstream)
    if upstream.ndim:
        given["grad_output"] = upstream.astype(float)
    exact, exact_gradients = case.value_and_grad(wide, case.wrt(arrays), **given, **reduction)
    for ours, other, reference_of in zip(
        [value, *gradients], [theirs, *their_gradients], [exact, *exact_gradients], strict=True
    ):
        floor = 4 * np.finfo(np.float32).eps * max(np.abs(reference_of).max(), 1e-3)
        assert np.abs(ours - reference_of).max() <= 2 * np.abs(other - reference_of).max() + floor


@pytest.mark.parametrize("case", [c for c in CASES if c not in ACTIVE and hasattr(F, c.loss)], ids=str)
def test_references_of_losses_to_come(case):
    """A reference without a loss is still a formula that can be wrong."""
    arrays = case.make(seed=1)
    tensors = {name: torch.from_numpy(np.array(a)) for name, a in arrays.items()}
    options = dict(case.options)
    if case.loss == "linear_cross_entropy":
        options.setdefault("ignore_index", None)
    value = getattr(F, case.loss)(**tensors, **options)
    np.testing.assert_allclose(reference.reduced(case.loss, arrays, case.options), value, rtol=1e-9)


def as_tensors(arrays):
    tensors = {}
    for name, array in arrays.items():
        if array.dtype.name == "bfloat16":
            tensors[name] = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        else:
            tensors[name] = torch.from_numpy(array)
    return tensors


def as_numpy(tensor):
    return tensor.to(torch.float64).numpy()


HALF = [case for case in PLAIN if case.record.family in ("elementwise", "pairwise")]


@pytest.mark.parametrize(
    ("case", "dtype"),
    [pytest.param(c, "float64", id=f"{c}-float64") for c in PLAIN]
    + [
        pytest.param(*param.values, dtype, marks=param.marks, id=f"{param.id}-{dtype}")
        for param in typical(HALF)
        for dtype in ("float16", "bfloat16")
    ],
)
def test_tensors_in_tensors_out(case, dtype):
    """The numbers are those of NumPy arrays, to the bit; dtype and library are the arguments'."""
    arrays = case.make(dtype)
    tensors = as_tensors(arrays)
    names = case.wrt(arrays)
    value, gradients = case.value_and_grad(tensors, names)
    expected, exact = case.value_and_grad(arrays, names)
    assert isinstance(value, torch.Tensor)
    np.testing.assert_array_equal(as_numpy(value), np.asarray(expected, float))
    for name, gradient, one in zip(names, gradients, exact, strict=True):
        assert gradient.dtype == tensors[name].dtype
        np.testing.assert_array_equal(as_numpy(gradient), one.astype(float))
    for name, array in arrays.items():
        np.testing.assert_array_equal(as_numpy(tensors[name]), np.array(array, float))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_tensors_of_a_row_loss(dtype):
    x = torch.linspace(-3, 3, 30, dtype=dtype).reshape(6, 5)
    y = torch.arange(6) % 5
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
    assert value.dtype == torch.float32
    assert gradient.dtype == dtype
    torch.testing.assert_close(value, F.cross_entropy(x.float(), y), rtol=1e-6, atol=0)
    assert fl.cross_entropy(x, y, reduction="none").dtype == dtype


def test_memory_is_shared_with_tensors():
    x, t = torch.randn(40, 7, dtype=torch.float64), torch.zeros(40, 7, dtype=torch.float64)
    target = torch.full_like(x, float("nan"))
    address = target.data_ptr()
    gradient = fl.grad(fl.mse_loss)(x, t, reduction="sum", grad_out=target)
    assert gradient is target
    assert target.data_ptr() == address
    torch.testing.assert_close(target, 2 * x, rtol=0, atol=0)
    before = x.clone()
    assert fl.grad(fl.mse_loss)(x, t, reduction="sum", grad_out=x) is x
    torch.testing.assert_close(x, 2 * before, rtol=0, atol=0)
    half = torch.ones(8, dtype=torch.bfloat16)
    fl.grad(fl.mse_loss)(half, torch.zeros_like(half), reduction="sum", grad_out=half)
    assert (half == 2).all()


def test_tensors_of_any_layout():
    wide = torch.randn(5, 12, 2, dtype=torch.float64)
    x, y = wide[..., 0].T, torch.tensor([0, 9, 1, 9, 2, 9] * 4)[::2]
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y % 5)
    expected, exact = fl.value_and_grad(fl.cross_entropy)(x.contiguous(), (y % 5).contiguous())
    assert value == expected
    torch.testing.assert_close(gradient, exact, rtol=0, atol=0)
    t = torch.zeros(1, dtype=torch.float64).expand(12, 5)
    torch.testing.assert_close(fl.mse_loss(x, t), F.mse_loss(x, t), rtol=1e-14, atol=0)


def test_a_tensor_that_requires_grad_is_read():
    x = torch.randn(6, 5, dtype=torch.float64, requires_grad=True)
    y = torch.arange(6) % 5
    value, gradient = fl.value_and_grad(fl.cross_entropy)(x, y)
    F.cross_entropy(x, y).backward()
    torch.testing.assert_close(gradient, x.grad, rtol=1e-12, atol=1e-15)
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_a_reduced_value_is_a_zero_dimensional_tensor():
    x = torch.ones(3)
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (3,))):
        value = fl.mse_loss(x, x + 1, reduction=reduction)
        assert value.shape == shape
        assert value.dtype == torch.float32


def test_parameters_and_lists_beside_tensors():
    parameter = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    with torch.no_grad():
        value = fl.mse_loss(parameter, np.zeros(2, np.float32))
    assert isinstance(value, torch.Tensor)
    assert value == 2.5


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int64, torch.bool, torch.float8_e4m3fn], ids=str)
def test_tensors_of_dtypes_that_are_not_supported(dtype):
    with pytest.raises(TypeError, match="input"):
        fl.mse_loss(torch.ones(3).to(dtype), torch.ones(3))


def test_tensors_that_hold_no_memory_here():
    with pytest.raises(TypeError, match="meta"):
        fl.mse_loss(torch.ones(3, device="meta"), torch.ones(3, device="meta"))
    with pytest.raises((TypeError, RuntimeError)):
        fl.mse_loss(torch.ones(3).to_sparse(), torch.ones(3))


def test_grad_out_of_another_library():
    x = torch.ones(3)
    with pytest.raises(TypeError, match="grad_out"):
        fl.grad(fl.mse_loss)(x, x, grad_out=np.zeros(3, np.float32))
