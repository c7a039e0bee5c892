"""fastloss itself, with fresh and with reused outputs or without index checks, and the copy of the same bytes."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastloss._config import config
from fastloss._transforms import value_and_grad
from fastloss.bench.cases import Case
from fastloss.bench.contenders import Call, Contender, Outcome, Prepared
from fastloss.bench.places import HOST, to_host
from fastloss.cpu import copying


def call_of(case: Case) -> Call:
    """Return fastloss's call with fresh outputs."""
    function = value_and_grad(case.loss.function, case.wrt[0] if len(case.wrt) == 1 else case.wrt)
    return functools.partial(function, *case.arrays(), **case.options)


def outcome(result: Any) -> Outcome:
    """Return value and gradients of what a call returned, on the host."""
    value, gradients = result
    several = gradients if isinstance(gradients, tuple) else (gradients,)
    return to_host(value), [to_host(gradient) for gradient in several]


def _nothing_missing() -> None:
    return None


def _fresh(case: Case) -> Prepared:
    return Prepared(call_of(case), outcome)


def _values(case: Case) -> Any:
    """Return an array for the values of a function that has no reduction, None for a loss."""
    value, _ = call_of(case)()
    return case.place.zeros_like(value) if value.ndim else None


def _reused(case: Case) -> Prepared:
    given, values = case.gradients(), _values(case)
    grad_out = given[0] if len(given) == 1 else tuple(given)
    call: Any = call_of(case)
    return Prepared(functools.partial(call, grad_out=grad_out, out=values), outcome)


def without_checks(call: Call) -> Call:
    """Return a call that does not check class indices, so that nothing waits for a device."""

    def unchecked() -> Any:
        with config(check_indices=False):
            return call()

    return unchecked


def _unchecked(case: Case) -> Prepared:
    return Prepared(without_checks(call_of(case)), outcome)


def _copy(case: Case) -> Prepared | None:
    """One read of the inputs and one write of the gradients, and of values where there is no reduction."""
    if case.place is not HOST:
        return _copy_of_tensors(case)
    sources, values = case.arrays(), _values(case)
    sinks = [None if name not in case.wrt else np.zeros_like(array) for name, array in case.operands.items()]
    if values is not None:
        sources, sinks = [*sources, None], [*sinks, values]
    if len(sources) > copying.SLOTS:
        return None
    return Prepared(functools.partial(copying.run, sources, sinks))


def _copy_of_tensors(case: Case) -> Prepared:
    """As many bytes, half of them read and half of them written, by the library's own copy."""
    import torch

    values = _values(case)
    moved = case.moved() + (0 if values is None else values.nbytes)
    source = torch.ones(moved // 2, dtype=torch.uint8, device=case.place.device)
    return Prepared(functools.partial(torch.zeros_like(source).copy_, source))


CONTENDERS = {
    "fresh": Contender("fresh", "fastloss, outputs fresh", _nothing_missing, _fresh),
    "reused": Contender("reused", "fastloss, outputs reused", _nothing_missing, _reused),
    "unchecked": Contender("unchecked", "fastloss, no index checks", _nothing_missing, _unchecked),
    "copy": Contender("copy", "copy of the same bytes", _nothing_missing, _copy),
}
