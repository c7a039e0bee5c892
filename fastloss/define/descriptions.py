"""The vocabulary in which a loss says what is to be computed. Data only: nothing here runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any
Scalar = Any
MathFunction = Callable[..., Any]

NO_INDEX = -(2**63)  # an ignore_index that ignores nothing


class Elementwise(NamedTuple):
    """A loss of single elements: ``point(*elements, *params) -> value, (d_first, d_second, ...), d2_first``.

    There is a derivative for each array that the loss calls differentiable; the second derivative is that in the first.

    The first `leads` arrays combine by `broadcast`: ``"exact"`` (equal shapes), ``"warn"`` (torch's warning when they
    differ), ``"silent"`` or ``"same_ndim"`` (equal numbers of axes); later ones, and the weight, broadcast *to* the
    result, or with `exact_weight` must have the input's shape. `mean` is the divisor of the mean: ``"elements"``,
    ``"weights"``, or ``"products"``, which is the elements unless samples are weighted, and then by both weights.

    The first `reals` arrays must be floating point; the argument `variance` may lack the last axis. `domains` say where
    the loss is not defined, which is an error, and the value NaN: the name of an argument, a point function that is 1
    for its values that are outside, and what the error says of them.
    """

    point: MathFunction
    arrays: tuple[Array, ...]
    names: tuple[str, ...] = ("input", "target")
    params: tuple[Scalar, ...] = ()
    weight: Array | None = None
    reduction: str = "mean"
    mean: str = "elements"
    broadcast: str = "silent"
    leads: int = 2
    exact_weight: bool = False
    reals: int = 1
    variance: str | None = None
    domains: tuple[tuple[str, MathFunction, str], ...] = ()

    def divisor(self, shape: tuple[int, ...], size: int) -> int:
        """Return what the sum of `size` values is divided by, weights left aside; `shape` is the first array's."""
        if self.reduction == "mean":
            return size
        return shape[0] if self.reduction == "batchmean" and shape else 1


class RowMaths(NamedTuple):
    """The three scalar functions of a loss over a class axis, which the loops call.

    Notation: z is an entry of the row: less the row's maximum `top` when `softmax` is set, else the raw entry, and
    `top` is 0; p its softmax (0 without `softmax`); t the entry of the second operand, 1 where there is none; w the
    class weight, 1 where there is none; `hit` whether this is the target class; zy and wy the target's z and weight
    (0 and 1 without class indices); p_others is 1 less the largest softmax, from a sum without that entry where it
    would cancel (0 without `softmax`); py the target's softmax (0 without `softmax`, and where no derivative is asked
    for); params the loss's options, then 1 / number of classes.

    terms(z, p, t, w, hit, zy, wy, params) -> (a, b, c)
        Summed over the row, pieces of it in the row's own precision, these in float64. ``None``: no sums.
    finish(top, logsum, sums, zy, wy, p_others, py, params) -> (value, coefs)
        The row's value, and whatever the entries need, a tuple of numbers of the row's type; logsum = log sum exp z,
        0 without `softmax`.
    entry(z, p, t, w, hit, coefs, params) -> ((d_first, d_second, d_weight), d2_first)
        One entry of each derivative of the row's value. Those that no argument is differentiable in may be missing at
        the end. Loops along a row call it for every entry with ``hit=False``, the target's too, and once more for the
        target's with ``hit=True`` and ``t=0``, which replaces the first result; so it must not fail where it is
        superfluous, and t means nothing where there are class indices.

    `indexed`: there are class indices. `sparse`: all but the target's entry are 0, and unread. `sampled`: where an
    upstream gradient would be, a weight of each row multiplies its value and its derivatives; 0 takes it out.
    `proportional`: the first derivative is p times a number of the row, but at the target.
    """

    finish: MathFunction
    entry: MathFunction
    terms: MathFunction | None = None
    softmax: bool = False
    indexed: bool = False
    sparse: bool = False
    sampled: bool = False
    proportional: bool = False


class Scores(NamedTuple):
    """What becomes of logits before their softmax, and what is returned beside the loss of a row.

    Logits x are replaced by c tanh(a x / c), a being the `scale` and c the `softcap`, or by a x without one. There are
    `classes` classes, the others are padding. `returns` are names of ``options.RETURNS``; `z_loss` is the factor of the
    last.
    """

    scale: float = 1.0
    softcap: float | None = None
    classes: int | None = None
    z_loss: float = 0.0
    returns: tuple[str, ...] = ()

    @property
    def changes_logits(self) -> bool:
        """Whether logits are replaced by others."""
        return self.scale != 1 or self.softcap is not None


class Rowwise(NamedTuple):
    """A loss of rows along a class axis: axis 0 of a one-dimensional input, else axis 1, unless `axis` says otherwise.

    `target` holds class indices (behind a linear map it may be a ``RowIndex``); or, where `soft` is given and the
    shapes of target and input are equal, class probabilities, and then `soft` is the maths. `mean` is the divisor
    of the mean over class indices: ``"rows"`` or ``"weights"`` (the summed weight of the rows that count).
    `keepdim` leaves the axis in the result with length 1; `max_ndim` bounds the number of axes of the input.
    `empty` is the value of a row without classes; ``None`` refuses such an input.

    `pairs` is the maths of a loss of input, target and weight whose weight may have any shape that broadcasts to the
    input's; it is used where that is not one number for each class. `scores` says what becomes of logits before.
    """

    maths: RowMaths
    input: Array
    target: Array | None = None
    soft: RowMaths | None = None
    weight: Array | None = None
    params: tuple[Scalar, ...] = ()
    ignore_index: int | None = None
    reduction: str = "mean"
    mean: str = "rows"
    axis: int | tuple[int, ...] | None = None
    keepdim: bool = False
    max_ndim: int | None = None
    empty: float | None = None
    pairs: PairMaths | None = None
    scores: Scores | None = None


class RowIndex(NamedTuple):
    """Class indices that nobody stores: that of a row is its number plus `offset`."""

    offset: int = 0


class Projected(NamedTuple):
    """A loss of rows whose logits are ``input @ linear_weight.T + linear_bias``, used up in chunks of rows.

    `rows` describes the loss, its `input` left open. The weight is (C, F) or (C, d1, ..., F). `chunk_rows` maps
    (rows, features, classes) to the rows of a chunk, or to None where the budget decides; `precision` is the dtype the
    caller expects sums to have. The logits are multiplied by `logit_scale`; `names` are those of input and weight, and
    of target and bias where they have others.
    """

    rows: Rowwise
    input: Array
    linear_weight: Array
    linear_bias: Array | None = None
    chunk_rows: Callable[[int, int, int], int | None] | None = None
    precision: str | None = None
    logit_scale: float = 1.0
    names: tuple[str, ...] = ("input", "linear_weight")


class Clustered(NamedTuple):
    """A loss of rows over classes in clusters: a head of the first classes and one more for each cluster, and tails.

    The value of a row is that of `maths` at the head, plus that at the tail which holds its class. A tail is a pair of
    weights, (hidden, F) and (classes, hidden); `cutoffs` holds the first class of every cluster.
    """

    maths: RowMaths
    input: Array
    target: Array
    head_weight: Array
    head_bias: Array | None
    tail_weights: tuple[tuple[Array, Array], ...]
    cutoffs: tuple[int, ...]


class RowMap(NamedTuple):
    """A function of rows that returns an array of the input's shape, such as softmax.

    An entry of `maths` is (result, gradient), its operand the upstream gradient, its one parameter a factor of that.
    Only the gradient may use the sums.
    """

    maths: RowMaths
    input: Array
    axis: int | None
    dtype: Any = None


class LabelSets(NamedTuple):
    """A loss of rows of classes, some of them listed: a sum over pairs of entries, divided by the number of classes.

    ``point(outside, inside) -> value, (d_outside, d_inside), d2_outside``, a function of an unlisted and a listed
    entry. A row of `target` lists classes from its start to the first -1; what follows is not read. A class listed
    twice counts twice. Rows lie along the last axis, or along `axis`.
    """

    point: MathFunction
    input: Array
    target: Array
    reduction: str = "mean"
    axis: int | None = None


class PairMaths(NamedTuple):
    """The scalar functions of a loss over vectors a, b (and c) of equal length.

    peaks(a, b, c, params) -> (u, v, w)
        Their largest values over the vector are its tops; ``None``: the tops are 1.
    again(sums, params) -> (u, v, w)
        The tops that the sums call for: where one is not 1, the row is summed a second time, with these. For vectors
        whose squares would overflow or underflow; ``None``: once is enough.
    terms(a, b, c, tops, params) -> (u, v, w)
        Summed over the vector in float64.
    finish(sums, tops, y, params) -> (value, coefs)
        The row's value from its sums; y is the label.
    entry(a, b, c, coefs, params) -> ((d_a, d_b, d_c), d2_a)
        One component of each derivative.
    """

    terms: MathFunction
    finish: MathFunction
    entry: MathFunction
    peaks: MathFunction | None = None
    again: MathFunction | None = None


class Pairwise(NamedTuple):
    """A loss of pairs or triplets of vectors, which lie along `axis`, or several axes; `target` has a label for each.

    The arrays must have the same number of axes unless `broadcast` is set. `keepdim` leaves the axes in the result with
    length 1. The first `reals` arrays must be floating point, all of them where it is ``None``.
    """

    maths: PairMaths
    arrays: tuple[Array, ...]
    names: tuple[str, ...]
    target: Array | None = None
    params: tuple[Scalar, ...] = ()
    reduction: str = "mean"
    axis: int | tuple[int, ...] = -1
    broadcast: bool = False
    keepdim: bool = False
    reals: int | None = None


class Distance(NamedTuple):
    """A distance of two of a loss's arguments, whose numbers are `operands`.

    Either `describe` (a, b) returns the ``Pairwise`` description of it, or `value` (a, b) is a function of the
    user's, and `vjp` (a, b, upstream) -> (d_a, d_b) its vector-Jacobian product, ``None`` where there is none.
    """

    operands: tuple[int, int]
    describe: Callable[[Array, Array], Pairwise] | None = None
    value: Any = None
    vjp: Callable[[Array, Array, Array], tuple[Array, Array]] | None = None


class OfDistances(NamedTuple):
    """An elementwise loss of distances, ``point(*distances, *params)``, linear almost everywhere."""

    point: MathFunction
    distances: tuple[Distance, ...]
    arrays: tuple[Array, ...]
    names: tuple[str, ...]
    params: tuple[Scalar, ...]
    reduction: str = "mean"


class Penalty(NamedTuple):
    """The sum of ``point(p, coefficient) -> value, (slope,), curvature`` over all elements of all arrays.

    `params` is one array or an iterable of arrays, such as the parameters of a model; derivatives come as one array or
    as a list.
    """

    point: MathFunction
    params: Array
    coefficient: Scalar


class Alignment(NamedTuple):
    """The negative log-likelihood of label sequences, summed over their alignments with the time steps.

    `log_probs` has axes (time, sample, class), or no sample axis; `targets` has a padded row for each sample, or all
    labels one after the other. The mean is over samples, each divided by its number of labels first.
    """

    log_probs: Array
    targets: Array
    input_lengths: Array
    target_lengths: Array
    blank: int = 0
    reduction: str = "mean"
    zero_infinity: bool = False
