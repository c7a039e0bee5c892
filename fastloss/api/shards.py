"""Cross-entropy over classes that lie on several devices: each has a part of the logits, and three numbers travel."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, SupportsIndex

import array_api_compat
import numpy as np

from fastloss.call.call import Call
from fastloss.call.request import VALUE, is_number
from fastloss.cpu.arrays import is_tracked
from fastloss.define.descriptions import Array, Elementwise, Rowwise
from fastloss.define.point_maths import shard_softmax
from fastloss.define.record import Loss
from fastloss.define.row_numbers import SUM_EXP
from fastloss.runtime.loaded import is_instance

_IGNORED = -100


class ShardStats(NamedTuple):
    """What the classes of a shard contribute to each row: ``-inf``, 0 and 0 where there is nothing."""

    max: Array
    sum_exp: Array
    target_logit: Array


def shard_stats(logits_shard: Array, target: Array, *, class_offset: int = 0, num_classes: int | None = None) -> Any:
    r"""Return what the classes of a shard contribute to the cross-entropy of each row.

    .. math:: m_n = \max_c x_{nc}, \qquad s_n = \sum_c e^{x_{nc} - m_n}

    Parameters
    ----------
    logits_shard : array, shape (N, C)
        Logits of the classes from `class_offset` on.
    target : array of integers, shape (N,)
        Class indices among those of all shards; -100 is ignored.
    class_offset : int
        The first class of the shard.
    num_classes : int, optional
        The number of classes of all shards, to check the class indices.

    Returns
    -------
    ShardStats
        A named tuple ``(max, sum_exp, target_logit)`` of arrays of shape (N,), float32 for half types. Rows that are
        ignored have ``-inf``, 0 and 0; the last is 0 where the target is in another shard.

    Raises
    ------
    TypeError
        If `logits_shard` is a Dask array, or `target` does not hold integers.
    ValueError
        If the shapes do not go together, `class_offset` is negative, or the shard goes beyond `num_classes`.
    IndexError
        If a class index is negative or not below `num_classes`.

    Notes
    -----
    torch's autograd does not follow: the gradient is that of :func:`shard_grad`.

    References
    ----------
    M. Shoeybi et al., "Megatron-LM: training multi-billion parameter language models using model parallelism", 2019.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> x, y = np.array([[2.0, 0.0, 1.0]]), np.array([2])
    >>> stats = [fl.shard_stats(x[:, :2], y), fl.shard_stats(x[:, 2:], y, class_offset=2)]
    >>> loss, lse = fl.combine_shards(stats)
    >>> print(loss.round(4), lse.round(4))
    [1.4076] [2.4076]
    """
    xp, x, target, local, counts = _looked_at(logits_shard, target, class_offset, num_classes)
    rows, classes = x.shape
    wide = x.dtype if x.dtype == xp.float64 else xp.float32
    if classes == 0:
        nothing = xp.zeros((rows,), dtype=wide, device=array_api_compat.device(x))
        return ShardStats(nothing - xp.inf, nothing, nothing)
    top = xp.astype(xp.max(x, axis=1), wide)
    sums = xp.empty((rows,), dtype=wide, device=array_api_compat.device(x))
    _SUM_EXP.run((x,), {}, VALUE._replace(out=sums))
    sums = xp.where(top == -xp.inf, xp.zeros_like(top), sums)
    here = counts & (local >= 0) & (local < classes)
    at = xp.where(here, local, xp.zeros_like(local))
    logit = xp.astype(xp.take_along_axis(x, at[:, None], axis=1)[:, 0], wide)
    zero = xp.zeros_like(top)
    return ShardStats(xp.where(counts, top, zero - xp.inf), xp.where(counts, sums, zero), xp.where(here, logit, zero))


def combine_shards(stats: Iterable[Any]) -> tuple[Array, Array]:
    r"""Return the loss of each row, and its log-sum-exp, from what the shards contribute.

    .. math:: \mathrm{lse}_n = m_n + \log \sum_k s_{nk} e^{m_{nk} - m_n}, \qquad m_n = \max_k m_{nk}

    Parameters
    ----------
    stats : iterable of tuples of three arrays
        Those of :func:`shard_stats`, in any order.

    Returns
    -------
    loss, lse : array, shape (N,)
        A row that is ignored has 0, and -inf.

    Raises
    ------
    ValueError
        If there are none.
    TypeError
        If they are not in a list or the like, but those of one shard as they are.
    """
    if isinstance(stats, ShardStats):
        raise TypeError("stats must be a list of what shard_stats returned, got one of these")
    parts = [tuple(one) for one in stats]
    if not parts:
        raise ValueError("stats must be those of at least one shard")
    xp = array_api_compat.array_namespace(*parts[0])
    top = parts[0][0]
    for part in parts[1:]:
        top = xp.maximum(top, part[0])
    sums = logit = xp.zeros_like(top)
    finite = xp.where(xp.isfinite(top), top, xp.zeros_like(top))
    for own, sum_exp, target_logit in parts:
        sums = sums + sum_exp * xp.exp(own - finite)
        logit = logit + target_logit
    counts = (top != -xp.inf) | (logit == -xp.inf)  # a row of -inf has a label, unless it is ignored
    log_sum = xp.log(xp.where(top != -xp.inf, sums, xp.ones_like(sums)))
    lse = xp.where(top == -xp.inf, top, finite + log_sum)
    with np.errstate(invalid="ignore"):  # of infinite logits the loss is NaN
        return xp.where(counts, (top - logit) + log_sum, xp.zeros_like(lse)), lse


def shard_grad(
    logits_shard: Array,
    target: Array,
    lse: Array,
    *,
    class_offset: int = 0,
    divisor: float = 1.0,
    grad_output: Array | float | None = None,
    grad_out: Array | None = None,
) -> Array:
    r"""Return the gradient of the cross-entropy with respect to the logits of a shard.

    .. math:: g_{nc} = \frac{u_n}{d} \left( e^{x_{nc} - \mathrm{lse}_n} - [c = y_n] \right)

    Parameters
    ----------
    logits_shard, target, class_offset
        Those of :func:`shard_stats`.
    lse : array, shape (N,)
        The log-sum-exp of :func:`combine_shards`.
    divisor : float or array of one number
        What the loss is divided by, such as the number of rows that count.
    grad_output : array, shape (N,), or float, optional
        The upstream gradient u of each row, 1 by default.
    grad_out : array, shape (N, C), optional
        Where to write; float32 goes beside half types.

    Returns
    -------
    array
        Of the shape of `logits_shard`; rows that are ignored have 0.

    Raises
    ------
    ValueError
        If the shapes do not go together, or the divisor is negative or NaN.

    Notes
    -----
    The relative error is that of rounding `lse`: half a thousandth in float32 where logits are about 1e4. Logits less
    the largest of their row among all shards have a `lse` with more digits.
    """
    xp, x, target, local, counts = _looked_at(logits_shard, target, class_offset, None)
    if getattr(divisor, "shape", None) == ():
        divisor = float(divisor)
    if not isinstance(divisor, int | float) or not divisor >= 0:
        raise ValueError(f"divisor must be a number >= 0, got {divisor}")
    lse = _outside_autograd(lse) if hasattr(lse, "dtype") else xp.asarray(lse)
    above: Any = 1 if grad_output is None else _outside_autograd(grad_output)
    if not is_number(above):
        above = above if hasattr(above, "dtype") else xp.asarray(above, dtype=lse.dtype)
        if tuple(above.shape) not in ((), tuple(target.shape)):
            raise ValueError(f"grad_output must have shape {tuple(target.shape)}, got {tuple(above.shape)}")
    if lse.shape != target.shape:
        raise ValueError(f"lse must have shape {tuple(target.shape)}, one number for each row, got {tuple(lse.shape)}")
    zero = xp.zeros_like(lse)
    scale = zero + above / (divisor or 5e-324)
    scale = xp.where(counts, scale, zero)
    sums = xp.where(lse == xp.inf, zero + xp.nan, lse)  # of which a softmax is NaN
    here = xp.nonzero(counts & (local >= 0) & (local < x.shape[1]))[0]
    place = local[here]
    with np.errstate(invalid="ignore"):
        difference = xp.astype(x[here, place], lse.dtype) - sums[here]  # of logits that may be written over
    less = xp.expm1(xp.where(difference > 0, zero[here], difference)) * scale[here]
    less = xp.where(scale[here] == 0, zero[here], less)
    request = VALUE if grad_out is None else VALUE._replace(out=grad_out)
    result = _SOFTMAX.run((x, sums[:, None], scale[:, None]), {}, request)
    result[here, place] = xp.astype(less, result.dtype)
    return result


def _looked_at(logits: Any, target: Any, offset: int, classes: int | None) -> tuple[Any, ...]:
    """Return the library, the arrays, the class indices within the shard, and which rows count."""
    if is_instance(logits, "dask.array", "Array"):
        raise TypeError("logits_shard must hold its numbers, and a Dask array does not: call logits_shard.compute()")
    if not hasattr(logits, "dtype"):
        logits = np.asarray(logits, dtype=float)
    logits = _outside_autograd(logits)
    xp = array_api_compat.array_namespace(logits)
    if not hasattr(target, "dtype"):
        target = xp.asarray(target)
    if logits.ndim != 2 or target.shape != logits.shape[:1]:
        raise ValueError(
            f"logits_shard and target must have shapes (N, C) and (N,), got {tuple(logits.shape)} and "
            f"{tuple(target.shape)}"
        )
    if not isinstance(offset, SupportsIndex) or isinstance(offset, bool):
        raise TypeError(f"class_offset must be an integer, got {offset!r}")
    if offset < 0:
        raise ValueError(f"class_offset must not be negative, got {offset}")
    if not xp.isdtype(target.dtype, "integral"):
        raise TypeError(f"target must hold class indices, integers, got dtype {target.dtype}")
    if classes is not None and offset + logits.shape[1] > classes:
        raise ValueError(
            f"class_offset {offset} and a shard of {logits.shape[1]} classes go beyond num_classes {classes}"
        )
    target = xp.astype(target, xp.int64)
    counts = target != _IGNORED
    bad = counts & ((target < 0) | (target >= (2**63 - 1 if classes is None else classes)))
    if bool(xp.any(bad)):
        row = int(xp.nonzero(bad)[0][0])
        known = "" if classes is None else f" for {classes} classes"
        raise IndexError(f"target {int(target[row])} at position ({row},) is out of range{known}")
    return xp, logits, target, target - offset, counts


def _outside_autograd(array: Any) -> Any:
    """Return an array of which torch's autograd follows nothing: it would see a part of the arithmetic only."""
    return array.detach() if is_tracked(array) else array


def _part(describe: Any, *names: str) -> Call:
    """Return a way of calling a description that is no loss of the registry."""
    record = Loss(
        name=describe.__name__,
        family="elementwise",
        function=describe,
        describe=describe,
        wrt=(),
        differentiable=(),
        hessian=None,
        options={},
        domains={},
        legacy=False,
        positional=names,
        operands=frozenset(names),
    )
    return Call(record, VALUE, {})


def _sum_exp(input: Any) -> Rowwise:
    return Rowwise(SUM_EXP, input, reduction="none", axis=1)


def _softmax(input: Any, lse: Any, scale: Any) -> Elementwise:
    return Elementwise(shard_softmax, (input, lse, scale), ("input", "lse", "scale"), reduction="none", leads=3)


_SUM_EXP, _SOFTMAX = _part(_sum_exp, "input"), _part(_softmax, "input", "lse", "scale")
