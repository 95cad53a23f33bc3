"""The end of a product whose inner axis was split: pieces of its sums added up, and what follows.

Pieces are added in their order, so that a result does not depend on which program came first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from lowgrad.codegen.kernel import Kernel, Param
from lowgrad.codegen.operands import accumulated
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.reader import At, Pulled, Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import as_index, flatten
from lowgrad.ir.types import TensorType
from lowgrad.ir.walk import needed, reached_from


def parts_of(product: Node, sums: tuple[Node, ...], pieces: int) -> dict[Node, Param]:
    """Where pieces of the product, and of sums of its operands, are kept: [pieces, elements]."""
    parts = {}
    for number, node in enumerate((product, *sums)):
        value = node.output
        type_ = TensorType((pieces, value.type.numel), accumulated(value.type.dtype))
        name = "product_pieces_ptr" if node is product else f"sum{number}_pieces_ptr"
        parts[node] = Param(name, type_, "scratch", Value(type_, f"{node.op.name}_pieces"))
    return parts


def added_up(region: Region, parts: Mapping[Node, Param], tiling: Tiling) -> tuple[Kernel, ...]:
    """A kernel for the product and one for each sum, with the outputs that follow from it."""
    sums = [n for n in parts if n.op.family == "reduction"]
    of_sums = {v: n for n in sums for v in reached_from(region.nodes, [n.output])}
    others = tuple(n for n in region.nodes if n not in parts)
    kernels: list[Kernel] = []
    for node, param in parts.items():
        outputs = tuple(
            o for o in region.outputs if of_sums.get(o[0]) is (node if node in sums else None)
        )
        if not outputs:
            continue
        rest = replace(
            region,
            name=region.name if node not in sums else f"{region.name}_sum",
            nodes=tuple(needed(others, [v for v, _ in outputs])),
            inputs={**region.inputs, param.value: param},
            outputs=outputs,
        )
        kernels += pointwise_kernel(rest, tiling, partial(_give, node=node, param=param))
    return tuple(kernels)


def _give(reader: Reader, node: Node, param: Param) -> None:
    def read(at: At) -> Pulled:
        flat = flatten(at, node.output.type.shape)
        total = reader.tile(param.value, (as_index(0), flat))
        for piece in range(1, param.type.shape[0]):
            part = reader.tile(param.value, (as_index(piece), flat))
            total = reader.body.let("add", total, part, dtype=total.dtype, name="total")
        return total

    reader.given[node.output] = read
