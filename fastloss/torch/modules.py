"""The modules of the door: torch.nn's classes, whose forward calls a function of the door."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

import fastloss as fl
from fastloss.api.docstrings import summary_of
from fastloss.torch.signatures import OURS

# Options of a call, not of a module.
_OF_CALLS = frozenset(("sample_weight", "divisor"))


def module(name: str, function: Callable[..., Any]) -> Any:
    """Return torch.nn's class of this name with another forward, and with the options that only fastloss has.

    Constructor, buffers, state, repr and what else a module has are those of torch's class, which it is a subclass of.
    """
    base: Any = getattr(nn, name)
    parameters = inspect.signature(base).parameters
    taken = [one for one in inspect.signature(function).parameters if one in parameters]
    options = [one for one in taken if one not in ("size_average", "reduce")]
    ours = [p for p in OURS[function.__name__] if p.name not in _OF_CALLS and p.name not in parameters]
    defaults = {p.name: p.default for p in ours}

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        more = {one: kwargs.pop(one, default) for one, default in defaults.items()}
        base.__init__(self, *args, **kwargs)
        vars(self).update(more)

    def forward(self: Any, *args: Tensor, **kwargs: Any) -> Any:
        # The one attribute of torch's that is not called like the argument that it keeps.
        given = {one: self.norm if one == "p" and not hasattr(self, one) else getattr(self, one) for one in options}
        # Not the function itself: a compiler that sees the module made does not know where that comes from.
        return type(self)._function(*args, **given, **{one: getattr(self, one) for one in defaults}, **kwargs)

    members = {"__init__": __init__, "forward": forward, "_function": staticmethod(function)}
    made = _named(type(name, (base,), members), function)
    made.__signature__ = inspect.Signature([*parameters.values(), *ours])
    return made


def _named(made: Any, function: Callable[..., Any]) -> Any:
    """Return a class as one of this door: its name, and a docstring."""
    made.__module__, made.__qualname__ = "fastloss.torch", made.__name__
    like = f"A torch.nn.{made.__name__} that computes" if hasattr(nn, made.__name__) else "It computes"
    made.__doc__ = f"{summary_of(function)}\n\n    {like} with :func:`fastloss.torch.{function.__name__}`."
    return made


class OwnLoss(nn.Module):
    """A module for a loss that torch does not have. Its options are attributes, those that are tensors are buffers."""

    _function: Callable[..., Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        bound = inspect.signature(type(self)).bind(*args, **kwargs)
        bound.apply_defaults()
        self._options = tuple(bound.arguments)
        for name, value in bound.arguments.items():
            if name == "weight" or isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the loss."""
        result: Tensor = type(self)._function(*args, **{one: getattr(self, one) for one in self._options}, **kwargs)
        return result

    def extra_repr(self) -> str:
        """Return the options."""
        given = {one: getattr(self, one) for one in self._options if one not in self._buffers}
        return ", ".join([f"{name}={value!r}" for name, value in given.items()])


def own(name: str, function: Callable[..., Any]) -> Any:
    """Return the module of a loss that torch lacks, with the constructor of fastloss's class of this name."""
    made = _named(type(name, (OwnLoss,), {"_function": staticmethod(function)}), function)
    parameters = inspect.signature(getattr(fl, name)).parameters.values()
    made.__signature__ = inspect.Signature([p.replace(annotation=p.empty) for p in parameters])
    return made


def linear_cross_entropy_loss(function: Callable[..., Any]) -> Any:
    """Return torch.nn.LinearCrossEntropyLoss with a forward that calls a function of the door."""

    class LinearCrossEntropyLoss(nn.LinearCrossEntropyLoss):
        def forward(self, input: Tensor, target: Tensor, **kwargs: Any) -> Tensor:
            bias, shape = self.linear.bias, (self.num_classes, *self.out_features)
            result: Tensor = function(
                input,
                self.linear.weight.reshape((*shape, self.linear.in_features)),
                target,
                linear_bias=None if bias is None else bias.reshape(shape),
                weight=self.weight,
                reduction=self.reduction,
                ignore_index=self.ignore_index,
                label_smoothing=self.label_smoothing,
                options=self.options,
                **kwargs,
            )
            return result

    return _named(LinearCrossEntropyLoss, function)


def adaptive_loss(function: Callable[..., Any]) -> Any:
    """Return torch.nn.AdaptiveLogSoftmaxWithLoss with a forward that calls a function of the door."""

    class AdaptiveLogSoftmaxWithLoss(nn.AdaptiveLogSoftmaxWithLoss):
        def forward(self, input_: Tensor, target_: Tensor, **kwargs: Any) -> Any:
            tail = [tuple([linear.weight for linear in pair.children()]) for pair in self.tail]
            return function(
                input_, target_, self.head.weight, tail, self.head.bias, cutoffs=tuple(self.cutoffs), **kwargs
            )

    return _named(AdaptiveLogSoftmaxWithLoss, function)
