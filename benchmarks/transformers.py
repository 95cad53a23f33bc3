"""Decoder-only transformers: the small one that is run, and GPT-2 124M, which is only planned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.programs import Program


@dataclass(frozen=True)
class GptSize:
    """The sizes of a GPT. tied: the head's weight is the embedding's."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocabulary: int = 8192
    batch: int = 8
    length: int = 128
    tied: bool = False


SMALL = GptSize()
# The vocabulary of 50,257 rounded up to a multiple of 128, as is usual.
GPT2 = GptSize(12, 768, 12, 50_304, batch=4, length=1024, tied=True)
TINY = GptSize(2, 32, 2, 211, batch=2, length=24, tied=True)


def gpt(lib: Any, size: GptSize = SMALL, optimizer: str = "AdamW") -> Program:
    """A decoder-only transformer, pre-norm, GELU, causal attention."""
    F = lib.F
    model = gpt_model(lib, size)
    updates = getattr(lib.optim, optimizer)(model.parameters(), lr=3e-4)

    def step(tokens: Any, targets: Any) -> Any:
        updates.zero_grad()
        logits = model(tokens)
        loss = F.cross_entropy(logits.reshape(-1, size.vocabulary), targets.reshape(-1))
        loss.backward()
        updates.step()
        return loss

    random = np.random.default_rng(0)
    tokens = random.integers(0, size.vocabulary, (size.batch, size.length + 1))
    inputs = lib.top.from_numpy(np.ascontiguousarray(tokens[:, :-1]))
    targets = lib.top.from_numpy(np.ascontiguousarray(tokens[:, 1:]))
    return Program(model, step, (inputs, targets))


def gpt_model(lib: Any, size: GptSize) -> Any:
    """tokens [batch, length] -> logits [batch, length, vocabulary]."""
    nn, F, top = lib.nn, lib.F, lib.top

    class Attention(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(size.width, 3 * size.width)
            self.proj = nn.Linear(size.width, size.width)

        def forward(self, x: Any) -> Any:
            b, s, d = x.shape
            q, k, v = self.qkv(x).split(d, dim=2)
            q, k, v = (t.view(b, s, size.heads, d // size.heads).transpose(1, 2) for t in (q, k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.proj(y.transpose(1, 2).reshape(b, s, d))

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.norm1 = nn.LayerNorm(size.width)
            self.attention = Attention()
            self.norm2 = nn.LayerNorm(size.width)
            self.up = nn.Linear(size.width, 4 * size.width)
            self.down = nn.Linear(4 * size.width, size.width)

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.norm1(x))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Gpt(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(size.vocabulary, size.width)
            self.positions = nn.Embedding(size.length, size.width)
            self.blocks = nn.ModuleList([Block() for _ in range(size.layers)])
            self.norm = nn.LayerNorm(size.width)
            self.head = nn.Linear(size.width, size.vocabulary, bias=False)
            if size.tied:
                self.head.weight = self.tokens.weight

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.positions(
                top.arange(tokens.shape[1], device=tokens.device)
            )
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    return Gpt()
