"""Losses of one's own inside autograd: what :func:`fastloss.custom.loss` makes, for tensors."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.overrides import handle_torch_function, has_torch_function

from fastloss.api.wrapped import Wrapped, own_record
from fastloss.define.record import Loss
from fastloss.runtime import graph_break
from fastloss.torch.autograd import recorded
from fastloss.torch.functional import PLAIN, Door

# Arguments that a door takes for itself.
RESERVED = frozenset(("check_indices", "dtype", "returns"))


class OwnDoor(Door):
    """A loss of one's own as torch's users call it: with its own arguments, and no operator."""

    several = ()

    def __init__(self, record: Loss) -> None:
        super().__init__(record)
        # A tracer leaves it out: the call stands between two graphs.
        self.first = torch.compiler.disable(self.first, reason=_no_operator(self.name))  # type: ignore[method-assign, no-untyped-call]

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name, none of which is a deprecated one of torch."""
        return self.named(args, kwargs)

    def run(self, arguments: dict[str, Any], waits: bool, key: Hashable = None) -> Any:
        """Compute the loss; its class is what a function of torch would return for the classes of its tensors."""
        named = tuple([a for a in arguments.values() if isinstance(a, Tensor) and type(a) not in PLAIN])
        if named and has_torch_function(named):
            return handle_torch_function(self.of_plain, named, arguments, waits)
        return self.of_plain(arguments, waits, key)

    def of_plain(self, arguments: dict[str, Any], waits: bool, key: Hashable = None) -> Any:
        """Compute the loss, of plain tensors where theirs is a class without operators of its own."""
        return super().run({name: _plain(value) for name, value in arguments.items()}, waits, key)

    def observed(self) -> bool:
        """Return whether a mode cannot do without an operator: those that count or keep operators can."""
        return recorded()

    def make_operator(self) -> Callable[[dict[str, Any], Sequence[str]], Any]:
        """Return what raises: there is no operator."""

        def refuse(arguments: dict[str, Any], wrt: Sequence[str]) -> Any:
            raise RuntimeError(f"{_no_operator(self.name)}: call it where tensors hold numbers, outside of tracers")

        return refuse


def wrap(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss of one's own as a function of tensors, inside autograd.

    It takes the arguments of the loss. A loss that is reduced to a number has its gradient computed together with its
    value, where one is wanted; otherwise backward computes it, for the upstream gradient. torch.func.grad, vmap and
    jacrev work too. Code that torch.compile traces is split at the call; what has no way around it
    (``fullgraph=True``, torch.export) is an error of torch. Second derivatives are an error.

    Parameters
    ----------
    loss : function
        What :func:`fastloss.custom.loss` returned.

    Returns
    -------
    callable
        It pickles if the loss can be imported under its name.

    Raises
    ------
    TypeError
        If it is no loss, or one of the package's, whose functions are in this module; or if it has an argument
        ``check_indices``, ``dtype`` or ``returns``, which mean something here.

    Examples
    --------
    >>> import torch, fastloss.torch as F
    >>> from fastloss.custom import Elementwise, loss, maths
    >>> @maths
    ... def fourth_power(x, t):
    ...     T = type(x)
    ...     r = x - t
    ...     return r * r * r * r, (T(4) * r * r * r, -T(4) * r * r * r), T(12) * r * r
    >>> @loss
    ... def fourth_power_loss(input, target, *, reduction="mean"):
    ...     return Elementwise(fourth_power)
    >>> x = torch.tensor([1.0, 3.0], requires_grad=True)
    >>> F.wrap(fourth_power_loss)(x, torch.zeros(2)).backward()
    >>> x.grad
    tensor([ 2., 54.])
    """
    if is_compiling():
        return graph_break.untraced(wrap, loss)  # type: ignore[no-any-return]
    record = own_record(loss, "fastloss.torch")
    taken = RESERVED.intersection(inspect.signature(record.function).parameters)
    if taken:
        raise TypeError(
            f"{record.name} must not have an argument {min(taken)!r}, which is one of fastloss.torch itself"
        )
    return _wrapped(record)


@functools.lru_cache(maxsize=256)
def _wrapped(record: Loss) -> Wrapped:
    door = OwnDoor(record)
    return Wrapped(record, wrap, door.call, door.signature, "tensors, inside autograd")


def _plain(value: Any) -> Any:
    """Return a tensor of a class that brings no operators of its own as a plain one, all else as it is."""
    kind = type(value)
    named = isinstance(value, Tensor) and kind not in PLAIN
    return value.as_subclass(Tensor) if named and kind.__torch_dispatch__ == Tensor.__torch_dispatch__ else value


def _no_operator(name: str) -> str:
    return f"{name} is a loss of one's own, of which torch knows no operator"
