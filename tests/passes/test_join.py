"""Joining what is made again with what reads the same: the same bits, fewer kernels, no cycle."""

from __future__ import annotations

import numpy as np
import pytest
from passes import steps
from passes.steps import arrays_for

from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, bfloat16, float32
from lowgrad.ir.verify import verify
from lowgrad.passes.join import join
from lowgrad.passes.order import peak_bytes
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.passes.remat import remat
from lowgrad.passes.trades import Trades


def built(f, *types: TensorType):
    b = Builder()
    made = f(*[b.input(t, f"x{i}") for i, t in enumerate(types)])
    return b.graph(tuple(t.value for t in made), name="program")


def same_bits(after, before) -> None:
    arrays = arrays_for(before)
    for got, want in zip(interpret(after, *arrays), interpret(before, *arrays), strict=True):
        np.testing.assert_array_equal(got, want)


def test_activations_of_a_transformer_join_their_derivatives():
    graph = next(reversed(run_pipeline(steps.gpt(steps.GptSize())).values()))
    again = remat(Trades(remat=5.0))(graph)

    after = join(again)

    verify(after)
    same_bits(after, again)
    assert peak_bytes(after) <= peak_bytes(again)
    assert len(after.nodes) < len(again.nodes)


@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_a_product_also_writes_what_is_made_of_its_other_operand(dtype):
    def f(a, b, u):
        return a.call("matmul", b) * u.call("exp"), u.call("exp") + 1.0

    graph = built(f, *(TensorType((256, 256), dtype) for _ in range(3)))
    fused = run_pipeline(graph)["fuse"]

    after = join(fused)

    verify(after)
    same_bits(after, fused)
    (node,) = [n for n in after.nodes if n.op.name == "fused"]
    assert node.attrs["kind"] == "matmul"
    assert [n.op.name for n in node.attrs["body"].nodes].count("exp") == 1


def test_what_the_reader_waits_for_stays_apart():
    def f(u, w):
        made = u.call("exp")
        return (made.call("matmul", w).call("sin") * u, made)

    graph = run_pipeline(built(f, *[TensorType((256, 256), float32)] * 2))["fuse"]

    assert join(graph) is graph


def test_what_is_read_in_another_order_stays_apart():
    def f(a, b, u):
        turned = u.call("permute", dims=(1, 0))
        return a.call("matmul", b) * u, turned.call("exp")

    graph = run_pipeline(built(f, *[TensorType((256, 256), float32)] * 3))["fuse"]

    assert join(graph) is graph
