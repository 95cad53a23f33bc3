"""Sorting by integer keys: runs that a program orders each, then passes that merge many at a time.

Every element finds its own place: it counts, in its run, those that come before it, and then, in
each of the runs that it is merged with, finds by halving how many do. Nothing is exchanged within a
program, so there are no barriers, and no two elements have one place, so there are no races.
Of n elements a pass reads O(n ways log n), and there are few passes.
Source: Satish, Harris & Garland 2009, "Designing Efficient Sorting Algorithms for Manycore GPUs",
sec. 5 (merging by ranks); here of many runs at a time, since a launch costs more than a search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Bound, Kernel, Load, Param, Reduce
from lowgrad.codegen.reader import Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2, warps_for
from lowgrad.ir.graph import Value
from lowgrad.ir.index import INT32_LIMIT, Index, Symbol, as_index
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import DType, TensorType, bool_, int32, int64

# Others that a run's elements are compared with at a time.
CHUNK = 32
# Of more elements than this, loads cost more than launches, and fewer runs are merged at a time.
MANY = 1 << 18
# In lines of no more elements than this a lane looks at all of them itself.
SHORT = 32


@dataclass(frozen=True)
class Keys:
    """What is sorted: `lines` times `size` >= 2 integers of `dtype`, each line for itself.

    at: writes down the keys at (line, place in it), whose tile need not be right in dead lanes.
    """

    lines: int
    size: int
    dtype: DType
    at: Callable[[Reader, Index, Index], Tile]

    @property
    def total(self) -> int:
        """The number of keys."""
        return self.lines * self.size

    @property
    def place_dtype(self) -> DType:
        """The type that places in a line are kept in."""
        return int32 if self.size < INT32_LIMIT else int64


@dataclass(frozen=True)
class Ordered:
    """Sorted keys, and the place in its line that each comes from: scratch, [lines, size]."""

    keys: Param
    places: Param

    @property
    def params(self) -> tuple[Param, Param]:
        """Both."""
        return self.keys, self.places


# Stores what is known of an element: (reader, its line, its new place in it, its old place).
Sink = Callable[[Reader, Index, Index, Index], None]


def ordered(region: Region, keys: Keys, tiling: Tiling) -> tuple[tuple[Kernel, ...], Ordered]:
    """The kernels that sort, and where the last of them leaves what is sorted.

    Equal keys keep their order.
    """
    sides = _scratch(keys, ""), _scratch(keys, "_merged")
    kernels = _sorting(region, keys, tiling, sides, None)
    return kernels, sides[(len(kernels) - 1) % 2]


def ordered_into(region: Region, keys: Keys, tiling: Tiling, sink: Sink) -> tuple[Kernel, ...]:
    """As `ordered`, but the last kernel does `sink` with its elements."""
    return _sorting(region, keys, tiling, (_scratch(keys, ""), _scratch(keys, "_merged")), sink)


def _sorting(
    region: Region,
    keys: Keys,
    tiling: Tiling,
    sides: tuple[Ordered, Ordered],
    sink: Sink | None,
) -> tuple[Kernel, ...]:
    """Runs go to the first side, and passes from one side to the other."""
    if keys.size <= min(SHORT, tiling.run):
        return (_short(region, keys, sides[0], tiling, sink),)
    width = min(power_of_2(keys.size), tiling.run)
    all_ways = _ways(ceil_div(keys.size, width), keys, tiling)
    kernels = [_runs(region, keys, width, sides[0], None if all_ways else sink)]
    for number, ways in enumerate(all_ways):
        source, target = sides[number % 2], sides[(number + 1) % 2]
        merge = _Merge(region, keys, width, ways, source, target, f"_merge{number + 1}")
        kernels.append(merge.kernel(sink if number == len(all_ways) - 1 else None))
        width *= ways
    return tuple(kernels)


def _scratch(keys: Keys, side: str) -> Ordered:
    shape = (keys.lines, keys.size)

    def param(name: str, dtype: DType) -> Param:
        type_ = TensorType(shape, dtype)
        return Param(f"{name}{side}_ptr", type_, "scratch", Value(type_, f"{name}{side}"))

    return Ordered(param("keys", keys.dtype), param("places", keys.place_dtype))


def _ways(runs: int, keys: Keys, tiling: Tiling) -> list[int]:
    """How many runs each pass merges: powers of two, nearly the same, for few passes."""
    most = tiling.ways if keys.total <= MANY else min(tiling.ways, 4)
    left, most_bits = power_of_2(runs).bit_length() - 1, most.bit_length() - 1
    ways = []
    for passes in range(ceil_div(left, most_bits), 0, -1):
        bits = ceil_div(left, passes)
        ways.append(1 << bits)
        left -= bits
    return ways


# --- Runs --------------------------------------------------------------------------------------


def _short(
    region: Region, keys: Keys, target: Ordered, tiling: Tiling, sink: Sink | None
) -> Kernel:
    """A lane for each element of all lines, which goes through its line."""
    block = min(power_of_2(keys.total), tiling.flat)
    programs = ceil_div(keys.total, block)
    body = region.body(target.params)
    reader = region.reader(body)
    start = body.program_id(programs) * block
    own = body.add_lanes("own", keys.total, start, "BLOCK", block)
    row, place = body.assign("row", own // keys.size), body.assign("place", own % keys.size)
    key = keys.at(reader, row, place)
    rank = body.fill(0, int32, ("BLOCK",), name="rank")
    with body.loop("turn", keys.size, "1") as turn:
        other = keys.at(reader, row, turn)
        is_before = _comes_before(other, key, _is_less(body, turn, place))
        before = body.let("cast", is_before, dtype=int32, name="counted")
        body.update(rank, body.let("add", rank, before, dtype=int32))
    _leave(reader, keys, target, sink, (row, _index(rank, keys.size), key, place))
    made = region.kernel(
        body, {"BLOCK": block}, programs, warps_for(block), more=target.params, suffix="_lines"
    )
    return replace(made, flops=keys.total * keys.size)


def _is_less(body: Body, a: Index, b: Index) -> Tile:
    return Tile(body, body.test((Bound(a - b, None, 0),), name="is_earlier"), bool_)


def _runs(region: Region, keys: Keys, width: int, target: Ordered, sink: Sink | None) -> Kernel:
    """A program orders a run of `width` elements: it counts for each who comes before it."""
    runs = ceil_div(keys.size, width)
    body = region.body(target.params)
    reader = region.reader(body)
    row, number = _row_and_block(body, keys.lines, runs)
    start = number * width
    own = body.add_lanes("own", keys.size, start, "BLOCK", width, 0, "[:, None]", "own_mask")
    key = keys.at(reader, row, own)
    rank = body.fill(0, int32, ("BLOCK", "1"), name="rank")
    chunk = min(width, CHUNK)
    with body.loop("turn", width, "CHUNK") as turn:
        others = body.add_lanes(
            "others", keys.size, start + turn, "CHUNK", chunk, 1, "[None, :]", "others_mask",
            total=runs * width,
        )  # fmt: skip
        other = keys.at(reader, row, others)
        is_before = _comes_before(other, key, _is_less(body, others, own))
        body.update(rank, body.let("add", rank, _count(body, is_before, others), dtype=int32))
    place = start + _index(rank, width)
    _leave(reader, keys, target, sink, (row, place, key, own))
    constants = {"BLOCK": width, "CHUNK": chunk}
    programs = keys.lines * runs
    made = region.kernel(
        body, constants, programs, warps_for(width * chunk // 2), more=target.params, suffix="_runs"
    )
    return replace(made, flops=keys.total * width)


def _row_and_block(body: Body, rows: int, blocks: int) -> tuple[Index, Index]:
    pid = body.program_id(rows * blocks)
    return body.assign("row", pid // blocks), pid % blocks


def _comes_before(other: Tile, key: Tile, is_earlier: Tile) -> Tile:
    """Where `other` is less than `key`, or equal and earlier."""
    body = other.block
    assert isinstance(body, Body), "tiles of a kernel are of its body"
    body.wish = ""
    less = body.let("lt", other, key, dtype=bool_)
    same = body.let("eq", other, key, dtype=bool_)
    tie = body.let("and", same, is_earlier, dtype=bool_, name="tie")
    return body.let("or", less, tie, dtype=bool_, name="is_before")


def _count(body: Body, flags: Tile, lanes: Index) -> Tile:
    """How many of `flags` hold along the tile's second axis, which `lanes` are."""
    numbers = body.let("cast", flags, dtype=int32, name="counted")
    return _summed(body, numbers, body.masks_of(lanes), "before")


def _summed(body: Body, numbers: Tile, masks: tuple[str, ...], wish: str) -> Tile:
    name = body.fresh(wish)
    lanes = frozenset(n for n in body.lanes_of(numbers.name) if body.lanes[n].axis == 0)
    body.add(Reduce(name, "sum", numbers.name, 1, True, int32, masks, 0), lanes)
    return Tile(body, name, int32)


def _index(tile: Tile, size: int) -> Index:
    """An integer tile as a symbol from 0 to size - 1."""
    return Index(((Symbol(tile.name, max(size, 2)), 1),), 0)


def _leave(
    reader: Reader,
    keys: Keys,
    target: Ordered,
    sink: Sink | None,
    element: tuple[Index, Index, Tile, Index],
) -> None:
    """Store an element at its new place."""
    row, place, key, old = element
    if sink is not None:
        sink(reader, row, place, old)
        return
    body = reader.body
    body.wish = "source"
    flat, masks = row * keys.size + place, body.masks_of(old)
    body.store(target.keys.name, flat, key, masks)
    body.store(target.places.name, flat, body.position(old, keys.place_dtype), masks)


# --- Merges ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Merge:
    """One pass: every `ways` runs of `width` become one."""

    region: Region
    keys: Keys
    width: int
    ways: int
    source: Ordered
    target: Ordered
    suffix: str

    def kernel(self, sink: Sink | None) -> Kernel:
        """A lane for each element and run, which looks for the element in the run."""
        keys, total = self.keys, self.keys.total
        params = (*self.source.params, *self.target.params)
        body = self.region.body(params)
        block = min(power_of_2(total), max(1024 // self.ways, 1))
        programs = ceil_div(total, block)
        start = body.program_id(programs) * block
        lanes = body.add_lanes("elements", total, start, "BLOCK", block, 0, "[:, None]")
        masks = body.masks_of(lanes)
        row = body.assign("row", lanes // keys.size)
        place = body.assign("place", lanes % keys.size)
        span = self.width * self.ways
        first = body.assign("first", place // span * span)
        key = _load(body, self.source.keys, lanes, masks, "key")
        source = _load(body, self.source.places, lanes, masks, "source")
        ways = body.add_lanes("ways", self.ways, as_index(0), "WAYS", self.ways, 1, "[None, :]")
        run = body.assign("run", place % span // self.width)
        is_earlier = _is_less(body, ways, run)
        found = self._found(body, row, first + ways * self.width, key, is_earlier, masks)
        body.wish = "within"
        within = body.position(place % self.width, int32)
        is_own = Tile(body, body.test((Bound(ways - run, 0, 1),), name="is_own"), bool_)
        found = body.let("where", is_own, within, found, dtype=int32, name="counts")
        rank = _summed(body, found, (), "rank")
        new = first + _index(rank, span)
        element = row, new, key, _index(source, keys.size)
        _leave(self.region.reader(body), keys, self.target, sink, element)
        constants = {"BLOCK": block, "WAYS": self.ways}
        made = self.region.kernel(body, constants, programs, 4, more=params, suffix=self.suffix)
        return replace(made, flops=total * self.ways * self.width.bit_length())

    def _found(
        self,
        body: Body,
        row: Index,
        begin: Index,
        key: Tile,
        is_earlier: Tile,
        masks: tuple[str, ...],
    ) -> Tile:
        """How many elements of the run that begins at `begin` come before `key`."""
        size = self.keys.size
        found = body.fill(0, int32, ("BLOCK", "WAYS"), name="found")
        with halving(body, found, self.width) as reach:
            last = begin + _index(reach, self.width + 1)
            inside = body.test((Bound(last, None, size + 1),), name="is_there")
            other = _load(body, self.source.keys, row * size + last - 1, (inside, *masks), "other")
            is_before = _comes_before(other, key, is_earlier)
            both = body.let("and", is_before, Tile(body, inside, bool_), dtype=bool_, name="taken")
            body.update(found, body.let("where", both, reach, found, dtype=int32))
        return found


@contextmanager
def halving(body: Body, found: Tile, most: int) -> Iterator[Tile]:
    """A loop that finds, in the i32 tile `found`, how many of the first `most` satisfy a test.

    most: a power of two. Those that satisfy it come first. The body is to update `found` to what
    is yielded, where that many do.
    """
    # Halves of a power of two, and one more, sum up to it: most / 2, ..., 2, 1, 1.
    half = body.fill(max(most // 2, 1), int32, name="half")
    with body.loop("turn", most.bit_length(), "1"):
        yield body.let("add", found, half, dtype=int32, name="reach")
        less = body.let("floordiv", half, 2, dtype=int32)
        body.update(half, body.let("maximum", less, 1, dtype=int32))


def _load(body: Body, param: Param, at: Index, masks: tuple[str, ...], wish: str) -> Tile:
    dtype = param.type.dtype
    return body.load(Load(wish, param.name, at, masks, dtype), dtype)
