"""Losses in loops with least to add up: rows for statistics, classes for gradients."""

from __future__ import annotations

import losses.test_losses  # noqa: F401 - it fills LOSSES
import pytest
from loop_programs import arrays_for, largest
from losses.loss import LOSSES, Loss, Size
from losses.ways import step_of
from pieces import run_in_pieces

import lowgrad
from lowgrad.compare import errors
from lowgrad.ir.interpret import interpret, run_node
from lowgrad.ir.verify import verify
from lowgrad.passes.chunks import chunks
from lowgrad.passes.gathers import gathers
from lowgrad.passes.loops import loops
from lowgrad.passes.trades import Trades

# With many classes it is their weight's gradient that must not be added up.
WIDE = Size(12, 8, 200)


def lean(loss: Loss):
    step, arguments = step_of(loss, WIDE, "float32")
    graph = lowgrad.compile(step).lower(*arguments).graphs["cse"]
    least = largest(graph)
    made = loops(Trades(loop_over=least, chunk_bytes=least // 5, lean=True))(gathers(graph))
    return graph, made


def run(graph, arrays):
    values = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        operands = tuple(values[v] for v in node.inputs)
        made = (run_in_pieces if node.op.name == "rows" else run_node)(node, operands)
        values.update(zip(node.outputs, made, strict=True))
    return [values[v] for v in graph.outputs]


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_lean_loops_mean_what_the_loss_means(loss: Loss):
    graph, made = lean(loss)
    verify(made)
    arrays = arrays_for(graph)

    assert not any(errors(graph, arrays, run(chunks(made), arrays), interpret(graph, *arrays)))


def test_half_of_the_losses_go_along_both_dims():
    steps = [
        {n.attrs["steps"] for n in lean(x)[1].nodes if "steps" in n.attrs} for x in LOSSES.values()
    ]

    assert sum(len(found) > 1 for found in steps) >= len(LOSSES) // 2
