"""A tile of rows and columns in a kernel: reading a reduction's operand, and reducing tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Param, Reduce, Statement
from lowgrad.codegen.reader import At
from lowgrad.codegen.region import Region
from lowgrad.codegen.rowspace import Space, Tile2
from lowgrad.codegen.tiling import ceil_div
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node
from lowgrad.ir.index import Index, flatten
from lowgrad.ir.places import element
from lowgrad.ir.tile import Literal, Tile
from lowgrad.ir.types import DType, bool_, int32, int64

PLACES = ("argmax", "argmin")


class RowTile:
    """The lanes of one kernel over rows, and what is said of them."""

    # The constexpr of the columns' lanes.
    constant = "BLOCK"

    def __init__(
        self, region: Region, space: Space, tile: Tile2, partials: tuple[Param, ...] = ()
    ) -> None:
        self.region, self.space, self.tile, self.partials = region, space, tile, partials
        self.body = region.body(partials)
        self.reader = region.reader(self.body)
        self.start()

    def start(self) -> None:
        """Which rows this program has."""
        tile = self.tile
        self.is_2d = tile.rows > 1
        self.programs = ceil_div(self.space.rows, tile.rows) * tile.pieces
        pid = self.body.program_id(self.programs, "pid" if self.is_2d or tile.pieces > 1 else "row")
        self.piece = pid % tile.pieces
        self.row = self._row(pid // tile.pieces)

    def _row(self, block: Index) -> Index:
        body = self.body
        if not self.is_2d:
            return body.assign("row", block)
        start = block * self.tile.rows
        return body.add_lanes(
            "rows", self.space.rows, start, "ROWS", self.tile.rows, 0, "[:, None]", "row_mask"
        )

    # --- Lanes ---

    @property
    def axis(self) -> int:
        """The tile axis of the columns."""
        return 1 if self.is_2d else 0

    @property
    def shape(self) -> tuple[str, ...]:
        """The shape of the tile, as its constants."""
        return ("ROWS", self.constant) if self.is_2d else (self.constant,)

    @contextmanager
    def columns(self) -> Iterator[Index]:
        """Inside, statements are for a block of columns, one after the other if looped."""
        tile = self.tile
        if not tile.is_looped:
            yield self.all_columns(self.piece * tile.chunk)
            return
        stop = tile.chunk or self.space.cols
        with self.body.loop("start", stop, "BLOCK") as start:
            yield self.add_columns(self.piece * tile.chunk + start)

    def all_columns(self, start: Index) -> Index:
        """All columns from `start` on, which are lanes already or become so."""
        if (cols := self.body.known(("columns", self.constant))) is None:
            cols = self.add_columns(start)
            self.body.remember(("columns", self.constant), cols)
        assert isinstance(cols, Index)
        return cols

    def add_columns(self, start: Index) -> Index:
        """A block of columns from `start` on, as new lanes."""
        tile, size = self.tile, self.space.cols
        view = "[None, :]" if self.is_2d else ""
        mask = "col_mask" if self.is_2d else "mask"
        total = ceil_div(tile.chunk or size, tile.cols) * tile.cols * tile.pieces
        return self.body.add_lanes(
            "cols", size, start, self.constant, tile.cols, self.axis, view, mask, total
        )

    @contextmanager
    def first_columns(self) -> Iterator[Index]:
        """Inside, statements are for the first block of columns, before the loop or after it."""
        cols = self.add_columns(self.piece * self.tile.chunk)
        yield cols
        for name in self.body.lanes_of(cols):
            # Lanes of this question only: the next loop has its own.
            del self.body.lanes[name]

    def columns_seen(self, dtype: DType) -> Tile:
        """How many columns each lane has after the loop."""
        body, size, block = self.body, self.space.cols, self.tile.cols
        blocks = ceil_div(self.tile.chunk or size, block)
        if self.tile.pieces == 1 and blocks * block == size:
            return body.fill(float(blocks), dtype, name="seen")
        whole = int32 if size + block < 2**31 else int64
        with self.first_columns() as cols:
            body.wish = "left"
            left = body.position(size + block - 1 - cols, whole)
        seen = body.let("floordiv", left, block, dtype=whole, name="seen")
        seen = body.let("maximum", seen, 0, dtype=whole, name="seen")
        seen = body.let("minimum", seen, blocks, dtype=whole, name="seen")
        return body.let("cast", seen, dtype=dtype, name="seen")

    def tail(self) -> tuple[str, ...]:
        """The mask of the columns, if they have one."""
        lanes = [v for v in self.body.lanes.values() if v.constant == self.constant]
        return tuple(v.mask for v in lanes[-1:] if v.mask)

    # --- Reductions ---

    def operand(self, node: Node, cols: Index) -> Tile:
        """The elements to reduce, in all lanes unless a mask spreads them there."""
        x = self.reader.tile(node.inputs[0], element(node, self.row, cols))
        self.body.wish, self.body.loc = "", node.loc
        if self.tail() and not self.tile.is_looped:
            return x
        return self.body.broadcast(x, self.shape, x.dtype)

    def inside(self, x: Tile, otherwise: Tile | Literal) -> Tile:
        """x, but `otherwise` in lanes that have no column."""
        if not (masks := self.tail()):
            return x
        inside = Tile(self.body, masks[0], bool_)
        return self.body.let("where", inside, x, otherwise, dtype=x.dtype, name="x")

    def reduce(self, node: Node, x: Tile, masks: tuple[str, ...]) -> Tile:
        """x reduced along the columns as `node` does."""
        return self._statement(node.op.name, wish_of(node), x, masks, identity_of(node))

    def _statement(
        self, fn: str, wish: str, x: Tile, masks: tuple[str, ...], identity: Literal
    ) -> Tile:
        name = self.body.fresh(wish)
        statement: Statement = Reduce(
            name, fn, x.name, self.axis, self.is_2d, x.dtype, masks, identity
        )
        lanes = frozenset(n for n in self.body.lanes_of(x.name) if self._is_row(n))
        self.body.add(statement, lanes)
        return Tile(self.body, name, x.dtype)

    def _is_row(self, lane: str) -> bool:
        # The columns' lanes of a loop that is over are not known any more.
        return lane in self.body.lanes and self.body.lanes[lane].constant == "ROWS"

    def greatest_of(self, x: Tile) -> Tile:
        """The maximum of all lanes of each row."""
        return self._statement("max", "greatest", x, (), float("-inf"))

    def places_of(
        self, node: Node, x: Tile, places: Tile, masks: tuple[str, ...]
    ) -> tuple[Tile, Tile]:
        """What is extreme in x, and the smallest of `places` where it is."""
        fn = "max" if node.op.name == "argmax" else "min"
        best = everywhere = self._statement(fn, fn, x, masks, identity_of(node))
        if not self.is_2d:
            # Triton's interpreter gives a scalar bool the type of what was compared to make it.
            everywhere = self.body.broadcast(best, self.shape, best.dtype)
        hit = _same(self.body, x, everywhere)
        chosen = self.body.let("where", hit, places, self.space.cols, dtype=int32, name="place")
        first = self._statement("min", "first", chosen, masks, self.space.cols)
        return best, self.body.let("cast", first, dtype=int64, name=wish_of(node))

    def at_once(self, node: Node) -> None:
        """Make the result of `node`, whose columns are all held at once."""
        with self.columns() as cols:
            x = self.operand(node, cols)
            masks = self.tail()
            if node.op.name in PLACES:
                places = self.body.position(cols, int32)
                _, result = self.places_of(node, x, places, masks)
            else:
                result = self.reduce(node, x, masks)
        self.give(node, result)

    def give(self, node: Node, result: Tile) -> None:
        """Let what reads `node` find `result`."""
        row, shape = self.row, node.output.type.shape

        def read(at: At) -> Tile:
            if flatten(at, shape) != row:
                raise CompileError(f"{node.op.name}: read by another row than it was made for")
            return result

        self.reader.given[node.output] = read


def wish_of(node: Node) -> str:
    """What to call the node's result."""
    return node.output.hint if node.output.hint.isidentifier() else node.op.name


def identity_of(node: Node) -> Literal:
    """What changes no result of the reduction."""
    number: Literal = node.op.identity(node.inputs[0].type.dtype)  # type: ignore[attr-defined]
    return number


def isnan(x: Tile) -> Tile:
    """Where x is NaN."""
    return x.block.let("isnan", x, dtype=bool_)


def _same(body: Body, x: Tile, best: Tile) -> Tile:
    """Where x is `best`; NaN is NaN here."""
    same = body.let("eq", x, best, dtype=bool_, name="is_best")
    if not x.dtype.is_floating_point:
        return same
    both = body.let("and", isnan(x), isnan(best), dtype=bool_, name="both_nan")
    return body.let("or", same, both, dtype=bool_, name="hit")
