"""Writes the kernel of a contraction: whose tile, the product's loop, and what is stored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lowgrad.codegen.body import Lane
from lowgrad.codegen.boxes import Matrix, matrix_of
from lowgrad.codegen.kernel import Bound, Box, Dot, Half, Kernel, LoadBox, Param, Reduce
from lowgrad.codegen.operands import Operands, accumulated
from lowgrad.codegen.reader import At
from lowgrad.codegen.region import Region, flat_place, places
from lowgrad.codegen.tiling import DotTiling, ceil_div
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import INT32_LIMIT, Index, as_index, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import Shape
from lowgrad.ir.walk import reached_from


@dataclass(frozen=True)
class Sizes:
    """`batch` products of an m x k by a k x n matrix."""

    batch: int
    m: int
    n: int
    k: int


class ContractionWriter:
    """Writes one kernel down. With `parts` it stores pieces of sums, and nothing that follows."""

    def __init__(
        self,
        region: Region,
        node: Node,
        sizes: Sizes,
        tile: DotTiling,
        precision: str,
        sums: Mapping[Node, int],
        parts: Mapping[Node, Param] | None = None,
    ) -> None:
        self.region, self.node, self.sizes, self.tile = region, node, sizes, tile
        self.precision, self.sums = precision, sums
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
        self.of_sums = {
            v: total for total in self.sums for v in reached_from(region.nodes, [total.output])
        }
        # The descriptors that operands are read by, by the constants of their tiles' shapes.
        self.boxes: dict[tuple[str, str], Param] = {}

    def kernel(self) -> Kernel:
        """The kernel: one tile for a program, or from tile to tile."""
        tile, tiles = self.tile, self.tile.split * self.sizes.batch * math.prod(self.blocks)
        programs = min(tile.programs, tiles) or tiles
        pid = self.body.program_id(programs)
        if programs == tiles:
            self._make_tile(pid)
        else:
            with self.body.loop("tile", tiles, "PROGRAMS", starts=(pid,), flat=True) as number:
                self._make_tile(number)
        constants = {"BLOCK_M": tile.m, "BLOCK_N": tile.n, "BLOCK_K": tile.k}
        if self.sizes.k == 0:
            del constants["BLOCK_K"]
        if self.slices > 1:
            constants["SLICE_N"] = tile.n // self.slices
        if programs < tiles:
            constants["PROGRAMS"] = programs
        return self.region.kernel(
            self.body,
            constants,
            programs,
            tile.num_warps,
            tile.num_stages,
            (*self.boxes.values(), *self.parts.values()),
            "_pieces" if self.parts else "",
            in_slices=self.slices > 1,
        )

    def _make_tile(self, number: Index) -> None:
        """Tile `number`: where it is, the product's loop, stores."""
        batch, row, col = self._place_of_tile(number)
        acc = self._product(batch, row, col)
        for sliced, part in self._sliced(acc, col):
            self._give(self.node.output, self._without_unit_axes(part), (*batch, row, sliced))
            self._store((*batch, row, sliced))
        self._store_sums(row, col)

    @property
    def covered(self) -> int:
        """The numbers of the inner axis that the programs of one tile would go through."""
        return self.tile.split * self.chunk

    @property
    def blocks(self) -> tuple[int, int]:
        """How many tiles the result has along its rows and its columns."""
        return ceil_div(self.sizes.m, self.tile.m), ceil_div(self.sizes.n, self.tile.n)

    def _place_of_tile(self, number: Index) -> tuple[At, Index, Index]:
        """The batch index, the rows and the columns of a tile."""
        body, tiles = self.body, math.prod(self.blocks)
        batch = number // tiles
        if self.tile.split > 1:
            # Pieces last, so that programs which run together share operands.
            self.piece = body.assign("piece", number // (tiles * self.sizes.batch))
            self.start = self.piece * self.chunk
            batch = batch % self.sizes.batch
        batch = body.assign("batch", batch)
        block_m, block_n = _in_groups(number % tiles, self.blocks, self.tile.group)
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
        stop = self.chunk if self.parts else self.sizes.k
        is_cut = self.parts and self.covered > self.sizes.k
        limits = (stop, self.sizes.k - self.start) if is_cut else ()
        with body.loop("k", stop, "BLOCK_K", limits=limits) as k:
            k = self.start + k
            a, a_narrow = self._left(a_value, batch, row, k)
            b, b_narrow = self._right(b_value, batch, k, col)
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

    def _left(self, value: Value, batch: At, row: Index, k: Index) -> tuple[Tile, Tile]:
        """A tile of the first operand from column `k` on, computed and as the product takes it."""
        if matrix := self._matrix(value, batch):
            start = self.number[0] * self.tile.m
            return self._boxed(matrix, value, (start, k), ("BLOCK_M", "BLOCK_K"))
        inner = self._inner(k, "inner_a", 1)
        return self._operand(value, (*batch, row, inner), "inner_a")

    def _right(self, value: Value, batch: At, k: Index, col: Index) -> tuple[Tile, Tile]:
        """A tile of the second operand from row `k` on, computed and as the product takes it."""
        if matrix := self._matrix(value, batch):
            start = self.number[1] * self.tile.n
            return self._boxed(matrix, value, (k, start), ("BLOCK_K", "BLOCK_N"))
        inner = self._inner(k, "inner_b", 0)
        return self._operand(value, (*batch, inner, col), "inner_b")

    def _matrix(self, value: Value, batch: At) -> Matrix | None:
        """How a descriptor reads an operand, if it can: blocks of the inner axis must be whole."""
        is_whole = self.sizes.k % self.tile.k == 0 and self.tile.fn == "dot"
        if not self.tile.boxes or not is_whole or self.node.output.type.numel >= INT32_LIMIT:
            return None
        return matrix_of(self.region.producers, value, batch)

    def _boxed(
        self, matrix: Matrix, value: Value, at: tuple[Index, Index], shape: tuple[str, str]
    ) -> tuple[Tile, Tile]:
        """The block of an operand at its row and column `at`, twice: as the product takes it."""
        body, size = self.body, {"BLOCK_M": self.tile.m, "BLOCK_N": self.tile.n}
        height, width = (size.get(s, self.tile.k) for s in shape)
        row, col = at
        if matrix.is_transposed:
            row, col, height, width = col, row, width, height
        box = Box((matrix.height, matrix.width), (height, width))
        source = self.region.inputs[matrix.source]
        param = self.boxes.get(shape)
        if param is None:
            name = body.fresh(f"{source.name.removesuffix('_ptr')}_desc")
            param = self.boxes[shape] = Param(name, source.type, "in", source.value, box)
        name = body.fresh(source.name.removesuffix("_ptr"))
        place = (matrix.row + row, matrix.col + col)
        dtype = value.type.dtype
        load = LoadBox(name, param.name, place, dtype, matrix.is_transposed)
        body.add(load, body.lanes_with(shape))
        tile = Tile(body, name, dtype)
        return tile, tile

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
