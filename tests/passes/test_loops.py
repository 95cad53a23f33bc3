"""Row loops: which are made, of what, and that pieces of any size give what the whole gives."""

from __future__ import annotations

import numpy as np
import pytest
from loop_programs import (
    LINEAR,
    ROWS,
    TARGET,
    Tensor,
    arrays_for,
    every_program,
    inputs,
    largest,
    looped,
    traced,
)
from pieces import pieces_of, run_in_pieces

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.interpret import interpret, run_node
from lowgrad.ir.op import Array
from lowgrad.ir.verify import verify
from lowgrad.passes.chunks import chunks
from lowgrad.passes.loops import FEWEST_CHUNKS, loops
from lowgrad.passes.trades import Trades


def with_chunk(graph: Graph, chunk: int) -> Graph:
    nodes = [
        Node(n.op, n.inputs, {**n.attrs, "chunk": min(chunk, n.attrs["steps"])}, n.outputs, n.loc)
        if n.op.name == "rows"
        else n
        for n in graph.nodes
    ]
    return graph.with_nodes(nodes)


def run(graph: Graph, arrays: list[Array], *, lowered: bool = False) -> list[Array]:
    """The graph's outputs, its loops run piece by piece."""
    values = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        operands = tuple(values[v] for v in node.inputs)
        if node.op.name == "rows":
            made = run_in_pieces(node, operands, lowered=lowered)
        else:
            made = list(run_node(node, operands))
        values.update(zip(node.outputs, made, strict=True))
    return [values[v] for v in graph.outputs]


def products(node: Node) -> int:
    return sum(n.op.name == "matmul" for n in node.attrs["body"].nodes)


# --- Values ------------------------------------------------------------------------------------


@every_program
def test_a_loop_means_what_its_nodes_meant(name):
    graph = traced(name)
    arrays = arrays_for(graph)

    after = looped(graph)

    assert pieces_of(after), "no loop was made"
    verify(after)
    for got, want in zip(interpret(after, *arrays), interpret(graph, *arrays), strict=True):
        np.testing.assert_array_equal(got, want)


@every_program
def test_pieces_of_every_size_give_what_the_whole_gives(name):
    graph = traced(name)
    arrays = arrays_for(graph)
    want = interpret(graph, *arrays)
    made = looped(graph)

    for chunk in range(1, max(n.attrs["steps"] for n in pieces_of(made)) + 1):
        after = chunks(with_chunk(made, chunk))
        for lowered in (False, True):
            for g, w in zip(run(after, arrays, lowered=lowered), want, strict=True):
                np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-6, err_msg=f"chunk {chunk}")


@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16], ids=str)
def test_sixteen_bit_sums_over_rows_are_kept_in_32(dtype):
    graph = traced("cross_entropy", dtype)
    arrays = arrays_for(graph)
    after = chunks(looped(graph))

    (loop,) = pieces_of(after)
    sums = [v for v in loop.outputs if v.type.shape == LINEAR[1]]
    assert [v.type.dtype for v in sums] == [lowgrad.float32]
    for got, want in zip(run(after, arrays), interpret(graph, *arrays), strict=True):
        exact = want.astype(np.float32)
        np.testing.assert_allclose(got.astype(np.float32), exact, rtol=3e-2, atol=3e-2)


def test_dropout_draws_what_it_draws_outside():
    graph = traced("dropped")
    arrays = arrays_for(graph)
    after = chunks(looped(graph))

    got, want = run(after, arrays)[0], interpret(graph, *arrays)[0]

    np.testing.assert_allclose(got, want, rtol=1e-6)


# --- What is made ------------------------------------------------------------------------------


@every_program
def test_nothing_large_is_left_outside(name):
    graph = traced(name)

    after = looped(graph)

    largest_left = max(v.type.numel for n in after.nodes for v in n.outputs)
    assert largest_left < max(v.type.numel for n in graph.nodes for v in n.outputs)
    assert not any(
        n.op.name == "matmul" and n.output.type.nbytes >= largest(graph) for n in after.nodes
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cross_entropy", [3]),
        ("no_bias_sum", [3]),
        ("squares", [3]),
        ("focal", [3]),
        ("teacher", [4]),  # the teacher's product as well
        ("two_heads", [6]),  # of one target: what compares with it is made once
        ("over_the_mean", [1, 3]),  # the mean couples the rows: the logits are made twice
        ("causal", [6]),
    ],
)
def test_a_known_seed_gradient_needs_no_second_loop(name, expected):
    assert [products(n) for n in pieces_of(looped(traced(name)))] == expected


def test_what_is_returned_is_not_taken_apart():
    def step(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = x @ w.T
        loss = F.cross_entropy(logits, TARGET)
        loss.backward()
        return logits, w.grad, x.grad

    graph = lowgrad.compile(step).lower(*inputs(*LINEAR)).graphs["cse"]

    assert pieces_of(looped(graph)) == []


def test_the_largest_dim_is_no_better_than_the_independent_one():
    (loop,) = pieces_of(looped(traced("cross_entropy")))

    assert loop.attrs["steps"] == ROWS


def test_equal_programs_get_equal_loops():
    assert str(looped(traced("causal"))) == str(looped(traced("causal")))


def test_a_loop_is_made_around_what_is_large_and_has_several_chunks():
    graph = traced("cross_entropy")
    large = largest(graph)

    assert loops(Trades(loop_over=large + 1))(graph) is graph
    (loop,) = pieces_of(loops(Trades(loop_over=large, chunk_bytes=large))(graph))
    assert loop.attrs["chunk"] <= loop.attrs["steps"] // FEWEST_CHUNKS
    assert loops(Trades())(graph) is graph


def test_a_step_is_the_least_that_a_chunk_takes():
    graph = traced("cross_entropy")

    (loop,) = pieces_of(loops(Trades(loop_over=1, chunk_bytes=1))(graph))

    assert loop.attrs["chunk"] == 1


def test_the_loss_its_gradient_and_the_softmax_are_one_kernel():
    (loop,) = pieces_of(chunks(looped(traced("no_bias_sum"))))

    kinds = [n.attrs.get("kind", n.op.name) for n in loop.attrs["pieces"][0].nodes]

    assert sorted(kinds) == ["matmul", "matmul", "matmul", "rows"]
