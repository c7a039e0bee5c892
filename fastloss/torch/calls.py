"""One call of a loss, as autograd and the operators carry it: everything but its tensors."""

from __future__ import annotations

import functools
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

from torch import Tensor

import fastloss as fl
from fastloss.runtime.settings import in_this_thread


class Several(NamedTuple):
    """An argument that is a sequence of so many tensors in all, each for itself or, with `width` 2, in pairs."""

    name: str
    tensors: int
    width: int


class Call:
    """A loss, its options, and which arguments its tensors are.

    Parameters
    ----------
    loss
        The function of fastloss.
    names
        The arguments that the tensors are, in their order.
    options
        The other arguments.
    wrt
        The arguments to differentiate with respect to, in the order of the tensors.
    several
        The argument, if there is one, that the tensors behind those of `names` belong to.
    waits
        Whether labels are checked on a GPU too, which has to wait for it.
    """

    # Not a tuple, which torch.func would take apart.
    __slots__ = (
        *("fields", "leading", "loss", "names", "options", "several", "type", "waits", "wrt"),
        *("_arrange", "_transform"),
    )

    def __init__(
        self,
        loss: Callable[..., Any],
        names: tuple[str, ...],
        options: dict[str, Any],
        wrt: tuple[str, ...] = (),
        several: Several | None = None,
        waits: bool = False,
    ) -> None:
        self.loss, self.names, self.options, self.wrt = loss, names, options, wrt
        self.several, self.waits = several, waits
        numbers = itertools.count(1)
        self._arrange = itemgetter(0, *[next(numbers) if name in wrt else 0 for name in self._names()])
        self._transform: Callable[..., Any] | None = None  # that computes value and gradients, once there was a call
        self.leading = several is None and _positional(loss)[: len(names)] == names  # may be given by position
        # Of the value, where it is a named tuple.
        self.type: Callable[..., Any] | None = None
        self.fields: tuple[str, ...] = ("loss",)

    def value(self, tensors: Sequence[Tensor]) -> Any:
        """Return the value of the loss."""
        value = self._run(self.loss, tensors)
        self._note(value)
        return value

    def value_and_grad(self, tensors: Sequence[Tensor]) -> tuple[Any, Sequence[Tensor]]:
        """Return the value and the gradients with respect to `wrt`."""
        if self._transform is None:
            self._transform = fl.value_and_grad(self.loss, self.wrt)
        value, gradients = self._run(self._transform, tensors)
        self._note(value)
        return value, gradients if self.several is None else list(leaves(gradients))

    def grad(self, tensors: Sequence[Tensor], grad_output: Tensor) -> list[Tensor]:
        """Return the gradients with respect to `wrt` for an upstream gradient."""
        return list(leaves(self._run(fl.grad(self.loss, self.wrt), tensors, grad_output)))

    def differentiating(self, wanted: Sequence[bool]) -> Call:
        """Return this call with respect to the arguments whose tensors are wanted."""
        names = self._names()
        chosen = {name for name, one in zip(names, wanted, strict=True) if one}
        wrt = tuple([name for name in dict.fromkeys(names) if name in chosen])
        options = {name: value for name, value in self.options.items() if name != "returns"}  # which go with a value
        other = Call(self.loss, self.names, options, wrt, self.several, self.waits)
        other.type, other.fields = self.type, self.fields
        return other

    def in_places(self, gradients: Iterable[Any]) -> tuple[Any, ...]:
        """Return None, for this call, then the gradients in the places of their tensors, None elsewhere."""
        return self._arrange((None, *gradients))  # type: ignore[no-any-return]

    def beside(self, fields: Sequence[Tensor]) -> Sequence[Tensor]:
        """Return what a loss returns beside its value, numbers of rows that are never differentiated."""
        return fields[1:] if self.fields[0] == "loss" else ()

    def _names(self) -> tuple[str, ...]:
        """Return the argument of each tensor."""
        return self.names if self.several is None else (*self.names, *(self.several.name,) * self.several.tensors)

    def _note(self, value: Any) -> None:
        """Keep what the value is, where it is no tensor."""
        if isinstance(value, tuple):
            self.type, self.fields = type(value), value._fields  # type: ignore[attr-defined]

    def _run(self, function: Callable[..., Any], tensors: Sequence[Tensor], grad_output: Tensor | None = None) -> Any:
        checked = self.waits or not tensors[0].is_cuda
        if self.leading and checked and grad_output is None:
            return function(*tensors, **self.options)
        arguments = {**self.options, **dict(zip(self.names, tensors, strict=False))}
        if self.several is not None:
            rest, width = list(tensors[len(self.names) :]), self.several.width
            arguments[self.several.name] = rest if width == 1 else list(zip(rest[::2], rest[1::2], strict=True))
        if grad_output is not None:
            arguments["grad_output"] = grad_output
        if checked:
            return function(**arguments)
        with in_this_thread(check_indices=False):
            return function(**arguments)


@functools.cache
def _positional(loss: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of the arguments of a loss that may be given by position."""
    parameters = inspect.signature(loss).parameters.values()
    return tuple([p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD])


def leaves(tensors: Any) -> Iterator[Tensor]:
    """Yield the tensors in tuples and lists of tensors."""
    if isinstance(tensors, Tensor):
        yield tensors
    else:
        for one in tensors:
            yield from leaves(one)
