"""Loss functions that return value and gradient in one fused pass, on CPU threads and CUDA."""

from fastloss._config import config as config
from fastloss._modules import BCEWithLogitsLoss as BCEWithLogitsLoss
from fastloss._modules import CosineEmbeddingLoss as CosineEmbeddingLoss
from fastloss._modules import CrossEntropyLoss as CrossEntropyLoss
from fastloss._modules import HuberLoss as HuberLoss
from fastloss._modules import KLDivLoss as KLDivLoss
from fastloss._modules import MSELoss as MSELoss
from fastloss._modules import MultiMarginLoss as MultiMarginLoss
from fastloss._modules import NLLLoss as NLLLoss
from fastloss._modules import TripletMarginLoss as TripletMarginLoss
from fastloss._transforms import grad as grad
from fastloss._transforms import grad_and_hess as grad_and_hess
from fastloss._transforms import value_and_grad as value_and_grad
from fastloss.losses.binary import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from fastloss.losses.binary import logsigmoid as logsigmoid
from fastloss.losses.binary import sigmoid as sigmoid
from fastloss.losses.divergence import kl_div as kl_div
from fastloss.losses.embedding import cosine_embedding_loss as cosine_embedding_loss
from fastloss.losses.embedding import triplet_margin_loss as triplet_margin_loss
from fastloss.losses.multiclass import cross_entropy as cross_entropy
from fastloss.losses.multiclass import log_softmax as log_softmax
from fastloss.losses.multiclass import logsumexp as logsumexp
from fastloss.losses.multiclass import multi_margin_loss as multi_margin_loss
from fastloss.losses.multiclass import nll_loss as nll_loss
from fastloss.losses.multiclass import softmax as softmax
from fastloss.losses.regression import huber_loss as huber_loss
from fastloss.losses.regression import mse_loss as mse_loss

__version__ = "0.1.0"
