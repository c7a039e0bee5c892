"""Draw a results file: ``python bench/plot.py bench/results/NAME.csv``, which writes NAME.png beside it.

For every loss the times as multiples of the copy of the same bytes, one panel for each size. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLES = {
    "reused": ("#2b6cb0", "o", "fastloss, outputs reused"),
    "fresh": ("#63b3ed", "o", "fastloss, outputs fresh"),
    "compile": ("#805ad5", "D", "torch.compile"),
    "torch": ("#8a919c", "s", "torch, eager"),
}
SIZES = ("small", "medium", "large")


def read(path: Path) -> list[dict[str, str]]:
    """Return the rows of a results file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def draw(rows: Sequence[dict[str, str]], path: Path) -> None:
    """Write the picture of some rows."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    medians: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        medians[row["size"], row["loss"]][row["contender"]] = float(row["median_ms"])
    sizes = [size for size in SIZES if any(key[0] == size for key in medians)]
    losses = sorted({row["loss"] for row in rows}, reverse=True)
    with pyplot.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, panels = pyplot.subplots(
            1,
            len(sizes),
            figsize=(3.5 + 3.3 * len(sizes), 1.8 + 0.27 * len(losses)),
            sharey=True,
            squeeze=False,
            layout="constrained",
        )
        for axes, size in zip(panels[0], sizes, strict=True):
            _panel(axes, size, losses, medians)
        first = rows[0]
        figure.suptitle(f"value and gradient: time / time of a copy of the same bytes\n{first['machine']}, "
                        f"{first['threads']} threads, {first['date']}")  # fmt: skip
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, dpi=144)
        pyplot.close(figure)


def _panel(axes: Any, size: str, losses: Sequence[str], medians: dict[tuple[str, str], dict[str, float]]) -> None:
    axes.axvline(1, color="#f08c1a", linewidth=1.5, label="copy")
    for contender, (color, marker, label) in STYLES.items():
        places, ratios = [], []
        for place, loss in enumerate(losses):
            known = medians.get((size, loss), {})
            if contender in known and known.get("copy"):
                places.append(place)
                ratios.append(known[contender] / known["copy"])
        if places:
            axes.plot(ratios, places, linestyle="", marker=marker, markersize=5, color=color, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(losses)), losses)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="both", color="#e5e7eb")
    axes.set_axisbelow(True)
    axes.set_title(size)


def main(argv: Sequence[str] | None = None) -> int:
    """Draw the file that the command line names."""
    parser = argparse.ArgumentParser(description="Draw a results file.")
    parser.add_argument("csv", type=Path)
    parser.add_argument("--output", type=Path, default=None, help="default: beside the file, ending in .png")
    options = parser.parse_args(argv)
    path = options.output or options.csv.with_suffix(".png")
    draw(read(options.csv), path)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
