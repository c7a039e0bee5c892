"""What the plan of a loop consists of, on any device: code, how its arguments are read, and which numbers it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastloss.runtime.compile import Launch


class KernelPlan(NamedTuple):
    """How a loop is called for one kind of problem: ``code(*operands, *results, *numbers, queue(), True)``.

    `reads` turn the operands that are there, in their order, into the arrays that the kernel takes, and
    ``numbers(scale, divisor, check)`` gives what follows the arrays: derivatives are multiplied by `scale` over
    `divisor`. The kernel returns a sum of values, which the caller divides by the divisor if the kernel has not; where
    it is `labelled`, (place of the first bad label or -1, sum). With `raw`, operands need not be broadcast to the shape
    of the problem before they are read. ``bound(scale, divisor)``, where there is such a way, returns what runs the
    loop given the addresses of operands and results and whether to check labels, and returns the library's array.
    """

    launch: Launch
    reads: tuple[Callable[[Any], Any], ...]
    numbers: Callable[[float, float, bool], tuple[Any, ...]]
    labelled: bool = False
    divided: bool = False
    raw: bool = False
    bound: Callable[[float, Any], Callable[..., Any]] | None = None

    def run(
        self, operands: tuple[Any, ...], results: tuple[Any, ...], scale: float, divisor: Any, check: bool = True
    ) -> tuple[int, Any]:
        """Run once with operands that have been read; return (place of the first bad label or -1, reduced value)."""
        found = self.launch.code(*operands, *results, *self.numbers(scale, divisor, check), self.launch.queue(), True)
        bad, total = found if self.labelled else (-1, found)
        if self.divided:
            return bad, total
        return bad, total / divisor if divisor else float("nan")

    def run_once(
        self, operands: tuple[Any, ...], results: tuple[Any, ...], scale: float, divisor: Any, check: bool = True
    ) -> tuple[int, Any]:
        """Read the operands, and do what :meth:`run` does."""
        reads = iter(self.reads)
        read = tuple([a if type(a) is tuple else next(reads)(a) for a in operands])
        return self.run(read, results, scale, divisor, check)


def nothing(total: float, labelled: bool = False, fill: Callable[[Any, float], None] | None = None) -> KernelPlan:
    """Return the plan of a problem without elements, whose value is `total`: it reads and computes nothing.

    `fill` writes the value of every row, the first result of five, where there are rows without classes.
    """
    found = (-1, total) if labelled else total

    def code(*args: Any) -> Any:
        if fill is not None and type(args[5]) is not tuple:
            fill(args[5], total)
        return found

    return KernelPlan(Launch(code, lambda: None), (lambda view: view,) * 5, lambda *_: (), labelled, divided=True)


def count_present(arrays: tuple[Any, ...]) -> int:
    """Return how many of arrays are not absent, ``()``."""
    return sum([type(array) is not tuple for array in arrays])
