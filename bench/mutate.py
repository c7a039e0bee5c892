"""Do the tests notice? Change the maths in fastloss/losses/ in one place at a time, and run the tests of its losses.

::

    python bench/mutate.py --list                       # every place and what it would be changed to
    python bench/mutate.py --losses mse_loss l1_loss    # all changes of these losses
    python bench/mutate.py --count 40 --seed 0          # 40 changes at random

What stays alive is printed with file, line and change: either a test is missing, or the change alters nothing, and
belongs into ``equivalent_changes.json`` with its reason. Changes are made in a copy of the repository, one process for
each, which stops at the first test that fails. A test that takes the loss's maths as plain Python comes first, then
those that compile kernels for float64, then all.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import importlib
import inspect
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LOSSES = Path("fastloss/losses")
EQUIVALENTS = Path(__file__).with_name("equivalent_changes.json")

# The cheapest first.
PLAIN = ("test_plain_maths.py",)
KERNELS = ("test_values.py", "test_gradients.py", "test_stability.py", "test_torch_parity.py", "test_accuracy.py")
HELPERS = ("cases", "exact", "plain", "reference")  # what the tests import
STAGES = ((PLAIN, True), (KERNELS, False), (KERNELS, True))  # files, and whether float32 and the half types run as well
NARROW = re.compile(r"float32|float16|bfloat16|\bf4\b|\bf2\b")

OPERATORS = {
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"), ast.Pow: ("**", "*"),
    ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.And: ("and", "or"), ast.Or: ("or", "and"),
}  # fmt: skip


class Change(NamedTuple):
    """One place, by its bytes, and what stands there instead; `before` and `after` are the statement around it."""

    file: str
    line: int
    function: str
    start: int
    stop: int
    new: bytes
    before: str
    after: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What names the change wherever its line moves to."""
        return self.function, self.before, self.after

    def __str__(self) -> str:
        return f"{LOSSES}/{self.file}:{self.line} {self.function}: {self.before}  ->  {self.after}"


class Places:
    """The changes of a module. No maths: docstrings, annotations, signatures, decorators and indices."""

    def __init__(self, path: Path) -> None:
        self.file, self.source = path.name, path.read_bytes()
        self.lines = [0]
        for line in self.source.splitlines(keepends=True):
            self.lines.append(self.lines[-1] + len(line))
        self.found: list[Change] = []
        self.walk(ast.parse(self.source), None, (), False)

    def walk(self, node: Any, around: Any, names: tuple[str, ...], described: bool) -> None:
        """Collect the changes of a node in the statement `around` it, or the head of one, of a function or constant.

        In what is `described` by a function marked ``@loss`` only operators change: its numbers are no maths.
        """
        children, triples = [*ast.iter_child_nodes(node)], []
        match node:
            case ast.ClassDef() | ast.Expr() | ast.Raise() | ast.AnnAssign() | ast.JoinedStr():
                return
            case ast.FunctionDef():
                children, names, described = node.body, (*names, node.name), is_loss(node)
            case ast.If() | ast.For():
                head = node.test if isinstance(node, ast.If) else node.iter
                self.walk(head, head, names, described)
                children = node.body + node.orelse
            case ast.Assign():
                children, around, names = [node.value], node, names or (ast.unparse(node.targets[0]),)
            case ast.AugAssign():
                children, around, triples = [node.value], node, [(node.target, node.op, node.value)]
            case ast.stmt():
                around = node
            case ast.BinOp():
                triples = [(node.left, node.op, node.right)]
            case ast.BoolOp():
                triples = [(one, node.op, other) for one, other in itertools.pairwise(node.values)]
            case ast.Compare():
                operands = [node.left, *node.comparators]
                triples = [*zip(operands, node.ops, node.comparators, strict=False)]
            case ast.IfExp(test=ast.Compare(left=left, comparators=[right])):
                # Of a choice between the numbers compared the boundary is none: both ways are equal there.
                if {*map(ast.unparse, (left, right))} == {*map(ast.unparse, (node.body, node.orelse))}:
                    children = [left, right, node.body, node.orelse]
            case ast.UnaryOp(op=ast.USub()):
                self.change(around, names, self.span(node)[0], self.span(node)[0] + 1, b"")
            case ast.Call(func=ast.Name(id="min" | "max" as extremum)):
                self.change(around, names, *self.span(node.func), b"max" if extremum == "min" else b"min")
            case ast.Constant(value=float() | int() as number) if not isinstance(number, bool) and not described:
                self.change(around, names, *self.span(node), repr(2 * number or type(number)(1)).encode())
            case ast.Subscript():
                children = [node.value]
        for left, operator, right in triples:
            if type(operator) in OPERATORS:
                old, new = (text.encode() for text in OPERATORS[type(operator)])
                start = self.source.index(old, self.span(left)[1], self.span(right)[0])
                self.change(around, names, start, start + len(old), new)
        for child in children:
            self.walk(child, around, names, described)

    def span(self, node: Any) -> tuple[int, int]:
        """Return where a node begins and ends, in bytes."""
        begin, end = self.lines[node.lineno - 1], self.lines[node.end_lineno - 1]
        return begin + node.col_offset, end + node.end_col_offset

    def change(self, around: Any, names: tuple[str, ...], start: int, stop: int, new: bytes) -> None:
        """Add a change of some bytes."""
        first, last = self.span(around)
        changed = self.source[first:start] + new + self.source[stop:last]
        before, after = (" ".join(text.decode().split()) for text in (self.source[first:last], changed))
        line, function = self.source.count(b"\n", 0, start) + 1, ".".join([self.file.removesuffix(".py"), *names])
        self.found.append(Change(self.file, line, function, start, stop, new, before, after))


def changes_of(path: Path) -> list[Change]:
    """Return the changes of a module."""
    return Places(path).found


def is_loss(node: Any) -> bool:
    """Return whether a statement is the description of a loss."""
    return any("loss" in ast.unparse(decorator) for decorator in getattr(node, "decorator_list", ()))


def users() -> dict[str, list[str]]:
    """Return the losses that each function or constant of fastloss/losses/ has a part in, those of its file alone.

    Where no loss of its file uses it, all that do.
    """
    uses: dict[str, set[str]] = {}
    file_of, losses = {}, []
    for path in sorted((ROOT / LOSSES).glob("*.py")):
        for node in ast.parse(path.read_text()).body:
            names = [node.name] if isinstance(node, ast.FunctionDef) else []
            names += [ast.unparse(t) for t in node.targets] if isinstance(node, ast.Assign) else []
            for name in names:
                uses[name] = uses.get(name, set()) | {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
                file_of[name] = path.name
            for decorator in getattr(node, "decorator_list", ()):  # @hard_targets(bce) makes a part of bce
                for given in getattr(decorator, "args", ()):
                    uses.setdefault(ast.unparse(given), set()).add(node.name)
            losses += [node.name] if is_loss(node) else []

    def closure(name: str, seen: set[str]) -> set[str]:
        seen.add(name)
        for other in uses.get(name, set()) - seen:
            closure(other, seen)
        return seen

    reached = {loss: closure(loss, set()) for loss in losses}
    found = {}
    for name, file in file_of.items():
        having = [loss for loss in losses if name in reached[loss]]
        found[name] = [loss for loss in having if file_of[loss] == file] or having
    return found


class Selection:
    """A plugin of pytest that keeps the tests which name one of the losses, and sends on which failed first."""

    def __init__(self, losses: list[str], known: list[str], narrow: bool) -> None:
        self.losses, self.known, self.narrow, self.failed = set(losses), set(known), narrow, ""

    def keeps(self, item: Any) -> bool:
        words = set(re.findall(r"\w+", item.nodeid)) & self.known
        words = words or set(re.findall(r"\w+", inspect.getsource(item.function)))
        return not self.losses.isdisjoint(words) and (self.narrow or not NARROW.search(item.nodeid))

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = filter(self.keeps, items)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or (report.nodeid if report.failed else "")


def _forget(*packages: str) -> None:
    """Have modules imported again, from the sources as they are now."""
    for name in [name for name in sys.modules if name.startswith(packages)]:
        del sys.modules[name]


def _run(losses: list[str], known: list[str], stages: Any, answer: Any) -> None:
    """Run the tests of the losses in a process of its own, until one fails; send its name, or an empty one."""
    import pytest

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    for files, narrow in stages:
        if files is PLAIN:
            _forget("fastloss.losses")
            for path in sorted(LOSSES.glob("[a-z]*.py")):
                importlib.import_module(f"fastloss.losses.{path.stem}")
        elif not narrow:
            _forget("fastloss", *HELPERS)
        chosen = Selection(losses, known, narrow)
        status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", *[f"tests/{f}" for f in files]], [chosen])
        if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            answer.send(chosen.failed or str(status))
            return
    answer.send("")


def verdict(losses: list[str], known: list[str], stages: Any, limit: float) -> str:
    """Return what noticed that the copy is not right; an empty string where nothing did."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(losses, known, stages, there))
    process.start()
    there.close()
    try:
        return here.recv() if here.poll(limit) else "the time limit"
    except EOFError:
        return "the end of the process"
    finally:
        process.kill()
        process.join()


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--losses", nargs="+", help="changes in the maths of these losses alone")
    parser.add_argument("--count", type=int, help="so many changes, drawn at random")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--limit", type=float, default=900, help="seconds for a change: what takes longer is noticed")
    parser.add_argument("--plain", action="store_true", help="run only the tests that compile no kernels")
    parser.add_argument("--list", action="store_true", help="print the changes and make none")
    return parser.parse_args()


def main() -> int:
    """Make the changes, print which are alive, and return whether there are any."""
    given, of = arguments(), users()
    known = sorted({loss for losses in of.values() for loss in losses})
    changes = [change for path in sorted((ROOT / LOSSES).glob("*.py")) for change in changes_of(path)]
    if given.losses:
        changes = [c for c in changes if not set(of[c.function.split(".")[1]]).isdisjoint(given.losses)]
    equivalents = {(e["function"], e["before"], e["after"]) for e in json.loads(EQUIVALENTS.read_text())}
    stale = equivalents - {change.key for change in changes} if not given.losses else set()
    print(f"{len(changes)} changes, {sum(c.key in equivalents for c in changes)} of them listed as equivalent")
    for key in sorted(stale):
        print("listed as equivalent, but no change any more:", *key, sep="\n    ")
    changes = [change for change in changes if change.key not in equivalents]
    if given.count is not None and given.count < len(changes):
        changes = random.Random(given.seed).sample(changes, given.count)
    if given.list:
        print(*changes, sep="\n")
        return 0
    os.environ.update(FASTLOSS_CACHE="0", OMP_NUM_THREADS="1")
    alive, stages = [], STAGES[:1] if given.plain else STAGES
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "repository")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".git", "__pycache__", ".venv", "docs", ".*cache"))
        os.chdir(copy)
        sys.path[:0] = [str(copy), str(copy / "tests")]
        for module in ("torch", "fastloss", *HELPERS):  # once for all changes
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(module)
        gc.freeze()
        involved = sorted({loss for change in changes for loss in of[change.function.split(".")[1]]})
        if noticed := verdict(involved, known, stages, 4 * given.limit):
            print(f"without any change: {noticed}")
            return 2
        for number, change in enumerate(changes):
            path, started = copy / LOSSES / change.file, time.monotonic()
            source = path.read_bytes()
            path.write_bytes(source[: change.start] + change.new + source[change.stop :])
            os.utime(path, (number, number))  # not the bytecode of another change, of the same size and second
            noticed = verdict(of[change.function.split(".")[1]], known, stages, given.limit)
            path.write_bytes(source)
            alive += [] if noticed else [change]
            took = time.monotonic() - started
            print(f"{noticed or 'ALIVE':60.60} {took:4.0f} s  {change}", flush=True)
    print(f"{len(changes)} made, {len(alive)} alive", *alive, sep="\n")
    return 1 if alive else 0


if __name__ == "__main__":
    sys.exit(main())
