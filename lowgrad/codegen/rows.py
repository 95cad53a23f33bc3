"""The rows skeleton: reductions over the same dims, and pointwise work before and after them.

The reduced space is seen as R rows of C columns: row r and column c are the numbers, in row-major
order, of an element's kept and reduced dims. A program owns one row, or several short ones, holds
all columns at once, or loops over blocks of them. Few long rows are cut into pieces: a first kernel
reduces each piece, a second one the pieces, always in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Kernel, Param, Reduce, Statement
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.reader import At, Pulled, Reader
from lowgrad.codegen.region import Region, flat_place, places
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2, warps_for
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, flatten, unflatten
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.places import element
from lowgrad.ir.tile import Literal, Tile
from lowgrad.ir.types import DType, Shape, TensorType, bool_, float32, int32, int64

PLACES = ("argmax", "argmin")


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


# --- The space ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Space:
    """R rows of C columns, and the reductions over them, in order.

    is_row_major: whether neighbours in memory are neighbouring columns, not rows.
    """

    rows: int
    cols: int
    reductions: tuple[Node, ...]
    is_row_major: bool


def space_of(region: Region) -> Space:
    """The space of a region's reductions. Raises CompileError if they differ."""
    reductions = tuple(n for n in region.nodes if n.op.family == "reduction")
    sizes = {_sizes(n) for n in reductions}
    if len(sizes) != 1:
        raise CompileError(
            f"{region.name}: its reductions are over {len(sizes)} spaces; a kernel has one",
            at=str(region.node.loc or ""),
        )
    ((n_rows, n_cols),) = sizes
    shape, dims = reductions[0].inputs[0].type.shape, reductions[0].attrs["dims"]
    last = max((d for d, size in enumerate(shape) if size > 1), default=0)
    return Space(n_rows, n_cols, reductions, is_row_major=last in dims)


def _sizes(node: Node) -> tuple[int, int]:
    shape, dims = node.inputs[0].type.shape, node.attrs["dims"]
    cols = math.prod(shape[d] for d in dims)
    return math.prod(n for d, n in enumerate(shape) if d not in dims), cols


def _trivial(region: Region, space: Space, tiling: Tiling) -> tuple[Kernel, ...]:
    """Rows of one column, which are their own results, or of none, with the identity."""

    def with_results(reader: Reader) -> None:
        for node in space.reductions:
            reader.given[node.output] = partial(_result_of_one, reader, node, space.cols)

    return pointwise_kernel(region, tiling, with_results)


def _result_of_one(reader: Reader, node: Node, count: int, at: At) -> Pulled:
    """The reduction of one element, or (count 0) of none."""
    if count == 0:
        return _identity(node)
    return 0 if node.op.name in PLACES else reader.value(node.inputs[0], at)


# --- Tiles -------------------------------------------------------------------------------------


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
    widest = power_of_2(space.cols)
    if not space.is_row_major:
        # Neighbouring lanes read neighbouring rows, at least a cache line of them.
        n_rows = min(power_of_2(space.rows), 64)
        n_cols = min(widest, max(tiling.tile // n_rows, 1))
    elif widest > tiling.row:
        n_rows, n_cols = 1, max(tiling.row // 4, 1)
    else:
        n_rows, n_cols = max(min(tiling.tile // widest, power_of_2(space.rows)), 1), widest
        while n_rows > 1 and ceil_div(space.rows, n_rows) < tiling.programs:
            n_rows //= 2
    return Tile2(n_rows, n_cols, n_cols < space.cols, warps_for(n_rows * n_cols))


def _is_split(region: Region, space: Space, tile: Tile2, tiling: Tiling) -> bool:
    is_plain = all(n.op.name not in PLACES for n in space.reductions)
    only_rows = all(p.type.numel == space.rows for _, p in region.outputs)
    few = ceil_div(space.rows, tile.rows) * 2 <= tiling.programs
    long = space.cols > tiling.split // tile.rows and tile.is_looped
    one_step = max(_levels(region, space.reductions).values()) == 0
    return is_plain and only_rows and few and long and one_step


def _levels(region: Region, reductions: tuple[Node, ...]) -> dict[Node, int]:
    """For each reduction, how many others must be done one after the other before it."""
    depth: dict[Value, int] = {}
    levels: dict[Node, int] = {}
    for node in region.nodes:
        own = max((depth.get(v, 0) for v in node.inputs), default=0)
        if node in reductions:
            levels[node] = own
            own += 1
        depth.update(dict.fromkeys(node.outputs, own))
    return levels


# --- One kernel --------------------------------------------------------------------------------


class RowsWriter:
    """Writes one kernel down; `partials` are what it stores instead of outputs, if any."""

    def __init__(
        self, region: Region, space: Space, tile: Tile2, partials: tuple[Param, ...] = ()
    ) -> None:
        self.region, self.space, self.tile, self.partials = region, space, tile, partials
        self.body = region.body(partials)
        self.reader = region.reader(self.body)
        self._start()

    def _start(self) -> None:
        """Which rows this program has."""
        tile = self.tile
        self.is_2d = tile.rows > 1
        self.programs = ceil_div(self.space.rows, tile.rows) * tile.pieces
        pid = self.body.program_id(self.programs, "pid" if self.is_2d or tile.pieces > 1 else "row")
        self.piece = pid % tile.pieces
        self.row = self._row(pid // tile.pieces)

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

    def _row(self, block: Index) -> Index:
        body = self.body
        if not self.is_2d:
            return body.assign("row", block)
        start = block * self.tile.rows
        return body.add_lanes(
            "rows", self.space.rows, start, "ROWS", self.tile.rows, 0, "[:, None]", "row_mask"
        )

    @property
    def axis(self) -> int:
        """The tile axis of the columns."""
        return 1 if self.is_2d else 0

    @contextmanager
    def columns(self) -> Iterator[Index]:
        """Inside, statements are for a block of columns, one after the other if looped."""
        tile = self.tile
        if not tile.is_looped:
            yield self.all_columns(self.piece * tile.chunk)
            return
        stop = tile.chunk or self.space.cols
        with self.body.loop("start", stop, "BLOCK") as start:
            yield self._add_columns(self.piece * tile.chunk + start)

    def all_columns(self, start: Index) -> Index:
        if (cols := self.body.known("columns")) is None:
            cols = self._add_columns(start)
            self.body.remember("columns", cols)
        assert isinstance(cols, Index)
        return cols

    def _add_columns(self, start: Index) -> Index:
        tile, size = self.tile, self.space.cols
        view = "[None, :]" if self.is_2d else ""
        mask = "col_mask" if self.is_2d else "mask"
        total = ceil_div(tile.chunk or size, tile.cols) * tile.cols * tile.pieces
        return self.body.add_lanes(
            "cols", size, start, "BLOCK", tile.cols, self.axis, view, mask, total
        )

    # --- Reductions ---

    def reduce_all(self) -> None:
        levels = _levels(self.region, self.space.reductions)
        for level in range(max(levels.values()) + 1):
            nodes = [n for n in self.space.reductions if levels[n] == level]
            if self.tile.is_looped:
                self._looped(nodes)
            else:
                for node in nodes:
                    self._at_once(node)

    def _at_once(self, node: Node) -> None:
        with self.columns() as cols:
            x = self._operand(node, cols)
            masks = self._tail()
            if node.op.name in PLACES:
                result = self._place_of(node, x, self.body.position(cols, int32), masks)
            else:
                result = self._reduce(node, x, masks)
        self._give(node, result)

    def _operand(self, node: Node, cols: Index) -> Tile:
        """The elements to reduce, in all lanes unless a mask spreads them there."""
        x = self.reader.tile(node.inputs[0], element(node, self.row, cols))
        self.body.wish, self.body.loc = "", node.loc
        if self._tail() and not self.tile.is_looped:
            return x
        return self.body.broadcast(x, self.shape, x.dtype)

    @property
    def shape(self) -> tuple[str, ...]:
        return ("ROWS", "BLOCK") if self.is_2d else ("BLOCK",)

    def _tail(self) -> tuple[str, ...]:
        """The mask of the columns, if they have one."""
        lanes = [v for v in self.body.lanes.values() if v.constant == "BLOCK"]
        return tuple(v.mask for v in lanes[-1:] if v.mask)

    def _reduce(self, node: Node, x: Tile, masks: tuple[str, ...]) -> Tile:
        return self._statement(node.op.name, _wish(node), x, masks, _identity(node))

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

    def _place_of(self, node: Node, x: Tile, places: Tile, masks: tuple[str, ...]) -> Tile:
        """The smallest of `places` where x is extreme."""
        fn = "max" if node.op.name == "argmax" else "min"
        best = self._statement(fn, fn, x, masks, _identity(node))
        if not self.is_2d:
            # Triton's interpreter gives a scalar bool the type of what was compared to make it.
            best = self.body.broadcast(best, self.shape, best.dtype)
        hit = _same(self.body, x, best)
        chosen = self.body.let("where", hit, places, self.space.cols, dtype=int32, name="place")
        first = self._statement("min", "first", chosen, masks, self.space.cols)
        return self.body.let("cast", first, dtype=int64, name=_wish(node))

    def _give(self, node: Node, result: Tile) -> None:
        row, shape = self.row, node.output.type.shape

        def read(at: At) -> Tile:
            if flatten(at, shape) != row:
                raise CompileError(f"{node.op.name}: read by another row than it was made for")
            return result

        self.reader.given[node.output] = read

    # --- Loops ---

    def _looped(self, nodes: list[Node]) -> None:
        body = self.body
        totals = {n: self._accumulators(n) for n in nodes}
        with self.columns() as cols:
            for node in nodes:
                x = self._operand(node, cols)
                if masks := self._tail():
                    inside = Tile(body, masks[0], bool_)
                    x = body.let("where", inside, x, _identity(node), dtype=x.dtype, name="x")
                self._accumulate(node, totals[node], x, cols)
        for node in nodes:
            body.wish, body.loc = "", node.loc
            if node.op.name in PLACES:
                best, place = totals[node]
                result = self._place_of(node, best, place, ())
            else:
                result = self._reduce(node, totals[node][0], ())
            self._give(node, result)

    def _accumulators(self, node: Node) -> tuple[Tile, ...]:
        dtype = node.inputs[0].type.dtype
        total = self.body.fill(_identity(node), dtype, self.shape, name=f"{_wish(node)}_so_far")
        if node.op.name not in PLACES:
            return (total,)
        return total, self.body.fill(self.space.cols, int32, self.shape, name="place_so_far")

    def _accumulate(self, node: Node, totals: tuple[Tile, ...], x: Tile, cols: Index) -> None:
        body = self.body
        if node.op.name not in PLACES:
            body.update(totals[0], node.op.emit(totals[0], x))
            return
        best, place = totals
        better = body.let("gt" if node.op.name == "argmax" else "lt", x, best, dtype=bool_)
        if x.dtype.is_floating_point:
            is_first_nan = body.let(
                "and", _isnan(x), body.let("eq", best, best, dtype=bool_), dtype=bool_
            )
            better = body.let("or", better, is_first_nan, dtype=bool_)
        # What equals the identity is still the first of its lane.
        is_first = body.let("eq", place, self.space.cols, dtype=bool_)
        better = body.let("or", better, is_first, dtype=bool_, name="better")
        if masks := self._tail():
            better = body.let("and", better, Tile(body, masks[0], bool_), dtype=bool_)
        new_place = body.let("where", better, body.position(cols, int32), place, dtype=int32)
        new_best = body.let("where", better, x, best, dtype=x.dtype)
        body.update(place, new_place)
        body.update(best, new_best)

    # --- Stores ---

    def store_outputs(self) -> None:
        by_row = [o for o in self.region.outputs if o[1].type.numel == self.space.rows]
        full = [o for o in self.region.outputs if o[1].type.numel != self.space.rows]
        # Full ones may be stored over an input, of which a row may want a single element.
        results = self._results(by_row, self._places(None), (self.row,), (self.space.rows,))
        if full:
            with self.columns() as cols:
                found = self._places(cols)
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

    def _places(self, cols: Index | None) -> dict[Value, At]:
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


def _wish(node: Node) -> str:
    return node.output.hint if node.output.hint.isidentifier() else node.op.name


def _identity(node: Node) -> Literal:
    number: Literal = node.op.identity(node.inputs[0].type.dtype)  # type: ignore[attr-defined]
    return number


def _isnan(x: Tile) -> Tile:
    return x.block.let("isnan", x, dtype=bool_)


def _same(body: Body, x: Tile, best: Tile) -> Tile:
    """Where x is `best`; NaN is NaN here."""
    same = body.let("eq", x, best, dtype=bool_, name="is_best")
    if not x.dtype.is_floating_point:
        return same
    both = body.let("and", _isnan(x), _isnan(best), dtype=bool_, name="both_nan")
    return body.let("or", same, both, dtype=bool_, name="hit")


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


def partial_of(node: Node, name: str, shape: Shape) -> Param:
    """What programs find of a reduction's results, to be reduced once more along one dim."""
    dtype = accumulated_in(node.inputs[0].type.dtype)
    type_ = TensorType(shape, dtype)
    return Param(name, type_, "scratch", Value(type_, f"{node.op.name}_pieces"))


def accumulated_in(dtype: DType) -> DType:
    return float32 if dtype.is_low_precision else dtype


def with_partials(
    region: Region, reductions: tuple[Node, ...], partials: tuple[Param, ...], dim: int
) -> Region:
    """`region` with the reductions' operands replaced by what is left of them, along `dim`."""
    replaced: dict[Node, tuple[Node, Node]] = {}
    for node, param in zip(reductions, partials, strict=True):
        left = tuple(1 if d == dim else n for d, n in enumerate(param.type.shape))
        total = Value(param.type.with_shape(left), node.output.hint)
        again = Node(node.op, (param.value,), {"dims": (dim,)}, (total,), node.loc)
        shape = {"shape": node.output.type.shape}
        replaced[node] = (again, Node(REGISTRY["reshape"], (total,), shape, node.outputs, node.loc))
    nodes = tuple(m for n in region.nodes for m in replaced.get(n, (n,)))
    inputs = {**region.inputs, **{p.value: p for p in partials}}
    return replace(region, nodes=nodes, inputs=inputs)
