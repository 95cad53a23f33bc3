"""The programs that are measured, written once for both frameworks.

`library(name)` gives PyTorch's modules or lowgrad's under the same names, so that each program is
the same text for both: that is the point of lowgrad's API.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

Step = Callable[[], Any]


def library(name: str) -> Any:
    """{"torch", "lowgrad"} -> its namespace with `nn`, `F` and `optim`."""
    top = import_module(name)
    return SimpleNamespace(
        name=name,
        top=top,
        nn=import_module(f"{name}.nn"),
        F=import_module(f"{name}.nn.functional"),
        optim=import_module(f"{name}.optim"),
    )


@dataclass
class Program:
    """A training step over a model: `step(*batch)` returns the loss."""

    model: Any
    step: Callable[..., Any]
    batch: tuple[Any, ...]


def tutorial_net(lib: Any, batch: int = 64) -> Program:
    """The classic tutorial's classifier, 784-128-64-10, SGD with momentum."""
    nn, F = lib.nn, lib.F

    class Net(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.fc1 = nn.Linear(784, 128)
            self.fc2 = nn.Linear(128, 64)
            self.fc3 = nn.Linear(64, 10)

        def forward(self, x: Any) -> Any:
            x = lib.top.flatten(x, 1)
            x = F.relu(self.fc1(x))
            x = F.relu(self.fc2(x))
            return self.fc3(x)

    net = Net()
    criterion = nn.CrossEntropyLoss()
    optimizer = lib.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)

    def step(images: Any, labels: Any) -> Any:
        optimizer.zero_grad()
        loss = criterion(net(images), labels)
        loss.backward()
        optimizer.step()
        return loss

    random = np.random.default_rng(0)
    images = random.standard_normal((batch, 1, 28, 28)).astype(np.float32)
    labels = random.integers(0, 10, batch)
    return Program(net, step, (lib.top.from_numpy(images), lib.top.from_numpy(labels)))


def wide_net(lib: Any, batch: int = 512) -> Program:
    """1024-4096-4096-1000 with GELU, cross-entropy and Adam."""
    nn = lib.nn
    net = nn.Sequential(
        nn.Linear(1024, 4096), nn.GELU(), nn.Linear(4096, 4096), nn.GELU(), nn.Linear(4096, 1000)
    )
    optimizer = lib.optim.Adam(net.parameters(), lr=1e-3)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = lib.F.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        return loss

    random = np.random.default_rng(0)
    x = random.standard_normal((batch, 1024)).astype(np.float32)
    y = random.integers(0, 1000, batch)
    return Program(net, step, (lib.top.from_numpy(x), lib.top.from_numpy(y)))


@dataclass(frozen=True)
class GptSize:
    """The sizes of a GPT."""

    layers: int = 4
    width: int = 256
    heads: int = 4
    vocabulary: int = 8192
    batch: int = 8
    length: int = 128


def gpt(lib: Any, size: GptSize = GptSize()) -> Program:
    """A decoder-only transformer, pre-norm, GELU, causal attention, AdamW."""
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

        def forward(self, tokens: Any) -> Any:
            x = self.tokens(tokens) + self.positions(top.arange(tokens.shape[1]))
            for block in self.blocks:
                x = block(x)
            return self.head(self.norm(x))

    model = Gpt()
    optimizer = lib.optim.AdamW(model.parameters(), lr=3e-4)

    def step(tokens: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        logits = model(tokens)
        loss = F.cross_entropy(logits.reshape(-1, size.vocabulary), targets.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    random = np.random.default_rng(0)
    tokens = random.integers(0, size.vocabulary, (size.batch, size.length + 1))
    inputs = lib.top.from_numpy(np.ascontiguousarray(tokens[:, :-1]))
    targets = lib.top.from_numpy(np.ascontiguousarray(tokens[:, 1:]))
    return Program(model, step, (inputs, targets))


def copy_weights(source: Any, target: Any, lib: Any) -> None:
    """Give lowgrad's model the weights of PyTorch's."""
    state = {k: lib.top.from_numpy(v.detach().numpy()) for k, v in source.state_dict().items()}
    target.load_state_dict(state)


def chance_loss(vocabulary: int) -> float:
    """The cross-entropy of guessing: what an untrained model should be near."""
    return math.log(vocabulary)
