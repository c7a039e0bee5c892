"""The door to JAX: the same values and gradients under jit, grad, value_and_grad, jvp and vmap."""

import inspect
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest
from cases import ACTIVE, PLAIN

import fastloss as fl
from fastloss.define.registry import LOSSES

jax = pytest.importorskip("jax", reason="JAX is not installed: there is no door to it")
fj = pytest.importorskip("fastloss.jax")
jnp = jax.numpy

# One of each family that the tests of every change run; the slow ones have all.
REPRESENTATIVE = ("cross_entropy", "mse_loss", "triplet_margin_loss", "ctc_loss", "dice_loss", "linear_cross_entropy")


@pytest.fixture
def x64():
    jax.config.update("jax_enable_x64", True)  # of all threads: those that call back do not see a context's
    yield
    jax.config.update("jax_enable_x64", False)


def wrt_of(case, arrays):
    """Return the arguments that this door differentiates: class weights are none of them."""
    return tuple([name for name in case.wrt(arrays) if name != "weight" or case.record.family != "rowwise"])


def function_of(case, arrays, wrt, **options):
    """Return a loss as a function of the arrays that it is differentiated with respect to."""

    def function(*given):
        return getattr(fj, case.loss)(**{**arrays, **dict(zip(wrt, given, strict=True))}, **case.options, **options)

    return function


def sides(case, **options):
    """Return a function, and the arrays that it is differentiated with respect to."""
    arrays = case.make()
    wrt = wrt_of(case, arrays)
    return function_of(case, arrays, wrt, **options), [jnp.asarray(arrays[name]) for name in wrt]


def check_against_the_plain_call(case):
    arrays = case.make()
    wrt = wrt_of(case, arrays)
    for reduction in case.reductions:
        function, given = sides(case, **reduction)
        exact, expected = case.value_and_grad(arrays, wrt, **reduction)
        np.testing.assert_allclose(function(*given), exact, rtol=1e-12)
        total = jax.jit(jax.value_and_grad(lambda *a, f=function: f(*a).sum(), argnums=tuple(range(len(wrt)))))
        value, gradients = total(*given)
        np.testing.assert_allclose(value, exact.sum(), rtol=1e-12)
        for gradient, one in zip(gradients, expected, strict=True):
            np.testing.assert_allclose(gradient, one, rtol=1e-10, atol=1e-14)


def check_forward_mode_and_vmap(case):
    for reduction in case.reductions:
        function, given = sides(case, **reduction)
        several = [jnp.stack([array, array * 0.9, array * 0.8]) for array in given]
        one_by_one = jnp.stack([function(*[array[k] for array in several]) for k in range(3)])
        np.testing.assert_allclose(jax.vmap(function)(*several), one_by_one, rtol=1e-12, atol=1e-14)
        slope = jax.grad(lambda *a, f=function: f(*a).sum())
        each = jnp.stack([slope(*[array[k] for array in several]) for k in range(3)])
        np.testing.assert_allclose(jax.jit(jax.vmap(slope))(*several), each, rtol=1e-12, atol=1e-14)
        if case.loss == "ctc_loss":  # whose gradient is that behind a log_softmax, as torch's
            continue
        if (
            case.loss in ("linear_cross_entropy", "info_nce_loss", "linear_log_prob")
            and reduction.get("reduction", "none") == "none"
        ):
            continue
        directions = [jnp.cos(1.0 + jnp.arange(a.size)).reshape(a.shape) for a in given]
        _, actual = jax.jvp(function, given, directions)
        step = 1e-6
        ahead, behind = (
            function(*[a + sign * step * d for a, d in zip(given, directions, strict=True)]) for sign in (1, -1)
        )
        np.testing.assert_allclose(actual, (ahead - behind) / (2 * step), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("case", [case for case in PLAIN if case.loss in REPRESENTATIVE], ids=str)
def test_a_loss_of_each_kind(case, x64):
    check_against_the_plain_call(case)
    check_forward_mode_and_vmap(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", ACTIVE, ids=str)
def test_every_loss_against_the_plain_call(case, x64):
    check_against_the_plain_call(case)


@pytest.mark.slow
@pytest.mark.parametrize("case", PLAIN, ids=str)
def test_every_loss_in_forward_mode_and_under_vmap(case, x64):
    check_forward_mode_and_vmap(case)


@pytest.mark.slow
def test_gradients_as_jax_checks_them(x64):
    from jax.test_util import check_grads

    for case in PLAIN:
        if case.loss in ("cross_entropy", "mse_loss", "kl_div", "cosine_similarity", "logsumexp", "dice_loss"):
            function, given = sides(case)
            check_grads(function, tuple(given), order=1, atol=1e-6, rtol=1e-6)


def test_names_and_signatures_are_those_of_the_package():
    ours = [name for name in fl.__all__ if name in LOSSES]
    for name in ours:
        assert inspect.signature(getattr(fj, name)) == inspect.signature(getattr(fl, name))
        assert getattr(fj, name).__doc__.startswith(inspect.getdoc(getattr(fl, name)).partition("\n")[0])


# Batches: x has rows of 5 classes


def batch(*shape, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(*shape, 5)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(5, size=shape))


def naive(x, y, weight=None):
    weight = jnp.ones(5) if weight is None else weight
    values = -jnp.take_along_axis(jax.nn.log_softmax(x), y[..., None], -1)[..., 0] * weight[y]
    return values.sum() / weight[y].sum()


@pytest.mark.parametrize("axes", [(0, 0), (1, 1), (0, None), (None, 1)])
def test_nested_vmap_and_axes_of_vmap(axes):
    x, y = batch(3, 3, 6)
    inputs = [array if axis is not None else array[0] for array, axis in zip((x, y), axes, strict=True)]
    actual, expected = (
        jax.jit(jax.vmap(jax.vmap(jax.value_and_grad(loss)), in_axes=axes))(*inputs)
        for loss in (fj.cross_entropy, naive)
    )
    for mine, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_vmap_over_rows_and_over_class_weights():
    x, y = batch(8)
    weight = jnp.linspace(0.5, 2, 15).reshape(3, 5)
    rows = jax.vmap(lambda x, y: fj.cross_entropy(x, y, weight[0], reduction="sum"))
    np.testing.assert_allclose(rows(x, y), fj.cross_entropy(x, y, weight[0], reduction="none"), rtol=1e-6)
    over = jax.vmap(jax.value_and_grad(fj.cross_entropy), in_axes=(None, None, 0))
    expected = jax.vmap(jax.value_and_grad(naive), (None, None, 0))(x, y, weight)
    for mine, theirs in zip(over(x, y, weight), expected, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_one_callback_for_value_and_gradient_of_a_whole_batch(monkeypatch):
    from fastloss.jax import kernels

    calls = []
    run = kernels.Kernel._run
    monkeypatch.setattr(kernels.Kernel, "_run", lambda self, *args: (calls.append(self.wrt), run(self, *args))[1])
    x, y = batch(7, 4)
    jax.block_until_ready(jax.vmap(jax.value_and_grad(fj.cross_entropy))(x, y))
    assert calls == [("input",)]
    jax.block_until_ready(jax.jit(fj.cross_entropy)(x[0], y[0]))
    assert calls == [("input",), ()]


def test_arrays_of_a_callback_wait_for_no_thread_of_jax(monkeypatch):
    """They are NumPy's, not arrays of JAX, which may still be on their way."""
    from fastloss.jax import kernels

    read = []
    run = kernels.Kernel.__call__
    monkeypatch.setattr(
        kernels.Kernel, "__call__", lambda self, *arrays: (read.extend(map(type, arrays)), run(self, *arrays))[1]
    )
    jax.block_until_ready(jax.jit(jax.value_and_grad(fj.cross_entropy))(*batch(7)))
    assert read == [np.ndarray] * 2


def test_a_softmax_one_of_whose_classes_is_nearly_certain():
    """The gradient of p = 1 - 2e-8 in float32: no digit was right."""
    x, g = np.array([18.0, 0.5, -1.0], np.float32), np.array([0.3, -1.0, 2.0], np.float32)
    (found,) = jax.vjp(lambda x: fj.softmax(x, dim=0), jnp.asarray(x))[1](jnp.asarray(g))
    expected = fl.grad(fl.softmax)(x.astype(float), 0, grad_output=g.astype(float))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_without_jit():
    x, y = batch(7)
    expected = jax.value_and_grad(fj.cross_entropy)(x, y)
    with jax.disable_jit():
        jax.tree.map(np.testing.assert_array_equal, jax.value_and_grad(fj.cross_entropy)(x, y), expected)
        np.testing.assert_array_equal(jax.vmap(fj.cross_entropy)(x[None], y[None]), expected[0][None])


# Means


@pytest.mark.slow
def test_divisors_of_the_mean(x64):
    x, y = batch(8)
    x, weight = x.astype(float), jnp.linspace(0.5, 2, 5)
    y = y.at[::3].set(-100)
    samples = jnp.linspace(0, 2, 8)
    for options in ({}, {"weight": weight}, {"sample_weight": samples}, {"weight": weight, "sample_weight": samples}):
        for more in ({}, {"divisor": 3.0}):
            arrays = {"input": np.array(x), "target": np.array(y), **{k: np.array(v) for k, v in options.items()}}
            exact, expected = fl.value_and_grad(fl.cross_entropy)(**arrays, **more)
            value, gradient = jax.value_and_grad(lambda x, o=options, m=more: fj.cross_entropy(x, y, **o, **m))(x)
            np.testing.assert_allclose(value, exact, rtol=1e-12)
            np.testing.assert_allclose(gradient, expected, rtol=1e-12, atol=1e-16)


def test_a_mean_over_nothing():
    x, y = batch(4)
    value, gradient = jax.value_and_grad(fj.cross_entropy)(x, jnp.full_like(y, -100))
    assert np.isnan(value)
    assert not gradient.any()
    value, gradient = jax.value_and_grad(fj.cross_entropy)(x, jnp.full_like(y, -100), divisor=0)
    assert value == 0
    assert not gradient.any()


def test_a_weight_of_zero_takes_a_row_out_whatever_it_holds():
    x, y = batch(4)
    weights = jnp.array([0.0, 1.0, 1.0, 1.0])
    value, gradient = jax.value_and_grad(fj.cross_entropy)(x.at[0, 1].set(jnp.nan), y, sample_weight=weights)
    np.testing.assert_allclose(value, fj.cross_entropy(x[1:], y[1:]), rtol=1e-6)
    assert not gradient[0].any()
    assert np.isnan(fj.cross_entropy(x, y, sample_weight=-weights))


# dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    x, y = batch(16)
    half = x.astype(dtype)
    value, gradient = jax.jit(jax.value_and_grad(fj.cross_entropy))(half, y)
    exact, expected = jax.value_and_grad(fj.cross_entropy)(half.astype(jnp.float32), y)
    assert value.dtype == jnp.float32
    assert value == exact
    assert gradient.dtype == half.dtype
    np.testing.assert_array_equal(gradient, expected.astype(dtype))
    assert fj.cross_entropy(half, y, reduction="none").dtype == half.dtype
    assert fj.softmax(half, 1).dtype == half.dtype


# Errors


def test_errors_are_raised_while_tracing():
    x, y = batch(4)
    for call, error, message in (
        (lambda: jax.jit(fj.cross_entropy)(x, y[:2]), ValueError, r"target must have shape \(4,\)"),
        (lambda: jax.jit(fj.mse_loss)(x, x[:3]), ValueError, "shapes do not go together"),
        (lambda: jax.jit(fj.cross_entropy)(y, y), TypeError, "input must be floating point"),
        (lambda: fj.cross_entropy(x, y, reduction="most"), ValueError, "reduction must be"),
        (lambda: jax.jit(lambda s: fj.cross_entropy(x, y, label_smoothing=s))(0.1), TypeError, "must not be a traced"),
        (lambda: jax.grad(lambda t: fj.soft_margin_loss(x, t))(x), ValueError, "not differentiable with respect to"),
        (lambda: fj.cross_entropy(x, y, sample_weight=jnp.ones(3)), ValueError, "sample_weight of shape"),
        (lambda: fj.cross_entropy(x, y, divisor=jnp.ones(3)), ValueError, "divisor must be a number"),
        (lambda: fj.cross_entropy(x, y, divisor=[[1.0], [2.0, 3.0]]), TypeError, "divisor is not an array"),
        (lambda: fj.mse_loss(x, [[1.0], [2.0, 3.0]]), TypeError, "target is not an array"),
        (lambda: fj.cross_entropy(x, y, reduction="sum", divisor=2.0), ValueError, "divisor"),
        (lambda: fj.mse_loss(x), TypeError, "target"),
        (lambda: fj.mse_loss(x, x.astype(jnp.float8_e5m2)), TypeError, "target: dtype float8_e5m2 is not supported"),
        (lambda: fj.cross_entropy(x, y, returns=("lse",)), ValueError, "returns"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_what_is_found_in_the_numbers_is_nan_and_no_error():
    x, y = batch(4)
    y = y.at[1].set(5)
    values, gradient = fj.cross_entropy(x, y, reduction="none"), jax.grad(fj.cross_entropy)(x, y)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False, False])
    np.testing.assert_array_equal(np.isnan(gradient).all(1), [False, True, False, False])
    p = jnp.array([0.5, 1.5])
    assert np.isnan(fj.binary_cross_entropy(p, p * 0, reduction="none")).tolist() == [False, True]
    variance = jnp.array([1.0, -1.0])
    assert np.isnan(fj.gaussian_nll_loss(p, p, variance, reduction="none")).tolist() == [False, True]
    over = jax.value_and_grad(lambda divisor: fj.mse_loss(p, p + 1, divisor=divisor))
    np.testing.assert_allclose(over(4.0), (0.5, -0.125))
    assert np.isnan(over(-1.0)[0])


def test_second_derivatives():
    x, y = batch(4)
    with pytest.raises(NotImplementedError, match=r"fastloss\.jax\.cross_entropy has no second derivatives"):
        jax.hessian(fj.cross_entropy)(x, y)
    slope = jax.grad(lambda s: jax.grad(lambda x: s * fj.cross_entropy(x, y))(x).sum())  # linear in what scales it
    np.testing.assert_allclose(slope(2.0), jax.grad(fj.cross_entropy)(x, y).sum(), atol=1e-7)
    for name in ("softmax", "log_softmax"):
        mine = jax.hessian(lambda x, n=name: (getattr(fj, n)(x, 0) ** 2).sum())(x[0])
        theirs = jax.hessian(lambda x, n=name: (getattr(jax.nn, n)(x) ** 2).sum())(x[0])
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)


def test_unreduced_losses_of_products_have_no_forward_mode():
    x, y = batch(4)
    with pytest.raises(TypeError, match="linear_cross_entropy has no forward mode"):
        jax.jvp(lambda x: fj.linear_cross_entropy(x, jnp.eye(5), y, reduction="none"), (x,), (x,))


# What this door makes of other losses


def test_penalties_take_trees():
    params = {"a": jnp.arange(3.0), "b": [jnp.ones((2, 2)), jnp.ones(())]}
    np.testing.assert_allclose(fj.l2_penalty(params, 0.5), 0.25 * (5 + 4 + 1))
    gradients = jax.grad(fj.l1_penalty)(params, 2.0)
    np.testing.assert_array_equal(gradients["a"], [0, 2, 2])
    assert jax.grad(fj.l2_penalty, argnums=1)(params, 1.0) == 5
    with pytest.raises(ValueError, match="coefficient"):
        fj.l2_penalty(params, -1.0)


def test_distance_functions_of_jax():
    a, p, n = np.random.default_rng(3).normal(size=(3, 4, 5)).astype(np.float32)

    def distance(x, y):
        return jnp.abs(x - y).sum(-1)

    def theirs(a):
        near, far = distance(a, p), jnp.minimum(distance(a, n), distance(p, n))
        return jnp.maximum(near - far + 0.7, 0).mean()

    def mine(a):
        return fj.triplet_margin_with_distance_loss(a, p, n, distance_function=distance, margin=0.7, swap=True)

    for actual, expected in zip(jax.value_and_grad(mine)(a), jax.value_and_grad(theirs)(a), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_adaptive_softmax():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(9, 6)), rng.integers(12, size=9)
    head, bias = rng.normal(size=(7, 6)), rng.normal(size=7)
    tails = [(rng.normal(size=(3, 6)), rng.normal(size=(4, 3))), (rng.normal(size=(2, 6)), rng.normal(size=(3, 2)))]
    arrays = [np.asarray(a, np.float32) for a in (x, head, bias)]
    tails = [tuple([np.asarray(a, np.float32) for a in pair]) for pair in tails]

    def mine(x, head, tails, bias):
        return fj.adaptive_log_softmax_with_loss(x, y, head, tails, bias, cutoffs=[5, 9])

    expected = fl.adaptive_log_softmax_with_loss(arrays[0], y, arrays[1], tails, arrays[2], cutoffs=[5, 9])
    actual = jax.jit(mine)(arrays[0], arrays[1], tails, arrays[2])
    np.testing.assert_allclose(actual.output, expected.output, rtol=1e-5)
    np.testing.assert_allclose(actual.loss, expected.loss, rtol=1e-5)
    gradients = jax.grad(lambda *a: mine(*a).loss, argnums=(0, 1))(arrays[0], arrays[1], tails, arrays[2])
    _, exact = fl.value_and_grad(fl.adaptive_log_softmax_with_loss, ("input", "head_weight"))(
        arrays[0], y, arrays[1], tails, arrays[2], cutoffs=[5, 9]
    )
    for gradient, one in zip(gradients, exact, strict=True):
        np.testing.assert_allclose(gradient, one, rtol=1e-4, atol=1e-6)


def test_adaptive_softmax_refuses_what_the_plain_call_refuses():
    x, y, head, tails = jnp.ones((4, 5)), jnp.arange(4), jnp.ones((4, 5)), [(jnp.ones((2, 5)), jnp.ones((4, 2)))]

    def loss(x=x, y=y, head=head, tails=tails, bias=None, cutoffs=(3,)):
        return jax.jit(lambda *arrays: fj.adaptive_log_softmax_with_loss(*arrays, cutoffs=cutoffs))(
            x, y, head, tails, bias
        ).loss

    for given, error, message in (
        ({"head": head[:3]}, ValueError, "head_weight must have"),
        ({"bias": jnp.ones(1)}, ValueError, "head_bias must have"),
        ({"tails": [(jnp.ones((2, 5)), jnp.ones((3, 2)))], "cutoffs": (3, 7)}, ValueError, "does not hold the classes"),
        ({"x": jnp.ones((4, 5), int)}, TypeError, "input must be floating point"),
        ({"cutoffs": (3.5,)}, ValueError, "cutoffs must be"),
    ):
        with pytest.raises(error, match=message):
            loss(**given)
    np.testing.assert_array_equal(loss(cutoffs=(3, 7)), loss())  # the number of classes may follow
    assert jnp.isfinite(loss(x.astype(jnp.bfloat16)))


# JAX


@pytest.mark.parametrize("rows", [3000, pytest.param(8192, marks=pytest.mark.slow)])
def test_large_arrays_do_not_wait_for_each_other(rows):
    """The callback runs while JAX holds threads of its own."""
    rng = np.random.default_rng(5)
    x, y = jnp.asarray(rng.normal(size=(rows, 1000)), jnp.float32), jnp.asarray(rng.integers(1000, size=rows))
    step = jax.jit(lambda x: jax.value_and_grad(fj.cross_entropy)(x * 2, y))
    results = [step(x + k) for k in range(3)]  # in flight at the same time
    for value, gradient in results:
        np.testing.assert_allclose(value, results[0][0], rtol=1e-5)
        assert abs(float(gradient.sum())) < 1e-3


def test_checkpoint_and_scan():
    x, y = batch(3, 6)

    def total(x):
        _, values = jax.lax.scan(lambda carry, pair: (carry, jax.checkpoint(fj.cross_entropy)(*pair)), 0, (x, y))
        return values.sum()

    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(x), jax.vmap(jax.grad(fj.cross_entropy))(x, y), rtol=1e-5, atol=1e-7
    )


def test_examples_of_the_guide_run():
    guide = (Path(__file__).parent.parent / "docs" / "guides" / "jax.md").read_text(encoding="utf-8")
    examples = re.findall(r"^ *```python\n(.*?)^ *```", guide, flags=re.MULTILINE | re.DOTALL)
    assert len(examples) >= 5
    exec("\n".join(textwrap.dedent(example) for example in examples), {})


def test_weights_of_samples_are_not_differentiated():
    x, y = jnp.ones((6, 3)), jnp.zeros(6, int)
    with pytest.raises(ValueError, match=r"fastloss\.jax\.cross_entropy is not differentiable .* sample_weight"):
        jax.grad(lambda weight: fj.cross_entropy(x, y, sample_weight=weight))(jnp.ones(6))


def test_weights_of_elements_and_of_samples_of_a_huber_loss(x64):
    x, t = np.random.default_rng(0).normal(size=(2, 12, 3))
    given = {"weight": np.random.default_rng(1).random((12, 3)), "sample_weight": np.random.default_rng(2).random(12)}
    np.testing.assert_allclose(fj.huber_loss(x, t, **given), fl.huber_loss(x, t, **given))


@pytest.mark.parametrize("transform", ["jit", "grad", "vmap"])
def test_losses_of_the_package_itself_name_the_door(transform):
    with pytest.raises(
        TypeError, match=r"what JAX traces has no numbers: use the losses of fastloss\.jax .* fastloss\.jax\.wrap"
    ):
        getattr(jax, transform)(lambda x: fl.mse_loss(x, x))(jnp.ones(3))
