"""The losses for torch: inside autograd, under torch.compile, with torch's names and order of arguments.

Functions are called like those of torch.nn.functional, modules are subclasses of torch.nn's::

    import fastloss.torch as F

    loss = F.cross_entropy(model(x), y, label_smoothing=0.1)
    loss.backward()

A loss that is reduced to a number has its gradient computed with its value, where one is wanted. Second derivatives are
an error that names torch's function. On a GPU labels are not waited for: a row whose label is no class becomes NaN, and
``check_indices=True`` asks for the check. :func:`wrap` makes such a function of a loss of one's own.
"""

from fastloss.torch.distance import with_distance as _with_distance
from fastloss.torch.functional import public as _function
from fastloss.torch.modules import adaptive_loss as _adaptive_loss
from fastloss.torch.modules import linear_cross_entropy_loss as _linear_cross_entropy_loss
from fastloss.torch.modules import module as _module
from fastloss.torch.modules import own as _own
from fastloss.torch.own import wrap as wrap

adaptive_log_softmax_with_loss = _function("adaptive_log_softmax_with_loss")
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
l1_penalty = _function("l1_penalty")
l2_penalty = _function("l2_penalty")
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
soft_dice_loss = _function("soft_dice_loss")
soft_margin_loss = _function("soft_margin_loss")
softmax = _function("softmax")
symmetric_cross_entropy = _function("symmetric_cross_entropy")
triplet_margin_loss = _function("triplet_margin_loss")
triplet_margin_with_distance_loss = _with_distance(_function("triplet_margin_with_distance_loss"), margin_ranking_loss)

BCELoss = _module("BCELoss", binary_cross_entropy)
BCEWithLogitsLoss = _module("BCEWithLogitsLoss", binary_cross_entropy_with_logits)
CTCLoss = _module("CTCLoss", ctc_loss)
CosineEmbeddingLoss = _module("CosineEmbeddingLoss", cosine_embedding_loss)
CosineSimilarity = _module("CosineSimilarity", cosine_similarity)
CrossEntropyLoss = _module("CrossEntropyLoss", cross_entropy)
GaussianNLLLoss = _module("GaussianNLLLoss", gaussian_nll_loss)
HingeEmbeddingLoss = _module("HingeEmbeddingLoss", hinge_embedding_loss)
HuberLoss = _module("HuberLoss", huber_loss)
KLDivLoss = _module("KLDivLoss", kl_div)
L1Loss = _module("L1Loss", l1_loss)
LogSigmoid = _module("LogSigmoid", logsigmoid)
LogSoftmax = _module("LogSoftmax", log_softmax)
MSELoss = _module("MSELoss", mse_loss)
MarginRankingLoss = _module("MarginRankingLoss", margin_ranking_loss)
MultiLabelMarginLoss = _module("MultiLabelMarginLoss", multilabel_margin_loss)
MultiLabelSoftMarginLoss = _module("MultiLabelSoftMarginLoss", multilabel_soft_margin_loss)
MultiMarginLoss = _module("MultiMarginLoss", multi_margin_loss)
NLLLoss = _module("NLLLoss", nll_loss)
PairwiseDistance = _module("PairwiseDistance", pairwise_distance)
PoissonNLLLoss = _module("PoissonNLLLoss", poisson_nll_loss)
Sigmoid = _module("Sigmoid", sigmoid)
SmoothL1Loss = _module("SmoothL1Loss", smooth_l1_loss)
SoftMarginLoss = _module("SoftMarginLoss", soft_margin_loss)
Softmax = _module("Softmax", softmax)
TripletMarginLoss = _module("TripletMarginLoss", triplet_margin_loss)
TripletMarginWithDistanceLoss = _module("TripletMarginWithDistanceLoss", triplet_margin_with_distance_loss)
AdaptiveLogSoftmaxWithLoss = _adaptive_loss(adaptive_log_softmax_with_loss)
LinearCrossEntropyLoss = _linear_cross_entropy_loss(linear_cross_entropy)

# What torch does not have.
FocalLoss = _own("FocalLoss", binary_focal_loss)
SCELoss = _own("SCELoss", symmetric_cross_entropy)
SigmoidFocalLoss = _own("SigmoidFocalLoss", sigmoid_focal_loss)
L1Penalty = _own("L1Penalty", l1_penalty)
L2Penalty = _own("L2Penalty", l2_penalty)
DiceLoss = _own("DiceLoss", dice_loss)
GeneralizedCrossEntropyLoss = _own("GeneralizedCrossEntropyLoss", generalized_cross_entropy)
InfoNCELoss = _own("InfoNCELoss", info_nce_loss)
QuantileLoss = _own("QuantileLoss", quantile_loss)
SoftDiceLoss = _own("SoftDiceLoss", soft_dice_loss)
