"""Regions: wide inside, rounded at their outputs and at explicit casts."""

from __future__ import annotations

import numpy as np
import pytest

from lowgrad.errors import ShapeError
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import TensorType, bfloat16, float32
from lowgrad.ops.region import fused

BF16 = TensorType((3,), bfloat16)
F32 = TensorType((3,), float32)


def body(*, casts: bool = False) -> Graph:
    """(x + 1) - x in bf16, the sum rounded in between if `casts`."""
    builder = Builder()
    x = builder.input(BF16)
    total = x + 1.0
    if casts:
        total = total.call("cast", dtype=bfloat16)
    return builder.graph(((total - x).value,))


def around(inner: Graph, kind: str = "pointwise") -> Graph:
    builder = Builder()
    x = builder.input(inner.inputs[0].type)
    return builder.graph((fused(x, body=inner, kind=kind).value,))


# 1 is below half the distance of 512's neighbours in bf16.
LARGE = np.full(3, 512, bfloat16.numpy)


def test_a_region_rounds_nothing_but_its_outputs():
    (alone,) = interpret(body(), LARGE)
    (inside,) = interpret(around(body()), LARGE)

    assert alone.tolist() == [0, 0, 0]
    assert inside.tolist() == [1, 1, 1]
    assert inside.dtype == bfloat16.numpy


def test_an_explicit_cast_rounds_inside_a_region():
    (inside,) = interpret(around(body(casts=True)), LARGE)

    assert inside.tolist() == [0, 0, 0]


def test_a_region_may_have_several_outputs():
    builder = Builder()
    x = builder.input(F32)
    inner = builder.graph(((x + 1.0).value, x.value))
    outer = Builder()
    y = outer.input(F32)
    a, b = fused(y, body=inner, kind="rows")

    got = interpret(outer.graph((a.value, b.value)), np.zeros(3, np.float32))

    assert [g.tolist() for g in got] == [[1, 1, 1], [0, 0, 0]]


def test_infer_states_the_plain_fact():
    inner = body()

    with pytest.raises(ShapeError, match=r"the body takes \(bf16\[3\]\), not \(f32\[3\]\)"):
        fused.infer(F32, body=inner, kind="pointwise")
    with pytest.raises(ShapeError, match="'spiral' is no kind of region; there are pointwise"):
        fused.infer(BF16, body=inner, kind="spiral")
    aliased = Graph(inner.inputs, inner.nodes, inner.outputs, {0: 0})
    with pytest.raises(ShapeError, match="the body has aliases"):
        fused.infer(BF16, body=aliased, kind="pointwise")
