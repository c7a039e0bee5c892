"""Write what is generated: ``python bench/readme.py`` (``--check`` only says whether it is current).

In README.md, between ``<!-- losses -->`` markers: the table of losses, from the registry. Between ``<!-- results -->``
markers: the summary of the newest file under bench/results/ (or of the one given), with the file's name. In
bench/results/README.md: the table of every loss for each machine. No number comes from elsewhere.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import fastloss
from fastloss.bench.results import Row, medians, ratios, read, share_of_copy
from fastloss.define.registry import LOSSES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"
DETAILS = RESULTS / "README.md"

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
# Pictures of bench/plot.py that are shown where they are there, and what they show; and those that the page of details
# shows too, of the file itself and of the growth beside it.
FIGURES = {"speedup": "how many times longer others take, loss by loss and size by size"}
FURTHER = {
    "copy": "speed of every loss as a share of that of a copy of the same bytes",
    "latency": "small calls of every loss",
}
GROWTH = {
    "elements": "time against N",
    "elements-share": "speed against N, as a share of that of a copy",
    "elements-memory": "memory against N",
    "classes": "time against C",
    "classes-share": "speed against C, as a share of that of a copy",
    "classes-memory": "memory against C",
    "threads": "one thread against all",
}

# Forms of a small call (mode "latency"), in the order of the table.
FORMS = {
    "function": "function",
    "class": "class",
    "torch_value": "torch, value",
    "transform": "`value_and_grad` of the function",
    "class_transform": "of the class",
    "transform_reused": "outputs reused",
    "torch_gradient": "torch, forward and backward",
}

NO_GPU = (
    "There are no results of a GPU yet: the CUDA kernels are compiled for real architectures and run in the simulator "
    "by\nthe tests, and have not been timed on a device."
)

# What the registry writes for the second derivative, in words.
HESSIAN = {"exact": "yes", "zero": "zero almost everywhere", None: "-"}


def losses_table() -> str:
    """Return the table of losses."""
    lines = ["| loss | options | gradient with respect to | Hessian diagonal |", "| --- | --- | --- | --- |"]
    for name, loss in sorted(LOSSES.items()):
        if name not in fastloss.__all__:  # a loss that somebody else has defined
            continue
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


def results_files(device: str = "cpu", mode: str = "sizes") -> list[Path]:
    """Return the files with rows of a device and a mode, the oldest first.

    Their order is that of date and time of day. Where a JSON has no time, as the first ones, the file comes first of
    its day; of two alike the later name counts as the newer.
    """
    found = {path: read(path) for path in RESULTS.glob("*.csv")}
    files = [p for p, rows in found.items() if any((row["device"], row["mode"]) == (device, mode) for row in rows)]
    return sorted(files, key=lambda path: (found[path][0]["date"], _time(path), path.name))


def _time(path: Path) -> str:
    record = path.with_suffix(".json")
    return json.loads(record.read_text()).get("time", "") if record.exists() else ""


def newest_results(device: str = "cpu", mode: str = "sizes") -> Path | None:
    """Return the last of the files with rows of a device and a mode."""
    return next(reversed(results_files(device, mode)), None)


def results_text(path: Path | None) -> str:
    """Return the summary of a results file for README.md, or a line that says how to measure."""
    if path is None:
        return "No results file is committed yet: `fastloss bench --out bench/results` writes one."
    rows = read(path)
    sizes = [row for row in rows if row["mode"] == "sizes"]
    parts = [
        f"{machine_of(sizes[0])};\nfrom [{path.name}](bench/results/{path.name}). "
        "Beside it lie\n[every loss, and the files of other machines](bench/results/README.md).",
        summary_table(sizes),
        latency_text(rows),
        first_calls(sizes),
        shapes_text(path.with_name(f"{path.stem}-shapes.csv"), "bench/results/", "cross_entropy"),
        *figures_of(path, FIGURES, "bench/results/"),
    ]
    return "\n\n".join(filter(None, parts))


def details() -> str:
    """Return bench/results/README.md: a table of every loss for each machine, the newest file first."""
    parts = [
        "# Value and gradient of every loss",
        "Written by `python bench/readme.py` from the CSV files in this folder; the columns are explained\n"
        "under [Measurements](../../docs/measurements.md). Times are medians, in milliseconds. `NAME.json` has every\n"
        "sample, the machine and the versions.",
    ]
    for path in reversed(results_files()):
        rows = [row for row in read(path) if row["mode"] == "sizes"]
        heading = f"## {rows[0]['machine']}, {rows[0]['threads']} threads"
        parts += [heading, f"{machine_of(rows[0])}; from [{path.name}]({path.name}).", losses_of(rows)]
        parts += figures_of(path, {**FIGURES, **FURTHER})
        parts.append(shapes_text(path.with_name(f"{path.stem}-shapes.csv")))
        grown = path.with_name(f"{path.stem}-growth.csv")
        if grown.exists():
            parts.append(f"Growth, measured on {read(grown)[0]['date']}; from [{grown.name}]({grown.name}).")
            parts += figures_of(grown, GROWTH)
    return "\n\n".join(filter(None, parts)) + "\n"


def machine_of(row: Row) -> str:
    """Return where, when and with which versions a row was measured."""
    versions = [f"{name} {row[name]}" for name in ("torch", "jax", "scikit-learn", "numpy") if row.get(name)]
    return f"{row['machine']}, {row['threads']} threads, float32, {row['date']},\n{', '.join(versions)}"


def figures_of(path: Path, kinds: Mapping[str, str], folder: str = "") -> list[str]:
    """Return the pictures of a results file that are there, as links that begin with `folder`."""
    pictures = {path.with_name(f"{path.stem}-{kind}.png"): text for kind, text in kinds.items()}
    return [f"![{text}]({folder}{picture.name})" for picture, text in pictures.items() if picture.exists()]


def latency_text(rows: Sequence[Row]) -> str:
    """Return the medians of small calls, over the losses that have every form; nothing where none was measured."""
    found = {form: one for form, one in medians(rows, mode="latency").items() if form in FORMS}
    if not found:
        return ""
    forms = [form for form in FORMS if form in found]
    common = set.intersection(*[set(found[form]) for form in forms])
    cells = [f"{1e3 * statistics.median(found[form][name] for name in common):.1f}" for form in forms]
    return "\n".join(
        [
            f"| small calls, µs | {' | '.join(FORMS[form] for form in forms)} |",
            f"| --- |{' --: |' * len(forms)}",
            f"| median of {len(common)} losses | {' | '.join(cells)} |",
        ]
    )


def first_calls(rows: Sequence[Row]) -> str:
    """Return what the first call of each contender that compiles took, over the losses at their smallest size."""
    size = next(size for size in SIZES if any(row["size"] == size for row in rows))
    parts = []
    for name in ("fresh", "compile", "jax"):
        found = [row for row in rows if (row["contender"], row["size"]) == (name, size)]
        seconds = [float(row["first_call_ms"]) / 1e3 for row in found if row["first_call_ms"]]
        if seconds:
            parts.append(f"{LABELS[name]} {statistics.median(seconds):.1f} s ({max(seconds):.1f} s)")
    text = f"First call, which compiles or loads the kernel, median (worst) of the losses:\n{', '.join(parts)}."
    return text if parts else ""


def shapes_text(path: Path, folder: str = "", only: str = "") -> str:
    """Return the losses of a file of ``--shapes``, or the `only` one, shape by shape; nothing without a file."""
    if not path.exists():
        return ""
    times: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for row in read(path):
        if row["loss"] == (only or row["loss"]):
            times[row["loss"], row["size"]][row["contender"]] = float(row["median_ms"])
    others = [name for name in OTHERS if any(name in one for one in times.values())]
    lines = [
        f"Shape by shape, from [{path.name}]({folder}{path.name}):",
        "",
        f"| float32 | shape | copy / reused | {' | '.join(f'{LABELS[name]} / fresh' for name in others)} |",
        f"| --- | --- |{' --: |' * (len(others) + 1)}",
    ]
    for (loss, shape), one in times.items():
        cells = [f"{one[name] / one['fresh']:.1f}" if name in one else "-" for name in others]
        share = f"{100 * one['copy'] / one['reused']:.0f} %"
        lines.append(f"| `{loss}` | {shape} | {share} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gpu_sizes_text(path: Path | None) -> str:
    """Return the summary of a file of ``--device cuda``, and how it was measured; nothing without one."""
    if path is None:
        return ""
    rows = [row for row in read(path) if row["mode"] == "sizes"]
    record, row = json.loads(path.with_suffix(".json").read_text()), rows[0]
    lines = [
        f"{row['machine']}, {row['date']}, torch {row['torch']}; from [{path.name}](bench/results/{path.name}),",
        f"{record['seconds_per_case']} s for each case, load of the host at the start {record['load_at_start']:.1f}.",
        "",
        summary_table(rows),
    ]
    return "\n".join(lines)


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
        share = f"{100 * share_of_copy(one['copy'], one['reused']):.0f} %" if "copy" in one else "-"
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
        shares = _shares([row for row in rows if row["size"] == size])
        share = f"{100 * statistics.median(shares):.0f} %" if shares else "-"
        lines.append(f"| {size} | {' | '.join(cells)} | {share} |")
    return "\n".join(lines)


def _shares(rows: Sequence[Row]) -> list[float]:
    """Return the share of a copy of each loss that was timed with a copy."""
    found: dict[str, dict[str, Row]] = defaultdict(dict)
    for row in rows:
        found[row["loss"]][row["contender"]] = row
    return [share_of_copy(one["copy"], one["reused"]) for one in found.values() if {"copy", "reused"} <= one.keys()]


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
    of_gpu = (gpu_text(newest_results("cuda", "classes")), gpu_sizes_text(newest_results("cuda")))
    measured = "\n\n".join((results_text(results), *(list(filter(None, of_gpu)) or [NO_GPU])))
    for marker, table in (("losses", losses_table()), ("results", measured)):
        before, start, rest = text.partition(f"<!-- {marker} -->\n")
        _, end, after = rest.partition(f"<!-- end of {marker} -->\n")
        if not start or not end:
            raise ValueError(f"README.md lacks the markers <!-- {marker} --> and <!-- end of {marker} -->")
        text = f"{before}{start}\n{table}\n\n{end}{after}"
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Write both pages, or check them."""
    parser = argparse.ArgumentParser(description="Write README.md's generated parts, and bench/results/README.md.")
    parser.add_argument("results", type=Path, nargs="?", default=None, help="a CSV file (default: the newest)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is out of date")
    options = parser.parse_args(argv)
    readme = updated(README.read_text(encoding="utf-8"), options.results or newest_results())
    pages = {README: readme, DETAILS: details()}
    status = 0
    for page, new in pages.items():
        if options.check and (not page.exists() or page.read_text(encoding="utf-8") != new):
            print(f"{page.relative_to(ROOT)} is out of date: run python bench/readme.py", file=sys.stderr)
            status = 1
        elif not options.check:
            page.write_text(new, encoding="utf-8")
    return status


if __name__ == "__main__":
    raise SystemExit(main())
