"""The command ``fastloss`` and its sub-commands."""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

from fastloss import bench
from fastloss.commands import catalogue, draw, score, warm
from fastloss.commands.errors import CommandError, Parser
from fastloss.demo import main as demo
from fastloss.files.source import FileError
from fastloss.runtime.report import show_config
from fastloss.runtime.terminal import clear_status
from fastloss.runtime.version import __version__

# What each sub-command needs beside the package: module -> the extra of fastloss that brings it.
_NEEDS = {
    "demo": {"sklearn": "demo", "scipy": "demo", "matplotlib": "demo"},
    "plot": {"matplotlib": "demo"},
}

# Commands that read their own arguments: their flags are those of a loss.
_OWN_ARGUMENTS = {"score": score.main, "plot": draw.main}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status: 0, 1 (a check failed), 2 (usage), 130 (interrupted)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments and arguments[0] in _OWN_ARGUMENTS:
        options = argparse.Namespace(command=arguments[0], arguments=arguments[1:], run=_own)
    else:
        options = _parser().parse_args(arguments)
    command = options.command
    missing = _missing(command)
    if missing:
        modules, extra = missing
        print(
            f"fastloss {command}: {', '.join(modules)} not installed; pip install 'fastloss[{extra}]' brings "
            f"what it needs (from a clone: pip install '.[{extra}]')",
            file=sys.stderr,
        )
        return 2
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: names of files may be no text
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            status = _run(options)
        if sys.stdout is not None:  # which is closed: fastloss info >&-
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # fastloss list | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except (CommandError, FileError, OSError) as error:
        print(f"fastloss {command}: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Write a warning as one line, without the place in the code."""
    if sys.stderr is not None:
        clear_status()
        print(f"warning: {message}", file=sys.stderr)


def _own(options: argparse.Namespace) -> int:
    return _OWN_ARGUMENTS[options.command](options.arguments)


def _info(options: argparse.Namespace) -> int:
    show_config()
    return 0


def _missing(command: str) -> tuple[list[str], str] | None:
    """Return the modules that are not installed and the extra that brings them."""
    needs = _NEEDS.get(command, {})
    modules = [module for module in needs if util.find_spec(module) is None]
    return (modules, needs[modules[0]]) if modules else None


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fastloss", description="Loss functions that return value and gradient in one fused pass.")
    parser.add_argument("--version", action="version", version=f"fastloss {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    for name, help_text in (
        ("score", "score arrays in files of any size, write values and gradients: `fastloss score --help`"),
        ("plot", "draw losses, their gradients and curvatures: `fastloss plot --help`"),
    ):
        commands.add_parser(name, help=help_text, add_help=False)
    _add_catalogue(commands)
    info = commands.add_parser(
        "info", help="print versions, processor, threads, cache folder and GPUs", description="fl.show_config()"
    )
    info.set_defaults(run=_info)
    _add_demo(commands)
    timed = commands.add_parser(
        "bench",
        help="time every loss beside torch, JAX, scikit-learn, NumPy and a copy of the same bytes",
        description="Interleaved timings of value and gradient, after a check that all compute the same; writes a CSV "
        "and a JSON file. By default every loss at three sizes, and small calls.",
    )
    timed.set_defaults(run=bench.main)
    _add_bench_arguments(timed)
    return parser


def _add_catalogue(commands: Any) -> None:
    """Add the commands that say what losses there are, and compile them."""
    listed = commands.add_parser("list", help="print the names of all losses", description="Prints all losses.")
    listed.set_defaults(run=lambda options: catalogue.list_losses())
    described = commands.add_parser(
        "describe",
        help="print formula, options, derivatives and an example of a loss",
        description="Prints what a user of a loss must know.",
    )
    described.add_argument("loss", metavar="LOSS", help="its name")
    described.set_defaults(run=lambda options: catalogue.describe(options.loss))
    warmed = commands.add_parser(
        "warm",
        help="compile kernels and keep them in the cache folder",
        description="Calls losses for value and gradient at several sizes, so that their kernels are compiled and lie "
        "in the cache folder: for images and servers. Minutes for all losses, seconds for one.",
    )
    warmed.add_argument("losses", nargs="*", metavar="LOSS", help="names of losses (default: all)")
    warmed.add_argument(
        "--dtype", type=_listed, default=["float32"], help=f"{','.join(warm.DTYPES)} (default: float32)"
    )
    warmed.set_defaults(run=lambda options: warm.main(options.losses, options.dtype))


def _add_demo(commands: Any) -> None:
    shown = commands.add_parser(
        "demo",
        help="fit a digits classifier, score a large batch, draw a picture",
        description="Fits scikit-learn's handwritten digits with SciPy and fastloss, checks the result against "
        "scikit-learn, then scores a large batch of logits under several losses and times them.",
    )
    shown.add_argument(
        "--size", type=positive, default=10_000_000, help="rows of the batch (default %(default)s: 400 MB)"
    )
    shown.add_argument("--output", default="fastloss-demo.png", help="the picture (default %(default)s)")
    shown.add_argument("--threads", type=positive, default=None, help="threads (default: one for each core)")
    shown.set_defaults(run=demo.main)


def _add_bench_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("losses", nargs="*", metavar="LOSS", help="names of losses (default: all)")
    parser.add_argument("--quick", action="store_true", help="medium size, few rounds, no torch.compile; a minute")
    parser.add_argument(
        "--sizes",
        type=_listed,
        help="small,medium,large,huge (default: the first three, on a GPU small,large,huge; --quick: medium)",
    )
    parser.add_argument(
        "--shapes",
        type=_shapes,
        metavar="ROWSxCOLUMNS",
        help="instead of sizes: losses over so many rows of classes, vectors, or elements; several after commas",
    )
    parser.add_argument(
        "--contenders",
        type=_listed,
        help="fresh,reused,copy,torch,compile,jax,sklearn,numpy,unchecked (default: all that are installed but the "
        "last, which is fastloss without index checks; with --device: fastloss, copy and torch)",
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default=None, help="tensors of torch on this device, not NumPy arrays"
    )
    parser.add_argument(
        "--dtype", type=_listed, default=None, help="with --device: float32,bfloat16,float16,float64 (default: float32)"
    )
    parser.add_argument("--threads", type=positive, default=None, help="threads of all contenders (default: all cores)")
    parser.add_argument(
        "--seconds", type=_seconds, default=None, help="time for each case (default 4, --growth: 1, --quick: 0.3)"
    )
    parser.add_argument(
        "--growth", action="store_true", help="instead: time and memory against N and C, and one thread against all"
    )
    parser.add_argument(
        "--guard", metavar="FILE", help="instead: fail when a loss is a third slower than the ratios stored in FILE"
    )
    parser.add_argument("--renew", action="store_true", help="with --guard: measure and store the ratios")
    parser.add_argument("--out", default="fastloss-bench", help="folder of the results (default: %(default)s)")
    parser.add_argument("--name", default=None, help="stem of the result files (default: machine, threads and date)")


def _listed(text: str) -> list[str]:
    """Read names that commas separate."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"expected names that commas separate, got {text!r}")
    return names


def _shapes(text: str) -> list[tuple[int, int]]:
    """Read pairs of whole numbers."""
    shapes = []
    for one in _listed(text):
        rows, _, columns = one.partition("x")
        if not (rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
            raise argparse.ArgumentTypeError(f"expected shapes such as 65536x100, got {one!r}")
        shapes.append((int(rows), int(columns)))
    return shapes


def _seconds(text: str) -> float:
    """Read a time."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"expected a positive number of seconds, got {text!r}")
    return number


def positive(text: str) -> int:
    """Read a positive integer; ``1_000`` and ``1e6`` are fine."""
    try:
        number = int(float(text)) if "e" in text.lower() else int(text)
    except (ValueError, OverflowError):  # 1e400 is infinite
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}") from None
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return number
