"""Losses that couple the rows of a batch: by a statistic of it, or by comparing row with row."""

from __future__ import annotations

from typing import Any

import numpy as np
from losses.loss import NO_ROWS, ONE_CLASS, ONE_ROW, Arrays, Size, bits, logits, loss, target

# A statistic of the batch ------------------------------------------------------------------------


def each_cross_entropy(F: Any, t: Any) -> Any:
    """[rows]"""
    return F.cross_entropy(logits(F, t), t.target, reduction="none")


@loss(target, undefined=[ONE_CLASS])  # 0 / 0: with one class no row loses anything
def over_the_detached_mean(torch: Any, F: Any, t: Any) -> Any:
    each = each_cross_entropy(F, t)
    return (each / each.detach().mean() * each).mean()


@loss(target, undefined=[ONE_ROW, NO_ROWS])  # one row has no deviation
def over_the_deviation(torch: Any, F: Any, t: Any) -> Any:
    each = each_cross_entropy(F, t)
    return each.mean() / (each.std() + 1e-2)


@loss(target, undefined=[ONE_ROW, NO_ROWS])
def normalised_by_the_detached_deviation(torch: Any, F: Any, t: Any) -> Any:
    each = each_cross_entropy(F, t)
    score = (each - each.mean().detach()) / (each.detach().std() + 1e-2)
    return (score * torch.sigmoid(score)).mean()


@loss(target)
def tilted(torch: Any, F: Any, t: Any) -> Any:
    """Li et al. 2020, "Tilted Empirical Risk Minimization", eq. 2."""
    each = each_cross_entropy(F, t)
    return torch.log(torch.exp(0.5 * each).mean()) / 0.5


@loss(target, undefined=[NO_ROWS])  # a softmax over no rows
def weighted_by_difficulty(torch: Any, F: Any, t: Any) -> Any:
    each = each_cross_entropy(F, t)
    return (F.softmax(0.5 * each, dim=0) * each).sum()


@loss(target)
def above_the_mean(torch: Any, F: Any, t: Any) -> Any:
    each = each_cross_entropy(F, t)
    return torch.where(each > each.detach().mean(), each, 0.0 * each).sum()


@loss(bits)
def dice(torch: Any, F: Any, t: Any) -> Any:
    """Milletari et al. 2016, "V-Net", sec. 3: sums over the whole batch in a ratio."""
    p = torch.sigmoid(logits(F, t))
    return 1.0 - (2.0 * (p * t.bits).sum() + 1.0) / ((p * p).sum() + (t.bits * t.bits).sum() + 1.0)


@loss(target)
def load_balancing(torch: Any, F: Any, t: Any) -> Any:
    """Fedus et al. 2021, "Switch Transformers", eq. 4: means over the rows, class by class."""
    p = F.softmax(logits(F, t), dim=-1)
    share = F.one_hot(t.target, p.shape[-1]).to(p.dtype).mean(dim=0)
    return p.shape[-1] * (share * p.mean(dim=0)).sum()


@loss(target)
def certain_but_diverse(torch: Any, F: Any, t: Any) -> Any:
    """Krause et al. 2010, "Discriminative Clustering by Regularized Information Maximization"."""
    log_p = F.log_softmax(logits(F, t), dim=-1)
    p = log_p.exp()
    marginal = p.mean(dim=0)
    return (marginal * torch.log(marginal + 1e-6)).sum() - (p * log_p).sum(dim=-1).mean()


# Row with row: the "classes" are the other rows --------------------------------------------------


def two_views(size: Size, random: np.random.Generator) -> Arrays:
    """x [rows, width] and weight [rows, width], of which row i belongs to x's row i."""
    x = random.normal(size=(size.rows, size.width))
    return {"x": x, "weight": x + 0.5 * random.normal(size=x.shape)}


def scale_and_shift(size: Size, random: np.random.Generator) -> Arrays:
    """Two numbers."""
    return {"scale": np.array(2.0), "shift": np.array(-1.0)}


def labels(size: Size, random: np.random.Generator) -> Arrays:
    """One of three classes for each row."""
    return {"label": random.integers(0, 3, size.rows)}


def similarities(F: Any, t: Any) -> Any:
    """[rows, rows], cosines."""
    return F.normalize(t.x, dim=-1) @ F.normalize(t.weight, dim=-1).T


@loss(learned=[two_views, scale_and_shift])
def info_nce(torch: Any, F: Any, t: Any) -> Any:
    """van den Oord et al. 2018, "Representation Learning with Contrastive Predictive Coding"."""
    z = similarities(F, t) * t.scale.exp() + t.shift
    return F.cross_entropy(z, torch.arange(z.shape[0]))


# Rows of losses and columns of losses: no chunk of rows has a whole column.
@loss(learned=[two_views, scale_and_shift])
def clip(torch: Any, F: Any, t: Any) -> Any:
    """Radford et al. 2021, "Learning Transferable Visual Models", fig. 3."""
    z = similarities(F, t) * t.scale.exp() + t.shift
    own = torch.arange(z.shape[0])
    return 0.5 * (F.cross_entropy(z, own) + F.cross_entropy(z.T, own))


@loss(learned=[two_views, scale_and_shift])
def siglip(torch: Any, F: Any, t: Any) -> Any:
    """Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", sec. 3.2."""
    z = similarities(F, t) * t.scale.exp() + t.shift
    row = torch.arange(z.shape[0])
    sign = torch.where(row.unsqueeze(0) == row.unsqueeze(1), 1.0, -1.0).to(z.dtype)
    return -F.logsigmoid(sign * z).sum() / max(z.shape[0], 1)


@loss(labels, learned=[two_views])
def supervised_contrastive(torch: Any, F: Any, t: Any) -> Any:
    """Khosla et al. 2020, "Supervised Contrastive Learning", eq. 2."""
    log_p = F.log_softmax(similarities(F, t) / 0.2, dim=-1)
    same = (t.label.unsqueeze(0) == t.label.unsqueeze(1)).to(log_p.dtype)
    return -((log_p * same).sum(dim=-1) / same.sum(dim=-1)).mean()


@loss(learned=[two_views])
def triplet_to_the_hardest(torch: Any, F: Any, t: Any) -> Any:
    """Hermans et al. 2017, "In Defense of the Triplet Loss", eq. 5."""
    z = similarities(F, t)
    row = torch.arange(z.shape[0])
    own = row.unsqueeze(0) == row.unsqueeze(1)
    positive = torch.where(own, z, 0.0 * z).sum(dim=-1)
    negative = z.masked_fill(own, -2.0).sum(dim=-1) / max(z.shape[0], 1)
    return F.relu(0.9 + negative - positive).mean()
