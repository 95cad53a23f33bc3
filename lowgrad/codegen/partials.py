"""Partial results: what programs find of a reduction, and the nodes that make the rest of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lowgrad.codegen.kernel import Param
from lowgrad.codegen.region import Region
from lowgrad.errors import Location
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.op import REGISTRY, outputs_of
from lowgrad.ir.types import DType, Shape, TensorType, float32


def accumulated_in(dtype: DType) -> DType:
    """The type that the elements of a reduction of `dtype` are added up in."""
    return float32 if dtype.is_low_precision else dtype


@dataclass
class Nodes:
    """Nodes under construction, in order, which say the same thing once."""

    loc: Location | None = None
    made: list[Node] = field(default_factory=list)

    def call(self, name: str, *values: Value, **attrs: Any) -> Value:
        """The result of the op `name`."""
        op = REGISTRY[name]
        for node in self.made:
            if node.op is op and node.inputs == values and node.attrs == attrs:
                return node.output
        (type_,) = outputs_of(op, tuple(v.type for v in values), attrs)
        self.made.append(Node(op, values, attrs, (Value(type_),), self.loc))
        return self.made[-1].output

    def of_row(self, value: Value, reduction: Node) -> Value:
        """`value`, which is the same along each row of `reduction`, of the reduction's shape."""
        shape, dims = value.type.shape, reduction.attrs["dims"]
        stops = tuple(1 if d in dims else n for d, n in enumerate(shape))
        zeros, ones = (0,) * len(shape), (1,) * len(shape)
        return self.call("slice", value, starts=zeros, stops=stops, steps=ones)

    def give(self, value: Value, node: Node) -> None:
        """Make `value`, of as many elements, the result of `node`."""
        shape = {"shape": node.output.type.shape}
        self.made.append(Node(REGISTRY["reshape"], (value,), shape, node.outputs, node.loc))


def partial_of(node: Node, name: str, shape: Shape) -> Param:
    """What programs find of a reduction's results, to be reduced once more along one dim."""
    return scratch(name, TensorType(shape, accumulated_in(node.inputs[0].type.dtype)), node)


def scratch(name: str, type_: TensorType, node: Node) -> Param:
    """A param for partial results of `node`."""
    return Param(name, type_, "scratch", Value(type_, f"{node.op.name}_pieces"))


def with_partials(
    region: Region, reductions: tuple[Node, ...], partials: tuple[Param, ...], dim: int
) -> Region:
    """`region` with the reductions' operands replaced by what is left of them, along `dim`."""
    replaced: dict[Node, Nodes] = {}
    for node, param in zip(reductions, partials, strict=True):
        again = replaced[node] = Nodes(node.loc)
        again.give(again.call(node.op.name, param.value, dims=(dim,)), node)
    return rewritten(region, replaced, partials)


def rewritten(
    region: Region, replaced: Mapping[Node, Nodes], partials: tuple[Param, ...] = ()
) -> Region:
    """`region` with other nodes in the place of some, which may read `partials`."""
    nodes = tuple(m for n in region.nodes for m in (replaced[n].made if n in replaced else (n,)))
    inputs = {**region.inputs, **{p.value: p for p in partials}}
    return replace(region, nodes=nodes, inputs=inputs)
