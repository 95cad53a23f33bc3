"""Attention in many variants, as steps with loops: what streamed kernels are tried on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from loop_programs import Tensor, arrays_for, gradients_of, inputs

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.codegen.lower import launches
from lowgrad.codegen.step import KernelExecutable
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.passes.loops import loops
from lowgrad.passes.pipeline import LOWER, run_passes
from lowgrad.passes.trades import Trades

BATCH, HEADS, LENGTH, WIDTH = 2, 2, 35, 16
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


def scores(q: Tensor, k: Tensor) -> Tensor:
    return q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(scores(q, k), dim=-1) @ v


def linear_bias(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ALiBi: the further, the less."""
    places = lowgrad.arange(q.shape[-2]).float()
    distance = (places.unsqueeze(0) - places.unsqueeze(1)).abs()
    return F.softmax(scores(q, k) - 0.1 * distance, dim=-1) @ v


def window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Only the last five."""
    places = lowgrad.arange(q.shape[-2])
    distance = places.unsqueeze(1) - places.unsqueeze(0)
    near = (distance >= 0) & (distance < 5)
    return F.softmax(lowgrad.where(near, scores(q, k), -1e9), dim=-1) @ v


def capped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.softmax(3 * lowgrad.tanh(scores(q, k) / 3), dim=-1) @ v


def without_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.relu(scores(q, k)) @ v


def dropped(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.dropout(F.softmax(scores(q, k), dim=-1), 0.2) @ v


VARIANTS: dict[str, Mix] = {
    f.__name__: f for f in (causal, plain, linear_bias, window, capped, without_softmax, dropped)
}


def layer(mix: Mix) -> Callable[..., Tensor]:
    """Attention, and something after it that mixes its rows."""

    def loss(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> Tensor:
        b, h, n, d = q.shape
        y = mix(q, k, v).transpose(1, 2).reshape(b, n, h * d)
        return ((y @ out.T) ** 2).mean()

    return loss


def packed(x: Tensor, w: Tensor, out: Tensor) -> Tensor:
    """As a transformer has it: the heads are parts of one product."""
    b, n, d = x.shape
    q, k, v = (t.reshape(b, n, 2, d // 2).transpose(1, 2) for t in (x @ w.T).split(d, dim=2))
    return layer(causal)(q, k, v, out)


def traced(mix: Mix, length: int = LENGTH, width: int = WIDTH, dtype: Any = None) -> Graph:
    rows = (BATCH, HEADS, length, width)
    shapes = (rows, rows, rows, (2, HEADS * width))
    return looped(layer(mix), shapes, length, dtype)


def crossed(mix: Mix, rows: int, columns: int, width: int = WIDTH, dtype: Any = None) -> Graph:
    """Of `rows` queries and `columns` keys."""
    q, k = (BATCH, HEADS, rows, width), (BATCH, HEADS, columns, width)
    return looped(layer(mix), (q, k, k, (2, HEADS * width)), rows, dtype, columns)


def looped(
    loss: Callable[..., Tensor], shapes: Any, length: int, dtype: Any = None, columns: int = 0
) -> Graph:
    tensors = inputs(*shapes, dtype=dtype or lowgrad.float32)
    graph = lowgrad.compile(gradients_of(loss)).lower(*tensors).graphs["cse"]
    least = BATCH * HEADS * length * (columns or length) * (dtype or lowgrad.float32).itemsize
    graph = loops(Trades(loop_over=least, chunk_bytes=least // 3))(graph)
    return next(reversed(run_passes(LOWER, graph).values()))


def stream_kernels(graph: Graph) -> list[str]:
    """The names of the kernels of loops."""
    return [x.kernel.name for x in launches(graph) if x.kernel.node.op.name == "rows"]


def check(graph: Graph, tolerance: float) -> None:
    arrays = arrays_for(graph)
    want = [w.astype(np.float64) for w in interpret(graph, *arrays)]
    got = [g.astype(np.float64) for g in KernelExecutable(graph)([a.copy() for a in arrays])]
    # Of a softmax of one element the gradient is 0, but for what rounding leaves of larger numbers.
    least = 1e-2 * max(np.abs(w).max() for w in want)
    for g, w in zip(got, want, strict=True):
        assert np.abs(g - w).max() <= tolerance * max(np.abs(w).max(), least)
