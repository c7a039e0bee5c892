"""Write the generated parts of README.md: ``python bench/readme.py`` (``--check`` only says whether they are current).

Between ``<!-- losses -->`` markers: the table of losses, from the registry. Between ``<!-- results -->`` markers: the
medium and large cases of the newest file under bench/results/ (or of the one given), with the file's name.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import fastloss  # noqa: F401  (fills the registry)
from fastloss._registry import LOSSES

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "bench" / "results"

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


def newest_results() -> Path | None:
    """Return the results file with the latest date in it."""
    files = sorted(RESULTS.glob("*.csv"), key=lambda path: (_rows(path)[0]["date"], path.name))
    return files[-1] if files else None


def _rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def results_table(path: Path | None) -> str:
    """Return the table of times, or a line that says how to measure."""
    if path is None:
        return "No results file is committed yet: `python bench/run.py` writes one."
    rows = _rows(path)
    medians: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in rows:
        if row["size"] != "small":
            medians[row["loss"], row["shape"]][row["contender"]] = row["median_ms"]
    first = rows[0]
    lines = [
        f"{first['machine']}, {first['threads']} threads, float32, {first['date']}, "
        f"torch {first['torch'] or 'not installed'}; medians in ms from [{path.name}](bench/results/{path.name}).",
        "",
        "| value and gradient | shape | copy | reused | fresh | torch | torch / fresh |",
        "| --- | --- | --: | --: | --: | --: | --: |",
    ]
    for (name, shape), times in sorted(medians.items()):
        cells = [_number(times.get(c)) for c in ("copy", "reused", "fresh", "torch")]
        ratio = f"{float(times['torch']) / float(times['fresh']):.1f}" if "torch" in times else "-"
        lines.append(f"| `{name}` | {shape} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def _number(text: str | None) -> str:
    return "-" if text is None else f"{float(text):.3g}"


def updated(text: str, results: Path | None) -> str:
    """Return the README with its generated parts as they should be."""
    for marker, table in (("losses", losses_table()), ("results", results_table(results))):
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
