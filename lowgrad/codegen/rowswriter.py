"""A kernel over rows: its reductions, at once or in loops over the columns, then its stores."""

from __future__ import annotations

from lowgrad.codegen.kernel import Kernel, Param
from lowgrad.codegen.online import Passes, passes
from lowgrad.codegen.reader import At
from lowgrad.codegen.region import flat_place, places
from lowgrad.codegen.rowtile import RowTile
from lowgrad.codegen.running import Running, running
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, flatten, unflatten
from lowgrad.ir.places import element
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import Shape

# Where each tile is stored, and at which flat index.
Results = list[tuple[Param, Index, Tile]]


class RowsWriter(RowTile):
    """Writes one kernel down."""

    def kernel(self) -> Kernel:
        """The kernel: reductions, then stores."""
        self.reduce_all()
        self.store_outputs()
        return self.finished()

    def finished(self, suffix: str = "") -> Kernel:
        """The kernel of the statements so far."""
        constants = {"ROWS": self.tile.rows} if self.is_2d else {}
        return self.region.kernel(
            self.body,
            {**constants, "BLOCK": self.tile.cols},
            self.programs,
            self.tile.num_warps,
            more=self.partials,
            suffix=suffix,
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
                    self.at_once(node)

    def _looped(self, nodes: list[Node], plan: Passes) -> None:
        all_of_them = self.loop(nodes, plan)
        for one in all_of_them:
            self.body.wish, self.body.loc = "", one.node.loc
            self.give(one.node, one.result())

    def loop(self, nodes: list[Node], plan: Passes) -> list[Running]:
        """A loop over the columns that makes the reductions `nodes`."""
        all_of_them = running(self, nodes, plan)
        with self.columns() as cols:
            # A running maximum is read, by what is relative to it, before it rises.
            for one in sorted(all_of_them, key=lambda one: one.node not in plan.online):
                one.add(cols)
        return all_of_them

    # --- Stores ---

    def store_outputs(self) -> None:
        """Store the region's outputs: those of the space's size, those of one number a row."""
        by_row = [o for o in self.region.outputs if o[1].type.numel == self.space.rows]
        full = [o for o in self.region.outputs if o[1].type.numel != self.space.rows]
        # Full ones may be stored over an input, of which a row may want a single element.
        results = self._results(by_row, self._where(None), (self.row,), (self.space.rows,))
        if full:
            with self.columns() as cols:
                found = self._where(cols)
                node = self.space.reductions[0]
                shape = node.inputs[0].type.shape
                self.store(self._results(full, found, element(node, self.row, cols), shape))
        self.store_of_rows(results)

    def store_of_rows(self, results: Results) -> None:
        """Store what each row has one of."""
        self.store(results)

    def _results(
        self,
        outputs: list[tuple[Value, Param]],
        found: dict[Value, At],
        at: At,
        shape: Shape,
    ) -> Results:
        made = []
        for value, param in outputs:
            place = flat_place(value, at, shape, found)
            made.append((param, flatten(place, param.type.shape), self.reader.tile(value, place)))
        return made

    def store(self, results: Results) -> None:
        """Store tiles where they belong."""
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
