"""Mistakes in a loss that somebody adds: said at once, and by name."""

import inspect
import re

import numpy as np
import pytest

import fastloss as fl
from fastloss.api.docstrings import summary_of
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
        ({"hessian": "yes"}, "hessian must be 'exact', 'zero' or None, got 'yes'"),
        ({"wrt": ("inputs",)}, "wrt names 'inputs', but the arguments of new_loss are input, target"),
        ({"options": {"delta": None}}, "options names 'delta', but the arguments of new_loss are input, target"),
        ({"domains": {"labels": "class"}}, "domains names 'labels', but the arguments"),
    ],
)
def test_unknown_words_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        described(None, **options)


def test_names_of_arguments_are_a_tuple():
    with pytest.raises(TypeError, match="wrt must be a tuple of names, got 'input'"):
        described(None, wrt="input")


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


# -- docstrings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.describe.__module__[:9] == "fastloss."])
def test_the_docstring_of_a_loss_is_complete(name):
    record = LOSSES[name]
    titles = re.findall(r"^(\w.*)\n-{3,}$", text := record.function.__doc__, re.MULTILINE)
    order = ["Parameters", "Returns", "Raises", "Notes", "References", "Examples"]
    assert titles == [one for one in order if one in titles or one in order[:3]]
    described = {one.strip() for line in re.findall(r"^(\w[\w, ]*?)(?= : |$)", text, re.M) for one in line.split(",")}
    assert described >= set(inspect.signature(record.function).parameters)
    raised = re.findall(r"^(\w+Error)$", text, re.MULTILINE)
    assert len({*raised}) == len(raised)
    assert ("IndexError" in raised) >= ("class" in record.domains.values())


def test_what_the_registry_knows_is_added_to_a_docstring():
    @loss("rowwise", domains={"target": "class"})
    def new_loss(input, target, *, reduction="mean"):
        """A loss
        of rows.

        Parameters
        ----------
        input, target : array
            Scores and labels.
        reduction : str
            As always.

        Raises
        ------
        TypeError
            If the moon is full.
        OSError

        See Also
        --------
        fastloss.cross_entropy
        """
        return Rowwise(None, input, target)

    assert summary_of(new_loss) == "A loss of rows."
    parameters, returns, raises, more = re.split(r"\n\n\w[\w ]*\n-+\n", new_loss.__doc__)[1:]
    assert re.findall(r"^[\w, ]+(?= :)", parameters, re.M) == [
        "input, target", "reduction", "sample_weight", "divisor", "axis"
    ]  # fmt: skip
    assert "of the shape of `input` without its class axis for" in returns
    assert (
        raises
        == """\
ValueError
    If the shapes do not go together, or an option is out of range.
TypeError
    If `input` is not floating point, `target` is not of an integer dtype, or the arrays lie on different devices.
    If the moon is full.
IndexError
    If a class index is out of range.
OSError"""
    )
    assert more == "fastloss.cross_entropy\n"


def test_a_docstring_of_one_line_stays_as_it_is():
    @loss
    def new_loss(input, target):
        """Distance."""
        return fl.mse_loss(input, target)

    assert new_loss.__doc__ == "Distance." == summary_of(new_loss)
