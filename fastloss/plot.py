"""Pictures of losses and of what they gave: needs matplotlib, which ``pip install 'fastloss[demo]'`` brings.

::

    import numpy as np
    from fastloss import plot

    plot.loss("huber_loss", "l1_loss", "mse_loss", delta=1.0)
    plot.per_sample(np.random.default_rng(0).exponential(size=1000))
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastloss as fl
from fastloss.define.record import Loss
from fastloss.define.registry import loss_named, record_of

__all__ = ["loss", "per_sample"]

_BLUE, _ORANGE, _GREEN, _GREY = "#2b6cb0", "#e8730c", "#2f9e44", "#8a919c"
_COLORS = (_BLUE, _ORANGE, _GREEN, "#d6336c", "#7048e8", "#5c4813", _GREY)
_KINDS = {"value": "-", "gradient": "--", "curvature": ":"}
# What an argument holds unless it is given, and over which numbers a prediction goes, by the kind of its values.
_HELD = {"probability": 1.0, "sign": 1.0, "binary": 1.0, "count": 2.0, "positive": 1.0}
_RANGES = {"probability": (0.01, 0.99), "positive": (0.05, 4.0), "log_probability": (-5.0, 0.0)}
_POINTS = 801

# Gradients and curvatures are cut off where they leave the picture by so many times the height of the values.
_TALLEST = 1.5

# Classes of a loss of classes.
_CLASSES = 3


class Curves(NamedTuple):
    """A loss over its prediction `x`: arrays by kind, and what the horizontal axis is."""

    x: Any
    values: Mapping[str, Any]
    label: str


def loss(*losses: str | Callable[..., Any], ax: Any = None, x: Any = None, **options: Any) -> Any:
    r"""Draw value, gradient and curvature of losses over the prediction.

    .. math:: x \mapsto \ell(x), \qquad \ell'(x), \qquad \ell''(x)

    Of a loss over classes the prediction is the entry of the target's class, beside others that are 0; of a loss of
    vectors it is the first entry of the first vector.

    Parameters
    ----------
    *losses : str or function
        Losses of fastloss, or of your own, by name or as functions. Several are drawn beside each other.
    ax : matplotlib axes or a sequence of them, optional
        Where to draw: one for each loss, or one for all, in which each loss has its color. By default a new figure.
    x : array, shape (n,), optional
        The predictions, in ascending order; by default a range that the loss is defined on.
    **options
        Options of the losses, each for those that have it; and numbers for arrays, such as ``target=0.0``.

    Returns
    -------
    matplotlib axes, or an array of them
        One where there is one loss or one was given, an array of one for each loss otherwise.

    Raises
    ------
    ValueError
        If there is no loss of that name, a loss has no single prediction (``ctc_loss``), axes and losses differ in
        number, or `x` has not one axis.
    TypeError
        If one of `losses` is neither name nor function, or none of them has one of the `options`.

    Examples
    --------
    >>> from fastloss import plot
    >>> axes = plot.loss("huber_loss", delta=0.5)  # doctest: +SKIP
    """
    records = [_record(one) for one in losses]
    if not records:
        raise ValueError("expected the name of a loss, or several")
    drawn = [_curves(record, x, options, records) for record in records]
    from matplotlib import pyplot

    if ax is None:
        width = max(4.8, 3.6 * len(records))
        _, grid = pyplot.subplots(1, len(records), figsize=(width, 3.6), squeeze=False, layout="constrained")
        ax = grid[0] if len(records) > 1 else grid[0, 0]
    if np.ndim(ax) == 0 and len(records) > 1:
        _overlay(ax, records, drawn)
        return ax
    axes = np.ravel(ax)
    if len(axes) != len(records):
        raise ValueError(f"ax must be one axes, or one for each of {len(records)} losses, got {len(axes)}")
    for one, record, curves in zip(axes, records, drawn, strict=True):
        for color, (kind, y) in zip(_COLORS, curves.values.items(), strict=False):
            one.plot(curves.x, y, _KINDS[kind], color=color, linewidth=1.8, label=kind)
        _finish(one, [curves])
        given = [f"{name}={value}" for name, value in options.items() if name in record.options]
        one.set_title("\n".join([record.name, *([", ".join(given)] if given else [])]), fontsize=11)
    axes[0].set_ylabel("loss, and its derivatives")
    return ax


def per_sample(losses: Any, labels: Sequence[Any] | None = None, worst: int = 20, ax: Any = None) -> Any:
    """Draw a histogram of the losses of samples, and the samples of the largest losses.

    Parameters
    ----------
    losses : array, shape (N,)
        The loss of each sample, as ``reduction="none"`` gives it.
    labels : sequence of N, optional
        What to write beside the number of a sample: its class, its name.
    worst : int
        How many of the samples with the largest losses are shown.
    ax : sequence of two matplotlib axes, optional
        Where to draw; by default a new figure.

    Returns
    -------
    array of two matplotlib axes
        Of the histogram and of the worst samples.

    Raises
    ------
    ValueError
        If `losses` has not one axis, no finite value, or another length than `labels`; `worst` is not positive; or
        `ax` are not two.

    Notes
    -----
    Samples whose loss is NaN or infinite are the worst, but no part of the histogram, whose title counts them.

    Examples
    --------
    >>> import numpy as np
    >>> from fastloss import plot
    >>> histogram, bars = plot.per_sample(np.array([0.1, 2.0, 0.3]), labels=["a", "b", "c"])  # doctest: +SKIP
    """
    losses = np.asarray(losses, dtype=float)
    if losses.ndim != 1:
        raise ValueError(f"losses must have shape (N,), got {losses.shape}")
    finite = losses[np.isfinite(losses)]
    if not finite.size:
        raise ValueError("losses must have a finite value")
    if labels is not None and len(labels) != len(losses):
        raise ValueError(f"labels must be as many as losses, got {len(labels)} and {len(losses)}")
    if worst < 1:
        raise ValueError(f"worst must be a positive integer, got {worst!r}")
    from matplotlib import pyplot

    shown = min(worst, len(losses))
    if ax is None:
        size = (9.6, max(3.6, 1.2 + 0.2 * shown))
        _, ax = pyplot.subplots(1, 2, figsize=size, layout="constrained")
    axes = np.ravel(ax)
    if len(axes) != 2:
        raise ValueError(f"ax must be two axes, got {len(axes)}")
    _histogram(axes[0], finite, len(losses))
    _worst(axes[1], losses, labels, shown)
    return axes


# -- curves -----------------------------------------------------------------------------------------------------------


def _record(loss: Any) -> Loss:
    if isinstance(loss, str):
        return loss_named(loss)
    if not hasattr(loss, "__fastloss__"):
        raise TypeError(f"expected the name of a loss, or a loss function, got {loss!r}")
    return record_of(loss)


def _parameters(record: Loss) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(record.function).parameters


def _curves(record: Loss, x: Any, options: Mapping[str, Any], records: Sequence[Loss]) -> Curves:
    """Compute a loss over its prediction."""
    for name in options:
        if not any(name in _parameters(one) for one in records):
            raise TypeError(f"no loss of {', '.join(one.name for one in records)} has the option {name!r}")
    given = {name: value for name, value in options.items() if name in _parameters(record)}
    held = {name: given.pop(name) for name in record.operands if name in given}
    x = np.linspace(*_range(record)) if x is None else np.asarray(x, dtype=float)
    if x.ndim != 1 or not x.size:
        raise ValueError(f"x must have shape (n,) with n > 0, got {x.shape}")
    arrays, label = _arguments(record, x, held)
    if "reduction" in record.options:
        given["reduction"] = "none"
    first = record.wrt[0]
    value, gradient = fl.value_and_grad(record.function, first)(**arrays, **given)
    # Of a row, all of its values, and the derivatives in the entry that is the prediction.
    found = {"value": np.sum(np.reshape(value, (len(x), -1)), axis=1), "gradient": gradient}
    if record.hessian is not None:
        found["curvature"] = fl.grad_and_hess(record.function)(**arrays, **given)[1]
    return Curves(x, {kind: np.asarray(y).reshape(len(x), -1)[:, 0] for kind, y in found.items()}, label)


def _range(record: Loss) -> tuple[float, float, int]:
    low, high = _RANGES.get(record.domains.get(record.wrt[0], "real"), (-3.0, 3.0))
    return low, high, _POINTS


def _arguments(record: Loss, x: Any, held: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the arrays that the loss is called with, and the label of the horizontal axis."""
    parameters = _parameters(record)
    first, *others = [n for n in record.positional if n in record.operands and parameters[n].default is inspect._empty]
    fixed = {name: held.get(name, _HELD.get(record.domains.get(name, "real"), 0.0)) for name in others}
    more = {name: np.asarray(value, dtype=float) for name, value in held.items() if name not in fixed}
    if record.family == "elementwise":
        if "var" in fixed:
            fixed["var"] = held.get("var", 1.0)
        constant = {name: np.full_like(x, value) for name, value in fixed.items()}
        told = ", ".join(f"{name} = {value:g}" for name, value in fixed.items())
        return {first: x, **constant, **more}, first + (f"  ({told})" if told else "")
    arrays, label = _vectors(record, first, x, fixed)
    return {**arrays, **more}, label


def _vectors(record: Loss, first: str, x: Any, fixed: Mapping[str, float]) -> tuple[dict[str, Any], str]:
    """Return rows of the arrays of a loss of rows or vectors, in whose first entry the prediction is."""
    n, parameters = len(x), _parameters(record)
    needs = [one for one in parameters if one not in record.operands and parameters[one].default is inspect._empty]
    target = fixed.get("target", 1.0)
    if record.family == "pairwise" and first == "anchor":
        arrays = {first: x[:, None], "positive": np.zeros((n, 1)), "negative": np.full((n, 1), 2.0)}
        return arrays, f"{first}  (positive = 0, negative = 2)"
    if record.family == "pairwise":
        other = next(iter(fixed))
        arrays = {first: np.stack([x, np.ones(n)], axis=1), other: np.tile([1.0, 0.0], (n, 1))}
        if "target" in fixed:
            arrays["target"] = np.full(n, target)
        return arrays, f"x  ({first} = (x, 1), {other} = (1, 0){f', target = {target:g}' if 'target' in fixed else ''})"
    if record.family == "sums" or (record.domains.get("target") == "probability" and record.family == "rowwise"):
        return {first: x[:, None], "target": np.full((n, 1), target)}, f"{first}  (target = {target:g})"
    if record.family not in ("rowwise", "label_sets", "chain") or needs or "target" not in fixed:
        raise ValueError(f"{record.name} has no single prediction that it could be drawn over")
    scores = np.zeros((n, _CLASSES))
    scores[:, 0] = x
    label = f"{first} of the target's class  (others 0)"
    if record.family == "chain":
        return {first: scores, "target": np.tile(np.eye(_CLASSES)[0], (n, 1))}, label
    indices = np.zeros(n, int) if record.family == "rowwise" else np.tile([0, -1, -1], (n, 1))
    return {first: scores, "target": indices}, label


# -- drawing ----------------------------------------------------------------------------------------------------------


def _overlay(ax: Any, records: Sequence[Loss], drawn: Sequence[Curves]) -> None:
    """Draw several losses into one picture: a color for each loss, a line style for each kind."""
    for color, record, curves in zip(_cycled(len(records)), records, drawn, strict=True):
        for kind, y in curves.values.items():
            ax.plot(curves.x, y, _KINDS[kind], color=color, linewidth=1.8, label=f"{record.name}, {kind}")
    _finish(ax, drawn)
    ax.set_ylabel("loss, and its derivatives")


def _cycled(count: int) -> list[str]:
    return [_COLORS[k % len(_COLORS)] for k in range(count)]


def _style(ax: Any) -> None:
    """Make axes quiet, whoever made them."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#e5e7eb")
    ax.set_axisbelow(True)


def _finish(ax: Any, drawn: Sequence[Curves]) -> None:
    """Set limits and labels; what grows without bound may leave the picture."""
    _style(ax)
    ax.set_xlabel("\n".join(dict.fromkeys(curves.label for curves in drawn)))
    heights = [abs(y[np.isfinite(y)]).max() for curves in drawn for y in [curves.values["value"]]]
    tallest = _TALLEST * max(heights)
    low = min(float(np.clip(np.nanmin(y), -tallest, 0.0)) for curves in drawn for y in curves.values.values())
    high = max(float(np.clip(np.nanmax(y), 0.0, tallest)) for curves in drawn for y in curves.values.values())
    margin = 0.05 * (high - low or 1.0)
    ax.set_ylim(low - margin, high + margin)
    ax.axhline(0.0, color=_GREY, linewidth=0.8, zorder=1)
    ax.legend(fontsize=9, frameon=False)


def _histogram(ax: Any, finite: Any, count: int) -> None:
    _style(ax)
    bins = min(60, max(10, int(np.sqrt(finite.size))))
    ax.hist(finite, bins=bins, color=_BLUE, edgecolor="white", linewidth=0.4)
    ax.set_yscale("log")
    for name, value, color in (("median", np.median(finite), _GREEN), ("mean", finite.mean(), _ORANGE)):
        ax.axvline(value, color=color, linewidth=1.8, linestyle="--", label=f"{name} {value:.4g}")
    ax.set_xlabel("loss of a sample")
    ax.set_ylabel("samples")
    lost = count - finite.size
    ax.set_title(f"{count:,} samples" + (f", {lost:,} of them not finite" if lost else ""), fontsize=11)
    ax.legend(fontsize=9, frameon=False)


def _worst(ax: Any, losses: Any, labels: Sequence[Any] | None, shown: int) -> None:
    """Draw a bar for each of the samples with the largest losses, the largest on top."""
    _style(ax)
    ranked = np.where(np.isfinite(losses), losses, np.inf)
    order = np.argsort(-ranked, kind="stable")[:shown]
    finite = losses[order]
    widths = np.where(np.isfinite(finite), finite, np.nanmax(losses[np.isfinite(losses)]))
    places = np.arange(shown)[::-1]
    colors = [_BLUE if np.isfinite(one) else _GREY for one in finite]
    ax.barh(places, widths, 0.7, color=colors)
    for place, width, value in zip(places, widths, finite, strict=True):
        ax.annotate(f"{value:.3g}", (width, place), (3, 0), textcoords="offset points", va="center", fontsize=8)
    names = [f"{k}" if labels is None else f"{k}: {labels[k]}" for k in order]
    ax.set_yticks(places, names, fontsize=8)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.margins(x=0.12)
    ax.set_xlabel("loss of the sample")
    ax.set_title(f"the {shown} worst" + (", by number" if labels is None else ", by number and label"), fontsize=11)
