"""Checks for losses, ours or anybody's: gradients, types, layouts, threads, batches and empty input.

Nothing here is imported by the package: ``import fastloss.testing``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss as fl
from fastloss.define.descriptions import Loss
from fastloss.define.registry import record_of

# Losses whose values come from matrix products of a library, which changes its algorithm with the number of rows.
_PRODUCTS = frozenset(("projected", "clustered"))
# Families whose samples lie along the second axis.
_SECOND_AXIS = frozenset(("sequence",))


def assert_batch_invariant(loss: Callable[..., Any], *arrays: Any, **options: Any) -> None:
    """Check that every row's value and gradient have the same bits in any batch, at any place, on any threads.

    Parameters
    ----------
    loss : function or loss instance
        A loss with a `reduction`.
    *arrays : array
        Its arguments, the samples along the first axis of each that has as many (along the second one for sequences).
    **options
        Its options.

    Raises
    ------
    AssertionError
        If a bit differs.
    TypeError
        If rows of the loss have no value of their own: linear and adaptive losses multiply matrices by a library that
        changes its algorithm with the number of rows.
    """
    record: Loss = getattr(loss, "_record", None) or record_of(loss)
    if record.family in _PRODUCTS:
        raise TypeError(f"{record.name} is excepted: the bits of its matrix products depend on the number of rows")
    axis = int(record.family in _SECOND_AXIS)
    count = np.shape(arrays[0])[axis]
    options = {**options, "reduction": "none"} if "reduction" in record.options else options
    transform = fl.value_and_grad(loss)
    if hasattr(loss, "value_and_grad"):  # an instance, whose reduction is bound
        options.pop("reduction", None)

    def part(rows: Any) -> list[Any]:
        taken = [_rows(array, rows, count, axis) for array in arrays]
        named = {name: _rows(value, rows, count, axis) for name, value in options.items()}
        value, gradients = transform(*taken, **named)
        return [np.asarray(value), *map(np.asarray, gradients if isinstance(gradients, tuple) else (gradients,))]

    whole = part(np.arange(count))
    moved = np.roll(np.arange(count), max(1, count // 3))
    choices = [np.arange(start, min(start + size, count)) for size in (1, 3, 7) for start in range(0, count, size)]
    for rows in [*choices[:64], np.arange(count)[::2], moved]:
        for ours, theirs in zip(part(rows), whole, strict=True):
            along = axis if ours.ndim > axis and theirs.ndim > 1 else 0
            _same_bits(ours, np.take(theirs, rows, axis=along), f"{record.name}: rows {rows[:4]}...")
    for threads in (1, 2, 3):
        with fl.config(num_threads=threads):
            for ours, theirs in zip(part(np.arange(count)), whole, strict=True):
                _same_bits(ours, theirs, f"{record.name}: {threads} threads")


def _rows(array: Any, rows: Any, count: int, axis: int) -> Any:
    """Return some samples of an array, itself where it holds none."""
    if not hasattr(array, "shape") or len(array.shape) == 0:
        return array
    where = axis if len(array.shape) > axis and axis and array.shape[axis] == count and len(array.shape) > 2 else 0
    return np.take(array, rows, axis=where) if array.shape[where] == count else array


def _same_bits(ours: Any, theirs: Any, what: str) -> None:
    if ours.shape != theirs.shape or ours.tobytes() != np.ascontiguousarray(theirs).tobytes():
        raise AssertionError(f"{what} differ by up to {np.nanmax(np.abs(np.asarray(ours - theirs, float)))}")


# Arrays of each kind of values, in float64: see ``descriptions.KINDS``.
_VALUES: dict[str, Callable[[Any, Any], Any]] = {
    "real": lambda rng, shape: rng.normal(size=shape),
    "positive": lambda rng, shape: rng.uniform(0.25, 3, shape),
    "count": lambda rng, shape: rng.uniform(1.25, 6, shape),
    "probability": lambda rng, shape: rng.uniform(0.05, 0.95, shape),
    "log_probability": lambda rng, shape: np.log(rng.uniform(0.05, 0.95, shape)),
    "sign": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "binary": lambda rng, shape: rng.choice([0.0, 1.0], shape),
}


def example(loss: Callable[..., Any], rows: int = 6, columns: int = 5, seed: int = 0) -> dict[str, Any]:
    """Return arrays that a loss takes, by name: of the kinds that it says its arguments hold.

    Raises
    ------
    TypeError
        If its arguments cannot be told from its signature; pass them to :func:`check`.
    """
    record, rng = record_of(loss), np.random.default_rng(seed)
    made = {}
    for name in record.positional:
        if name not in record.operands or name == "weight":
            continue
        kind = record.domains.get(name, "real")
        if kind == "class":
            made[name] = rng.integers(columns, size=rows)
        elif kind in _VALUES:
            labels = record.family == "pairwise" and name == "target"
            made[name] = _VALUES[kind](rng, rows if labels else (rows, columns))
        else:
            raise TypeError(f"{record.name}: pass arrays to check, there is no example of {name} ({kind})")
    return made


def check(loss: Callable[..., Any], *arrays: Any, **options: Any) -> None:
    """Check a loss: gradients against differences, types, layouts, threads, batches and empty input.

    Parameters
    ----------
    loss : function
        A loss, one's own or of this package.
    *arrays : array
        Its arguments in float64; without any, examples of the kinds that its signature names.
    **options
        Its options.

    Raises
    ------
    AssertionError
        If it fails one of the checks, which the message names.
    """
    record = record_of(loss)
    given = dict(zip(record.positional, arrays, strict=False)) if arrays else example(loss)
    _check_gradients(loss, record, given, options)
    _check_types_and_layouts(loss, given, options)
    if record.family not in _PRODUCTS and "reduction" in record.options and record.family not in ("sums", "chain"):
        assert_batch_invariant(loss, *given.values(), **options)
    _check_empty(loss, given, options)


def _differentiable(record: Loss, given: dict[str, Any]) -> tuple[str, ...]:
    return tuple([n for n in record.differentiable if n in given and given[n].dtype.kind == "f"])


def _check_gradients(loss: Any, record: Loss, given: dict[str, Any], options: dict[str, Any]) -> None:
    """Compare derivatives along a random direction with central differences, and values with those of transforms."""
    rng, names = np.random.default_rng(1), _differentiable(record, given)
    value, gradients = fl.value_and_grad(loss, names)(**given, **options)
    np.testing.assert_allclose(loss(**given, **options), value, rtol=1e-12, err_msg="value of the transform")
    step = 1e-6
    upstream = np.ones_like(value)
    for name, gradient in zip(names, gradients, strict=True):
        direction = rng.normal(size=given[name].shape) * step
        ahead, behind = ({**given, name: given[name] + sign * direction} for sign in (1, -1))
        difference = ((loss(**ahead, **options) - loss(**behind, **options)) * upstream).sum() / 2
        np.testing.assert_allclose(
            (gradient * direction).sum(), difference, rtol=1e-4, atol=1e-10, err_msg=f"gradient of {name}"
        )


def _check_types_and_layouts(loss: Any, given: dict[str, Any], options: dict[str, Any]) -> None:
    """Compare float32, and arrays in another order, with float64 in C order."""

    def changed(change: Callable[[Any], Any]) -> Any:
        return loss(**{name: change(array) for name, array in given.items()}, **options)

    exact = loss(**given, **options)
    narrow = changed(lambda a: a.astype(np.float32) if a.dtype.kind == "f" else a)
    np.testing.assert_allclose(narrow, exact, rtol=1e-4, atol=1e-5, err_msg="float32")
    if narrow.dtype != np.float32:
        raise AssertionError(f"a float32 input gives {narrow.dtype}")
    for name, change in (("Fortran order", np.asfortranarray), ("strided", _strided)):
        np.testing.assert_allclose(changed(change), exact, rtol=1e-12, err_msg=name)


def _strided(array: Any) -> Any:
    return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array


def _check_empty(loss: Any, given: dict[str, Any], options: dict[str, Any]) -> None:
    """Check that no samples give a sum of 0."""
    if "reduction" not in record_of(loss).options or record_of(loss).family in ("sequence", "chain"):
        return
    rows = next(iter(given.values())).shape[0]
    empty = {name: array[:0] if array.shape[:1] == (rows,) else array for name, array in given.items()}
    total = loss(**empty, **{**options, "reduction": "sum"})
    if total != 0:
        raise AssertionError(f"the sum over no samples is {total}")
