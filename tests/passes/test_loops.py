"""Row loops: which are made, of what, and that pieces of any size give what the whole gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pieces import pieces_of, run_in_pieces

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.interpret import interpret, run_node
from lowgrad.ir.op import Array
from lowgrad.ir.verify import verify
from lowgrad.passes.chunks import chunks
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


def looped(graph: Graph, parts: int = 3) -> Graph:
    """With loops around the largest products, whose chunks are that part of them."""
    least = largest(graph)
    return loops(Trades(loop_over=least, chunk_bytes=least // parts))(graph)


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


def arrays_for(graph: Graph) -> list[Array]:
    rng = np.random.default_rng(0)
    return [
        np.asarray(rng.normal(size=v.type.shape)).astype(v.type.dtype.numpy)
        if v.type.dtype.is_floating_point
        else rng.integers(0, 4, v.type.shape, v.type.dtype.numpy)
        for v in graph.inputs
    ]


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


def test_a_loop_needs_more_than_one_row_and_more_than_it_may_take():
    graph = traced("cross_entropy")
    large = largest(graph)

    assert loops(Trades(loop_over=large + 1))(graph) is graph
    assert pieces_of(loops(Trades(loop_over=large, chunk_bytes=large))(graph)) == []
    assert loops(Trades())(graph) is graph


def test_a_step_is_the_least_that_a_chunk_takes():
    graph = traced("cross_entropy")

    (loop,) = pieces_of(loops(Trades(loop_over=1, chunk_bytes=1))(graph))

    assert loop.attrs["chunk"] == 1


def test_the_loss_its_gradient_and_the_softmax_are_one_kernel():
    (loop,) = pieces_of(chunks(looped(traced("no_bias_sum"))))

    kinds = [n.attrs.get("kind", n.op.name) for n in loop.attrs["pieces"][0].nodes]

    assert sorted(kinds) == ["matmul", "matmul", "matmul", "rows"]
