"""fastloss itself, with fresh and with reused outputs, and the copy of the same bytes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss._transforms import value_and_grad
from fastloss.bench.cases import Case
from fastloss.bench.contenders import Call, Contender, Outcome, Prepared
from fastloss.cpu import copying


def call_of(case: Case) -> Call:
    """Return fastloss's call with fresh outputs."""
    function = value_and_grad(case.loss.function, case.wrt[0] if len(case.wrt) == 1 else case.wrt)
    return functools.partial(function, *case.arrays(), **case.options)


def outcome(result: Any) -> Outcome:
    """Return value and gradients of what a call returned."""
    value, gradients = result
    return value, gradients if isinstance(gradients, tuple) else (gradients,)


def _nothing_missing() -> None:
    return None


def _fresh(case: Case) -> Prepared:
    return Prepared(call_of(case), outcome)


def _values(case: Case) -> Any:
    """Return an array for the values of a function that has no reduction, None for a loss."""
    value, _ = outcome(call_of(case)())
    return np.zeros_like(value) + np.float32(0) if np.ndim(value) else None


def _reused(case: Case) -> Prepared:
    given, values = case.gradients(), _values(case)
    grad_out = given[0] if len(given) == 1 else tuple(given)
    call: Any = call_of(case)
    return Prepared(functools.partial(call, grad_out=grad_out, out=values), outcome)


def _copy(case: Case) -> Prepared | None:
    """One read of the inputs and one write of the gradients, and of values where there is no reduction."""
    sources, values = case.arrays(), _values(case)
    sinks = [None if name not in case.wrt else np.zeros_like(array) for name, array in case.operands.items()]
    if values is not None:
        sources, sinks = [*sources, None], [*sinks, values]
    if len(sources) > copying.SLOTS:
        return None
    return Prepared(functools.partial(copying.run, sources, sinks))


CONTENDERS = {
    "fresh": Contender("fresh", "fastloss, outputs fresh", _nothing_missing, _fresh),
    "reused": Contender("reused", "fastloss, outputs reused", _nothing_missing, _reused),
    "copy": Contender("copy", "copy of the same bytes", _nothing_missing, _copy),
}
