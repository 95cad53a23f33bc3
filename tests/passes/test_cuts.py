"""Cuts and paddings: which rows are multiplied after all, and that no value changes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import lowgrad.ops  # noqa: F401 - fills the registry
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, float32
from lowgrad.ir.verify import verify
from lowgrad.passes.cuts import cuts
from lowgrad.passes.dce import dce

BATCH, LENGTH, WIDTH, CLASSES = 4, 3, 6, 5
ROWS, KEPT = BATCH * LENGTH, BATCH * (LENGTH - 1)
SPLIT = (BATCH, LENGTH, CLASSES)
INPUTS = {
    "x": TensorType((ROWS, WIDTH), float32),
    "w": TensorType((WIDTH, CLASSES), float32),
    "bias": TensorType((1, 1, CLASSES), float32),
    "other": TensorType(SPLIT, float32),
    "g": TensorType((BATCH, LENGTH - 1, CLASSES), float32),
}
Program = Callable[..., "Tracer | tuple[Tracer, ...]"]


def product(x: Tracer, w: Tracer) -> Tracer:
    return x.call("matmul", w).call("reshape", shape=SPLIT)


def cut(z: Tracer, starts=(0, 0, 0), stops=(BATCH, LENGTH - 1, CLASSES), steps=(1, 1, 1)) -> Tracer:
    return z.call("slice", starts=starts, stops=stops, steps=steps)


def biased(x, w, bias, **_):
    return product(x, w) + bias.call("expand", shape=SPLIT)


def padded(g: Tracer, value: float = 0, low: int = 0) -> Tracer:
    return g.call("pad", low=(0, low, 0), high=(0, 1 - low, 0), value=value)


def rows(g: Tracer) -> Tracer:
    return g.call("reshape", shape=(ROWS, CLASSES))


def turned(x: Tracer) -> Tracer:
    return x.call("permute", dims=(1, 0))


# With the rows that go into products after the pass.
MOVED: dict[str, tuple[Program, int]] = {
    "a cut": (lambda x, w, **_: cut(product(x, w)), KEPT),
    "after a bias": (lambda **t: cut(biased(**t)), KEPT),
    "after much": (lambda other, **t: cut((biased(**t) * 2.0).call("exp") + other), KEPT),
    "the last token": (
        lambda x, w, **_: cut(product(x, w), (0, LENGTH - 1, 0), (BATCH, LENGTH, CLASSES)),
        BATCH,
    ),
    "every second": (
        lambda x, w, **_: cut(product(x, w), (0, 0, 0), SPLIT, (2, 2, 1)),
        BATCH // 2 * 2,
    ),
    "of plain rows": (
        lambda x, w, **_: x.call("matmul", w).call(
            "slice", starts=(2, 0), stops=(ROWS, CLASSES), steps=(1, 1)
        ),
        ROWS - 2,
    ),
    "padding times a matrix": (
        lambda g, w, **_: rows(padded(g)).call("matmul", turned(w)),
        KEPT,
    ),
    "padding in front": (
        lambda g, w, **_: rows(padded(g, low=1)).call("matmul", turned(w)),
        KEPT,
    ),
    "terms of padding on the right": (
        lambda g, x, **_: turned(x).call("matmul", rows(padded(g, low=1))),
        KEPT,
    ),
    "terms of padding on the left": (
        lambda g, x, **_: turned(rows(padded(g))).call("matmul", x),
        KEPT,
    ),
}
LEFT: dict[str, tuple[Program, int]] = {
    "read whole as well": (
        lambda x, w, **_: (lambda z: (cut(z), z.call("sum", dims=(2,))))(product(x, w)),
        ROWS,
    ),
    "pointwise read whole as well": (
        lambda x, w, **_: (lambda z: (cut(z), z.call("neg")))(product(x, w).call("exp")),
        ROWS,
    ),
    "columns": (
        lambda x, w, **_: cut(product(x, w), (0, 0, 1), SPLIT),
        ROWS,
    ),
    "padded with ones": (
        lambda g, w, **_: rows(padded(g, 1)).call("matmul", turned(w)),
        ROWS,
    ),
}
SUMS: dict[str, tuple[Program, bool]] = {
    "over all rows": (lambda g, **_: padded(g).call("sum", dims=(0, 1)), True),
    "over each sequence": (lambda g, **_: padded(g).call("sum", dims=(1,)), True),
    "over classes": (lambda g, **_: padded(g).call("sum", dims=(2,)), False),
    "of ones": (lambda g, **_: padded(g, 1).call("sum", dims=(1,)), False),
}
PROGRAMS = {n: p for table in (MOVED, LEFT, SUMS) for n, (p, _) in table.items()}


def graph_of(program: Program) -> Graph:
    b = Builder()
    made = program(**{name: b.input(type_, name) for name, type_ in INPUTS.items()})
    outputs = made if isinstance(made, tuple) else (made,)
    return b.graph(tuple(t.value for t in outputs), name="program")


def rows_multiplied(graph: Graph) -> set[int]:
    """The one of a product's three sizes that is no width and no number of classes."""
    return {
        size
        for node in graph.nodes
        if node.op.name == "matmul"
        for size in (*node.output.type.shape, node.inputs[0].type.shape[1])
        if size not in (WIDTH, CLASSES)
    }


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_moving_a_cut_changes_no_value(program: Program):
    graph = graph_of(program)
    random = np.random.default_rng(0)
    arrays = [random.normal(size=v.type.shape).astype(np.float32) for v in graph.inputs]

    after = cuts(graph)

    verify(after)
    for got, want in zip(interpret(after, *arrays), interpret(graph, *arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


CASES = {**MOVED, **LEFT}


@pytest.mark.parametrize(("program", "count"), CASES.values(), ids=CASES)
def test_only_rows_that_are_read_and_not_padding_are_multiplied(program: Program, count: int):
    graph = graph_of(program)
    assert rows_multiplied(graph) == {ROWS}

    assert rows_multiplied(dce(cuts(graph))) == {count}


@pytest.mark.parametrize(("program", "gone"), SUMS.values(), ids=SUMS)
def test_zeros_are_not_summed(program: Program, gone: bool):
    after = cuts(graph_of(program))

    assert ("pad" not in [n.op.name for n in after.nodes]) == gone


def test_a_constant_is_cut_as_a_constant():
    graph = graph_of(lambda x, **_: cut(x.builder.full(TensorType(SPLIT, float32), 2.0)))

    assert [n.op.name for n in cuts(graph).nodes] == ["full"]
