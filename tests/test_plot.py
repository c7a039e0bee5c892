"""``fastloss.plot``: what is drawn is the loss, and what cannot be drawn is refused."""

import numpy as np
import pytest

import fastloss as fl
from fastloss.define.registry import LOSSES

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

from fastloss import plot  # noqa: E402


@pytest.fixture(autouse=True)
def closing():
    yield
    pyplot.close("all")


def curves(ax):
    return {line.get_label(): line.get_xydata().T for line in ax.lines if not line.get_label().startswith("_")}


def test_a_loss_with_its_derivatives():
    ax = plot.loss("huber_loss", delta=0.5)
    found = curves(ax)
    assert list(found) == ["value", "gradient", "curvature"]
    x, value = found["value"]
    assert (x[0], x[-1]) == (-3, 3)
    inside = abs(x) <= 0.5
    np.testing.assert_allclose(value, np.where(inside, x**2 / 2, 0.5 * (abs(x) - 0.25)), atol=1e-12)
    np.testing.assert_allclose(found["gradient"][1], np.clip(x, -0.5, 0.5), atol=1e-12)
    np.testing.assert_array_equal(found["curvature"][1], inside)
    assert ax.get_title() == "huber_loss\ndelta=0.5"
    assert "input" in ax.get_xlabel()
    assert "target = 0" in ax.get_xlabel()
    assert ax.get_ylabel()
    assert ax.get_legend() is not None


def test_several_losses_beside_each_other():
    axes = plot.loss(fl.huber_loss, "quantile_loss", q=0.25)
    assert [ax.get_title() for ax in axes] == ["huber_loss", "quantile_loss\nq=0.25"]
    x, gradient = curves(axes[1])["gradient"]
    assert set(gradient[abs(x) > 0.1]) == {-0.25, 0.75}


def test_several_losses_in_one_picture():
    _, ax = pyplot.subplots()
    assert plot.loss("huber_loss", "quantile_loss", ax=ax) is ax
    assert len(curves(ax)) == 6
    colors = {line.get_label(): line.get_color() for line in ax.lines}
    assert colors["huber_loss, value"] == colors["huber_loss, gradient"] != colors["quantile_loss, value"]


def test_a_loss_of_classes_is_drawn_over_the_logit_of_the_target():
    x, value = curves(plot.loss("cross_entropy", x=[-1.0, 0.0, 2.0]))["value"]
    np.testing.assert_allclose(value, np.log(np.exp(x) + 2) - x)


def test_the_target_may_be_given():
    ax = plot.loss("hinge_embedding_loss", target=-1.0, margin=1.0)
    x, value = curves(ax)["value"]
    np.testing.assert_allclose(value, np.maximum(0, 1 - x))


def test_what_grows_without_bound_leaves_the_picture():
    ax = plot.loss("binary_cross_entropy")
    low, high = ax.get_ylim()
    assert curves(ax)["gradient"][1].min() < low < 0
    assert curves(ax)["value"][1].max() < high < 10


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_drawn_or_refused(name):
    if LOSSES[name].family in ("rowmap", "projected", "clustered", "penalty", "sequence") or name == "logsumexp":
        with pytest.raises(ValueError, match="no single prediction"):
            plot.loss(name)
    elif name == "triplet_margin_with_distance_loss":
        assert curves(plot.loss(name, distance_function="euclidean"))
    else:
        found = curves(plot.loss(name))
        x, value = found["value"]
        # The gradient is the slope, but where it jumps.
        slope, middle = np.diff(value) / np.diff(x), (found["gradient"][1][1:] + found["gradient"][1][:-1]) / 2
        assert np.mean(abs(slope - middle) < 1e-2 * (1 + abs(middle))) > 0.97


@pytest.mark.parametrize(
    ("args", "kwargs", "error", "message"),
    [
        ((), {}, ValueError, "expected the name of a loss"),
        (("hubber",), {}, ValueError, r"unknown loss 'hubber'; did you mean huber_loss"),
        ((len,), {}, TypeError, "expected the name of a loss, or a loss function, got <built-in"),
        ((fl.MSELoss(),), {}, TypeError, "expected the name of a loss, or a loss function, got MSELoss"),
        (("huber_loss",), {"x": []}, ValueError, r"x must have shape \(n,\) with n > 0, got \(0,\)"),
        (("huber_loss",), {"x": [[1.0]]}, ValueError, "x must have shape"),
        (("huber_loss",), {"q": 0.5}, TypeError, "no loss of huber_loss has the option 'q'"),
        (("softmax",), {}, ValueError, "no single prediction"),
        (("huber_loss",), {"ax": [None, None]}, ValueError, "ax must be one axes, or one for each of 1 losses, got 2"),
    ],
)
def test_what_cannot_be_drawn(args, kwargs, error, message):
    with pytest.raises(error, match=message):
        plot.loss(*args, **kwargs)


def test_per_sample_shows_the_worst():
    losses = np.random.default_rng(0).exponential(size=1000)
    losses[123], losses[7] = 50.0, np.nan
    histogram, bars = plot.per_sample(losses, labels=[f"name{k}" for k in range(1000)], worst=5)
    assert sum(patch.get_height() for patch in histogram.patches) == 999
    assert histogram.get_title() == "1,000 samples, 1 of them not finite"
    names = [tick.get_text() for tick in bars.get_yticklabels()]
    order = np.argsort(-np.nan_to_num(losses, nan=np.inf))[:5]
    assert names == [f"{k}: name{k}" for k in order]
    assert names[:2] == ["7: name7", "123: name123"]
    assert len(bars.patches) == 5
    assert all(ax.get_xlabel() for ax in (histogram, bars))


def test_per_sample_of_few_samples():
    _, bars = plot.per_sample([1.0, 3.0, 2.0])
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["1", "2", "0"]
    assert [patch.get_width() for patch in bars.patches] == [3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("losses", "kwargs", "message"),
    [
        (np.zeros((2, 2)), {}, "shape"),
        ([], {}, "finite value"),
        ([np.nan], {}, "finite value"),
        ([1.0], {"labels": ["a", "b"]}, "labels must be as many"),
        ([1.0], {"worst": 0}, "worst must be"),
        ([1.0], {"ax": [None]}, "ax must be two axes, got 1"),
    ],
)
def test_per_sample_refuses(losses, kwargs, message):
    with pytest.raises(ValueError, match=message):
        plot.per_sample(losses, **kwargs)
