"""What is constant along a sum leaves it, and attention's derivative needs no second sum."""

from __future__ import annotations

import numpy as np
import pytest
from loop_programs import HEADS, arrays_for, gradients_of, inputs

import lowgrad
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, float32
from lowgrad.passes.factors import factors
from lowgrad.passes.pipeline import SIMPLIFY, run_passes


def attention(q, k, v):
    weights = lowgrad.softmax(q @ k.transpose(-2, -1) * 0.5, dim=-1)
    return ((weights @ v) ** 2).sum()


def split_heads(x):
    """Heads that are parts of one array, as in a transformer."""
    q, k, v = (t.reshape(2, 9, 3, 4).transpose(1, 2) for t in x.split(12, dim=2))
    return attention(q, k, v)


def before_and_after(loss, *shapes):
    graph = lowgrad.compile(gradients_of(loss)).lower(*inputs(*shapes)).graphs["autodiff"]
    graphs = run_passes(SIMPLIFY, graph)
    return graphs["views"], graphs["cse"]


@pytest.mark.parametrize(("loss", "shapes"), [(attention, HEADS), (split_heads, ((2, 9, 36),))])
def test_attention_divides_and_sums_what_is_small(loss, shapes):
    before, after = before_and_after(loss, *shapes)
    scores = (2, 3, 9, 9)

    assert count(before, "div", scores) == 2
    assert count(before, "sum", scores) == 2
    assert count(after, "div", scores) == 0
    assert count(after, "sum", scores) == 1  # the softmax's own
    arrays = arrays_for(before)
    for got, want in zip(interpret(after, *arrays), interpret(before, *arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


def count(graph, name, shape):
    """How many ops of that name read something of `shape`."""
    return sum(n.op.name == name and n.inputs[0].type.shape == shape for n in graph.nodes)


def test_a_product_that_is_larger_than_what_is_scaled_stays():
    builder = Builder()
    a, b, by = (builder.input(TensorType(s, float32)) for s in ((5, 2), (2, 9), (5, 1)))
    product = (a / by.call("expand", shape=(5, 2))).call("matmul", b)
    graph = builder.graph((product.value,))

    assert [n.op.name for n in factors(graph).nodes] == ["expand", "div", "matmul"]


def test_a_sum_of_another_product_stays():
    builder = Builder()
    weights, v, other = (builder.input(TensorType(s, float32)) for s in ((5, 9), (9, 2), (9, 2)))
    g = builder.input(TensorType((5, 2), float32))
    made = weights.call("matmul", v)
    scores = g.call("matmul", other.call("permute", dims=(1, 0)))
    total = (weights * scores).call("sum", dims=(1,))
    graph = builder.graph((made.value, total.value))

    assert [n.op.name for n in factors(graph).nodes].count("matmul") == 2
