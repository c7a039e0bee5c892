"""Small calls: what a call costs beside the arithmetic, for a function, a class, and the transforms of both."""

from __future__ import annotations

import functools
from importlib import import_module, util
from typing import Any

from fastloss.api.transforms import value_and_grad
from fastloss.bench.cases import Case, Extent
from fastloss.bench.contenders import Contender, Prepared, contender, ours, pytorch
from fastloss.bench.session import Plan, Step

OF_TORCH = ("torch_value", "torch_gradient")
# Calls that wait for no device.
UNCHECKED = ("transform_unchecked", "cupy_unchecked")

# What a quick run looks at.
QUICK = ("mse_loss", "cross_entropy", "softmax", "triplet_margin_loss")

# 640 elements: 64 rows of 10 classes, 64 vectors of 10 components.
EXTENT = Extent(640, (64, 10), (64, 10), (10, 4, 8, 3), (16, 16, 64))


def _function(case: Case) -> Prepared:
    return Prepared(functools.partial(case.loss.function, *case.arrays(), **case.options))


def _instance(case: Case) -> Any:
    """Return an instance of the loss's class; None where there is none, or where it holds more than options."""
    if not case.loss.modules or case.options:
        return None
    try:
        return case.loss.modules[0]()
    except TypeError:
        return None


def _class(case: Case) -> Prepared | None:
    instance = _instance(case)
    return None if instance is None else Prepared(functools.partial(instance, *case.arrays()))


def _transform_of_class(case: Case) -> Prepared | None:
    instance = _instance(case)
    if instance is None:
        return None
    wrt: Any = case.wrt[0] if len(case.wrt) == 1 else case.wrt
    return Prepared(functools.partial(value_and_grad(instance, wrt), *case.arrays()), ours.outcome)


def _torch_value(case: Case) -> Prepared | None:
    function = pytorch.function_of(case)
    if function is None:
        return None
    return Prepared(functools.partial(function, *(tensor.detach() for tensor in pytorch.tensors_of(case))))


def _unchecked(case: Case) -> Prepared:
    return Prepared(ours.without_checks(ours.call_of(case)), ours.outcome)


def _cupy_missing() -> str | None:
    return None if util.find_spec("cupy") else "CuPy is not installed"


def _cupy_unchecked(case: Case) -> Prepared | None:
    """Return the same call with arrays of CuPy, which has no bfloat16."""
    if case.place.dtype == "bfloat16":
        return None
    cupy = import_module("cupy")
    operands = {name: cupy.from_dlpack(tensor) for name, tensor in case.operands.items()}
    return Prepared(ours.without_checks(ours.call_of(case._replace(operands=operands))))


def forms() -> list[Contender]:
    """Return the ways to call a loss."""
    torch, fresh, reused = contender("torch"), contender("fresh"), contender("reused")
    return [
        Contender("function", _function),
        Contender("class", _class),
        Contender("transform", fresh.prepare),
        Contender("class_transform", _transform_of_class),
        Contender("transform_reused", reused.prepare),
        Contender("transform_unchecked", _unchecked),
        Contender("cupy_unchecked", _cupy_unchecked, _cupy_missing),
        Contender("torch_value", _torch_value, torch.missing),
        Contender("torch_gradient", torch.prepare, torch.missing),
    ]


def steps(plan: Plan) -> list[Step]:
    """Return a step for each loss; torch takes part where it does elsewhere, calls without checks on a GPU."""
    with_torch = any(one.name == "torch" for one in plan.contenders)
    left_out = {*(() if with_torch else OF_TORCH), *(UNCHECKED if plan.device == "cpu" else ())}
    chosen = [form for form in forms() if form.name not in left_out and form.missing() is None]
    losses = [loss for loss in plan.losses if loss in QUICK] if plan.quick else plan.losses
    return [
        Step("latency", loss, "call", chosen, plan.threads, EXTENT, place=place)
        for loss in losses
        for place in plan.places
    ]
