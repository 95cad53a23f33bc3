"""Flattening rows: what is computed on them, what is split again, and that no value changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lowgrad.ops  # noqa: F401 - fills the registry
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import TensorType, float32, int64
from lowgrad.ir.verify import verify
from lowgrad.passes.flatten import flatten
from lowgrad.passes.trades import Trades

BATCH, LENGTH, WIDTH, CLASSES = 4, 3, 6, 5
ROWS = BATCH * LENGTH
SPLIT = (BATCH, LENGTH, CLASSES)
INPUTS = {
    "x": TensorType((ROWS, WIDTH), float32),
    "w": TensorType((WIDTH, CLASSES), float32),
    "bias": TensorType((1, 1, CLASSES), float32),
    "each": TensorType((BATCH, 1, CLASSES), float32),
    "other": TensorType(SPLIT, float32),
    "mask": TensorType((BATCH, LENGTH), float32),
    "target": TensorType((BATCH, LENGTH, 1), int64),
}
Program = Callable[..., "Tracer | tuple[Tracer, ...]"]


def log_softmax(z: Tracer, **_: Tracer) -> Tracer:
    shifted = z - z.call("max", dims=(2,)).call("expand", shape=SPLIT)
    total = shifted.call("exp").call("sum", dims=(2,)).call("log")
    return shifted - total.call("expand", shape=SPLIT)


def picked(z: Tracer, target: Tracer, **_: Tracer) -> Tracer:
    return log_softmax(z).call("gather", target, dim=2)


def masked(z: Tracer, target: Tracer, mask: Tracer, **_: Tracer) -> Tracer:
    return picked(z, target).call("reshape", shape=(BATCH, LENGTH)) * mask


def one_hot(z: Tracer, target: Tracer, **_: Tracer) -> Tracer:
    column = z.builder.apply(REGISTRY["iota"], shape=SPLIT, dtype=int64, dim=2)
    return column.call("eq", target.call("expand", shape=SPLIT)).call("where", z, -z)


def numbered(z: Tracer, dim: int) -> Tracer:
    place = z.builder.apply(REGISTRY["iota"], shape=SPLIT, dtype=float32, dim=dim)
    return z * place


# All of these are computed on rows.
ON_ROWS: dict[str, Program] = {
    "pointwise": lambda z, **_: z.call("exp") * 2.0,
    "log_softmax": log_softmax,
    "a bias": lambda z, bias, **_: z + bias.call("expand", shape=SPLIT),
    "something else of all rows": lambda z, other, **_: (z + other).call("tanh"),
    "picked": picked,
    "a number for each row": masked,
    "one-hot": one_hot,
    "merged": lambda z, **_: z.call("exp").call("reshape", shape=(ROWS, CLASSES)).call("neg"),
    "summed over all rows": lambda z, **_: z.call("exp").call("sum", dims=(0, 1)),
    "summed over everything": lambda z, **_: z.call("exp").call("sum", dims=(0, 1, 2)),
    "the greatest of all rows": lambda z, **_: z.call("exp").call("max", dims=(0, 1)),
    "cast": lambda z, **_: z.call("cast", dtype=int64).call("cast", dtype=float32),
    "columns numbered": lambda z, **_: numbered(z, 2),
}
# These need the dims apart, for the ops named.
APART: dict[str, tuple[Program, set[str]]] = {
    "summed over each sequence": (
        lambda z, mask, target, **_: masked(z, target, mask).call("sum", dims=(1,)),
        {"sum"},
    ),
    "over each, and back": (
        lambda z, **_: z.call("exp") - z.call("max", dims=(1,)).call("expand", shape=SPLIT),
        {"max", "expand"},
    ),
    "turned": (lambda z, **_: z.call("exp").call("permute", dims=(1, 0, 2)), {"permute"}),
    "cut": (
        lambda z, **_: z.call("exp").call(
            "slice", starts=(0, 1, 0), stops=(4, 3, 5), steps=(1, 1, 1)
        ),
        {"slice"},
    ),
    "repeated for each": (lambda z, each, **_: z + each.call("expand", shape=SPLIT), {"expand"}),
    "sequences numbered": (lambda z, **_: numbered(z, 0), {"iota"}),
    "two forms": (lambda z, **_: (z.call("exp"), z.call("neg").call("sum", dims=(2,))), set()),
}
PROGRAMS = {**ON_ROWS, **{name: program for name, (program, _) in APART.items()}}
FLATTEN = flatten(Trades(loop_over=1))


def graph_of(program: Program) -> Graph:
    b = Builder()
    given = {name: b.input(type_, name) for name, type_ in INPUTS.items()}
    product = given.pop("x").call("matmul", given.pop("w"))
    made = program(product.call("reshape", shape=SPLIT), **given)
    outputs = made if isinstance(made, tuple) else (made,)
    return b.graph(tuple(t.value for t in outputs), name="program")


def apart(graph: Graph) -> set[str]:
    """The ops that still make or read values whose dims are split."""
    return {
        node.op.name
        for node in graph.nodes
        for value in (*node.inputs, *node.outputs)
        if value.type.shape[:2] == (BATCH, LENGTH) and node.op.name != "reshape"
    }


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_flattening_changes_no_value(program: Program):
    graph = graph_of(program)
    random = np.random.default_rng(0)
    arrays = [
        random.integers(0, CLASSES, v.type.shape)
        if v.type.dtype is int64
        else random.normal(size=v.type.shape).astype(np.float32)
        for v in graph.inputs
    ]

    after = FLATTEN(graph)

    verify(after)
    for got, want in zip(interpret(after, *arrays), interpret(graph, *arrays), strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("program", ON_ROWS.values(), ids=ON_ROWS)
def test_what_is_done_to_each_row_is_done_on_rows(program: Program):
    graph = graph_of(program)
    assert apart(graph)

    assert apart(FLATTEN(graph)) == set()


@pytest.mark.parametrize(("program", "ops"), APART.values(), ids=APART)
def test_only_what_needs_the_dims_apart_has_them(program: Program, ops: set[str]):
    assert apart(FLATTEN(graph_of(program))) == ops


def test_small_products_are_left_alone():
    graph = graph_of(log_softmax)

    assert flatten(Trades(loop_over=ROWS * CLASSES * 4 + 1))(graph) is graph
    assert flatten(Trades())(graph) is graph


def test_flattening_again_finds_nothing():
    once = FLATTEN(graph_of(masked))

    assert str(FLATTEN(once)) == str(once)


def test_an_output_keeps_the_form_and_the_input_that_it_takes_over():
    b = Builder()
    x, w, old = (b.input(t) for t in (INPUTS["x"], INPUTS["w"], INPUTS["other"]))
    new = x.call("matmul", w).call("reshape", shape=SPLIT).call("exp")
    graph = b.graph((new.value, old.value), {0: 2}, "state")

    after = FLATTEN(graph)

    verify(after)
    assert after.aliases == {0: 2}
    assert [v.type.shape for v in after.outputs] == [SPLIT, SPLIT]
    assert after.outputs[1] is old.value
