"""The rows skeleton: reductions over the same dims, and pointwise work before and after them.

The reduced space is seen as R rows of C columns: row r and column c are the numbers, in row-major
order, of an element's kept and reduced dims. A program owns one row, or several short ones, holds
all columns at once, or loops over blocks of them. Few long rows are cut into pieces: a first kernel
reduces each piece, a second one the pieces, always in the same order.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from lowgrad.codegen.kernel import Kernel, Param
from lowgrad.codegen.online import Passes, passes
from lowgrad.codegen.partials import partial_of, with_partials
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.reader import At, Pulled, Reader
from lowgrad.codegen.region import Region, flat_place, places
from lowgrad.codegen.rowspace import Space, Tile2, space_of, tile_of
from lowgrad.codegen.rowtile import PLACES, RowTile, identity_of
from lowgrad.codegen.running import running
from lowgrad.codegen.tiling import Tiling, ceil_div
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, flatten, unflatten
from lowgrad.ir.places import element
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import Shape, int32


def rows(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel, or two for few long rows; none if there are no elements."""
    outputs = tuple(o for o in region.outputs if o[1].type.numel)
    region = replace(region, outputs=outputs)
    space = space_of(region)
    if not outputs:
        return ()
    if space.cols <= 1:
        return _trivial(region, space, tiling)
    tile = tile_of(space, tiling)
    if _is_split(region, space, tile, tiling):
        return _split(region, space, tile, tiling)
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


def _is_split(region: Region, space: Space, tile: Tile2, tiling: Tiling) -> bool:
    is_plain = all(n.op.name not in PLACES for n in space.reductions)
    only_rows = all(p.type.numel == space.rows for _, p in region.outputs)
    few = ceil_div(space.rows, tile.rows) * 2 <= tiling.programs
    long = space.cols > tiling.split // tile.rows and tile.is_looped
    one_step = passes(region, space.reductions, online=False).count == 1
    return is_plain and only_rows and few and long and one_step


# --- One kernel --------------------------------------------------------------------------------


class RowsWriter(RowTile):
    """Writes one kernel down; `partials` are what it stores instead of outputs, if any."""

    def kernel(self) -> Kernel:
        """The kernel: reductions, then stores."""
        self.reduce_all()
        if self.partials:
            self._store_partials()
        else:
            self.store_outputs()
        constants = {"ROWS": self.tile.rows} if self.is_2d else {}
        return self.region.kernel(
            self.body,
            {**constants, "BLOCK": self.tile.cols},
            self.programs,
            self.tile.num_warps,
            more=self.partials,
            suffix="_pieces" if self.partials else "",
        )

    # --- Reductions ---

    def reduce_all(self) -> None:
        """Make the results of all reductions, for the stores to read."""
        reductions, is_looped = self.space.reductions, self.tile.is_looped
        plan = passes(self.region, reductions, online=is_looped)
        for number in range(plan.count):
            nodes = [n for n in reductions if plan.of[n] == number]
            if is_looped:
                self._looped(nodes, plan)
            else:
                for node in nodes:
                    self._at_once(node)

    def _at_once(self, node: Node) -> None:
        with self.columns() as cols:
            x = self.operand(node, cols)
            masks = self.tail()
            if node.op.name in PLACES:
                result = self.place_of(node, x, self.body.position(cols, int32), masks)
            else:
                result = self.reduce(node, x, masks)
        self.give(node, result)

    def _looped(self, nodes: list[Node], plan: Passes) -> None:
        all_of_them = running(self, nodes, dict(plan.online))
        with self.columns() as cols:
            # A running maximum is read, by what is relative to it, before it rises.
            for one in sorted(all_of_them, key=lambda one: one.node not in plan.online):
                one.add(cols)
        for one in all_of_them:
            self.body.wish, self.body.loc = "", one.node.loc
            self.give(one.node, one.result())

    # --- Stores ---

    def store_outputs(self) -> None:
        by_row = [o for o in self.region.outputs if o[1].type.numel == self.space.rows]
        full = [o for o in self.region.outputs if o[1].type.numel != self.space.rows]
        # Full ones may be stored over an input, of which a row may want a single element.
        results = self._results(by_row, self._where(None), (self.row,), (self.space.rows,))
        if full:
            with self.columns() as cols:
                found = self._where(cols)
                node = self.space.reductions[0]
                shape = node.inputs[0].type.shape
                self._store(self._results(full, found, element(node, self.row, cols), shape))
        self._store(results)

    def _results(
        self,
        outputs: list[tuple[Value, Param]],
        found: dict[Value, At],
        at: At,
        shape: Shape,
    ) -> list[tuple[Param, Index, Tile]]:
        made = []
        for value, param in outputs:
            place = flat_place(value, at, shape, found)
            made.append((param, flatten(place, param.type.shape), self.reader.tile(value, place)))
        return made

    def _store(self, results: list[tuple[Param, Index, Tile]]) -> None:
        for param, flat, result in results:
            self.body.store(param.name, flat, result, self.body.masks_of(flat))

    def _where(self, cols: Index | None) -> dict[Value, At]:
        seeds: dict[Value, At] = {}
        for node in self.space.reductions:
            if cols is not None:
                seeds[node.inputs[0]] = element(node, self.row, cols)
            else:
                seeds[node.output] = unflatten(self.row, node.output.type.shape)
        return places(self.region.nodes, seeds)

    def _store_partials(self) -> None:
        for node, param in zip(self.space.reductions, self.partials, strict=True):
            at = self.row * self.tile.pieces + self.piece
            result = self.reader.given[node.output](unflatten(self.row, node.output.type.shape))
            self.body.store(param.name, at, result, self.body.masks_of(at))


# --- Two kernels -------------------------------------------------------------------------------


def _split(region: Region, space: Space, tile: Tile2, tiling: Tiling) -> tuple[Kernel, ...]:
    """A kernel that reduces pieces of rows, then one that reduces their results and goes on."""
    row_programs = ceil_div(space.rows, tile.rows)
    wanted = max(tiling.programs // row_programs, 2)
    chunk = ceil_div(ceil_div(space.cols, tile.cols), wanted) * tile.cols
    pieces = ceil_div(space.cols, chunk)
    partials = tuple(
        partial_of(n, f"pieces{i}_ptr", (space.rows, pieces))
        for i, n in enumerate(space.reductions)
    )
    tile = replace(tile, pieces=pieces, chunk=chunk, is_looped=chunk > tile.cols)
    first = RowsWriter(region, space, tile, partials).kernel()
    rest = with_partials(region, space.reductions, partials, dim=1)
    return (first, *rows(rest, replace(tiling, split=space.rows * pieces)))
