"""Any op, run in pieces along any dim that it can be sliced by, gives what it gives whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from oracle import assert_close
from pieces import run_in_pieces
from samples import SAMPLES, Sample

from lowgrad.errors import ShapeError
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.op import REGISTRY, Op, evaluate
from lowgrad.ir.slicing import Axis, Place, Slicing
from lowgrad.ir.types import float32
from lowgrad.ops.reduction import sum_
from lowgrad.ops.rows import rows

# Ops of which a piece cannot do without the others, and why.
WHOLE = {
    "literal": "a table is made whole",
    "random_bits_window": "it is a piece already",
    "uniform_window": "it is a piece already",
}

EVERY_SAMPLE = [
    pytest.param(op, sample, id=f"{name} {sample}")
    for name, op in REGISTRY.items()
    for sample in SAMPLES.get(name, ())
]


def places(types: tuple[Any, ...], is_result: bool) -> Iterator[Place]:
    for position, type_ in enumerate(types):
        for dim in range(type_.ndim):
            yield Place(is_result, position, dim)


def slicings(op: Op, node: Node) -> Iterator[tuple[int, Slicing]]:
    """(steps, slicing) for each way that the node says it can be sliced."""
    ins = tuple(v.type for v in node.inputs)
    outs = tuple(v.type for v in node.outputs)
    for place in (*places(ins, False), *places(outs, True)):
        size = (outs if place.is_result else ins)[place.position].shape[place.dim]
        for steps in range(2, size + 1):
            found = op.slicing(Axis(place, steps, ins, outs), **node.attrs)
            if found is None:
                continue
            assert size % steps == 0, f"{steps} steps do not divide {size}"
            kind = found.outs if place.is_result else found.ins
            assert kind[place.position] == place.dim, f"{place} is not what was asked for: {found}"
            yield steps, found


def body_of(op: Op, sample: Sample) -> Graph:
    builder = Builder()
    inputs = [builder.input(t) for t in sample.inputs]
    node = builder.add(op, tuple(t.value for t in inputs), sample.attrs)
    return builder.graph(node.outputs)


def loop(body: Graph, steps: int, found: Slicing, chunk: int) -> Node:
    attrs = {"body": body, "dims": (*found.ins, *found.outs), "steps": steps, "chunk": chunk}
    return Builder().add(rows, body.inputs, attrs)


@pytest.mark.parametrize(("op", "sample"), EVERY_SAMPLE)
def test_pieces_make_the_whole(op, sample):
    body = body_of(op, sample)
    (node,) = body.nodes
    arrays = sample.arrays()
    whole = evaluate(op, arrays, sample.attrs, tuple(v.type for v in node.outputs))

    for steps, found in set(slicings(op, node)):
        for chunk in range(1, steps + 1):
            got = run_in_pieces(loop(body, steps, found, chunk), arrays)

            for g, w, out in zip(got, whole, found.outs, strict=True):
                if sample.terms == 1 and isinstance(out, int):
                    np.testing.assert_array_equal(g, w, err_msg=f"{found}, {chunk} of {steps}")
                else:
                    magnitude = np.full(w.shape, 4.0 * max(sample.terms, 8)) ** 2
                    assert_close(g, w, float32, terms=sample.terms, magnitude=magnitude)


@pytest.mark.parametrize("name", sorted(SAMPLES))
def test_an_op_can_be_sliced_or_says_why_not(name):
    op = REGISTRY[name]

    ways = [w for s in SAMPLES[name] for w in slicings(op, body_of(op, s).nodes[0])]

    assert bool(ways) != (name in WHOLE)


def test_a_mean_over_rows_is_no_loop_over_columns():
    builder = Builder()
    x = builder.input(SAMPLES["sum"][0].inputs[0].with_shape((4, 6)))
    total = builder.apply(sum_, x, dims=(0,))
    body = builder.graph((total.value,))

    with pytest.raises(ShapeError, match="5 steps do not divide dim 1"):
        loop(body, 5, Slicing((1,), (1,)), 1)
    with pytest.raises(ShapeError, match="chunks of 0 of 2 steps"):
        loop(body, 2, Slicing((0,), ("add",)), 0)
    with pytest.raises(ShapeError, match="whole in every piece"):
        loop(body, 2, Slicing((None,), (None,)), 1)
