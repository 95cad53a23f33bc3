"""Losses against a class for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
from losses.loss import (
    ONE_CLASS,
    Arrays,
    Size,
    bits,
    class_weights,
    head,
    head_without_bias,
    ignored_target,
    logits,
    loss,
    picked,
    probabilities,
    row_weights,
    target,
)


@loss(target)
def cross_entropy(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(logits(F, t), t.target)


@loss(target, learned=[head_without_bias])
def cross_entropy_of_a_product(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(t.x @ t.weight.T, t.target)


@loss(target)
def cross_entropy_summed(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(t.x @ t.weight.T + t.bias, t.target, reduction="sum")


@loss(target, row_weights)
def cross_entropy_weighted_by_row(torch: Any, F: Any, t: Any) -> Any:
    each = F.cross_entropy(logits(F, t), t.target, reduction="none")
    return (each * t.row_weights).sum() / t.row_weights.sum()


@loss(ignored_target)
def cross_entropy_ignoring(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(logits(F, t), t.target)


@loss(target, class_weights)
def cross_entropy_weighted_by_class(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(logits(F, t), t.target, weight=t.class_weights)


@loss(target)
def label_smoothing(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(logits(F, t), t.target, label_smoothing=0.1)


@loss(ignored_target, class_weights)
def cross_entropy_with_every_option(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(
        logits(F, t), t.target, weight=t.class_weights, ignore_index=-100, label_smoothing=0.2
    )


@loss(probabilities)
def cross_entropy_of_probabilities(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(logits(F, t), t.teacher)


@loss(target)
def written_out(torch: Any, F: Any, t: Any) -> Any:
    """Cross entropy as a user may write it: shift, exp, sum, log, pick."""
    z = logits(F, t)
    z = z - z.amax(dim=-1, keepdim=True).detach()
    return (z.exp().sum(dim=-1).log() - picked(t, z)).mean()


@loss(target)
def soft_capped(torch: Any, F: Any, t: Any) -> Any:
    """Gemma Team 2024, "Gemma 2", sec. 2."""
    return F.cross_entropy(3.0 * torch.tanh(logits(F, t) / 3.0), t.target)


def temperature(size: Size, random: np.random.Generator) -> Arrays:
    """A positive number."""
    return {"temperature": np.array(0.7)}


@loss(target, learned=[head, temperature])
def learned_temperature(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(logits(F, t) / t.temperature, t.target)


@loss(target)
def z_loss(torch: Any, F: Any, t: Any) -> Any:
    """Chowdhery et al. 2022, "PaLM", sec. 5."""
    z = logits(F, t)
    return F.cross_entropy(z, t.target) + 1e-2 * (torch.logsumexp(z, dim=-1) ** 2).mean()


@loss(target)
def focal(torch: Any, F: Any, t: Any) -> Any:
    """Lin et al. 2017, "Focal Loss for Dense Object Detection", eq. 4."""
    log_p = picked(t, F.log_softmax(logits(F, t), dim=-1))
    return (-((1.0 - log_p.exp()) ** 2.0) * log_p).mean()


@loss(target)
def poly(torch: Any, F: Any, t: Any) -> Any:
    """Leng et al. 2022, "PolyLoss", eq. 6."""
    z = logits(F, t)
    p = picked(t, F.softmax(z, dim=-1))
    return (F.cross_entropy(z, t.target, reduction="none") + 2.0 * (1.0 - p)).mean()


@loss(target)
def entropy_bonus(torch: Any, F: Any, t: Any) -> Any:
    log_p = F.log_softmax(logits(F, t), dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    return (-picked(t, log_p) - 0.1 * entropy).mean()


@loss(target)
def generalized_cross_entropy(torch: Any, F: Any, t: Any) -> Any:
    """Zhang & Sabuncu 2018, "Generalized Cross Entropy Loss", eq. 6."""
    p = picked(t, F.softmax(logits(F, t), dim=-1))
    return ((1.0 - p**0.7) / 0.7).mean()


@loss(target)
def symmetric_cross_entropy(torch: Any, F: Any, t: Any) -> Any:
    """Wang et al. 2019, "Symmetric Cross Entropy", eq. 7, with log 0 taken as -4."""
    z = logits(F, t)
    reverse = 4.0 * (1.0 - picked(t, F.softmax(z, dim=-1)))
    return F.cross_entropy(z, t.target) + 0.5 * reverse.mean()


@loss(target)
def unlikelihood(torch: Any, F: Any, t: Any) -> Any:
    """Welleck et al. 2019, "Neural Text Generation with Unlikelihood Training", eq. 5."""
    p = picked(t, F.softmax(logits(F, t), dim=-1))
    return -torch.log(torch.clamp(1.0 - p, min=1e-4)).mean()


@loss(target, class_weights)
def adjusted_logits(torch: Any, F: Any, t: Any) -> Any:
    """Menon et al. 2020, "Long-Tail Learning via Logit Adjustment", eq. 10."""
    prior = t.class_weights / t.class_weights.sum()
    return F.cross_entropy(logits(F, t) + prior.log(), t.target)


@loss(target)
def multiclass_hinge(torch: Any, F: Any, t: Any) -> Any:
    """Weston & Watkins 1999, "Support Vector Machines for Multi-Class Pattern Recognition"."""
    z = logits(F, t)
    gap = torch.clamp(1.0 + z - z.gather(-1, t.target.unsqueeze(-1)), min=0.0)
    others = 1.0 - F.one_hot(t.target, z.shape[-1]).to(z.dtype)
    return (gap * others).sum(dim=-1).mean()


@loss(target, undefined=[ONE_CLASS])  # there is no other class
def top_1_margin(torch: Any, F: Any, t: Any) -> Any:
    """Crammer & Singer 2001, "Multiclass Kernel-based Vector Machines", eq. 3."""
    z = logits(F, t)
    is_target = F.one_hot(t.target, z.shape[-1]) == 1
    best_other = z.masked_fill(is_target, float("-inf")).amax(dim=-1)
    return F.relu(1.0 + best_other - picked(t, z)).mean()


@loss(target)
def brier(torch: Any, F: Any, t: Any) -> Any:
    z = logits(F, t)
    wanted = F.one_hot(t.target, z.shape[-1]).to(z.dtype)
    return ((F.softmax(z, dim=-1) - wanted) ** 2).sum(dim=-1).mean()


@loss(bits, class_weights)
def binary_cross_entropy_with_logits(torch: Any, F: Any, t: Any) -> Any:
    return F.binary_cross_entropy_with_logits(logits(F, t), t.bits, pos_weight=t.class_weights)


@loss(bits)
def asymmetric(torch: Any, F: Any, t: Any) -> Any:
    """Ridnik et al. 2021, "Asymmetric Loss For Multi-Label Classification", eq. 7."""
    p = torch.sigmoid(logits(F, t))
    shifted = torch.clamp(p - 0.05, min=0.0)
    positive = (1.0 - p) * torch.log(torch.clamp(p, min=1e-6))
    negative = shifted**2 * torch.log(torch.clamp(1.0 - shifted, min=1e-6))
    return -(t.bits * positive + (1.0 - t.bits) * negative).sum(dim=-1).mean()


@loss(target, learned=[head_without_bias])
def cosine_margin(torch: Any, F: Any, t: Any) -> Any:
    """Wang et al. 2018, "Additive Margin Softmax for Face Verification", eq. 5."""
    cosines = F.linear(F.normalize(t.x, dim=-1), F.normalize(t.weight, dim=-1))
    margin = 0.35 * F.one_hot(t.target, cosines.shape[-1]).to(cosines.dtype)
    return F.cross_entropy(8.0 * (cosines - margin), t.target)
