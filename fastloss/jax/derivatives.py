"""Losses that JAX differentiates: values and gradients from one callback, the rest in JAX's own operations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from fastloss.api.jobs import Job, Layout
from fastloss.api.transforms import mode_of
from fastloss.define.record import Loss
from fastloss.jax.kernels import kernel_of
from fastloss.jax.primitive import call_back

# Functions of jobs are kept, so that JAX finds what it has compiled for them.
_KEPT = 4096


@functools.lru_cache(maxsize=_KEPT)
def values_of_rows(job: Job, layout: Layout, given: Job, weights: tuple[int, ...] | None) -> Callable[..., Any]:
    """Return a function of a loss's arrays that returns its unreduced values, multiplied by weights behind the arrays.

    `weights` is the shape in which those broadcast to the values; None for a call without them. A weight of 0 takes a
    value and its gradient out, whatever they are.
    """
    names, axes = job.names, layout.axes

    def weighed(array: Any, given_weights: Any, keeps: bool) -> Any:
        if weights is None:
            return array
        factor = jnp.reshape(given_weights[0], weights)
        if keeps:
            factor = jnp.expand_dims(factor, axes)
        return jnp.where(factor == 0, 0, array * factor)

    @jax.custom_jvp
    def values(*arrays: Any) -> Any:
        (made,) = call_back(kernel_of(job, layout, (), given), arrays[: len(names)])
        return weighed(made, arrays[len(names) :], False)

    @functools.partial(values.defjvp, symbolic_zeros=True)
    def _(arrays: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moving = [t for t in tangents if not isinstance(t, SymbolicZero)]
        wrt = _active(job.loss, (*names, "sample_weight"), tangents)
        value, *gradients = derivatives(job, layout, wrt, given)(*arrays[: len(names)])
        more = arrays[len(names) :]
        slope: Any = 0
        for gradient, tangent in zip(gradients, moving, strict=True):
            slope = slope + jnp.sum(weighed(gradient, more, True) * tangent, axes, keepdims=layout.keeps)
        return weighed(value, more, False), slope

    return values


@functools.lru_cache(maxsize=_KEPT)
def reduced_value(job: Job, given: Job | None = None) -> Callable[..., Any]:
    """Return a function of a loss's arrays that returns its reduced value, as the kernel reduces it."""

    @jax.custom_jvp
    def value(*arrays: Any) -> Any:
        return call_back(kernel_of(job, None, (), given), arrays)[0]

    @functools.partial(value.defjvp, symbolic_zeros=True)
    def _(arrays: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
        moving = [t for t in tangents if not isinstance(t, SymbolicZero)]
        result, *gradients = derivatives(job, None, _active(job.loss, job.names, tangents), given)(*arrays)
        return result, sum(jnp.sum(g * t) for g, t in zip(gradients, moving, strict=True))

    return value


@functools.lru_cache(maxsize=_KEPT)
def unreduced_of_summed(job: Job, given: Job | None = None) -> Callable[..., Any]:
    """Return a function that returns the values of a loss some of whose gradients add up over these.

    The gradients are computed for the upstream gradient, in another callback; there is no forward mode.
    """

    @jax.custom_vjp
    def values(*arrays: Any) -> Any:
        return call_back(kernel_of(job, None, (), given), arrays)[0]

    def forward(*arrays: Any) -> tuple[Any, Any]:
        wrt = tuple([name for name, array in zip(job.names, arrays, strict=True) if array.perturbed])
        _check_wrt(job.loss, wrt)
        plain = [array.value for array in arrays]
        return values(*plain), (plain, [name in wrt for name in job.names])

    def backward(kept: tuple[Any, Any], above: Any) -> tuple[Any, ...]:
        arrays, moves = kept
        wrt = tuple([name for name, move in zip(job.names, moves, strict=True) if move])
        if isinstance(above, SymbolicZero) or not wrt:
            return (None,) * len(arrays)
        found = iter(derivatives(job, None, wrt, given, upstream=True)(*arrays, above))
        return tuple([next(found) if name in wrt else None for name in job.names])

    values.defvjp(forward, backward, symbolic_zeros=True)

    def refusing(*arrays: Any) -> Any:
        try:
            return values(*arrays)
        except TypeError as error:  # JAX's own names what it is made of
            if "custom_vjp" not in str(error):
                raise
            message = f"fastloss.jax.{job.loss.name} has no forward mode (jvp) where it returns an array: use jax.vjp"
            raise TypeError(message) from None

    return refusing


@functools.lru_cache(maxsize=_KEPT)
def derivatives(
    job: Job, layout: Layout | None, wrt: tuple[str, ...], given: Job | None, upstream: bool = False
) -> Callable[..., Any]:
    """Return a function of a loss's arrays that returns values and gradients, which cannot be differentiated."""

    @jax.custom_jvp
    def results(*arrays: Any) -> Any:
        return call_back(kernel_of(job, layout, wrt, given, upstream), arrays)

    @results.defjvp
    def _(arrays: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
        raise NotImplementedError(
            f"fastloss.jax.{job.loss.name} has no second derivatives: write it with jax.numpy where they are needed"
        )

    return results


@functools.lru_cache(maxsize=_KEPT)
def map_of_rows(job: Job, layout: Layout) -> Callable[..., Any]:
    """Return softmax or log_softmax of an array, whose derivatives of any order are made of itself."""
    (axis,) = layout.axes or (None,)

    @jax.custom_jvp
    def rows(array: Any) -> Any:
        return call_back(kernel_of(job, layout, ()), (array,))[0]

    @rows.defjvp
    def _(arrays: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        result, (tangent,) = rows(*arrays), tangents
        if job.loss.name == "softmax":
            # Of a class nearly certain the tangent itself would cancel.
            above = tangent - jnp.sum(jnp.where(result > 0.5, tangent, 0), axis, keepdims=True)
            return result, result * (above - jnp.sum(result * above, axis, keepdims=True))
        return result, tangent - jnp.sum(jnp.exp(result) * tangent, axis, keepdims=True)

    return rows


def _active(record: Loss, names: tuple[str, ...], tangents: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the names of the arrays that a derivative is taken of."""
    wrt = [name for name, t in zip(names, tangents, strict=False) if not isinstance(t, SymbolicZero)]
    _check_wrt(record, tuple(wrt))
    return tuple(wrt)


def _check_wrt(record: Loss, wrt: tuple[str, ...]) -> None:
    """Raise for an array that the loss, or this door, does not differentiate."""
    for name in ("sample_weight", "divisor"):
        if name in wrt:
            raise ValueError(f"fastloss.jax.{record.name} is not differentiable with respect to {name}")
    if wrt:
        mode_of(record, "value_and_grad", wrt)
    if "weight" in wrt and record.family == "rowwise":
        raise ValueError(f"fastloss.jax.{record.name} is not differentiable with respect to class weights")
