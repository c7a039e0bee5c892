"""Checks for losses, ours or anybody's: gradients, types, layouts, threads, batches and empty input.

Nothing here is imported by the package: ``import fastloss.testing``.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from array_api_compat import array_namespace, device, is_cupy_array, is_torch_array

import fastloss as fl
from fastloss.define.linear_options import dtype_name
from fastloss.define.record import Loss
from fastloss.define.registry import record_of

# Families of losses whose values come from matrix products of a library, which changes its algorithm with the number of
# rows, and of those each of whose rows, pairs or sequences has a value of its own.
_PRODUCTS = frozenset(("projected", "clustered"))
_ROWS = frozenset(("elementwise", "rowwise", "rowmap", "pairwise", "label_sets", "sequence"))

# Rows of the batch that others are compared with, at least: vectors, and what they leave, several times.
_MANY = 301

# Entries of that batch, at most, unless what is given has more.
_ENTRIES = 1 << 22


class _Call(NamedTuple):
    """A loss, without what an instance binds, with all that it is called with."""

    function: Callable[..., Any]
    record: Loss
    arrays: dict[str, Any]
    options: dict[str, Any]

    def __call__(self, **changed: Any) -> Any:
        value = self.function(**{**self.arrays, **self.options, **changed})
        return value[0] if isinstance(value, tuple) else value

    @property
    def wrt(self) -> tuple[str, ...]:
        return tuple([n for n in self.record.wrt if "float" in str(getattr(self.arrays.get(n), "dtype", ""))])

    @property
    def inner(self) -> int | None:
        """The axis along which a row lies, if it has one."""
        if self.record.family in ("elementwise", "sequence"):
            return None
        names = inspect.signature(self.function).parameters
        given = {**self.options, **self.arrays}
        axis = given.get("axis")
        if axis is None:
            axis = given.get("dim", names["dim"].default) if "dim" in names else 1
        if axis is None:
            axis = -1 if self.record.family == "pairwise" else 1
        return int(axis) % np.ndim(self.first)

    @property
    def first(self) -> Any:
        return self.arrays[self.record.positional[0]]

    @property
    def samples(self) -> int:
        """The axis of the first argument along which its samples lie."""
        return 1 if self.record.family == "sequence" or self.inner == 0 else 0

    def axis_of(self, name: str, value: Any) -> int | None:
        """Return along which axis of an argument its samples lie, if it holds one for each."""
        if not hasattr(value, "shape") or (name == "weight" and self.record.family != "elementwise"):
            return None
        lacking = np.ndim(self.first) - len(value.shape)
        if self.record.family == "sequence":
            axis = 0 if lacking else 1
        elif self.record.family == "elementwise" or lacking == 0:
            axis = self.samples - lacking  # the last axes meet
        else:
            axis = 1 - lacking  # those of the rows' values do
        return axis if axis >= 0 and value.shape[axis] == np.shape(self.first)[self.samples] else None

    def taken(self, rows: Any) -> _Call:
        """Return the call with some of its samples."""

        def part(given: dict[str, Any]) -> dict[str, Any]:
            return {name: _taken(value, rows, self.axis_of(name, value)) for name, value in given.items()}

        return self._replace(arrays=part(self.arrays), options=part(self.options))


def _call_of(loss: Callable[..., Any], arrays: tuple[Any, ...], options: dict[str, Any]) -> _Call:
    """Return a call of a loss, which may be an instance with options of its own."""
    record = getattr(loss, "_record", None) or record_of(loss)
    bound = {name: value for name, value in getattr(loss, "_options", {}).items() if value is not None}
    given = dict(zip(record.positional, map(_as_array, arrays), strict=False))
    return _Call(record.function, record, given, {**bound, **options})


def _taken(array: Any, rows: Any, axis: int | None) -> Any:
    if axis is None:
        return array
    xp = array_namespace(array)
    return xp.take(array, xp.asarray(rows, device=device(array)), axis=axis)


def _on_host(array: Any) -> Any:
    """Return an array of any library as one of NumPy, bfloat16 of torch as float32."""
    if is_torch_array(array):
        array = array.detach().cpu()
        array = array.float() if dtype_name(array.dtype) == "bfloat16" else array
    return np.asarray(array.get() if is_cupy_array(array) else array)


def _as_array(given: Any) -> Any:
    return given if hasattr(given, "shape") or given is None or np.ndim(given) == 0 else np.asarray(given)


def assert_batch_invariant(loss: Callable[..., Any], *arrays: Any, **options: Any) -> None:
    """Check that every row's value and gradient have the same bits in any batch, at any place, on any threads.

    Parameters
    ----------
    loss : function or loss instance
        A loss.
    *arrays : array of any library that fastloss takes, on any device
        Its arguments. The samples lie along the first axis that the rows, or vectors, do not lie along; along the
        second one for sequences, whose targets are padded.
    **options
        Its options. Rows are not reduced: a `reduction` and a `divisor` are left out.

    Raises
    ------
    AssertionError
        If a bit differs.
    ValueError
        If there are no rows.
    TypeError
        If rows of the loss have no value of their own: linear and adaptive losses multiply matrices by a library that
        changes its algorithm with the number of rows, and penalties and losses of sums have one value.
    """
    _assert_batch_invariant(_call_of(loss, arrays, options))


def _assert_batch_invariant(call: _Call) -> None:
    record, options = call.record, dict(call.options)
    if record.family in _PRODUCTS:
        raise TypeError(f"{record.name} is excepted: the bits of its matrix products depend on the number of rows")
    if record.family not in _ROWS:
        raise TypeError(f"{record.name} is excepted: its rows have no value of their own")
    options.pop("divisor", None)
    if "reduction" in record.options:
        options["reduction"] = "none"
    call = call._replace(options=options)
    count = np.shape(call.first)[call.samples]
    if count == 0:
        raise ValueError("there are no rows to compare")
    entries = math.prod(np.shape(call.first)) // count
    many = np.arange(max(count, min(_MANY, _ENTRIES // max(1, entries)))) % count
    whole = _results(call.taken(many))
    moved = np.roll(np.arange(count), max(1, count // 3))
    choices = [np.arange(start, min(start + size, count)) for size in (1, 2, 3, 7) for start in range(0, count, size)]
    sizes = [np.arange(size) % count for size in (5, 9, 15, 17, 31, 33)]
    for rows in [*choices[:: max(1, len(choices) // 64)], *sizes, np.arange(count)[::2], moved, many]:
        _compare(call, _results(call.taken(rows)), whole, rows, f"rows {rows[:4]}...")
    for threads in (1, 2, 3):
        with fl.config(num_threads=threads):
            _compare(call, _results(call.taken(many)), whole, many, f"{threads} threads")


def _results(call: _Call) -> dict[str, Any]:
    """Return by name what the rows of a call have: the loss, what is returned beside it, and gradients."""
    value, gradients = fl.value_and_grad(call.function, call.wrt)(**call.arrays, **call.options)
    values = dict(zip(value._fields, value, strict=True)) if hasattr(value, "_fields") else {"value": value}
    own = {f"gradient of {name}": g for name, g in zip(call.wrt, gradients, strict=True) if _has_rows(call, name)}
    return {name: _on_host(result) for name, result in {**values, **own}.items()}


def _has_rows(call: _Call, name: str) -> bool:
    return call.axis_of(name, call.arrays[name]) is not None


def _compare(call: _Call, ours: dict[str, Any], whole: dict[str, Any], rows: Any, what: str) -> None:
    for name, result in ours.items():
        as_first = result.ndim == np.ndim(call.first)
        expected = np.take(whole[name], rows, axis=call.samples if as_first else 0)
        if result.shape != expected.shape or result.tobytes() != np.ascontiguousarray(expected).tobytes():
            most = np.nanmax(np.abs(np.asarray(result - expected, float))) if result.shape == expected.shape else np.nan
            raise AssertionError(f"{call.record.name}: {what}: {name} differs by up to {most}")


# Arrays of each kind of values, in float64: see ``record.KINDS``.
_VALUES: dict[str, Callable[[Any, Any], Any]] = {
    "real": lambda rng, shape: rng.normal(size=shape),
    "positive": lambda rng, shape: rng.uniform(0.25, 3, shape),
    "count": lambda rng, shape: rng.uniform(1.25, 6, shape),
    "probability": lambda rng, shape: rng.uniform(0.05, 0.95, shape),
    "log_probability": lambda rng, shape: np.log(rng.uniform(0.05, 0.95, shape)),
    "sign": lambda rng, shape: rng.choice([-1.0, 1.0], shape),
    "binary": lambda rng, shape: rng.choice([0.0, 1.0], shape),
    "class_list": lambda rng, shape: np.where(np.arange(shape[1]) < 2, rng.permuted(np.indices(shape)[1], axis=1), -1),
}


def example(loss: Callable[..., Any], rows: int = 6, columns: int = 5, seed: int = 0) -> dict[str, Any]:
    """Return arrays that a loss takes, by name: of the kinds that it says its arguments hold.

    Raises
    ------
    TypeError
        If its arguments cannot be told from its signature; pass them to :func:`check`.
    """
    record, rng = _call_of(loss, (), {}).record, np.random.default_rng(seed)
    if record.family == "sequence":
        x = rng.normal(size=(rows + 2, rows, columns))
        lengths = {name: np.full(rows, size) for name, size in (("input_lengths", rows + 2), ("target_lengths", 3))}
        logs = x - np.log(np.exp(x).sum(-1, keepdims=True))
        return {"log_probs": logs, "targets": rng.integers(1, columns, size=(rows, 3)), **lengths}
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
    """Check a loss: derivatives against differences, types, layouts, threads, batches and empty input.

    Parameters
    ----------
    loss : function or loss instance
        A loss, one's own or of this package.
    *arrays : array
        Its arguments in float64; without any, examples of the kinds that its signature names.
    **options
        Its options.

    Raises
    ------
    AssertionError
        If it fails one of the checks, which the message names.
    TypeError
        If an array that a gradient is taken of is not float64.
    """
    call = _call_of(loss, arrays, options)
    if not arrays:
        call = call._replace(arrays={n: a for n, a in example(loss).items() if n not in options})
    for name in call.record.differentiable:
        dtype = getattr(call.arrays.get(name), "dtype", None)
        if dtype is not None and dtype != np.float64 and (dtype.kind == "f" or name in call.record.wrt):
            raise TypeError(f"{name} must be float64, for derivatives are compared with differences, got {dtype}")
    _check_gradients(call)
    _check_hessian(call)
    _check_types_and_layouts(call)
    if call.record.family in _ROWS:
        _assert_batch_invariant(call)
    _check_empty(call)


def _check_gradients(call: _Call) -> None:
    """Compare derivatives along a random direction with central differences, and values with those of transforms."""
    rng = np.random.default_rng(1)
    names = tuple([n for n in call.record.differentiable if n in call.arrays and call.arrays[n].dtype.kind == "f"])
    value, gradients = fl.value_and_grad(call.function, names)(**call.arrays, **call.options)
    value = value[0] if isinstance(value, tuple) else value
    np.testing.assert_allclose(call(), value, rtol=1e-12, err_msg="value of the transform")
    for name, gradient in zip(names, gradients, strict=True):
        array = call.arrays[name]
        direction = rng.normal(size=array.shape)
        if call.record.family == "sequence":  # its gradient is that of probabilities, which sum up to 1
            direction -= (np.exp(array) * direction).sum(-1, keepdims=True)
        ahead, behind = (call(**{name: array + step * direction}) for step in (1e-6, -1e-6))
        np.testing.assert_allclose(
            (gradient * direction).sum(),
            (ahead - behind).sum() / 2e-6,
            rtol=1e-4,
            atol=1e-5,
            err_msg=f"gradient of {name}",
        )


def _check_hessian(call: _Call) -> None:
    """Compare some second derivatives, where the loss has them, with differences of the gradient."""
    if call.record.hessian is None or not call.wrt:
        return
    name, options = call.wrt[0], {k: v for k, v in call.options.items() if k != "returns"}
    array = call.arrays[name]
    _, hess = fl.grad_and_hess(call.function)(**call.arrays, **options)
    gradient = fl.grad(call.function, name)
    for place in np.random.default_rng(2).permutation(array.size)[:16]:
        at = np.unravel_index(place, array.shape)
        step = np.zeros_like(array)
        step[at] = 1e-6
        ahead, behind = (gradient(**{**call.arrays, name: array + s}, **options)[at] for s in (step, -step))
        np.testing.assert_allclose(
            hess[at], (ahead - behind) / 2e-6, rtol=1e-4, atol=1e-5, err_msg=f"second derivative in {name} at {at}"
        )


def _check_types_and_layouts(call: _Call) -> None:
    """Compare float32, and arrays in another order, with float64 in C order."""

    def changed(change: Callable[[Any], Any]) -> Any:
        return call(**{name: change(array) for name, array in call.arrays.items() if hasattr(array, "shape")})

    exact = call()
    narrow = changed(lambda a: a.astype(np.float32) if a.dtype.kind == "f" else a)
    np.testing.assert_allclose(narrow, exact, rtol=1e-4, atol=1e-5, err_msg="float32")
    if narrow.dtype != np.float32:
        raise AssertionError(f"a float32 input gives {narrow.dtype}")
    for name, change in (("Fortran order", np.asfortranarray), ("strided", _strided)):
        np.testing.assert_allclose(changed(change), exact, rtol=1e-12, err_msg=name)


def _strided(array: Any) -> Any:
    return np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array


def _check_empty(call: _Call) -> None:
    """Check that no samples give a sum of 0."""
    if "reduction" not in call.record.options or call.record.family not in _ROWS - {"sequence"} | {"sums"}:
        return
    options = {name: value for name, value in call.options.items() if name not in ("divisor", "reduction")}
    total = call._replace(options=options).taken(np.arange(0))(reduction="sum")
    if total != 0:
        raise AssertionError(f"the sum over no samples is {total}")
