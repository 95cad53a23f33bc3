"""Nodes and regions for the tests of code generation."""

from __future__ import annotations

import numpy as np
import oracle

import lowgrad.ops  # noqa: F401  (fills the registry)
from lowgrad.codegen.run import run_node
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.op import REGISTRY, Array, evaluate, outputs_of
from lowgrad.ir.types import DType, TensorType, float32


def node_of(name, types, attrs) -> Node:
    """A node of one op; its inputs have no names."""
    op = REGISTRY[name]
    outputs = tuple(Value(t) for t in outputs_of(op, tuple(types), attrs))
    return Node(op, tuple(Value(t) for t in types), attrs, outputs)


def region(kind, f, **inputs: TensorType) -> Node:
    """The `fused` node of what `f` computes from tracers of the named inputs."""
    builder = Builder()
    tracers = {name: builder.input(t, name) for name, t in inputs.items()}
    results = f(**tracers)
    results = results if isinstance(results, tuple) else (results,)
    body = builder.graph(tuple(r.value for r in results))
    outer = tuple(Value(v.type, v.hint) for v in body.inputs)
    outputs = tuple(Value(v.type) for v in body.outputs)
    return Node(REGISTRY["fused"], outer, {"body": body, "kind": kind}, outputs)


def tensor(*shape: int, dtype: DType = float32) -> TensorType:
    return TensorType(shape, dtype)


def arrays_for(node: Node, seed: int = 0, low: float = -2.0, high: float = 2.0) -> list[Array]:
    """Random operands of a node; integers are small and not negative."""
    rng = np.random.default_rng(seed)
    made = []
    for value in node.inputs:
        dtype = value.type.dtype
        span = (low, high) if dtype.is_floating_point else (0, 2)
        made.append(np.asarray(rng.uniform(*span, value.type.shape)).astype(dtype.numpy))
    return made


def wanted(node: Node, arrays) -> tuple[Array, ...]:
    """What the node means."""
    types = tuple(v.type for v in node.outputs)
    return evaluate(node.op, tuple(arrays), dict(node.attrs), types)


def check(node: Node, arrays=None, tiling: Tiling = DEFAULT, **tolerance) -> None:
    """The node's kernels compute what the node means."""
    arrays = arrays_for(node) if arrays is None else arrays
    tolerance = {"ulps": 16, **tolerance}
    for got, want, value in zip(
        run_node(node, arrays, tiling), wanted(node, arrays), node.outputs, strict=True
    ):
        oracle.assert_close(got, want, value.type.dtype, **tolerance)


def expanded(x: Tracer, shape: tuple[int, ...]) -> Tracer:
    """x, of rank 0 or with sizes 1, repeated to `shape`."""
    if len(x.shape) < len(shape):
        x = x.call("reshape", shape=(*(1,) * (len(shape) - len(x.shape)), *x.shape))
    return x.call("expand", shape=shape)
