"""The scatter skeleton: every element of the result looks for the sources that are meant for it.

That is for few sources (`Tiling.direct`); more are sorted first (`sorted_scatter`). No two programs
write to one place, so there are no atomics and no race: a program owns a tile of the result and
goes through the indices in order. Same inputs, same bits.
"""

from __future__ import annotations

import math

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Bound, Kernel, Reduce
from lowgrad.codegen.reader import At, Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.sorted_scatter import sorted_scatter
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2, warps_for
from lowgrad.ir.index import Index, Symbol, as_index, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_, int64


def scatter(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel, or those of a sort and what follows it; none if there are no elements."""
    if region.outputs[0][1].type.numel == 0:
        return ()
    (node,) = region.nodes
    index, src = (v.type for v in node.inputs[1:])
    each = index.numel if node.op.name == "index_add" else index.shape[node.attrs["dim"]]
    if src.numel and each > max(tiling.direct, 1):
        return sorted_scatter(region, tiling)
    return (_Scatter(region, tiling).kernel(),)


class _Scatter:
    """Writes one kernel down. Rows are places along `dim`, columns all other elements."""

    def __init__(self, region: Region, tiling: Tiling) -> None:
        self.region = region
        (self.node,) = region.nodes
        self.dim: int = self.node.attrs["dim"]
        self.base, self.index, self.src = self.node.inputs
        self.n_rows = self.base.type.shape[self.dim]
        others = [n for d, n in enumerate(self.base.type.shape) if d != self.dim]
        self.others = tuple(others)
        self.n_cols = math.prod(others)
        self.tile_cols = min(power_of_2(self.n_cols), max(tiling.tile // 16, 1))
        self.tile_rows = min(power_of_2(self.n_rows), max(tiling.tile // self.tile_cols, 1))
        self.sources = min(power_of_2(self.index.type.numel), max(tiling.scan // 8, 4))
        self.body: Body = region.body()
        self.reader: Reader = region.reader(self.body)

    def kernel(self) -> Kernel:
        """The kernel: the tile's elements, a loop over the sources, a store."""
        blocks = ceil_div(self.n_rows, self.tile_rows), ceil_div(self.n_cols, self.tile_cols)
        body = self.body
        pid = body.program_id(math.prod(blocks))
        first_row = body.assign("first_row", pid // blocks[1] * self.tile_rows)
        row = body.add_lanes(
            "rows", self.n_rows, first_row, "ROWS", self.tile_rows, 0, "[:, None]", "row_mask"
        )
        first_col = pid % blocks[1] * self.tile_cols
        col = body.add_lanes(
            "cols", self.n_cols, first_col, "COLS", self.tile_cols, 1, "[None, :]", "col_mask"
        )
        at = self._at(row, col)
        total = self._total(at)
        constants = {"ROWS": self.tile_rows, "COLS": self.tile_cols}
        if self.index.type.numel and self.node.op.name == "index_add":
            if self.sources > 1:
                constants["SOURCES"] = self.sources
            self._add_slices(total, row, col, first_row)
        elif self.index.type.numel:
            self._take_elements(total, row, col)
        self._store(total, at)
        warps = warps_for(self.tile_rows * self.tile_cols)
        return self.region.kernel(body, constants, math.prod(blocks), warps)

    def _at(self, row: Index, col: Index) -> At:
        others = list(unflatten(col, self.others))
        return (*others[: self.dim], row, *others[self.dim :])

    def _total(self, at: At) -> Tile:
        """What the loop carries. Sums of slices start at 0, others at the base's elements."""
        body, dtype = self.body, self.base.type.dtype
        zero = 0.0 if dtype.is_floating_point else 0
        total = body.fill(False if dtype is bool_ else zero, dtype, ("ROWS", "COLS"), name="total")
        if self.node.op.name != "index_add":
            body.update(total, body.broadcast(self._base(at), ("ROWS", "COLS"), dtype))
        return total

    def _base(self, at: At) -> Tile:
        self.body.wish, self.body.loc = "", self.node.loc
        return self.reader.tile(self.base, at)

    # --- Slices: one index for a whole slice of the source ---

    def _add_slices(self, total: Tile, row: Index, col: Index, first_row: Index) -> None:
        """Look at many indices at a time, and one by one only where some are for these rows."""
        body, count = self.body, self.index.type.numel
        if count == 1:
            self._add_slice(total, row, col, first_row, as_index(0))
            return
        with body.loop("start", count, "SOURCES") as start:
            # In no tile with the rows and columns, hence no axis of theirs.
            sources = body.add_lanes(
                "sources", count, start, "SOURCES", self.sources, 2, mask="source_mask"
            )
            near = self._is_mine(self._places(sources, ()), first_row, "is_mine")
            found = body.fresh("found")
            masks = body.masks_of(sources)
            body.add(Reduce(found, "any", near, 0, False, bool_, masks, False))
            with body.when(found), body.loop("turn", self.sources, "1") as turn:
                source = body.assign("source", start + turn)
                self._add_slice(total, row, col, first_row, source)

    def _add_slice(
        self, total: Tile, row: Index, col: Index, first_row: Index, source: Index
    ) -> None:
        count = self.index.type.numel
        is_last_block_full = count % self.sources == 0
        tail = () if is_last_block_full else (self.body.test((Bound(source, None, count),)),)
        place = self._places(source, tail)
        guard = self._is_mine(place, first_row, "is_mine")
        others = list(unflatten(col, self.others))
        at = unflatten(source, self.index.type.shape)
        at_src = (*others[: self.dim], *at, *others[self.dim :])
        self._take(total, row, place, at_src, (guard,))

    def _places(self, source: Index, guards: tuple[str, ...]) -> Tile:
        """The indices of some sources; -1 where there is none."""
        return self._tile_of_index(unflatten(source, self.index.type.shape), guards)

    def _is_mine(self, place: Tile, first_row: Index, wish: str) -> str:
        """The test that a place is among this program's rows."""
        expr = Index(((Symbol(place.name, max(self.n_rows, 2)), 1),), 0) - first_row
        return self.body.test((Bound(expr, 0, self.tile_rows),), name=wish)

    # --- Elements: an index for each ---

    def _take_elements(self, total: Tile, row: Index, col: Index) -> None:
        count = self.index.type.shape[self.dim]
        with self.body.loop("source", count, "1") as source:
            others = list(unflatten(col, self.others))
            at_src = (*others[: self.dim], source, *others[self.dim :])
            guards = self._inside(at_src)
            place = self._tile_of_index(at_src, guards)
            self._take(total, row, place, at_src, guards)

    def _inside(self, at: At) -> tuple[str, ...]:
        """The test that `at` is an element of the index, which may be smaller than the result."""
        bounds = [
            Bound(i, None, n)
            for d, (i, n) in enumerate(zip(at, self.index.type.shape, strict=True))
            if d != self.dim and n < self.base.type.shape[d]
        ]
        return (self.body.test(tuple(bounds)),) if bounds else ()

    def _tile_of_index(self, at: At, guards: tuple[str, ...]) -> Tile:
        # -1 where there is no source: no row has that number.
        self.reader.other = -1
        place = self.reader.as_tile(self.reader.value(self.index, at, guards), int64)
        self.reader.other = None
        return place

    def _take(
        self, total: Tile, row: Index, place: Tile, at_src: At, guards: tuple[str, ...]
    ) -> None:
        body, dtype = self.body, self.base.type.dtype
        body.wish, body.loc = "", self.node.loc
        src = self.reader.as_tile(self.reader.value(self.src, at_src, guards), dtype)
        body.wish, body.loc = "", self.node.loc
        body.wish = "row"
        rows = body.position(row, int64) if row.terms else self.reader.as_tile(0, int64)
        body.wish = ""
        hit = body.let("eq", place, rows, dtype=bool_, name="hit")
        new = src if self.node.op.name == "scatter" else body.let("add", total, src, dtype=dtype)
        chosen = body.let("where", hit, new, total, dtype=dtype)
        body.update(total, body.broadcast(chosen, ("ROWS", "COLS"), dtype))

    def _store(self, total: Tile, at: At) -> None:
        (_, param), *_ = self.region.outputs
        result = total
        if self.node.op.name == "index_add":
            base = self._base(at)
            result = self.body.let("add", base, total, dtype=self.base.type.dtype)
        flat = flatten(at, self.base.type.shape)
        self.body.store(param.name, flat, result, self.body.masks_of(flat))
