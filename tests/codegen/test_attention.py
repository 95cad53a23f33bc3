"""Loops that stream: attention and its kin in one kernel forward and two backward."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from loop_programs import Tensor, arrays_for, gradients_of, inputs

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.codegen.lower import launches
from lowgrad.codegen.step import KernelExecutable, cross_compile_kernels
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


def looped(loss: Callable[..., Tensor], shapes: Any, length: int, dtype: Any = None) -> Graph:
    tensors = inputs(*shapes, dtype=dtype or lowgrad.float32)
    graph = lowgrad.compile(gradients_of(loss)).lower(*tensors).graphs["cse"]
    least = BATCH * HEADS * length * length * graph.inputs[0].type.dtype.itemsize
    graph = loops(Trades(loop_over=least, chunk_bytes=least // 3))(graph)
    return next(reversed(run_passes(LOWER, graph).values()))


def stream_kernels(graph: Graph) -> list[str]:
    """The names of the kernels of loops."""
    return [x.kernel.name for x in launches(graph) if x.kernel.node.op.name == "rows"]


def check(graph: Graph, tolerance: float) -> None:
    arrays = arrays_for(graph)
    want = interpret(graph, *arrays)
    got = KernelExecutable(graph)([a.copy() for a in arrays])
    for g, w in zip(got, want, strict=True):
        g, w = g.astype(np.float64), w.astype(np.float64)
        scale = np.abs(w).max() + 1e-12
        assert np.abs(g - w).max() <= tolerance * scale


@pytest.mark.parametrize("name", VARIANTS)
def test_one_kernel_forward_and_two_backward(name):
    graph = traced(VARIANTS[name])

    assert len(stream_kernels(graph)) == 3
    check(graph, 1e-5)


@pytest.mark.parametrize(("length", "width"), [(7, 2), (32, 8), (33, 16), (65, 20), (163, 80)])
def test_tails_of_rows_and_of_inner_sizes(length, width):
    graph = traced(causal, length, width)

    assert len(stream_kernels(graph)) == 3
    check(graph, 1e-5)


def test_heads_are_read_where_they_are():
    d = HEADS * WIDTH
    graph = looped(packed, ((BATCH, 120, d), (3 * d, d), (2, d)), 120)

    assert len(stream_kernels(graph)) == 3
    assert not any(n.op.name == "permute" for n in graph.nodes)
    check(graph, 1e-5)


@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16], ids=str)
def test_sixteen_bits(dtype):
    check(traced(causal, dtype=dtype), 3e-2)


def test_scores_are_in_no_memory():
    graph = traced(causal)

    assert stream_kernels(graph)
    assert not any(
        p.type.shape[-2:] == (LENGTH, LENGTH) for x in launches(graph) for p in x.kernel.params
    )


def test_forward_and_backward_in_one_loop():
    """Nothing between couples rows, so the second kernel needs what the first one found."""
    step = gradients_of(lambda q, k, v: (causal(q, k, v) ** 2).sum())
    shape = (BATCH, HEADS, LENGTH, 8)
    graph = lowgrad.compile(step).lower(*inputs(shape, shape, shape)).graphs["cse"]
    least = BATCH * HEADS * LENGTH * LENGTH * 4
    graph = loops(Trades(loop_over=least, chunk_bytes=least // 3))(graph)
    graph = next(reversed(run_passes(LOWER, graph).values()))

    check(graph, 1e-5)


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
@pytest.mark.parametrize("name", ["causal", "dropped"])
def test_they_compile(name, target):
    kernels = [x.kernel for x in launches(traced(VARIANTS[name], 96, 64))]

    assert all(cross_compile_kernels(kernels, target))


def test_blocks_of_16_bits_fit_in_registers():
    kernels = [x.kernel for x in launches(traced(causal, 256, 64, lowgrad.bfloat16))]
    loops = [k for k in kernels if k.node.op.name == "rows"]

    assert len(loops) == 3
    assert [b.spill_bytes for b in cross_compile_kernels(loops, "cuda:90")] == [0, 0, 0]


@pytest.mark.parametrize("length", [1, 2])
def test_lengths_that_need_no_blocks(length):
    check(traced(causal, length), 1e-5)
