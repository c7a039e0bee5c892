"""The losses for JAX: under jit, grad, value_and_grad, jvp and vmap, on the CPU.

Functions have the names and arguments of fastloss's::

    import jax
    import fastloss.jax as fj

    value, gradient = jax.value_and_grad(fj.cross_entropy)(logits, labels, label_smoothing=0.1)

Where a derivative is asked for, values and gradients come out of one callback, in one pass over the arrays; the mean is
taken by JAX. Shapes, dtypes and options are checked while tracing. What can only be found when numbers are there is no
error: a row whose label is no class is NaN, and so is what is weighted by a negative weight. :func:`wrap` makes such a
function of a loss of one's own.
"""

from fastloss.jax import composed as _composed
from fastloss.jax.functional import named as _named
from fastloss.jax.functional import public as _function
from fastloss.jax.functional import wrap as wrap

adaptive_log_softmax_with_loss = _named(_composed.adaptive_log_softmax_with_loss, "adaptive_log_softmax_with_loss")
binary_cross_entropy = _function("binary_cross_entropy")
binary_cross_entropy_with_logits = _function("binary_cross_entropy_with_logits")
binary_focal_loss = _function("binary_focal_loss")
cosine_embedding_loss = _function("cosine_embedding_loss")
cosine_similarity = _function("cosine_similarity")
cross_entropy = _function("cross_entropy")
ctc_loss = _function("ctc_loss")
dice_loss = _function("dice_loss")
gaussian_nll_loss = _function("gaussian_nll_loss")
generalized_cross_entropy = _function("generalized_cross_entropy")
hinge_embedding_loss = _function("hinge_embedding_loss")
huber_loss = _function("huber_loss")
info_nce_loss = _function("info_nce_loss")
kl_div = _function("kl_div")
l1_loss = _function("l1_loss")
l1_penalty = _named(_composed.l1_penalty, "l1_penalty")
l2_penalty = _named(_composed.l2_penalty, "l2_penalty")
linear_cross_entropy = _function("linear_cross_entropy")
linear_log_prob = _function("linear_log_prob")
log_softmax = _function("log_softmax")
logsigmoid = _function("logsigmoid")
logsumexp = _function("logsumexp")
margin_ranking_loss = _function("margin_ranking_loss")
mse_loss = _function("mse_loss")
multi_margin_loss = _function("multi_margin_loss")
multilabel_margin_loss = _function("multilabel_margin_loss")
multilabel_soft_margin_loss = _function("multilabel_soft_margin_loss")
nll_loss = _function("nll_loss")
pairwise_distance = _function("pairwise_distance")
poisson_nll_loss = _function("poisson_nll_loss")
quantile_loss = _function("quantile_loss")
sigmoid = _function("sigmoid")
sigmoid_focal_loss = _function("sigmoid_focal_loss")
smooth_l1_loss = _function("smooth_l1_loss")
soft_dice_loss = _named(_composed.soft_dice_loss, "soft_dice_loss")
soft_margin_loss = _function("soft_margin_loss")
softmax = _function("softmax")
symmetric_cross_entropy = _function("symmetric_cross_entropy")
triplet_margin_loss = _function("triplet_margin_loss")
triplet_margin_with_distance_loss = _named(
    _composed.triplet_margin_with_distance_loss, "triplet_margin_with_distance_loss"
)
