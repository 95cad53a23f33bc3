"""Loops that stream: attention and its kin in one kernel forward and two backward."""

from __future__ import annotations

import pytest
from attention_programs import (
    BATCH,
    HEADS,
    LENGTH,
    VARIANTS,
    WIDTH,
    causal,
    check,
    looped,
    packed,
    stream_kernels,
    traced,
)
from loop_programs import gradients_of, inputs

import lowgrad
from lowgrad.codegen.lower import launches
from lowgrad.codegen.step import cross_compile_kernels
from lowgrad.passes.loops import loops
from lowgrad.passes.pipeline import LOWER, run_passes
from lowgrad.passes.trades import Trades


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
