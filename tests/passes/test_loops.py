"""Row loops: which are made, of what, and that pieces of any size give what the whole gives."""

from __future__ import annotations

import math

import numpy as np
import pytest
from loop_programs import (
    CLASSES,
    LINEAR,
    ROWS,
    TARGET,
    WIDTH,
    Tensor,
    arrays_for,
    every_program,
    gradients_of,
    inputs,
    largest,
    looped,
    traced,
)
from pieces import pieces_of, run_in_pieces

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.interpret import interpret, run_node
from lowgrad.ir.op import Array
from lowgrad.ir.verify import verify
from lowgrad.ops.rows import dims_of
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


def combined(node: Node) -> list[Value]:
    """The results of a loop that its pieces add up."""
    along = dims_of(node.attrs["body"], node.attrs["dims"])
    pairs = zip(node.outputs, node.attrs["body"].outputs, strict=True)
    return [made for made, own in pairs if isinstance(along[own], str)]


def products(node: Node) -> int:
    return sum(n.op.name == "matmul" for n in node.attrs["body"].nodes)


# --- Values ------------------------------------------------------------------------------------


either_way = pytest.mark.parametrize("lean", [False, True], ids=["cheap", "lean"])


@either_way
@every_program
def test_a_loop_means_what_its_nodes_meant(name, lean):
    graph = traced(name)
    arrays = arrays_for(graph)

    after = looped(graph, lean=lean)

    assert pieces_of(after), "no loop was made"
    verify(after)
    for got, want in zip(interpret(after, *arrays), interpret(graph, *arrays), strict=True):
        np.testing.assert_array_equal(got, want)


@either_way
@every_program
def test_pieces_of_every_size_give_what_the_whole_gives(name, lean):
    graph = traced(name)
    arrays = arrays_for(graph)
    want = interpret(graph, *arrays)
    made = looped(graph, lean=lean)

    for chunk in range(1, max(n.attrs["steps"] for n in pieces_of(made)) + 1):
        after = chunks(with_chunk(made, chunk))
        for lowered in (False, True):
            for g, w in zip(run(after, arrays, lowered=lowered), want, strict=True):
                np.testing.assert_allclose(g, w, rtol=2e-5, atol=2e-6, err_msg=f"chunk {chunk}")


def test_lean_loops_go_along_rows_for_statistics_and_along_columns_for_gradients():
    """So that no gradient of the weight is added up, and the logits are made twice, not thrice."""
    first, second = pieces_of(looped(traced("cross_entropy"), lean=True))

    assert (first.attrs["steps"], second.attrs["steps"]) == (ROWS, CLASSES)
    assert (products(first), products(second)) == (1, 3)
    summed = [v.type.shape for n in (first, second) for v in combined(n)]
    assert max(summed, key=math.prod) == (ROWS, WIDTH)


def test_what_is_looked_up_in_columns_is_found_in_one_piece():
    """A gather adds up what its pieces find; a row and column of losses go in one loop each."""

    def both(x, w):
        z = x @ w.T
        own = lowgrad.arange(ROWS)
        return F.cross_entropy(z, own) + F.cross_entropy(z.T, own)

    square = inputs((ROWS, WIDTH), (ROWS, WIDTH))
    graph = lowgrad.compile(gradients_of(both)).lower(*square).graphs["cse"]
    arrays = arrays_for(graph)
    after = chunks(looped(graph))

    assert len(pieces_of(after)) == 3
    assert not any(n.op.name == "matmul" for n in after.nodes)
    for got, want in zip(run(after, arrays), interpret(graph, *arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


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


def narrow_head(rows: int, chunk: int) -> tuple[Graph, Graph]:
    """A head in bfloat16, and with a loop that is to keep its sums in 16 bits."""
    classes, width = 600, 300
    target = lowgrad.tensor(np.arange(rows) * 5 % classes)
    step = gradients_of(lambda x, w: F.cross_entropy(x @ w.T, target))
    tensors = inputs((rows, width), (classes, width), dtype=lowgrad.bfloat16)
    graph = lowgrad.compile(step).lower(*tensors).graphs["cse"]
    trades = Trades(largest(graph), chunk_bytes=2 * chunk * classes, narrow=True)
    return graph, chunks(loops(trades)(graph))


def test_sums_that_are_kept_in_16_bits_are_off_by_few_roundings():
    graph, after = narrow_head(512, 64)
    arrays = [a / 16 if a.shape == (600, 300) else a for a in arrays_for(graph)]
    x, w = (next(a for a in arrays if a.shape == (n, 300)).astype(float) for n in (512, 600))
    scores = np.exp(x @ w.T)
    scores /= scores.sum(axis=1, keepdims=True)
    (target,) = (a for a in arrays if a.dtype == np.int64)
    scores[np.arange(512), target] -= 1
    exact = scores.T @ x / 512

    (loop,) = pieces_of(after)
    made = (run(after, arrays), run(chunks(looped(graph, 8)), arrays))

    assert loop.outputs[loop.attrs["narrow"][0]].type.dtype is lowgrad.bfloat16
    narrow, wide = (next(a for a in r if a.shape == exact.shape).astype(float) for r in made)
    off, least = (np.sqrt(np.mean((a - exact) ** 2)) for a in (narrow, wide))
    # Eight pieces are rounded, and what they add up to: (8 + 1) / 2 roundings of the whole, and one
    # of the whole again for the pieces themselves.
    assert least < off < 5.5**0.5 * least


def test_sums_of_many_pieces_are_never_kept_in_16_bits():
    for rows, is_narrow in ((16 * 64, True), (17 * 64, False)):
        (loop,) = pieces_of(narrow_head(rows, 64)[1])
        assert loop.attrs["chunk"] == 64
        assert ("narrow" in loop.attrs) == is_narrow


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
