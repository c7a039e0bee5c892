"""Contrasts within a batch."""

from __future__ import annotations

from typing import Annotated

from fastloss.custom import POSITIVE, Array, Linear, loss, row_index
from fastloss.losses.multiclass import cross_entropy


@loss
def info_nce_loss(
    query: Array,
    key: Array,
    *,
    temperature: Annotated[float, POSITIVE] = 0.1,
    symmetric: bool = False,
    reduction: str = "mean",
) -> Array:
    r"""Contrast of each query with the keys of its batch, of which that in the same row belongs to it.

    .. math:: \ell_n = -\log \frac{e^{q_n \cdot k_n / \tau}}{\sum_m e^{q_n \cdot k_m / \tau}}

    Parameters
    ----------
    query : array, shape (N, F)
        Embeddings, commonly of length 1.
    key : array, shape (M, F)
        The keys: row n belongs to row n of `query`, further rows belong to none.
    temperature : float
        The τ of the formula, positive.
    symmetric : bool
        Whether it is the mean of this and of the same loss with `query` and `key` exchanged, of the same shape.
    reduction : {"mean", "sum", "none"}
        The mean is over the queries.

    Returns
    -------
    array
        Zero-dimensional, or of shape (N,) for ``reduction="none"``.

    Notes
    -----
    The similarities are never stored whole: see :func:`linear_cross_entropy`. Differentiable with respect to `query`
    and `key`. Vectors are taken as they are, not normalised.

    References
    ----------
    A. van den Oord, Y. Li and O. Vinyals, "Representation learning with contrastive predictive coding", 2018. The
    symmetric form: A. Radford et al., "Learning transferable visual models from natural language supervision", 2021.

    Examples
    --------
    >>> import fastloss as fl
    >>> print(fl.info_nce_loss([[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]], temperature=1.0).round(4))
    0.3133
    """
    if symmetric:
        there = info_nce_loss(query, key, temperature=temperature, reduction=reduction)
        back = info_nce_loss(key, query, temperature=temperature, reduction=reduction)
        return (there + back) / 2
    return Linear(cross_entropy, query, key, target=row_index(), scale=1 / temperature)
