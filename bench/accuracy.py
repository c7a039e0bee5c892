"""Write docs/accuracy.md, the worst errors of every loss: ``python bench/accuracy.py`` (a few minutes).

Value and gradient of float32 and float64 against exact numbers of 110 digits, over the samples of tests/exact.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import exact  # noqa: E402  (of the folder above)

PAGE = ROOT / "docs" / "accuracy.md"

HEAD = """# Accuracy

The worst errors that `python bench/accuracy.py` has met, over {n} elements, rows of five classes or vectors of four
components a loss, in units in the last place (ulp) of the exact number: 0.5 is correct rounding. The samples are wide
on purpose: logits of either sign from 1e-4 to 80, probabilities as near to 0 as 1e-10 and to 1 as 1e-7, rates to 1e7,
vectors whose lengths go from 1e-30 to 1e30. Exact numbers have {digits} digits.

A loss that is a difference by its definition, such as x - t log x, passes through 0, where no arithmetic can keep
relative digits: there the unit is that of the largest term. Of softmax losses the unit is at least what the rounding of
the logits themselves makes. A result below the smallest normal number may be 0.

`ctc_loss` is held to its recursion in float64 by tests of its own; `linear_cross_entropy` and
`adaptive_log_softmax_with_loss` have the errors of the matrix products of the array library, and then those of
`cross_entropy`.

| loss | float32 value | gradient | float64 value | gradient |
| --- | ---: | ---: | ---: | ---: |
"""


def main() -> None:
    """Measure every loss, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=400, help="elements, rows or pairs of a loss")
    n = parser.parse_args().n
    lines = []
    for case in exact.EXACT:
        found = [error for dtype in (np.float32, np.float64) for error in exact.errors(case, dtype, n)]
        lines.append(f"| {exact.title(case)} | " + " | ".join(f"{error:.1f}" for error in found) + " |\n")
        print(lines[-1], end="", flush=True)
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(HEAD.format(n=n, digits=exact.DIGITS) + "".join(lines))


if __name__ == "__main__":
    main()
