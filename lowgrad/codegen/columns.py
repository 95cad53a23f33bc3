"""Rows, and sums down their columns: what a norm's backward pass does with what it reads once.

A program goes through several blocks of rows, reduces and stores each as the rows skeleton does,
and adds up columns on the way. A second kernel adds up what the programs found, always in the same
order, and goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowgrad.codegen.kernel import Kernel, Param, Reduce
from lowgrad.codegen.partials import (
    Nodes,
    accumulated_in,
    partial_of,
    rewritten,
    scratch,
    with_partials,
)
from lowgrad.codegen.region import Region
from lowgrad.codegen.rows import rows
from lowgrad.codegen.rowspace import Space, Tile2, space_of, tile_of
from lowgrad.codegen.rowswriter import RowsWriter
from lowgrad.codegen.tiling import Tiling, ceil_div
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, as_index
from lowgrad.ir.places import element
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_
from lowgrad.ir.walk import needed, reached_from


def reductions(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """The kernels of a region of reductions: over rows, or over rows and down columns."""
    sums = _sums_of_columns(region)
    if not sums:
        return rows(region, tiling)
    by_row, by_column = _parts(region, sums)
    space = space_of(by_row)
    tile = tile_of(space, tiling)
    is_narrow = min(space.rows, space.cols) < 2
    if tile.is_looped or not space.is_row_major or is_narrow or not by_row.outputs:
        by_row, by_column = _apart(region, by_row, by_column, sums)
        return (*rows(by_row, tiling), *rows(by_column, tiling, "column_pieces"))
    return _together(region, by_row, by_column, sums, _Pieces.of(space, tile, tiling), tiling)


def _sums_of_columns(region: Region) -> tuple[Node, ...]:
    """The sums over exactly the dims that the region's other reductions keep, not the last one."""
    found = [n for n in region.nodes if n.op.family == "reduction"]
    spaces = {n.attrs["dims"] for n in found}
    if len(spaces) < 2:
        return ()
    ndim = found[0].inputs[0].type.ndim
    columns = tuple(n for n in found if ndim - 1 not in n.attrs["dims"])
    kept = {tuple(d for d in range(ndim) if d not in n.attrs["dims"]) for n in columns}
    following = reached_from(region.nodes, (n.output for n in columns))
    is_plain = all(n.op.name == "sum" and n.inputs[0] not in following for n in columns)
    if len(spaces) > 2 or not kept <= spaces or not is_plain:
        raise CompileError(
            f"{region.name}: its reductions are over the dims {sorted(spaces)}, which are not the "
            "rows and the columns of one space",
            at=str(region.node.loc or ""),
        )
    return columns


def _parts(region: Region, sums: tuple[Node, ...]) -> tuple[Region, Region]:
    """What does not follow from the sums of columns, and what does, each a region by itself."""
    following = reached_from(region.nodes, (n.output for n in sums))
    by_row = tuple(o for o in region.outputs if o[0] not in following)
    by_column = tuple(o for o in region.outputs if o[0] in following)
    return _only(region, by_row), _only(region, by_column)


def _only(region: Region, outputs: tuple[tuple[Value, Param], ...]) -> Region:
    nodes = tuple(needed(region.nodes, (v for v, _ in outputs)))
    return replace(region, nodes=nodes, outputs=outputs)


def _apart(
    region: Region, by_row: Region, by_column: Region, sums: tuple[Node, ...]
) -> tuple[Region, Region]:
    """Two regions that two kernels can be: the rows' one hands over what the columns' one uses."""
    used = [n for n in by_column.nodes if n.op.family == "reduction" and n not in sums]
    handed: list[tuple[Value, Param]] = []
    replaced: dict[Node, Nodes] = {}
    for number, node in enumerate(used):
        type_ = node.output.type.with_dtype(accumulated_in(node.inputs[0].type.dtype))
        param = scratch(f"row{number}_ptr", type_, node)
        handed.append((node.output, param))
        replaced[node] = Nodes(node.loc)
        replaced[node].give(param.value, node)
    by_column = rewritten(by_column, replaced, tuple(p for _, p in handed))
    return _only(region, (*by_row.outputs, *handed)), _only(by_column, by_column.outputs)


@dataclass(frozen=True)
class _Pieces:
    """How rows are shared out: `count` programs take `rows` each, `tile.rows` at a time."""

    space: Space
    tile: Tile2
    count: int
    rows: int

    @classmethod
    def of(cls, space: Space, tile: Tile2, tiling: Tiling) -> _Pieces:
        blocks = ceil_div(space.rows, tile.rows)
        turns = ceil_div(blocks, min(tiling.programs, blocks))
        count = ceil_div(blocks, turns)
        return cls(space, tile, count, turns * tile.rows)


def _together(
    region: Region,
    by_row: Region,
    by_column: Region,
    sums: tuple[Node, ...],
    pieces: _Pieces,
    tiling: Tiling,
) -> tuple[Kernel, ...]:
    shape = (pieces.count, pieces.space.cols)
    partials = tuple(partial_of(n, f"columns{i}_ptr", shape) for i, n in enumerate(sums))
    wanted = (*(v for v, _ in by_row.outputs), *(n.output for n in sums))
    first = replace(region, nodes=tuple(needed(region.nodes, wanted)), outputs=by_row.outputs)
    rest = with_partials(by_column, sums, partials, dim=0)
    return (
        _Writer(first, pieces, sums, partials).kernel(),
        *rows(_only(rest, rest.outputs), tiling),
    )


class _Writer(RowsWriter):
    """The first kernel: rows, a block after the other, and what their columns sum to."""

    def __init__(
        self, region: Region, pieces: _Pieces, sums: tuple[Node, ...], partials: tuple[Param, ...]
    ) -> None:
        self.pieces, self.sums = pieces, sums
        super().__init__(region, pieces.space, pieces.tile, partials)

    def start(self) -> None:
        self.is_2d, self.programs, self.piece = True, self.pieces.count, as_index(0)
        self.pid = self.body.program_id(self.programs)

    def kernel(self) -> Kernel:
        """The kernel: for each block of rows, reductions and stores; then the columns' sums."""
        body, tile = self.body, self.pieces.tile
        cols = self.all_columns(as_index(0))
        totals = [self._so_far(node) for node in self.sums]
        with body.loop("start", self.pieces.rows, "ROWS") as start:
            first = self.pid * self.pieces.rows + start
            total = self.pieces.count * self.pieces.rows
            self.row = body.add_lanes(
                "rows", self.space.rows, first, "ROWS", tile.rows, 0, "[:, None]", "row_mask", total
            )
            self.reduce_all()
            for node, so_far in zip(self.sums, totals, strict=True):
                self._add(node, so_far, cols)
            self.store_outputs()
        for node, so_far, param in zip(self.sums, totals, self.partials, strict=True):
            self._store_total(node, so_far, param, cols)
        return self.region.kernel(
            body,
            {"ROWS": tile.rows, "BLOCK": tile.cols},
            self.programs,
            tile.num_warps,
            more=self.partials,
            suffix="_pieces",
        )

    def _so_far(self, node: Node) -> Tile:
        dtype = accumulated_in(node.inputs[0].type.dtype)
        return self.body.fill(0, dtype, self.shape, name="columns_so_far")

    def _add(self, node: Node, so_far: Tile, cols: Index) -> None:
        body = self.body
        x = self.reader.tile(node.inputs[0], element(node, cols, self.row))
        body.wish, body.loc = "", node.loc
        x = body.broadcast(x, self.shape, so_far.dtype)
        for mask in body.masks_of(self.row):
            x = body.let("where", Tile(body, mask, bool_), x, 0, dtype=so_far.dtype, name="x")
        body.update(so_far, body.let("add", so_far, x, dtype=so_far.dtype))

    def _store_total(self, node: Node, so_far: Tile, param: Param, cols: Index) -> None:
        body = self.body
        body.loc = node.loc
        name = body.fresh("columns")
        lanes = frozenset(body.lanes_of(cols))
        body.add(Reduce(name, "sum", so_far.name, 0, True, so_far.dtype, (), 0), lanes)
        at = self.pid * self.space.cols + cols
        body.store(param.name, at, Tile(body, name, so_far.dtype), body.masks_of(at))
