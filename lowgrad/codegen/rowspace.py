"""The space of a region's reductions: R rows of C columns, and how much of it a program holds."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2, warps_for
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node

# Columns that a loop over a row takes at a time: 16 a lane with 8 warps, 8 of two operands.
LONGEST_BLOCK = 4096


@dataclass(frozen=True)
class Space:
    """R rows of C columns, and the reductions over them, in order.

    is_row_major: whether neighbours in memory are neighbouring columns, not rows.
    operands: how many arrays of the space's size are read.  row_bytes: of all that is read or
    numbered along a row, for each column.
    """

    rows: int
    cols: int
    reductions: tuple[Node, ...]
    is_row_major: bool
    operands: int = 1
    row_bytes: int = 4


def space_of(region: Region) -> Space:
    """The space of a region's reductions. Raises CompileError if they differ."""
    reductions = reductions_of(region)
    sizes = {_sizes(n) for n in reductions}
    if len(sizes) != 1:
        raise CompileError(
            f"{region.name}: its reductions are over {len(sizes)} spaces; a kernel has one",
            at=str(region.node.loc or ""),
        )
    ((n_rows, n_cols),) = sizes
    shape, dims = reductions[0].inputs[0].type.shape, reductions[0].attrs["dims"]
    last = max((d for d, size in enumerate(shape) if size > 1), default=0)
    read = [p.type for p in region.inputs.values() if p.type.numel in (n_cols, n_rows * n_cols)]
    numbered = [n for n in region.nodes if n.op.name == "iota" and n.output.type.numel >= n_cols]
    return Space(
        n_rows,
        n_cols,
        reductions,
        is_row_major=last in dims,
        operands=sum(t.numel == n_rows * n_cols for t in read),
        row_bytes=sum(t.dtype.itemsize for t in read) + 4 * len(numbered),
    )


def reductions_of(region: Region) -> tuple[Node, ...]:
    """The reductions of a region, in order."""
    return tuple(n for n in region.nodes if n.op.family == "reduction")


def _sizes(node: Node) -> tuple[int, int]:
    shape, dims = node.inputs[0].type.shape, node.attrs["dims"]
    cols = math.prod(shape[d] for d in dims)
    return math.prod(n for d, n in enumerate(shape) if d not in dims), cols


@dataclass(frozen=True)
class Tile2:
    """What a program holds at a time: `rows` x `cols`, the columns looped over if `is_looped`.

    pieces: programs that share a row, each doing `chunk` columns; then the result is partial.
    """

    rows: int
    cols: int
    is_looped: bool
    num_warps: int
    pieces: int = 1
    chunk: int = 0


def tile_of(space: Space, tiling: Tiling) -> Tile2:
    """What a program holds of `space`. Not a whole row if its registers would not do for that."""
    widest = power_of_2(space.cols)
    share = 1
    if not space.is_row_major:
        # Neighbouring lanes read neighbouring rows, at least a cache line of them.
        n_rows = min(power_of_2(space.rows), 64)
        n_cols = min(widest, max(tiling.tile // n_rows, 1))
    elif widest > longest_row(space, tiling):
        share = 1 if space.operands <= 1 else 2
        n_rows, n_cols = 1, max(min(tiling.row // 4, LONGEST_BLOCK // share), 1)
    else:
        n_rows, n_cols = max(min(tiling.tile // widest, power_of_2(space.rows)), 1), widest
        while n_rows > 1 and ceil_div(space.rows, n_rows) < tiling.programs:
            n_rows //= 2
    return Tile2(n_rows, n_cols, n_cols < space.cols, warps_for(n_rows * n_cols * share))


def longest_row(space: Space, tiling: Tiling) -> int:
    """The longest row held at once: what is read of it shares the registers."""
    if space.row_bytes <= 4 and space.operands <= 1:
        return tiling.row
    return tiling.row // 2 if space.row_bytes <= 12 else tiling.row // 4
