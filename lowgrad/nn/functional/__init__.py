"""The functions behind the layers, with PyTorch's names and arguments."""

from lowgrad.nn.functional.activations import (
    celu,
    elu,
    gelu,
    glu,
    hardsigmoid,
    hardswish,
    hardtanh,
    leaky_relu,
    logsigmoid,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    softplus,
    softsign,
    tanh,
)
from lowgrad.nn.functional.attention import scaled_dot_product_attention
from lowgrad.nn.functional.binary import binary_cross_entropy, binary_cross_entropy_with_logits
from lowgrad.nn.functional.classification import cross_entropy, nll_loss
from lowgrad.nn.functional.distances import cosine_similarity, pairwise_distance
from lowgrad.nn.functional.dropouts import dropout
from lowgrad.nn.functional.embeddings import embedding, one_hot
from lowgrad.nn.functional.linears import bilinear, linear
from lowgrad.nn.functional.losses import (
    hinge_embedding_loss,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from lowgrad.nn.functional.normalizations import layer_norm, normalize, rms_norm
from lowgrad.nn.functional.paddings import pad
from lowgrad.nn.functional.softmaxes import log_softmax, softmax, softmin

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "bilinear",
    "celu",
    "cosine_similarity",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "glu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "hinge_embedding_loss",
    "huber_loss",
    "kl_div",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "log_softmax",
    "logsigmoid",
    "mish",
    "mse_loss",
    "nll_loss",
    "normalize",
    "one_hot",
    "pad",
    "pairwise_distance",
    "relu",
    "relu6",
    "rms_norm",
    "scaled_dot_product_attention",
    "selu",
    "sigmoid",
    "silu",
    "smooth_l1_loss",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "tanh",
]
