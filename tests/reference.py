"""One naive NumPy formula per loss, written from the definition and independent of the package's code.

A function gets arrays and options and returns the unreduced values; where the divisor of ``mean`` is not the number of
values, it returns ``(values, divisor)``. Nothing here is stable or fast. Adding a loss is adding its function.
"""

import math

import numpy as np


def reduced(name, arrays, options):
    """Return the loss `name` under ``options["reduction"]``, or as it is where the loss has no reduction."""
    options = dict(options)
    unreduced_by_nature = name in WITHOUT_REDUCTION
    reduction = options.pop("reduction", "none" if unreduced_by_nature else "mean")
    with np.errstate(all="ignore"):
        result = globals()[name](**arrays, **options)
        values, divisor = result if isinstance(result, tuple) else (result, np.size(result))
        if reduction == "none":
            return values
        if reduction == "batchmean":
            divisor = np.shape(arrays["input"])[0] if np.ndim(arrays["input"]) else 1
        return np.sum(values) / (np.float64(divisor) if reduction != "sum" else 1)


WITHOUT_REDUCTION = frozenset(
    {"softmax", "log_softmax", "logsumexp", "sigmoid", "logsigmoid", "cosine_similarity", "pairwise_distance"}
)


# -- regression ------------------------------------------------------------------------------------------------------


def _weighted(values, weight):
    return values if weight is None else weight * values


def l1_loss(input, target, weight=None):
    values = _weighted(abs(input - target), weight)
    return values if weight is None else (values, np.sum(weight))


def mse_loss(input, target, weight=None):
    values = _weighted((input - target) ** 2, weight)
    return values if weight is None else (values, np.sum(weight))


def smooth_l1_loss(input, target, beta=1.0):
    r = abs(input - target)
    return np.where(r < beta, r**2 / (2 * beta) if beta else 0, r - beta / 2)


def huber_loss(input, target, weight=None, delta=1.0):
    r = abs(input - target)
    return _weighted(np.where(r <= delta, r**2 / 2, delta * (r - delta / 2)), weight)


def poisson_nll_loss(input, target, log_input=True, full=False, eps=1e-8):
    values = np.exp(input) - target * input if log_input else input - target * np.log(input + eps)
    if full:
        stirling = target * np.log(target) - target + np.log(2 * math.pi * target) / 2
        values = values + np.where(target > 1, stirling, 0)
    return values


def gaussian_nll_loss(input, target, var, full=False, eps=1e-6):
    var = np.asarray(var)
    if var.ndim == input.ndim - 1 and var.ndim:
        var = var[..., None]
    v = np.maximum(var, eps)
    return (np.log(v) + (input - target) ** 2 / v) / 2 + (math.log(2 * math.pi) / 2 if full else 0)


# -- yes or no -------------------------------------------------------------------------------------------------------


def sigmoid(input):
    return 1 / (1 + np.exp(-input))


def logsigmoid(input):
    return -np.log(1 + np.exp(-input))


def binary_cross_entropy(input, target, weight=None):
    log_p = np.maximum(np.log(input), -100)
    log_q = np.maximum(np.log(1 - input), -100)
    return _weighted(-(target * log_p + (1 - target) * log_q), weight)


def binary_cross_entropy_with_logits(input, target, weight=None, pos_weight=1.0):
    values = -(pos_weight * target * logsigmoid(input) + (1 - target) * logsigmoid(-input))
    return _weighted(values, weight)


def soft_margin_loss(input, target):
    return np.log(1 + np.exp(-target * input))


def hinge_embedding_loss(input, target, margin=1.0):
    return np.where(target != -1, input, 0) + np.where(target != 1, np.maximum(0, margin - input), 0)


def binary_focal_loss(input, target, gamma=2.0, alpha=0.75):
    positive, negative = (1, 1) if alpha < 0 else (alpha, 1 - alpha)
    return -positive * (1 - input) ** gamma * target * np.log(input) - negative * input**gamma * (1 - target) * np.log(
        1 - input
    )


def sigmoid_focal_loss(input, target, gamma=2.0, alpha=0.25):
    p = sigmoid(input)
    p_right = p * target + (1 - p) * (1 - target)
    values = binary_cross_entropy_with_logits(input, target) * (1 - p_right) ** gamma
    return values if alpha < 0 else (alpha * target + (1 - alpha) * (1 - target)) * values


# -- classes ---------------------------------------------------------------------------------------------------------


def softmax(input, dim, dtype=None):
    e = np.exp(input)
    return e / e.sum(axis=dim, keepdims=True)


def log_softmax(input, dim, dtype=None):
    return input - np.log(np.exp(input).sum(axis=dim, keepdims=True))


def logsumexp(input, dim, keepdim=False):
    return np.log(np.exp(input).sum(axis=dim, keepdims=keepdim))


def _class_axis(input):
    return 0 if np.ndim(input) == 1 else 1


def _along_classes(weight, input):
    """Shape the class weights for multiplication with the input; ones when there are none."""
    axis = _class_axis(input)
    weight = np.ones(input.shape[axis]) if weight is None else weight
    return weight.reshape([-1 if k == axis else 1 for k in range(input.ndim)])


def _one_hot(target, input):
    axis = _class_axis(input)
    classes = np.arange(input.shape[axis]).reshape([-1 if k == axis else 1 for k in range(input.ndim)])
    return (np.expand_dims(target, axis) == classes).astype(float)


def nll_loss(input, target, weight=None, ignore_index=-100):
    axis = _class_axis(input)
    counts = target != ignore_index
    mass = _one_hot(target, input) * _along_classes(weight, input) * np.expand_dims(counts, axis)
    return -(mass * input).sum(axis), mass.sum()


def cross_entropy(input, target, weight=None, ignore_index=-100, label_smoothing=0.0):
    axis = _class_axis(input)
    w, log_p = _along_classes(weight, input), log_softmax(input, axis)
    smooth = label_smoothing / input.shape[axis]
    if np.shape(target) == np.shape(input):
        return -(w * ((1 - label_smoothing) * target + smooth) * log_p).sum(axis)
    hard, divisor = nll_loss(log_p, target, weight, ignore_index)
    spread = -(w * log_p).sum(axis) * (target != ignore_index)
    return (1 - label_smoothing) * hard + smooth * spread, divisor


def symmetric_cross_entropy(input, target, a=1.0, b=1.0, ignore_index=-100):
    axis = _class_axis(input)
    counts = target != ignore_index
    hard, divisor = cross_entropy(input, target, None, ignore_index)
    p = np.maximum(softmax(input, axis), 1e-4)
    reverse = -(p * np.log(np.maximum(_one_hot(target, input), 1e-4))).sum(axis) * counts
    return a * hard + b * reverse, divisor


def multi_margin_loss(input, target, weight=None, p=1, margin=1.0):
    rows, labels = np.atleast_2d(input), np.atleast_1d(target)
    values = []
    for x, y in zip(rows, labels, strict=True):
        others = np.delete(x, y)
        w = 1 if weight is None else weight[y]
        values.append((w * np.maximum(0, margin - x[y] + others) ** p).sum() / len(x))
    return np.array(values).reshape(np.shape(target))


def multilabel_margin_loss(input, target):
    rows, labels = np.atleast_2d(input), np.atleast_2d(target)
    values = []
    for x, listed in zip(rows, labels, strict=True):
        end = np.flatnonzero(listed < 0)
        listed = listed[: end[0]] if len(end) else listed
        others = np.delete(x, listed)
        values.append(np.maximum(0, 1 - (x[listed][:, None] - others)).sum() / len(x))
    return np.array(values).reshape(np.shape(input)[:-1])


def multilabel_soft_margin_loss(input, target, weight=None):
    return binary_cross_entropy_with_logits(input, target, weight).mean(axis=-1)


# -- distributions ---------------------------------------------------------------------------------------------------


def kl_div(input, target, log_target=False):
    if log_target:
        return np.exp(target) * (target - input)
    return np.where(target == 0, 0, target * np.log(target)) - target * input


# -- vectors ---------------------------------------------------------------------------------------------------------


def _norm(d, p):
    if math.isinf(p):
        return abs(d).max(-1)
    return (abs(d) ** p).sum(-1) ** (1 / p)


def pairwise_distance(x1, x2, p=2.0, eps=1e-6, keepdim=False):
    d = _norm(x1 - x2 + eps, p)
    return d[..., None] if keepdim else d


def cosine_similarity(x1, x2, dim=1, eps=1e-8):
    def unit(x):
        return x / np.maximum(np.sqrt((x * x).sum(dim, keepdims=True)), eps)

    x1, x2 = np.broadcast_arrays(x1, x2)
    return (unit(x1) * unit(x2)).sum(dim)


def cosine_embedding_loss(input1, input2, target, margin=0.0):
    squares = [(v * v).sum(-1) + 1e-12 for v in (input1, input2)]
    cosine = (input1 * input2).sum(-1) / np.sqrt(squares[0] * squares[1])
    return np.where(target == 1, 1 - cosine, np.where(target == -1, np.maximum(0, cosine - margin), 0))


def margin_ranking_loss(input1, input2, target, margin=0.0):
    return np.maximum(0, -target * (input1 - input2) + margin)


def triplet_margin_loss(anchor, positive, negative, margin=1.0, p=2.0, eps=1e-6, swap=False):
    near, far = _norm(anchor - positive + eps, p), _norm(anchor - negative + eps, p)
    if swap:
        far = np.minimum(far, _norm(positive - negative + eps, p))
    return np.maximum(0, near - far + margin)


def triplet_margin_with_distance_loss(anchor, positive, negative, margin=1.0, swap=False, distance_function=None):
    return triplet_margin_loss(anchor, positive, negative, margin, 2.0, 1e-6, swap)


# -- sequences and large outputs -------------------------------------------------------------------------------------


def ctc_loss(log_probs, targets, input_lengths, target_lengths, blank=0, zero_infinity=False):
    """Sum over alignments by the forward recursion, in probabilities.

    `log_probs` is normalised first: its differences then follow torch's convention, exp(log_probs) less the posterior.
    """
    batch = log_probs.ndim == 3
    probs = softmax(log_probs, dim=-1)
    probs = probs if batch else probs[:, None]
    lengths = np.atleast_1d(target_lengths)
    rows = np.split(targets, np.cumsum(lengths)[:-1]) if batch and np.ndim(targets) == 1 else np.atleast_2d(targets)
    values = []
    for n, (steps, length) in enumerate(zip(np.atleast_1d(input_lengths), lengths, strict=True)):
        path = [blank]
        for label in rows[n][:length]:
            path += [label, blank]
        alpha = np.zeros(len(path))
        for t in range(steps):
            before = alpha
            alpha = np.zeros(len(path), probs.dtype)
            for s, label in enumerate(path):
                if t == 0:
                    reached = float(s < 2)
                else:
                    reached = before[s] + (before[s - 1] if s else 0)
                    if s > 1 and label not in (blank, path[s - 2]):
                        reached += before[s - 2]
                alpha[s] = reached * probs[t, n, label]
        values.append(-np.log(alpha[-2:].sum()) if steps else (0.0 if length == 0 else math.inf))
    values = np.array(values)
    if zero_infinity:
        values = np.where(np.isinf(values), 0, values)
    values = values if batch else values[0]
    return values, _CtcMean(values, lengths)


class _CtcMean(float):
    """The divisor that makes sum/divisor the mean of each value over its own target length."""

    def __new__(cls, values, lengths):
        values = np.atleast_1d(values)
        mean = np.mean(values / np.maximum(lengths, 1))
        return super().__new__(cls, values.sum() / mean if mean else len(values))


def linear_cross_entropy(
    input, linear_weight, target, linear_bias=None, weight=None, ignore_index=-100, label_smoothing=0.0
):
    logits = np.tensordot(input, linear_weight, axes=(-1, -1))
    logits = logits if linear_bias is None else logits + linear_bias
    return cross_entropy(logits, target, weight, -100 if ignore_index is None else ignore_index, label_smoothing)


# -- quantiles, overlap, contrasts -----------------------------------------------------------------------------------


def quantile_loss(input, target, q=0.5):
    return np.maximum(q * (target - input), (q - 1) * (target - input))


def generalized_cross_entropy(input, target, weight=None, q=0.7, ignore_index=-100):
    axis = _class_axis(input)
    mass = _one_hot(target, input) * _along_classes(weight, input) * np.expand_dims(target != ignore_index, axis)
    return (mass * (1 - softmax(input, axis) ** q) / q).sum(axis), mass.sum()


def dice_loss(input, target, smooth=1.0):
    axes = tuple(range(min(2, input.ndim - 1), input.ndim))
    overlap, total = (input * target).sum(axes), (input + target).sum(axes)
    return 1 - (2 * overlap + smooth) / (total + smooth)


def soft_dice_loss(input, target, dim=1, smooth=1.0):
    return dice_loss(softmax(input, dim), target, smooth)


def info_nce_loss(query, key, temperature=0.1, symmetric=False):
    own = (query * key[: len(query)]).sum(1) / temperature
    values = np.log(np.exp(query @ key.T / temperature).sum(1)) - own
    return (values + info_nce_loss(key, query, temperature)) / 2 if symmetric else values
