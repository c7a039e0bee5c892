"""``fastloss score``: a loss of arrays in files, whatever their size."""

from __future__ import annotations

import argparse
import inspect
import json
import math
import os
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from fastloss.commands.errors import CommandError, Parser
from fastloss.commands.interruptible import run
from fastloss.commands.loss_flags import add_flags, first_names, flag, given_options, is_number, named, readable
from fastloss.commands.progress import Progress
from fastloss.commands.scoring import Job, Scored, divided, score
from fastloss.define.record import Loss
from fastloss.define.registry import LOSSES
from fastloss.files.opening import opened
from fastloss.files.result import Result

DESCRIPTION = """\
Computes LOSS of the arrays in INPUT and TARGET, block by block: memory does not grow with the files. The result is that
of one call on the whole arrays, with class weights, sample weights and ignored rows too. Rows lie along the first axis.
INPUT and TARGET stand for the first two arrays of the loss; FILE is one of

  array.npy   arrays.npz:MEMBER   array.zarr   group.zarr:ARRAY   table.parquet:COLUMN,COLUMN,...

`fastloss score LOSS --help` shows the options of LOSS, and `fastloss list` the losses.
"""
GRADIENT = "write the gradient with respect to INPUT; a mean is read twice, for its divisor must be known first"

# The losses whose values belong to a row each. Others need all rows at once, or arrays that are not rows.
_FAMILIES = frozenset(("elementwise", "rowwise", "pairwise", "label_sets", "sums", "chain", "sequence"))


def main(arguments: Sequence[str]) -> int:
    """Score files as `arguments` say, print the result, and return 0."""
    arguments = readable(arguments)
    names = first_names(_general(add_help=False), arguments)
    known = [name for name in names if name in LOSSES] or names  # values of a loss's own flags may stand before it
    given = _parser(named(known[0]) if known else None).parse_args(arguments)
    loss = named(given.loss)
    options = given_options(loss, given)
    job = Job(loss, _sources(loss, given), options, given.reduction, given.batch)
    if given.reduction == "none" and not (given.out or given.grad_out):
        raise CommandError("--reduction none needs --out or --grad-out")
    scored = _run(job, given)
    _report(job, scored, given)
    return 0


def _parser(loss: Loss | None) -> argparse.ArgumentParser:
    """Return the parser of all arguments; those of a loss are among them where it is known."""
    parser = _general(add_help=True)
    parser.add_argument("loss", metavar="LOSS", help="the name of a loss")
    parser.add_argument("first", metavar="INPUT", help="a file")
    parser.add_argument("second", metavar="TARGET", help="a file")
    if loss is not None:
        _check_offered(loss)
        group = parser.add_argument_group(f"arrays and options of {loss.name}")
        _add_arrays(group, loss)
        add_flags(group, loss)
    return parser


def _general(add_help: bool) -> argparse.ArgumentParser:
    """Return a parser of the flags that belong to no loss."""
    parser = Parser(
        prog="fastloss score",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=add_help,
    )
    parser.add_argument("--sample-weight", metavar="FILE", help="a weight for each row, or for each value of the loss")
    parser.add_argument("--reduction", default="mean", help="mean, sum, none, or batchmean of kl_div (default: mean)")
    parser.add_argument("--out", metavar="FILE", help="write the values that are not reduced, as .npy")
    parser.add_argument("--grad-out", metavar="FILE", help=f"{GRADIENT}; as .npy")
    parser.add_argument("--json", action="store_true", help="print JSON; the reduced loss is its `value`")
    parser.add_argument("--batch", type=_rows, metavar="ROWS", help="rows of a block (default: as many as have 32 MiB)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that exist")
    return parser


def _rows(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive number of rows, got {text!r}")
    return number


def _check_offered(loss: Loss) -> None:
    if loss.family not in _FAMILIES or "reduction" not in loss.options:
        why = "its values do not belong to rows" if "reduction" in loss.options else "it has no reduction"
        raise CommandError(f"{loss.name} is not scored from files: {why}; call it in Python")


def _arrays(loss: Loss) -> list[str]:
    """Return the names of the arrays of a loss, those that are given by position first."""
    keywords = [name for name in inspect.signature(loss.function).parameters if name not in loss.positional]
    return [name for name in (*loss.positional, *keywords) if name in loss.operands and name != "sample_weight"]


def _add_arrays(parser: Any, loss: Loss) -> None:
    """Add a flag for each array beyond INPUT and TARGET."""
    parameters = inspect.signature(loss.function).parameters
    for name in _arrays(loss)[2:]:
        required = parameters[name].default is inspect.Parameter.empty
        text = "an array, or a number" if "float" in str(parameters[name].annotation) else "an array"
        parser.add_argument(flag(name), metavar="FILE", required=required, help=text)


def _sources(loss: Loss, given: argparse.Namespace) -> dict[str, Any]:
    """Open the arrays that were given, by the names of the loss's arguments."""
    first, second, *more = _arrays(loss)
    texts = {first: given.first, second: given.second, **{name: getattr(given, name) for name in more}}
    texts["sample_weight"] = given.sample_weight
    read = {os.path.realpath(text): name for name, text in texts.items() if text is not None}
    for path in filter(None, (given.out, given.grad_out)):
        name = read.get(os.path.realpath(path))
        if name is not None:
            raise CommandError(f"{path}: is read as {name}, and results must not replace it")
    annotations = inspect.signature(loss.function).parameters
    sources: dict[str, Any] = {}
    for name, text in texts.items():
        if text is None:
            continue
        if name in annotations and "float" in str(annotations[name].annotation) and is_number(text):
            sources[name] = float(text)
        else:
            sources[name] = opened(text)
    return sources


def _run(job: Job, given: argparse.Namespace) -> Scored:
    """Score, with the results under temporary names until all is computed."""
    if given.out and given.grad_out and os.path.realpath(given.out) == os.path.realpath(given.grad_out):
        raise CommandError("--out and --grad-out name the same file")
    with ExitStack() as stack:
        results: dict[str, Result] = {}

        def discard() -> None:
            for result in results.values():
                result.discard()

        stack.callback(discard)
        for name, path in (("out", given.out), ("grad_out", given.grad_out)):
            if path is not None:
                results[name] = Result(path, given.overwrite)
        with Progress(job.loss.name, job.bytes_to_read(results)) as progress:
            scored: Scored = run(lambda stop: score(job, results, progress.add, stop.is_set), discard)
        for result in results.values():
            result.commit()
    return scored


def _report(job: Job, scored: Scored, given: argparse.Namespace) -> None:
    """Print what came out, as text or as JSON."""
    value = divided(scored.part, job)
    if given.json:
        report = {
            "loss": job.loss.name,
            "reduction": job.reduction,
            "value": _finite(value),
            "total": _finite(float(scored.part.total)),
            "weight": _finite(float(scored.part.weight)),
            "count": int(scored.part.count),
            "shape": list(job.first.shape),
            "dtype": str(job.first.dtype),
            "options": {name: str(given) if given == math.inf else given for name, given in job.options.items()},
            "out": given.out,
            "grad_out": given.grad_out,
            "seconds": round(scored.seconds, 6),
        }
        print(json.dumps(report))
        return
    if value is not None:
        print(f"{job.loss.name}  {value:.9g}")
    of = "" if value is None else f"{job.reduction} of "
    print(f"{of}{_numbers(job.first)}, {scored.seconds:.2f} s")
    for result in scored.results.values():
        print(f"wrote {result.path}: {_numbers(result)}")


def _numbers(array: Any) -> str:
    """Say how many numbers of which dtype an array has: 1,000 x 10 float32."""
    return f"{' x '.join(f'{n:,}' for n in array.shape) or 'one'} {array.dtype}"


def _finite(value: float | None) -> float | None:
    """Return a number, or None for what JSON has no word for."""
    return value if value is not None and math.isfinite(value) else None
