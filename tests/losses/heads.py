"""Cross entropy over other heads: several, tied, dropped out, mixed, low-rank, shifted."""

from __future__ import annotations

from typing import Any

import numpy as np
from losses.loss import Arrays, Size, head, head_without_bias, logits, loss, picked, target


def two_more_heads(size: Size, random: np.random.Generator) -> Arrays:
    """weight_1 and weight_2, [classes, width] each."""
    shape = (size.classes, size.width)
    return {f"weight_{i}": random.normal(size=shape) / np.sqrt(size.width) for i in (1, 2)}


def later_targets(size: Size, random: np.random.Generator) -> Arrays:
    """A class for each row and each of two further heads."""
    return {f"target_{i}": random.integers(0, size.classes, size.rows) for i in (1, 2)}


@loss(target, later_targets, learned=[head, two_more_heads])
def multi_token(torch: Any, F: Any, t: Any) -> Any:
    """Gloeckle et al. 2024, "Better & Faster Large Language Models via Multi-token Prediction"."""
    total = F.cross_entropy(logits(F, t), t.target)
    total = total + F.cross_entropy(F.linear(t.x, t.weight_1), t.target_1)
    return total + F.cross_entropy(F.linear(t.x, t.weight_2), t.target_2)


@loss(target, later_targets)
def one_head_for_three_targets(torch: Any, F: Any, t: Any) -> Any:
    log_p = F.log_softmax(logits(F, t), dim=-1)
    others = (t.target_1, t.target_2)
    total = picked(t, log_p).mean()
    for other in others:
        total = total + log_p.gather(-1, other.unsqueeze(-1)).mean()
    return -total


def embedding(size: Size, random: np.random.Generator) -> Arrays:
    """weight [classes, width], the embedding's and the head's; scale [width]."""
    return {
        "weight": random.normal(size=(size.classes, size.width)),
        "scale": random.normal(size=size.width),
    }


def tokens(size: Size, random: np.random.Generator) -> Arrays:
    """A class for each row to look up, and one to predict."""
    return {
        "tokens": random.integers(0, size.classes, size.rows),
        "target": random.integers(0, size.classes, size.rows),
    }


@loss(tokens, learned=[embedding])
def tied_weights(torch: Any, F: Any, t: Any) -> Any:
    """Press & Wolf 2017, "Using the Output Embedding to Improve Language Models"."""
    hidden = torch.tanh(F.embedding(t.tokens, t.weight)) * t.scale
    return F.cross_entropy(F.linear(hidden, t.weight), t.target)


@loss(target)
def dropout_on_logits(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(F.dropout(logits(F, t), 0.3), t.target)


@loss(target)
def dropout_on_hidden(torch: Any, F: Any, t: Any) -> Any:
    return F.cross_entropy(F.linear(F.dropout(t.x, 0.3), t.weight, t.bias), t.target)


def normalisation(size: Size, random: np.random.Generator) -> Arrays:
    """scale and shift of the input, [width]."""
    return {
        "scale": random.uniform(0.5, 1.5, size.width),
        "shift": random.normal(size=size.width),
    }


@loss(target, learned=[head, normalisation])
def after_layer_norm(torch: Any, F: Any, t: Any) -> Any:
    hidden = F.layer_norm(t.x, (t.x.shape[-1],), t.scale, t.shift)
    return F.cross_entropy(F.linear(hidden, t.weight, t.bias), t.target)


def hidden_layer(size: Size, random: np.random.Generator) -> Arrays:
    """A layer before the head, [width, width]."""
    return {
        "hidden_weight": random.normal(size=(size.width, size.width)),
        "hidden_bias": random.normal(size=size.width),
    }


@loss(target, learned=[head, hidden_layer])
def after_a_gelu_layer(torch: Any, F: Any, t: Any) -> Any:
    hidden = F.gelu(F.linear(t.x, t.hidden_weight, t.hidden_bias))
    return F.cross_entropy(F.linear(hidden, t.weight, t.bias), t.target)


def adapter(size: Size, random: np.random.Generator) -> Arrays:
    """down [2, width] and up [classes, 2]."""
    return {
        "x": random.normal(size=(size.rows, size.width)),
        "down": random.normal(size=(2, size.width)),
        "up": random.normal(size=(size.classes, 2)),
    }


def frozen_weight(size: Size, random: np.random.Generator) -> Arrays:
    """weight [classes, width] that is not trained."""
    return {"weight": head_without_bias(size, random)["weight"]}


@loss(target, frozen_weight, learned=[adapter])
def low_rank_adapter(torch: Any, F: Any, t: Any) -> Any:
    """Hu et al. 2021, "LoRA", eq. 3."""
    z = F.linear(t.x, t.weight) + 0.5 * F.linear(F.linear(t.x, t.down), t.up)
    return F.cross_entropy(z, t.target)


def mixing(size: Size, random: np.random.Generator) -> Arrays:
    """mixture [2, width]: the share of each of two softmaxes; gate [width, width]."""
    return {
        "mixture": random.normal(size=(2, size.width)),
        "gate": random.normal(size=(size.width, size.width)),
    }


@loss(target, learned=[head, mixing])
def mixture_of_softmaxes(torch: Any, F: Any, t: Any) -> Any:
    """Yang et al. 2018, "Breaking the Softmax Bottleneck", eq. 4."""
    share = F.softmax(F.linear(t.x, t.mixture), dim=-1)
    first = F.softmax(logits(F, t), dim=-1)
    second = F.softmax(F.linear(torch.tanh(t.x @ t.gate), t.weight, t.bias), dim=-1)
    p = share[:, :1] * first + share[:, 1:] * second
    return -torch.log(picked(t, p)).mean()


def sequences(size: Size, random: np.random.Generator) -> Arrays:
    """x [3, length, width], weight [classes, width], bias [classes]."""
    made = head(size, random)
    return made | {"x": random.normal(size=(3, -(-size.rows // 3), size.width))}


def next_tokens(size: Size, random: np.random.Generator) -> Arrays:
    """A class for each token."""
    return {"target": random.integers(0, size.classes, (3, -(-size.rows // 3)))}


@loss(next_tokens, learned=[sequences])
def sequence_flattened(torch: Any, F: Any, t: Any) -> Any:
    z = logits(F, t)
    return F.cross_entropy(z.reshape(-1, z.shape[-1]), t.target.reshape(-1))


@loss(next_tokens, learned=[sequences])
def sequence_shifted(torch: Any, F: Any, t: Any) -> Any:
    """The logits of all but the last token against the tokens that follow; summed."""
    z, y = logits(F, t)[:, :-1], t.target[:, 1:]
    return F.cross_entropy(z.reshape(-1, z.shape[-1]), y.reshape(-1), reduction="sum")
