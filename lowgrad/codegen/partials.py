"""Partial results: what programs find of a reduction, and what is left to do with it."""

from __future__ import annotations

from dataclasses import replace

from lowgrad.codegen.kernel import Param
from lowgrad.codegen.region import Region
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import DType, Shape, TensorType, float32


def partial_of(node: Node, name: str, shape: Shape) -> Param:
    """What programs find of a reduction's results, to be reduced once more along one dim."""
    dtype = accumulated_in(node.inputs[0].type.dtype)
    type_ = TensorType(shape, dtype)
    return Param(name, type_, "scratch", Value(type_, f"{node.op.name}_pieces"))


def accumulated_in(dtype: DType) -> DType:
    """The type that the elements of a reduction of `dtype` are added up in."""
    return float32 if dtype.is_low_precision else dtype


def with_partials(
    region: Region, reductions: tuple[Node, ...], partials: tuple[Param, ...], dim: int
) -> Region:
    """`region` with the reductions' operands replaced by what is left of them, along `dim`."""
    replaced: dict[Node, tuple[Node, Node]] = {}
    for node, param in zip(reductions, partials, strict=True):
        left = tuple(1 if d == dim else n for d, n in enumerate(param.type.shape))
        total = Value(param.type.with_shape(left), node.output.hint)
        again = Node(node.op, (param.value,), {"dims": (dim,)}, (total,), node.loc)
        shape = {"shape": node.output.type.shape}
        replaced[node] = (again, Node(REGISTRY["reshape"], (total,), shape, node.outputs, node.loc))
    nodes = tuple(m for n in region.nodes for m in replaced.get(n, (n,)))
    inputs = {**region.inputs, **{p.value: p for p in partials}}
    return replace(region, nodes=nodes, inputs=inputs)
