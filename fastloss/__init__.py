"""Loss functions that return value and gradient in one fused pass, on CPU threads and CUDA."""

# Numba takes a quarter of a second to import: better here than in the first call, which is timed.
import fastloss.cpu.backend  # noqa: F401
from fastloss._config import config as config
from fastloss._modules import BCELoss as BCELoss
from fastloss._modules import BCEWithLogitsLoss as BCEWithLogitsLoss
from fastloss._modules import CosineEmbeddingLoss as CosineEmbeddingLoss
from fastloss._modules import CrossEntropyLoss as CrossEntropyLoss
from fastloss._modules import CTCLoss as CTCLoss
from fastloss._modules import FocalLoss as FocalLoss
from fastloss._modules import GaussianNLLLoss as GaussianNLLLoss
from fastloss._modules import HingeEmbeddingLoss as HingeEmbeddingLoss
from fastloss._modules import HuberLoss as HuberLoss
from fastloss._modules import KLDivLoss as KLDivLoss
from fastloss._modules import L1Loss as L1Loss
from fastloss._modules import MarginRankingLoss as MarginRankingLoss
from fastloss._modules import MSELoss as MSELoss
from fastloss._modules import MultiLabelSoftMarginLoss as MultiLabelSoftMarginLoss
from fastloss._modules import MultiMarginLoss as MultiMarginLoss
from fastloss._modules import NLLLoss as NLLLoss
from fastloss._modules import PoissonNLLLoss as PoissonNLLLoss
from fastloss._modules import SCELoss as SCELoss
from fastloss._modules import SigmoidFocalLoss as SigmoidFocalLoss
from fastloss._modules import SmoothL1Loss as SmoothL1Loss
from fastloss._modules import SoftMarginLoss as SoftMarginLoss
from fastloss._modules import TripletMarginLoss as TripletMarginLoss
from fastloss._report import show_config as show_config
from fastloss._transforms import grad as grad
from fastloss._transforms import grad_and_hess as grad_and_hess
from fastloss._transforms import value_and_grad as value_and_grad
from fastloss.losses.binary import binary_cross_entropy as binary_cross_entropy
from fastloss.losses.binary import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from fastloss.losses.binary import hinge_embedding_loss as hinge_embedding_loss
from fastloss.losses.binary import soft_margin_loss as soft_margin_loss
from fastloss.losses.divergence import kl_div as kl_div
from fastloss.losses.embedding import cosine_embedding_loss as cosine_embedding_loss
from fastloss.losses.embedding import margin_ranking_loss as margin_ranking_loss
from fastloss.losses.focal import binary_focal_loss as binary_focal_loss
from fastloss.losses.focal import sigmoid_focal_loss as sigmoid_focal_loss
from fastloss.losses.likelihood import gaussian_nll_loss as gaussian_nll_loss
from fastloss.losses.likelihood import poisson_nll_loss as poisson_nll_loss
from fastloss.losses.logistic import logsigmoid as logsigmoid
from fastloss.losses.logistic import sigmoid as sigmoid
from fastloss.losses.margin import multi_margin_loss as multi_margin_loss
from fastloss.losses.margin import multilabel_soft_margin_loss as multilabel_soft_margin_loss
from fastloss.losses.multiclass import cross_entropy as cross_entropy
from fastloss.losses.multiclass import nll_loss as nll_loss
from fastloss.losses.multiclass import symmetric_cross_entropy as symmetric_cross_entropy
from fastloss.losses.regression import huber_loss as huber_loss
from fastloss.losses.regression import l1_loss as l1_loss
from fastloss.losses.regression import mse_loss as mse_loss
from fastloss.losses.regression import smooth_l1_loss as smooth_l1_loss
from fastloss.losses.sequence import ctc_loss as ctc_loss
from fastloss.losses.softmax import log_softmax as log_softmax
from fastloss.losses.softmax import logsumexp as logsumexp
from fastloss.losses.softmax import softmax as softmax
from fastloss.losses.triplet import triplet_margin_loss as triplet_margin_loss

__version__ = "0.1.0"
