"""Mistakes in a loss that somebody adds: said at once, and by name."""

import numpy as np
import pytest

import fastloss as fl
from fastloss.api.loss import loss
from fastloss.define.descriptions import Elementwise, RowMaths, Rowwise
from fastloss.define.maths import maths
from fastloss.define.registry import LOSSES

X = np.ones((2, 3))


pytestmark = pytest.mark.usefixtures("forgets_losses")


def described(job, **more):
    """Register a loss with this description."""

    @loss(more.pop("family", "elementwise"), **more)
    def new_loss(input, target):
        return job(input, target)

    return new_loss


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "elemntwise"}, "family must be one of elementwise, .* got 'elemntwise'"),
        ({"domains": {"target": "clas"}}, r"domains\['target'\] must be one of real, .* got 'clas'"),
        ({"differentiable": ("target",)}, "differentiable must name all of wrt"),
    ],
)
def test_unknown_words_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        described(None, **options)


def test_no_loss_takes_the_deprecated_pair_unless_it_says_so():
    function = described(lambda x, t: Elementwise(LOSSES["mse_loss"].describe(x, t).point, (x, t)))
    with pytest.raises(TypeError, match="size_average"):
        function(X, X, size_average=True)


@pytest.mark.parametrize("call", [lambda f: f(X, X), lambda f: fl.value_and_grad(f)(X, X)])
def test_a_loss_must_describe(call):
    with pytest.raises(TypeError, match=r"must return a description \(fastloss.custom\)"):
        call(described(lambda x, t: X))


def test_maths_must_be_marked():
    def error(x, t):
        return x - t, (x, t), x

    with pytest.raises(TypeError, match="new_loss: error must be marked @maths"):
        described(lambda x, t: Elementwise(error, (x, t)))(X, X)


@pytest.mark.parametrize(
    ("found", "differentiable"),
    [(None, None), (1.0, None), ((1.0, 2.0, 3.0), None), ((1.0, (2.0,), 3.0), ("input", "target"))],
)
def test_a_point_returns_value_slopes_curvature(found, differentiable):
    @maths
    def error(x, t):
        return found

    function = described(lambda x, t: Elementwise(error, (x, t)), differentiable=differentiable)
    with pytest.raises(TypeError, match=r"new_loss: error must return \(value, first derivatives, second derivative\)"):
        function(X, X)


@maths
def terms(z, p, t, w, hit, zy, wy, params):
    return z, p, t


@maths
def row(top, logsum, sums, zy, wy, p_others, py, params):
    return sums[0], (top,)


@maths
def entry(z, p, t, w, hit, coefs, params):
    return (coefs[0],), z


@maths
def wrong(*args):
    return 1.0


@pytest.mark.parametrize(
    ("maths", "message"),
    [
        (RowMaths(row, entry, wrong), "wrong must return three sums, got 1.0"),
        (RowMaths(wrong, entry, terms), r"wrong must return \(value, \(coefs, ...\)\), got 1.0"),
        (RowMaths(row, wrong, terms), r"wrong must return \(\(first derivatives, ...\), second derivative\), got 1.0"),
    ],
)
def test_row_maths_has_a_form(maths, message):
    function = described(lambda x, t: Rowwise(maths, x, t), family="rowwise")
    with pytest.raises(TypeError, match=f"new_loss: {message}"):
        function(X, X)
