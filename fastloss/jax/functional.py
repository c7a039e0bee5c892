"""The functions of the door: from the arguments of a call to arrays, a job, and the reduction in jax.numpy."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastloss.api.docstrings import summary_of
from fastloss.api.jobs import Job, Layout, counts_of
from fastloss.api.wrapped import Wrapped, own_record
from fastloss.call.common import check_common
from fastloss.call.weighting import broadcastable_shape
from fastloss.define.record import Loss
from fastloss.define.registry import LOSSES, check_options
from fastloss.jax.derivatives import map_of_rows, reduced_value, unreduced_of_summed, values_of_rows
from fastloss.jax.kernels import values_of
from fastloss.runtime.functions import is_packaged

_LENGTHS = ("input_lengths", "target_lengths")

_FLOATS = (jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16)


def arguments_of(record: Loss, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays and the options of a call by name, the options checked.

    Raises
    ------
    TypeError
        If the arguments are not those of the loss, or an option is a traced array.
    """
    signature = _signature(record)
    operands = record.operands | {"sample_weight", "divisor"}
    kwargs = {key: value if key in operands else _option(key, value) for key, value in kwargs.items()}
    check_options(record, kwargs)
    bound = signature.bind(*args, **kwargs)
    bound.apply_defaults()
    arrays, options = {}, {}
    for key, value in bound.arguments.items():
        if key not in operands:
            options[key] = _option(key, value)
        elif value is not None:
            arrays[key] = value
    return arrays, options


@functools.cache
def _signature(record: Loss) -> inspect.Signature:
    return inspect.signature(record.function)


def _option(name: str, value: Any) -> Any:
    """Return an option as a number where it is an array of one, and a list as a tuple."""
    if isinstance(value, jax.core.Tracer):
        raise TypeError(f"{name} is an option, which has to be known while tracing: it must not be a traced array")
    if isinstance(value, jax.Array | np.generic) and value.ndim == 0:
        return value.item()
    return tuple(value) if isinstance(value, list) else value


def job_of(record: Loss, arrays: dict[str, Any], options: dict[str, Any]) -> tuple[Job, dict[str, Any], Any]:
    """Return a job, its arrays for JAX in the dtypes that are computed in, and the dtype of the first as it came."""
    known = tuple(
        [(key, tuple(np.ravel(arrays[key]).tolist())) for key in _LENGTHS if key in arrays and _is_known(arrays[key])]
    )
    made = {key: _array(key, array) for key, array in arrays.items()}
    first = next(iter(made.values())).dtype
    for key, array in made.items():
        if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype not in _FLOATS:  # float8, which would be widened
            raise TypeError(f"{key}: dtype {array.dtype} is not supported")
    real = jnp.float64 if first == jnp.float64 else jnp.float32
    made = {key: a.astype(real) if jnp.issubdtype(a.dtype, jnp.floating) else a for key, a in made.items()}
    shapes, dtypes = tuple([a.shape for a in made.values()]), tuple([np.dtype(a.dtype) for a in made.values()])
    return Job(record, tuple(made), shapes, dtypes, tuple(options.items()), known), made, first


def _array(name: str, given: Any, dtype: Any = None) -> Any:
    """Return an array of JAX, or raise for what is none."""
    try:
        return jnp.asarray(given, dtype)
    except (TypeError, ValueError) as error:  # of a list of lists of several lengths, or of text
        raise TypeError(f"{name} is not an array: {error}") from None


def _is_known(array: Any) -> bool:
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(array))


def compute(record: Loss, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a function of the door returns."""
    arrays, options = arguments_of(record, args, kwargs)
    if not is_packaged(record.function):
        return _as_it_is(record, arrays, options)
    if options.get("returns"):
        name = record.name
        raise ValueError(f"returns is not known to fastloss.jax, got {options['returns']!r}: call fastloss.{name}")
    if record.family == "rowmap":
        return _map(record, arrays, options)
    if record.family in ("penalty", "projected"):  # their gradients add up over rows in the kernel
        return _as_it_is(record, arrays, options)
    weights, divisor = arrays.pop("sample_weight", None), arrays.pop("divisor", None)
    reduction = options.get("reduction", "none")
    if "reduction" in options:
        check_common(weights, divisor, reduction)
        options["reduction"] = "none"
    given, made, dtype = job_of(record, arrays, options)
    layout = given.layout()
    job, made = _broadcast(given, made, layout)
    lies = None
    if weights is not None:
        weights = _array("sample_weight", weights, job.real)
        weights = jnp.where(weights >= 0, weights, jnp.nan)
        lies = broadcastable_shape(weights.shape, layout.values)
    values = values_of_rows(job, layout, given, lies)(*made.values(), *(() if weights is None else (weights,)))
    if reduction == "none":
        return values.astype(dtype)
    if record.name == "ctc_loss" and reduction == "mean":
        values = values / jnp.maximum(made["target_lengths"], 1).reshape(values.shape)
    total = jnp.sum(values)
    if reduction == "sum":
        return total
    if reduction == "batchmean":
        return total / (layout.shape[0] if layout.shape else 1)
    if divisor is not None:  # over which nothing is 0, whatever it is
        divisor = _array("divisor", divisor, job.real)
        if divisor.size != 1:
            raise ValueError(f"divisor must be a number or an array of one, got shape {divisor.shape}")
        divisor = jnp.where(divisor >= 0, divisor, jnp.nan).reshape(())
        return total / jnp.maximum(divisor, jnp.finfo(job.real).tiny)
    divisor = _divisor(job, made, layout, None if weights is None else weights.reshape(lies))
    nothing = divisor == 0  # of which the mean is NaN, and the gradient 0
    return jnp.where(nothing, jnp.nan, total / jnp.where(nothing, 1.0, divisor))


def _broadcast(job: Job, arrays: dict[str, Any], layout: Layout) -> tuple[Job, dict[str, Any]]:
    """Return a job whose arrays that may be differentiated have the shape of the layout, and these arrays."""
    record = job.loss
    if record.family not in ("elementwise", "pairwise"):
        return job, arrays
    shapes = job.aligned() if record.family == "elementwise" else dict(zip(job.names, job.shapes, strict=True))
    made = {
        name: jnp.broadcast_to(array.reshape(shapes[name]), layout.shape) if name in record.differentiable else array
        for name, array in arrays.items()
    }
    return job._replace(shapes=tuple([array.shape for array in made.values()])), made


def _divisor(job: Job, arrays: dict[str, Any], layout: Layout, weights: Any) -> Any:
    """Return what the mean of a loss is divided by: what its values count for, times the weights of samples."""
    shape = layout.values
    if "ignore_index" in job.keywords:
        target = arrays["target"]
        arrays = {**arrays, "target": target.reshape(shape) if target.dtype.kind in "iu" else target}
    counts = counts_of(job, jnp, arrays, weights)
    return jnp.sum(jnp.broadcast_to(jnp.asarray(counts, job.real), shape))


def _as_it_is(record: Loss, arrays: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return a loss whose reduction is the kernel's."""
    given, made, dtype = job_of(record, arrays, options)
    job, made = _alike(given, made)
    if options.get("reduction") == "none" or values_of(job, None):
        return unreduced_of_summed(job, given)(*made.values()).astype(dtype)
    return reduced_value(job, given)(*made.values())


def _alike(job: Job, arrays: dict[str, Any]) -> tuple[Job, dict[str, Any]]:
    """Return a job of single elements with arrays of one shape: of others a callback would warn, in nobody's line."""
    names = [name for name in job.names if name in job.loss.operands]
    if job.loss.family != "elementwise" or len({job.shape(name) for name in names}) == 1:
        return job, arrays
    try:
        shape = np.broadcast_shapes(*map(job.shape, names))
    except ValueError:  # of which the check of the shapes as they came says more
        return job, arrays
    made = {name: jnp.broadcast_to(a, shape) if name in names else a for name, a in arrays.items()}
    return job._replace(shapes=tuple([array.shape for array in made.values()])), made


def _map(record: Loss, arrays: dict[str, Any], options: dict[str, Any]) -> Any:
    """Return softmax or log_softmax."""
    dtype = options.pop("dtype", None)
    if dtype is not None:
        arrays = {key: jnp.asarray(array, dtype) for key, array in arrays.items()}
    job, made, dtype = job_of(record, arrays, options)
    if options["dim"] is None:
        job.check()  # which warns, and which takes the axis that torch takes
        options["dim"] = 0 if len(job.shapes[0]) in (0, 1, 3) else 1
        job = job._replace(options=tuple(options.items()))
    return map_of_rows(job, job.layout())(*made.values()).astype(dtype)


def public(name: str) -> Callable[..., Any]:
    """Return the function of the door for a loss."""
    record = LOSSES[name]

    def function(*args: Any, **kwargs: Any) -> Any:
        return compute(record, args, kwargs)

    return named(function, name)


def named(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Return a function with the name, the signature and the summary of a loss."""
    record = LOSSES[name]
    function.__name__ = function.__qualname__ = name
    function.__module__ = "fastloss.jax"
    function.__signature__ = _signature(record)  # type: ignore[attr-defined]
    function.__doc__ = f"""{summary_of(record.function)}

    :func:`fastloss.{name}` for JAX arrays, inside its transforms; see there for formula, arguments and errors."""
    return function


def wrap(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Return a loss of one's own as a function of JAX arrays, inside jit, grad, value_and_grad, jvp and vmap.

    It takes the arguments of the loss; shapes, dtypes and options are checked while tracing. A loss that is reduced to
    a number has value and gradients out of one callback. One that is not has its gradients computed afterwards, and no
    jvp. A divisor is not differentiated. Under vmap the loss is called for each entry of the batch. Second derivatives
    are an error.

    Parameters
    ----------
    loss : function
        What :func:`fastloss.custom.loss` returned.

    Returns
    -------
    callable
        It pickles if the loss does.

    Raises
    ------
    TypeError
        If it is no loss, or one of the package's, whose functions are in this module.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastloss.jax as fj
    >>> from fastloss.custom import Elementwise, loss, maths
    >>> @maths
    ... def fourth_power(x, t):
    ...     T = type(x)
    ...     r = x - t
    ...     return r * r * r * r, (T(4) * r * r * r, -T(4) * r * r * r), T(12) * r * r
    >>> @loss
    ... def fourth_power_loss(input, target, *, reduction="mean"):
    ...     return Elementwise(fourth_power)
    >>> print(jax.jit(jax.grad(fj.wrap(fourth_power_loss)))(jnp.array([1.0, 3.0]), jnp.zeros(2)))
    [ 2. 54.]
    """
    return _wrapped(own_record(loss, "fastloss.jax"))


@functools.lru_cache(maxsize=256)
def _wrapped(record: Loss) -> Wrapped:
    call = functools.partial(compute, record)
    return Wrapped(record, wrap, call, _signature(record), "JAX arrays, inside its transforms")
