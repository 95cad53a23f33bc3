"""Training a head without room for its logits: PyTorch's weights after three steps, in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as TF
from losses.ways import assert_never_whole

import lowgrad
import lowgrad.nn.functional as F

ROWS, WIDTH, CLASSES, STEPS = 1009, 6, 257, 3
Step = Callable[..., Any]

OPTIMIZERS: dict[str, dict[str, float]] = {
    "SGD": {"lr": 0.5, "momentum": 0.9},
    "AdamW": {"lr": 0.01},
}


def training(library: Any, functions: Any, optimizer: str, dtype: str) -> tuple[Any, Step]:
    """A two-layer head whose second layer has the embedding's weight, and its step."""
    random = np.random.default_rng(0)
    kind = getattr(library, dtype)
    table = library.nn.Embedding(CLASSES, WIDTH)
    layer = library.nn.Linear(WIDTH, WIDTH)
    head = library.nn.Linear(WIDTH, CLASSES)
    head.weight = table.weight
    net = library.nn.ModuleList([table, layer, head]).to(kind)
    with library.no_grad():
        for parameter in net.parameters():
            drawn = random.normal(size=tuple(parameter.shape)).astype(np.float32)
            parameter.copy_(library.from_numpy(drawn).to(kind))
    updates = getattr(library.optim, optimizer)(net.parameters(), **OPTIMIZERS[optimizer])

    def step(tokens: Any, target: Any) -> Any:
        updates.zero_grad()
        hidden = functions.gelu(layer(table(tokens)))
        loss = functions.cross_entropy(head(hidden), target, label_smoothing=0.1)
        loss.backward()
        updates.step()
        return loss

    return net, step


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_three_steps_of_a_tied_head_under_a_budget(optimizer: str):
    random = np.random.default_rng(1)
    data = [random.integers(0, CLASSES, ROWS) for _ in range(2)]
    net, step = training(lowgrad, F, optimizer, "float32")
    reference, other = training(torch, TF, optimizer, "float64")
    batch = [lowgrad.from_numpy(a) for a in data]
    free = lowgrad.compile(step).lower(*batch).plan
    budget = free.state_bytes + free.argument_bytes + ROWS * CLASSES * 4 * 3 // 4
    tight = lowgrad.compile(step, memory=budget)

    for _ in range(STEPS):
        loss = float(tight(*batch))
        want = float(other(*(torch.from_numpy(a) for a in data)).detach())
        assert abs(loss - want) <= 2e-4 * abs(want)

    assert_never_whole(tight.lower(*batch), (ROWS, CLASSES))
    for got, expected in zip(net.parameters(), reference.parameters(), strict=True):
        difference = got.detach().numpy() - expected.detach().numpy()
        assert np.linalg.norm(difference) <= 2e-4 * np.linalg.norm(expected.detach().numpy())


def test_the_budgeted_step_records_once():
    _, step = training(lowgrad, F, "SGD", "float32")
    batch = [lowgrad.zeros(ROWS, dtype=lowgrad.int64) for _ in range(2)]
    tight = lowgrad.compile(step, memory="4MB")

    for _ in range(STEPS):
        tight(*batch)

    assert tight.recordings == 1
