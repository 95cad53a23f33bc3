"""The head of a language model alone, with several losses: gradients of input and weight, SGD."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.programs import Program


@dataclass(frozen=True)
class HeadSize:
    """Rows of hidden states, their width, and the classes of the logits."""

    rows: int = 4096
    width: int = 512
    vocabulary: int = 50_257


LARGE = HeadSize()
MEDIUM = HeadSize(1024, 256, 8192)
TINY = HeadSize(37, 16, 211)

HeadLoss = Callable[[Any, Any, Any], Any]  # of the library, the logits and the targets


def cross_entropy(lib: Any, logits: Any, targets: Any) -> Any:
    """The usual loss."""
    return lib.F.cross_entropy(logits, targets)


def capped_with_z_loss(lib: Any, logits: Any, targets: Any) -> Any:
    """Logits through tanh (Gemma 2), and the normaliser kept small (PaLM)."""
    logits = 30.0 * lib.top.tanh(logits / 30.0)
    z = lib.top.logsumexp(logits, dim=-1)
    return lib.F.cross_entropy(logits, targets) + 1e-4 * (z * z).mean()


def focal(lib: Any, logits: Any, targets: Any) -> Any:
    """Cross-entropy that counts a sure row less (Lin et al. 2017)."""
    log_p = lib.F.log_softmax(logits, dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return -((1.0 - log_p.exp()) ** 2.0 * log_p).mean()


def lm_head(lib: Any, size: HeadSize = LARGE, loss: HeadLoss = cross_entropy) -> Program:
    """`step(hidden, targets)` returns the loss and hidden's gradient, and updates the weight."""
    head = lib.nn.Linear(size.width, size.vocabulary, bias=False)
    optimizer = lib.optim.SGD(head.parameters(), lr=0.1)

    def step(hidden: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        hidden = hidden.detach().requires_grad_()
        value = loss(lib, head(hidden), targets)
        value.backward()
        optimizer.step()
        return value, hidden.grad

    random = np.random.default_rng(0)
    hidden = random.standard_normal((size.rows, size.width), dtype=np.float32)
    targets = random.integers(0, size.vocabulary, size.rows)
    return Program(head, step, (lib.top.from_numpy(hidden), lib.top.from_numpy(targets)))
