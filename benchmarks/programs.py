"""What a measured program is: a training step over a model, written once for both frameworks.

`library(name)` gives PyTorch's modules or lowgrad's under the same names, so that each program is
the same text for both: that is the point of lowgrad's API.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np


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
    """A training step over a model: `step(*batch)` returns the loss, or it and gradients."""

    model: Any
    step: Callable[..., Any]
    batch: tuple[Any, ...]


Make = Callable[[Any], Program]  # from a library


def loss_of(result: Any) -> float:
    """The loss as a number, from what a step returns."""
    loss = result[0] if isinstance(result, tuple) else result
    return float(loss.detach())


def supervised(lib: Any, model: Any, optimizer: Any, loss: Any, batch: tuple[Any, ...]) -> Program:
    """The usual step: `loss(model(inputs), targets)`, its gradients, the optimizer's update.

    batch: (inputs, targets), arrays.
    """

    def step(inputs: Any, targets: Any) -> Any:
        optimizer.zero_grad()
        value = loss(model(inputs), targets)
        value.backward()
        optimizer.step()
        return value

    return Program(model, step, tuple(lib.top.from_numpy(a) for a in batch))


def fill_weights(program: Program, lib: Any, seed: int = 0) -> Program:
    """The program with weights that depend on their names' order and shapes alone; in place."""
    random = np.random.default_rng(seed)
    with lib.top.no_grad():
        for parameter in program.model.parameters():
            shape = tuple(parameter.shape)
            scale = shape[-1] ** -0.5 if len(shape) > 1 else 0.1
            drawn = random.standard_normal(shape, dtype=np.float32) * np.float32(scale)
            parameter.copy_(lib.top.from_numpy(drawn))
    return program
