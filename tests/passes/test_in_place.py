"""Which outputs may be written over an input of their kernel."""

from __future__ import annotations

import pytest

from lowgrad.ir.build import Builder
from lowgrad.ir.types import TensorType, float32, int64
from lowgrad.passes.fuse import fuse
from lowgrad.passes.in_place import may_overwrite

SQUARE = TensorType((8, 8), float32)


def spread_sum(x):
    return x.call("sum", dims=(1,)).call("expand", shape=x.shape)


def spread_pick(x, w):
    """One element of each row of x, chosen by w, for the whole row."""
    index = w.call("sum", dims=(1,)).call("cast", dtype=int64)
    return x.call("gather", index, dim=1).call("expand", shape=x.shape)


PROGRAMS = {
    "elementwise": (lambda x, w: x * 2.0 + w, True),
    "one op": (lambda x, w: x + w, True),
    "not read at all": (lambda x, w: w.call("exp") * 2.0, True),
    "epilogue of a product": (lambda x, w: w.call("matmul", w) * 0.1 + x, True),
    "flipped": (lambda x, w: x.call("flip", dims=(1,)) * 2.0, False),
    "transposed": (lambda x, w: x + x.call("permute", dims=(1, 0)), False),
    "operand of the product": (lambda x, w: x.call("matmul", w) + x, False),
    "computed, then transposed": (lambda x, w: (x * 2.0).call("permute", dims=(1, 0)), False),
    "computed, then flipped, in rows": (
        lambda x, w: (x - spread_sum(x)).call("flip", dims=(0,)) * spread_sum(w),
        False,
    ),
    "whole rows": (lambda x, w: x - spread_sum(x), True),
    "whole rows and one of each": (lambda x, w: x - spread_sum(x) * spread_pick(x, w), True),
    "whole rows and other rows": (
        lambda x, w: x - spread_sum(x) * x.call("flip", dims=(0,)),
        False,
    ),
    "sums of rows of something else": (lambda x, w: spread_sum(w) * x + w, True),
    "sums of other rows": (
        lambda x, w: x - spread_sum(x.call("permute", dims=(1, 0))),
        False,
    ),
    "one row for all": (
        lambda x, w: (
            x.call("slice", starts=(0, 0), stops=(1, 8), steps=(1, 1)).call("expand", shape=(8, 8))
            + x
        ),
        False,
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_may_overwrite(name):
    function, expected = PROGRAMS[name]
    b = Builder()
    x, w = b.input(SQUARE, "x"), b.input(SQUARE, "w")
    graph = fuse(b.graph((function(x, w).value,), {0: 0}))
    node = graph.nodes[-1]

    assert may_overwrite(node, x.value, node.outputs[0]) is expected


@pytest.mark.parametrize("name", ["index_add", "scatter_add", "scatter"])
def test_a_scatter_may_write_over_its_base_and_over_nothing_else(name):
    b = Builder()
    base, src = b.input(SQUARE, "base"), b.input(SQUARE, "src")
    shape = (8,) if name == "index_add" else (8, 8)
    index = b.input(TensorType(shape, int64), "index")
    node, itself = (
        b.graph((base.call(name, index, source, dim=0).value,)).nodes[-1] for source in (src, base)
    )

    assert may_overwrite(node, base.value, node.outputs[0])
    assert not may_overwrite(node, src.value, node.outputs[0])
    assert not may_overwrite(itself, base.value, itself.outputs[0])
