"""Losses of reinforcement learning and of preferences: log-probabilities against what they earned.

A preference couples rows: log-probabilities are summed over each sequence before they are compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from losses.loss import (
    NO_ROWS,
    ONE_CLASS,
    Arrays,
    Size,
    head,
    head_without_bias,
    logits,
    loss,
    picked,
    row_numbers,
    target,
)


def log_probabilities(F: Any, t: Any) -> Any:
    """Of the target, for each row."""
    return picked(t, F.log_softmax(logits(F, t), dim=-1))


# One action to a row -----------------------------------------------------------------------------


def old_log_probabilities(size: Size, random: np.random.Generator) -> Arrays:
    """What the policy that acted gave to its action."""
    return {"old": -np.log(size.classes) + random.normal(size=size.rows)}


def reference_log_probabilities(size: Size, random: np.random.Generator) -> Arrays:
    """What the policy that is not to be left gives to the action."""
    return {"reference": -np.log(size.classes) + random.normal(size=size.rows)}


@loss(target, row_numbers)
def reinforce(torch: Any, F: Any, t: Any) -> Any:
    """Williams 1992, "Simple Statistical Gradient-Following Algorithms", eq. 4."""
    return -(log_probabilities(F, t) * t.row_numbers).mean()


@loss(target, row_numbers, old_log_probabilities)
def ppo(torch: Any, F: Any, t: Any) -> Any:
    """Schulman et al. 2017, "Proximal Policy Optimization Algorithms", eq. 7."""
    ratio = torch.exp(log_probabilities(F, t) - t.old)
    clipped = torch.clamp(ratio, 0.8, 1.2)
    return -torch.minimum(ratio * t.row_numbers, clipped * t.row_numbers).mean()


@loss(target, row_numbers, old_log_probabilities, reference_log_probabilities)
def grpo(torch: Any, F: Any, t: Any) -> Any:
    """Shao et al. 2024, "DeepSeekMath", eqs. 3 and 4: PPO's clipping, and KL as an estimate."""
    log_p = log_probabilities(F, t)
    ratio = torch.exp(log_p - t.old)
    gain = torch.minimum(ratio * t.row_numbers, torch.clamp(ratio, 0.8, 1.2) * t.row_numbers)
    apart = t.reference - log_p
    return -(gain - 0.04 * (torch.exp(apart) - apart - 1.0)).mean()


def value_head(size: Size, random: np.random.Generator) -> Arrays:
    """A layer from the same input to one number."""
    return {"value_weight": random.normal(size=(1, size.width)), "value_bias": np.zeros(1)}


@loss(target, row_numbers, learned=[head, value_head])
def actor_critic(torch: Any, F: Any, t: Any) -> Any:
    """Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", sec. 4."""
    log_p = F.log_softmax(logits(F, t), dim=-1)
    entropy = -(log_p.exp() * log_p).sum(dim=-1)
    value = F.linear(t.x, t.value_weight, t.value_bias).squeeze(-1)
    advantage = t.row_numbers - value
    policy = -picked(t, log_p) * advantage.detach()
    return (policy + 0.5 * advantage**2 - 0.01 * entropy).mean()


@loss(target, row_numbers)
def q_learning(torch: Any, F: Any, t: Any) -> Any:
    """Mnih et al. 2015, "Human-level control through deep reinforcement learning"."""
    return F.smooth_l1_loss(picked(t, logits(F, t)), t.row_numbers)


@loss(row_numbers)
def soft_value(torch: Any, F: Any, t: Any) -> Any:
    """Haarnoja et al. 2017, "Reinforcement Learning with Deep Energy-Based Policies", eq. 10."""
    value = 0.5 * torch.logsumexp(logits(F, t) / 0.5, dim=-1)
    return F.mse_loss(value, t.row_numbers)


# Pairs of sequences: the first half was chosen, the second rejected ------------------------------


def sequences(size: Size, random: np.random.Generator) -> Arrays:
    """x [4, length, width], weight [classes, width]: two pairs, of about size.rows tokens."""
    made = head_without_bias(size, random)
    return made | {"x": random.normal(size=(4, -(-size.rows // 4), size.width))}


def tokens(size: Size, random: np.random.Generator) -> Arrays:
    """A class for each token, and whether it belongs to the answer."""
    shape = (4, -(-size.rows // 4))
    return {
        "target": random.integers(0, size.classes, shape),
        "mask": (random.uniform(size=shape) < 0.8).astype(np.float64),
    }


def reference_sums(size: Size, random: np.random.Generator) -> Arrays:
    """What the reference model gives to each sequence: a whole one's log-probability."""
    length = -(-size.rows // 4)
    return {"reference": -np.log(size.classes) * length * 0.8 + random.normal(size=4)}


def sequence_sums(F: Any, t: Any) -> Any:
    """The log-probability of each sequence's answer: [4]."""
    log_p = picked(t, F.log_softmax(F.linear(t.x, t.weight), dim=-1))
    return (log_p * t.mask).sum(dim=-1)


@loss(tokens, reference_sums, learned=[sequences])
def dpo(torch: Any, F: Any, t: Any) -> Any:
    """Rafailov et al. 2023, "Direct Preference Optimization", eq. 7."""
    margin = sequence_sums(F, t) - t.reference
    return -F.logsigmoid(0.1 * (margin[:2] - margin[2:])).mean()


@loss(tokens, reference_sums, learned=[sequences])
def ipo(torch: Any, F: Any, t: Any) -> Any:
    """Azar et al. 2023, "A General Theoretical Paradigm", eq. 17."""
    margin = sequence_sums(F, t) - t.reference
    return ((margin[:2] - margin[2:] - 5.0) ** 2).mean()


# A mean over no tokens, and odds of a certain answer, are no numbers.
@loss(tokens, learned=[sequences], undefined=[NO_ROWS, ONE_CLASS])
def orpo(torch: Any, F: Any, t: Any) -> Any:
    """Hong et al. 2024, "ORPO", eqs. 6 and 7."""
    mean = sequence_sums(F, t) / (t.mask.sum(dim=-1) + 1e-3)
    log_odds = mean - torch.log1p(-torch.exp(mean) * 0.999)
    return -mean[:2].mean() - 0.1 * F.logsigmoid(log_odds[:2] - log_odds[2:]).mean()


@loss(tokens, learned=[sequences])
def simpo(torch: Any, F: Any, t: Any) -> Any:
    """Meng et al. 2024, "SimPO", eq. 6."""
    mean = sequence_sums(F, t) / (t.mask.sum(dim=-1) + 1e-3)
    return -F.logsigmoid(2.0 * (mean[:2] - mean[2:]) - 0.5).mean()


def sequence_rewards(size: Size, random: np.random.Generator) -> Arrays:
    """For each sequence its advantage, and how far the policy has moved since it was drawn."""
    return {"advantage": random.normal(size=4), "moved": 0.3 * random.normal(size=4)}


@loss(tokens, sequence_rewards, learned=[sequences])
def sequence_ratio(torch: Any, F: Any, t: Any) -> Any:
    """Zheng et al. 2025, "Group Sequence Policy Optimization", eq. 7: one ratio to a sequence."""
    mean = sequence_sums(F, t) / (t.mask.sum(dim=-1) + 1.0)
    ratio = torch.exp(mean - mean.detach() + t.moved)
    clipped = torch.clamp(ratio, 0.8, 1.2)
    return -torch.minimum(ratio * t.advantage, clipped * t.advantage).mean()
