"""Few long rows: programs share a row, each with a piece of it, and a second kernel goes on.

The first kernel stores what each piece is reduced to, [rows, pieces]; the second makes the rows'
results of it, always in the same order. If something is stored for each column, the programs of
the second kernel share the rows as those of the first, and each makes its row's results by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lowgrad.codegen.kernel import Bound, Kernel, Param
from lowgrad.codegen.online import Passes, passes
from lowgrad.codegen.partials import Nodes, rewritten, scratch
from lowgrad.codegen.region import Region
from lowgrad.codegen.rowspace import Space, Tile2, reductions_of, space_of, tile_of
from lowgrad.codegen.rowswriter import Results, RowsWriter
from lowgrad.codegen.rowtile import RowTile
from lowgrad.codegen.running import kind_of, part_type
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2, warps_for
from lowgrad.ir.graph import Node
from lowgrad.ir.index import as_index
from lowgrad.ir.types import TensorType
from lowgrad.ir.walk import needed

# What programs find of each reduction, by part (`running.Running.parts`).
Parts = Mapping[Node, Mapping[str, Param]]


def is_split(space: Space, tile: Tile2, tiling: Tiling) -> bool:
    """Whether there are too few rows to keep a GPU busy, and they are long."""
    few = ceil_div(space.rows, tile.rows) * 2 <= tiling.programs
    return few and space.cols > tiling.split // tile.rows and tile.is_looped


def in_stages(region: Region, space: Space, name: str) -> tuple[Region, Region] | None:
    """If one loop does not find all reductions: those of the first, and the rest; else None."""
    plan = passes(region, space.reductions, online=True)
    if plan.count == 1:
        return None
    found = {}
    for number, node in enumerate(n for n in space.reductions if plan.of[n] == 0):
        dtype = part_type(node, "place")
        type_ = TensorType(node.output.type.shape, dtype)
        found[node] = scratch(f"{name}_row{number}_ptr", type_, node)
    outputs = tuple((n.output, p) for n, p in found.items())
    first = tuple(needed(region.nodes, (v for v, _ in outputs)))
    rest = tuple(
        needed((n for n in region.nodes if n not in found), (v for v, _ in region.outputs))
    )
    inputs = {**region.inputs, **dict(outputs)}
    return (
        replace(region, nodes=first, outputs=outputs),
        replace(region, nodes=rest, inputs=inputs),
    )


def split(
    region: Region, space: Space, tile: Tile2, tiling: Tiling, name: str
) -> tuple[Kernel, ...]:
    """A kernel that reduces pieces of rows, then one that goes on; `name`: of what is between."""
    row_programs = ceil_div(space.rows, tile.rows)
    wanted = max(tiling.programs // row_programs, 2)
    chunk = ceil_div(ceil_div(space.cols, tile.cols), wanted) * tile.cols
    pieces = ceil_div(space.cols, chunk)
    plan = passes(region, space.reductions, online=True)
    parts = _parts(space, plan, pieces, name)
    shared = replace(tile, pieces=pieces, chunk=chunk)
    first = _Pieces(region, space, shared, plan, parts).kernel()
    rest = _rest(region, plan, parts)
    if all(p.type.numel == space.rows for _, p in region.outputs):
        found = space_of(rest)
        return first, RowsWriter(rest, found, tile_of(found, tiling)).kernel()
    shared = replace(shared, is_looped=chunk > tile.cols)
    return first, _Finisher(rest, space, shared, pieces).kernel()


def _parts(space: Space, plan: Passes, pieces: int, name: str) -> Parts:
    parts: dict[Node, dict[str, Param]] = {}
    for number, node in enumerate(space.reductions):
        parts[node] = {}
        for part in kind_of(node, plan).parts:
            type_ = TensorType((space.rows, pieces), part_type(node, part))
            own = f"{name}{number}_{part}_ptr" if part else f"{name}{number}_ptr"
            parts[node][part] = scratch(own, type_, node)
    return parts


def _params(parts: Parts) -> tuple[Param, ...]:
    return tuple(param for of_node in parts.values() for param in of_node.values())


def _rest(region: Region, plan: Passes, parts: Parts) -> Region:
    """`region` with its reductions made of their parts."""
    values = {n: {part: p.value for part, p in of.items()} for n, of in parts.items()}
    replaced: dict[Node, Nodes] = {}
    for node in parts:
        nodes = replaced[node] = Nodes(node.loc)
        nodes.give(kind_of(node, plan).again(nodes, node, plan.online.get(node), values), node)
    rest = rewritten(region, replaced, _params(parts))
    return replace(rest, nodes=tuple(needed(rest.nodes, (v for v, _ in rest.outputs))))


class _Pieces(RowsWriter):
    """The first kernel: the parts of one piece of a row, or of several rows."""

    def __init__(
        self, region: Region, space: Space, tile: Tile2, plan: Passes, parts: Parts
    ) -> None:
        self.plan, self.parts = plan, parts
        # A loop of one turn, too: what it makes can be made relative to what it finds.
        super().__init__(region, space, replace(tile, is_looped=True), _params(parts))

    def kernel(self) -> Kernel:
        """The kernel: one loop, then its parts."""
        at = self.row * self.tile.pieces + self.piece
        for one in self.loop([*self.space.reductions], self.plan):
            self.body.wish, self.body.loc = "", one.node.loc
            params = self.parts[one.node].values()
            for param, found in zip(params, one.partials(), strict=True):
                self.body.store(param.name, at, found, self.body.masks_of(at))
        return self.finished("_pieces")


class _Finisher(RowsWriter):
    """The second kernel: the row's results, then what is stored for each column of a piece."""

    def __init__(self, rest: Region, space: Space, tile: Tile2, pieces: int) -> None:
        self.again = reductions_of(rest)
        super().__init__(rest, space, tile)
        self.pieces = _PieceTile(self, Space(space.rows, pieces, self.again, is_row_major=True))

    def reduce_all(self) -> None:
        """Make the rows' results of the parts."""
        for node in self.again:
            self.pieces.at_once(node)

    def store_of_rows(self, results: Results) -> None:
        """Only one of the programs that share a row stores what it has one of."""
        if results:
            first = self.body.test((Bound(self.piece, None, 1),), name="is_first")
            with self.body.when(first):
                self.store(results)

    def finished(self, suffix: str = "") -> Kernel:
        """The kernel, with the constant of the pieces' lanes."""
        kernel = super().finished(suffix)
        return replace(kernel, constants={**kernel.constants, "PIECES": self.pieces.tile.cols})


class _PieceTile(RowTile):
    """What the pieces of a row were reduced to, side by side, in the kernel of `of`."""

    constant = "PIECES"

    def __init__(self, of: RowTile, space: Space) -> None:
        cols = power_of_2(space.cols)
        self.tile = Tile2(of.tile.rows, cols, is_looped=False, num_warps=warps_for(cols))
        self.region, self.space, self.partials = of.region, space, of.partials
        self.body, self.reader, self.row, self.is_2d = of.body, of.reader, of.row, of.is_2d
        self.programs, self.piece = of.programs, as_index(0)
