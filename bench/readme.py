"""Write the generated parts of README.md: ``python bench/readme.py`` (``--check`` only says whether they are current).

Between ``<!-- losses -->`` markers: the table of losses, from the registry. Between ``<!-- results -->`` markers: the
figures and the tables of the newest file under bench/results/ (or of the one given), with the file's name. No number
comes from elsewhere.
"""

from __future__ import annotations

import argparse
import inspect
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import fastloss  # noqa: F401  (fills the registry)
from fastloss._registry import LOSSES
from fastloss.bench.results import Row, medians, ratios, read

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"

SIZES = ("small", "medium", "large")
# Columns of the tables, in order, and those of them that are compared with `fresh`.
LABELS = {
    "copy": "copy",
    "reused": "reused",
    "fresh": "fresh",
    "torch": "torch",
    "compile": "torch.compile",
    "jax": "JAX",
    "sklearn": "scikit-learn",
    "numpy": "NumPy",
}
OTHERS = ("torch", "compile", "jax", "sklearn", "numpy")
# Pictures of bench/plot.py that are shown where they are there, and what they show.
FIGURES = {"speedup": "how many times longer others take, loss by loss and size by size"}

# What the registry writes for the second derivative, in words.
HESSIAN = {"exact": "yes", "zero": "zero almost everywhere", None: "-"}


def losses_table() -> str:
    """Return the table of losses."""
    lines = ["| loss | options | gradient with respect to | Hessian diagonal |", "| --- | --- | --- | --- |"]
    for name, loss in sorted(LOSSES.items()):
        parameters = inspect.signature(loss.describe).parameters.values()
        options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
        shown = ", ".join(f"`{p.name}{_default(p.default)}`" for p in options) or "-"
        natural = [f"**{a}**" for a in loss.wrt]
        others = [a for a in loss.differentiable if a not in loss.wrt]
        lines.append(f"| `{name}` | {shown} | {', '.join([*natural, *others])} | {HESSIAN[loss.hessian]} |")
    return "\n".join(lines)


def _default(value: object) -> str:
    if value is inspect.Parameter.empty:
        return ""
    return f'="{value}"' if isinstance(value, str) else f"={getattr(value, '__name__', value)}"


def newest_results(device: str = "cpu", mode: str = "sizes") -> Path | None:
    """Return the file with the latest date in it, of those with rows of a device and a mode."""
    found = {path: read(path) for path in RESULTS.glob("*.csv")}
    files = [p for p, rows in found.items() if any((row["device"], row["mode"]) == (device, mode) for row in rows)]
    return max(files, key=lambda path: (found[path][0]["date"], path.name), default=None)


def results_text(path: Path | None) -> str:
    """Return the tables of a results file, or a line that says how to measure."""
    if path is None:
        return "No results file is committed yet: `fastloss bench --out bench/results` writes one."
    rows = [row for row in read(path) if row["mode"] == "sizes"]
    first = rows[0]
    versions = [f"{name} {first[name]}" for name in ("torch", "jax", "scikit-learn", "numpy") if first.get(name)]
    parts = [
        f"{first['machine']}, {first['threads']} threads, float32, {first['date']}, {', '.join(versions)}; from "
        f"[{path.name}](bench/results/{path.name}).",
        summary_table(rows),
        losses_of(rows),
    ]
    for kind, text in FIGURES.items():
        picture = path.with_name(f"{path.stem}-{kind}.png")
        if picture.exists():
            parts.append(f"![{text}](bench/results/{picture.name})")
    return "\n\n".join(parts)


def gpu_text(path: Path | None) -> str:
    """Return cross_entropy by class count on a GPU, of a file of ``--growth --device cuda``; nothing without one."""
    if path is None:
        return ""
    rows = [row for row in read(path) if (row["mode"], row["loss"]) == ("classes", "cross_entropy")]
    if not rows:
        return ""
    found: dict[tuple[str, int, str], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row["dtype"], int(row["shape"].rpartition("x")[2]), row["shape"]][row["contender"]] = row
    lines = [
        f"{rows[0]['machine']}, {rows[0]['date']}, torch {rows[0]['torch']}; from "
        f"[{path.name}](bench/results/{path.name}).",
        "",
        "| `cross_entropy`, value and gradient | dtype | GB/s | share of copy | torch / ours | torch.compile / ours |",
        f"| --- | --- |{' --: |' * 4}",
    ]
    for (dtype, _, shape), one in sorted(found.items()):
        if "reused" not in one:
            continue
        ours = float(one["reused"]["median_ms"])
        cells = [f"{float(one[name]['median_ms']) / ours:.1f}" if name in one else "-" for name in ("torch", "compile")]
        share = f"{100 * float(one['copy']['median_ms']) / ours:.0f} %" if "copy" in one else "-"
        rate = f"{float(one['reused']['gb_per_s']):.0f}"
        lines.append(f"| {shape} | {dtype} | {rate} | {share} | {' | '.join(cells)} |")
    return "\n".join(lines)


def summary_table(rows: Sequence[Row]) -> str:
    """Return geometric means over the losses, size by size, and how far from a copy the median loss is."""
    found = {size: medians(rows, size=size) for size in SIZES if any(row["size"] == size for row in rows)}
    others = [name for name in OTHERS if any(name in one for one in found.values())]
    lines = [
        f"| geometric mean (of so many losses) | {' | '.join(f'{LABELS[name]} / fresh' for name in others)} "
        "| copy / reused, median |",
        f"| --- |{' --: |' * (len(others) + 1)}",
    ]
    for size, one in found.items():
        cells = [_mean(ratios(one.get(name, {}), one["fresh"])) for name in others]
        shares = list(ratios(one.get("copy", {}), one.get("reused", {})).values())
        share = f"{100 * statistics.median(shares):.0f} %" if shares else "-"
        lines.append(f"| {size} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def _mean(of: Mapping[str, float]) -> str:
    """Return a geometric mean and how many losses it is over: a library has only some of them."""
    return f"{statistics.geometric_mean(of.values()):.1f} ({len(of)})" if of else "-"


def losses_of(rows: Sequence[Row]) -> str:
    """Return the medians of every loss at its medium and large size."""
    times: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row["size"] != "small":
            times[row["loss"], row["shape"]][row["contender"]] = float(row["median_ms"])
    columns = [name for name in LABELS if any(name in one for one in times.values())]
    lines = [
        f"| value and gradient, ms | shape | {' | '.join(LABELS[name] for name in columns)} | torch / fresh |",
        f"| --- | --- |{' --: |' * (len(columns) + 1)}",
    ]
    for (name, shape), one in sorted(times.items()):
        cells = [f"{one[column]:.3g}" if column in one else "-" for column in columns]
        ratio = f"{one['torch'] / one['fresh']:.1f}" if "torch" in one and "fresh" in one else "-"
        lines.append(f"| `{name}` | {shape} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def updated(text: str, results: Path | None) -> str:
    """Return the README with its generated parts as they should be."""
    measured = "\n\n".join(filter(None, (results_text(results), gpu_text(newest_results("cuda", "classes")))))
    for marker, table in (("losses", losses_table()), ("results", measured)):
        before, start, rest = text.partition(f"<!-- {marker} -->\n")
        _, end, after = rest.partition(f"<!-- end of {marker} -->\n")
        if not start or not end:
            raise ValueError(f"README.md lacks the markers <!-- {marker} --> and <!-- end of {marker} -->")
        text = f"{before}{start}\n{table}\n\n{end}{after}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Write README.md, or check it."""
    parser = argparse.ArgumentParser(description="Write the generated parts of README.md.")
    parser.add_argument("results", type=Path, nargs="?", default=None, help="a CSV file (default: the newest)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when README.md is out of date")
    options = parser.parse_args(argv)
    old = README.read_text(encoding="utf-8")
    new = updated(old, options.results or newest_results())
    if options.check:
        if new != old:
            print("README.md is out of date: run python bench/readme.py", file=sys.stderr)
        return int(new != old)
    README.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
