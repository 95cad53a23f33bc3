"""One streaming kernel under construction: its lanes, where values are in them, and operands.

A program owns a block of one axis (BLOCK_M) and goes along the other one (BLOCK_N). A matrix that
lies along the other axis is loaded once, its rows along the axis, and transposed where it is needed
so: tensor cores read either from shared memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Barrier, Dot, Transpose
from lowgrad.codegen.operands import Operands, accumulated
from lowgrad.codegen.reader import At
from lowgrad.codegen.region import Region
from lowgrad.codegen.streamed import DoesNotFit, Streamed
from lowgrad.codegen.tiling import power_of_2
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, as_index, flatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import TensorType

# The widest inner size that a program holds at once.
WIDEST = 256
# The narrowest side that tensor cores take.
NARROWEST = 16


class StreamTiles:
    """What the writers of one kernel share.

    own: the lanes of the program's block.  batch: the indices of its matrices.
    """

    own: Index
    batch: tuple[Index, ...]

    def __init__(self, region: Region, shape: Streamed, axis: int, body: Body) -> None:
        self.region, self.shape, self.axis, self.body = region, shape, axis, body
        self.reader = region.reader(body)
        self.dots = Operands(body, self.reader, region.producers)
        self.size, self.other = shape.sizes[axis], shape.sizes[1 - axis]
        self.names = ("rows", "cols") if axis == 0 else ("cols", "rows")
        self.constants: dict[str, int] = {}
        self.precision = "ieee"
        self.flops = 0
        # The part of the other axis that the loop being written goes through, of 1.
        self.part = 1.0
        # Whether the last product in the loop being written is a score.
        self.follows_score = False
        self._features: dict[int, Index] = {}

    # --- Lanes and places ---

    def lanes(
        self,
        wish: str,
        size: int,
        start: Index,
        constant: str,
        axis: int,
        *,
        is_whole: bool = False,
    ) -> Index:
        """Lanes of a block of `size` elements, along axis `axis` of a tile.

        is_whole: whether all of them exist, wherever the block is.
        """
        view, block = ("[:, None]", "[None, :]")[axis], self.constants[constant]
        total = size if is_whole else 0
        return self.body.add_lanes(
            wish, size, start, constant, block, axis, view, f"{wish}_mask", total
        )

    def lanes_of_feature(self, size: int) -> tuple[Index, str]:
        """The lanes of an inner size, along a tile's columns, and their constant."""
        if not 1 <= size <= WIDEST:
            raise DoesNotFit(f"an inner size of {size}")
        constant = f"BLOCK_D{size}"
        self.constants.setdefault(constant, max(NARROWEST, power_of_2(size)))
        if size not in self._features:
            self._features[size] = self.lanes(f"inner{size}", size, as_index(0), constant, 1)
        return self._features[size], constant

    def feature(self, value: Value) -> tuple[Index, str]:
        """The lanes along the dim of `value` that lies along neither axis."""
        n = value.type.ndim
        taken = {self.shape.along[a].get(value) for a in (0, 1)}
        (dim,) = [d for d in (n - 2, n - 1) if d not in taken]
        return self.lanes_of_feature(value.type.shape[dim])

    def place(self, value: Value, own: Index | None, other: Index | None) -> At:
        """The index of `value` in lanes of the two axes."""
        dims = (self.shape.along[self.axis].get(value), self.shape.along[1 - self.axis].get(value))
        return self._at(value.type, dims, own, other)

    def is_matrices(self, type_: TensorType) -> bool:
        """Whether it is of as many matrices as there are scores."""
        n = len(self.shape.batch)
        return type_.ndim == n + 2 and type_.shape[:n] == self.shape.batch

    def is_own(self, at: At, value: Value) -> bool:
        """Whether `at` is where `value`, which lies along the own axis alone, was made."""
        shape = value.type.shape
        return flatten(at, shape) == flatten(self.place(value, self.own, None), shape)

    def operand_place(
        self, node: Node, position: int, own: Index | None, other: Index | None
    ) -> At:
        """The index of an operand of a product in lanes of the two axes."""
        dims = [
            self.shape.slicing[axis][node].ins[position]
            if node in self.shape.slicing[axis]
            else None
            for axis in (self.axis, 1 - self.axis)
        ]
        return self._at(node.inputs[position].type, (dims[0], dims[1]), own, other)

    def _at(
        self,
        type_: TensorType,
        dims: tuple[int | str | None, int | str | None],
        own: Index | None,
        other: Index | None,
    ) -> At:
        n = len(self.batch)
        if not self.is_matrices(type_):
            raise DoesNotFit(f"{type_} is not {self.shape.batch} matrices")
        at: list[Index] = list(self.batch)
        for dim in (n, n + 1):
            if dim == dims[0]:
                assert own is not None, "a value along the own axis is read in its lanes"
                at.append(own)
            elif dim == dims[1]:
                assert other is not None, "a value along the other axis is read in its lanes"
                at.append(other)
            elif type_.shape[dim] == 1:
                at.append(as_index(0))
            else:
                at.append(self.lanes_of_feature(type_.shape[dim])[0])
        return tuple(at)

    # --- Products ---

    def is_score(self, node: Node) -> bool:
        """Whether `node` is a product that lies along both axes."""
        is_product = node.op.family == "contraction"
        return is_product and all(self.shape.lies(node.output, axis) for axis in (0, 1))

    def sides(self, node: Node) -> tuple[int, int]:
        """Which operand of a score lies along the own axis, and which along the other one."""
        own = self.shape.slicing[self.axis][node].ins
        ours = 0 if own[0] is not None else 1
        return ours, 1 - ours

    def score(self, node: Node, across: Index, down: Index) -> Callable[[At], Tile]:
        """The block of a score in lanes of the other axis, along columns and along rows."""
        value = node.output
        expected = flatten(self.place(value, self.own, across), value.type.shape)

        def read(at: At) -> Tile:
            if flatten(at, value.type.shape) != expected:
                raise DoesNotFit("a score is read in another order than it is made")
            ours, theirs = self.sides(node)
            self.body.wish, self.body.loc = "", node.loc
            dtype = accumulated(value.type.dtype)
            acc = self.body.fill(0.0, dtype, ("BLOCK_M", "BLOCK_N"), name="scores")
            x = self.operand(node, ours, self.own, None)
            y = self.transposed(self.operand(node, theirs, None, down))
            if self.follows_score and not node.inputs[0].type.dtype.is_low_precision:
                # FMA reads its operands as it goes, unless the compiler mixes two products: then
                # it holds both products' in registers at once.
                self.body.add(Barrier())
            self.dot(node, acc, x, y)
            self.follows_score = True
            return Tile(self.body, acc.name, value.type.dtype)

        return read

    def transposed(self, x: Tile) -> Tile:
        """The tile with its axes exchanged."""
        name = self.body.fresh(f"{x.name}_t")
        self.body.add(Transpose(name, x.name), self.body.lanes_with(("BLOCK_M", "BLOCK_N")))
        return Tile(self.body, name, x.dtype)

    def dot(self, node: Node, acc: Tile, x: Tile, y: Tile) -> None:
        """acc += x @ y, a block of the product `node`."""
        self.body.wish, self.body.loc = "", node.loc
        self.body.add(Dot(acc.name, x.name, y.name, self.dots.fn, self.precision))
        inner = min(*node.output.type.shape[-2:], node.inputs[0].type.shape[-1])
        whole = 2 * math.prod(self.shape.batch) * self.size * self.other * inner
        self.flops += round(whole * self.part)

    def operand(self, node: Node, position: int, own: Index | None, other: Index | None) -> Tile:
        """An operand of a product, rounded as tensor cores take it, 0 where there is nothing."""
        value = node.inputs[position]
        at = self.operand_place(node, position, own, other)
        if own is not None:
            axes = ("BLOCK_M", "BLOCK_N" if other is not None else self._inner(node, position))
        else:
            axes = ("BLOCK_N", self._inner(node, position))
        masks = [
            lane.mask
            for lane in self.body.lanes.values()
            if lane.mask and lane.constant in axes and axes.index(lane.constant) == lane.axis
            if lane.name in {s for i in at for s in i.symbols} and lane.constant != "BLOCK_M"
        ]
        return self.dots.tile(value, at, axes, tuple(masks))

    def _inner(self, node: Node, position: int) -> str:
        """The constant of an operand's dim that lies along neither axis."""
        taken = {self.shape.slicing[axis][node].ins[position] for axis in (0, 1)}
        value = node.inputs[position]
        n = value.type.ndim
        (dim,) = [d for d in (n - 2, n - 1) if d not in taken]
        return self.lanes_of_feature(value.type.shape[dim])[1]
