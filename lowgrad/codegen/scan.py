"""The scan skeleton: running sums and sorting, along lines of the input.

Sorting counts, for each element, those that come before it: its place. That is stable by
construction and the same on every device; the work grows with the square of the line.
"""

from __future__ import annotations

import math

from lowgrad.codegen.kernel import CumSum, Kernel, Reduce
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.reader import At, Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling, power_of_2, warps_for
from lowgrad.ir.graph import Node
from lowgrad.ir.index import Index, Symbol, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_, float64, int32, int64


def scan(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel, a program a line; none if there are no elements."""
    if region.outputs[0][1].type.numel == 0:
        return ()
    (node,) = region.nodes
    if node.inputs[0].type.shape[node.attrs["dim"]] == 1:
        return pointwise_kernel(region, tiling, lambda reader: _unchanged(reader, node))
    if node.op.name == "cumsum":
        return (_Line(region, tiling).running_sums(),)
    return (_Line(region, tiling).sorted(),)


def _unchanged(reader: Reader, node: Node) -> None:
    """Results for lines of one element: the element, and its place."""
    (x,) = node.inputs
    reader.given[node.outputs[0]] = lambda at: reader.value(x, at)
    for places in node.outputs[1:]:
        reader.given[places] = lambda at: 0


class _Line:
    """Writes one kernel down, for the line of elements along `dim` that a program owns."""

    def __init__(self, region: Region, tiling: Tiling) -> None:
        self.region = region
        (self.node,) = region.nodes
        (self.x,) = self.node.inputs
        self.dim: int = self.node.attrs["dim"]
        shape = self.x.type.shape
        self.size = shape[self.dim]
        self.others = tuple(n for d, n in enumerate(shape) if d != self.dim)
        self.block = min(power_of_2(self.size), tiling.scan)
        self.body = region.body()
        self.reader = region.reader(self.body)

    def _at(self, row: Index, col: Index) -> At:
        others = list(unflatten(row, self.others))
        return (*others[: self.dim], col, *others[self.dim :])

    def _kernel(self, programs: int, num_warps: int) -> Kernel:
        constants = {"BLOCK": self.block}
        return self.region.kernel(self.body, constants, programs, num_warps)

    # --- cumsum ---

    def running_sums(self) -> Kernel:
        """Blocks of the line in turn; the sum so far is carried from each to the next."""
        body = self.body
        row = body.program_id(math.prod(self.others), "row")
        dtype = self.x.type.dtype
        # f64, as the op says: an f32 sum of a long line is all rounding.
        wide = float64 if dtype.is_floating_point else int64
        so_far = body.fill(0.0 if wide is float64 else 0, wide, name="so_far")
        (_, param), *_ = self.region.outputs
        with body.loop("start", self.size, "BLOCK") as start:
            cols = body.add_lanes("cols", self.size, start, "BLOCK", self.block)
            at = self._at(row, cols)
            x = self.reader.tile(self.x, at)
            body.wish, body.loc = "", self.node.loc
            x = body.let("cast", x, dtype=wide)
            (mask,) = body.masks_of(cols) or ("",)
            if mask:
                inside = Tile(body, mask, bool_)
                x = body.let("where", inside, x, 0.0 if wide is float64 else 0, dtype=wide)
            sums = Tile(body, body.fresh("cumsum"), wide)
            body.add(CumSum(sums.name, x.name, 0), body.lanes_of(x.name))
            total = Tile(body, body.fresh("total"), wide)
            zero = 0.0 if wide is float64 else 0
            body.add(Reduce(total.name, "sum", x.name, 0, False, wide, (), zero))
            result = body.let("add", sums, so_far, dtype=wide)
            flat = flatten(at, self.x.type.shape)
            body.store(param.name, flat, result, body.masks_of(flat))
            body.update(so_far, body.let("add", so_far, total, dtype=wide))
        return self._kernel(math.prod(self.others), warps_for(self.block))

    # --- sort ---

    def sorted(self) -> Kernel:
        """Count who comes before each element of a block, then store it at that place."""
        self.block = min(self.block, 64)
        body = self.body
        blocks = -(-self.size // self.block)
        programs = math.prod(self.others) * blocks
        pid = body.program_id(programs)
        row = body.assign("row", pid // blocks)
        cols = body.add_lanes(
            "cols", self.size, pid % blocks * self.block,
            "BLOCK", self.block, 0, "[:, None]", "col_mask",
        )  # fmt: skip
        x = self.reader.tile(self.x, self._at(row, cols))
        rank = body.fill(0, int32, ("BLOCK", "1"), name="rank")
        with body.loop("start", self.size, "BLOCK") as start:
            others = body.add_lanes(
                "others", self.size, start, "BLOCK", self.block, 1, "[None, :]", "others_mask"
            )
            self._count(x, cols, self._at(row, others), others, rank)
        self._store_sorted(x, rank, row, cols)
        return self._kernel(programs, 4)

    def _count(self, x: Tile, cols: Index, at: At, others: Index, rank: Tile) -> None:
        body = self.body
        y = self.reader.tile(self.x, at)
        body.wish, body.loc = "", self.node.loc
        before = self._before(y, x)
        same = body.let("eq", y, x, dtype=bool_)
        if x.dtype.is_floating_point:
            both = body.let("and", _isnan(y), _isnan(x), dtype=bool_, name="both_nan")
            same = body.let("or", same, both, dtype=bool_, name="same")
        # Equal ones keep their order.
        places = [body.position(c, int32) for c in (others, cols)]
        is_earlier = body.let("lt", *places, dtype=bool_, name="is_earlier")
        tie = body.let("and", same, is_earlier, dtype=bool_, name="tie")
        before = body.let("or", before, tie, dtype=bool_, name="is_before")
        count = body.let("cast", before, dtype=int32, name="counted")
        lane = [v for v in body.lanes.values() if v.axis == 1][-1]
        masks = (lane.mask,) if lane.mask else ()
        name = body.fresh("more")
        body.add(Reduce(name, "sum", count.name, 1, True, int32, masks, 0))
        body.update(rank, body.let("add", rank, Tile(body, name, int32), dtype=int32))

    def _before(self, y: Tile, x: Tile) -> Tile:
        """Where y comes before x, ties aside. NaN counts as larger than everything."""
        body = self.body
        descending: bool = self.node.attrs["descending"]
        before = body.let("gt" if descending else "lt", y, x, dtype=bool_)
        if not x.dtype.is_floating_point:
            return before
        nan, number = (y, x) if descending else (x, y)
        is_number = body.let("eq", number, number, dtype=bool_)
        by_nan = body.let("and", _isnan(nan), is_number, dtype=bool_, name="by_nan")
        return body.let("or", before, by_nan, dtype=bool_)

    def _store_sorted(self, x: Tile, rank: Tile, row: Index, cols: Index) -> None:
        body = self.body
        place = Index(((Symbol(rank.name, self.size), 1),), 0)
        flat = flatten(self._at(row, place), self.x.type.shape)
        masks = body.masks_of(cols)
        for (_, param), result in zip(
            self.region.outputs, (x, body.position(cols, int64)), strict=True
        ):
            body.store(param.name, flat, result, masks)


def _isnan(x: Tile) -> Tile:
    return x.block.let("isnan", x, dtype=bool_)
