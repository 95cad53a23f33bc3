"""Sums of sorted sources: a lane adds up a segment of the list in order, then pieces are joined.

A lane stores a sum wherever the sources for one row of the result end. What goes over the end of a
segment is left in pieces, which a second kernel adds up in their order. Each source is read once,
whatever the number of rows; the order of additions follows from shapes and indices alone.
"""

from __future__ import annotations

import math
from dataclasses import replace

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Assign, Bound, Kernel, Param, Reduce
from lowgrad.codegen.merge_sort import Ordered, halving
from lowgrad.codegen.operands import accumulated
from lowgrad.codegen.reader import Reader
from lowgrad.codegen.scatter_sources import Sources, key_and_end, key_at, load
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2
from lowgrad.ir.graph import Value
from lowgrad.ir.index import Index, Symbol, flatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import TensorType, bool_, int32

# Sources whose loads are under way at once, in a lane that adds them up one after the other.
UNROLLED = 4
# Columns of a program that adds up segments, and of one that adds up pieces; pieces at a time.
MOST_COLS = 256
JOINED_COLS = 128
JOINED_TILE = 4096
# Programs that look for pieces, about: most find none, and are not to cost more than the sums.
JOINING = 1 << 14
# Segments of rows of fewer columns may be longer by this.
NARROW, LONGER = 32, 8


def segment_sums(case: Sources, listed: Ordered, tiling: Tiling) -> tuple[Kernel, ...]:
    """The kernels that add the listed sources to rows of the result, which begin as the base."""
    return _Sums(case, listed, tiling).kernels()


def _length(count: int, n_cols: int, tiling: Tiling) -> int:
    """The length of segments: short ones are many lanes, and many programs for their pieces."""
    longest = tiling.segment * (LONGER if n_cols < NARROW else 1)
    fair = power_of_2(count * ceil_div(n_cols, JOINED_COLS) // JOINING)
    return max(min(longest, max(fair, 8)), UNROLLED)


class _Sums:
    """The two kernels that add up the sorted sources."""

    def __init__(self, case: Sources, listed: Ordered, tiling: Tiling) -> None:
        self.case, self.listed, self.region = case, listed, case.region
        self.dtype = accumulated(case.base.type.dtype)
        self.zero = 0.0 if self.dtype.is_floating_point else 0
        self.length = _length(case.count, case.n_cols, tiling)
        self.segments = ceil_div(case.count, self.length)
        type_ = TensorType((self.segments, case.n_cols), self.dtype)
        # Of a segment, the sum for the place that it ends on and does not finish, if it began it,
        # and the sum for the place that an earlier one began.
        self.begun, self.continued = (
            Param(f"{name}_ptr", type_, "scratch", Value(type_, name))
            for name in ("begun", "continued")
        )
        self.params = (*listed.params, self.begun, self.continued)

    def kernels(self) -> tuple[Kernel, ...]:
        """The second only if there are several segments."""
        return (self._segments(), *([self._joined()] if self.segments > 1 else []))

    def _counted(self, made: Kernel, rows: int, flops: int) -> Kernel:
        """`made`, which reads so many rows of the base at most and writes as many of the result."""
        return replace(made, flops=flops, touched=self.case.rows_touched(made, rows))

    # --- Segments ---

    def _segments(self) -> Kernel:
        case, body = self.case, self.region.body(self.params)
        reader = self.region.reader(body)
        cols = min(power_of_2(case.n_cols), MOST_COLS)
        # Lanes take columns of 128 bits each, if there are as many.
        vector = 16 // case.base.type.dtype.itemsize
        rows = min(power_of_2(max(self.segments, 2)), max(MOST_COLS // max(cols, vector), 1))
        blocks = ceil_div(self.segments, rows), ceil_div(case.n_cols, cols)
        pid = body.program_id(math.prod(blocks))
        # No mask: lanes of segments that do not exist are past the end of the list.
        segment = body.add_lanes(
            "segments", max(blocks[0] * rows, 2), pid // blocks[1] * rows,
            "SEGMENTS", rows, 0, "[:, None]", total=blocks[0] * rows,
        )  # fmt: skip
        col = body.add_lanes(
            "cols", case.n_cols, pid % blocks[1] * cols, "COLS", cols, 1, "[None, :]", "col_mask"
        )
        first = body.assign("first", segment * self.length)
        total = body.fill(self.zero, self.dtype, ("SEGMENTS", "COLS"), name="total")
        is_open = body.fill(0, int32, ("SEGMENTS", "1"), name="is_open")
        before = key_at(body, self.listed, first - 1, case.count, 0)
        opening = body.let(
            "eq", before, key_at(body, self.listed, first, case.count), dtype=bool_, name="opening"
        )
        body.update(is_open, body.let("cast", opening, dtype=int32))
        with body.loop("turn", self.length, "STEP") as turn:
            self._steps(body, reader, first + turn, segment, col, (total, is_open))
        self._left_over(body, first, segment, col, total, is_open)
        constants = {"SEGMENTS": rows, "COLS": cols, "STEP": UNROLLED}
        made = self.region.kernel(
            body, constants, math.prod(blocks), max(MOST_COLS // vector // 32, 1),
            more=self.params, suffix="_segments",
        )  # fmt: skip
        return self._counted(made, case.count, flops=case.count * case.n_cols)

    def _steps(
        self,
        body: Body,
        reader: Reader,
        first: Index,
        segment: Index,
        col: Index,
        carried: tuple[Tile, Tile],
    ) -> None:
        """Load several sources, then add them one after the other."""
        case = self.case
        loaded = []
        for step in range(UNROLLED):
            key, is_end = key_and_end(body, self.listed, first + step, case.count)
            mask = body.test((Bound(first + step, None, case.count),), name="is_listed")
            place = load(body, self.listed.places, first + step, (mask,), 0, "source")
            value = reader.value(case.src, case.at_src(first + step, place, col), (mask,))
            x = reader.as_tile(value, case.src.type.dtype)
            x = body.let("cast", x, dtype=self.dtype)
            row = case.test_of(body, key, is_end, name="is_row_end")
            base = reader.as_tile(
                reader.value(case.base, case.at_base(key, col), (row,)), case.base.type.dtype
            )
            loaded.append((key, is_end, row, x, base))
        total, is_open = carried
        for key, is_end, row, x, base in loaded:
            body.wish, body.loc = "", case.node.loc
            body.update(total, body.let("add", total, x, dtype=self.dtype))
            self._store_end(body, (key, row), base, segment, col, carried)
            zeroed = body.let("where", is_end, self.zero, total, dtype=self.dtype, name="rest")
            body.update(total, body.broadcast(zeroed, ("SEGMENTS", "COLS"), self.dtype))
            body.update(is_open, body.let("where", is_end, 0, is_open, dtype=int32, name="open"))

    def _store_end(
        self,
        body: Body,
        end: tuple[Tile, str],
        base: Tile,
        segment: Index,
        col: Index,
        carried: tuple[Tile, Tile],
    ) -> None:
        """Where the sources for a row end, store it; a piece of it, if others came before."""
        case, (total, is_open) = self.case, carried
        key, row = end
        result = body.let("add", base, total, dtype=case.base.type.dtype)
        flat = flatten(case.at_base(key, col), case.base.type.shape)
        masks = (*body.masks_of(col), row)
        whole, rest = self._split(body, is_open)
        body.store(case.out.name, flat, result, (*masks, whole))
        self._store_piece(body, self.continued, segment, col, total, (row, rest))

    def _left_over(
        self, body: Body, first: Index, segment: Index, col: Index, total: Tile, is_open: Tile
    ) -> None:
        """Where the sources for a row go on in the next segment, leave a piece of it."""
        next_ = body.test((Bound(first + self.length, None, self.case.count),), name="has_next")
        last, following = (
            key_at(body, self.listed, first + at, self.case.count)
            for at in (self.length - 1, self.length)
        )
        goes_on = body.let("eq", last, following, dtype=bool_, name="goes_on")
        whole, rest = self._split(body, is_open)
        for param, which in ((self.begun, whole), (self.continued, rest)):
            self._store_piece(body, param, segment, col, total, (next_, goes_on.name, which))

    def _split(self, body: Body, is_open: Tile) -> tuple[str, str]:
        """Tests of lanes whose sum began in this segment, and of the others."""
        # A new name each time: a test of what a loop carries may not be used again.
        now = body.fresh("opened")
        body.add(
            Assign(now, Index(((Symbol(is_open.name, 2), 1),), 0)), body.lanes_of(is_open.name)
        )
        flag = Index(((Symbol(now, 2), 1),), 0)
        return (
            body.test((Bound(flag, 0, 1),), name="is_whole"),
            body.test((Bound(flag, 1, 2),), name="is_piece"),
        )

    def _store_piece(
        self,
        body: Body,
        param: Param,
        segment: Index,
        col: Index,
        total: Tile,
        masks: tuple[str, ...],
    ) -> None:
        flat = segment * self.case.n_cols + col
        body.store(param.name, flat, total, (*body.masks_of(col), *masks))

    # --- Pieces ---

    def _joined(self) -> Kernel:
        """A program for each segment, which adds up the pieces of the row that it ends on."""
        case, body = self.case, self.region.body(self.params)
        reader = self.region.reader(body)
        cols = min(power_of_2(case.n_cols), JOINED_COLS)
        pieces = min(power_of_2(self.segments), JOINED_TILE // max(cols, 4))
        blocks = ceil_div(case.n_cols, cols)
        pid = body.program_id((self.segments - 1) * blocks)
        segment = body.assign("segment", pid // blocks)
        last = segment * self.length + self.length - 1
        key, following, before = (
            key_at(body, self.listed, at, case.count, low)
            for at, low in ((last, None), (last + 1, None), (last - self.length, 0))
        )
        goes_on = body.let("eq", key, following, dtype=bool_, name="goes_on")
        began = body.let("ne", key, before, dtype=bool_, name="began")
        with body.when(case.test_of(body, key, goes_on, began, name="is_first_piece")):
            count = self._pieces_after(body, segment, key)
            col = body.add_lanes(
                "cols", case.n_cols, pid % blocks * cols, "COLS", cols, 1, "[None, :]", "col_mask"
            )
            flat = segment * case.n_cols + col
            total = load(body, self.begun, flat, body.masks_of(col), 0, "begun")
            total = self._with_pieces(body, total, segment, count, col, pieces)
            base = reader.tile(case.base, case.at_base(key, col))
            result = body.let("add", base, total, dtype=case.base.type.dtype)
            flat = flatten(case.at_base(key, col), case.base.type.shape)
            body.store(case.out.name, flat, result, body.masks_of(col))
        made = self.region.kernel(
            body, {"COLS": cols, "PIECES": pieces}, (self.segments - 1) * blocks,
            8 if cols * pieces == JOINED_TILE else 4, more=self.params, suffix="_pieces",
        )  # fmt: skip
        return self._counted(made, self.segments, flops=self.segments * case.n_cols)

    def _pieces_after(self, body: Body, segment: Index, key: Tile) -> Tile:
        """How many segments after `segment` begin with `key`, having begun before."""
        found = body.fill(0, int32, name="more")
        with halving(body, found, power_of_2(self.segments)) as reach:
            ahead = segment + Index(((Symbol(reach.name, self.segments + 1), 1),), 0)
            first = key_at(body, self.listed, ahead * self.length, self.case.count)
            same = body.let("eq", first, key, dtype=bool_, name="is_same")
            body.update(found, body.let("where", same, reach, found, dtype=int32))
        return found

    def _with_pieces(
        self, body: Body, first: Tile, segment: Index, count: Tile, col: Index, pieces: int
    ) -> Tile:
        """`first` and the pieces of `count` segments after it, many at a time."""
        limit = Index(((Symbol(count.name, self.segments + 1), 1),), 0)
        # One column is no axis: its sum is a scalar.
        axis, shape = (0, ("1", "COLS")) if self.case.n_cols > 1 else (None, ())
        total = body.fill(self.zero, self.dtype, shape, name="total")
        body.update(total, first)
        with body.loop("start", self.segments, "PIECES", limits=(self.segments, limit)) as start:
            # No mask: those past the last are past `count`, too.
            most = ceil_div(self.segments, pieces) * pieces
            piece = body.add_lanes("pieces", most, start, "PIECES", pieces, 0, "[:, None]")
            ahead = segment + 1 + piece
            here = body.test((Bound(piece - limit, None, 0),), name="is_piece")
            masks = (here, *body.masks_of(col))
            flat = ahead * self.case.n_cols + col
            x = load(body, self.continued, flat, masks, 0, "continued")
            name = body.fresh("added")
            lanes = body.lanes_of(col)
            keep = axis is not None
            body.add(Reduce(name, "sum", x.name, axis, keep, self.dtype, (), self.zero), lanes)
            added = Tile(body, name, self.dtype)
            body.update(total, body.let("add", total, added, dtype=self.dtype))
        return total
