"""Row loops in one or two launches: nothing of the size of a score matrix leaves the chip.

Attention and its kin are products [rows, inner] @ [inner, columns] whose results, row by row, are
turned into something that other products sum up again. A program owns a block of rows and goes
through the columns block by block, making each block of scores where it needs it; each sum over the
columns that depends on another one takes one more pass. What is summed over the rows instead (the
gradients of keys and values) is made by a second kernel whose programs own columns.

Everything follows from the loop's body: which ops are sliced along the rows and along the columns,
and which combine over them. No function is known by name.
Source: Dao et al. 2022, "FlashAttention", without the rescaling that saves one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Dot, Kernel, Param, Reduce
from lowgrad.codegen.operands import Operands, accumulated
from lowgrad.codegen.reader import At
from lowgrad.codegen.region import Region, region_of
from lowgrad.codegen.tiling import DotTiling, Tiling, ceil_div, dot_tiling, power_of_2
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.index import Index, as_index, flatten, unflatten
from lowgrad.ir.slicing import Axis, Place, Slicing
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import Shape, TensorType
from lowgrad.ops.reduction import Reduction

# The widest inner size that a program holds at once.
WIDEST = 256


class DoesNotFit(Exception):
    """Why a loop cannot be streamed: it is then launched chunk by chunk."""


def stream(node: Node, tiling: Tiling) -> tuple[Kernel, ...]:
    """The kernels of the loop `node`, none if it does not fit."""
    shape = _shape_of(node)
    if shape is None:
        return ()
    try:
        return _kernels(node, shape, tiling)
    except DoesNotFit:
        return ()


@dataclass(frozen=True, eq=False)
class Streamed:
    """What a loop's body is to this skeleton.

    along[axis][value]: the dim of `value` that goes along the rows (axis 0) or columns (axis 1),
    or by what its partial results are combined.  slicing: the same, by node, for its operands.
    """

    batch: Shape
    sizes: tuple[int, int]
    along: tuple[Mapping[Value, int | str | None], Mapping[Value, int | str | None]]
    slicing: tuple[Mapping[Node, Slicing], Mapping[Node, Slicing]]

    def sums(self, node: Node, axis: int) -> bool:
        """Whether `node` combines what lies along `axis`."""
        return isinstance(self.along[axis].get(node.outputs[0]), str)

    def lies(self, value: Value, axis: int) -> bool:
        """Whether `value` has a dim along `axis`."""
        return isinstance(self.along[axis].get(value), int)


@lru_cache(maxsize=256)
def _shape_of(node: Node) -> Streamed | None:
    body: Graph = node.attrs["body"]
    products = [n for n in body.nodes if n.op.family == "contraction"]
    if not products:
        return None
    seed = max(products, key=lambda n: n.output.type.numel).output
    last = seed.type.ndim - 1
    sizes = seed.type.shape[-2:]
    if min(sizes) < 2:
        return None
    constant = _constants(body)
    found = [_labelled(body, seed, last - 1 + axis, sizes[axis], constant) for axis in (0, 1)]
    if None in found:
        return None
    (rows, by_rows), (columns, by_columns) = (f for f in found if f is not None)
    return Streamed(
        seed.type.shape[:-2], (sizes[0], sizes[1]), (rows, columns), (by_rows, by_columns)
    )


def _constants(body: Graph) -> set[Value]:
    found: set[Value] = set()
    for node in body.nodes:
        if node.op.family == "create" or (node.inputs and found.issuperset(node.inputs)):
            found.update(node.outputs)
    return found


def _labelled(
    body: Graph, seed: Value, dim: int, steps: int, constant: set[Value]
) -> tuple[dict[Value, int | str | None], dict[Node, Slicing]] | None:
    """The dim along which each value is sliced with `seed`, and how each node is."""
    maker = {v: n for n in body.nodes for v in n.outputs}
    users: dict[Value, list[Node]] = {}
    for node in body.nodes:
        for value in dict.fromkeys(node.inputs):
            users.setdefault(value, []).append(node)
    labels: dict[Value, int | str | None] = {seed: dim}
    slicing: dict[Node, Slicing] = {}
    todo = [seed]
    while todo:
        value = todo.pop()
        at = labels[value]
        if not isinstance(at, int):
            continue
        places = [(u, Place(False, u.inputs.index(value), at)) for u in users.get(value, ())]
        if value in maker:
            places.append((maker[value], Place(True, maker[value].outputs.index(value), at)))
        for node, place in places:
            if node in slicing:
                continue
            ins, outs = (tuple(v.type for v in vs) for vs in (node.inputs, node.outputs))
            found = node.op.slicing(Axis(place, steps, ins, outs), **node.attrs)
            if found is None and place.is_result and node.op.family == "view":
                continue  # an index map finds its elements wherever they are
            if found is None:
                return None
            slicing[node] = found
            pairs = zip((*node.inputs, *node.outputs), (*found.ins, *found.outs), strict=True)
            for other, label in pairs:
                if other in constant or label is None:
                    continue
                if labels.setdefault(other, label) != label:
                    return None
                # Who else reads an operand from memory reads it as it likes.
                if other not in todo and other in maker:
                    todo.append(other)
    return labels, slicing


# --- Two kernels -------------------------------------------------------------------------------


def _kernels(node: Node, shape: Streamed, tiling: Tiling) -> tuple[Kernel, ...]:
    region = region_of(node)
    by_rows: list[tuple[Value, Param]] = []
    by_columns: list[tuple[Value, Param]] = []
    for own, param in region.outputs:
        rows, columns = (shape.lies(own, axis) for axis in (0, 1))
        if rows == columns:
            raise DoesNotFit("an output lies along both the rows and the columns, or neither")
        (by_rows if rows else by_columns).append((own, param))
    scratch = _handed_over(region, shape, [own for own, _ in by_columns])
    kernels = []
    stored = (*by_rows, *((p.value, p) for p in scratch))
    if stored:
        first = replace(region, outputs=stored)
        kernels.append(_Program(first, shape, 0, tiling, tuple(scratch)).kernel())
    if by_columns:
        known = {**region.inputs, **dict(by_rows), **{p.value: p for p in scratch}}
        second = replace(region, inputs=known, outputs=tuple(by_columns))
        kernels.append(_Program(second, shape, 1, tiling, tuple(scratch)).kernel())
    return tuple(kernels)


def _handed_over(region: Region, shape: Streamed, wanted: Iterable[Value]) -> list[Param]:
    """What the second kernel needs of the first: values for each row that sums over columns make.

    Those that are outputs of the loop anyway are read from there.
    """
    level = _levels(region.nodes, shape, 0)
    outputs = {own for own, _ in region.outputs}
    producers = region.producers
    found: dict[Value, Param] = {}
    seen: set[Value] = set()
    todo = list(wanted)
    while todo:
        value = todo.pop()
        if value in seen or value not in producers:
            continue
        seen.add(value)
        if level[value] and not shape.lies(value, 1):
            if shape.lies(value, 0) and value not in outputs:
                name = f"kept{len(found)}_ptr"
                found[value] = Param(name, value.type, "scratch", value)
            continue
        todo += producers[value].inputs
    return list(found.values())


def _levels(nodes: Iterable[Node], shape: Streamed, axis: int) -> dict[Value, int]:
    """How many sums over the other axis there are, one after another, before each value."""
    level: dict[Value, int] = {}
    for node in nodes:
        before = max((level.get(v, 0) for v in node.inputs), default=0)
        for value in node.outputs:
            level[value] = before + (shape.sums(node, 1 - axis) or _is_inner(node, shape, axis))
    return level


def _is_inner(node: Node, shape: Streamed, axis: int) -> bool:
    """Whether `node` reduces the inner size of what lies along `axis` only."""
    if node.op.family != "reduction":
        return False
    (value,) = node.inputs
    lies = [shape.lies(value, a) for a in (axis, 1 - axis)]
    return lies == [True, False] and shape.lies(node.outputs[0], axis)


# --- One kernel --------------------------------------------------------------------------------


class _Program:
    """Writes one kernel, whose programs own a block of `axis` and loop over the other one."""

    def __init__(
        self,
        region: Region,
        shape: Streamed,
        axis: int,
        tiling: Tiling,
        scratch: tuple[Param, ...],
    ) -> None:
        self.region, self.shape, self.axis, self.scratch = region, shape, axis, scratch
        self.body: Body = region.body(scratch)
        self.reader = region.reader(self.body)
        self.producers = region.producers
        self.dots = Operands(self.body, self.reader, self.producers)
        self.tiling = tiling
        self.size, self.other = shape.sizes[axis], shape.sizes[1 - axis]
        self.names = ("rows", "cols") if axis == 0 else ("cols", "rows")
        self.constants: dict[str, int] = {}
        self.features: dict[tuple[int, int], Index] = {}
        self.flops = 0

    def kernel(self) -> Kernel:
        """The kernel: which block, the passes over the other axis, stores."""
        passes = self._passes()
        self.tile = self._tiling()
        self.constants |= {"BLOCK_M": self.tile.m, "BLOCK_N": self.tile.n}
        blocks = ceil_div(self.size, self.tile.m)
        programs = math.prod(self.shape.batch) * blocks
        pid = self.body.program_id(programs)
        self.batch = unflatten(self.body.assign("batch", pid // blocks), self.shape.batch)
        block = self.body.assign("block", pid % blocks)
        self.own = self._lanes(self.names[0], self.size, block * self.tile.m, "BLOCK_M", 0)
        for node in self._needed():
            self._prepare(node)
        for targets in passes:
            self._pass(targets)
        for value, param in self.region.outputs:
            at = self._place(value, self.own, None, 1)
            flat = flatten(at, param.type.shape)
            result = self.reader.tile(value, at)
            self.body.store(param.name, flat, result, self.body.masks_of(flat))
        suffix = "" if self.axis == 0 else "_by_columns"
        tile, more = self.tile, self.scratch
        made = self.region.kernel(
            self.body, self.constants, programs, tile.num_warps, tile.num_stages, more, suffix
        )
        return replace(made, flops=self.flops)

    def _tiling(self) -> DotTiling:
        products = [n for n in self.region.nodes if n.op.family == "contraction"]
        dtype = products[0].inputs[0].type.dtype
        widest = 0
        for node in products:
            *_, m, k = node.inputs[0].type.shape
            n = node.output.type.shape[-1]
            large = sorted((m, k, n))
            if large[0] > WIDEST:
                raise DoesNotFit(f"a product of {m} x {k} x {n} has no side that a program holds")
            widest = max(widest, large[0])
        tile = dot_tiling(self.size, self.other, widest, dtype, self.tiling)
        self.dots.fn = tile.fn
        if tile.fn == "multiply":
            return tile
        # Several products are held at once. f32 ones are made without tensor cores, from registers:
        # larger blocks, or fewer warps, spill more.
        most, stages = ((128, 64), 2) if dtype.is_low_precision else ((16, 64), 1)
        m, n = self.tiling.m or min(tile.m, most[0]), self.tiling.n or min(tile.n, most[1])
        return replace(tile, m=m, n=n, num_warps=8, num_stages=stages)

    # --- Which sums in which pass ---

    def _passes(self) -> list[list[Node]]:
        """The nodes that sum over the other axis, by pass."""
        level = _levels(self.region.nodes, self.shape, self.axis)
        known = self.region.inputs
        needed = self._needed()
        passes: dict[int, list[Node]] = {}
        for node in needed:
            if node.op.family not in ("contraction", "reduction"):
                continue
            if node.outputs[0] in known:
                continue
            if self.shape.sums(node, 1 - self.axis):
                if not self.shape.lies(node.outputs[0], self.axis):
                    raise DoesNotFit("a sum over both axes")
                passes.setdefault(level[node.outputs[0]] - 1, []).append(node)
            elif _is_inner(node, self.shape, self.axis):
                self.reader.given[node.outputs[0]] = self._inner_sum(node)
            elif node.op.family == "reduction" or self.shape.sums(node, self.axis):
                raise DoesNotFit(f"{node.op.name} in between sums over something else")
        return [passes[i] for i in sorted(passes)]

    def _prepare(self, node: Node) -> None:
        """Make the lanes of inner sizes before all loops, so that each has them."""
        if node.op.family != "contraction":
            return
        if self._is_score(node):
            size = node.inputs[0].type.shape[-1]
            self._lanes_of_feature(size, 1)
            self._lanes_of_feature(size, 0)
        else:
            self._feature(node.output, 1)

    def _needed(self) -> list[Node]:
        """What the outputs depend on, in order."""
        found: set[Node] = set()
        todo = [value for value, _ in self.region.outputs]
        while todo:
            value = todo.pop()
            node = self.producers.get(value)
            if value in self.region.inputs or node is None or node in found:
                continue
            found.add(node)
            todo += node.inputs
        return [node for node in self.region.nodes if node in found]

    # --- One pass ---

    def _pass(self, targets: list[Node]) -> None:
        totals = [(node, self._start(node)) for node in targets]
        self._read_before(targets)
        with self.body.loop("start", self.other, "BLOCK_N") as start:
            across = self._lanes(self.names[1], self.other, start, "BLOCK_N", 1)
            down = self._lanes(f"{self.names[1]}_down", self.other, start, "BLOCK_N", 0)
            for product in self.region.nodes:
                if product.op.family == "contraction" and self._is_score(product):
                    self.reader.given[product.output] = self._score(product, across)
            for node, total in totals:
                if node.op.family == "contraction":
                    self._add_product(node, total, across, down)
                else:
                    self._add_reduced(node, total, across)
        for product in self.region.nodes:
            if product.op.family == "contraction" and self._is_score(product):
                del self.reader.given[product.output]
        for node, total in totals:
            self.reader.given[node.outputs[0]] = self._given(node, total)

    def _read_before(self, targets: list[Node]) -> None:
        """Load what does not change over the pass before its loop; inside it is then known."""
        seen: set[Value] = set()
        todo = [value for node in targets for value in node.inputs]
        while todo:
            value = todo.pop()
            node = self.producers.get(value)
            if value in seen or value in self.reader.given:
                continue
            seen.add(value)
            if value in self.region.inputs or node is None:
                continue
            if node.op.family == "contraction" and self._is_score(node):
                self._operand(node, self._sides(node)[0], self.own, None, 1)
            todo += node.inputs
            narrow = [v for v in node.inputs if v in self.region.inputs or v in self.reader.given]
            for v in narrow if node.op.name == "expand" else ():
                if self.shape.lies(v, self.axis) and not self.shape.lies(v, 1 - self.axis):
                    self.reader.value(v, self._place(v, self.own, None, 1))

    def _inner_sum(self, node: Node) -> Callable[[At], Tile]:
        """A reduction over the inner size, of the program's own block."""

        def read(at: At) -> Tile:
            body, (value,) = self.body, node.inputs
            assert isinstance(node.op, Reduction), "reductions are of their family"
            lanes, constant = self._feature(value, 1)
            inside = self._place(value, self.own, None, 1)
            if flatten(at, node.outputs[0].type.shape) != flatten(
                self._place(node.outputs[0], self.own, None, 1), node.outputs[0].type.shape
            ):
                raise DoesNotFit("a sum is read in another order than it is made")
            shape = ("BLOCK_M", constant)
            x = body.broadcast(self.reader.tile(value, inside), shape, value.type.dtype)
            masks = tuple(m for m in body.masks_of(lanes) if m)
            name = body.fresh(node.op.name)
            dtype = accumulated(value.type.dtype)
            identity = node.op.identity(dtype)
            body.add(
                Reduce(name, node.op.name, x.name, 1, True, dtype, masks, identity),
                body.lanes_of(self.own),
            )
            return Tile(body, name, value.type.dtype)

        return read

    def _is_score(self, node: Node) -> bool:
        return all(self.shape.lies(node.output, axis) for axis in (0, 1))

    def _start(self, node: Node) -> Tile:
        value = node.outputs[0]
        self.body.wish, self.body.loc = "", node.loc
        if node.op.family == "contraction":
            constant = self._feature(value, 1)[1]
            dtype = accumulated(value.type.dtype)
            return self.body.fill(0.0, dtype, ("BLOCK_M", constant), name="total")
        assert isinstance(node.op, Reduction), "reductions are of their family"
        dtype = accumulated(value.type.dtype)
        start = node.op.identity(dtype)
        return self.body.fill(start, dtype, ("BLOCK_M", "1"), name=node.op.name)

    def _given(self, node: Node, total: Tile) -> Callable[[At], Tile]:
        value = node.outputs[0]
        expected = flatten(self._place(value, self.own, None, 1), value.type.shape)

        def read(at: At) -> Tile:
            if flatten(at, value.type.shape) != expected:
                raise DoesNotFit("a sum is read in another order than it is made")
            return Tile(self.body, total.name, value.type.dtype)

        return read

    def _score(self, node: Node, across: Index) -> Callable[[At], Tile]:
        """The block of a product that lies along both axes."""
        value = node.output
        expected = flatten(self._place(value, self.own, across, 1), value.type.shape)

        def read(at: At) -> Tile:
            if flatten(at, value.type.shape) != expected:
                raise DoesNotFit("a score is read in another order than it is made")
            ours, theirs = self._sides(node)
            x = self._operand(node, ours, self.own, None, 1)
            y = self._operand(node, theirs, None, across, 0)
            dtype = accumulated(value.type.dtype)
            self.body.wish, self.body.loc = "", node.loc
            acc = self.body.fill(0.0, dtype, ("BLOCK_M", "BLOCK_N"), name="scores")
            self._dot(node, acc, x, y)
            return Tile(self.body, acc.name, value.type.dtype)

        return read

    def _sides(self, node: Node) -> tuple[int, int]:
        """Which operand lies along the own axis, and which along the other one."""
        own = self.shape.slicing[self.axis][node].ins
        ours = 0 if own[0] is not None else 1
        return ours, 1 - ours

    def _add_product(self, node: Node, total: Tile, across: Index, down: Index) -> None:
        """total += the block of scores @ the other operand's block."""
        ours = next(
            i
            for i in (0, 1)
            if all(self.shape.slicing[axis][node].ins[i] is not None for axis in (0, 1))
        )
        theirs = 1 - ours
        if self.shape.slicing[self.axis][node].ins[theirs] is not None:
            raise DoesNotFit("both operands of a sum lie along the rows")
        weights = self._operand(node, ours, self.own, across, 1)
        rest = self._operand(node, theirs, None, down, 1)
        self._dot(node, total, weights, rest)

    def _dot(self, node: Node, acc: Tile, x: Tile, y: Tile) -> None:
        self.body.wish, self.body.loc = "", node.loc
        self.body.add(Dot(acc.name, x.name, y.name, self.tile.fn, self.tiling.precision))
        inner = min(*node.output.type.shape[-2:], node.inputs[0].type.shape[-1])
        self.flops += 2 * math.prod(self.shape.batch) * self.size * self.other * inner

    def _operand(
        self, node: Node, position: int, own: Index | None, other: Index | None, feature: int
    ) -> Tile:
        value = node.inputs[position]
        at = self._operand_place(node, position, own, other, feature)
        if own is not None:
            axes = ["BLOCK_M", "BLOCK_N" if other is not None else self._inner(node, value)]
        elif feature == 0:
            axes = [self._inner(node, value), "BLOCK_N"]
        else:
            axes = ["BLOCK_N", self._inner(node, value)]
        masks = [
            lane.mask
            for lane in self.body.lanes.values()
            if lane.mask and lane.constant in axes and axes.index(lane.constant) == lane.axis
            if lane.name in {s for i in at for s in i.symbols} and lane.constant != "BLOCK_M"
        ]
        return self.dots.tile(value, at, (axes[0], axes[1]), tuple(masks))

    def _inner(self, node: Node, value: Value) -> str:
        """The constant of an operand's dim that lies along neither axis."""
        position = node.inputs.index(value)
        taken = {self.shape.slicing[axis][node].ins[position] for axis in (0, 1)}
        n = value.type.ndim
        (dim,) = [d for d in (n - 2, n - 1) if d not in taken]
        return self._lanes_of_feature(value.type.shape[dim], 1)[1]

    # --- Indices ---

    def _lanes(self, wish: str, size: int, start: Index, constant: str, axis: int) -> Index:
        view = "[:, None]" if axis == 0 else "[None, :]"
        block = self.constants[constant]
        return self.body.add_lanes(wish, size, start, constant, block, axis, view, f"{wish}_mask")

    def _lanes_of_feature(self, size: int, axis: int) -> tuple[Index, str]:
        if not 2 <= size <= WIDEST:
            raise DoesNotFit(f"an inner size of {size}")
        constant = f"BLOCK_D{size}"
        self.constants.setdefault(constant, max(16, power_of_2(size)))
        if (size, axis) not in self.features:
            wish = f"inner{size}" if axis else f"inner{size}_down"
            self.features[size, axis] = self._lanes(wish, size, as_index(0), constant, axis)
        return self.features[size, axis], constant

    def _feature(self, value: Value, axis: int) -> tuple[Index, str]:
        """The lanes along the dim of `value` that lies along neither axis."""
        n = value.type.ndim
        taken = {self.shape.along[a].get(value) for a in (0, 1)}
        (dim,) = [d for d in (n - 2, n - 1) if d not in taken]
        return self._lanes_of_feature(value.type.shape[dim], axis)

    def _place(self, value: Value, own: Index | None, other: Index | None, feature: int) -> At:
        dims = (self.shape.along[self.axis].get(value), self.shape.along[1 - self.axis].get(value))
        return self._at(value.type, dims, own, other, feature)

    def _operand_place(
        self, node: Node, position: int, own: Index | None, other: Index | None, feature: int
    ) -> At:
        dims = [
            self.shape.slicing[axis][node].ins[position]
            if node in self.shape.slicing[axis]
            else None
            for axis in (self.axis, 1 - self.axis)
        ]
        return self._at(node.inputs[position].type, (dims[0], dims[1]), own, other, feature)

    def _at(
        self,
        type_: TensorType,
        dims: tuple[int | str | None, int | str | None],
        own: Index | None,
        other: Index | None,
        feature: int,
    ) -> At:
        n = len(self.batch)
        if type_.ndim != n + 2 or type_.shape[:n] != self.shape.batch:
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
                at.append(self._lanes_of_feature(type_.shape[dim], feature)[0])
        return tuple(at)

    def _add_reduced(self, node: Node, total: Tile, across: Index) -> None:
        """total = total combined with this block's."""
        assert isinstance(node.op, Reduction), "reductions are of their family"
        body, (value,) = self.body, node.inputs
        at = self._place(value, self.own, across, 1)
        x = body.broadcast(self.reader.tile(value, at), ("BLOCK_M", "BLOCK_N"), value.type.dtype)
        masks = tuple(
            lane.mask
            for lane in body.lanes.values()
            if lane.mask and lane.constant == "BLOCK_N" and lane.axis == 1
        )
        body.wish, body.loc = "", node.loc
        name = body.fresh(f"block_{node.op.name}")
        identity = node.op.identity(total.dtype)
        body.add(
            Reduce(name, node.op.name, x.name, 1, True, total.dtype, masks, identity),
            body.lanes_of(self.own),
        )
        part = Tile(body, name, total.dtype)
        body.update(total, body.let(node.op.combine, total, part, dtype=total.dtype))
