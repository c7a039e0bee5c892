"""What is timed: a common interface, and a catalogue whose modules are imported when they are asked for.

A contender says what it lacks (`missing`) and turns a case into a call (`prepare`). The call computes value and
gradient; `outcome` turns what it returned into NumPy arrays on fastloss's scale, and every outcome is compared with
fastloss's before anything is timed (:mod:`fastloss.bench.agreement`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from fastloss.bench.cases import Case

Call = Callable[[], Any]
# The value, and a gradient for each argument that is differentiated.
Outcome = tuple[Any, Sequence[Any]]

# In the order of tables and plots: name -> module of this package. A module has a `CONTENDERS` with its own.
CATALOGUE = {
    "fresh": "ours",
    "reused": "ours",
    "unchecked": "ours",
    "copy": "ours",
    "torch": "pytorch",
    "compile": "pytorch",
    "jax": "xla",
    "sklearn": "scikit",
    "numpy": "plain",
}


class Prepared(NamedTuple):
    """A case in the hands of a contender; no `outcome`: nothing is computed that could be compared."""

    call: Call
    outcome: Callable[[Any], Outcome] | None = None


@dataclass(frozen=True)
class Contender:
    """One way to compute value and gradient.

    Attributes
    ----------
    name
        In files and on the command line.
    prepare
        Returns the call for a case, or ``None`` where the library has no such loss.
    missing
        Returns what has to be installed, or ``None``.
    threads_fixed
        Whether the number of threads is settled when the library starts, so that a process cannot compare two.
    """

    name: str
    prepare: Callable[[Case], Prepared | None]
    missing: Callable[[], str | None] = lambda: None
    threads_fixed: bool = False


def contender(name: str) -> Contender:
    """Return a contender of the catalogue."""
    module: Any = import_module(f"{__name__}.{CATALOGUE[name]}")
    found: Contender = module.CONTENDERS[name]
    return found


def available(names: Sequence[str]) -> tuple[list[Contender], dict[str, str]]:
    """Return the contenders that can run here, and for every other one what it lacks."""
    unknown = [name for name in names if name not in CATALOGUE]
    if unknown:
        raise ValueError(f"unknown contender {', '.join(unknown)}; known: {', '.join(CATALOGUE)}")
    found, lacking = [], {}
    for name in CATALOGUE:
        if name in names:
            one = contender(name)
            missing = one.missing()
            if missing is None:
                found.append(one)
            else:
                lacking[name] = missing
    return found, lacking
