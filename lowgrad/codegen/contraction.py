"""The contraction skeleton: tiled products of matrices, with what follows them in the same kernel.

A program owns one tile of the result and loops over the inner axis. Programs go through the tiles
in groups of rows, so that neighbours share operands in the cache; where tiles are too few for a
GPU, several share one, each with a piece of the inner axis (`split_k`). Views before the product
are index maps of its loads. Arithmetic before it is rounded to the operands' dtype, as tensor
cores take it; sums and what comes after are f32 (f64 of f64).

A sum of an operand over the inner axis is taken on the way, and what follows from it (a bias's
update beside its weight's) is stored by the programs of the first tile along the other axis.
"""

from __future__ import annotations

import math
from dataclasses import replace

from lowgrad.codegen.choose import choose
from lowgrad.codegen.contraction_writer import ContractionWriter, Sizes
from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.problem import problem_of
from lowgrad.codegen.region import Region
from lowgrad.codegen.split_k import added_up, parts_of
from lowgrad.codegen.tiling import DotTiling, Tiling, ceil_div
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node
from lowgrad.ir.places import summed_operand
from lowgrad.ir.walk import needed


def contraction(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel, or those of a split inner axis; none if there are no elements."""
    node = _product(region)
    outputs = tuple(o for o in region.outputs if o[1].type.numel)
    if not outputs:
        return ()
    region = replace(region, outputs=outputs)
    sizes = _sizes(node)
    tile = choose(problem_of(region, node, tiling.precision), tiling)
    if tile.split > 1 and sizes.k:
        return _split(region, node, sizes, tile, tiling)
    sums = _sums(region, node)
    return (ContractionWriter(region, node, sizes, tile, tiling.precision, sums).kernel(),)


def _split(
    region: Region, node: Node, sizes: Sizes, tile: DotTiling, tiling: Tiling
) -> tuple[Kernel, ...]:
    """A kernel whose programs each have a piece of the inner axis, then those that add them up."""
    sums = _sums(region, node)
    pieces = ceil_div(sizes.k, ceil_div(ceil_div(sizes.k, tile.k), tile.split) * tile.k)
    parts = parts_of(node, tuple(sums), pieces)
    made = [node.output, *(total.output for total in sums)]
    first = replace(region, nodes=tuple(needed(region.nodes, made)), outputs=())
    tile = replace(tile, split=pieces, slices=1)
    writer = ContractionWriter(first, node, sizes, tile, tiling.precision, sums, parts)
    return (writer.kernel(), *added_up(region, parts, tiling))


def _product(region: Region) -> Node:
    products = [n for n in region.nodes if n.op.family == "contraction"]
    if len(products) != 1:
        raise CompileError(
            f"{region.name}: {len(products)} matrix products; a kernel has one",
            at=str(region.node.loc or ""),
        )
    return products[0]


def _sizes(node: Node) -> Sizes:
    a, b = (v.type.shape for v in node.inputs)
    return Sizes(math.prod(a[:-2]), a[-2], b[-1], a[-1])


def _sums(region: Region, product: Node) -> dict[Node, int]:
    """The sums of the product's operands, with the operand's position."""
    found: dict[Node, int] = {}
    for node in region.nodes:
        if node.op.family == "reduction":
            operand = summed_operand(region.producers, product, node)
            if operand is None:
                raise CompileError(
                    f"{region.name}: {node.op.name} is no sum over the product's inner axis",
                    at=str(node.loc or region.node.loc or ""),
                )
            found[node] = operand
    return found
