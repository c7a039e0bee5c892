"""Losses of one's own, through fastloss.custom alone."""

import copy
import functools
import math
from math import cos as cosine
from typing import Annotated, Optional

import ml_dtypes
import numpy as np
import pytest
from cases import quickly
from own_maths import brier_grad, brier_terms, brier_value

import fastloss as fl
import fastloss.testing
from fastloss.custom import (
    OPEN_UNIT,
    POSITIVE,
    Array,
    Elementwise,
    Linear,
    RowMaths,
    Rowwise,
    SumMaths,
    Sums,
    exp,
    loss,
    maths,
    row_index,
)
from fastloss.define.registry import LOSSES

rng = np.random.default_rng(7)
X, T = rng.uniform(0.1, 0.9, (2, 3, 4)), rng.uniform(0.1, 0.9, (2, 3, 4))


pytestmark = pytest.mark.usefixtures("forgets_losses")


def assert_gradient(function, arrays, wrt=None, **options):
    """Compare the gradients of a loss with differences, each of the shape of its argument."""
    names = wrt or function.__fastloss__.differentiable
    _, found = fl.value_and_grad(function, tuple(names))(**arrays, **options)
    for name, gradient in zip(names, found, strict=True):
        assert gradient.shape == arrays[name].shape
        for place in list(np.ndindex(gradient.shape))[::3]:
            step = np.zeros_like(arrays[name])
            step[place] = 1e-5
            up, down = (function(**arrays | {name: arrays[name] + s * step}, **options) for s in (1, -1))
            np.testing.assert_allclose(gradient[place], (up - down) / 2e-5, rtol=1e-6, atol=1e-8)


# -- elements


@maths
def power_error(x, t, low, high):
    r = x - t
    scale = high if r > type(x)(0) else low
    return scale * r * r, (scale * (r + r), -scale * (r + r)), scale + scale


def test_elementwise_is_read_from_its_signature():
    @loss
    def lopsided_loss(
        input,
        target,
        weight=None,
        *,
        high: Annotated[float, POSITIVE] = 2.0,
        low: Annotated[float, POSITIVE] = 1.0,
        reduction="mean",
    ):
        return Elementwise(power_error, high=high, low=low)

    record = lopsided_loss.__fastloss__
    assert (record.family, record.wrt, record.differentiable, record.hessian) == (
        "elementwise", ("input",), ("input", "target", "weight"), "exact",
    )  # fmt: skip
    expected = np.where(X > T, 5.0, 1.0) * (X - T) ** 2
    np.testing.assert_allclose(lopsided_loss(X, T, reduction="none", high=5.0), expected)
    np.testing.assert_allclose(lopsided_loss(X, T, X, high=5.0), (X * expected).mean())
    assert_gradient(lopsided_loss, {"input": X, "target": T}, ("input", "target"), high=5.0)
    assert lopsided_loss(X.astype(np.float32), T.astype(np.float32)).dtype == np.float32
    with pytest.raises(ValueError, match="high must be a number > 0, got 0"):
        lopsided_loss(X, T, high=0.0)


@maths
def of_one(x, q):
    return q * x * x, (q * (x + x),), q + q


@maths
def of_two(x, t):
    return (x - t) * (x - t), (x - t + x - t,), type(x)(2)


@maths
def of_three(x, t, u):
    return (x - t) * (x - u), (x - t + x - u, u - x, t - x), type(x)(2)


def test_a_gradient_of_weights_is_that_of_two_arrays():
    """The kernel of such a gradient takes the weight for the third array."""

    @loss
    def first_loss(input, weight=None, *, q=2.0, reduction="mean"):
        return Elementwise(of_one, q=q)

    @loss
    def second_loss(input, target, weight=None, *, reduction="mean"):
        return Elementwise(of_two)

    @loss
    def third_loss(input, target, other, weight=None, *, reduction="mean"):
        return Elementwise(of_three)

    np.testing.assert_allclose(third_loss(X, T, 2 * T, X), (X * (X - T) * (X - 2 * T)).mean())
    for function in (first_loss, second_loss, third_loss):
        with pytest.raises(ValueError, match="not differentiable with respect to 'weight'"):
            fl.grad(function, "weight")


def test_a_reduction_by_default_is_that_of_weighted_samples():
    @maths
    def squares(x, t):
        T = type(x)
        return (x - t) * (x - t), (T(2) * (x - t), T(2) * (t - x)), T(2)

    @loss
    def summed_loss(input, target, *, reduction="sum"):
        return Elementwise(squares)

    x = np.array([1.0, 2.0])
    assert summed_loss(x, 0 * x) == 5
    assert summed_loss(x, 0 * x, sample_weight=np.array([1.0, 3.0])) == 13


def test_what_the_decorator_is_told_stands():
    @loss(differentiable=("input",), hessian=None)
    def one_sided_loss(input, target, *, reduction="mean"):
        return Elementwise(power_error, low=1.0, high=2.0)

    with pytest.raises(ValueError, match="not differentiable with respect to 'target'"):
        fl.grad(one_sided_loss, "target")
    with pytest.raises(ValueError, match="has no second derivative"):
        fl.grad_and_hess(one_sided_loss)


# -- sums over any axes


@maths
def cosine_terms(x, t, p):
    return x * t, x * x, t * t


@maths
def cosine_value(sums, p):
    one = type(sums[0])(1)
    dot, xx, tt = sums
    inverse = one / ((xx * tt) ** type(dot)(0.5) + p.eps)
    return one - dot * inverse, (inverse, dot * inverse / xx, dot * inverse / tt)


@maths
def cosine_grad(x, t, coefs, p):
    inverse, along_x, along_t = coefs
    return (along_x * x - inverse * t, along_t * t - inverse * x), x - x


COSINE = SumMaths(cosine_terms, cosine_value, cosine_grad)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2), (-1, 0)])
def test_sums_over_any_axes(axes):
    @loss(hessian=None)
    def cosine_loss(input, target, *, reduction="mean"):
        return Sums(COSINE, axes=axes, eps=0.0)

    assert cosine_loss.__fastloss__.differentiable == ("input", "target")
    expected = 1 - (X * T).sum(axes) / np.sqrt((X * X).sum(axes) * (T * T).sum(axes))
    np.testing.assert_allclose(cosine_loss(X, T, reduction="none"), expected)
    np.testing.assert_allclose(cosine_loss(X, T), expected.mean())
    assert_gradient(cosine_loss, {"input": X, "target": T})
    into = np.empty_like(X)
    fl.grad(cosine_loss)(X, T, grad_out=into)
    np.testing.assert_array_equal(into, fl.grad(cosine_loss)(X, T))


def test_axes_of_sums_are_checked():
    @loss
    def twice_loss(input, target, *, reduction="mean"):
        return Sums(COSINE, axes=(1, -1), eps=0.0)

    with pytest.raises(ValueError, match="axes must name each axis once"):
        twice_loss(X[0], T[0])
    with pytest.raises(ValueError, match="axes 1 is out of range for an input with 1 axes"):
        twice_loss(X[0, 0], T[0, 0])


# -- rows


@maths
def kept_value(row, p):
    return p.factor * row.sums[0], (row.sums[1], row.sums[2])


@maths
def kept_grad(entry, kept, p):
    one = type(entry.p)(1)
    d = entry.p - one if entry.hit else entry.p
    pull, twice = d - kept[0], p.factor * (entry.p + entry.p)
    rest = one - entry.p - entry.p
    return (twice * pull,), twice * (rest * pull + entry.p * (rest + kept[1]))


@pytest.mark.parametrize(
    "functions", quickly((kept_value, kept_grad), then=[(brier_value, brier_grad)]), ids=["kept", "row"]
)
@pytest.mark.parametrize("classes", [5, pytest.param(80, marks=pytest.mark.slow)])
def test_rows_with_named_arguments(functions, classes):
    rows = RowMaths(*functions, brier_terms, softmax=True)

    @loss
    def brier_loss(input, target, *, ignore_index: int = -100, factor=1.0, reduction="mean"):
        return Rowwise(rows, factor=factor)

    assert brier_loss.__fastloss__.domains == {"target": "class"}
    x, y = rng.standard_normal((3, classes)), np.array([4, -100, 2])
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    expected = 3 * ((p[[0, 2]] - np.eye(classes)[y[[0, 2]]]) ** 2).sum(1).mean()
    np.testing.assert_allclose(brier_loss(x, y, factor=3.0), expected)
    assert_gradient(brier_loss, {"input": x, "target": y}, ("input",), factor=3.0)


@maths
def poly_value(row, p):
    log_p = row.z - row.logsum
    return p.factor * (type(log_p)(1) - exp(log_p)) - log_p


@maths
def poly_grad(entry, row, p):
    T = type(entry.p)
    hit = T(1) if entry.hit else T(0)
    likely = exp(row.z - row.logsum)
    return ((entry.p - hit) - p.factor * likely * (hit - entry.p),), T(0)


def test_rows_of_ones_own_have_the_same_bits_in_any_batch():
    @loss(hessian=None)
    def poly_loss(input, target, *, factor=1.0, reduction="mean"):
        return Rowwise(RowMaths(poly_value, poly_grad, softmax=True), factor=factor)

    generator = np.random.default_rng(0)
    fastloss.testing.assert_batch_invariant(
        poly_loss, generator.standard_normal((37, 5)), generator.integers(0, 5, 37), factor=0.7
    )


# -- chains, sums of losses, linear maps


@loss
def softened_loss(input, target, *, reduction="mean"):
    return fl.mse_loss(fl.softmax(input, 1), fl.sigmoid(target), reduction=reduction)


def test_a_chain_of_losses():
    record = softened_loss.__fastloss__
    assert (record.family, record.wrt, record.differentiable) == ("chain", ("input",), ("input", "target"))
    expected = (fl.softmax(X, 1) - fl.sigmoid(T)) ** 2
    np.testing.assert_allclose(softened_loss(X, T, reduction="none"), expected)
    np.testing.assert_allclose(softened_loss(X, T), expected.mean())
    assert_gradient(softened_loss, {"input": X, "target": T})
    out, into = np.empty_like(X), np.empty_like(X)
    value, gradient = fl.value_and_grad(softened_loss)(X, T, reduction="none", grad_output=T, out=out, grad_out=into)
    assert value is out
    assert gradient is into
    np.testing.assert_allclose(into, fl.grad(fl.softmax)(X, 1, grad_output=T * 2 * (fl.softmax(X, 1) - fl.sigmoid(T))))
    with pytest.raises(ValueError, match="no second derivative"):
        fl.grad_and_hess(softened_loss)
    with pytest.raises(ValueError, match="grad_out must have shape"):
        fl.grad(softened_loss)(X, T, grad_out=np.empty(3))


def test_values_of_a_chain_are_not_written_over_what_is_read_later():
    both = fl.value_and_grad(fl.soft_dice_loss)
    x, t, into = X[0].copy(), T[0], np.empty((3, 4))
    with pytest.raises(ValueError, match="out overlaps an argument"):
        both(x, t, reduction="none", out=x.reshape(-1)[:3])
    with pytest.raises(ValueError, match="out overlaps an argument or another array that is written"):
        both(x, t, reduction="none", out=into.reshape(-1)[:3], grad_out=into)
    np.testing.assert_array_equal(x, X[0])
    expected, _ = both(x, t, reduction="none")
    np.testing.assert_array_equal(both(x, t, reduction="none", out=t[1:2, :3].copy()[0])[0], expected)


def test_the_same_array_at_both_ends_of_a_chain():
    @loss
    def sharpness_loss(input, *, reduction="mean"):
        return fl.mse_loss(fl.sigmoid(input), input, reduction=reduction)

    assert_gradient(sharpness_loss, {"input": X})


def test_a_sum_of_losses():
    @loss
    def elastic_loss(input, target, *, reduction="mean"):
        squares = fl.mse_loss(input, target, reduction=reduction)
        return 0.5 * squares + 3 * fl.l1_loss(input, target, reduction=reduction) - squares / 4

    expected = (X - T) ** 2 / 4 + 3 * abs(X - T)
    np.testing.assert_allclose(elastic_loss(X, T), expected.mean())
    np.testing.assert_allclose(elastic_loss(X, T, reduction="none"), expected)
    assert_gradient(elastic_loss, {"input": X, "target": T})
    upstream = fl.grad(elastic_loss)(X, T, reduction="none", grad_output=X)
    np.testing.assert_allclose(upstream, X * ((X - T) / 2 + 3 * np.sign(X - T)))


def test_a_chain_knows_what_its_arrays_hold():
    """An example of its arguments has labels where one of its losses takes labels."""

    @loss
    def labelled_loss(input, target, *, reduction="mean"):
        total = fl.cross_entropy(input, target, reduction=reduction)
        return total + fl.nll_loss(fl.log_softmax(input, 1), target, reduction=reduction)

    assert labelled_loss.__fastloss__.domains == {"target": "class"}
    fastloss.testing.check(labelled_loss)


@pytest.mark.parametrize(
    ("describe", "message"),
    [
        (lambda x, t: fl.huber_loss(x, t, detla=2.0), r"huber_loss\(\) got an unexpected keyword argument 'detla'"),
        (lambda x, t: fl.mse_loss(fl.softmax(x, 1, dmi=0), t), r"softmax\(\) got an unexpected .* 'dmi'"),
        (lambda x, t: fl.l1_loss(x, t) + fl.mse_loss(x), r"mse_loss\(\) missing a required argument: 'target'"),
        (lambda x, t: fl.mse_loss(x, t, None, "sum"), r"mse_loss\(\) too many positional arguments"),
    ],
)
def test_arguments_that_an_inner_loss_lacks_are_found_at_definition(describe, message):
    with pytest.raises(TypeError, match=message):

        @loss
        def faulty_loss(input, target):
            return describe(input, target)


@pytest.mark.filterwarnings("ignore:size_average")
def test_an_inner_loss_takes_what_torch_has_given_up():
    @loss
    def summed_loss(input, target):
        return fl.mse_loss(input, target, size_average=False)

    np.testing.assert_allclose(summed_loss(X, T), fl.mse_loss(X, T, reduction="sum"))


@pytest.mark.parametrize(
    "describe", [lambda x, t: fl.mse_loss(fl.softmax(x, 1), t), lambda x, t: fl.mse_loss(x, t) + 2 * fl.l1_loss(x, t)]
)
def test_a_reduction_that_goes_nowhere(describe):
    with pytest.raises(TypeError, match="faulty_loss: none of its losses is told the reduction: write reduction=red"):

        @loss
        def faulty_loss(input, target, *, reduction="mean"):
            return describe(input, target)

    @loss
    def reduced_loss(input, target):
        return describe(input, target)

    assert reduced_loss(X, T).shape == ()


def test_a_loss_with_the_other_sign():
    @loss
    def gain(input, target, *, reduction="mean"):
        return -fl.mse_loss(input, target, reduction=reduction) + fl.l1_loss(input, target, reduction=reduction)

    np.testing.assert_allclose(gain(X, T), (abs(X - T) - (X - T) ** 2).mean())


def test_what_a_description_sees_of_an_array_can_be_copied():
    seen = []

    @loss
    def seeing_loss(input, target, *, reduction="mean"):
        seen.append(copy.copy(input))
        return fl.mse_loss(input, target, reduction=reduction)

    assert seen[0].shape == (2, 3)


def test_losses_are_added_up_by_the_built_in_sum():
    @loss
    def summed_loss(input, target, *, reduction="mean"):
        return sum([each(input, target, reduction=reduction) for each in (fl.mse_loss, fl.l1_loss)])

    np.testing.assert_allclose(summed_loss(X, T), ((X - T) ** 2 + abs(X - T)).mean())


def test_a_chain_of_tensors():
    torch = pytest.importorskip("torch")
    value, gradient = fl.value_and_grad(softened_loss)(torch.tensor(X), torch.tensor(T))
    assert isinstance(gradient, torch.Tensor)
    np.testing.assert_allclose(float(value), softened_loss(X, T))
    np.testing.assert_allclose(gradient.numpy(), fl.grad(softened_loss)(X, T))


def test_a_linear_map_with_names_of_ones_own():
    @loss
    def retrieval_loss(question, answer, *, smoothing: float = 0.0, shift: int = 0, reduction="mean"):
        target = row_index(shift)
        return Linear(fl.cross_entropy, question, answer, target=target, scale=4.0, label_smoothing=smoothing)

    record = retrieval_loss.__fastloss__
    assert (record.family, record.wrt) == ("projected", ("question", "answer"))
    q, a = rng.standard_normal((3, 4)), rng.standard_normal((5, 4))
    expected = fl.cross_entropy(4 * q @ a.T, np.arange(3) + 2, label_smoothing=0.1)
    np.testing.assert_allclose(retrieval_loss(q, a, smoothing=0.1, shift=2), expected)
    assert_gradient(retrieval_loss, {"question": q, "answer": a}, smoothing=0.1, shift=2)
    into = q.copy()
    assert fl.grad(retrieval_loss, "question")(into, a, grad_out=into) is into
    np.testing.assert_allclose(into, fl.grad(retrieval_loss, "question")(q, a))
    with pytest.raises(ValueError, match=r"row n of question \(3, 4\) belongs to row n \+ 3 of answer"):
        retrieval_loss(q, a, shift=3)
    with pytest.raises(ValueError, match=r"question \(3, 4\) and answer \(5, 3\) must agree"):
        retrieval_loss(q, a[:, :3])


def test_in_batch_contrasts_exchanged():
    q, k = rng.standard_normal((4, 3)), rng.standard_normal((4, 3))
    there, back = fl.info_nce_loss(q, k), fl.info_nce_loss(k, q)
    np.testing.assert_allclose(fl.info_nce_loss(q, k, symmetric=True), (there + back) / 2)
    assert_gradient(fl.info_nce_loss, {"query": q, "key": k}, symmetric=True)
    with pytest.raises(ValueError, match=r"row n of query \(4, 3\) belongs to row n of key, which has shape \(3, 3\)"):
        fl.info_nce_loss(q[:3], k, symmetric=True)


# -- functions of Python that maths is written with


@maths
def grown_inside(x, t):
    def grown(y):
        return exp(y)

    e = grown(x)
    return e * t, (e * t, e), e * t


@maths
def grown_by_a_module(x, t):
    e = fastloss.custom.exp(x)
    return t * e, (t * e, e), t * e


@maths
def grown_by_numpy(x, t):
    e = np.exp(x)
    return t * e, (t * e, e), t * e


@pytest.mark.parametrize("point", [grown_inside, grown_by_a_module, grown_by_numpy])
def test_maths_may_have_inner_functions_and_take_functions_of_modules(point):
    @loss
    def grown_loss(input, target, *, reduction="mean"):
        return Elementwise(point)

    np.testing.assert_allclose(grown_loss(X, T), np.mean(np.exp(X) * T), rtol=1e-14)


@maths
def inner_name_missing(x, t):
    def grown(y):
        return expo(y)  # noqa: F821

    return grown(x), (x,), x


@maths
def inverse_gap(x, t, p):
    T = type(x)
    return (T(1) / (x - t),)


@maths
def sum_of_gaps(sums, p):
    return sums[0], ()


@maths
def slope_of_gaps(x, t, coefs, p):
    T = type(x)
    d = T(1) / (x - t)
    return (-d * d, d * d), T(2) * d * d * d


@maths
def over_others(row, p):
    T = type(row.z)
    return T(1) / (row.p_others - row.sums[0]), (row.z,)


@maths
def sum_of_entries(entry, row, p):
    T = type(entry.z)
    return entry.z, T(0), T(0)


@maths
def same_slope(entry, kept, p):
    return (kept[0],), kept[0]


def test_maths_may_divide_by_differences():
    @loss
    def gap_loss(input, target, *, reduction="mean"):
        return Sums(SumMaths(inverse_gap, sum_of_gaps, slope_of_gaps), axes=-1)

    np.testing.assert_allclose(gap_loss(X, X - T), np.mean(np.sum(1 / T, axis=-1)), rtol=1e-14)

    @loss
    def others_loss(input, target, *, reduction="mean"):
        return Rowwise(RowMaths(over_others, same_slope, sum_of_entries, softmax=True))

    assert np.isfinite(others_loss(X[0], np.array([1, 2, 0])))


# -- mistakes

# -- mistakes


@maths
def widens(x, t):
    return 0.5 * (x - t), (x, t), x


@maths
def widens_after_a_leaf(x, t):
    return math.pi * exp(x), (x,), x


@maths
def returns_a_number(x, t):
    return x - t, (x, -x), 0.0


@maths
def undefined(x, t):
    return missing(x) - t, (x,), x  # noqa: F821


@maths
def too_many_slopes(x, t):
    return x - t, (x, t, x), x


@maths
def no_tuple(x, t):
    return x - t, x, x


def not_marked(x, t):
    return x - t, (x,), x


@maths
def calls_what_is_not_marked(x, t):
    return not_marked(x, t)[0], (x,), x


@maths
def narrow_after_mathematics(x, t):
    e = cosine(x)
    return e, (e,), e


@maths
def of_any(*xs):
    return xs[0], xs, xs[0]


@maths
def defaults(x, t, k=2):
    return x**k, (x, x), x


@maths
def another_count(x, t):
    T = type(x)
    return (x, (T(1), T(0)), T(0)) if x > t else (x, (T(1),), T(0))


@maths
def no_curvature(x, t):
    return x - t, (x, t), None


@maths
def no_second_slope(x, t):
    return x - t, (x, None), x


@maths
def no_slope(x, t):
    return x - t, (), x


@maths
def method_of_tensors(x, t):
    return x.clamp(0), (x,), x


@maths
def unbound(x, t):
    if x > t:
        y = x
    return y, (x,), x


@maths
def reads_a_list(x, t):
    return type(x)(LISTED[0]) * x, (x,), x


@maths
def of_four(a, b, c, d):
    return a * b * c * d, (b * c * d,), a - a


LISTED = [2.0, 3.0]


def test_a_function_of_math_keeps_the_type():
    @loss
    def cosine_of_input(input, target, *, reduction="mean"):
        return Elementwise(narrow_after_mathematics)

    np.testing.assert_allclose(cosine_of_input(X, T, reduction="none"), np.cos(X))


@pytest.mark.parametrize(
    ("point", "error", "message"),
    [
        (another_count, TypeError, "another_count returns of some numbers 1 and of others 2 first derivatives"),
        (no_curvature, TypeError, r"no_curvature must return \(value, first derivatives, second derivative\)"),
        (no_second_slope, TypeError, r"no_second_slope must return \(value, first derivatives, second derivative\)"),
        (no_slope, TypeError, r"no_slope must return \(value, first derivatives, second derivative\)"),
        (method_of_tensors, TypeError, r"method_of_tensors, line \d+: 'number' object has no attribute 'clamp'"),
        (unbound, NameError, r"unbound, line \d+: cannot access local variable 'y'"),
        (reads_a_list, TypeError, "reads_a_list uses 'LISTED', a list: maths may use tuples and arrays"),
        (math.exp, TypeError, "point must be a function marked @maths, got <built-in function exp>"),
        ("of_two", TypeError, "point must be a function marked @maths, got 'of_two'"),
        (widens, TypeError, r"widens, line \d+: the number 0.5 turns float32 into float64; write T\(0.5\)"),
        (widens_after_a_leaf, TypeError, r"widens_after_a_leaf, line \d+: the number 3.14"),
        (returns_a_number, TypeError, "the number 0.0 turns float32 into float64"),
        (undefined, NameError, "undefined uses 'missing', which is not defined"),
        (inner_name_missing, NameError, "inner_name_missing uses 'expo', which is not defined"),
        (too_many_slopes, TypeError, "too_many_slopes returns 3 first derivatives of 2 arrays"),
        (no_tuple, TypeError, r"no_tuple must return \(value, first derivatives, second derivative\)"),
        (not_marked, TypeError, "not_marked must be marked @maths"),
        (calls_what_is_not_marked, TypeError, "not_marked must be marked @maths"),
        (of_any, TypeError, r"of_any must name each of its arguments: \*xs stands for any number of them"),
        (defaults, TypeError, r"defaults has a default for k, .*Elementwise\(defaults, k=...\)"),
        (
            power_error,
            TypeError,
            r"power_error takes 4 elements of arrays \(x, t, low, high\), but the loss has input, target; numbers",
        ),
    ],
)
def test_mistakes_in_the_maths_are_errors_at_definition(point, error, message):
    with pytest.raises(error, match=f"faulty_loss.*{message}|{message}"):

        @loss
        def faulty_loss(input, target):
            return Elementwise(point)


def test_at_most_three_arrays():
    with pytest.raises(TypeError, match="a loss of single elements has one to three arrays, got a, b, c, d"):

        @loss
        def faulty_loss(a, b, c, d):
            return Elementwise(of_four)


@pytest.mark.parametrize("arguments", ["x, t, *, k", "x, t, **k", "*x, k=1"])
def test_maths_takes_arguments_by_position(arguments):
    defined = {}
    exec(f"def named_only({arguments}): return x, (x,), x", defined)
    with pytest.raises(TypeError, match="@maths: named_only must take all its arguments by position"):
        maths(defined["named_only"])


def test_marks_are_for_functions():
    with pytest.raises(TypeError, match=r"@maths marks functions that are written in Python, got functools.partial"):
        maths(functools.partial(of_two))


@maths
def rarely_another_count(x, t):
    T = type(x)
    return (x, (T(1), T(0)), T(0)) if x > T(1000) else (x, (T(1),), T(0))


def test_what_the_compiler_refuses_is_said_in_a_line():
    @loss
    def faulty_loss(input, target, *, reduction="mean"):
        return Elementwise(rarely_another_count)

    message = r"^Numba cannot compile rarely_another_count: .*[^\n]* \(.*test_custom.py, line \d+\)$"
    with pytest.raises(TypeError, match=message) as raised:
        faulty_loss(X, T)
    assert len(str(raised.value).splitlines()) == 1


@maths
def with_an_array(x, t):
    T = type(x)
    pair = np.zeros(2, T)
    pair[0] = x - t
    return pair[0], (T(1), T(-1)), T(0)


@maths
def with_a_list(x, t):
    T = type(x)
    pair = [x, t]
    return pair[0], (T(1), T(-1)), T(0)


@maths
def with_a_number_in_its_error(x, t):
    T = type(x)
    if x > t:
        raise ValueError("too large", x)
    return x, (T(1), T(-1)), T(0)


@pytest.mark.parametrize("point", [with_an_array, with_a_list, with_a_number_in_its_error])
def test_a_function_of_numbers_makes_nothing_else(point):
    """What counts references to arrays, lists and strings is left out of kernels."""

    @loss
    def array_loss(input, target, *, reduction="mean"):
        return Elementwise(point)

    message = rf"^Numba cannot compile {point.__name__}: it makes an array, .*\(\S*test_custom.py, line \d+\)$"
    with pytest.raises(TypeError, match=message) as raised:
        array_loss(X, T)
    line = int(str(raised.value).rpartition(" ")[2].rstrip(")"))
    assert 1 <= line - point.__code__.co_firstlineno <= 4


@maths
def entry_alone(x, t, coefs, p):
    return x, t


@maths
def sums_alone(sums, p):
    return sums[0]


@maths
def four_terms(x, t, p):
    return x, x, x, x


@pytest.mark.parametrize(
    ("functions", "message"),
    [
        (COSINE._replace(entry=entry_alone), r"entry_alone must return \(\(first derivatives, ...\), second der"),
        (COSINE._replace(finish=sums_alone), r"sums_alone must return \(value, \(coefs, ...\)\)"),
        (COSINE._replace(terms=four_terms), "four_terms must return a tuple of one to three terms, got"),
    ],
)
def test_mistakes_in_maths_of_sums_are_errors_at_definition(functions, message):
    with pytest.raises(TypeError, match=message):

        @loss
        def faulty_loss(input, target):
            return Sums(functions, axes=1, eps=0.0)


@pytest.mark.parametrize("value", [brier_value, lambda row, p: row.logsum], ids=["value", "gradient"])
def test_sums_of_a_row_need_terms(value):
    with pytest.raises(TypeError, match=r"reads row\.sums, but there are no terms"):

        @loss
        def faulty_loss(input, target):
            return Rowwise(RowMaths(maths(value), brier_grad, softmax=True))


@maths
def one_term(entry, row, p):
    return entry.p


@maths
def unknown_number(row, p):
    return p.factor * row.z


@pytest.mark.parametrize(
    ("functions", "numbers", "error", "message"),
    [
        (RowMaths(brier_value, brier_grad, True), {}, TypeError, "terms must be a function marked @maths, got True"),
        (
            RowMaths(brier_value, brier_grad, one_term),
            {"factor": 2.0},
            TypeError,
            "one_term must return three sums, got 0.5",
        ),
        (RowMaths(unknown_number, brier_grad, brier_terms), {}, AttributeError, "p has no factor, .* given by name"),
    ],
)
def test_mistakes_in_maths_of_rows_are_errors_at_definition(functions, numbers, error, message):
    with pytest.raises(error, match=message):

        @loss
        def faulty_loss(input, target):
            return Rowwise(functions, **numbers)


def test_axes_may_be_numbers_of_numpy():
    @loss
    def numbered_loss(input, target, *, reduction="mean"):
        return Sums(COSINE, axes=np.int64(1), eps=0.0)

    assert numbered_loss(X, T, reduction="none").shape == (2, 4)
    with pytest.raises(TypeError, match=r"axes must be an integer or several, got 1\.5"):

        @loss
        def faulty_loss(input, target):
            return Sums(COSINE, axes=1.5, eps=0.0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"target": row_index}, TypeError, r"target must be an argument of the loss or row_index\(...\), got"),
        ({"target": row_index(), "reduction": "sum"}, TypeError, "Linear takes no reduction: it has that of the loss"),
        ({"target": row_index(), "label_smoothing": 3}, ValueError, r"label_smoothing must be a number in \[0, 1\]"),
    ],
)
def test_mistakes_in_a_linear_map_are_errors_at_definition(options, error, message):
    with pytest.raises(error, match=message):

        @loss
        def faulty_loss(query, key, *, reduction="mean"):
            return Linear(fl.cross_entropy, query, key, **options)


@pytest.mark.parametrize("annotation", [POSITIVE, "POSITIVE"])
def test_a_domain_is_told_by_annotated(annotation):
    with pytest.raises(TypeError, match="faulty_loss: the domain of q is written q: Annotated"):

        @loss
        def faulty_loss(input, target, *, q: annotation = 1.0):
            return Elementwise(power_error, low=q, high=q)


Quantile = Annotated[float, OPEN_UNIT]


@pytest.mark.parametrize("annotation", [Quantile, "Quantile"])
def test_an_annotation_may_have_a_name(annotation):
    @loss
    def squares_loss(input, target, *, q: annotation = 0.5, reduction="mean"):
        return Elementwise(power_error, low=q, high=q)

    with pytest.raises(ValueError, match=r"q must be a number in \(0, 1\)"):
        squares_loss(X, T, q=2.0)


def test_a_loss_is_made_once():
    with pytest.raises(TypeError, match="mse_loss is a loss already"):
        loss(fl.mse_loss)


@maths
def scaled(x, t, q):
    return q * (x - t), (q, -q), x - x


def test_defaults_say_what_is_no_array():
    @loss
    def by_position_loss(input, target, q=0.5, label: Optional[int] = None, reduction="mean"):  # noqa: UP045
        return Elementwise(scaled, q=q if label is None else label)

    assert by_position_loss.__fastloss__.operands == {"input", "target"}
    np.testing.assert_allclose(by_position_loss(X, T, 0.25, 3, "sum"), 3 * (X - T).sum())
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got 'average'"):
        by_position_loss(X, T, reduction="average")


def test_a_reduction_by_default_is_one():
    with pytest.raises(ValueError, match="reduction must be 'mean', 'sum' or 'none', got None"):

        @loss
        def faulty_loss(input, target, *, reduction=None):
            return Elementwise(power_error, low=1.0, high=1.0)


@pytest.mark.parametrize("arguments", ["*arrays", "input, target, **options"])
def test_arguments_have_names(arguments):
    defined = {}
    exec(f"def faulty_loss({arguments}): return", defined)
    with pytest.raises(TypeError, match=r"must name each of its arguments: \*.* stands for any number of them"):
        loss(defined["faulty_loss"])


@pytest.mark.parametrize("name", ["grad_output", "grad_out", "out"])
def test_transforms_have_names_of_their_own(name):
    defined = {}
    exec(f"def faulty_loss(input, target, *, {name}=1.0): return", defined)
    with pytest.raises(TypeError, match=f"a loss has no argument {name}: transforms have one"):
        loss(defined["faulty_loss"])


@pytest.mark.parametrize(
    ("describe", "error", "message"),
    [
        (lambda x, t: Elementwise(scaled, q="a"), TypeError, "the maths takes numbers, got q='a'"),
        (lambda x, t: Elementwise(scaled, broadcast="never", q=1), ValueError, "broadcast must be 'warn', 'silent' or"),
        (lambda x, t: Sums(scaled, axes=1), TypeError, r"functions must be SumMaths\(...\), got <function scaled"),
        (
            lambda x, t: Rowwise(brier_value, x, t),
            TypeError,
            r"nothing but its functions .* as in Rowwise\(brier_value",
        ),
        (lambda x, t: Rowwise(COSINE), TypeError, r"functions must be RowMaths\(...\), got SumMaths"),
        (lambda x, t: fl.mse_loss(x, t) * fl.l1_loss(x, t), TypeError, "unsupported operand"),
        (lambda x, t: Elementwise(scaled, q=x.max()), AttributeError, "a loss sees shape, .*: there is no 'max'"),
    ],
)
def test_mistakes_in_a_description_are_errors_at_definition(describe, error, message):
    with pytest.raises(error, match=message):

        @loss
        def faulty_loss(input, target):
            return describe(input, target)


@pytest.mark.parametrize(
    ("domain", "default", "error", "message"),
    [
        (3, 0.5, TypeError, r"q must be annotated with a Domain \(fastloss.custom\), got 3"),
        (OPEN_UNIT, 1.5, ValueError, r"q must be a number in \(0, 1\), got 1.5"),
    ],
)
def test_domains_are_domains(domain, default, error, message):
    with pytest.raises(error, match=message):

        @loss
        def faulty_loss(input, target, *, q: Annotated[float, domain] = default):
            return Elementwise(power_error, low=q, high=q)


def test_kinds_of_arrays_are_kinds():
    with pytest.raises(TypeError, match="the array input must be annotated with one of 'real'"):

        @loss
        def faulty_loss(input: Annotated[Array, "reel"], target):
            return Elementwise(power_error, low=1.0, high=1.0)


def test_an_argument_that_does_not_exist():
    with pytest.raises(ValueError, match="'x' is no argument of mse_loss, whose arguments are 'input', 'target'"):
        fl.grad(fl.mse_loss, "x")


def test_a_second_definition_replaces_that_of_the_same_module():
    def define(factor):
        @loss
        def repeated_loss(input, target, *, reduction="mean"):
            return Elementwise(power_error, low=factor, high=factor)

        return repeated_loss

    first, second = define(1.0), define(2.0)
    assert LOSSES["repeated_loss"].function is second
    np.testing.assert_allclose(second(X, T), 2 * first(X, T))
    with pytest.raises(ValueError, match="loss 'mse_loss' is registered twice"):

        @loss
        def mse_loss(input, target):
            return Elementwise(power_error, low=1.0, high=1.0)


FACTORS = np.array([2.0, 3.0])


@maths
def looked_up(x, t):
    T = type(x)
    factor = T(FACTORS[1])
    return factor * x - t, (factor, -T(1)), T(0)


def test_maths_may_read_an_array():
    @loss
    def read_loss(input, target, *, reduction="mean"):
        return Elementwise(looked_up)

    np.testing.assert_allclose(read_loss(X, T, reduction="none"), 3 * X - T)


@pytest.mark.parametrize("factor", [1e-9, 0.5, 1.0])
def test_a_multiple_of_a_loss(factor):
    @loss
    def multiple(input, target, *, reduction="mean"):
        """A multiple."""
        return factor * fl.mse_loss(input, target, reduction=reduction)

    x = np.array([1.0, 2.0, math.inf], np.float32)
    expected = np.float32(factor) * fl.mse_loss(x, 0 * x[:1].repeat(3), reduction="none")
    np.testing.assert_array_equal(multiple(x, np.zeros(3, np.float32), reduction="none"), expected)
    value = multiple(x[:2], np.zeros(2, np.float32))
    assert type(value) is np.float32
    np.testing.assert_allclose(value, factor * 2.5, rtol=1e-6)
    assert multiple(x, np.zeros(3, np.float32)) == math.inf


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["f2", "bfloat16"])
def test_a_float32_gradient_of_what_is_made_of_losses_of_half_types(dtype):
    @loss
    def together(input, target, *, reduction="mean"):
        """A sum."""
        return fl.mse_loss(input, target, reduction=reduction) + 0.5 * fl.l1_loss(input, target, reduction=reduction)

    kind = getattr(ml_dtypes, dtype, None) or np.dtype(dtype)
    x, t = np.array([[0.5, -1.0]]).astype(kind), np.array([[1.0, 0.0]]).astype(kind)
    for function in (fl.soft_dice_loss, together):
        into = np.empty((1, 2), np.float32)
        assert fl.grad(function)(x, t, grad_out=into) is into
        np.testing.assert_allclose(into, fl.grad(function)(x, t).astype(np.float32))
