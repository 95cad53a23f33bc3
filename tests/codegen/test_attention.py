"""Loops that stream: attention and its kin in one kernel forward and two backward."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from attention_programs import (
    BATCH,
    HEADS,
    LENGTH,
    VARIANTS,
    WIDTH,
    causal,
    check,
    crossed,
    looped,
    packed,
    plain,
    stream_kernels,
    traced,
)
from loop_programs import Tensor, arrays_for, gradients_of, inputs

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.codegen.cuda.machine import GpuMachine
from lowgrad.codegen.lower import launches
from lowgrad.codegen.step import KernelExecutable, cross_compile_kernels
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.interpret import interpret
from lowgrad.passes.loops import loops
from lowgrad.passes.pipeline import LOWER, run_passes
from lowgrad.passes.trades import Trades
from lowgrad.runtime.memory import Plan, plan


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


def test_the_second_backward_kernel_reads_scaled_queries_once():
    """They are the operand of two products, of one of them in the other order."""
    kernels = [x.kernel for x in launches(traced(causal))]
    (by_columns,) = [k for k in kernels if k.name.endswith("_by_columns")]
    handed = [p for p in by_columns.params if p.role == "scratch"]

    assert len({p.value for p in handed}) == len(handed)
    assert [p.type.shape for p in handed if p.type.shape[-1] != 1] == [
        (BATCH, HEADS, LENGTH, WIDTH)
    ] * 2, "queries times the scale, and gradients over the rows' sums"


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


@pytest.mark.parametrize(
    ("target", "width", "dtype", "name"),
    [
        ("cuda:80", 128, lowgrad.bfloat16, "causal"),
        ("cuda:90", 64, lowgrad.bfloat16, "causal"),
        ("cuda:90", 128, lowgrad.float16, "causal"),
        ("cuda:90", 256, lowgrad.bfloat16, "causal"),
        ("cuda:90", 64, lowgrad.bfloat16, "dropped"),
        ("cuda:90", 128, lowgrad.float32, "causal"),
        ("cuda:100", 128, lowgrad.bfloat16, "causal"),
        ("hip:gfx942", 64, lowgrad.bfloat16, "causal"),
    ],
)
def test_blocks_fit_in_registers(target, width, dtype, name):
    graph = traced(VARIANTS[name], 2048, width, dtype)
    kernels = [x.kernel for x in launches(graph, Tiling(target=target))]
    loops = [k for k in kernels if k.node.op.name == "rows"]

    assert len(loops) == 3
    for binary in cross_compile_kernels(loops, target):
        assert binary.spill_bytes == 0
        if target == "cuda:90" and dtype is not lowgrad.float32:
            assert "wgmma" in binary.asm


@pytest.mark.parametrize("name", ["plain", "causal", "dropped"])
@pytest.mark.parametrize(("rows", "columns"), [(50, 19), (19, 50), (33, 128), (1, 40), (40, 1)])
def test_queries_and_keys_of_different_lengths(name, rows, columns):
    check(crossed(VARIANTS[name], rows, columns), 2e-5)


@pytest.mark.parametrize("dtype", [lowgrad.float32, lowgrad.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["bool", "float"])
@pytest.mark.parametrize("shape", [(BATCH, 1, 70, 70), (1, 1, 70, 70), (BATCH, 1, 1, 70)])
def test_masks_that_are_read(shape, kind, dtype):
    rng = np.random.default_rng(5)
    kept = rng.uniform(size=shape) < 0.7
    # Floating ones have -inf as well: padding.
    mask = kept if kind == "bool" else np.where(kept, rng.normal(size=shape), -np.inf)
    given = lowgrad.tensor(mask if kind == "bool" else mask.astype(np.float32))

    def masked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        own = given if kind == "bool" else given.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=own)

    graph = crossed(masked, 70, 70, dtype=dtype)

    assert len(stream_kernels(graph)) == 3
    check(graph, 1e-5 if dtype is lowgrad.float32 else 3e-2)


@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["plain", "dropped", "window", "capped"])
def test_sixteen_bits_of_other_variants(name, dtype):
    check(traced(VARIANTS[name], 100, 32, dtype), 3e-2)


def test_gradients_are_as_exact_as_their_operands():
    """Of scores about 60: rounded to 16 bits, their maximum would be off by 0.2, exp by a fifth."""
    graph = traced(plain, 64, 16, lowgrad.bfloat16)
    arrays = [(4 * a).astype(a.dtype) for a in arrays_for(graph)]
    exact = traced(plain, 64, 16, lowgrad.float32)

    want = interpret(exact, *(a.astype(np.float32) for a in arrays))
    got = KernelExecutable(graph)([a.copy() for a in arrays])

    for g, w in zip(got, want, strict=True):
        error = np.abs(g.astype(np.float32) - w).max()
        assert error < 0.02 * np.abs(w).max()


@pytest.mark.parametrize("length", [1, 2])
def test_lengths_that_need_no_blocks(length):
    check(traced(causal, length), 1e-5)


def plan_of(length: int, dtype: Any) -> Plan:
    graph = traced(causal, length, 64, dtype)
    return plan(graph, None, GpuMachine(Tiling(target="cuda:90")))


@pytest.mark.parametrize("dtype", [lowgrad.float32, lowgrad.bfloat16], ids=str)
def test_memory_grows_with_the_length_not_with_its_square(dtype):
    plans = {length: plan_of(length, dtype) for length in (1024, 2048, 4096)}

    for length in (1024, 2048):
        assert plans[2 * length].peak_bytes < 2.01 * plans[length].peak_bytes
    largest = max(b.nbytes for b in plans[4096].buffers)
    # The operands that a first kernel computes for a second one lie side by side.
    assert largest < 3 * BATCH * HEADS * 4096 * 64 * 4
