"""Losses of pairs: of vectors, and of scores."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Array, Elementwise, PairMaths, Pairwise
from fastloss.define.maths import maths
from fastloss.define.options import AXIS, FINITE, NON_NEGATIVE
from fastloss.define.scalars import relu, scale_of_squares, sqrt, step

# torch adds this to each *squared* norm of a cosine embedding.
_COSINE_EPSILON = 1e-12


@maths
def cosine_terms(a, b, c, tops, params):
    """a·b, |a|² and |b|², of scaled vectors."""
    u = a * tops[0]
    v = b * tops[1]
    return u * v, u * u, v * v


@maths
def quotient(x, y):
    """Return x / y, and exactly 1 and -1 for equal and opposite numbers, however the compiler divides."""
    T = type(x)
    return T(1) if x == y else (T(-1) if x == -y else x / y)


@maths
def cosine_of(dot, square_a, square_b):
    """Return (cos, 1 / |a||b|) of an inner product and two squared norms; cos is 1 and -1 for equal and opposite."""
    T = type(dot)
    norm_a, norm_b = sqrt(square_a), sqrt(square_b)
    norms = norm_a * norm_b
    norms = square_a if square_a == square_b else norms  # which rounding might have moved
    cosine = quotient(dot, norms)
    cosine = T(1) if cosine > T(1) else (T(-1) if cosine < T(-1) else cosine)
    return cosine, T(1) / norms


@maths
def cosine_row(sums, tops, y, params):
    """1 - cos for y = 1, max(0, cos - m) for y = -1, else 0."""
    T = type(y)
    dot, aa, bb = sums
    aa = aa + T(_COSINE_EPSILON) * tops[0] * tops[0]
    bb = bb + T(_COSINE_EPSILON) * tops[1] * tops[1]
    cosine, inverse = cosine_of(dot, aa, bb)
    excess = cosine - params[0]
    value = T(0)
    slope = T(0)
    if y == T(1):
        value = T(1) - cosine
        slope = T(-1)
    elif y == T(-1):
        value = relu(excess)
        slope = step(excess)
    unit = T(1) / sqrt(aa)
    return value, (tops[0], tops[1], slope * inverse, quotient(dot, aa), quotient(dot, bb), unit, unit)


@maths
def cosine_entry(a, b, c, coefs, params):
    """(b - a (a·b / |a|²)) / |a||b|, exactly 0 for equal vectors, and the second derivative in a."""
    T = type(a)
    scale_a, scale_b, inverse, along_a, along_b, unit, over_norm = coefs
    a = a * scale_a
    b = b * scale_b
    slope = inverse * (b - along_a * a)
    u = a * unit
    curvature = inverse * along_a * (u * u - T(1)) - T(2) * u * over_norm * slope
    return (slope * scale_a, inverse * (a - along_b * b) * scale_b), curvature * scale_a * scale_a


@maths
def cosine_again(sums, params):
    """The scales of the two vectors."""
    T = type(sums[0])
    return scale_of_squares(sums[1] + T(_COSINE_EPSILON)), scale_of_squares(sums[2] + T(_COSINE_EPSILON)), T(1)


COSINE = PairMaths(cosine_terms, cosine_row, cosine_entry, again=cosine_again)


@loss("pairwise", wrt=("input1", "input2"), options={"margin": FINITE}, domains={"target": "sign"}, legacy=True)
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

    Notes
    -----
    As in torch, 1e-12 is added to each squared norm, which biases vectors shorter than about 1e-6. Differentiable with
    respect to `input1` and `input2`; at the kink ``cos = margin`` the gradient is 0, as in torch since 2.14. Squares
    neither overflow nor underflow, and no cosine is above 1: the loss of equal vectors is not negative. A vector that
    is not contiguous is copied.

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
def similarity_row(sums, tops, y, params):
    """a·b / |a||b|, the norms at least eps; one below it counts as eps, but its derivative flows, as in torch."""
    T = type(y)
    dot, aa, bb = sums
    square_a = clamped_square(aa, params[0] * tops[0])
    square_b = clamped_square(bb, params[0] * tops[1])
    cosine, inverse = cosine_of(dot, square_a, square_b)
    cosine = T(0) if square_a == T(0) or square_b == T(0) else cosine
    unit = T(1) / sqrt(aa) if aa > T(0) else T(0)
    along_a = along(dot, aa, square_a)
    along_b = along(dot, bb, square_b)
    return cosine, (tops[0], tops[1], inverse, along_a, along_b, unit, T(1) / sqrt(square_a))


@maths
def clamped_square(square, eps):
    """Return the square of a norm, and that of eps where it is smaller; NaN stays NaN."""
    return eps * eps if square < eps * eps else square


@maths
def along(dot, square, clamped):
    """Return a·b / |a|², one |a| of which is clamped; d|a|/da = a / |a|, 0 for the zero vector."""
    T = type(dot)
    if square < clamped:
        return dot / sqrt(clamped) / sqrt(square) if square > T(0) else T(0)
    return quotient(dot, square)


@maths
def similarity_again(sums, params):
    """The scales of the two vectors: those of eps, where their norms are below it."""
    T = type(sums[0])
    eps = params[0]
    return scale_of_squares(clamped_square(sums[1], eps)), scale_of_squares(clamped_square(sums[2], eps)), T(1)


@maths
def cosine_distance_row(sums, tops, y, params):
    """1 - cos: the entries are linear in the coefficient that changes its sign."""
    T = type(y)
    cosine, coefs = similarity_row(sums, tops, y, params)
    return T(1) - cosine, (coefs[0], coefs[1], -coefs[2], coefs[3], coefs[4], coefs[5], coefs[6])


SIMILARITY = PairMaths(cosine_terms, similarity_row, cosine_entry, again=similarity_again)
COSINE_DISTANCE = PairMaths(cosine_terms, cosine_distance_row, cosine_entry, again=similarity_again)
SIMILARITY_EPSILON = 1e-8


@loss("pairwise", wrt=("x1", "x2"), options={"dim": AXIS, "eps": NON_NEGATIVE})
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
        If `dim` is not an axis of the common shape.

    Notes
    -----
    A norm below `eps` is replaced by it in the value, yet its derivative flows, as in torch. Squares neither overflow
    nor underflow, and the result is in [-1, 1]. Two numbers are vectors of one component. In half precision the norms
    and `eps` are float32: a zero vector gives 0, where torch gives NaN. With `dim` other than the last axis, and for
    non-contiguous arrays, the arrays are copied.

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

    Notes
    -----
    Differentiable with respect to all three; at the hinge's kink the gradient is 0, as in torch since 2.14. The second
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
