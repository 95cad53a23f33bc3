"""What a loop over a row carries from block to block, for each reduction, in each lane."""

from __future__ import annotations

from typing import Protocol

from lowgrad.codegen.online import Online
from lowgrad.codegen.partials import accumulated_in
from lowgrad.codegen.rowtile import PLACES, RowTile, identity_of, isnan, wish_of
from lowgrad.codegen.tiling import ceil_div
from lowgrad.ir.graph import Node
from lowgrad.ir.index import Index, as_index
from lowgrad.ir.places import element
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_, int32


class Running(Protocol):
    """A reduction under way. It is filled when made; `result` is what all lanes make together."""

    node: Node

    def add(self, cols: Index) -> None:
        """Take in a block of columns."""

    def result(self) -> Tile:
        """After the loop: the reduction of each row."""


def running(tile: RowTile, nodes: list[Node], online: dict[Node, Online]) -> list[Running]:
    """The reductions `nodes`, which one loop makes, in that order."""
    made: dict[Node, Running] = {}
    for node in nodes:
        form = online.get(node)
        if form is not None and form.f == "exp":
            anchor = made[form.anchor]
            assert isinstance(anchor, Fold), "the anchor is a maximum of the same pass"
            made[node] = ExpSum(tile, node, form, anchor.total)
        elif form is not None:
            made[node] = SquareSum(tile, node, form)
        else:
            made[node] = (Place if node.op.name in PLACES else Fold)(tile, node)
    return list(made.values())


class Fold:
    """A sum, product, maximum, ... of what each lane has seen."""

    def __init__(self, tile: RowTile, node: Node) -> None:
        self.tile, self.node = tile, node
        dtype = node.inputs[0].type.dtype
        name = f"{wish_of(node)}_so_far"
        self.total = tile.body.fill(identity_of(node), dtype, tile.shape, name=name)

    def add(self, cols: Index) -> None:
        """total = total + x, or max(total, x), ..."""
        x = self.tile.inside(self.tile.operand(self.node, cols), identity_of(self.node))
        self.tile.body.update(self.total, self.node.op.emit(self.total, x))

    def result(self) -> Tile:
        """The lanes' totals, reduced."""
        return self.tile.reduce(self.node, self.total, ())


class Place:
    """The first place of a lane's extreme element, and that element."""

    def __init__(self, tile: RowTile, node: Node) -> None:
        self.tile, self.node = tile, node
        body, dtype = tile.body, node.inputs[0].type.dtype
        name = f"{wish_of(node)}_so_far"
        self.best = body.fill(identity_of(node), dtype, tile.shape, name=name)
        self.place = body.fill(tile.space.cols, int32, tile.shape, name="place_so_far")

    def add(self, cols: Index) -> None:
        """Better elements, and the first NaN, replace what was there."""
        tile, body, best, place = self.tile, self.tile.body, self.best, self.place
        x = tile.inside(tile.operand(self.node, cols), identity_of(self.node))
        better = body.let("gt" if self.node.op.name == "argmax" else "lt", x, best, dtype=bool_)
        if x.dtype.is_floating_point:
            is_first_nan = body.let(
                "and", isnan(x), body.let("eq", best, best, dtype=bool_), dtype=bool_
            )
            better = body.let("or", better, is_first_nan, dtype=bool_)
        # What equals the identity is still the first of its lane.
        is_first = body.let("eq", place, tile.space.cols, dtype=bool_)
        better = body.let("or", better, is_first, dtype=bool_, name="better")
        if masks := tile.tail():
            better = body.let("and", better, Tile(body, masks[0], bool_), dtype=bool_)
        new_place = body.let("where", better, body.position(cols, int32), place, dtype=int32)
        new_best = body.let("where", better, x, best, dtype=x.dtype)
        body.update(place, new_place)
        body.update(best, new_best)

    def result(self) -> Tile:
        """The first of the lanes' places that are extreme in the row."""
        return self.tile.place_of(self.node, self.best, self.place, ())


class ExpSum:
    """The sum of exp(x - shift): in each lane, of exp(x - most), `most` the lane's maximum.

    most: the accumulator of the maximum of x, made in the same loop, after this.
    """

    def __init__(self, tile: RowTile, node: Node, form: Online, most: Tile) -> None:
        self.tile, self.node, self.form, self.most = tile, node, form, most
        self.dtype = accumulated_in(node.inputs[0].type.dtype)
        self.total = tile.body.fill(0.0, self.dtype, tile.shape, name=f"{wish_of(node)}_so_far")

    def add(self, cols: Index) -> None:
        """One exp for an element: of what it is below the maximum, or the maximum below it."""
        tile, body, dtype, most = self.tile, self.tile.body, self.dtype, self.most
        x = _operand(tile, self.node, self.form, cols)
        x = tile.inside(x, identity_of(self.form.anchor))
        # inf - inf is NaN, but where x is the maximum it is 0 above it.
        is_most = body.let("eq", x, most, dtype=bool_, name="is_most")
        apart = body.let("sub", x, most, dtype=dtype, name="apart")
        apart = body.let("where", is_most, 0.0, apart, dtype=dtype, name="apart")
        apart = body.let("abs", apart, dtype=dtype, name="apart")
        scale = body.let("exp", body.let("neg", apart, dtype=dtype), dtype=dtype, name="scale")
        is_more = body.let("gt", x, most, dtype=bool_, name="is_more")
        raised = body.let("mul", self.total, scale, dtype=dtype)
        raised = body.let("add", raised, 1.0, dtype=dtype, name="raised")
        added = body.let("add", self.total, scale, dtype=dtype, name="added")
        body.update(self.total, body.let("where", is_more, raised, added, dtype=dtype))

    def result(self) -> Tile:
        """Each lane's sum, put right by how far its maximum is from the shift."""
        body, dtype = self.tile.body, self.dtype
        shift = _shift(self.tile, self.node, self.form)
        apart = body.let("sub", self.most, shift, dtype=dtype, name="apart")
        scale = body.let("exp", apart, dtype=dtype, name="scale")
        return self.tile.reduce(
            self.node, body.let("mul", self.total, scale, dtype=dtype, name="scaled"), ()
        )


class SquareSum:
    """The sum of (x - shift)^2: in each lane, of (x - mean)^2, `mean` the lane's own.

    Source: Welford 1962, "Note on a method for calculating corrected sums of squares".
    """

    def __init__(self, tile: RowTile, node: Node, form: Online) -> None:
        self.tile, self.node, self.form = tile, node, form
        body, dtype = tile.body, accumulated_in(node.inputs[0].type.dtype)
        self.dtype = dtype
        self.total = body.fill(0.0, dtype, tile.shape, name=f"{wish_of(node)}_so_far")
        self.mean = body.fill(0.0, dtype, tile.shape, name="mean_so_far")
        self.count = body.fill(0.0, dtype, (), name="count")

    def add(self, cols: Index) -> None:
        """The mean moves to x by their distance over the count."""
        tile, body, dtype, mean = self.tile, self.tile.body, self.dtype, self.mean
        x = _operand(tile, self.node, self.form, cols)
        # Where there is no column, nothing moves: the count is all lanes' but for the last block.
        x = tile.inside(x, mean)
        count = body.let("add", self.count, 1.0, dtype=dtype, name="counted")
        share = body.let("div", 1.0, count, dtype=dtype, name="share")
        before = body.let("sub", x, mean, dtype=dtype, name="before")
        step = body.let("mul", before, share, dtype=dtype)
        new_mean = body.let("add", mean, step, dtype=dtype, name="new_mean")
        after = body.let("sub", x, new_mean, dtype=dtype, name="after")
        square = body.let("mul", before, after, dtype=dtype, name="square")
        body.update(self.total, body.let("add", self.total, square, dtype=dtype))
        body.update(mean, new_mean)
        body.update(self.count, count)

    def result(self) -> Tile:
        """The lanes' sums, and how far their means are from the shift, times their counts."""
        body, dtype = self.tile.body, self.dtype
        shift = _shift(self.tile, self.node, self.form)
        apart = body.let("sub", self.mean, shift, dtype=dtype, name="apart")
        square = body.let("mul", apart, apart, dtype=dtype, name="square")
        moved = body.let("mul", square, self._counts(), dtype=dtype, name="moved")
        whole = body.let("add", self.total, moved, dtype=dtype, name="squares")
        return self.tile.reduce(self.node, whole, ())

    def _counts(self) -> Tile | float:
        """How many columns each lane has had."""
        tile, body = self.tile, self.tile.body
        blocks = ceil_div(tile.space.cols, tile.tile.cols)
        if blocks * tile.tile.cols == tile.space.cols:
            return float(blocks)
        cols = tile.add_columns(as_index((blocks - 1) * tile.tile.cols))
        (mask,) = tile.tail()
        for name in body.lanes_of(cols):
            # Lanes of this question only: the next loop has its own.
            del body.lanes[name]
        more, less = (body.fill(float(n), self.dtype, name="n") for n in (blocks, blocks - 1))
        return body.let("where", Tile(body, mask, bool_), more, less, dtype=self.dtype)


def _operand(tile: RowTile, node: Node, form: Online, cols: Index) -> Tile:
    x = tile.reader.tile(form.x, element(node, tile.row, cols))
    tile.body.wish, tile.body.loc = "", node.loc
    return tile.body.broadcast(x, tile.shape, accumulated_in(form.x.type.dtype))


def _shift(tile: RowTile, node: Node, form: Online) -> Tile:
    """The row's shift: its first column's, as of all of them."""
    shift = tile.reader.tile(form.shift, element(node, tile.row, as_index(0)))
    tile.body.wish, tile.body.loc = "", node.loc
    return shift
