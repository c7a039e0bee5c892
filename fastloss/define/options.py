"""The values that options of losses may take. Data only, as in ``descriptions.py``."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, NamedTuple


class Domain(NamedTuple):
    """The values an option may take."""

    text: str
    contains: Callable[[Any], bool]
    examples: tuple[Any, ...]

    def check(self, name: str, value: Any) -> None:
        """Raise when `value` lies outside."""
        try:
            inside = bool(self.contains(value))
            if isinstance(value, int):
                float(value)
        except (TypeError, ValueError, RuntimeError):  # the truth value of an array, or of a tensor, is ambiguous
            raise TypeError(f"{name} must be {self.text}, got {value!r}") from None
        except OverflowError:
            raise ValueError(f"{name} must be {self.text}, and one that float64 can hold") from None
        if not inside:
            raise ValueError(f"{name} must be {self.text}, got {value!r}")

    def __reduce__(self) -> str | tuple[Any, ...]:
        """Return the name of a domain of this module, which is compared by identity, and its parts for another."""
        name = next((name for name, one in globals().items() if one is self), None)
        return name or (Domain, tuple(self))


REDUCTION = Domain("'mean', 'sum' or 'none'", lambda v: v in ("mean", "sum", "none"), ("mean", "sum", "none"))
KL_REDUCTION = Domain(
    "'mean', 'batchmean', 'sum' or 'none'",
    lambda v: v in ("mean", "batchmean", "sum", "none"),
    ("mean", "batchmean", "sum", "none"),
)
POSITIVE = Domain("a number > 0", lambda v: v > 0, (0.5, 1.0, 2.0))
NON_NEGATIVE = Domain("a number >= 0", lambda v: v >= 0, (0.0, 1.0))
NUMBER = Domain("a number, infinity included", lambda v: float(v) == v, (0.0, 1.0, 2.0, 3.0, math.inf, -1.0))
FINITE_NON_NEGATIVE = Domain("a finite number >= 0", lambda v: 0 <= v < math.inf, (0.0, 1.0))
FINITE = Domain("a finite number", math.isfinite, (0.0, 0.5))
BELOW_ONE = Domain("a number <= 1 (negative: off)", lambda v: v <= 1, (0.25, 0.75, -1.0))
UNIT_INTERVAL = Domain("a number in [0, 1]", lambda v: 0 <= v <= 1, (0.0, 0.1))
OPEN_UNIT = Domain("a number in (0, 1)", lambda v: 0 < v < 1, (0.5, 0.2))
UNIT_ABOVE_ZERO = Domain("a number in (0, 1]", lambda v: 0 < v <= 1, (0.7, 1.0, 0.2))
ONE_OR_TWO = Domain("1 or 2", lambda v: v in (1, 2), (1, 2))
INTEGER_OR_NONE = Domain(
    "an integer of 64 bits or None", lambda v: v is None or (v % 1 == 0 and -(2**63) <= v < 2**63), (None, 1)
)
INDEX = Domain("an integer >= 0", lambda v: v % 1 == 0 and v >= 0, (0, 1))
INTEGER = Domain("an integer of 64 bits", lambda v: v % 1 == 0 and -(2**63) <= v < 2**63, (-100, 1))
POSITIVE_OR_NONE = Domain("a finite number > 0 or None", lambda v: v is None or 0 < v < math.inf, (None, 5.0))
COUNT_OR_NONE = Domain("an integer >= 1 or None", lambda v: v is None or (v % 1 == 0 and v >= 1), (None, 3))
AXIS = Domain("an integer, the number of an axis", lambda v: v % 1 == 0, (1, -1, 0))
AXIS_OR_NONE = Domain("an integer, the number of an axis, or None", lambda v: v is None or operator.index(v) == v, ())
INTEGERS = (INTEGER_OR_NONE, INDEX, INTEGER, AXIS, AXIS_OR_NONE)

# The numbers of a row that a loss may return beside its value.
RETURNS = ("lse", "log_prob", "entropy", "argmax", "z_loss")


def _are_returns(value: Any) -> bool:
    names = (value,) if isinstance(value, str) else value
    if not isinstance(names, list | tuple):  # such as what a look at its names would use up
        raise TypeError
    return set(names) <= set(RETURNS) and len(set(names)) == len(names)


RETURNED = Domain(f"different names out of {', '.join(map(repr, RETURNS))}", _are_returns, ((), ("lse",)))
FLAG = Domain("True or False", lambda v: v in (True, False), (False, True))

# The options of losses of a softmax that say what becomes of its logits, and what is returned beside the value.
SCORED = {
    "logit_scale": FINITE,
    "softcap": POSITIVE_OR_NONE,
    "z_loss": NON_NEGATIVE,
    "valid_classes": COUNT_OR_NONE,
    "returns": RETURNED,
}
