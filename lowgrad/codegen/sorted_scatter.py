"""Scatters of many sources: sort them by where they go, then go through them side by side.

A scatter-add cuts the sorted list into segments. A lane adds up a segment in order, and stores the
sum wherever the sources for one place end. What goes over the end of a segment is left in pieces,
which a last kernel adds up in their order. Each source is read once, whatever the number of places,
and the same shapes give the same order of additions: same inputs, same bits.
"""

from __future__ import annotations

import math
from dataclasses import replace

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Assign, Bound, Kernel, Load, Param, Reduce
from lowgrad.codegen.merge_sort import Keys, Ordered, halving, ordered
from lowgrad.codegen.operands import accumulated
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.reader import At, Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2, warps_for
from lowgrad.ir.graph import Value
from lowgrad.ir.index import INT32_LIMIT, Index, Symbol, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import TensorType, bool_, int32, int64

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


def sorted_scatter(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """The kernels of an index_add, scatter_add or scatter of two or more sources.

    The base is copied first, and places that sources go to are then written once more.
    """
    case = _Case(region)
    sort, listed = ordered(region, case.keys(), tiling)
    kernels = (*sort, *case.copied(tiling))
    if case.node.op.name == "scatter":
        return (*kernels, case.last_ones(listed, tiling))
    return (*kernels, *_Sums(case, listed, tiling).kernels())


class _Case:
    """What the three scatters are here: sources with keys, the rows of the base that they go to.

    A source is an element of the index. Its row has as many columns as it brings elements.
    """

    def __init__(self, region: Region) -> None:
        self.region = region
        (self.node,) = region.nodes
        self.dim: int = self.node.attrs["dim"]
        self.base, self.index, self.src = self.node.inputs
        self.has_slices = self.node.op.name == "index_add"
        shape = self.base.type.shape
        rest = [n for d, n in enumerate(shape) if d != self.dim]
        self.others = tuple(rest) if self.has_slices else ()
        self.n_cols = math.prod(self.others)
        self.n_rows = shape[self.dim] if self.has_slices else math.prod(shape)
        self.count = self.index.type.numel
        # Elements meet only within a line of the index along `dim`, so lines are sorted apart:
        # equal keys are then side by side, and need not be in order.
        lines = [n for d, n in enumerate(self.index.type.shape) if d != self.dim]
        self.lines = () if self.has_slices else tuple(lines)
        self.size = self.count // math.prod(self.lines)
        (_, self.out), *_ = region.outputs

    def keys(self) -> Keys:
        """The row of each source; the number of rows for an index out of range."""
        dtype = int32 if self.n_rows < INT32_LIMIT else int64
        size = self.base.type.shape[self.dim]

        def at(reader: Reader, row: Index, place: Index) -> Tile:
            body = reader.body
            at_index = self._at_index(row, place)
            reader.other = -1
            index = reader.as_tile(reader.value(self.index, at_index), self.index.type.dtype)
            reader.other = None
            body.wish, body.loc = "", self.node.loc
            found = Index(((Symbol(index.name, max(size, 2)), 1),), 0)
            inside = Tile(body, body.test((Bound(found, 0, size),), name="in_range"), bool_)
            index = body.let("cast", index, dtype=dtype)
            target = index
            if not self.has_slices:
                # Not what is out of range, whose product may overflow.
                index = body.let("where", inside, index, 0, dtype=dtype, name="index")
                target = self._element(body, index, at_index)
            return body.let("where", inside, target, self.n_rows, dtype=dtype, name="key")

        return Keys(math.prod(self.lines), self.size, dtype, at)

    def _at_index(self, row: Index, place: Index) -> At:
        """Where the index has the element `place` of the line `row`."""
        if self.has_slices:
            return unflatten(place, self.index.type.shape)
        others = unflatten(row, self.lines)
        return (*others[: self.dim], place, *others[self.dim :])

    def _element(self, body: Body, index: Tile, at_index: At) -> Tile:
        """The number of the base's element that a source of one element goes to."""
        shape = self.base.type.shape
        stride = math.prod(shape[self.dim + 1 :])
        rest = flatten((*at_index[: self.dim], 0, *at_index[self.dim + 1 :]), shape)
        target = body.let("mul", index, stride, dtype=index.dtype) if stride > 1 else index
        if not rest.terms:
            return body.let("add", target, rest.constant, dtype=index.dtype)
        body.wish = ""
        return body.let("add", target, body.position(rest, index.dtype), dtype=index.dtype)

    def at_base(self, key: Tile, col: Index) -> At:
        """Where the base, and the result, have column `col` of the row `key`."""
        row = _place(key, self.n_rows, self.base)
        if not self.has_slices:
            return unflatten(row, self.base.type.shape)
        others = unflatten(col, self.others)
        return (*others[: self.dim], row, *others[self.dim :])

    def at_src(self, listed: Index, place: Tile, col: Index) -> At:
        """Where column `col` of the source is that is listed at `listed`: `place` of its line."""
        source = _place(place, self.size, self.src)
        at_index = self._at_index(listed // self.size, source)
        if not self.has_slices:
            return at_index
        others = unflatten(col, self.others)
        return (*others[: self.dim], *at_index, *others[self.dim :])

    def copied(self, tiling: Tiling) -> tuple[Kernel, ...]:
        """The result begins as the base."""
        rest = replace(
            self.region,
            name=f"{self.region.name}_base",
            nodes=(),
            outputs=((self.base, self.out),),
        )
        return pointwise_kernel(rest, tiling, lambda reader: None)

    def last_ones(self, listed: Ordered, tiling: Tiling) -> Kernel:
        """Of the sources for one place the last is stored."""
        block = min(power_of_2(self.count), tiling.flat)
        programs = ceil_div(self.count, block)
        body = self.region.body(listed.params)
        reader = self.region.reader(body)
        start = body.program_id(programs) * block
        lanes = body.add_lanes("offs", self.count, start, "BLOCK", block)
        key, is_end = _key_and_end(body, listed, lanes, self.count)
        test = self.test_of(body, key, is_end)
        place = _load(body, listed.places, lanes, body.masks_of(lanes), 0, "source")
        value = reader.value(self.src, self.at_src(lanes, place, lanes), (test,), raw=True)
        flat = flatten(self.at_base(key, lanes), self.base.type.shape)
        body.store(self.out.name, flat, reader.as_tile(value, self.src.type.dtype), (test,))
        made = self.region.kernel(
            body, {"BLOCK": block}, programs, warps_for(block), more=listed.params, suffix="_last"
        )
        return replace(made, flops=0, touched=self.rows_touched(made, self.count))

    def rows_touched(self, kernel: Kernel, rows: int) -> dict[str, int]:
        """The bytes of so many rows, for the base and the result."""
        nbytes = rows * self.n_cols * self.base.type.dtype.itemsize
        own = (self.base, self.out.value)
        return {p.name: nbytes for p in kernel.params if p.value in own}

    def test_of(self, body: Body, key: Tile, *also: Tile, name: str = "is_stored") -> str:
        """Whether `key` is a row, and all of `also` hold."""
        row = Index(((Symbol(key.name, self.n_rows + 1), 1),), 0)
        return body.test((Bound(row, 0, self.n_rows),), tuple(t.name for t in also), name)


def _place(place: Tile, size: int, value: Value) -> Index:
    """A loaded place, from 0 to size - 1, for an offset in `value`."""
    if value.type.numel >= INT32_LIMIT:
        place = place.block.let("cast", place, dtype=int64)
    return Index(((Symbol(place.name, max(size, 2)), 1),), 0)


def _key_and_end(body: Body, listed: Ordered, place: Index, count: int) -> tuple[Tile, Tile]:
    """The key at a place of the sorted list, and whether the next one differs; -1 past the end."""
    key, following = (_key(body, listed, at, count) for at in (place, place + 1))
    return key, body.let("ne", key, following, dtype=bool_, name="is_end")


def _key(body: Body, listed: Ordered, place: Index, count: int, low: int | None = None) -> Tile:
    mask = body.test((Bound(place, low, count),), name="is_listed")
    return _load(body, listed.keys, place, (mask,), -1, "key")


def _load(
    body: Body, param: Param, at: Index, masks: tuple[str, ...], other: int, wish: str
) -> Tile:
    dtype = param.type.dtype
    load = Load(wish, param.name, at, masks, dtype, other if masks else None)
    return body.load(load, dtype)


def _length(count: int, n_cols: int, tiling: Tiling) -> int:
    """The length of segments: short ones are many lanes, and many programs for their pieces."""
    longest = tiling.segment * (LONGER if n_cols < NARROW else 1)
    fair = power_of_2(count * ceil_div(n_cols, JOINED_COLS) // JOINING)
    return max(min(longest, max(fair, 8)), UNROLLED)


class _Sums:
    """The two kernels that add up the sorted sources."""

    def __init__(self, case: _Case, listed: Ordered, tiling: Tiling) -> None:
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
        before = _key(body, self.listed, first - 1, case.count, 0)
        opening = body.let(
            "eq", before, _key(body, self.listed, first, case.count), dtype=bool_, name="opening"
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
            key, is_end = _key_and_end(body, self.listed, first + step, case.count)
            mask = body.test((Bound(first + step, None, case.count),), name="is_listed")
            place = _load(body, self.listed.places, first + step, (mask,), 0, "source")
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
            _key(body, self.listed, first + at, self.case.count)
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
            _key(body, self.listed, at, case.count, low)
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
            total = _load(body, self.begun, flat, body.masks_of(col), 0, "begun")
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
            first = _key(body, self.listed, ahead * self.length, self.case.count)
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
        with body.loop("start", self.segments, "PIECES", limit) as start:
            # No mask: those past the last are past `count`, too.
            most = ceil_div(self.segments, pieces) * pieces
            piece = body.add_lanes("pieces", most, start, "PIECES", pieces, 0, "[:, None]")
            ahead = segment + 1 + piece
            here = body.test((Bound(piece - limit, None, 0),), name="is_piece")
            masks = (here, *body.masks_of(col))
            flat = ahead * self.case.n_cols + col
            x = _load(body, self.continued, flat, masks, 0, "continued")
            name = body.fresh("added")
            lanes = body.lanes_of(col)
            keep = axis is not None
            body.add(Reduce(name, "sum", x.name, axis, keep, self.dtype, (), self.zero), lanes)
            added = Tile(body, name, self.dtype)
            body.update(total, body.let("add", total, added, dtype=self.dtype))
        return total
