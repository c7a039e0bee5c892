"""``fastloss plot``: losses, their gradients and their curvatures in a picture."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fastloss.plot as pictures
from fastloss.commands.errors import CommandError, Parser
from fastloss.commands.loss_flags import add_flags, first_names, given_options, is_number, named, readable
from fastloss.define.record import Loss


def main(arguments: Sequence[str]) -> int:
    """Draw losses as `arguments` say, print the name of the picture, and return 0."""
    arguments = readable(arguments)
    losses = [named(name) for name in first_names(_general(add_help=False), arguments)]
    parser = _general(add_help=True)
    parser.add_argument("losses", metavar="LOSS", nargs="+", help="names of losses; they stand before all options")
    for loss in losses:
        add_flags(parser.add_argument_group(f"options of {loss.name}"), loss)
    given = parser.parse_args(arguments)
    options: dict[str, Any] = {}
    for loss in losses:
        options |= given_options(loss, given)
    if given.target is not None:
        options["target"] = given.target
    _draw(losses, options, Path(given.out), given.overwrite)
    print(f"wrote {given.out}")
    return 0


def _general(add_help: bool) -> argparse.ArgumentParser:
    """Return a parser of the flags that belong to no loss."""
    parser = Parser(
        prog="fastloss plot",
        description="Draws value, gradient and curvature over the prediction, of several losses beside each other. "
        "`fastloss plot LOSS ... --help` shows the options of these losses.",
        allow_abbrev=False,
        add_help=add_help,
        conflict_handler="resolve",  # losses that share an option share the flag
    )
    parser.add_argument("--out", metavar="FILE", required=add_help, help="the picture; its ending gives its format")
    parser.add_argument(
        "--target", type=_finite, metavar="NUMBER", help="the target (default: 0, or 1 where it is a yes)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a picture that exists")
    return parser


def _finite(text: str) -> float:
    if not (is_number(text) and math.isfinite(float(text))):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return float(text)


def _draw(losses: Sequence[Loss], options: dict[str, Any], out: Path, overwrite: bool) -> None:
    """Write the picture, under a temporary name until it is complete."""
    from matplotlib.figure import Figure

    if out.exists() and not overwrite:
        raise CommandError(f"{out}: exists; --overwrite replaces it")
    if not out.parent.is_dir():
        raise CommandError(f"{out}: there is no folder {out.parent}")
    figure = Figure(figsize=(max(4.8, 3.6 * len(losses)), 3.8), layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if out.suffix[1:].lower() not in known:
        raise CommandError(f"{out}: the ending must be one of {', '.join(sorted(known))}")
    temporary = out.with_name(f".{out.stem}.{os.getpid()}.part{out.suffix}")
    try:
        axes = figure.subplots(1, len(losses), squeeze=False)[0]
        pictures.loss(*[loss.function for loss in losses], ax=axes, **options)
        figure.savefig(temporary, dpi=144)
        os.replace(temporary, out)
    except (ValueError, TypeError) as error:
        raise CommandError(str(error)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
