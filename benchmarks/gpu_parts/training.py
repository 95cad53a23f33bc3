"""Whole training steps for either library, on a device, in the precision of choice."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks import networks, transformers
from benchmarks.programs import Program, fill_weights
from benchmarks.transformers import GptSize, gpt_model

# For Triton's interpreter, which takes a second for what a GPU does in a microsecond.
TINIEST = GptSize(1, 16, 2, 48, batch=2, length=8, tied=True)


@dataclass
class Step:
    """`whole(forward)(*batch)` is a step around a forward pass, which may be a compiled one."""

    model: Any
    forward: Callable[..., Any]
    whole: Callable[[Callable[..., Any]], Callable[..., Any]]
    batch: tuple[Any, ...]

    @property
    def eager(self) -> Callable[..., Any]:
        """The step as it reads."""
        return self.whole(self.forward)


def gpt_step(lib: Any, size: GptSize, device: str, *, is_mixed: bool = True) -> Step:
    """GPT with AdamW: float32 weights, bfloat16 by autocast where it is mixed.

    The weights are the same for both libraries; PyTorch's AdamW is its fused one on a GPU.
    """
    model = fill_weights(Program(gpt_model(lib, size), _nothing, ()), lib).model
    model.to(device)
    fused = {"fused": True} if lib.name == "torch" and device == "cuda" else {}
    updates = lib.optim.AdamW(model.parameters(), lr=3e-4, **fused)
    kind = device.partition(":")[0]

    def precision() -> AbstractContextManager[Any]:
        if not is_mixed:
            return nullcontext()
        return lib.top.autocast(kind, dtype=lib.top.bfloat16)

    def forward(tokens: Any, targets: Any) -> Any:
        with precision():
            logits = model(tokens)
            return lib.F.cross_entropy(logits.reshape(-1, size.vocabulary), targets.reshape(-1))

    def whole(forward: Callable[..., Any]) -> Callable[..., Any]:
        def step(tokens: Any, targets: Any) -> Any:
            updates.zero_grad()
            loss = forward(tokens, targets)
            loss.backward()
            updates.step()
            return loss

        return step

    random = np.random.default_rng(0)
    tokens = random.integers(0, size.vocabulary, (size.batch, size.length + 1))
    inputs, targets = (
        lib.top.from_numpy(np.ascontiguousarray(t)).to(device)
        for t in (tokens[:, :-1], tokens[:, 1:])
    )
    return Step(model, forward, whole, (inputs, targets))


def _nothing() -> None:
    """A program's step that nobody calls."""


def program(lib: Any, make: Callable[[Any], Program], device: str) -> Program:
    """A program of `benchmarks` with its model, weights equal for both libraries, on a device."""
    made = fill_weights(make(lib), lib)
    made.model.to(device)
    made.batch = tuple(x.to(device) for x in made.batch)
    return made


def small(is_tiny: bool) -> dict[str, Callable[[Any], Program]]:
    """The networks whose whole steps are measured."""
    if is_tiny:
        return {"classifier": lambda lib: networks.classifier(lib, batch=8)}
    return {"classifier": networks.classifier, "wide net": networks.wide_net}


def gpt2(is_tiny: bool, batch: int) -> GptSize:
    """GPT-2 124M with a batch."""
    return replace(TINIEST if is_tiny else transformers.GPT2, batch=batch)
