"""Draw results files: ``python bench/plot.py bench/results/NAME.csv ...`` writes NAME-KIND.png beside each.

Of a file of ``fastloss bench``: *speedup* (how many times longer others take), *copy* (share of the speed of a copy of
the same bytes) and *latency* (small calls). Of one of ``fastloss bench --growth``: *elements* and *classes* (time
against N and C), *elements-memory* and *classes-memory*, *elements-share* and *classes-share* (of the speed of the
copy), and *threads* (one against all). Other dtypes than float32 have pictures of their own: NAME-bfloat16-KIND.png.
Nothing is measured here: what a file does not hold is not drawn.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastloss.bench.results import Row, medians, ratios, read

# contender -> loss -> number
Series = Mapping[str, Mapping[str, float]]

# Color, marker and label; fastloss in blues, torch in greys, the rest apart.
STYLES = {
    "fresh": ("#63b3ed", "o", "fastloss, outputs fresh"),
    "reused": ("#2b6cb0", "o", "fastloss, outputs reused"),
    "unchecked": ("#1a365d", "x", "fastloss, no index checks"),
    "copy": ("#f08c1a", "|", "copy of the same bytes"),
    "torch": ("#8a919c", "s", "torch, eager"),
    "compile": ("#4a5568", "D", "torch.compile"),
    "jax": ("#2f9e44", "^", "JAX (jit)"),
    "sklearn": ("#d6336c", "v", "scikit-learn"),
    "numpy": ("#b197fc", "P", "NumPy (one thread)"),
    "function": ("#90cdf4", "o", "function (value)"),
    "class": ("#90cdf4", "x", "class (value)"),
    "transform": ("#2b6cb0", "o", "value_and_grad of the function"),
    "class_transform": ("#2b6cb0", "x", "value_and_grad of the class"),
    "transform_reused": ("#1a365d", "P", "value_and_grad, outputs reused"),
    "transform_unchecked": ("#63b3ed", "D", "value_and_grad, no index checks"),
    "cupy_unchecked": ("#2f9e44", "D", "value_and_grad of CuPy arrays, no index checks"),
    "torch_value": ("#b5bac2", "s", "torch, eager (value)"),
    "torch_gradient": ("#6b7280", "s", "torch, eager (forward, backward)"),
}
OURS = ("fresh", "reused", "unchecked", "copy")
SIZES = ("small", "medium", "large", "huge")
SETTINGS = {
    "font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e5e7eb",
    "axes.axisbelow": True, "legend.frameon": False, "figure.dpi": 120, "savefig.dpi": 144,
}  # fmt: skip
WIDTH = 9.5
ONE_THREAD = ", one thread"


# -- one row for each loss --------------------------------------------------------------------------------------------


def dots(panels: Mapping[str, Series], title: str, axis: str, log: bool = True, marks: Sequence[float] = ()) -> Any:
    """Return a figure of panels side by side, a line for each loss and a marker for each contender."""
    from matplotlib import pyplot, ticker

    losses = sorted({loss for series in panels.values() for one in series.values() for loss in one}, reverse=True)
    size = (WIDTH, 1.7 + 0.2 * len(losses))
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for panel, (name, series) in zip(axes[0], panels.items(), strict=True):
        for mark in marks:
            panel.axvline(mark, color="#f08c1a", linewidth=1.2)
        for contender, numbers in series.items():
            color, marker, label = STYLES[contender]
            places = [losses.index(loss) for loss in numbers]
            panel.plot(list(numbers.values()), places, marker, markersize=5, color=color, label=label)
        if log:
            panel.set_xscale("log")
            panel.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=8))
            panel.xaxis.set_major_formatter("{x:g}")
            panel.xaxis.set_minor_formatter("")
        else:
            panel.set_xlim(left=0)
        panel.set_yticks(range(len(losses)), losses)
        panel.set_ylim(-0.6, len(losses) - 0.4)
        panel.tick_params(axis="y", length=0)
        panel.set_xlabel(axis)
        panel.set_title(name)
    finish(figure, axes, title)
    return figure


def speedup(rows: Sequence[Row]) -> Any:
    """Draw how many times longer each other contender takes than fastloss with fresh outputs."""
    panels = {}
    for size in present(rows, "size"):
        found = medians(rows, size=size)
        others = {name: ratios(found[name], found["fresh"]) for name in found if name not in OURS}
        if others:
            panels[size] = others
    title = "value and gradient: how many times longer others take than fastloss with fresh outputs"
    return dots(panels, title, "their time / our time", marks=[1]) if panels else None


def copy_share(rows: Sequence[Row]) -> Any:
    """Draw the speed of a call as a share of the speed of a copy of the same bytes."""
    panels = {}
    for size in present(rows, "size"):
        found = medians(rows, size=size)
        ours = {name: ratios(found["copy"], found[name]) for name in OURS[:3] if name in found}
        if "copy" in found and ours:
            panels[size] = {name: {loss: 100 * share for loss, share in one.items()} for name, one in ours.items()}
    title = "value and gradient: speed against that of a copy of the same bytes"
    return dots(panels, title, "% of copy", log=False, marks=[100]) if panels else None


def latency(rows: Sequence[Row]) -> Any:
    """Draw the time of small calls."""
    found = {form: {loss: 1e3 * ms for loss, ms in one.items()} for form, one in medians(rows).items()}
    return dots({"64 x 10 or 640 elements": found}, "small calls", "µs")


def one_against_all(rows: Sequence[Row]) -> Any:
    """Draw how many times faster all threads are than one."""
    counts = sorted({int(row["threads"]) for row in rows})
    if len(counts) < 2:
        return None
    one, most = (medians(rows, threads=str(count)) for count in (counts[0], counts[-1]))
    panels = {f"{counts[-1]} threads against 1": {name: ratios(one[name], most[name]) for name in one if name in most}}
    return dots(panels, "value and gradient: speed-up by threads", "time on one / on all", False, [1, counts[-1]])


# -- one panel for each loss ------------------------------------------------------------------------------------------


def growth(rows: Sequence[Row], column: str, label: str, x_of: Callable[[Row], int], axis: str, title: str) -> Any:
    """Return a figure with a curve for each contender, dashed on one thread where there are more."""
    from matplotlib import pyplot

    losses = list(dict.fromkeys(row["loss"] for row in rows))
    across = min(3, len(losses))
    down = -(-len(losses) // across)
    size = (WIDTH, 1.2 + 2.5 * down)
    figure, axes = pyplot.subplots(down, across, figsize=size, sharey=True, squeeze=False, layout="constrained")
    most = max(int(row["threads"]) for row in rows)
    for number, panel in enumerate(axes.flat):
        if number >= len(losses):
            panel.set_axis_off()
            continue
        curves: dict[tuple[str, int], list[tuple[int, float]]] = defaultdict(list)
        for row in rows:
            if row["loss"] == losses[number] and row[column]:
                curves[row["contender"], int(row["threads"])].append((x_of(row), float(row[column])))
        for (contender, threads), points in curves.items():
            color, marker, text = STYLES[contender]
            if threads < most and (contender not in ("reused", "torch") or column == "peak_extra_mb"):
                continue  # two dashed curves say enough, and memory does not depend on threads
            style = {"linestyle": "-" if threads == most else "--", "marker": marker if threads == most else ""}
            suffix = "" if threads == most else ONE_THREAD
            panel.plot(*zip(*sorted(points), strict=True), color=color, markersize=3.5, label=text + suffix, **style)
        panel.set_xscale("log")
        if column != SHARE:
            panel.set_yscale("log")
        panel.set_title(losses[number])
        panel.set_xlabel(axis)
    if column == SHARE:
        axes[0, 0].set_ylim(bottom=0)  # of all panels, which share the axis
    for panel in axes[:, 0]:
        panel.set_ylabel(label)
    finish(figure, axes, title)
    return figure


SHARE = "share of copy"


def with_shares(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of fastloss and torch, with their speed as a percentage of that of the copy beside them."""

    def key(row: Row) -> tuple[str, str, str]:
        return row["loss"], row["shape"], row["threads"]

    copies = {key(row): float(row["median_ms"]) for row in rows if row["contender"] == "copy"}
    return [
        {**row, SHARE: f"{100 * copies[key(row)] / float(row['median_ms']):.4g}"}
        for row in rows
        if row["contender"] in ("fresh", "reused", "torch", "compile") and key(row) in copies
    ]


# -- files ------------------------------------------------------------------------------------------------------------


def present(rows: Sequence[Row], column: str) -> list[str]:
    """Return the sizes that rows have, in order."""
    return [size for size in SIZES if any(row[column] == size for row in rows)]


def finish(figure: Any, axes: Any, title: str) -> None:
    """Add the title and one legend for all panels."""
    figure.suptitle(title)
    found: dict[str, Any] = {}
    for panel in axes.flat:
        found.update(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    order = [label for _, _, label in STYLES.values()]
    labels = sorted(found, key=lambda label: order.index(label.removesuffix(ONE_THREAD)))
    figure.legend([found[label] for label in labels], labels, loc="outside lower center", ncols=4)


def figures(rows: Sequence[Row]) -> Iterator[tuple[str, Any]]:
    """Yield the kind and the figure of everything that rows hold."""
    by_mode: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_mode[row["mode"]].append(row)
    if sizes := by_mode["sizes"]:
        yield "speedup", speedup(sizes)
        yield "copy", copy_share(sizes)
    if calls := by_mode["latency"]:
        yield "latency", latency(calls)
    for mode, x_of, axis in (
        ("elements", lambda row: int(row["elements"]), "elements N"),
        ("classes", lambda row: int(row["shape"].rpartition("x")[2]), "classes C"),
    ):
        if grown := by_mode[mode]:
            counts = {row["elements"] for row in grown}
            constant = f" (N = {counts.pop()} elements in all)" if mode == "classes" and len(counts) == 1 else ""
            title = f"value and gradient against {axis}{constant}"
            yield mode, growth(grown, "median_ms", "ms", x_of, axis, f"time of {title}")
            if any(row["peak_extra_mb"] for row in grown):
                text = f"memory allocated by {title}"
                yield f"{mode}-memory", growth(grown, "peak_extra_mb", "MB at the peak", x_of, axis, text)
            if shares := with_shares(grown):
                text = f"speed of {title}, against that of a copy of the same bytes"
                yield f"{mode}-share", growth(shares, SHARE, "% of copy", x_of, axis, text)
    if threads := by_mode["threads"]:
        yield "threads", one_against_all(threads)


def draw(path: Path, folder: Path) -> list[Path]:
    """Write the pictures of a file, and return where they are."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    every = read(path)
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for dtype in dict.fromkeys(row["dtype"] for row in every):
        rows = [row for row in every if row["dtype"] == dtype]
        first, stem = rows[0], path.stem if dtype == "float32" else f"{path.stem}-{dtype}"
        threads = f"{max(int(row['threads']) for row in rows)} threads, " if first["device"] == "cpu" else ""
        where = f"{first['machine']}, {threads}{dtype}, {first['date']}"
        with pyplot.rc_context(SETTINGS):
            for kind, figure in figures(rows):
                if figure is None:
                    continue
                figure.suptitle(f"{figure.get_suptitle()}\n{where}", fontsize=10)
                written.append(folder / f"{stem}-{kind}.png")
                figure.savefig(written[-1])
                pyplot.close(figure)
    return written


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the files that the command line names."""
    parser = argparse.ArgumentParser(description="Draw results files.")
    parser.add_argument("csv", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=None, help="folder of the pictures (default: beside each file)")
    options = parser.parse_args(argv)
    for path in options.csv:
        for picture in draw(path, options.out or path.parent):
            print(f"wrote {picture}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
