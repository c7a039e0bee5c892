"""Losses as objectives and metrics of XGBoost, LightGBM and CatBoost.

One object serves every interface of the three, native and scikit-learn. Nothing of them is imported here.

>>> import fastloss as fl
>>> from fastloss import boosting
>>> focal = boosting.objective(fl.sigmoid_focal_loss, gamma=2.0)
>>> focal
objective(sigmoid_focal_loss, gamma=2.0)

=====================  ============================================  ==========================================
interface              objective                                     metric
=====================  ============================================  ==========================================
xgboost.train          ``obj=objective``                             ``custom_metric=metric``
XGBClassifier, ...     ``objective=objective``                       ``eval_metric=metric``
lightgbm.train         ``params["objective"] = objective``           ``feval=metric``
LGBMClassifier, ...    ``objective=objective``                       ``fit(..., eval_metric=metric)``
CatBoostRegressor ...  ``loss_function=objective``                   ``eval_metric=metric`` (CatBoost needs one)
=====================  ============================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastloss.boosting.guests import Metric as Metric
from fastloss.boosting.guests import Objective as Objective

__all__ = ["Metric", "Objective", "metric", "objective"]


def objective(
    loss: Callable[..., Any],
    *,
    curvature: str = "auto",
    scale: float = 1.0,
    hessian_scale: float = 1.0,
    **options: Any,
) -> Objective:
    r"""Return a loss as an objective of XGBoost, LightGBM and CatBoost.

    With weight :math:`w_i` of a row, scale s and Hessian scale c a booster gets, for each score x,

    .. math:: g_i = s\, w_i\, \ell'(x_i), \qquad h_i = c\, s\, w_i\, \kappa(x_i)

    where :math:`\kappa` is the curvature.

    Parameters
    ----------
    loss : function or loss instance
        A loss of raw scores and labels with one value for each row, or an instance of its class. The `reduction` of an
        instance does not count: boosters sum over the rows.
    curvature : {"auto", "exact", "majorize", "constant"}
        What stands for the second derivative:

        * ``"exact"``: itself. It is zero for the absolute error and hinges, which then learn nothing, and negative
          in places for focal losses.
        * ``"majorize"``: an upper bound, positive for every loss. 2 p (1 - p) for cross-entropy; e^0.7 times the rate
          for Poisson; for losses of a residual r \|ℓ'\| / \|r\| where that is larger (1 / (2 \|r\|) for quantiles),
          \|r\| not below its mean over an output's rows whose weight is not 0; the larger of \|ℓ'\| and \|ℓ''\| for
          all others.
        * ``"auto"``: exact where that is above 1e-16, majorizing elsewhere. That of a log variance is 1/2 at least.
          Steps by an exact one that falls off far from the label, as that of log cosh, are too long: majorize it.
        * ``"constant"``: 1 for each score.
    scale, hessian_scale : float
        Factors of the loss, and of the curvature beside that; see Notes.
    **options
        Options of the loss, class weights included. Weights of rows are the booster's.

    Returns
    -------
    Objective
        Callable as each booster calls it. It has ``init_score(y, sample_weight=None)``, the constant score to start
        at; ``inverse_link(raw)``, the prediction on the labels' scale; and ``name``. It pickles, and compares by value.

    Raises
    ------
    TypeError
        If `loss` is no loss of this package, or has no such option.
    ValueError
        If it does not give one number for each row of raw scores and labels, or an option is out of range. Bad labels,
        shapes and dtypes are errors of the first round.

    Notes
    -----
    Labels may be floating point: class indices are whole numbers, signs 0 and 1 or -1 and 1, probabilities lie in
    [0, 1]. Scores are (n,), or (n, C) for C classes; `gaussian_nll_loss` takes (n, 2), the mean and the logarithm of
    the variance. Results have the dtype, order and array library of the scores.

    A custom objective starts at 0, whatever ``boost_from_average`` says: hand over `init_score`. With that, the trees
    of a booster's own objectives come out with these factors:

    ============================  ===================================  =====================================
    loss                          XGBoost                              LightGBM
    ============================  ===================================  =====================================
    binary logistic               none                                 none
    cross_entropy                 ``hessian_scale=2``                  ``hessian_scale=K / (K - 1)``
    mse_loss                      ``scale=0.5``                        ``scale=0.5``
    poisson_nll_loss              ``hessian_scale=e**0.7``, and        ``hessian_scale=e**0.7``
                                  ``max_delta_step=0.7`` in XGBoost
    huber_loss                    has another                          ``curvature="constant"``
    l1_loss                       sets leaves to medians afterwards    sets leaves to medians afterwards
    ============================  ===================================  =====================================

    CatBoost's RMSE has ``scale=0.5``, its Logloss, Poisson and MultiClass no factor, where both take one Newton step a
    leaf (``leaf_estimation_method="Newton"``, ``leaf_estimation_iterations=1``, ``boost_from_average=False``).

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> from fastloss import boosting
    >>> logistic = boosting.objective(fl.binary_cross_entropy_with_logits)
    >>> grad, hess = logistic(np.array([1.0, 0.0, 1.0]), np.array([0.0, 0.0, 2.0]))
    >>> print(grad.round(3), hess.round(3))
    [-0.5    0.5   -0.119] [0.25  0.25  0.105]
    >>> print(round(logistic.init_score([0, 1, 1, 1]), 4))
    1.0986
    """
    chosen = {"curvature": (curvature, "auto"), "scale": (scale, 1.0), "hessian_scale": (hessian_scale, 1.0)}
    return Objective(loss, {name: value for name, (value, default) in chosen.items() if value != default}, options)


def metric(loss: Callable[..., Any], *, name: str | None = None, **options: Any) -> Metric:
    """Return the mean of a loss over raw scores as a metric of XGBoost, LightGBM and CatBoost.

    The mean is that of the loss: weighted by the rows' weights, and by class weights where the loss's is, without rows
    to ignore. Raw scores are what all three hand to a metric beside a custom objective. Beside an objective of their
    own XGBoost and LightGBM hand over predictions on the labels' scale: no case for it.

    Parameters
    ----------
    loss : function or loss instance
        As for :func:`objective`.
    name : str, optional
        What boosters call it, which keep the values of metrics of one name in one list. By default that of the loss.
    **options
        Options of the loss.

    Returns
    -------
    Metric
        Smaller is better. It has ``init_score``, ``inverse_link`` and ``name`` too.

    Raises
    ------
    TypeError, ValueError
        As for :func:`objective`.

    Examples
    --------
    >>> import numpy as np, fastloss as fl
    >>> from fastloss import boosting
    >>> absolute = boosting.metric(fl.l1_loss)
    >>> absolute(np.array([1.0, 2.0]), np.array([1.5, 1.0]))
    0.75
    """
    return Metric(loss, {} if name is None else {"name": name}, options)
