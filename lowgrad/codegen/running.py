"""What a loop over a row carries from block to block, for each reduction, in each lane.

Programs that share a row end with `partials`: what they would find if their columns were the row.
`again` makes the row's result of all of theirs, [rows, pieces] each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

from lowgrad.codegen.online import Online, Passes
from lowgrad.codegen.partials import Nodes, accumulated_in
from lowgrad.codegen.rowtile import PLACES, RowTile, identity_of, isnan, wish_of
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, as_index
from lowgrad.ir.places import element
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import DType, bool_, int32, int64

# Of each reduction under way, the arrays of what programs found, by the names in `parts`.
Pieces = Mapping[Node, Mapping[str, Value]]


class Running(Protocol):
    """A reduction under way. It is filled when made; `result` is what all lanes make together.

    parts: what is left of it when only a piece of the row was seen, by name.
    """

    parts: ClassVar[tuple[str, ...]]
    node: Node

    def add(self, cols: Index) -> None:
        """Take in a block of columns."""

    def result(self) -> Tile:
        """After the loop: the reduction of each row."""

    def partials(self) -> tuple[Tile, ...]:
        """After the loop: the parts, one number a row each."""

    @staticmethod
    def again(nodes: Nodes, node: Node, form: Online | None, pieces: Pieces) -> Value:
        """The reduction of whole rows."""


def kind_of(node: Node, plan: Passes) -> type[Fold | Place | ExpSum | SquareSum | ShiftedSum]:
    """How `node` is made in a loop."""
    form = plan.online.get(node)
    if form is None:
        return Place if node.op.name in PLACES else Fold
    return {"exp": ExpSum, "square": SquareSum, "": ShiftedSum}[form.f]


def part_type(node: Node, part: str) -> DType:
    """The type of a part."""
    if node.op.name in PLACES and part == "place":
        return int64
    return accumulated_in(node.inputs[0].type.dtype)


def running(tile: RowTile, nodes: list[Node], plan: Passes) -> list[Running]:
    """The reductions `nodes`, which one loop makes, in that order."""
    made: dict[Node, Running] = {}
    for node in nodes:
        form, kind = plan.online.get(node), kind_of(node, plan)
        if form is None:
            made[node] = (Place if kind is Place else Fold)(tile, node)
        elif kind is ExpSum:
            assert form.anchor is not None, "what exp is relative to is known"
            anchor = made[form.anchor]
            assert isinstance(anchor, Fold), "the anchor is a maximum of the same pass"
            made[node] = ExpSum(tile, node, form, anchor.total)
        elif kind is SquareSum:
            made[node] = SquareSum(tile, node, form)
        else:
            weights = [n for n in nodes if n.op.name == "sum" and n.inputs[0] == form.weight]
            known = [made[n] for n in weights if n in made]
            own = known[0].total if known and isinstance(known[0], Fold) else None
            made[node] = ShiftedSum(tile, node, form, own)
    return list(made.values())


class Fold:
    """A sum, product, maximum, ... of what each lane has seen."""

    parts: ClassVar[tuple[str, ...]] = ("",)

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

    def partials(self) -> tuple[Tile, ...]:
        """The same of a piece."""
        return (self.result(),)

    @staticmethod
    def again(nodes: Nodes, node: Node, form: Online | None, pieces: Pieces) -> Value:
        """The reduction of the pieces'."""
        return nodes.call(node.op.name, pieces[node][""], dims=(1,))


class Place:
    """The first place of a lane's extreme element, and that element."""

    parts: ClassVar[tuple[str, ...]] = ("best", "place")

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
        return self.partials()[1]

    def partials(self) -> tuple[Tile, ...]:
        """The piece's extreme element, and its place in the row."""
        return self.tile.places_of(self.node, self.best, self.place, ())

    @staticmethod
    def again(nodes: Nodes, node: Node, form: Online | None, pieces: Pieces) -> Value:
        """The place of the first of the extreme pieces."""
        first = nodes.call(node.op.name, pieces[node]["best"], dims=(1,))
        return nodes.call("gather", pieces[node]["place"], first, dim=1)


class ExpSum:
    """The sum of w exp(x - shift): in each lane, of w exp(x - most), `most` the lane's maximum.

    most: the accumulator of the maximum of x, which is updated in the same loop, after this.
    """

    parts: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, tile: RowTile, node: Node, form: Online, most: Tile) -> None:
        self.tile, self.node, self.form, self.most = tile, node, form, most
        self.dtype = accumulated_in(node.inputs[0].type.dtype)
        self.total = tile.body.fill(0.0, self.dtype, tile.shape, name=f"{wish_of(node)}_so_far")

    def add(self, cols: Index) -> None:
        """One exp for an element: of what it is below the maximum, or the maximum below it."""
        tile, body, dtype, most = self.tile, self.tile.body, self.dtype, self.most
        assert self.form.anchor is not None, "what exp is relative to is known"
        x = _operand(tile, self.node, self.form.x, cols)
        x = tile.inside(x, identity_of(self.form.anchor))
        weight: Tile | float = 1.0
        if self.form.weight is not None:
            weight = tile.inside(_operand(tile, self.node, self.form.weight, cols), 0.0)
        # inf - inf is NaN, but where x is the maximum it is 0 above it.
        apart = body.let("abs", _apart(x, most, dtype), dtype=dtype, name="apart")
        scale = body.let("exp", body.let("neg", apart, dtype=dtype), dtype=dtype, name="scale")
        is_more = body.let("gt", x, most, dtype=bool_, name="is_more")
        raised = body.let("mul", self.total, scale, dtype=dtype)
        raised = body.let("add", raised, weight, dtype=dtype, name="raised")
        if isinstance(weight, Tile):
            scale = body.let("mul", scale, weight, dtype=dtype, name="weighted")
        added = body.let("add", self.total, scale, dtype=dtype, name="added")
        body.update(self.total, body.let("where", is_more, raised, added, dtype=dtype))

    def result(self) -> Tile:
        """Each lane's sum, put right by how far its maximum is from the shift."""
        shift = _shift(self.tile, self.node, self.form)
        return self._relative_to(self.tile.body.let("sub", self.most, shift, dtype=self.dtype))

    def partials(self) -> tuple[Tile, ...]:
        """The sum relative to the piece's own maximum, which is a part of the anchor."""
        assert self.form.anchor is not None, "what exp is relative to is known"
        most = self.tile.reduce(self.form.anchor, self.most, ())
        # The scale of what is infinite is 0 or NaN once the row's shift is known, not yet.
        return (self._relative_to(_apart(self.most, most, self.dtype)),)

    def _relative_to(self, apart: Tile) -> Tile:
        body, dtype = self.tile.body, self.dtype
        scale = body.let("exp", apart, dtype=dtype, name="scale")
        scaled = body.let("mul", self.total, scale, dtype=dtype, name="scaled")
        return self.tile.reduce(self.node, scaled, ())

    @staticmethod
    def again(nodes: Nodes, node: Node, form: Online | None, pieces: Pieces) -> Value:
        """The sum of the pieces' sums, put right as the lanes' were."""
        assert form is not None, "this is how it was made"
        assert form.anchor is not None, "what exp is relative to is known"
        most = pieces[form.anchor][""]
        scale = nodes.call("exp", _from_shift(nodes, node, form, most))
        return nodes.call("sum", nodes.call("mul", pieces[node][""], scale), dims=(1,))


class SquareSum:
    """The sum of (x - shift)^2: in each lane, of (x - mean)^2, `mean` the lane's own.

    Source: Welford 1962, "Note on a method for calculating corrected sums of squares".
    """

    parts: ClassVar[tuple[str, ...]] = ("", "mean", "count")

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
        x = _operand(tile, self.node, self.form.x, cols)
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
        counts = self.tile.columns_seen(self.dtype)
        return self._about(_shift(self.tile, self.node, self.form), counts)

    def partials(self) -> tuple[Tile, ...]:
        """The sum relative to the piece's own mean, that mean, and the count of columns."""
        tile, body, dtype = self.tile, self.tile.body, self.dtype
        counts = tile.columns_seen(dtype)
        count = tile.reduce(self.node, body.broadcast(counts, tile.shape, dtype), ())
        lanes = body.let("mul", self.mean, counts, dtype=dtype)
        total = tile.reduce(self.node, lanes, ())
        mean = body.let("div", total, count, dtype=dtype, name="mean")
        return self._about(mean, counts), mean, count

    def _about(self, shift: Tile, counts: Tile) -> Tile:
        body, dtype = self.tile.body, self.dtype
        apart = body.let("sub", self.mean, shift, dtype=dtype, name="apart")
        square = body.let("mul", apart, apart, dtype=dtype, name="square")
        moved = body.let("mul", square, counts, dtype=dtype, name="moved")
        whole = body.let("add", self.total, moved, dtype=dtype, name="squares")
        return self.tile.reduce(self.node, whole, ())

    @staticmethod
    def again(nodes: Nodes, node: Node, form: Online | None, pieces: Pieces) -> Value:
        """The pieces' sums, and how far their means are from the shift, times their counts."""
        assert form is not None, "this is how it was made"
        apart = _from_shift(nodes, node, form, pieces[node]["mean"])
        moved = nodes.call("mul", nodes.call("mul", apart, apart), pieces[node]["count"])
        return nodes.call("sum", nodes.call("add", pieces[node][""], moved), dims=(1,))


class ShiftedSum:
    """The sum of w (x - shift): in each lane, of w (x - near), `near` the lane's first x.

    weights: the accumulator of the sum of w, if there is one; it is updated in the same loop.
    """

    parts: ClassVar[tuple[str, ...]] = ("", "near", "weights")

    def __init__(self, tile: RowTile, node: Node, form: Online, weights: Tile | None) -> None:
        self.tile, self.node, self.form = tile, node, form
        self.dtype = accumulated_in(node.inputs[0].type.dtype)
        body, dtype = tile.body, self.dtype
        self.near = self._first()
        self.total = body.fill(0.0, dtype, tile.shape, name=f"{wish_of(node)}_so_far")
        self.is_own = weights is None
        if weights is None:
            weights = body.fill(0.0, dtype, tile.shape, name="weights_so_far")
        self.weights = weights

    def _first(self) -> Tile:
        """The first x of each lane, which is of some column; 0 if that is infinite or NaN."""
        tile, body = self.tile, self.tile.body
        with tile.first_columns() as cols:
            x = tile.inside(_operand(tile, self.node, self.form.x, cols), 0.0)
        size = body.let("abs", x, dtype=self.dtype, name="size")
        is_finite = body.let("lt", size, float("inf"), dtype=bool_, name="is_finite")
        return body.let("where", is_finite, x, 0.0, dtype=self.dtype, name="near")

    def add(self, cols: Index) -> None:
        """total += w (x - near)."""
        tile, body, dtype = self.tile, self.tile.body, self.dtype
        assert self.form.weight is not None, "a sum without weights is simpler"
        x = tile.inside(_operand(tile, self.node, self.form.x, cols), self.near)
        weight = tile.inside(_operand(tile, self.node, self.form.weight, cols), 0.0)
        apart = body.let("sub", x, self.near, dtype=dtype, name="apart")
        product = body.let("mul", weight, apart, dtype=dtype)
        body.update(self.total, body.let("add", self.total, product, dtype=dtype))
        if self.is_own:
            body.update(self.weights, body.let("add", self.weights, weight, dtype=dtype))

    def result(self) -> Tile:
        """The lanes' sums, and how far what they are about is from the shift, times the weights."""
        return self._about(_shift(self.tile, self.node, self.form))

    def partials(self) -> tuple[Tile, ...]:
        """The sum about the greatest that a lane's is about, that, and the weights."""
        tile = self.tile
        near = tile.greatest_of(self.near)
        return self._about(near), near, tile.reduce(self.node, self.weights, ())

    def _about(self, shift: Tile) -> Tile:
        body, dtype = self.tile.body, self.dtype
        apart = body.let("sub", self.near, shift, dtype=dtype, name="apart")
        moved = body.let("mul", apart, self.weights, dtype=dtype, name="moved")
        whole = body.let("add", self.total, moved, dtype=dtype, name="whole")
        return self.tile.reduce(self.node, whole, ())

    @staticmethod
    def again(nodes: Nodes, node: Node, form: Online | None, pieces: Pieces) -> Value:
        """The pieces' sums, put right as the lanes' were."""
        assert form is not None, "this is how it was made"
        apart = _from_shift(nodes, node, form, pieces[node]["near"])
        moved = nodes.call("mul", apart, pieces[node]["weights"])
        return nodes.call("sum", nodes.call("add", pieces[node][""], moved), dims=(1,))


def _operand(tile: RowTile, node: Node, value: Value, cols: Index) -> Tile:
    x = tile.reader.tile(value, element(node, tile.row, cols))
    tile.body.wish, tile.body.loc = "", node.loc
    return tile.body.broadcast(x, tile.shape, accumulated_in(value.type.dtype))


def _apart(x: Tile, most: Tile, dtype: DType) -> Tile:
    """x - most, which is 0 where they are the same, if infinite."""
    body = x.block
    is_most = body.let("eq", x, most, dtype=bool_, name="is_most")
    apart = body.let("sub", x, most, dtype=dtype, name="apart")
    return body.let("where", is_most, 0.0, apart, dtype=dtype, name="apart")


def _shift(tile: RowTile, node: Node, form: Online) -> Tile:
    """The row's shift: its first column's, as of all of them."""
    shift = tile.reader.tile(form.shift, element(node, tile.row, as_index(0)))
    tile.body.wish, tile.body.loc = "", node.loc
    return shift


def _from_shift(nodes: Nodes, node: Node, form: Online, value: Value) -> Value:
    """How far `value`, [rows, pieces], is from the shift of each row."""
    shift = nodes.of_row(form.shift, node)
    if shift.type.dtype is not value.type.dtype:
        shift = nodes.call("cast", shift, dtype=value.type.dtype)
    shift = nodes.call("reshape", shift, shape=(value.type.shape[0], 1))
    return nodes.call("sub", value, nodes.call("expand", shift, shape=value.type.shape))
