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


def _reused(case: Case) -> Prepared:
    given = case.gradients()
    grad_out = given[0] if len(given) == 1 else tuple(given)
    call: Any = call_of(case)
    return Prepared(functools.partial(call, grad_out=grad_out), outcome)


def _copy(case: Case) -> Prepared | None:
    """One read of the inputs and one write of the gradients by the same threads; a map's values are not written."""
    if len(case.operands) > copying.SLOTS:
        return None
    sinks = [None if name not in case.wrt else np.zeros_like(array) for name, array in case.operands.items()]
    return Prepared(functools.partial(copying.run, case.arrays(), sinks))


CONTENDERS = {
    "fresh": Contender("fresh", "fastloss, outputs fresh", _nothing_missing, _fresh),
    "reused": Contender("reused", "fastloss, outputs reused", _nothing_missing, _reused),
    "copy": Contender("copy", "copy of the same bytes", _nothing_missing, _copy),
}
