"""The picture of the demo: held-out digits with their predictions, and the times of the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastloss.demo.batch import Scored
from fastloss.demo.digits import Fit

OURS, THEIRS, INK, COPY, WRONG = "#2b6cb0", "#b8bec8", "#1a202c", "#f08c1a", "#c53030"
COLUMNS, ROWS = 6, 5


def formats() -> list[str]:
    """Return the endings of the pictures that can be written."""
    from matplotlib.backend_bases import FigureCanvasBase

    return sorted(FigureCanvasBase.get_supported_filetypes())


def draw(fit: Fit, scored: Scored, path: str) -> None:
    """Write the picture to `path`, whose ending gives its format."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with pyplot.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        figure = pyplot.figure(figsize=(12.5, 5.4), layout="constrained")
        halves: Any = figure.subfigures(1, 2, width_ratios=(1, 1.6), wspace=0.04)
        left, right = halves
        _digits(left, fit)
        _times(right, scored)
        figure.savefig(path, dpi=144)
        pyplot.close(figure)


def _digits(figure: Any, fit: Fit) -> None:
    accuracy = (fit.predicted == fit.labels).mean()
    figure.suptitle(f"Held-out digits and predictions\n{accuracy:.1%} of {len(fit.labels)} are right", fontsize=11)
    wrong = np.flatnonzero(fit.predicted != fit.labels)[:COLUMNS]
    right = np.flatnonzero(fit.predicted == fit.labels)[: COLUMNS * ROWS - len(wrong)]
    for axes, k in zip(figure.subplots(ROWS, COLUMNS).flat, [*right, *wrong], strict=False):
        axes.imshow(fit.images[k], cmap="gray_r", interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        fine = fit.predicted[k] == fit.labels[k]
        text = f"{fit.predicted[k]}" if fine else f"{fit.predicted[k]} (is {fit.labels[k]})"
        axes.set_title(text, fontsize=9, pad=3, color=INK if fine else WRONG)
        for spine in axes.spines.values():
            spine.set(visible=True, color="#d0d5dd" if fine else WRONG)


def _times(figure: Any, scored: Scored) -> None:
    axes = figure.subplots()
    places = np.arange(len(scored.rows))[::-1]
    with_torch = not all(np.isnan(row.torch) for row in scored.rows)
    height = 0.36 if with_torch else 0.6
    shift = height / 2 if with_torch else 0.0
    ours = np.array([1e3 * row.ours for row in scored.rows])
    theirs = np.array([1e3 * row.torch for row in scored.rows])
    axes.barh(places + shift, ours, height, color=OURS, label="fastloss")
    if with_torch:
        axes.barh(places - shift, theirs, height, color=THEIRS, label="torch, eager")
    axes.plot(
        [1e3 * row.copy for row in scored.rows],
        places + shift,
        linestyle="",
        marker="|",
        markersize=24 if with_torch else 36,
        markeredgewidth=3,
        color=COPY,
        label="copy of the same bytes",
    )
    for times, side in ((ours, shift), (theirs, -shift)):
        for place, time in zip(places + side, times, strict=True):
            if not np.isnan(time):
                text = f"{time:.0f} ms" if time >= 10 else f"{time:.2g} ms"
                axes.annotate(text, (time, place), (4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(places, [row.label.replace(", ", "\n") for row in scored.rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("time in ms, less is better")
    axes.set_xlim(0, 1.12 * np.nanmax([*ours, *theirs]))
    axes.grid(axis="x", color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.45, -0.12), ncols=3, markerscale=0.6)
    rows, columns = scored.shape
    axes.set_title(
        f"{rows:,} x {columns} float32 logits ({4e-6 * rows * columns:.0f} MB), {scored.threads} threads", fontsize=11
    )
