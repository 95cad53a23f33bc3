"""What is picked is picked first: not a bit changes, and nothing waits for the sums of rows."""

from __future__ import annotations

import numpy as np
import pytest
from loop_programs import arrays_for

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.ir.interpret import interpret
from lowgrad.passes.gathers import gathers

ROWS, CLASSES = 12, 40


def graph_of(function, *shapes, dtype=lowgrad.float32):
    index = lowgrad.tensor(np.arange(ROWS) * 7 % CLASSES)
    specs = [lowgrad.TensorSpec(shape, dtype) for shape in shapes]
    return lowgrad.compile(lambda *x: function(index, *x)).lower(*specs).graphs["cse"]


def picked_from(graph):
    """What each gather picks from: the op that makes it, or "input"."""
    makers = {v: n.op.name for n in graph.nodes for v in n.outputs}
    return [makers.get(n.inputs[0], "input") for n in graph.nodes if n.op.name == "gather"]


def nll(index, logits):
    return F.cross_entropy(logits, index)


def scaled(index, logits, scale, shift):
    z = (logits * 2.0 + shift) / scale.unsqueeze(1)
    return z.gather(1, index.unsqueeze(1))


def of_some_rows(index, logits, scale):
    return (logits / scale.unsqueeze(1)).gather(1, index[:5].unsqueeze(1))


PROGRAMS = {
    "cross entropy": (nll, (ROWS, CLASSES)),
    "operands of each kind": (scaled, (ROWS, CLASSES), (ROWS,), (CLASSES,)),
    "fewer rows": (of_some_rows, (ROWS, CLASSES), (ROWS,)),
}


@pytest.mark.parametrize("dtype", [lowgrad.float32, lowgrad.bfloat16], ids=str)
@pytest.mark.parametrize("name", PROGRAMS)
def test_not_a_bit_changes(name, dtype):
    graph = graph_of(*PROGRAMS[name], dtype=dtype)
    arrays = arrays_for(graph)

    for got, want in zip(
        interpret(gathers(graph), *arrays), interpret(graph, *arrays), strict=True
    ):
        np.testing.assert_array_equal(got, want)


def test_a_loss_picks_its_logits():
    graph = graph_of(*PROGRAMS["cross entropy"])

    assert picked_from(graph) == ["sub"]
    assert picked_from(gathers(graph)) == ["input"]


def test_numbers_of_rows_are_not_picked_from_all_columns():
    graph = gathers(graph_of(*PROGRAMS["operands of each kind"]))

    assert sorted(picked_from(graph)) == ["expand", "input"], "the shift, which differs by column"


def test_much_that_is_picked_is_computed_before():
    def rows_in_another_order(index, logits):
        return logits.exp().gather(1, index.unsqueeze(0).expand(ROWS, ROWS))

    graph = graph_of(rows_in_another_order, (ROWS, CLASSES))

    assert picked_from(gathers(graph)) == ["exp"]
