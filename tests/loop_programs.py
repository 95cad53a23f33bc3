"""Programs with something large in the middle: what row loops are tried on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.ir.graph import Graph
from lowgrad.ir.op import Array
from lowgrad.passes.loops import loops
from lowgrad.passes.trades import Trades

ROWS, WIDTH, CLASSES = 19, 12, 33
Tensor = Any


def inputs(*shapes: tuple[int, ...], dtype: Any = lowgrad.float32) -> list[Tensor]:
    rng = np.random.default_rng(3)
    arrays = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return [lowgrad.tensor(a, dtype=dtype, requires_grad=True) for a in arrays]


TARGET = lowgrad.tensor(np.arange(ROWS) * 5 % CLASSES)


def gradients_of(loss: Callable[..., Tensor]) -> Callable[..., list[Tensor]]:
    """loss(*tensors) as a step that returns the loss and the gradients of the tensors."""

    def step(*tensors: Tensor) -> list[Tensor]:
        value = loss(*tensors)
        value.backward()
        return [value, *(t.grad for t in tensors)]

    return step


def cross_entropy(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, w, b), TARGET, label_smoothing=0.1)


def no_bias_sum(x: Tensor, w: Tensor) -> Tensor:
    return F.cross_entropy(x @ w.T, TARGET, reduction="sum")


def squares(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return (F.linear(x, w, b).sigmoid() ** 2).mean()


def two_heads(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    return F.cross_entropy(x @ w.T, TARGET) + F.cross_entropy(x @ v.T, TARGET)


def teacher(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
    known = F.softmax((x @ v.T).detach(), dim=-1)
    return F.kl_div(F.log_softmax(x @ w.T, dim=-1), known, reduction="batchmean")


def focal(x: Tensor, w: Tensor, temperature: Tensor) -> Tensor:
    rows = F.cross_entropy(x @ w.T / temperature, TARGET, reduction="none")
    return ((1 - (-rows).exp()) ** 2 * rows).mean()


def over_the_mean(x: Tensor, w: Tensor) -> Tensor:
    rows = F.cross_entropy(x @ w.T, TARGET, reduction="none")
    return (rows / rows.detach().mean()).square().sum()


def dropped(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    return F.cross_entropy(F.dropout(F.linear(x, w, b), 0.3), TARGET)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).square().sum()


LINEAR = ((ROWS, WIDTH), (CLASSES, WIDTH))
BIAS = (CLASSES,)
HEADS = ((2, 3, 9, 2),) * 3

PROGRAMS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...]]] = {
    "cross_entropy": (cross_entropy, (*LINEAR, BIAS)),
    "no_bias_sum": (no_bias_sum, LINEAR),
    "squares": (squares, (*LINEAR, BIAS)),
    "two_heads": (two_heads, (*LINEAR, LINEAR[1])),
    "teacher": (teacher, (*LINEAR, LINEAR[1])),
    "focal": (focal, (*LINEAR, ())),
    "over_the_mean": (over_the_mean, LINEAR),
    "dropped": (dropped, (*LINEAR, BIAS)),
    "causal": (causal, HEADS),
}
every_program = pytest.mark.parametrize("name", PROGRAMS)


def traced(name: str, dtype: Any = lowgrad.float32) -> Graph:
    """The program's graph as the pass meets it."""
    loss, shapes = PROGRAMS[name]
    step = lowgrad.compile(gradients_of(loss))
    return step.lower(*inputs(*shapes, dtype=dtype)).graphs["cse"]


def largest(graph: Graph) -> int:
    return max(n.output.type.nbytes for n in graph.nodes if n.op.name == "matmul")


def looped(graph: Graph, parts: int = 3, **trades: bool) -> Graph:
    """With loops around the largest products, whose chunks are that part of them."""
    least = largest(graph)
    return loops(Trades(loop_over=least, chunk_bytes=least // parts, **trades))(graph)


def arrays_for(graph: Graph) -> list[Array]:
    rng = np.random.default_rng(0)
    return [
        np.asarray(rng.normal(size=v.type.shape)).astype(v.type.dtype.numpy)
        if v.type.dtype.is_floating_point
        else rng.integers(0, 2 if v.type.dtype is lowgrad.bool else 4, v.type.shape).astype(
            v.type.dtype.numpy
        )
        for v in graph.inputs
    ]
