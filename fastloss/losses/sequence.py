"""Losses of label sequences that are not aligned with the input."""

from __future__ import annotations

from fastloss.api.loss import loss
from fastloss.define.descriptions import Alignment, Array
from fastloss.define.options import FLAG, INDEX


@loss(
    "sequence",
    wrt=("log_probs",),
    hessian=None,
    options={"blank": INDEX, "zero_infinity": FLAG},
    domains={"log_probs": "log_probability", "targets": "class"},
)
def ctc_loss(
    log_probs: Array,
    targets: Array,
    input_lengths: Array,
    target_lengths: Array,
    *,
    blank: int = 0,
    reduction: str = "mean",
    zero_infinity: bool = False,
) -> Array:
    r"""Connectionist temporal classification: label sequences whose alignment with the input is not known.

    .. math:: \ell_n = -\log \sum_{\pi \in \mathcal{B}^{-1}(y_n)} \prod_{t=1}^{T_n} p_{t n \pi_t}

    The sum is over all paths :math:`\pi` of :math:`T_n` classes that give the labels :math:`y_n` when repeated classes
    are merged and blanks removed.

    Parameters
    ----------
    log_probs : array, shape (T, N, C) or (T, C)
        Logarithms of the class probabilities at every time step, as from :func:`log_softmax`.
    targets : array of integers, shape (N, S), (S,) or (sum of target_lengths,)
        The labels: a row for each sample, of which the first ``target_lengths`` count, or all one after the other.
    input_lengths, target_lengths : array, tuple or list of integers, shape (N,); a number where there is one sample
        Time steps and labels of each sample, best as NumPy arrays: the host needs them, and arrays on a device are
        waited for and read.
    blank : int
        The class that stands for no label.
    reduction : {"mean", "sum", "none"}
        The mean is over samples, each divided by its number of labels (1 for an empty sequence) first.
    zero_infinity : bool
        Whether an infinite value, and the gradient of that sample, become 0; the sample still counts in the mean.

    Returns
    -------
    array
        Zero-dimensional, or one value for each sample for ``reduction="none"``.

    Raises
    ------
    ValueError
        If `blank` is no class, a length is negative or too large, or `targets` does not hold as many labels as
        `target_lengths` says.
    TypeError
        If a length is not an integer.

    Notes
    -----
    The gradient is torch's: :math:`e^{x} -` (posterior probability of the class at that step), the gradient with
    respect to logits whose :func:`log_softmax` `log_probs` is, and 0 beyond ``input_lengths``. For `log_probs` that are
    not normalised it differs from the derivative by :math:`e^{x}`.

    A sequence that does not fit, because it has more labels, and blanks between equal ones, than time steps, has an
    infinite value and gradient NaN, unless `zero_infinity`. A class of probability 0 has gradient 0, where torch gives
    NaN. With ``fl.config(check_indices=False)`` a label out of range makes value and gradient of its sample NaN. A
    label that equals `blank` is taken as a label, as in torch, whose gradient lacks a term if it is the last one.

    The recursion runs on probabilities with exponents of their own instead of logarithms, which in float32 is two
    orders of magnitude more accurate for sequences of a few hundred steps. Half types are computed in float32.
    `log_probs` and `targets` are copied where they are not contiguous. Calls cannot be captured into a CUDA graph,
    because the lengths come from the host.

    References
    ----------
    A. Graves et al., "Connectionist temporal classification: labelling unsegmented sequence data with recurrent neural
    networks", ICML 2006. ``torch.nn.functional.ctc_loss``.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> log_probs = np.log(np.full((2, 1, 4), 0.25))  # the paths of label 1 in two steps: 01, 10, 11
    >>> print(fl.ctc_loss(log_probs, [[1]], [2], [1]).round(4), np.log(16 / 3).round(4))
    1.674 1.674
    """
    return Alignment(log_probs, targets, input_lengths, target_lengths, blank, reduction, zero_infinity)
