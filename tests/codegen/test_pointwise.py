"""Pointwise, view, create, random and gather ops as kernels: what `evaluate` says, at all tails."""

import oracle
import pytest
from samples import SAMPLES

import lowgrad.ops  # noqa: F401  (fills the registry)
from lowgrad.codegen.run import run_node
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.op import REGISTRY, evaluate, outputs_of
from lowgrad.ir.types import bfloat16, float16, float32, float64

pytestmark = pytest.mark.triton

BLOCK = 8
SMALL = Tiling(flat=BLOCK)
FAMILIES = ("pointwise", "view", "create", "random")
NAMES = [n for n, op in REGISTRY.items() if op.family in FAMILIES] + ["take", "gather"]
ROWS = [pytest.param(n, s, id=f"{n} {s}") for n in NAMES for s in SAMPLES.get(n, ())]


def node_of(name, types, attrs) -> Node:
    op = REGISTRY[name]
    outputs = tuple(Value(t) for t in outputs_of(op, types, attrs))
    return Node(op, tuple(Value(t) for t in types), attrs, outputs)


@pytest.mark.parametrize("dtype", [float32, bfloat16, float16, float64], ids=str)
@pytest.mark.parametrize(("name", "sample"), ROWS)
def test_a_kernel_computes_what_evaluate_says(name, sample, dtype):
    typed = sample.with_float(dtype)
    if dtype is not float32 and typed == sample:
        return
    node = node_of(name, typed.inputs, typed.attrs)
    arrays = typed.arrays()
    want = evaluate(node.op, arrays, typed.attrs, tuple(v.type for v in node.outputs))

    got = run_node(node, arrays, SMALL)

    if name == "reshape":
        return  # no kernel: the same memory
    for g, w, v in zip(got, want, node.outputs, strict=True):
        oracle.assert_close(g, w, v.type.dtype, ulps=max(sample.ulps, 4))
