"""Gradients of slices that tile a value: put side by side, not added."""

from __future__ import annotations

import numpy as np
import pytest
from passes.steps import arrays_for

from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, float32
from lowgrad.ir.verify import verify
from lowgrad.passes.cats import cats


def program(*windows, size=9, dim=1):
    """The sum of one input a window, zero elsewhere; windows are (start, stop) along `dim`."""
    b = Builder()
    total = None
    for i, (start, stop) in enumerate(windows):
        shape = [4, 4]
        shape[dim] = stop - start
        part = b.input(TensorType(tuple(shape), float32), f"x{i}")
        low, high = [0, 0], [0, 0]
        low[dim], high[dim] = start, size - stop
        padded = part.call("pad", low=tuple(low), high=tuple(high), value=0)
        total = padded if total is None else total + padded
    return b.graph((total.value,), name="program")


def ops(graph):
    return [n.op.name for n in graph.nodes]


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(
    ("windows", "left"),
    [
        ([(6, 9), (3, 6), (0, 3)], ["cat"]),
        ([(0, 2), (2, 9)], ["cat"]),
        ([(3, 6), (0, 3)], ["cat", "pad"]),
        ([(0, 3), (3, 5), (7, 9)], ["pad", "cat", "pad", "add"]),
        ([(0, 4), (3, 9)], ["pad", "pad", "add"]),  # they overlap
    ],
)
def test_neighbours_are_put_together(windows, left, dim):
    graph = program(*windows, dim=dim)
    arrays = arrays_for(graph)

    after = cats(graph)

    verify(after)
    assert sorted(ops(after)) == sorted(left)
    np.testing.assert_array_equal(interpret(after, *arrays)[0], interpret(graph, *arrays)[0])


def test_parts_of_a_whole_keep_their_order():
    (node,) = cats(program((6, 9), (3, 6), (0, 3))).nodes

    assert [v.hint for v in node.inputs] == ["x2", "x1", "x0"]


def test_another_padding_than_zero_is_added():
    b = Builder()
    x, y = (b.input(TensorType((4,), float32), name) for name in "xy")
    total = x.call("pad", low=(0,), high=(4,), value=1) + y.call(
        "pad", low=(4,), high=(0,), value=0
    )
    graph = b.graph((total.value,))

    assert ops(cats(graph)) == ["pad", "pad", "add"]
