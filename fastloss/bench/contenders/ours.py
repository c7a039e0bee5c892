"""fastloss itself, with fresh and with reused outputs or without index checks, and the copy of the same bytes."""

from __future__ import annotations

import functools
from typing import Any

from fastloss.api.transforms import value_and_grad
from fastloss.bench.cases import Case
from fastloss.bench.contenders import Call, Contender, Outcome, Prepared
from fastloss.bench.places import HOST, to_host
from fastloss.cpu.loops import copy as copying
from fastloss.runtime.config import config


def call_of(case: Case) -> Call:
    """Return fastloss's call with fresh outputs."""
    function = value_and_grad(case.loss.function, case.wrt[0] if len(case.wrt) == 1 else case.wrt)
    return functools.partial(function, *case.arrays(), **case.options)


def outcome(result: Any) -> Outcome:
    """Return value and gradients of what a call returned, on the host."""
    value, gradients = result
    several = gradients if isinstance(gradients, tuple) else (gradients,)
    return to_host(value), [to_host(gradient) for gradient in several]


def _fresh(case: Case) -> Prepared:
    return Prepared(call_of(case), outcome)


def _results(case: Case) -> tuple[Any, dict[str, Any]]:
    """Return what a call returns: values where there is no reduction, else None, and the gradients by name."""
    value, gradients = call_of(case)()
    several = gradients if isinstance(gradients, tuple) else (gradients,)
    return value if value.ndim else None, dict(zip(case.wrt, several, strict=True))


def _reused(case: Case) -> Prepared:
    values, given = _results(case)
    grad_out = tuple(given.values()) if len(given) > 1 else given[case.wrt[0]]
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
    values, given = _results(case)
    sources, sinks = case.arrays(), [given.get(name) for name in case.operands]
    if values is not None:
        sources, sinks = [*sources, None], [*sinks, values]
    if len(sources) > copying.SLOTS:
        return None
    return Prepared(functools.partial(copying.run, sources, sinks))


def _copy_of_tensors(case: Case) -> Prepared:
    """As many bytes, half of them read and half of them written, by the library's own copy."""
    import torch

    values, _ = _results(case)
    moved = case.moved() + (0 if values is None else values.nbytes)
    source = torch.ones(moved // 2, dtype=torch.uint8, device=case.place.device)
    return Prepared(functools.partial(torch.zeros_like(source).copy_, source))


CONTENDERS = {
    "fresh": Contender("fresh", _fresh),
    "reused": Contender("reused", _reused),
    "unchecked": Contender("unchecked", _unchecked),
    "copy": Contender("copy", _copy),
}
