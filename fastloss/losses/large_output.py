"""Losses over so many classes that the logits themselves are the burden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastloss.api.loss import loss
from fastloss.call.adaptive_weights import checked_cutoffs
from fastloss.define.descriptions import Array, Clustered, Projected, Rowwise
from fastloss.define.linear_options import dtype_name, options_of
from fastloss.define.options import FINITE, INTEGER_OR_NONE, POSITIVE_OR_NONE, RETURNED, SCORED, UNIT_INTERVAL
from fastloss.losses.multiclass import (
    CROSS_ENTROPY,
    SMOOTH_CROSS_ENTROPY,
    SOFT_CROSS_ENTROPY,
    TOKEN_LOG_PROBABILITY,
    scored,
)


@loss(
    "projected",
    wrt=("input", "linear_weight"),
    also=("linear_bias",),
    differentiable=("input", "linear_weight", "linear_bias", "target", "weight"),
    hessian=None,
    options={"ignore_index": INTEGER_OR_NONE, "label_smoothing": UNIT_INTERVAL, **SCORED},
    domains={"target": "class"},
)
def linear_cross_entropy(
    input: Array,
    linear_weight: Array,
    target: Array,
    *,
    linear_bias: Array | None = None,
    weight: Array | None = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    valid_classes: int | None = None,
    returns: tuple[str, ...] = (),
) -> Array:
    r"""Cross-entropy of logits that are a linear map of the input, which are never stored whole.

    .. math::

        \ell_n = -\sum_c w_c q_{nc} \log p_{nc}, \qquad p_n = \mathrm{softmax}(W x_n + b)

    With class indices :math:`q_{nc} = (1 - \varepsilon) [c = y_n] + \varepsilon / C` for the label smoothing
    :math:`\varepsilon`, with probabilities :math:`q_{nc} = (1 - \varepsilon) t_{nc} + \varepsilon / C`.

    Parameters
    ----------
    input : array, shape (F,) or (N, F)
        Features.
    linear_weight : array, shape (C, F) or (C, d1, ..., dK, F)
        The map W; with further axes there is one for each position d, and `input` must be (N, F).
    target : array, shape (), (N,) or (N, d1, ..., dK); or (C,), (N, C) or (N, C, d1, ..., dK)
        Class indices of any integer dtype; or, in the shape of the logits, class probabilities.
    linear_bias : array, shape (C,) or (C, d1, ..., dK), optional
        The bias b.
    weight : array, shape (C,), optional
        Weight of each class.
    reduction : {"mean", "sum", "none"}
        With class indices the mean is divided by the summed weight of the rows that count, with probabilities by the
        number of rows.
    ignore_index : int, optional
        Rows with this class index count neither in value, gradient nor mean; None means -100.
    label_smoothing : float
        In [0, 1].
    options : LinearCrossEntropyOptions, optional
        How to cut the rows in chunks: this package's class or torch's.
    logit_scale, softcap, z_loss, valid_classes, returns
        Those of :func:`cross_entropy`.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of class indices for ``reduction="none"``.

    Raises
    ------
    ValueError
        If a non-negative `ignore_index` or `valid_classes` meets class probabilities.

    Notes
    -----
    Equal to ``cross_entropy(input @ linear_weight.T + linear_bias, target)``. Chunks of rows go through three matrix
    products (NumPy's on the CPU, the array library's on a GPU); between them the gradient replaces the logits in place.
    Beyond the results, memory is allocated for one chunk of logits (128 MiB at most, one row at least) and blocks
    of 4 MiB, and a number for each row; on a GPU twice that. Half-precision arguments are converted chunk by chunk
    and block by block. The weight's gradient is then added up over several chunks in a float32 array beside it, of up
    to 64 MiB on the CPU; a larger one is computed in a second pass, a block of classes of 8 MiB after the other, by a
    fourth matrix product (not with label smoothing, class probabilities, or a gradient in the place of the input). A
    gradient that is written into the memory of an argument needs an array in float32. A non-contiguous array is copied.

    torch tensors of bfloat16 in CUDA memory are multiplied as they are, on tensor cores; the products are summed and
    the logits kept in float32, their gradient is rounded to bfloat16 before it is multiplied.

    Differentiated with respect to `input`, `linear_weight` and, where it is given, `linear_bias`; with class
    probabilities `target` and `weight` may be named as well. What is not asked for is not computed.

    References
    ----------
    E. Wijmans et al., "Cut your losses in large-vocabulary language models", ICLR 2025.
    ``torch.nn.functional.linear_cross_entropy``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.linear_cross_entropy([[1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]], [0]).round(4))
    0.1269
    """
    chosen = options_of(options)
    rows = Rowwise(
        SMOOTH_CROSS_ENTROPY if label_smoothing > 0 else CROSS_ENTROPY,
        None,
        target,
        SOFT_CROSS_ENTROPY,
        weight,
        (float(label_smoothing),),
        -100 if ignore_index is None else ignore_index,
        reduction,
        "weights",
    )
    return Projected(
        scored(rows, logit_scale, softcap, z_loss, valid_classes, returns),
        input,
        linear_weight,
        linear_bias,
        None if chosen is None else chosen.rows,
        None if chosen is None else dtype_name(chosen.acc_dtype),
    )


@loss(
    "projected",
    wrt=("hidden", "head"),
    also=("bias",),
    differentiable=("hidden", "head", "bias"),
    hessian=None,
    options={"logit_scale": FINITE, "softcap": POSITIVE_OR_NONE, "returns": RETURNED},
    domains={"token": "class"},
)
def linear_log_prob(
    hidden: Array,
    head: Array,
    token: Array,
    *,
    bias: Array | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    returns: tuple[str, ...] = (),
) -> Array:
    r"""Log-probability of each token, from hidden states; the logits are never stored whole.

    .. math:: \ell_n = \log \mathrm{softmax}(W x_n + b)_{y_n}

    Parameters
    ----------
    hidden : array, shape (F,) or (N, F)
        Hidden states x.
    head : array, shape (C, F)
        The map W, a row for each token of the vocabulary.
    token : array of integers, shape () or (N,)
        The tokens y; -100 is ignored, and has 0.
    bias : array, shape (C,), optional
        The bias b.
    logit_scale, softcap, returns
        Those of :func:`cross_entropy`.

    Returns
    -------
    array
        Of the shape of `token`; with `returns` a named tuple of it and what was asked for.

    Notes
    -----
    Memory and speed are those of :func:`linear_cross_entropy`, of whose unreduced value it is the negative. A
    transform's `grad_output` has a number for each token.

    References
    ----------
    E. Wijmans et al., "Cut your losses in large-vocabulary language models", ICLR 2025.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.linear_log_prob([[1.0, 1.0]], [[2.0, 0.0], [0.0, 0.0]], [0]).round(4))
    [-0.1269]
    """
    rows = Rowwise(TOKEN_LOG_PROBABILITY, None, token, ignore_index=-100, reduction="none")
    rows = scored(rows, logit_scale, softcap, 0.0, None, returns)
    return Projected(rows, hidden, head, bias, names=("hidden", "head", "token", "bias"))


@loss("clustered", differentiable=("input", "head_weight", "head_bias", "tail_weights"), hessian=None)
def adaptive_log_softmax_with_loss(
    input: Array,
    target: Array,
    head_weight: Array,
    tail_weights: Sequence[tuple[Array, Array]],
    head_bias: Array | None = None,
    *,
    cutoffs: Sequence[int],
) -> Any:
    r"""Adaptive softmax: frequent classes in a head, the others in clusters with smaller maps of their own.

    .. math::

        \log p(y | x) = \begin{cases}
            \log \mathrm{softmax}(H x + b)_y & y < c_1 \\
            \log \mathrm{softmax}(H x + b)_{c_1 + k} + \log \mathrm{softmax}(O_k P_k x)_{y - c_{k+1}}
            & c_{k+1} \le y < c_{k+2}
        \end{cases}

    for the clusters k = 0, 1, ..., and the loss is :math:`-\frac{1}{N} \sum_n \log p(y_n | x_n)`.

    Parameters
    ----------
    input : array, shape (F,) or (N, F)
        Features.
    target : array of integers, shape () or (N,)
        Class indices; low ones should be the frequent ones.
    head_weight : array, shape (c1 + K, F)
        The map H: the first classes, and one entry for each of the K clusters.
    tail_weights : sequence of K pairs of arrays, shapes (Dk, F) and (Ck, Dk)
        The maps P and O of each cluster of Ck classes.
    head_bias : array, shape (c1 + K,), optional
        The bias b.
    cutoffs : sequence of int
        The first class c1, c2, ... of each cluster; the number of classes may follow, as in torch's attribute.

    Returns
    -------
    AdaptiveOutput
        A named tuple: `output`, the log-probability of each target, and `loss`, their negative mean. A transform
        differentiates `loss`, and its `grad_output` is a factor.

    Raises
    ------
    ValueError
        If `cutoffs` are no positive integers in increasing order, or do not go with the shapes.
    TypeError
        If a weight is not floating point, or `target` is not of an integer dtype.
    IndexError
        If a target is not a class.

    Notes
    -----
    A tail runs over the rows whose class it holds, and no array of rows by classes is made: logits exist in chunks of
    128 MiB, beside copies of a tail's rows of the input. Differentiable with respect to `input`, `head_weight`,
    `head_bias` and `tail_weights`, whose gradient is a tuple of pairs. On a GPU the call waits for the class indices.
    A non-contiguous array is copied.

    References
    ----------
    E. Grave et al., "Efficient softmax approximation for GPUs", ICML 2017. ``torch.nn.AdaptiveLogSoftmaxWithLoss``.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> tail = (np.ones((1, 2)), np.zeros((2, 1)))
    >>> output, loss = fl.adaptive_log_softmax_with_loss(np.ones((1, 2)), [2], np.zeros((2, 2)), [tail], cutoffs=[1])
    >>> print(output.round(4), loss.round(4))
    [-1.3863] 1.3863
    """
    try:
        tails = tuple([tuple(pair) for pair in tail_weights])
    except TypeError:
        raise TypeError(f"tail_weights must be a sequence of pairs of arrays, got {tail_weights!r}") from None
    return Clustered(CROSS_ENTROPY, input, target, head_weight, head_bias, tails, checked_cutoffs(cutoffs))
