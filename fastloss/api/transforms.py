"""From a loss to its gradient: ``grad``, ``value_and_grad`` and ``grad_and_hess``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from fastloss.call.call import Call
from fastloss.call.request import Mode, Request
from fastloss.define.record import Loss
from fastloss.define.registry import record_of, refuse_options
from fastloss.runtime import graph_break
from fastloss.runtime.graph_break import LOADED

Wrt = str | tuple[str, ...] | None

_new = tuple.__new__


def value_and_grad(loss: Callable[..., Any], wrt: Wrt = None) -> Callable[..., Any]:
    """Return a function that computes a loss and its gradient in one fused pass.

    Parameters
    ----------
    loss : function or loss instance
        A loss of this package, or an instance of one of its loss classes.
    wrt : str or tuple of str, optional
        The arguments to differentiate with respect to. One name gives one gradient, a tuple gives a tuple. The default
        is the loss's natural input or inputs.

    Returns
    -------
    callable
        It takes the arguments of `loss` and returns ``(value, gradient)``. Further keyword arguments:
        `grad_output`, the upstream gradient (a factor for a reduced loss, an array of the output's shape for
        ``reduction="none"``; ones by default); `grad_out`, the array or tuple of arrays to write the gradient into,
        which may be the input itself; `out`, the same for an unreduced value.

    Raises
    ------
    TypeError
        If `loss` is not a loss of this package.
    ValueError
        If `wrt` names an argument that the loss is not differentiable with respect to.

    Notes
    -----
    The result is cached: asking again costs a dictionary look-up. Nothing of the input's size is allocated but the
    gradient; losses of rows, vectors and sums copy arrays that are not contiguous.

    A gradient may be written over the input when nobody reads the input any more. In torch, what made it must not need
    it for its own backward: the result of a linear layer may be overwritten, that of a sigmoid may not. Writing bumps
    the version of a tensor, so that backward finds out; a leaf that requires grad is refused with a ValueError.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> value, gradient = fl.value_and_grad(fl.mse_loss)(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
    >>> print(value, gradient)
    2.0 [0. 2.]
    """
    return _transform(loss, "value_and_grad", wrt)


def grad(loss: Callable[..., Any], wrt: Wrt = None) -> Callable[..., Any]:
    """Return a function that computes the gradient of a loss.

    The parameters, and the further keyword arguments of the result, are those of :func:`value_and_grad`; the result
    returns the gradient alone.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> print(fl.grad(fl.huber_loss)(np.array([0.5, 3.0]), np.array([0.0, 0.0]), reduction="sum"))
    [0.5 1. ]
    """
    return _transform(loss, "grad", wrt)


def grad_and_hess(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that computes the gradient of a loss and the diagonal of its Hessian.

    Both are with respect to the first natural input, element by element, as gradient-boosting libraries want them.
    Where the second derivative is zero almost everywhere, zeros are returned.

    Raises
    ------
    ValueError
        If the loss has no second derivative.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> raw, y = np.array([0.0, 2.0]), np.array([1.0, 0.0])
    >>> g, h = fl.grad_and_hess(fl.binary_cross_entropy_with_logits)(raw, y, reduction="none")
    >>> print(g.round(4), h.round(4))
    [-0.5     0.8808] [0.25  0.105]
    """
    return _transform(loss, "grad_and_hess", None)


class Transform:
    """A loss that returns its gradient, and its value or curvature, as :func:`value_and_grad` and its like make it.

    It has the signature of the loss and three keyword arguments more, and pickles where the loss does.
    """

    def __init__(self, record: Loss, mode: Mode, options: dict[str, Any], origin: tuple[Any, str, Wrt]) -> None:
        """Bind `options`, which have been checked; `origin` are the loss, the kind of transform and its `wrt`."""
        self._plain = Request(mode)
        self._call = Call(record, self._plain, options)
        self._record, self._bound, self._origin = record, frozenset(options), origin
        self.__name__ = self.__qualname__ = f"{origin[1]}({record.name})"
        self.__doc__ = f"{origin[1]} of a loss: {record.function.__doc__}"

    def __call__(
        self, *args: Any, grad_output: Any = None, grad_out: Any = None, out: Any = None, **kwargs: Any
    ) -> Any:
        """Return what the transform is of."""
        if "torch._dynamo" in LOADED and LOADED["torch"].compiler.is_dynamo_compiling():
            return graph_break.untraced(self, *args, grad_output=grad_output, grad_out=grad_out, out=out, **kwargs)
        request = self._plain
        if grad_output is not None or grad_out is not None or out is not None:
            request = _new(Request, (request.mode, grad_output, grad_out, out))  # a third of the time of Request(...)
        if kwargs and self._bound:
            refuse_options(self._origin[0], kwargs, self._bound)
        result = self._call.last(args, kwargs, request)
        return self._call.find(args, kwargs, request) if result is None else result

    @property
    def __signature__(self) -> Any:
        """The loss's signature, less the options that are bound, with what a transform takes beside."""
        loss = inspect.signature(self._record.function)
        given = [one for one in loss.parameters.values() if one.name not in self._bound]
        more = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
            for name in ("grad_output", "grad_out", "out")
        ]
        return inspect.Signature([*given, *more])

    def __repr__(self) -> str:
        loss, kind, wrt = self._origin
        name = getattr(loss, "__name__", None) or repr(loss)
        return f"{kind}({name})" if wrt is None else f"{kind}({name}, {wrt!r})"

    def __reduce__(self) -> Any:
        return _transform, self._origin


def _transform(loss: Any, kind: str, wrt: Wrt) -> Callable[..., Any]:
    if graph_break.is_traced():
        return graph_break.untraced(_transform, loss, kind, wrt)  # type: ignore[no-any-return]
    if isinstance(loss, type):
        raise TypeError(f"expected a loss function or a loss instance, got the class {loss.__name__}: call it first")
    bound = getattr(loss, "bound", None)
    if bound is not None and not hasattr(loss, "__fastloss__"):
        return bound(kind, wrt)  # type: ignore[no-any-return]
    record_of(loss)  # a clear error for what is no loss
    return function_transform(loss, kind, names_of(wrt))


def names_of(wrt: Any) -> Wrt:
    """Return `wrt` as caches look it up, a list as a tuple; raise for what is no name and no tuple of names."""
    if wrt is None or isinstance(wrt, str):
        return wrt
    if not isinstance(wrt, tuple | list) or not all(isinstance(name, str) for name in wrt):
        raise TypeError(f"wrt must be the name of an argument or a tuple of names, got {wrt!r}")
    return tuple(wrt)


@functools.cache
def function_transform(loss: Callable[..., Any], kind: str, wrt: Wrt) -> Callable[..., Any]:
    """Return the transform of a loss function; one object for each loss, kind and choice of arguments."""
    record = record_of(loss)
    return Transform(record, mode_of(record, kind, wrt), {}, (loss, kind, wrt))


def mode_of(record: Loss, kind: str, wrt: Wrt) -> Mode:
    """Return what a transform computes, the arguments checked that it differentiates."""
    also = record.also if wrt is None and kind != "grad_and_hess" else ()
    if wrt is None:
        wrt = record.wrt[0] if len(record.wrt) == 1 or kind == "grad_and_hess" else record.wrt
    names = (wrt,) if isinstance(wrt, str) else wrt
    if not names:
        raise ValueError("wrt must name an argument, got ()")
    for name in names:
        if name not in record.differentiable and name not in (known := inspect.signature(record.function).parameters):
            listed = ", ".join(map(repr, known))
            raise ValueError(f"{name!r} is no argument of {record.name}, whose arguments are {listed}")
        if name not in record.differentiable:
            allowed = ", ".join(map(repr, record.differentiable))
            raise ValueError(f"{record.name} is not differentiable with respect to {name!r}, only to {allowed}")
    if kind == "grad_and_hess" and record.hessian is None:
        raise ValueError(f"{record.name} has no second derivative")
    return Mode(kind == "value_and_grad", names, isinstance(wrt, str), kind == "grad_and_hess", also)
