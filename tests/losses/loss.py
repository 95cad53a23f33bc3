"""A loss over a linear layer: its text, written once for lowgrad and PyTorch, and its data.

A loss is `function(torch, F, t) -> 0-d tensor`, where `torch` is either library, `F` its
`nn.functional` and `t` holds the tensors by name. Its data are made by makers, one to an idea:
`maker(size, random) -> {name: array}`; what is `learned` gets gradients, what is `given` gets none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


@dataclass(frozen=True)
class Size:
    """Rows of the batch, width of the linear layer's input, classes of its output."""

    rows: int
    width: int
    classes: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.width}x{self.classes}"


# 37 and 1009 are prime: no chunk but one row, or all of them, divides them.
SMALL = Size(rows=37, width=8, classes=23)
ONE_ROW = Size(rows=1, width=8, classes=23)
NO_ROWS = Size(rows=0, width=8, classes=23)
ONE_CLASS = Size(rows=37, width=8, classes=1)
# The logits, 1 MB, outweigh all else, also what a kernel needs for a chunk of rows.
MANY_ROWS = Size(rows=1009, width=5, classes=257)

Maker = Callable[[Size, np.random.Generator], Arrays]


@dataclass(frozen=True)
class Loss:
    """One loss and how its data are made.

    undefined: the sizes at which the loss itself means nothing, with the reason.
    """

    name: str
    function: Callable[[Any, Any, Any], Any]
    learned: tuple[Maker, ...]
    given: tuple[Maker, ...]
    undefined: tuple[Size, ...]

    def arrays(self, size: Size) -> tuple[Arrays, Arrays]:
        """({name: what is learned}, {name: what is given}), floating ones exact in float32."""
        random = np.random.default_rng(crc32(f"{self.name} {size}".encode()))
        learned, given = ({}, {})
        for maker in self.learned:
            learned |= maker(size, random)
        for maker in self.given:
            given |= maker(size, random)
        return _rounded(learned), _rounded(given)


LOSSES: dict[str, Loss] = {}

LossFunction = Callable[[Any, Any, Any], Any]


def loss(
    *given: Maker,
    learned: Sequence[Maker] = (),
    undefined: Sequence[Size] = (),
) -> Callable[[LossFunction], LossFunction]:
    """Add the function to LOSSES. learned: `head` if nothing is said."""

    def register(function: LossFunction) -> LossFunction:
        name = function.__name__
        assert name not in LOSSES, f"two losses are called {name}"
        makers = tuple(learned) or (head,)
        LOSSES[name] = Loss(name, function, makers, given, tuple(undefined))
        return function

    return register


def _rounded(arrays: Arrays) -> Arrays:
    return {k: a.astype(np.float32) if a.dtype.kind == "f" else a for k, a in arrays.items()}


# The linear layer --------------------------------------------------------------------------------


def head(size: Size, random: np.random.Generator) -> Arrays:
    """x [rows, width], weight [classes, width], bias [classes]; logits of about 2."""
    return head_without_bias(size, random) | {"bias": random.normal(size=size.classes)}


def head_without_bias(size: Size, random: np.random.Generator) -> Arrays:
    """x [rows, width], weight [classes, width]."""
    return {
        "x": random.normal(size=(size.rows, size.width)),
        "weight": random.normal(size=(size.classes, size.width)) * 2.0 / np.sqrt(size.width),
    }


def logits(F: Any, t: Any) -> Any:
    """[..., classes]"""
    return F.linear(t.x, t.weight, t.bias)


def picked(t: Any, log_p: Any) -> Any:
    """The entry of each row's target. log_p: [..., classes].  t.target: [...]."""
    return log_p.gather(-1, t.target.unsqueeze(-1)).squeeze(-1)


# What a loss is given ----------------------------------------------------------------------------


def target(size: Size, random: np.random.Generator) -> Arrays:
    """A class for each row."""
    return {"target": random.integers(0, size.classes, size.rows)}


def ignored_target(size: Size, random: np.random.Generator) -> Arrays:
    """A class for each row; about a third is -100, the first is not."""
    made = target(size, random)["target"]
    made[random.uniform(size=size.rows) < 0.35] = -100
    made[:1] = 0
    return {"target": made}


def numbers(size: Size, random: np.random.Generator) -> Arrays:
    """A number for each row and class."""
    return {"numbers": random.normal(size=(size.rows, size.classes))}


def bits(size: Size, random: np.random.Generator) -> Arrays:
    """0 or 1 for each row and class, floating."""
    return {"bits": (random.uniform(size=(size.rows, size.classes)) < 0.4).astype(np.float64)}


def counts(size: Size, random: np.random.Generator) -> Arrays:
    """A whole number from 0, floating, for each row and class."""
    return {"counts": random.poisson(1.5, size=(size.rows, size.classes)).astype(np.float64)}


def probabilities(size: Size, random: np.random.Generator) -> Arrays:
    """A teacher's distribution over the classes for each row."""
    scores = np.exp(2.0 * random.normal(size=(size.rows, size.classes)))
    return {"teacher": scores / scores.sum(axis=1, keepdims=True)}


def class_weights(size: Size, random: np.random.Generator) -> Arrays:
    """A positive number for each class."""
    return {"class_weights": random.uniform(0.2, 2.0, size.classes)}


def row_weights(size: Size, random: np.random.Generator) -> Arrays:
    """A positive number for each row."""
    return {"row_weights": random.uniform(0.2, 2.0, size.rows)}


def row_numbers(size: Size, random: np.random.Generator) -> Arrays:
    """A number for each row: an advantage, a return."""
    return {"row_numbers": random.normal(size=size.rows)}
