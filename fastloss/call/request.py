"""What a call is asked for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Mode(NamedTuple):
    """Which results a call returns: `wrt` names the arguments to differentiate; `single` unpacks the one gradient.

    `also` names optional arguments to be differentiated too where they are given. With `partial` the value is a sum,
    what a mean would divide it by, and how many values count.
    """

    value: bool = True
    wrt: tuple[str, ...] = ()
    single: bool = True
    hessian: bool = False
    also: tuple[str, ...] = ()
    partial: bool = False


class Request(NamedTuple):
    """A mode, and what the caller of a transform passed beside the loss's own arguments."""

    mode: Mode
    grad_output: Any = None
    grad_out: Any = None
    out: Any = None

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "VALUE" if self is VALUE else (Request, tuple(self))  # requests are compared by identity


VALUE = Request(Mode())


def is_number(value: Any) -> bool:
    """Return whether an upstream gradient is a number rather than an array."""
    return isinstance(value, int | float) or (
        isinstance(value, np.generic) and (value.dtype.kind in "biuf" or value.dtype.name == "bfloat16")
    )
