"""The contraction skeleton: tiled products of matrices, with what follows them in the same kernel.

A program owns one tile of the result and loops over the inner axis. Programs go through the tiles
in groups of rows, so that neighbours share operands in the cache; where tiles are too few for a
GPU, several share one, each with a piece of the inner axis (`split_k`). Views before the product
are index maps of its loads. Arithmetic before it is rounded to the operands' dtype, as tensor
cores take it; sums and what comes after are f32 (f64 of f64).

A sum of an operand over the inner axis is taken on the way, and what follows from it (a bias's
update beside its weight's) is stored by the programs of the first tile along the other axis.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from lowgrad.codegen.body import Lane
from lowgrad.codegen.choose import choose
from lowgrad.codegen.kernel import Bound, Dot, Half, Kernel, Param, Reduce
from lowgrad.codegen.operands import Operands, accumulated
from lowgrad.codegen.problem import problem_of
from lowgrad.codegen.reader import At
from lowgrad.codegen.region import Region, flat_place, places
from lowgrad.codegen.split_k import added_up, parts_of
from lowgrad.codegen.tiling import DotTiling, Tiling, ceil_div
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, as_index, flatten, unflatten
from lowgrad.ir.places import summed_operand
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import Shape
from lowgrad.ir.walk import needed, reached_from


def contraction(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel, or those of a split inner axis; none if there are no elements."""
    node = _product(region)
    outputs = tuple(o for o in region.outputs if o[1].type.numel)
    if not outputs:
        return ()
    region = replace(region, outputs=outputs)
    sizes = _sizes(node)
    tile = choose(problem_of(region, node, tiling.precision), tiling)
    if tile.split > 1 and sizes.k:
        return _split(region, node, sizes, tile, tiling)
    return (_Contraction(region, node, sizes, tile, tiling).kernel(),)


def _split(
    region: Region, node: Node, sizes: Sizes, tile: DotTiling, tiling: Tiling
) -> tuple[Kernel, ...]:
    """A kernel whose programs each have a piece of the inner axis, then those that add them up."""
    sums = tuple(_sums(region, node))
    pieces = ceil_div(sizes.k, ceil_div(ceil_div(sizes.k, tile.k), tile.split) * tile.k)
    parts = parts_of(node, sums, pieces)
    made = [node.output, *(total.output for total in sums)]
    first = replace(region, nodes=tuple(needed(region.nodes, made)), outputs=())
    tile = replace(tile, split=pieces, slices=1)
    writer = _Contraction(first, node, sizes, tile, tiling, parts)
    return (writer.kernel(), *added_up(region, parts, tiling))


@dataclass(frozen=True)
class Sizes:
    """`batch` products of an m x k by a k x n matrix."""

    batch: int
    m: int
    n: int
    k: int


def _product(region: Region) -> Node:
    products = [n for n in region.nodes if n.op.family == "contraction"]
    if len(products) != 1:
        raise CompileError(
            f"{region.name}: {len(products)} matrix products; a kernel has one",
            at=str(region.node.loc or ""),
        )
    return products[0]


def _sizes(node: Node) -> Sizes:
    a, b = (v.type.shape for v in node.inputs)
    return Sizes(math.prod(a[:-2]), a[-2], b[-1], a[-1])


def _sums(region: Region, product: Node) -> dict[Node, int]:
    """The sums of the product's operands, with the operand's position."""
    found: dict[Node, int] = {}
    for node in region.nodes:
        if node.op.family == "reduction":
            operand = summed_operand(region.producers, product, node)
            if operand is None:
                raise CompileError(
                    f"{region.name}: {node.op.name} is no sum over the product's inner axis",
                    at=str(node.loc or region.node.loc or ""),
                )
            found[node] = operand
    return found


class _Contraction:
    """Writes one kernel down. With `parts` it stores pieces of sums, and nothing that follows."""

    def __init__(
        self,
        region: Region,
        node: Node,
        sizes: Sizes,
        tile: DotTiling,
        tiling: Tiling,
        parts: Mapping[Node, Param] | None = None,
    ) -> None:
        self.region, self.node, self.sizes, self.tile = region, node, sizes, tile
        self.precision = tiling.precision
        self.parts = dict(parts or {})
        # A tile without lanes along an axis is not cut.
        self.slices = 1 if 1 in (sizes.m, sizes.n) else tile.slices
        # The numbers of the inner axis that a program goes through, and where it starts.
        self.chunk = ceil_div(ceil_div(sizes.k, tile.k), tile.split) * tile.k
        self.piece, self.start = as_index(0), as_index(0)
        self.body = region.body(tuple(self.parts.values()))
        self.reader = region.reader(self.body)
        self.operands = Operands(self.body, self.reader, region.producers, tile.fn)
        self.dtype = node.inputs[0].type.dtype
        self.sums = _sums(region, node)
        self.of_sums = {
            v: total for total in self.sums for v in reached_from(region.nodes, [total.output])
        }

    def kernel(self) -> Kernel:
        """The kernel: which tile, the product's loop, stores."""
        batch, row, col = self._tile_of_program()
        acc = self._product(batch, row, col)
        for sliced, part in self._sliced(acc, col):
            self._give(self.node.output, self._without_unit_axes(part), (*batch, row, sliced))
            self._store((*batch, row, sliced))
        self._store_sums(row, col)
        tile = self.tile
        constants = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}
        if self.sizes.k == 0:
            del constants["BLOCK_K"]
        if self.slices > 1:
            constants["SLICE_N"] = tile.n // self.slices
        return self.region.kernel(
            self.body,
            constants,
            self.programs,
            tile.num_warps,
            tile.num_stages,
            tuple(self.parts.values()),
            "_pieces" if self.parts else "",
            in_slices=self.slices > 1,
        )

    @property
    def covered(self) -> int:
        """The numbers of the inner axis that the programs of one tile would go through."""
        return self.tile.split * self.chunk

    @property
    def blocks(self) -> tuple[int, int]:
        """How many tiles the result has along its rows and its columns."""
        return ceil_div(self.sizes.m, self.tile.m), ceil_div(self.sizes.n, self.tile.n)

    @property
    def programs(self) -> int:
        """One for each tile, and each piece of the inner axis."""
        return self.tile.split * self.sizes.batch * math.prod(self.blocks)

    def _tile_of_program(self) -> tuple[At, Index, Index]:
        """The batch index, the rows and the columns of this program's tile."""
        body, tiles = self.body, math.prod(self.blocks)
        pid = body.program_id(self.programs)
        batch = pid // tiles
        if self.tile.split > 1:
            # Pieces last, so that programs which run together share operands.
            self.piece = body.assign("piece", pid // (tiles * self.sizes.batch))
            self.start = self.piece * self.chunk
            batch = batch % self.sizes.batch
        batch = body.assign("batch", batch)
        block_m, block_n = _in_groups(pid % tiles, self.blocks, self.tile.group)
        block_m = body.assign("block_m", block_m)
        block_n = body.assign("block_n", block_n)
        self.number = (block_m, block_n)
        batch_shape = self.node.output.type.shape[:-2]
        return (
            unflatten(batch, batch_shape),
            self._lanes("rows", self.sizes.m, block_m, "BLOCK_M", self.tile.m, 0),
            self._lanes("cols", self.sizes.n, block_n, "BLOCK_N", self.tile.n, 1),
        )

    def _sliced(self, acc: Tile, col: Index) -> Iterator[tuple[Index, Tile]]:
        """The tile's pieces along its columns, each with its columns: as many as halving makes."""
        if self.slices == 1:
            yield col, acc
            return
        body, width = self.body, self.tile.n // self.slices
        total = self.blocks[1] * self.tile.n
        for number, part in enumerate(self._halved(acc, self.slices)):
            start = self.number[1] * self.tile.n + number * width
            sliced = body.add_lanes(
                "cols", self.sizes.n, start, "SLICE_N", width, 1, "[None, :]", "col_mask", total
            )
            yield sliced, part

    def _halved(self, part: Tile, pieces: int) -> Iterator[Tile]:
        if pieces == 1:
            yield part
            return
        for which in (0, 1):
            name = self.body.fresh("acc")
            # Lanes of the slice, of which this is one before it is halved any further.
            self.body.add(Half(name, part.name, which), self.body.lanes_of(part.name))
            yield from self._halved(Tile(self.body, name, part.dtype), pieces // 2)

    def _lanes(
        self, wish: str, size: int, block: Index, constant: str, width: int, axis: int
    ) -> Index:
        view = "[:, None]" if axis == 0 else "[None, :]"
        start = block * width
        mask = f"{wish.removesuffix('s')}_mask"
        return self.body.add_lanes(wish, size, start, constant, width, axis, view, mask)

    # --- The product ---

    def _product(self, batch: At, row: Index, col: Index) -> Tile:
        body = self.body
        acc = body.fill(
            0.0 if self.dtype.is_floating_point else 0,
            accumulated(self.dtype),
            ("BLOCK_M", "BLOCK_N"),
            name="acc",
        )
        if self.sizes.k == 0:
            return acc
        a_value, b_value = self.node.inputs
        totals = {n: self._total(n, operand) for n, operand in self.sums.items()}
        stop, limit = self.sizes.k, None
        if self.parts:
            stop = self.chunk
            limit = self.sizes.k - self.start if self.covered > self.sizes.k else None
        with body.loop("k", stop, "BLOCK_K", limit) as k:
            k = self.start + k
            inner_a = self._inner(k, "inner_a", 1)
            a, a_narrow = self._operand(a_value, (*batch, row, inner_a), "inner_a")
            inner_b = self._inner(k, "inner_b", 0)
            b, b_narrow = self._operand(b_value, (*batch, inner_b, col), "inner_b")
            for total, operand in self.sums.items():
                body.wish, body.loc = "", total.loc
                x = body.let("cast", (a, b)[operand], dtype=totals[total].dtype)
                body.update(totals[total], body.let("add", totals[total], x, dtype=x.dtype))
            body.wish, body.loc = "", self.node.loc
            body.add(Dot(acc.name, a_narrow.name, b_narrow.name, self.tile.fn, self.precision))
        for total, operand in self.sums.items():
            self._reduce(total, totals[total], operand, (row, col)[operand])
        return acc

    def _total(self, total: Node, operand: int) -> Tile:
        """Where a sum of an operand is added up, a tile's worth of it at a time."""
        shape = (("BLOCK_M", "BLOCK_K"), ("BLOCK_K", "BLOCK_N"))[operand]
        wish = total.output.hint if total.output.hint.isidentifier() else "sum"
        return self.body.fill(0.0, accumulated(self.dtype), shape, name=f"{wish}_so_far")

    def _reduce(self, total: Node, so_far: Tile, operand: int, at: Index) -> None:
        body, axis = self.body, 1 - operand
        body.loc = total.loc
        name = body.fresh(so_far.name.removesuffix("_so_far"))
        statement = Reduce(name, "sum", so_far.name, axis, True, so_far.dtype, (), 0.0)
        body.add(statement, body.lanes_of(at))
        self._give(total.output, Tile(body, name, total.output.type.dtype), (at,))

    def _without_unit_axes(self, acc: Tile) -> Tile:
        """`acc` without lanes along an axis of size 1: offsets have none there, nor have stores."""
        ones = [axis for axis, size in enumerate((self.sizes.m, self.sizes.n)) if size == 1]
        if not ones:
            return acc
        masks = tuple(v.mask for v in self.body.lanes.values() if v.axis in ones and v.mask)
        axis = ones[0] if len(ones) == 1 else None
        name = self.body.fresh("product")
        zero = 0.0 if self.dtype.is_floating_point else 0
        self.body.add(Reduce(name, "sum", acc.name, axis, axis is not None, acc.dtype, masks, zero))
        return Tile(self.body, name, acc.dtype)

    def _inner(self, start: Index, wish: str, axis: int) -> Index:
        view = "[:, None]" if axis == 0 else "[None, :]"
        return self.body.add_lanes(
            wish,
            self.sizes.k,
            start,
            "BLOCK_K",
            self.tile.k,
            axis,
            view,
            f"{wish}_mask",
            # The last piece ends earlier: only what is past its last whole block is masked.
            ceil_div(self.sizes.k, self.tile.k) * self.tile.k,
        )

    def _operand(self, value: Value, at: At, lanes: str) -> tuple[Tile, Tile]:
        """A tile of an operand, 0 past the end of the inner axis, and as the product takes it."""
        shape = ("BLOCK_M", "BLOCK_K") if lanes == "inner_a" else ("BLOCK_K", "BLOCK_N")
        mask = self.body.lanes[_last(self.body.lanes, lanes)].mask
        return self.operands.both(value, at, shape, (mask,) if mask else ())

    # --- After it ---

    def _give(self, value: Value, acc: Tile, own: At) -> None:
        result = Tile(self.body, acc.name, value.type.dtype)
        if self.dtype.is_integer and accumulated(self.dtype) is not self.dtype:
            result = self.body.let("cast", acc, dtype=self.dtype)
        shape = value.type.shape if len(own) == len(value.type.shape) else (value.type.numel,)
        expected = flatten(own, shape)

        def read(at: At) -> Tile:
            if flatten(at, value.type.shape) != expected:
                raise CompileError("matmul: its result is read in another order than it is made")
            return result

        self.reader.given[value] = read

    def _store(self, own: At) -> None:
        value = self.node.output
        if self.parts:
            self._store_part(self.node, flatten(own, value.type.shape))
            return
        outputs = [o for o in self.region.outputs if o[0] not in self.of_sums]
        self._stored(outputs, own, value.type.shape, places(self.region.nodes, {value: own}))

    def _store_sums(self, row: Index, col: Index) -> None:
        """In one of the programs that have each sum: the first along the other axis."""
        for total, operand in self.sums.items():
            other = self.number[1 - operand]
            if other.is_constant:
                self._store_sum(total, (row, col)[operand])
                continue
            test = self.body.test((Bound(other, None, 1),), name="is_first")
            with self.body.when(test):
                self._store_sum(total, (row, col)[operand])

    def _store_sum(self, total: Node, at: Index) -> None:
        if self.parts:
            self._store_part(total, at)
            return
        outputs = [o for o in self.region.outputs if self.of_sums.get(o[0]) is total]
        seeds = {total.output: unflatten(at, total.output.type.shape)}
        shape = (total.output.type.numel,)
        self._stored(outputs, (at,), shape, places(self.region.nodes, seeds))

    def _store_part(self, node: Node, flat: Index) -> None:
        """This program's piece of the sums that `node` makes."""
        value, param = node.output, self.parts[node]
        part = self.reader.tile(value, unflatten(flat, value.type.shape))
        at = self.piece * value.type.numel + flat
        self.body.store(param.name, at, part, self.body.masks_of(flat))

    def _stored(
        self,
        outputs: list[tuple[Value, Param]],
        own: At,
        shape: Shape,
        found: dict[Value, At],
    ) -> None:
        results = []
        for stored, param in outputs:
            at = flat_place(stored, own, shape, found)
            results.append((param, flatten(at, param.type.shape), self.reader.tile(stored, at)))
        for param, flat, result in results:
            masks = self.body.masks_of(flat)
            self.body.store(param.name, flat, result, masks)


def _in_groups(number: Index, blocks: tuple[int, int], wanted: int) -> tuple[Index, Index]:
    """The row and the column of tile `number`: groups of about `wanted` rows are gone through.

    Groups are of equal size, so that the last one is no special case; where rows cannot be grouped
    so, columns are.
    """
    sizes = [max(g for g in range(1, max(wanted, 1) + 1) if of % g == 0) for of in blocks]
    axis = 0 if 2 * sizes[0] >= min(wanted, blocks[0]) or sizes[0] >= sizes[1] else 1
    group = sizes[axis]
    one = number // (group * blocks[1 - axis]) * group + number % group
    other = number % (group * blocks[1 - axis]) // group
    return (one, other) if axis == 0 else (other, one)


def _last(lanes: dict[str, Lane], wish: str) -> str:
    """The lanes that were added last under the name `wish`, or `wish_1` and so on."""
    return [name for name in lanes if name.startswith(wish)][-1]
