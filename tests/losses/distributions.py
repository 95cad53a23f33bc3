"""Losses against a distribution over the classes: a teacher's, or that of a second linear layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from losses.loss import Arrays, Size, logits, loss, probabilities, target


def second_head(size: Size, random: np.random.Generator) -> Arrays:
    """Another linear layer over an input of its own; frozen where it is only given."""
    return {
        "other_x": random.normal(size=(size.rows, size.width)),
        "other_weight": random.normal(size=(size.classes, size.width)),
        "other_bias": random.normal(size=size.classes),
    }


def other_logits(F: Any, t: Any) -> Any:
    """[rows, classes]"""
    return F.linear(t.other_x, t.other_weight, t.other_bias)


@loss(probabilities)
def distillation_of_probabilities(torch: Any, F: Any, t: Any) -> Any:
    log_p = F.log_softmax(logits(F, t), dim=-1)
    return F.kl_div(log_p, t.teacher, reduction="batchmean")


@loss(second_head)
def distillation_of_logits(torch: Any, F: Any, t: Any) -> Any:
    """Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", sec. 2."""
    log_p = F.log_softmax(logits(F, t) / 2.0, dim=-1)
    teacher = F.log_softmax(other_logits(F, t) / 2.0, dim=-1)
    return 4.0 * F.kl_div(log_p, teacher, reduction="batchmean", log_target=True)


@loss(second_head, target)
def distillation_and_labels(torch: Any, F: Any, t: Any) -> Any:
    z = logits(F, t)
    teacher = F.softmax(other_logits(F, t) / 3.0, dim=-1)
    soft = -(teacher * F.log_softmax(z / 3.0, dim=-1)).sum(dim=-1).mean()
    return 0.3 * F.cross_entropy(z, t.target) + 0.7 * 9.0 * soft


@loss(probabilities)
def kl(torch: Any, F: Any, t: Any) -> Any:
    log_p = F.log_softmax(logits(F, t), dim=-1)
    return (t.teacher * (t.teacher.log() - log_p)).sum(dim=-1).mean()


@loss(probabilities)
def reverse_kl(torch: Any, F: Any, t: Any) -> Any:
    log_p = F.log_softmax(logits(F, t), dim=-1)
    return (log_p.exp() * (log_p - t.teacher.log())).sum(dim=-1).mean()


@loss(second_head)
def reverse_kl_of_logits(torch: Any, F: Any, t: Any) -> Any:
    """Gu et al. 2023, "MiniLLM", eq. 1, token by token."""
    log_p = F.log_softmax(logits(F, t), dim=-1)
    log_q = F.log_softmax(other_logits(F, t), dim=-1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()


@loss(second_head)
def jensen_shannon(torch: Any, F: Any, t: Any) -> Any:
    """Lin 1991, "Divergence Measures Based on the Shannon Entropy", eq. 4.1."""
    log_p = F.log_softmax(logits(F, t), dim=-1)
    log_q = F.log_softmax(other_logits(F, t), dim=-1)
    p, q = log_p.exp(), log_q.exp()
    log_mean = torch.log(0.5 * (p + q))
    both = p * (log_p - log_mean) + q * (log_q - log_mean)
    return 0.5 * both.sum(dim=-1).mean()


@loss(probabilities)
def total_variation(torch: Any, F: Any, t: Any) -> Any:
    return 0.5 * (F.softmax(logits(F, t), dim=-1) - t.teacher).abs().sum(dim=-1).mean()


@loss(probabilities)
def hellinger(torch: Any, F: Any, t: Any) -> Any:
    p = F.softmax(logits(F, t), dim=-1)
    return ((p.sqrt() - t.teacher.sqrt()) ** 2).sum(dim=-1).sqrt().mean()


@loss(probabilities)
def logits_against_log_probabilities(torch: Any, F: Any, t: Any) -> Any:
    """Ba & Caruana 2014, "Do Deep Nets Really Need to be Deep?", eq. 1, centred."""
    z, w = logits(F, t), t.teacher.log()
    difference = (z - z.mean(dim=-1, keepdim=True)) - (w - w.mean(dim=-1, keepdim=True))
    return (difference**2).mean()
