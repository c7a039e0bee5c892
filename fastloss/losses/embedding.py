"""Losses of pairs: of vectors, and of scores."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise, PairMaths, Pairwise
from fastloss.define.maths import maths
from fastloss.define.options import AXIS, FINITE, NON_NEGATIVE
from fastloss.define.scalars import relu, sqrt, step

# torch adds this to each *squared* norm of a cosine embedding.
_COSINE_EPSILON = 1e-12


@maths
def cosine_terms(a, b, c, peaks, params):
    """a·b, |a|² and |b|²."""
    return a * b, a * a, b * b


@maths
def cosine_row(sums, peaks, y, params):
    """1 - cos for y = 1, max(0, cos - m) for y = -1, else 0."""
    T = type(y)
    dot, aa, bb = sums
    aa = aa + T(_COSINE_EPSILON)
    bb = bb + T(_COSINE_EPSILON)
    inverse = T(1) / (sqrt(aa) * sqrt(bb))  # the product of the squares could overflow
    cosine = dot * inverse
    excess = cosine - params[0]
    value = T(0)
    slope = T(0)
    if y == T(1):
        value = T(1) - cosine
        slope = T(-1)
    elif y == T(-1):
        value = T(0) if excess < T(0) else excess
        slope = T(0) if excess < T(0) else T(1)
    return value, (slope * inverse, slope * cosine / aa, slope * cosine / bb, T(1) / aa)


@maths
def cosine_entry(a, b, c, coefs, params):
    """±(b / |a||b| - cos a / |a|²), and ±(3 cos a²/|a|⁴ - 2 a b / |a|³|b| - cos / |a|²)."""
    T = type(a)
    inverse, along_a, along_b, inverse_aa = coefs
    curvature = (T(3) * along_a * a - T(2) * inverse * b) * a * inverse_aa - along_a
    return (inverse * b - along_a * a, inverse * a - along_b * b), curvature


COSINE = PairMaths(cosine_terms, cosine_row, cosine_entry)


@loss(
    "pairwise",
    wrt=("input1", "input2"),
    options={"margin": FINITE},
    domains={"target": "sign"},
    legacy=True,
)
def cosine_embedding_loss(
    input1: Array, input2: Array, target: Array, *, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    r"""Cosine distance of like pairs, cosine similarity above a margin of unlike ones.

    .. math::

        \ell_n = \begin{cases} 1 - \cos(a_n, b_n) & y_n = 1 \\ \max(0, \cos(a_n, b_n) - m) & y_n = -1 \end{cases}

    Parameters
    ----------
    input1, input2 : array, shape (D,) or (N, D)
        The vectors a and b; axes of length 1 are broadcast, by a copy.
    target : array, shape () or (N,)
        1 for a like pair, -1 for an unlike one; a single one serves all pairs. Any other value gives 0.
    margin : float
        The margin m.
    reduction : {"mean", "sum", "none"}
        The mean is over the number of pairs.

    Returns
    -------
    array
        Zero-dimensional, or one value for each pair for ``reduction="none"``.

    Raises
    ------
    ValueError
        If the shapes do not go together or an option is out of range.
    TypeError
        If a vector is not floating point, or the arrays lie on different devices.

    Notes
    -----
    As in torch, 1e-12 is added to each squared norm, which biases vectors shorter than about 1e-6. Differentiable with
    respect to `input1` and `input2`; at the kink ``cos = margin`` the gradient is that of the active side. A
    non-contiguous vector is copied.

    References
    ----------
    ``torch.nn.functional.cosine_embedding_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.cosine_embedding_loss([[1.0, 0.0]], [[0.0, 1.0]], [1.0]))
    1.0
    """
    return Pairwise(COSINE, (input1, input2), ("input1", "input2"), target, (float(margin),), reduction)


@maths
def similarity_row(sums, peaks, y, params):
    """a·b / |a||b|, the norms at least eps; one below it counts as eps, but its derivative flows, as in torch."""
    T = type(y)
    dot, aa, bb = sums
    eps = params[0]
    norm_a = sqrt(aa)
    norm_b = sqrt(bb)
    clamped_a = eps if norm_a < eps else norm_a  # NaN stays NaN
    clamped_b = eps if norm_b < eps else norm_b
    cosine = dot / clamped_a / clamped_b
    # d|a|/da = a / |a|, 0 for the zero vector
    along_a = cosine / clamped_a / norm_a if norm_a > T(0) else T(0)
    along_b = cosine / clamped_b / norm_b if norm_b > T(0) else T(0)
    unit = T(1) / norm_a if norm_a > T(0) else T(0)
    return cosine, (T(1) / clamped_a / clamped_b, along_a, along_b, unit / clamped_a, unit)


@maths
def similarity_entry(a, b, c, coefs, params):
    """b / |a||b| - cos a / |a|², and 3 cos a²/|a|⁴ - 2 a b / |a|³|b| - cos / |a|²."""
    T = type(a)
    inverse, along_a, along_b, per_square, unit = coefs
    u = a * unit
    curvature = along_a * (u * u - T(1)) + T(2) * a * per_square * (along_a * a - inverse * b)
    return (inverse * b - along_a * a, inverse * a - along_b * b), curvature


@maths
def cosine_distance_row(sums, peaks, y, params):
    """1 - cos: the entries are linear in the coefficients that change their sign."""
    T = type(y)
    cosine, (inverse, along_a, along_b, per_square, unit) = similarity_row(sums, peaks, y, params)
    return T(1) - cosine, (-inverse, -along_a, -along_b, per_square, unit)


SIMILARITY = PairMaths(cosine_terms, similarity_row, similarity_entry)
COSINE_DISTANCE = PairMaths(cosine_terms, cosine_distance_row, similarity_entry)
SIMILARITY_EPSILON = 1e-8


@loss(
    "pairwise",
    wrt=("x1", "x2"),
    options={"dim": AXIS, "eps": NON_NEGATIVE},
)
def cosine_similarity(x1: Array, x2: Array, *, dim: int = 1, eps: float = SIMILARITY_EPSILON) -> Array:
    r"""Cosine of the angle between pairs of vectors.

    .. math:: \cos(u, v) = \frac{u \cdot v}{\max(\lVert u \rVert, \epsilon) \max(\lVert v \rVert, \epsilon)}

    Parameters
    ----------
    x1, x2 : array, shapes that broadcast together
        The vectors u and v; broadcasting makes a copy.
    dim : int
        The axis of the common shape along which the vectors lie.
    eps : float
        Lower bound of each norm.

    Returns
    -------
    array
        The common shape without the axis `dim`.

    Raises
    ------
    ValueError
        If the shapes do not go together or `dim` is no axis of theirs.
    TypeError
        If an array is not floating point, or the arrays lie on different devices.

    Notes
    -----
    A norm below `eps` is replaced by it in the value, yet its derivative flows, as in torch. In half precision the
    norms and `eps` are float32: a zero vector gives 0, where torch gives NaN. With `dim` other than the last axis, and
    for non-contiguous arrays, the arrays are copied.

    References
    ----------
    ``torch.nn.functional.cosine_similarity``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.cosine_similarity([[3.0, 4.0]], [[4.0, 3.0]]).round(4))
    [0.96]
    """
    return Pairwise(
        SIMILARITY, (x1, x2), ("x1", "x2"), params=(float(eps),), reduction="none", axis=dim, broadcast=True
    )


@maths
def margin_ranking(a, b, y, margin):
    """max(0, m - y (a - b))."""
    T = type(a)
    h = margin - y * (a - b)
    k = step(h)
    return relu(h), (-k * y, k * y, k * (b - a)), T(0)


@loss(
    "elementwise",
    wrt=("input1", "input2"),
    differentiable=("input1", "input2", "target"),
    hessian="zero",
    options={"margin": FINITE},
    domains={"target": "sign"},
    legacy=True,
)
def margin_ranking_loss(
    input1: Array, input2: Array, target: Array, *, margin: float = 0.0, reduction: str = "mean"
) -> Array:
    r"""Hinge on which of two scores is the larger.

    .. math:: \ell_i = \max(0, m - y_i (a_i - b_i))

    Parameters
    ----------
    input1, input2 : array, shape (*)
        The scores a and b.
    target : array, shape (*)
        1 where `input1` should be the larger, -1 where `input2` should. All three have the same number of axes; axes of
        length 1 are broadcast.
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
        If a score is not floating point, or the arrays lie on different devices.

    Notes
    -----
    Differentiable with respect to all three; at the hinge's kink the gradient is that of the active side. The second
    derivative is zero.

    References
    ----------
    ``torch.nn.functional.margin_ranking_loss``.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.margin_ranking_loss([1.0], [2.0], [1.0]))
    1.0
    """
    return Elementwise(
        margin_ranking,
        (input1, input2, target),
        ("input1", "input2", "target"),
        (float(margin),),
        reduction=reduction,
        broadcast="same_ndim",
        leads=3,
        reals=2,
    )
