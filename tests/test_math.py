"""Accuracy and special values of the vectorised maths, and the absence of double precision in float32 maths."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numba
import numpy as np
import pytest
from cases import LOSSES

import fastloss
from fastloss.cpu.simd import half_types as conversions
from fastloss.cpu.simd.memory import load, store
from fastloss.define import scalars
from fastloss.runtime.compile import FASTMATH


@numba.njit
def log_of_x(x):
    return scalars.log_unit(x, True)


@numba.njit
def log_of_rest(x):
    return scalars.log_unit(x, False)


# Function, numpy's counterpart, range of arguments for float32 and float64, bound on the error in ulp.
FUNCTIONS = {
    "exp": (scalars.exp, np.exp, (-103.0, 88.7), (-744.0, 709.7), 1.5),
    "exp_nonpositive": (scalars.exp_nonpositive, np.exp, (-87.0, 0.0), (-708.0, 0.0), 1.5),
    "exp_difference": (scalars.exp_difference, np.exp, (-1.0, 0.0), (-1.0, 0.0), 2.5),
    "log": (scalars.log, np.log, None, None, 1.5),
    "log_sum": (scalars.log_sum, np.log, (1.0, 1e6), (1.0, 1e12), 1.5),
    "log_unit": (log_of_x, np.log, None, None, 1.5),
    "log_unit_of_rest": (log_of_rest, lambda x: np.log1p(-x), None, None, 1.5),
    "log1p_unit": (scalars.log1p_unit, np.log1p, (0.0, 1.0), (0.0, 1.0), 2.5),
}
DTYPES = [np.float32, np.float64]


def over(function):
    """Return a loop over an array, compiled as the drivers are: what surrounds a helper must not change its result."""

    @numba.njit(fastmath=FASTMATH, error_model="numpy")
    def loop(x):
        y = np.empty_like(x)
        for i in range(x.size):
            y[i] = function(x[i])
        return y

    return loop


def arguments(name, dtype):
    rng = np.random.default_rng(5)
    ranges = FUNCTIONS[name][2 if dtype == np.float32 else 3]
    if ranges is not None:
        return rng.uniform(*ranges, 20_000).astype(dtype)
    tiny, huge = np.log(np.finfo(dtype).smallest_subnormal), np.log(np.finfo(dtype).max)
    wide = np.exp(rng.uniform(float(tiny), float(huge), 10_000).astype(np.longdouble)).astype(dtype)
    near_one = 1 + rng.uniform(-0.5, 1.0, 10_000).astype(dtype)
    if name == "log":
        return np.concatenate([wide, near_one])
    unit = np.concatenate([wide[wide < 1], rng.uniform(0, 1, 10_000).astype(dtype), 2 - near_one[near_one > 1]])
    return np.concatenate([unit, 1 - np.spacing(dtype(0.5)) * np.arange(1, 9, dtype=dtype)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_in_ulp_stays_below_the_bound(name, dtype):
    function, exact, *_, bound = FUNCTIONS[name]
    x = arguments(name, dtype)
    computed = over(function)(x)
    expected = exact(x.astype(np.longdouble))
    unit = np.spacing(np.abs(expected).astype(dtype)).astype(np.longdouble)
    error = np.abs(computed.astype(np.longdouble) - expected) / unit
    worst = int(np.argmax(error))
    assert error[worst] <= bound, f"{name}({x[worst]!r}) = {computed[worst]!r}, {float(error[worst]):.2f} ulp off"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_special_values(name, dtype):
    special = {
        "exp": [0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, -1e30],
        "exp_nonpositive": [0.0, -0.0, -np.inf, np.nan, -1e30],
        "exp_difference": [0.0, -0.0, -np.inf, np.nan, -1e30],
        "log": [0.0, -0.0, 1.0, np.inf, -np.inf, np.nan, -1.0],
        "log_sum": [1.0, 2.0, 1e30, np.nan],
        "log_unit": [1.0],
        "log_unit_of_rest": [0.0],
        "log1p_unit": [0.0, 1.0, np.nan],
    }[name]
    x = np.array(special, dtype)
    function, exact, *_ = FUNCTIONS[name]
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(over(function)(x), exact(x), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_logarithm_of_nothing_is_less_than_any_that_is_clamped(dtype):
    below = -100 if dtype == np.float32 else -740
    assert over(log_of_x)(np.zeros(9, dtype)).max() < below
    assert over(log_of_rest)(np.ones(9, dtype)).max() < below


def test_results_below_the_smallest_normal_number_are_kept_or_zero():
    x = np.array([-88.0, -95.0, -103.0], np.float32)
    np.testing.assert_allclose(over(scalars.exp)(x), np.exp(x), rtol=0, atol=3e-45)
    assert (over(scalars.exp_nonpositive)(x) == 0).all()
    assert (over(scalars.exp_difference)(x) == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_exponential_of_a_difference_loses_less_than_the_rounding_of_the_difference(dtype):
    x = np.random.default_rng(6).uniform(-87.0, 0.0, 20_000).astype(dtype)
    exact = np.exp(x.astype(np.longdouble))
    error = np.abs(over(scalars.exp_difference)(x) / exact - 1)
    assert (error <= 2 * np.finfo(dtype).eps + np.spacing(-x) / 8).all()


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
@pytest.mark.parametrize("classes", [10, 100, 1000, 5000])
def test_gradients_of_cross_entropy_are_more_accurate_than_torchs(classes, spread):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(7)
    logits = (spread * rng.standard_normal((200_000 // classes, classes))).astype(np.float32)
    labels = rng.integers(0, classes, len(logits))
    leaf = torch.from_numpy(logits).requires_grad_()
    torch.nn.functional.cross_entropy(leaf, torch.from_numpy(labels), reduction="sum").backward()
    computed = fastloss.value_and_grad(fastloss.cross_entropy)(logits, labels, reduction="sum")[1]
    exact = np.exp(logits - logits.max(axis=1, keepdims=True).astype(np.float64))
    exact /= exact.sum(axis=1, keepdims=True)
    others = np.ones(logits.shape, bool)
    others[np.arange(len(labels)), labels] = False
    ours, theirs = (np.abs(found / exact - 1)[others] for found in (computed, leaf.grad.numpy()))
    assert ours.max() <= theirs.max()
    assert np.square(ours).mean() <= np.square(theirs).mean()


def in_double_precision(ir):
    """Parameters that a tuple carries, and the boxing of results for Python, are no arithmetic."""
    return [line for line in ir.splitlines() if re.search(r"= f(add|sub|mul|div|cmp|neg)\b.* double", line)][:3]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_loops_are_vectorised(name):
    """Branch-free means that LLVM makes vectors of it; a scalar call to libm would show as a call."""
    loop = over(FUNCTIONS[name][0])
    loop(np.ones(4, np.float32))
    (ir,) = loop.inspect_llvm().values()
    assert re.search(r"<(4|8|16) x float>", ir), f"{name} is not vectorised"
    assert not re.search(r"call .*@(expf?|logf?|log1pf?)\(", ir)
    assert not in_double_precision(ir)


def maths():
    """Every scalar function of losses/ with the types of its arguments in a float32 kernel."""
    f, b, t3, p = numba.float32, numba.boolean, numba.types.UniTuple(numba.float32, 3), numba.types.UniTuple
    for record in LOSSES.values():
        if record.name in ELEMENTWISE:
            yield ELEMENTWISE[record.name]
    from fastloss.losses import embedding, margin, multiclass, norms, softmax, symmetric, triplet

    for module in (multiclass, margin, softmax, symmetric):
        row_maths = [value for value in vars(module).values() if type(value).__name__ == "RowMaths"]
        tables = [value for value in vars(module).values() if isinstance(value, dict)]
        row_maths += [m for table in tables for m in table.values() if hasattr(m, "finish")]
        for m in row_maths:
            yield m.finish, (f, f, t3, f, f, f, f, p(f, 3))
            if m.terms is not None:
                yield m.terms, (f, f, f, f, b, f, f, p(f, 3))
    vectors = [embedding.COSINE, embedding.SIMILARITY, embedding.COSINE_DISTANCE]
    vectors += [triplet.triplet(norms.NORMS[2.0], True), triplet.triplet(norms.LP, False)]
    vectors += [norms.distance(norm) for norm in (*norms.NORMS.values(), norms.LP, norms.SQUARED)]
    for m in vectors:
        yield m.terms, (f, f, f, t3, p(f, 3))
        yield m.finish, (t3, t3, f, p(f, 3))
        if m.again is not None:
            yield m.again, (t3, p(f, 3))


def _elementwise():
    from fastloss.losses import (
        binary,
        divergence,
        embedding,
        focal,
        likelihood,
        logistic,
        margin,
        penalty,
        regression,
        triplet,
    )  # fmt: skip

    f = numba.float32
    return {
        "mse_loss": (regression.mse, (f,) * 2),
        "l1_loss": (regression.l1, (f,) * 2),
        "smooth_l1_loss": (regression.smooth_l1, (f,) * 3),
        "huber_loss": (regression.huber, (f,) * 3),
        "poisson_nll_loss": (likelihood.poisson_rate_full, (f,) * 3),
        "gaussian_nll_loss": (likelihood.gaussian, (f,) * 5),
        "binary_cross_entropy": (binary.bce, (f,) * 2),
        "binary_cross_entropy_with_logits": (binary.bce_with_logits_pos_weight, (f,) * 3),
        "soft_margin_loss": (binary.soft_margin, (f,) * 2),
        "hinge_embedding_loss": (binary.hinge_embedding, (f,) * 3),
        "binary_focal_loss": (focal.binary_focal(scalars.power), (f,) * 4),
        "sigmoid_focal_loss": (focal.sigmoid_focal(scalars.power), (f,) * 4),
        "kl_div": (divergence.kl, (f,) * 2),
        "multilabel_margin_loss": (margin.multilabel_hinge, (f,) * 2),
        "triplet_margin_with_distance_loss": (triplet.hinge_of_nearest, (f,) * 4),
        "l1_penalty": (penalty.absolute, (f,) * 2),
        "l2_penalty": (penalty.half_square, (f,) * 2),
        "margin_ranking_loss": (embedding.margin_ranking, (f,) * 4),
        "sigmoid": (logistic.sigmoid_block, (f,)),
        "logsigmoid": (logistic.log_sigmoid_block, (f,)),
    }


ELEMENTWISE = _elementwise()


# With the functions above, these have all that backends put in the place of Python's.
QUICK = {"binary_focal_power", "cosine_row", "cosine_again", "triplet_l2_swap_again", "distance_lp_row"}


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        pytest.param(*one, marks=() if one[0].__name__ in QUICK else pytest.mark.slow, id=one[0].__name__)
        for one in maths()
    ],
)
def test_float32_maths_holds_no_double_precision(function, signature):
    """What widens is found in plain Python, by test_plain_maths.py; here also what the compiler makes of it."""
    compiled = numba.njit(error_model="numpy")(function)
    compiled.compile(signature)
    (ir,) = compiled.inspect_llvm().values()
    assert not in_double_precision(ir)


# -- float16 without an instruction ------------------------------------------------------------------------------------


@numba.njit
def every_widened(bits, target):
    for i in range(bits.size):
        target[i] = load(bits, i)


@numba.njit
def every_narrowed(numbers, target):
    for i in range(numbers.size):
        store(target, i, numbers[i])


@pytest.fixture
def _by_moving_bits(monkeypatch):
    monkeypatch.setattr(conversions, "CONVERTS_HALF", False)
    every_widened.recompile()
    every_narrowed.recompile()


HALVES = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.mark.usefixtures("_by_moving_bits")
def test_every_float16_is_widened():
    found = np.empty(HALVES.size, np.float32)
    every_widened(HALVES.view(np.int16), found)
    np.testing.assert_array_equal(found, HALVES.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(found), np.signbit(HALVES))


@pytest.mark.usefixtures("_by_moving_bits")
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_float32_is_rounded_to_float16(rng):
    exact = HALVES.astype(np.float32)
    finite = np.sort(exact[np.isfinite(exact)])
    between = (finite[1:] + finite[:-1]) / 2  # ties, exact in float32
    numbers = np.concatenate(
        [
            exact,
            between,
            *(np.nextafter(of, np.float32(to)) for of in (finite, between) for to in (-np.inf, np.inf)),
            rng.integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32),
            np.float32([65519.996, 65520, 65536, 1e30, 2**-25, 2**-149]),
        ]
    )
    found = np.empty(numbers.size, np.int16)
    every_narrowed(numbers, found)
    expected = numbers.astype(np.float16)
    np.testing.assert_array_equal(found.view(np.float16), expected)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found.view(np.float16))[known], np.signbit(expected)[known])


@pytest.mark.slow
def test_a_loss_of_float16_on_any_cpu(tmp_path):
    """Code for CPUs that lack all that is newer than their architecture."""
    code = """
import numpy as np, fastloss as fl
x = np.linspace(-3, 3, 640).astype(np.float16).reshape(64, 10)
value, gradient = fl.value_and_grad(fl.cross_entropy)(x, np.arange(64) % 10)
exact, slopes = fl.value_and_grad(fl.cross_entropy)(x.astype(np.float32), np.arange(64) % 10)
assert gradient.dtype == np.float16
np.testing.assert_allclose(value, exact, 1e-3)
np.testing.assert_allclose(gradient, slopes, 1e-3, 1e-6)
"""
    environment = os.environ | {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
