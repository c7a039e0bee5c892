"""torch, on the CPU or on a GPU: eager with autograd, and compiled by inductor."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable
from importlib import util
from typing import Any

import numpy as np

from fastloss.bench.cases import Case
from fastloss.bench.contenders import Call, Contender, Outcome, Prepared
from fastloss.bench.places import to_host


def _torch_missing() -> str | None:
    return None if util.find_spec("torch") else "torch is not installed"


def _compiler_missing() -> str | None:
    """Inductor generates C++ and needs a compiler; it takes CXX, else clang++ on macOS and g++ elsewhere."""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return f"torch.compile needs a C++ compiler, and there is no {compiler}"
    return _torch_missing()


# -- the same loss ----------------------------------------------------------------------------------------------------


def function_of(case: Case) -> Callable[..., Any] | None:
    """Return torch's function, or what a user of torch writes where it has none; None where that is not known."""
    import torch

    functional: Any = torch.nn.functional
    name = case.loss.name
    found = _composed(functional).get(name) or getattr(functional, name, None) or getattr(torch, name, None)
    return functools.partial(found, **case.options) if callable(found) else None


def _composed(functional: Any) -> dict[str, Callable[..., Any]]:
    """Return what torch has no function for, from its functions."""

    def sigmoid_focal_loss(x: Any, t: Any) -> Any:  # the lines of torchvision.ops
        p = x.sigmoid()
        ce = functional.binary_cross_entropy_with_logits(x, t, reduction="none")
        scaled = ce * (1 - (p * t + (1 - p) * (1 - t))) ** 2
        return ((0.25 * t + 0.75 * (1 - t)) * scaled).mean()

    def binary_focal_loss(x: Any, t: Any) -> Any:
        return -(0.75 * t * (1 - x) ** 2 * x.log() + 0.25 * (1 - t) * x**2 * (1 - x).log()).mean()

    def symmetric_cross_entropy(x: Any, t: Any) -> Any:
        p = functional.softmax(x, dim=1).clamp(min=1e-4)
        label = functional.one_hot(t, x.shape[1]).to(x.dtype).clamp(min=1e-4)
        return functional.cross_entropy(x, t) - (p * label.log()).sum(1).mean()

    return {
        "sigmoid_focal_loss": sigmoid_focal_loss,
        "binary_focal_loss": binary_focal_loss,
        "symmetric_cross_entropy": symmetric_cross_entropy,
        "linear_cross_entropy": lambda x, w, t: functional.cross_entropy(functional.linear(x, w), t),
        "l1_penalty": lambda params, coefficient: coefficient * params.abs().sum(),
        "l2_penalty": lambda params, coefficient: 0.5 * coefficient * (params * params).sum(),
    }


def tensors_of(case: Case) -> list[Any]:
    """Return the operands as tensors, those of `wrt` as leaves that require a gradient."""
    import torch

    tensors = []
    for name, array in case.operands.items():
        tensor = torch.from_numpy(array) if isinstance(array, np.ndarray) else array.detach()
        tensors.append(tensor.clone().requires_grad_(True) if name in case.wrt else tensor)
    return tensors


# -- the calls --------------------------------------------------------------------------------------------------------


def _eager(case: Case) -> Prepared | None:
    function = function_of(case)
    return None if function is None else Prepared(_with_backward(function, tensors_of(case)), _outcome)


def _with_backward(function: Callable[..., Any], tensors: list[Any]) -> Call:
    """Return torch's forward and backward, gradients allocated anew as after ``zero_grad``."""
    leaves = [tensor for tensor in tensors if tensor.requires_grad]

    def step() -> Any:
        value = function(*tensors)
        # A map such as softmax gets ones, as fastloss does.
        value.backward(None if value.ndim == 0 else value.new_ones(()).expand_as(value))
        gradients = [leaf.grad for leaf in leaves]
        for leaf in leaves:  # who measures memory must not find them when the next call begins
            leaf.grad = None
        return value, gradients

    return step


def _compiled(case: Case) -> Prepared | None:
    """Value and gradient as one graph, which inductor fuses; where functorch cannot, forward and backward apart."""
    import torch

    function = function_of(case)
    if function is None:
        return None
    if case.loss.name == "multilabel_margin_loss" and _version(torch) < (2, 14):
        raise NotImplementedError("torch before 2.14 counts padded labels when it compiles (pytorch issue 141017)")
    _start_inductor(case.place.device)
    compiler: Any = torch.compiler
    compiler.reset()  # shapes of the case before would make this one's dynamic
    tensors = tensors_of(case)
    places = tuple(place for place, tensor in enumerate(tensors) if tensor.requires_grad)
    plain = [tensor.detach() for tensor in tensors]
    whole = torch.compile(_one_graph(function, places), dynamic=False, fullgraph=True)
    parts = torch.compile(function, dynamic=False)
    ways: list[Call] = [functools.partial(whole, *plain), _with_backward(parts, tensors)]
    return Prepared(_first_that_works(ways, compiler.reset), _outcome)


def _version(torch: Any) -> tuple[int, ...]:
    return tuple(int(part) for part in torch.__version__.split(".")[:2])


@functools.cache
def _start_inductor(device: str) -> None:
    """Compile something small: the ten seconds that inductor takes to start are no loss's time to compile."""
    import torch
    from torch._inductor import config

    settings: Any = config
    settings.force_disable_caches = True  # or the time to compile would be that of a look-up
    settings.compile_threads = 1
    compiled: Any = torch.compile
    compiled(_doubled)(torch.ones(8, device=device))


def _doubled(x: Any) -> Any:
    return x + x


def _first_that_works(ways: list[Call], between: Callable[[], object]) -> Call:
    """Return a call that settles in its first run, which compiles, for the first of several that does not raise."""

    def call() -> Any:
        while len(ways) > 1:
            try:
                return ways[0]()
            except Exception:  # no rule for an operation under vjp, or a graph that breaks
                del ways[0]
                between()
        return ways[0]()

    return call


def _one_graph(function: Callable[..., Any], places: tuple[int, ...]) -> Callable[..., Any]:
    import torch

    def step(*tensors: Any) -> Any:
        def of_leaves(*leaves: Any) -> Any:
            given = list(tensors)
            for place, leaf in zip(places, leaves, strict=True):
                given[place] = leaf
            return function(*given)

        vjp: Any = torch.func.vjp
        value, backward = vjp(of_leaves, *(tensors[place] for place in places))
        return value, backward(torch.ones_like(value))

    return step


def _outcome(result: Any) -> Outcome:
    value, gradients = result
    return to_host(value), [to_host(gradient) for gradient in gradients]


CONTENDERS = {
    "torch": Contender("torch", _eager, _torch_missing),
    "compile": Contender("compile", _compiled, _compiler_missing, threads_fixed=True),
}
