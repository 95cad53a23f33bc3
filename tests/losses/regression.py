"""Losses against numbers: the outputs of the linear layer are no logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from losses.loss import Arrays, Size, bits, counts, head, logits, loss, numbers


@loss(numbers)
def mse(torch: Any, F: Any, t: Any) -> Any:
    return F.mse_loss(logits(F, t), t.numbers)


@loss(bits)
def mse_after_sigmoid(torch: Any, F: Any, t: Any) -> Any:
    return F.mse_loss(torch.sigmoid(logits(F, t)), t.bits)


@loss(numbers)
def mse_after_gelu(torch: Any, F: Any, t: Any) -> Any:
    return F.mse_loss(F.gelu(logits(F, t)), t.numbers)


@loss(bits)
def bce_after_sigmoid(torch: Any, F: Any, t: Any) -> Any:
    return F.binary_cross_entropy(torch.sigmoid(logits(F, t)), t.bits)


@loss(numbers)
def huber(torch: Any, F: Any, t: Any) -> Any:
    return F.huber_loss(logits(F, t), t.numbers, delta=0.5)


@loss(numbers)
def l1(torch: Any, F: Any, t: Any) -> Any:
    return F.l1_loss(logits(F, t), t.numbers, reduction="sum")


@loss(numbers)
def log_cosh(torch: Any, F: Any, t: Any) -> Any:
    d = logits(F, t) - t.numbers
    return (d + F.softplus(-2.0 * d) - 0.6931471805599453).mean()


@loss(numbers)
def quantile(torch: Any, F: Any, t: Any) -> Any:
    """Koenker & Bassett 1978, "Regression Quantiles"."""
    d = t.numbers - logits(F, t)
    return torch.maximum(0.9 * d, -0.1 * d).mean()


@loss(counts)
def poisson(torch: Any, F: Any, t: Any) -> Any:
    z = logits(F, t)
    return (z.exp() - t.counts * z).mean()


def deviation_head(size: Size, random: np.random.Generator) -> Arrays:
    """A second layer over the same input."""
    shape = (size.classes, size.width)
    return {
        "deviation_weight": random.normal(size=shape) / np.sqrt(size.width),
        "deviation_bias": random.normal(size=size.classes),
    }


@loss(numbers, learned=[head, deviation_head])
def gaussian(torch: Any, F: Any, t: Any) -> Any:
    """Nix & Weigend 1994: mean and log-variance by a layer each."""
    log_variance = F.linear(t.x, t.deviation_weight, t.deviation_bias)
    square = (logits(F, t) - t.numbers) ** 2
    return 0.5 * (log_variance + square * torch.exp(-log_variance)).mean()


@loss(numbers)
def cosine(torch: Any, F: Any, t: Any) -> Any:
    return (1.0 - F.cosine_similarity(logits(F, t), t.numbers, dim=-1)).mean()


@loss(numbers)
def gated_mse(torch: Any, F: Any, t: Any) -> Any:
    """The output is used twice, once through a gate."""
    z = logits(F, t)
    return F.mse_loss(z * torch.sigmoid(z), t.numbers) + 1e-2 * z.abs().mean()
