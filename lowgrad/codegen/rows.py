"""The rows skeleton: reductions over the same dims, and pointwise work before and after them.

The reduced space is seen as R rows of C columns: row r and column c are the numbers, in row-major
order, of an element's kept and reduced dims. A program owns one row, or several short ones, holds
all columns at once, or loops over blocks of them. Few long rows are cut into pieces (`split`).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.linear import taken_apart
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.reader import At, Pulled, Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.rowspace import Space, reductions_of, space_of, tile_of
from lowgrad.codegen.rowswriter import RowsWriter
from lowgrad.codegen.rowtile import PLACES, identity_of
from lowgrad.codegen.split import in_stages, is_split, split
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.graph import Node


def rows(region: Region, tiling: Tiling, name: str = "pieces") -> tuple[Kernel, ...]:
    """One kernel, or two or more for few long rows; none if there are no elements.

    name: of what is between them, which is not to be the name of others of the node.
    """
    outputs = tuple(o for o in region.outputs if o[1].type.numel)
    region = replace(region, outputs=outputs)
    space = space_of(region)
    if not outputs:
        return ()
    if space.cols <= 1:
        return _trivial(region, space, tiling)
    tile = tile_of(space, tiling)
    if tile.is_looped:
        region = taken_apart(region, space.reductions)
        space = replace(space, reductions=reductions_of(region))
    if is_split(space, tile, tiling):
        if (stages := in_stages(region, space, name)) is not None:
            first, rest = stages
            return (*rows(first, tiling, name), *rows(rest, tiling, f"{name}_later"))
        return split(region, space, tile, tiling, name)
    return (RowsWriter(region, space, tile).kernel(),)


def _trivial(region: Region, space: Space, tiling: Tiling) -> tuple[Kernel, ...]:
    """Rows of one column, which are their own results, or of none, with the identity."""

    def with_results(reader: Reader) -> None:
        for node in space.reductions:
            reader.given[node.output] = partial(_result_of_one, reader, node, space.cols)

    return pointwise_kernel(region, tiling, with_results)


def _result_of_one(reader: Reader, node: Node, count: int, at: At) -> Pulled:
    """The reduction of one element, or (count 0) of none."""
    if count == 0:
        return identity_of(node)
    return 0 if node.op.name in PLACES else reader.value(node.inputs[0], at)
