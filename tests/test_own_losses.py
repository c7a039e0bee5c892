"""Losses of one's own through the doors to torch and JAX: numbers, derivatives, what they are called with."""

import importlib
import inspect
import os
import pickle
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import own_maths
import pytest
from cases import quickly

import fastloss as fl

SOURCE = '''
import math
from typing import Annotated

import fastloss as fl
from fastloss.custom import POSITIVE, Elementwise, exp_nonpositive, log1p_unit, loss, maths, sign

LOG_2 = math.log(2.0)


@maths
def log_cosh(x, t, scale):
    T = type(x)
    r = (x - t) / scale
    a = abs(r)
    e = exp_nonpositive(-(a + a))
    tanh = sign(r) * (T(1) - e) / (T(1) + e)
    slope = tanh / scale
    return a + log1p_unit(e) - T(LOG_2), (slope, -slope), (T(1) - tanh * tanh) / (scale * scale)


@loss
def log_cosh_loss(input, target, *, scale: Annotated[float, POSITIVE] = 1.0, reduction="mean"):
    """Logarithm of the hyperbolic cosine of the error."""
    return Elementwise(log_cosh, scale=scale)


@loss
def dist(input, target, *, reduce: Annotated[float, POSITIVE] = 1.0, reduction="mean"):
    """A name and an option that torch has for something else."""
    return Elementwise(log_cosh, scale=reduce)


@loss
def dice_of_softmax(input, target, *, smooth: float = 1.0, reduction="mean"):
    """Dice loss of a softmax."""
    return fl.dice_loss(fl.softmax(input, 1), target, smooth=smooth, reduction=reduction)


@loss
def margin_and_entropy(input, target, *, reduction="mean"):
    """Sum of a margin loss and half of cross-entropy."""
    return fl.multi_margin_loss(input, target, reduction=reduction) + 0.5 * fl.cross_entropy(
        input, target, reduction=reduction
    )
'''


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A module of somebody's own, which can be imported, and whose losses are not those of other tests."""
    from fastloss.define.registry import LOSSES

    before, folder = dict(LOSSES), tmp_path_factory.mktemp("own")
    (folder / "losses_of_my_own.py").write_text(textwrap.dedent(SOURCE))
    sys.path.insert(0, str(folder))
    yield importlib.import_module("losses_of_my_own")
    sys.path.remove(str(folder))
    del sys.modules["losses_of_my_own"]
    LOSSES.clear()
    LOSSES.update(before)


def arrays_of(name, rng):
    """Return the arguments of one of these losses."""
    if name == "log_cosh_loss":
        return rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    if name == "dice_of_softmax":
        return rng.normal(size=(2, 4, 3)), rng.random((2, 4, 3))
    return rng.normal(size=(5, 4)), rng.integers(0, 4, 5)


NAMES = ("log_cosh_loss", "dice_of_softmax", "margin_and_entropy")
REDUCTIONS = ("mean", "sum", "none")


@pytest.mark.parametrize("reduction", quickly("mean", then=["sum", "none"]))
@pytest.mark.parametrize("name", NAMES)
def test_gradients_as_torch_checks_them(own, name, reduction, rng):
    torch = pytest.importorskip("torch")
    F = importlib.import_module("fastloss.torch")

    loss, wrapped = getattr(own, name), F.wrap(getattr(own, name))
    x, t = map(torch.from_numpy, arrays_of(name, rng))
    value = wrapped(x.requires_grad_(), t, reduction=reduction)
    assert value.requires_grad
    np.testing.assert_array_equal(value.detach(), loss(x.detach().numpy(), t.numpy(), reduction=reduction))
    assert torch.autograd.gradcheck(lambda a: wrapped(a, t, reduction=reduction), (x,))


def test_both_arrays_and_options_in_torch(own, rng):
    torch = pytest.importorskip("torch")
    F = importlib.import_module("fastloss.torch")

    wrapped = F.wrap(own.log_cosh_loss)
    x, t = [torch.from_numpy(a).requires_grad_() for a in arrays_of("log_cosh_loss", rng)]
    wrapped(x, t, scale=2.0).backward()
    expected = torch.tanh((x - t) / 2).detach() / 2 / x.numel()
    torch.testing.assert_close(x.grad, expected, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(t.grad, -expected, rtol=1e-12, atol=0.0)
    assert [*inspect.signature(wrapped).parameters][:4] == ["input", "target", "scale", "reduction"]
    with pytest.raises(ValueError, match="scale must be a number > 0"):
        wrapped(x, t, scale=-1.0)
    with pytest.raises(TypeError, match="scal"):
        wrapped(x, t, scal=1.0)


def test_torchs_transforms_compiler_and_pickles(own, rng):
    torch = pytest.importorskip("torch")
    F = importlib.import_module("fastloss.torch")

    wrapped = F.wrap(own.log_cosh_loss)
    x, t = map(torch.from_numpy, arrays_of("log_cosh_loss", rng))
    slope = torch.func.grad(wrapped)(x, t)
    torch.testing.assert_close(slope, torch.tanh(x - t) / x.numel(), rtol=1e-12, atol=0.0)
    each = torch.func.vmap(torch.func.grad(wrapped))(x, t)
    torch.testing.assert_close(each, torch.tanh(x - t) / 4, rtol=1e-12, atol=0.0)
    compiled = torch.compile(lambda a, b: wrapped(2 * a, b) + 1, backend="eager")
    torch.testing.assert_close(compiled(x, t), wrapped(2 * x, t) + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(lambda a, b: F.wrap(own.log_cosh_loss)(2 * a, b) + 1, backend="eager")
        torch.testing.assert_close(compiled(x, t), wrapped(2 * x, t) + 1)
    assert pickle.loads(pickle.dumps(wrapped))(x, t) == wrapped(x, t)
    with pytest.raises(RuntimeError, match="no operator"):
        wrapped(x.to("meta"), t.to("meta"))


def test_classes_of_tensors_and_modes_of_torch_that_can_do_without_an_operator(own, rng):
    torch = pytest.importorskip("torch")
    from torch.utils.flop_counter import FlopCounterMode

    F = importlib.import_module("fastloss.torch")

    class Named(torch.Tensor):
        pass

    class NamedParameter(torch.nn.Parameter):
        pass

    wrapped = F.wrap(own.log_cosh_loss)
    x, t = map(torch.from_numpy, arrays_of("log_cosh_loss", rng))
    parameter = NamedParameter(x)
    for a, b in ((parameter, t.as_subclass(Named)), (x.as_subclass(Named), t), (parameter, t), (x, t)):
        for reduction in ("mean", "none"):
            wanted = torch.nn.functional.huber_loss(a, b, reduction=reduction)
            assert type(wrapped(a, b, reduction=reduction)) is type(wanted)
    wrapped(parameter, t.as_subclass(Named)).backward()
    expected = torch.func.grad(wrapped)(x, t)
    torch.testing.assert_close(parameter.grad, expected)
    leaf = x.clone().requires_grad_()
    with FlopCounterMode(display=False):
        wrapped(leaf, t).backward()
    torch.testing.assert_close(leaf.grad, expected)
    with pytest.raises(RuntimeError, match="no operator"):
        importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx(wrapped)(x, t)


def test_names_that_torch_has_for_something_else(own, forgets_losses, rng):
    torch = pytest.importorskip("torch")
    F = importlib.import_module("fastloss.torch")
    from fastloss.custom import Elementwise, loss

    x, t = map(torch.from_numpy, arrays_of("log_cosh_loss", rng))
    wrapped = F.wrap(own.dist)
    torch.testing.assert_close(wrapped(x, t, reduce=2.0), F.wrap(own.log_cosh_loss)(x, t, scale=2.0))
    with pytest.raises(TypeError, match="size_average"):
        wrapped(x, t, size_average=False)
    (slope,) = torch.autograd.grad(wrapped(x.requires_grad_(), t), x, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives: write it with torch's functions"):
        slope.sum().backward()

    @loss
    def with_params(params, target, *, tail_weights=(1.0, 2.0), reduction="mean"):
        """Names of arguments that are several tensors in the package."""
        return Elementwise(own.log_cosh, scale=tail_weights[0])

    y, wanted = t.detach(), F.wrap(own.log_cosh_loss)(x, t, scale=2.0)
    torch.testing.assert_close(F.wrap(with_params)(x, y, tail_weights=[2.0, 1.0]), wanted)
    with pytest.raises(TypeError, match="params must be a tensor, got list"):
        F.wrap(with_params)([x], y)

    @loss
    def with_a_dtype(input, target, *, dtype: float = 1.0, reduction="mean"):
        """An option that is dropped, were it not refused."""
        return Elementwise(own.log_cosh, scale=dtype)

    with pytest.raises(TypeError, match="must not have an argument 'dtype'"):
        F.wrap(with_a_dtype)


def test_warnings_of_a_first_call_name_the_callers_line(own, rng):
    torch = pytest.importorskip("torch")
    F = importlib.import_module("fastloss.torch")

    x, t = map(torch.from_numpy, arrays_of("log_cosh_loss", rng))
    with pytest.warns(UserWarning, match="broadcast") as caught:
        F.wrap(own.log_cosh_loss)(x, t[:1], scale=3.0)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_types_keep_their_dtype_in_torch(own, dtype):
    torch = pytest.importorskip("torch")
    F = importlib.import_module("fastloss.torch")

    x = torch.linspace(-2, 2, 9, dtype=getattr(torch, dtype), requires_grad=True)
    value = F.wrap(own.log_cosh_loss)(x, torch.zeros_like(x))
    value.backward()
    assert value.dtype == x.grad.dtype == x.dtype
    torch.testing.assert_close(x.grad, torch.tanh(x.detach()) / 9, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_as_jax_checks_them(own, name, rng):
    jax = pytest.importorskip("jax")
    from jax.test_util import check_grads

    import fastloss.jax as fj

    jax.config.update("jax_enable_x64", True)
    try:
        loss, wrapped = getattr(own, name), fj.wrap(getattr(own, name))
        arrays = arrays_of(name, rng)
        x, t = map(jax.numpy.asarray, arrays)
        for reduction in REDUCTIONS:
            value = jax.jit(lambda a, r=reduction: wrapped(a, t, reduction=r))(x)
            np.testing.assert_array_equal(value, loss(*arrays, reduction=reduction))
            modes = ("fwd", "rev") if reduction != "none" else ("rev",)
            check_grads(lambda a, r=reduction: wrapped(a, t, reduction=r), (x,), 1, modes=modes)
        each = jax.vmap(jax.grad(wrapped))(x[:, None], t[:, None])
        for one, a, b in zip(each, *arrays, strict=True):
            np.testing.assert_allclose(one, fl.grad(loss)(a[None], b[None]), rtol=1e-14)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_jax_checks_shapes_and_options_while_tracing(own, rng):
    jax = pytest.importorskip("jax")
    import fastloss.jax as fj

    wrapped = fj.wrap(own.log_cosh_loss)
    x, t = map(jax.numpy.asarray, arrays_of("log_cosh_loss", rng))
    with pytest.raises(ValueError, match="do not go together"):
        jax.jit(wrapped)(x, t[:3])
    with pytest.raises(ValueError, match="scale must be a number > 0"):
        jax.jit(lambda a: wrapped(a, t, scale=-1.0))(x)
    with pytest.raises(ValueError, match="not differentiable with respect to divisor"):
        jax.grad(lambda d: wrapped(x, t, divisor=d))(5.0)
    assert np.isnan(fj.wrap(own.margin_and_entropy)(x, np.full(5, 9)))  # no such class


def test_jax_asks_once_for_the_shape_of_a_value(own, monkeypatch, rng):
    jax = pytest.importorskip("jax")
    import fastloss.jax as fj
    from fastloss.api.jobs import Job

    asked, shape_of_value = [], Job.shape_of_value
    monkeypatch.setattr(Job, "shape_of_value", lambda job: asked.append(job) or shape_of_value(job))
    for scale in (0.25, 0.25, 0.75):
        jax.grad(fj.wrap(own.log_cosh_loss))(*map(jax.numpy.asarray, arrays_of("log_cosh_loss", rng)), scale=scale)
    assert len(asked) == 2


@pytest.mark.slow
def test_jax_warns_once_of_shapes_that_differ_at_the_callers_line(own, rng):
    jax = pytest.importorskip("jax")
    import fastloss.jax as fj

    x, t = map(jax.numpy.asarray, arrays_of("log_cosh_loss", rng))
    wrapped = fj.wrap(own.log_cosh_loss)
    for rows, call in enumerate((jax.jit(wrapped), wrapped, jax.grad(wrapped), jax.grad(fj.mse_loss)), 2):
        with pytest.warns(UserWarning, match="broadcast") as caught:
            call(x[:1], t[:rows])
        assert [warning.filename for warning in caught] == [__file__]
    weights = np.arange(5.0)
    with pytest.warns(UserWarning, match="broadcast"):
        gradients = jax.grad(wrapped, (0, 1))(x[:1], t, sample_weight=weights)
    spread = np.tile(x[:1], (5, 1)), np.array(t)
    wanted = fl.grad(own.log_cosh_loss, ("input", "target"))(*spread, sample_weight=weights)
    np.testing.assert_allclose(gradients[0], wanted[0].sum(0, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(gradients[1], wanted[1], rtol=1e-5)
    with pytest.raises(ValueError, match="do not go together"):
        wrapped(x[:2], t)


def test_wrapped_losses_in_jax_pickle_and_have_no_forward_mode_as_arrays(own, rng):
    jax = pytest.importorskip("jax")
    import fastloss.jax as fj

    wrapped = fj.wrap(own.log_cosh_loss)
    x, t = map(jax.numpy.asarray, arrays_of("log_cosh_loss", rng))
    assert pickle.loads(pickle.dumps(wrapped)) is wrapped
    assert repr(wrapped) == "fastloss.jax.wrap(log_cosh_loss)"
    with pytest.raises(
        TypeError, match=r"log_cosh_loss has no forward mode \(jvp\) where it returns an array: use jax"
    ):
        jax.jvp(lambda a: wrapped(a, t, reduction="none"), (x,), (x,))


def test_an_argument_of_the_name_of_a_variance_broadcasts_like_others(own, forgets_losses):
    pytest.importorskip("jax")
    import fastloss.jax as fj
    from fastloss.custom import Elementwise, loss, maths

    @maths
    def ratio(x, v):
        T = type(x)
        return x / v, (T(1) / v, -x / (v * v)), T(0)

    @loss
    def ratio_loss(input, var, *, reduction="mean"):
        """Ratio."""
        return Elementwise(ratio, broadcast="silent")

    x, var = np.ones((3, 3), "f4"), np.array([1, 2, 4], "f4")
    np.testing.assert_array_equal(fj.wrap(ratio_loss)(x, var, reduction="none"), x / var)


@pytest.mark.parametrize("door", ["torch", "jax"])
def test_a_loss_that_is_defined_anew_is_another_one(door, forgets_losses):
    guest = pytest.importorskip(door)
    module = importlib.import_module(f"fastloss.{door}")
    from fastloss.custom import Elementwise, loss, maths

    def made(factor):
        @maths
        def square(x, t):
            r = x - t
            k = type(x)(factor)
            return k * r * r, (k * (r + r), -k * (r + r)), k + k

        @loss
        def square_of_mine(input, target, *, reduction="mean"):
            """Square."""
            return Elementwise(square)

        return module.wrap(square_of_mine)

    array = guest.numpy.asarray if door == "jax" else guest.tensor
    x, zeros = array([2.0, 2.0]), array([0.0, 0.0])
    assert [float(made(factor)(x, zeros)) for factor in (1.0, 3.0)] == [4.0, 12.0]


@pytest.mark.parametrize("door", ["torch", "jax"])
def test_what_is_no_loss_of_ones_own_is_refused(door):
    pytest.importorskip(door)
    module = importlib.import_module(f"fastloss.{door}")
    with pytest.raises(TypeError, match=rf"its function is fastloss\.{door}\.mse_loss"):
        module.wrap(fl.mse_loss)
    with pytest.raises(TypeError, match="expected a loss function"):
        module.wrap(max)


def test_unreduced_losses_of_several_shapes_are_not_added(forgets_losses):
    from fastloss.custom import loss

    @loss
    def entropy_and_dice(input, target, *, reduction="mean"):
        """Binary cross-entropy of each element, and a Dice loss of each sample and class."""
        return fl.binary_cross_entropy_with_logits(input, target, reduction=reduction) + fl.dice_loss(
            fl.sigmoid(input), target, reduction=reduction
        )

    x, t = np.zeros((2, 3, 4)), np.ones((2, 3, 4))
    assert np.isfinite(entropy_and_dice(x, t))
    with pytest.raises(ValueError, match=r"cannot be added: .*with_logits \(2, 3, 4\), dice_loss \(2, 3\)"):
        entropy_and_dice(x, t, reduction="none")


SCRIPT = """
import colorsys, functools
import cloudpickle
import numpy as np
from fastloss.custom import Linear, RowMaths, Rowwise, SumMaths, Sums, row_index


MATHS = {"rows": RowMaths(brier_value, brier_grad, brier_terms, softmax=True)}


@loss
def brier_score(input, target, *, factor: Annotated[float, POSITIVE] = 2.0, reduction="mean"):
    return Rowwise(MATHS["rows"], factor=factor)


@maths
def product_terms(x, t, p):
    return x * t, x + t


@maths
def product_value(sums, p):
    return sums[0] * p.smooth + sums[1], (sums[0],)


@maths
def product_grad(x, t, coefs, p):
    T = type(x)
    return (t * p.smooth + T(1), x * p.smooth + T(1)), T(0)


@loss
def product_loss(input, target, *, smooth: Annotated[float, POSITIVE] = 1.0, reduction="mean"):
    return Sums(SumMaths(product_terms, product_value, product_grad), axes=range(1, input.ndim), smooth=smooth)


@loss
def contrast(query, key, *, reduction="mean"):
    return Linear(fl.cross_entropy, query, key, target=row_index(), scale=10.0)


@loss
def mixed(input, target, *, reduction="mean"):
    return log_cosh_loss(input, target, reduction=reduction) + 0.5 * fl.mse_loss(input, target, reduction=reduction)


def powered(factor):
    @maths
    def point(x, t):
        T = type(x)
        r = x - t
        return T(factor) * r * r, (T(2 * factor) * r, -T(2 * factor) * r), T(2 * factor)

    @loss("elementwise", wrt=("input", "target"))
    def power_loss(input, target, *, reduction="mean"):
        return Elementwise(point)

    return power_loss


x = np.linspace(-1, 1, 12).reshape(3, 4)
t, y = x[::-1] / 2, np.array([0, 1, 3])
calls = [
    (functools.partial(log_cosh_loss, scale=0.5), (x, t)),
    (fl.value_and_grad(mixed), (x, t)),
    (fl.value_and_grad(brier_score), (x, y)),
    (product_loss, (x, t)),
    (fl.value_and_grad(contrast), (x, t)),
    (fl.partial_sum(powered(3.0)), (x, t)),
]
before = [cloudpickle.dumps(called) for called, _ in calls]
results = repr([called(*arrays) for called, arrays in calls for _ in range(3)])
after = [cloudpickle.dumps(called) for called, _ in calls]
assert before == after
open("sent", "wb").write(cloudpickle.dumps([*calls, *calls]))
open("results", "w").write(results)
"""

RECEIVER = """
import pickle, sys
from fastloss.define.maths import _marked
from fastloss.define.options import POSITIVE

text = open("sent", "rb").read()
calls = pickle.loads(text)
results = repr([called(*arrays) for called, arrays in calls[:len(calls) // 2] for _ in range(3)])
assert results == open("results").read(), results
assert "colorsys" not in sys.modules, "the modules of the sender were sent"
assert calls[0][0].func.__fastloss__.options["scale"] is POSITIVE
marked = len(_marked)
again = pickle.loads(text)
assert repr([called(*arrays) for called, arrays in again[:len(calls) // 2] for _ in range(3)]) == results
assert len(_marked) == marked, "defined anew"
import cloudpickle
pickle.loads(cloudpickle.dumps(again[0]))
assert len(_marked) == marked, "defined anew"
"""


@pytest.mark.slow
def test_losses_of_a_script_go_to_other_processes(tmp_path):
    """As Dask, Spark, Ray and joblib send them; what the script has compiled is found on the disk there."""
    pytest.importorskip("cloudpickle")
    (tmp_path / "script.py").write_text(textwrap.dedent(SOURCE) + inspect.getsource(own_maths) + SCRIPT)
    (tmp_path / "receiver.py").write_text(RECEIVER)
    environment = {**os.environ, "PYTHONPATH": str(Path(fl.__file__).parents[1])}
    environment["FASTLOSS_CACHE_DIR"] = str(tmp_path / "cache")
    kernels = []
    for name in ("script.py", "receiver.py"):
        done = subprocess.run(
            [sys.executable, name], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        kernels.append(sorted(path.name for path in (tmp_path / "cache").glob("*.nbc")))
    assert kernels[0] == kernels[1] != []


def test_a_loss_of_a_module_that_is_sent_with_its_source(own, rng):
    """In the process that it comes from it is the same loss; boosting tells it from an instance of a class."""
    cloudpickle = pytest.importorskip("cloudpickle")
    boosting = pytest.importorskip("fastloss.boosting")
    cloudpickle.register_pickle_by_value(own)
    try:
        sent = cloudpickle.loads(cloudpickle.dumps(own.log_cosh_loss))
    finally:
        cloudpickle.unregister_pickle_by_value(own)
    assert sent is not own.log_cosh_loss
    assert sent.__fastloss__ is own.log_cosh_loss.__fastloss__
    x, t = (array[:, 0] for array in arrays_of("log_cosh_loss", rng))
    np.testing.assert_array_equal(boosting.objective(sent)(x, t), boosting.objective(own.log_cosh_loss)(x, t))
