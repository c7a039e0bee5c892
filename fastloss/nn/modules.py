"""The loss classes: torch.nn's names and constructor arguments around the functions of this package."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fastloss.define.descriptions import Array
from fastloss.losses import (
    binary,
    contrastive,
    dice,
    divergence,
    embedding,
    focal,
    generalized,
    likelihood,
    margin,
    multiclass,
    norms,
    penalty,
    quantile,
    regression,
    sequence,
    symmetric,
    triplet,
)
from fastloss.nn.loss_module import LegacyModule, LossModule


class MSELoss(LegacyModule, function=regression.mse_loss):
    reduction: str = "mean"


class L1Loss(LegacyModule, function=regression.l1_loss):
    reduction: str = "mean"


class SmoothL1Loss(LegacyModule, function=regression.smooth_l1_loss):
    reduction: str = "mean"
    beta: float = 1.0


class PoissonNLLLoss(LegacyModule, function=likelihood.poisson_nll_loss):
    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    reduction: str = "mean"


class GaussianNLLLoss(LossModule, function=likelihood.gaussian_nll_loss):
    full: bool = dataclasses.field(default=False, kw_only=True)
    eps: float = dataclasses.field(default=1e-6, kw_only=True)
    reduction: str = dataclasses.field(default="mean", kw_only=True)


class BCELoss(LegacyModule, function=binary.binary_cross_entropy):
    weight: Array | None = None
    reduction: str = "mean"


class SoftMarginLoss(LegacyModule, function=binary.soft_margin_loss):
    reduction: str = "mean"


class HingeEmbeddingLoss(LegacyModule, function=binary.hinge_embedding_loss):
    margin: float = 1.0
    reduction: str = "mean"


class FocalLoss(LossModule, function=focal.binary_focal_loss):
    gamma: float = 2.0
    alpha: float = 0.75
    reduction: str = "mean"


class SigmoidFocalLoss(LossModule, function=focal.sigmoid_focal_loss):
    alpha: float = 0.25
    gamma: float = 2.0
    reduction: str = "mean"


class SCELoss(LossModule, function=symmetric.symmetric_cross_entropy):
    a: float = 1.0
    b: float = 1.0
    ignore_index: int = -100
    reduction: str = "mean"


class MultiLabelMarginLoss(LegacyModule, function=margin.multilabel_margin_loss):
    reduction: str = "mean"


class MultiLabelSoftMarginLoss(LegacyModule, function=margin.multilabel_soft_margin_loss):
    weight: Array | None = None
    reduction: str = "mean"


class MarginRankingLoss(LegacyModule, function=embedding.margin_ranking_loss):
    margin: float = 0.0
    reduction: str = "mean"


class HuberLoss(LossModule, function=regression.huber_loss):
    reduction: str = "mean"
    delta: float = 1.0


class BCEWithLogitsLoss(LegacyModule, function=binary.binary_cross_entropy_with_logits):
    weight: Array | None = None
    reduction: str = "mean"
    pos_weight: Array | None = None


class KLDivLoss(LegacyModule, function=divergence.kl_div):
    reduction: str = "mean"
    log_target: bool = False


class NLLLoss(LegacyModule, function=multiclass.nll_loss):
    weight: Array | None = None
    ignore_index: int = -100
    reduction: str = "mean"


class CrossEntropyLoss(LegacyModule, function=multiclass.cross_entropy):
    weight: Array | None = None
    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0
    logit_scale: float = dataclasses.field(default=1.0, kw_only=True)
    softcap: float | None = dataclasses.field(default=None, kw_only=True)
    z_loss: float = dataclasses.field(default=0.0, kw_only=True)
    valid_classes: int | None = dataclasses.field(default=None, kw_only=True)
    returns: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)


class MultiMarginLoss(LegacyModule, function=margin.multi_margin_loss):
    p: int = 1
    margin: float = 1.0
    weight: Array | None = None
    reduction: str = "mean"


class CosineEmbeddingLoss(LegacyModule, function=embedding.cosine_embedding_loss):
    margin: float = 0.0
    reduction: str = "mean"


class TripletMarginLoss(LegacyModule, function=triplet.triplet_margin_loss):
    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    reduction: str = "mean"


class TripletMarginWithDistanceLoss(LossModule, function=triplet.triplet_margin_with_distance_loss):
    distance_function: Callable[[Array, Array], Array] | str | None = dataclasses.field(default=None, kw_only=True)
    margin: float = dataclasses.field(default=1.0, kw_only=True)
    swap: bool = dataclasses.field(default=False, kw_only=True)
    reduction: str = dataclasses.field(default="mean", kw_only=True)
    distance_vjp: Callable[..., tuple[Array, Array]] | None = dataclasses.field(default=None, kw_only=True)


class CosineSimilarity(LossModule, function=embedding.cosine_similarity):
    dim: int = 1
    eps: float = 1e-8


class PairwiseDistance(LossModule, function=norms.pairwise_distance):
    p: float = 2.0
    eps: float = 1e-6
    keepdim: bool = False


class L1Penalty(LossModule, function=penalty.l1_penalty):
    coefficient: float


class L2Penalty(LossModule, function=penalty.l2_penalty):
    coefficient: float


class CTCLoss(LossModule, function=sequence.ctc_loss):
    blank: int = 0
    reduction: str = "mean"
    zero_infinity: bool = False


class QuantileLoss(LossModule, function=quantile.quantile_loss):
    q: float = 0.5
    reduction: str = "mean"


class GeneralizedCrossEntropyLoss(LossModule, function=generalized.generalized_cross_entropy):
    weight: Array | None = None
    q: float = 0.7
    ignore_index: int = -100
    reduction: str = "mean"


class DiceLoss(LossModule, function=dice.dice_loss):
    smooth: float = 1.0
    reduction: str = "mean"


class SoftDiceLoss(LossModule, function=dice.soft_dice_loss):
    dim: int = 1
    smooth: float = 1.0
    reduction: str = "mean"


class InfoNCELoss(LossModule, function=contrastive.info_nce_loss):
    temperature: float = 0.1
    symmetric: bool = False
    reduction: str = "mean"
