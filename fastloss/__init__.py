"""Loss functions that return value and gradient in one fused pass, on CPU threads and CUDA."""

from fastloss.api.partial_sums import PartialSum, partial_sum
from fastloss.api.shards import combine_shards, shard_grad, shard_stats
from fastloss.api.transforms import grad, grad_and_hess, value_and_grad
from fastloss.call.autograd import AutogradWarning
from fastloss.define.linear_options import LinearCrossEntropyOptions
from fastloss.losses.binary import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    hinge_embedding_loss,
    soft_margin_loss,
)
from fastloss.losses.contrastive import info_nce_loss
from fastloss.losses.dice import dice_loss, soft_dice_loss
from fastloss.losses.divergence import kl_div
from fastloss.losses.embedding import cosine_embedding_loss, cosine_similarity, margin_ranking_loss
from fastloss.losses.focal import binary_focal_loss, sigmoid_focal_loss
from fastloss.losses.generalized import generalized_cross_entropy
from fastloss.losses.large_output import adaptive_log_softmax_with_loss, linear_cross_entropy, linear_log_prob
from fastloss.losses.likelihood import gaussian_nll_loss, poisson_nll_loss
from fastloss.losses.logistic import logsigmoid, sigmoid
from fastloss.losses.margin import multi_margin_loss, multilabel_margin_loss, multilabel_soft_margin_loss
from fastloss.losses.multiclass import cross_entropy, nll_loss
from fastloss.losses.norms import pairwise_distance
from fastloss.losses.penalty import l1_penalty, l2_penalty
from fastloss.losses.quantile import quantile_loss
from fastloss.losses.regression import huber_loss, l1_loss, mse_loss, smooth_l1_loss
from fastloss.losses.sequence import ctc_loss
from fastloss.losses.softmax import log_softmax, logsumexp, softmax
from fastloss.losses.symmetric import symmetric_cross_entropy
from fastloss.losses.triplet import triplet_margin_loss, triplet_margin_with_distance_loss
from fastloss.nn.large_modules import AdaptiveLogSoftmaxWithLoss, LinearCrossEntropyLoss
from fastloss.nn.modules import (
    BCELoss,
    BCEWithLogitsLoss,
    CosineEmbeddingLoss,
    CosineSimilarity,
    CrossEntropyLoss,
    CTCLoss,
    DiceLoss,
    FocalLoss,
    GaussianNLLLoss,
    GeneralizedCrossEntropyLoss,
    HingeEmbeddingLoss,
    HuberLoss,
    InfoNCELoss,
    KLDivLoss,
    L1Loss,
    L1Penalty,
    L2Penalty,
    MarginRankingLoss,
    MSELoss,
    MultiLabelMarginLoss,
    MultiLabelSoftMarginLoss,
    MultiMarginLoss,
    NLLLoss,
    PairwiseDistance,
    PoissonNLLLoss,
    QuantileLoss,
    SCELoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    SoftDiceLoss,
    SoftMarginLoss,
    TripletMarginLoss,
    TripletMarginWithDistanceLoss,
)
from fastloss.runtime.config import config
from fastloss.runtime.report import show_config
from fastloss.runtime.version import __version__

__all__ = [
    "AdaptiveLogSoftmaxWithLoss",
    "AutogradWarning",
    "BCELoss",
    "BCEWithLogitsLoss",
    "CTCLoss",
    "CosineEmbeddingLoss",
    "CosineSimilarity",
    "CrossEntropyLoss",
    "DiceLoss",
    "FocalLoss",
    "GaussianNLLLoss",
    "GeneralizedCrossEntropyLoss",
    "HingeEmbeddingLoss",
    "HuberLoss",
    "InfoNCELoss",
    "KLDivLoss",
    "L1Loss",
    "L1Penalty",
    "L2Penalty",
    "LinearCrossEntropyLoss",
    "LinearCrossEntropyOptions",
    "MSELoss",
    "MarginRankingLoss",
    "MultiLabelMarginLoss",
    "MultiLabelSoftMarginLoss",
    "MultiMarginLoss",
    "NLLLoss",
    "PairwiseDistance",
    "PartialSum",
    "PoissonNLLLoss",
    "QuantileLoss",
    "SCELoss",
    "SigmoidFocalLoss",
    "SmoothL1Loss",
    "SoftDiceLoss",
    "SoftMarginLoss",
    "TripletMarginLoss",
    "TripletMarginWithDistanceLoss",
    "__version__",
    "adaptive_log_softmax_with_loss",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "binary_focal_loss",
    "combine_shards",
    "config",
    "cosine_embedding_loss",
    "cosine_similarity",
    "cross_entropy",
    "ctc_loss",
    "dice_loss",
    "gaussian_nll_loss",
    "generalized_cross_entropy",
    "grad",
    "grad_and_hess",
    "hinge_embedding_loss",
    "huber_loss",
    "info_nce_loss",
    "kl_div",
    "l1_loss",
    "l1_penalty",
    "l2_penalty",
    "linear_cross_entropy",
    "linear_log_prob",
    "log_softmax",
    "logsigmoid",
    "logsumexp",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "multilabel_margin_loss",
    "multilabel_soft_margin_loss",
    "nll_loss",
    "pairwise_distance",
    "partial_sum",
    "poisson_nll_loss",
    "quantile_loss",
    "shard_grad",
    "shard_stats",
    "show_config",
    "sigmoid",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "soft_dice_loss",
    "soft_margin_loss",
    "softmax",
    "symmetric_cross_entropy",
    "triplet_margin_loss",
    "triplet_margin_with_distance_loss",
    "value_and_grad",
]
