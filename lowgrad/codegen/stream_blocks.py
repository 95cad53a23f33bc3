"""The blocks of a streaming kernel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lowgrad.codegen.streamed import Streamed
from lowgrad.codegen.tiling import DotTiling, Tiling, dot_tiling
from lowgrad.ir.graph import Node


def stream_tiling(
    products: Sequence[Node], shape: Streamed, axis: int, tiling: Tiling
) -> DotTiling:
    """The blocks of the own axis (m) and the other one (n) for the products of one kernel."""
    if not products:
        return DotTiling(64, 64, 16, "dot", 4, 1)
    dtype = products[0].inputs[0].type.dtype
    widest = 0
    for node in products:
        *_, m, k = node.inputs[0].type.shape
        widest = max(widest, min(m, k, node.output.type.shape[-1]))
    tile = dot_tiling(shape.sizes[axis], shape.sizes[1 - axis], widest, dtype, tiling)
    if tile.fn == "multiply":
        return tile
    # Several products are held at once. f32 ones are made without tensor cores, from registers:
    # larger blocks, or fewer warps, spill more.
    most, stages = ((128, 64), 2) if dtype.is_low_precision else ((16, 64), 1)
    m, n = tiling.m or min(tile.m, most[0]), tiling.n or min(tile.n, most[1])
    return replace(tile, m=m, n=n, num_warps=8, num_stages=stages)
