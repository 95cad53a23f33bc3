"""The sources of a scatter: where each goes, and the list that they are sorted to."""

from __future__ import annotations

import math

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Bound, Kernel, Load, Param
from lowgrad.codegen.merge_sort import Keys, Ordered
from lowgrad.codegen.reader import At, Reader
from lowgrad.codegen.region import Region
from lowgrad.ir.graph import Value
from lowgrad.ir.index import INT32_LIMIT, Index, Symbol, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_, int32, int64


class Sources:
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


def key_and_end(body: Body, listed: Ordered, place: Index, count: int) -> tuple[Tile, Tile]:
    """The key at a place of the sorted list, and whether the next one differs; -1 past the end."""
    key, following = (key_at(body, listed, at, count) for at in (place, place + 1))
    return key, body.let("ne", key, following, dtype=bool_, name="is_end")


def key_at(body: Body, listed: Ordered, place: Index, count: int, low: int | None = None) -> Tile:
    """The key at a place of the sorted list; -1 where there is none: past it, or below `low`."""
    mask = body.test((Bound(place, low, count),), name="is_listed")
    return load(body, listed.keys, place, (mask,), -1, "key")


def load(
    body: Body, param: Param, at: Index, masks: tuple[str, ...], other: int, wish: str
) -> Tile:
    """A tile of a scratch param; `other` where a mask does not hold."""
    dtype = param.type.dtype
    load = Load(wish, param.name, at, masks, dtype, other if masks else None)
    return body.load(load, dtype)
