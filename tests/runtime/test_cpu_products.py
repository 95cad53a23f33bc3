"""Products in fused regions: added in place, and waiting in the result that is made of them."""

from __future__ import annotations

import numpy as np
import pytest

from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import TensorType, bfloat16, float32
from lowgrad.runtime.cpu import chunks, program
from lowgrad.runtime.cpu.program import build
from lowgrad.runtime.cpu.scratch import scratch_bytes
from lowgrad.runtime.memory import plan


def fused(body: Graph, aliases: dict[int, int]) -> Graph:
    """A graph of one region with this body."""
    inputs = tuple(Value(v.type, v.hint) for v in body.inputs)
    outputs = tuple(Value(v.type) for v in body.outputs)
    node = Node(REGISTRY["fused"], inputs, {"body": body, "kind": "matmul"}, outputs)
    return Graph(inputs, (node,), outputs, aliases)


def growing(*, left: bool = False, flipped: bool = False, again: bool = False) -> Graph:
    """total + a.T @ b, over the old total; flipped: a is read backwards; again: total is, too."""
    b = Builder()
    total = b.input(TensorType((3, 16, 8), float32), "total")
    x = b.input(TensorType((32, 48), float32), "x")
    y = b.input(TensorType((32, 8), float32), "y")
    rows = x.call("flip", dims=(0,)) if flipped else x
    product = rows.call("permute", dims=(1, 0)).call("matmul", y).call("reshape", shape=(3, 16, 8))
    new = product + total if left else total + product
    outputs = (new.value, (total * 2.0).value) if again else (new.value,)
    return fused(b.graph(outputs, name="body"), {0: 0})


def arrays(graph: Graph) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(v.type.shape).astype(v.type.dtype.numpy) for v in graph.inputs]


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("left", [False, True])
def test_a_product_is_added_to_its_old_total_without_scratch(left, flipped):
    graph = growing(left=left, flipped=flipped)
    given = arrays(graph)
    expected = interpret(graph, *given)

    found = plan(graph)
    run = build(graph, found)
    (got,) = run(given)

    assert found.arena_bytes == 0
    assert "add_product(" in run.source
    assert got is given[0]
    np.testing.assert_allclose(got, expected[0], rtol=1e-5, atol=1e-5)


def test_a_total_that_is_read_again_is_not_added_to_early():
    graph = growing(again=True)
    given = arrays(graph)
    expected = interpret(graph, *given)

    got = build(graph, plan(graph))(given)

    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_lost_old_total_is_caught(monkeypatch):
    """The planted bug: the product is written, not added."""
    monkeypatch.setattr(program, "add_product", np.matmul)
    graph = growing()
    given = arrays(graph)
    expected = interpret(graph, *given)

    (got,) = build(graph, plan(graph))(given)

    assert not np.allclose(got, expected[0])


def linear(dtype, shared: bool = False) -> Graph:
    """exp(exp(x) @ w + bias), and shared: the sum before exp, too."""
    b = Builder()
    x, w = b.input(TensorType((64, 32), dtype), "x"), b.input(TensorType((32, 16), dtype), "w")
    bias = b.input(TensorType((16,), dtype), "bias")
    row = bias.call("reshape", shape=(1, 16)).call("expand", shape=(64, 16))
    total = x.call("exp").call("matmul", w) + row
    result = total.call("exp")
    outputs = (total.value, result.value) if shared else (result.value,)
    return fused(b.graph(outputs, name="body"), {})


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [float32, bfloat16])
@pytest.mark.parametrize("tiny", [False, True], ids=["whole", "in chunks"])
def test_a_region_around_a_product_means_what_its_body_means(dtype, shared, tiny, monkeypatch):
    if tiny:
        monkeypatch.setattr(chunks, "WORTH_BYTES", 0)
        monkeypatch.setattr(chunks, "CHUNK_BYTES", 300)
    graph = linear(dtype, shared)
    given = arrays(graph)
    tolerance = 1e-5 if dtype is float32 else 2e-2

    got = build(graph, plan(graph))(given)

    for a, b in zip(got, interpret(graph, *given), strict=True):
        wide = (x.astype(np.float64) for x in (a, b))
        np.testing.assert_allclose(*wide, rtol=tolerance, atol=tolerance)


def test_a_product_waits_in_the_result_that_is_made_of_it():
    b = Builder()
    x, w = b.input(TensorType((64, 32), float32), "x"), b.input(TensorType((32, 16), float32), "w")
    result = x.call("exp").call("matmul", w).call("reshape", shape=(4, 16, 16)).call("exp")
    (node,) = fused(b.graph((result.value,), name="body"), {}).nodes
    operand_bytes = 64 * 32 * 4

    assert scratch_bytes(node, {}) == operand_bytes


def test_loops_go_up_to_and_on_from_a_product(monkeypatch):
    monkeypatch.setattr(chunks, "WORTH_BYTES", 0)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 300)
    graph = linear(float32)

    source = build(graph, plan(graph)).source

    assert source.count("run_chunks(") == 2
