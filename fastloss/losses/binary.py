"""Losses of a score against a yes or no."""

from __future__ import annotations

import math

from fastloss._registry import jitable, loss
from fastloss._spec import BELOW_ONE, FINITE, NON_NEGATIVE, Array, Elementwise
from fastloss.losses.scalars import exp_nonpositive, log, log1p, log1p_unit, power, relu, step


@jitable
def bce_with_logits(x, t):
    """(1 - t) x + log(1 + exp(-x)); the second derivative is σ(x) σ(-x)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    positive = x > T(0)
    inverse = T(1) / (T(1) + e)
    p = inverse if positive else e * inverse
    value = (x if positive else T(0)) - t * x + log1p_unit(e)
    return value, (p - t, -x), e * inverse * inverse


@jitable
def bce_with_logits_pos_weight(x, t, q):
    """(1 - t) x + (1 + (q - 1) t) log(1 + exp(-x)), q the weight of the positive class."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    positive = x > T(0)
    inverse = T(1) / (T(1) + e)
    p = inverse if positive else e * inverse
    log_weight = T(1) + (q - T(1)) * t
    softplus_minus = log1p_unit(e) - (T(0) if positive else x)
    value = (T(1) - t) * x + log_weight * softplus_minus
    return value, (log_weight * p - q * t, (q - T(1)) * softplus_minus - x), log_weight * e * inverse * inverse


@loss("elementwise", differentiable=("input", "target"), domains={"target": "probability", "pos_weight": "positive"})
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    r"""Binary cross-entropy of logits.

    .. math:: \ell_i = -w_i \left[ q_i t_i \log \sigma(x_i) + (1 - t_i) \log \sigma(-x_i) \right]

    Parameters
    ----------
    input : array, shape (*)
        Logits.
    target : array, shape (*)
        Probabilities of the positive class, any integer or floating dtype; values outside [0, 1] are computed with.
    weight : array, broadcastable to `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements; weights do not enter its divisor.
    pos_weight : array, broadcastable to `input`, optional
        Weight q of the positive class, usually one for each column.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    ValueError
        If `input` and `target` differ in shape, `weight` or `pos_weight` does not broadcast to it, or `reduction` is
        unknown.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Computed from ``exp(-|x|)``: no overflow for any finite logit. Infinite logits follow torch: NaN where the exact
    value would be 0 times infinity. Differentiable with respect to `input` and `target`.

    References
    ----------
    ``torch.nn.functional.binary_cross_entropy_with_logits``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.binary_cross_entropy_with_logits([0.0], [1.0]).round(4))
    0.6931
    """
    if pos_weight is None:
        return Elementwise(bce_with_logits, (input, target), weight=weight, reduction=reduction, broadcast="exact")
    return Elementwise(
        bce_with_logits_pos_weight,
        (input, target, pos_weight),
        ("input", "target", "pos_weight"),
        weight=weight,
        reduction=reduction,
        broadcast="exact",
    )


@jitable
def bce(x, t):
    """-t log x - (1 - t) log(1 - x), the logarithms not below -100; NaN outside [0, 1]."""
    T = type(x)
    low = log(x)
    high = log1p(-x)
    low = T(-100) if low < T(-100) else low
    high = T(-100) if high < T(-100) else high
    value = (t - T(1)) * high - t * low
    q = x * (T(1) - x)
    q = T(1e-12) if q < T(1e-12) else q
    spread = T(1) - x
    curvature = t / _floor(x * x) + (T(1) - t) / _floor(spread * spread)
    in_range = x >= T(0) and x <= T(1) and t >= T(0) and t <= T(1)
    return (value if in_range else T(math.nan)), ((x - t) / q, high - low), curvature


@jitable
def _floor(x):
    """Return x, or 1e-24 where it is smaller."""
    T = type(x)
    return T(1e-24) if x < T(1e-24) else x


@loss(
    "elementwise", differentiable=("input", "target"), domains={"input": "probability", "target": "probability"}
)
def binary_cross_entropy(
    input: Array, target: Array, weight: Array | None = None, *, reduction: str = "mean"
) -> Array:
    r"""Binary cross-entropy of probabilities.

    .. math:: \ell_i = -w_i \left[ t_i \log x_i + (1 - t_i) \log(1 - x_i) \right]

    Parameters
    ----------
    input : array, shape (*)
        Probabilities of the positive class, in [0, 1].
    target : array, shape (*)
        Their targets in [0, 1].
    weight : array, broadcastable to `input`, optional
        Weight of each element.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements; weights do not enter its divisor.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    ValueError
        If `input` and `target` differ in shape, hold values outside [0, 1], `weight` does not broadcast to it, or
        `reduction` is unknown.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    As in torch, the logarithms are clamped to -100 from below, and the gradient's divisor x (1 - x) to 1e-12. NaN gives
    NaN. Prefer :func:`binary_cross_entropy_with_logits` where there are logits. On a GPU values outside [0, 1] give
    NaN. Differentiable with respect to `input` and `target`.

    References
    ----------
    ``torch.nn.functional.binary_cross_entropy``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.binary_cross_entropy([0.5], [1.0]).round(4))
    0.6931
    """
    return Elementwise(
        bce, (input, target), weight=weight, reduction=reduction, broadcast="exact", unit_interval=True
    )


@jitable
def soft_margin(x, t):
    """log(1 + exp(-t x))."""
    T = type(x)
    z = t * x
    e = exp_nonpositive(-abs(z))
    inverse = T(1) / (T(1) + e)
    value = (T(0) if z > T(0) else -z) + log1p_unit(e)
    miss = e * inverse if z > T(0) else inverse
    return value, (-t * miss,), t * t * e * inverse * inverse


@loss("elementwise", domains={"target": "sign"})
def soft_margin_loss(input: Array, target: Array, *, reduction: str = "mean") -> Array:
    r"""Logistic loss of a score against a sign.

    .. math:: \ell_i = \log(1 + e^{-t_i x_i})

    Parameters
    ----------
    input : array, shape (*)
        Scores.
    target : array, shape (*)
        1 or -1, any integer or floating dtype. Broadcast against `input`.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together or `reduction` is unknown.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Stable for any score; torch's overflows for ``t x`` below -88 in float32.

    References
    ----------
    ``torch.nn.functional.soft_margin_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.soft_margin_loss([0.0], [1.0]).round(4))
    0.6931
    """
    return Elementwise(soft_margin, (input, target), reduction=reduction)


@jitable
def hinge_embedding(x, y, margin):
    """x for y = 1, max(0, m - x) for y = -1, both for any other y."""
    T = type(x)
    h = margin - x
    value = (T(0) if y == T(-1) else x) + (T(0) if y == T(1) else relu(h))
    slope = (T(0) if y == T(-1) else T(1)) - (T(0) if y == T(1) else step(h))
    return value, (slope,), T(0)


@loss("elementwise", hessian="zero", options={"margin": FINITE}, domains={"target": "sign"})
def hinge_embedding_loss(
    input: Array, target: Array, *, margin: float = 1.0, reduction: str = "mean"
) -> Array:
    r"""Distance of like pairs, hinge on the distance of unlike ones.

    .. math:: \ell_i = \begin{cases} x_i & y_i = 1 \\ \max(0, m - x_i) & y_i = -1 \end{cases}

    Parameters
    ----------
    input : array, shape (*)
        Distances.
    target : array, shape (*)
        1 or -1, any integer or floating dtype; as in torch any other value gets both terms. Broadcast against `input`.
    margin : float
        The margin m.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Returns
    -------
    array
        Zero-dimensional, or of the broadcast shape for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together or an option is out of range.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    At the kink ``input = margin`` the gradient is that of the active side. The second derivative is zero.

    References
    ----------
    ``torch.nn.functional.hinge_embedding_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.hinge_embedding_loss([0.25, 0.25], [1.0, -1.0], reduction="none"))
    [0.25 0.75]
    """
    return Elementwise(hinge_embedding, (input, target), params=(float(margin),), reduction=reduction)


@jitable
def sigmoid_focal(x, t, gamma, alpha):
    """α_t q^γ ce with q = 1 - p_t; every derivative is q^γ times something finite, r = q'/q."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    positive = x > T(0)
    inverse = T(1) / (T(1) + e)
    p = inverse if positive else e * inverse
    ce = (x if positive else T(0)) - t * x + log1p_unit(e)
    # With u the larger and v = e u the smaller of p and 1 - p: q = u (a + e b), p (1 - p) / q = e u / (a + e b).
    a = T(1) - t if positive else t
    b = t if positive else T(1) - t
    mix = a + e * b
    r = (T(1) - T(2) * t) * e * inverse / mix if mix > T(0) else T(0)
    power_q = power(inverse * mix, gamma)
    factor = power_q * (alpha * t + (T(1) - alpha) * (T(1) - t) if alpha >= T(0) else T(1))
    d = p - t
    curvature = e * inverse * inverse + gamma * r * (
        T(2) * d + ce * ((gamma - T(1)) * r + T(1) - T(2) * p)
    )
    return factor * ce, (factor * (d + gamma * r * ce),), factor * curvature


@loss(
    "elementwise",
    options={"gamma": NON_NEGATIVE, "alpha": BELOW_ONE},
    domains={"target": "probability"},
    legacy=False,
)
def sigmoid_focal_loss(
    input: Array, target: Array, *, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "mean"
) -> Array:
    r"""Focal loss of logits: binary cross-entropy with easy examples scaled down.

    .. math::

        \ell_i = \alpha_i (1 - p_i)^\gamma \mathrm{CE}(x_i, t_i), \qquad
        p_i = t_i \sigma(x_i) + (1 - t_i) \sigma(-x_i), \quad \alpha_i = \alpha t_i + (1 - \alpha) (1 - t_i)

    Parameters
    ----------
    input : array, shape (*)
        Logits.
    target : array, shape (*)
        0 or 1, or a probability; any integer or floating dtype.
    alpha : float
        Weight of the positive class, at most 1; a negative one turns the weighting off.
    gamma : float
        Focusing exponent, at least 0.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements. torchvision's default is ``"none"``.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    ValueError
        If `input` and `target` differ in shape or an option is out of range.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    1 - p is never formed by subtraction; value and derivatives are finite for any finite logit and any `gamma`.

    References
    ----------
    T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017. ``torchvision.ops.sigmoid_focal_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.sigmoid_focal_loss([0.0], [1.0]).round(4))
    0.0433
    """
    return Elementwise(
        sigmoid_focal, (input, target), params=(float(gamma), float(alpha)), reduction=reduction, broadcast="exact"
    )


@jitable
def focal_side(x, y, gamma):
    """-y^γ log x for x = 1 - y, and its first two derivatives with respect to x; log x not below -100."""
    T = type(x)
    u = log(x)
    u = T(-100) if u < T(-100) else u
    x = T(1e-12) if x < T(1e-12) else x
    safe = T(1e-12) if y < T(1e-12) else y
    w = power(y, gamma)
    r = T(1) / x
    s = gamma / safe
    slope = w * (s * u - r)
    return -w * u, slope, w * (T(2) * s * r - s * (gamma - T(1)) / safe * u + r * r)


@jitable
def binary_focal(x, t, gamma, alpha):
    """α t (1 - x)^γ (-log x) + (1 - α) (1 - t) x^γ (-log(1 - x))."""
    T = type(x)
    y = T(1) - x
    v1, d1, h1 = focal_side(x, y, gamma)
    v0, d0, h0 = focal_side(y, x, gamma)
    a = alpha * t if alpha >= T(0) else t
    b = (T(1) - alpha) * (T(1) - t) if alpha >= T(0) else T(1) - t
    in_range = x >= T(0) and x <= T(1) and t >= T(0) and t <= T(1)
    return (a * v1 + b * v0 if in_range else T(math.nan)), (a * d1 - b * d0,), a * h1 + b * h0


@loss(
    "elementwise",
    options={"gamma": NON_NEGATIVE, "alpha": BELOW_ONE},
    domains={"input": "probability", "target": "probability"},
    legacy=False,
)
def binary_focal_loss(
    input: Array, target: Array, *, gamma: float = 2.0, alpha: float = 0.75, reduction: str = "mean"
) -> Array:
    r"""Focal loss of probabilities.

    .. math:: \ell_i = -\alpha t_i (1 - x_i)^\gamma \log x_i - (1 - \alpha) (1 - t_i) x_i^\gamma \log(1 - x_i)

    Parameters
    ----------
    input : array, shape (*)
        Probabilities of the positive class, in [0, 1].
    target : array, shape (*)
        0 or 1, or a probability.
    gamma : float
        Focusing exponent, at least 0.
    alpha : float
        Weight of the positive class, at most 1; a negative one turns the weighting off.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of elements.

    Returns
    -------
    array
        Zero-dimensional, or of the shape of `input` for ``reduction="none"``.

    Raises
    ------
    ValueError
        If `input` and `target` differ in shape, hold values outside [0, 1], or an option is out of range.
    TypeError
        If `input` is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Logarithms are clamped to -100 from below, and divisors in the derivatives to 1e-12: everything is finite on [0, 1].
    Prefer :func:`sigmoid_focal_loss` where there are logits. On a GPU values outside [0, 1] give NaN.

    References
    ----------
    T.-Y. Lin et al., "Focal loss for dense object detection", ICCV 2017.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.binary_focal_loss([0.5], [1.0]).round(4))
    0.13
    """
    return Elementwise(
        binary_focal,
        (input, target),
        params=(float(gamma), float(alpha)),
        reduction=reduction,
        broadcast="exact",
        unit_interval=True,
    )


@jitable
def sigmoid_block(x):
    """σ(x), σ(x) σ(-x), and σ' (1 - 2 σ)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    inverse = T(1) / (T(1) + e)
    p = inverse if x > T(0) else e * inverse
    d = e * inverse * inverse
    return p, (d,), d * (T(1) - T(2) * p)


@jitable
def log_sigmoid_block(x):
    """-log(1 + exp(-x)), σ(-x), and -σ(x) σ(-x)."""
    T = type(x)
    e = exp_nonpositive(-abs(x))
    inverse = T(1) / (T(1) + e)
    value = (T(0) if x > T(0) else x) - log1p_unit(e)
    return value, (e * inverse if x > T(0) else inverse,), -e * inverse * inverse


@loss("elementwise", legacy=False)
def sigmoid(input: Array) -> Array:
    r"""Logistic function, element by element.

    .. math:: \sigma(x) = 1 / (1 + e^{-x})

    Parameters
    ----------
    input : array, shape (*)
        Logits.

    Returns
    -------
    array
        Of the shape and dtype of `input`.

    Raises
    ------
    TypeError
        If `input` is not floating point.

    References
    ----------
    ``torch.sigmoid``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.sigmoid([0.0]))
    [0.5]
    """
    return Elementwise(sigmoid_block, (input,), ("input",), reduction="none", leads=1)


@loss("elementwise", legacy=False)
def logsigmoid(input: Array) -> Array:
    r"""Logarithm of the logistic function, element by element.

    .. math:: \log \sigma(x) = \min(x, 0) - \log(1 + e^{-|x|})

    Parameters
    ----------
    input : array, shape (*)
        Logits.

    Returns
    -------
    array
        Of the shape and dtype of `input`.

    Raises
    ------
    TypeError
        If `input` is not floating point.

    References
    ----------
    ``torch.nn.functional.logsigmoid``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.logsigmoid([0.0]).round(4))
    [-0.6931]
    """
    return Elementwise(log_sigmoid_block, (input,), ("input",), reduction="none", leads=1)
