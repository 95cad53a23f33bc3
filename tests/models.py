"""Small models whose compiled steps the whole chain is tested on. Each makes (step, batch)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lowgrad
import lowgrad.nn.functional as F
from lowgrad import nn, optim

Model = tuple[Callable[..., Any], tuple[Any, ...]]


def classifier() -> Model:
    """Three linear layers with ReLU, cross-entropy, SGD with momentum. Sizes leave tails."""
    net = nn.Sequential(
        nn.Linear(49, 33), nn.ReLU(), nn.Linear(33, 18), nn.ReLU(), nn.Linear(18, 10)
    )
    return _trained(net, optim.SGD(net.parameters(), lr=0.05, momentum=0.9), 21)


def gelu_adam() -> Model:
    """GELU, LayerNorm, Adam."""
    net = nn.Sequential(nn.Linear(49, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 10))
    return _trained(net, optim.Adam(net.parameters(), lr=0.01), 16)


def dropout_clipped() -> Model:
    """SiLU, RMSNorm, dropout, AdamW after clipping the gradients' norm."""
    net = nn.Sequential(
        nn.Linear(49, 40), nn.SiLU(), nn.RMSNorm(40), nn.Dropout(0.3), nn.Linear(40, 10)
    )
    return _trained(net, optim.AdamW(net.parameters(), lr=0.01), 16, clip=0.5)


def _trained(net: Any, optimizer: Any, batch: int, clip: float | None = None) -> Model:
    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimizer.step()
        return loss

    return step, (lowgrad.randn(batch, 49), lowgrad.randint(0, 10, (batch,)))


class Block(nn.Module):
    """A pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Any) -> Any:
        b, s, d = x.shape
        q, k, v = (
            t.reshape(b, s, self.heads, d // self.heads).transpose(1, 2)
            for t in self.qkv(self.norm1(x)).split(d, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(y.transpose(1, 2).reshape(b, s, d))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


def gpt() -> Model:
    """One transformer block between an embedding and a head, AdamW."""
    tokens, block, head = nn.Embedding(37, 16), Block(16, 2), nn.Linear(16, 37, bias=False)
    parameters = [*tokens.parameters(), *block.parameters(), *head.parameters()]
    optimizer = optim.AdamW(parameters, lr=0.01)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        logits = head(block(tokens(x)))
        loss = F.cross_entropy(logits.reshape(-1, 37), y.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    return step, (lowgrad.randint(0, 37, (2, 9)), lowgrad.randint(0, 37, (2, 9)))


MODELS: dict[str, Callable[[], Model]] = {
    "classifier": classifier,
    "gelu_adam": gelu_adam,
    "dropout_clipped": dropout_clipped,
    "gpt": gpt,
}
