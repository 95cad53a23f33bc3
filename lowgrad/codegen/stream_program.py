"""One streaming kernel: programs own a block of one axis and go through the other, pass by pass.

Each sum along the other axis that depends on another one takes one more pass, unless it only is
relative to it (`stream_online.py`). A pass leaves out the blocks in which, by their position alone,
nothing counts, and goes in a loop of its own through those in which everything does: there, masks
are neither computed nor applied (`positions.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from lowgrad.codegen.kernel import Bound, Kernel, Param
from lowgrad.codegen.positions import Part, Positions, Span, span
from lowgrad.codegen.reader import At, Pulled
from lowgrad.codegen.region import Region
from lowgrad.codegen.stream_blocks import inner_size, stream_tiling
from lowgrad.codegen.stream_online import Rescaled, passes_of
from lowgrad.codegen.stream_sums import add_block, adds_nothing, finished, inner_sum, start, summed
from lowgrad.codegen.stream_tiles import WIDEST, StreamTiles
from lowgrad.codegen.streamed import DoesNotFit, Streamed, is_inner
from lowgrad.codegen.tiling import Tiling, ceil_div
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, Symbol, flatten, unflatten
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import bool_, float32

# What positions are called where no program is written yet.
OWN, OTHER = "own", "other"
# Wider products fill the registers, and take so long that the rest costs little beside them.
WIDEST_WITH_ROOM = 128


class StreamProgram:
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
        self.body = region.body(scratch)
        self.tiles = StreamTiles(region, shape, axis, self.body)
        self.reader = self.tiles.reader
        self.producers = region.producers
        self.positions = Positions(self.producers, region.inputs)
        self.needed = self._needed()
        self.tiling = tiling

    def kernel(self) -> Kernel:
        """The kernel: which block, the passes over the other axis, stores."""
        t, body = self.tiles, self.body
        passes = self._passes()
        self._require_fit()
        tile = stream_tiling(self.needed, self.shape, self.axis, self.tiling)
        t.dots.fn, t.precision = tile.fn, self.tiling.precision
        t.constants |= {"BLOCK_M": tile.m, "BLOCK_N": tile.n}
        self.block_size, self.step = tile.m, tile.n
        products = [n for n in self.needed if n.op.family == "contraction"]
        self.has_room = all(inner_size(n) <= WIDEST_WITH_ROOM for n in products)
        # Tensor cores are so fast that each instruction for a score counts.
        self.is_fast = self.has_room and all(
            n.inputs[0].type.dtype.is_low_precision for n in products
        )
        if self.has_room:
            # Two instructions instead of five: what is less than 2^-126 is 0.
            body.stand_ins["exp"] = "quick_exp"
        blocks = ceil_div(t.size, tile.m)
        programs = math.prod(self.shape.batch) * blocks
        pid = body.program_id(programs)
        t.batch = unflatten(body.assign("batch", pid // blocks), self.shape.batch)
        self.blocks = blocks
        self.block = body.assign("block", pid % blocks)
        t.own = t.lanes(t.names[0], t.size, self.block * tile.m, "BLOCK_M", 0)
        for node in self.needed:
            self._prepare(node)
        later = self._after({v for targets in passes for n in targets for v in n.outputs})
        # What is only for the next kernel takes no registers during the passes.
        early = [p.value for p in self.scratch if p.value not in later]
        self._store(v for v, _ in self.region.outputs if v in early)
        for targets in passes:
            self._pass(targets)
        self._store(v for v, _ in self.region.outputs if v not in early)
        suffix = "" if self.axis == 0 else "_by_columns"
        made = replace(self.region, nodes=tuple(self.needed)).kernel(
            body, t.constants, programs, tile.num_warps, tile.num_stages, self.scratch, suffix
        )
        return replace(made, flops=t.flops)

    def _store(self, values: Iterable[Value]) -> None:
        """Write outputs to where they belong."""
        wanted = set(values)
        for value, param in self.region.outputs:
            if value in wanted:
                at = self.tiles.place(value, self.tiles.own, None)
                flat = flatten(at, param.type.shape)
                masks = self.body.masks_of(flat)
                self.body.store(param.name, flat, self.reader.tile(value, at), masks)

    def _after(self, sums: set[Value]) -> set[Value]:
        """The values that depend on `sums`, and these."""
        found = set(sums)
        for node in self.needed:
            if not found.isdisjoint(node.inputs):
                found.update(node.outputs)
        return found

    def _require_fit(self) -> None:
        """Raise DoesNotFit unless each product has a side that a program holds."""
        for node in self.needed:
            if node.op.family == "contraction" and inner_size(node) > WIDEST:
                raise DoesNotFit(f"no side of {node} is held by a program")

    # --- Which sums in which pass ---

    def _passes(self) -> list[list[Node]]:
        """The nodes that sum over the other axis, by pass."""
        found = passes_of(self.needed, self.producers, self.shape, self.axis)
        self.early = found.early
        passes: dict[int, list[Node]] = {}
        for node in self.needed:
            if node.op.family not in ("contraction", "reduction"):
                continue
            if self.shape.sums(node, 1 - self.axis):
                if not self.shape.lies(node.outputs[0], self.axis):
                    raise DoesNotFit("a sum over both axes")
                passes.setdefault(found.of[node], []).append(node)
            elif is_inner(node, self.shape, self.axis):
                self.reader.given[node.outputs[0]] = inner_sum(self.tiles, node)
            elif node.op.family == "reduction" or self.shape.sums(node, self.axis):
                raise DoesNotFit(f"{node.op.name} in between sums over something else")
        return [passes[i] for i in sorted(passes)]

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

    def _prepare(self, node: Node) -> None:
        """Make the lanes of inner sizes before all loops, and say what masks test."""
        t = self.tiles
        if t.is_score(node):
            t.lanes_of_feature(node.inputs[0].type.shape[-1])
        elif node.op.family == "contraction":
            t.feature(node.output)
        elif node.output.type.dtype is bool_ and node.op.family == "pointwise":
            self._by_position(node)
        elif node.op.name == "exp" and self.is_fast:
            self._relative(node)

    def _relative(self, node: Node) -> None:
        """exp(x - shift), a shift for each place of the own axis, as 2^(x log2(e) - shift log2(e)).

        That is one instruction before the power. Its error of up to 2^-24 x is nothing beside the
        rounding of a product's 16-bit operands. Of a mask's -1e9 it would be everything.
        """
        difference = self.producers.get(node.inputs[0])
        if difference is None or difference.op.name != "sub":
            return
        x, shift = difference.inputs
        made = self.producers.get(shift)
        if made is None or made.op.name != "expand" or not self._is_rounded(x):
            return
        if self.shape.lies(made.inputs[0], 1 - self.axis):
            return  # it would change with each turn, and take registers of its own

        def read(at: At) -> Pulled:
            body, dtype = self.body, node.output.type.dtype
            tiles = [self.reader.tile(v, at) for v in (x, shift)]
            body.wish, body.loc = "", difference.loc
            start = body.let("mul", tiles[1], -math.log2(math.e), dtype=float32, name="origin")
            body.wish, body.loc = "exp", node.loc
            return body.let("exp_from", tiles[0], start, dtype=dtype)

        self.reader.given[node.output] = read

    def _is_rounded(self, value: Value) -> bool:
        """Whether it is a product but for a factor, and -inf where it is masked."""
        node = self.producers.get(value)
        if node is None or node.op.family == "contraction":
            return node is not None
        if node.op.name not in ("cast", "mul", "div", "where"):
            return False
        values = node.inputs[1:] if node.op.name == "where" else node.inputs
        at = tuple(_anywhere(f"place{i}", n) for i, n in enumerate(value.type.shape))
        numbers = {v: self.positions.known(v, at) for v in values}
        if node.op.name == "where" and not {None, -math.inf}.issuperset(numbers.values()):
            return False
        rest = [v for v, number in numbers.items() if number is None]
        return len(rest) == 1 and self._is_rounded(rest[0])

    def _by_position(self, node: Node) -> None:
        """A comparison of positions is one of offsets, without arrays of them."""

        def read(at: At) -> Pulled:
            if (known := self.positions.known(node.output, at)) is not None:
                return bool(known)
            condition = self.positions.condition(node, at)
            assert condition is not None, "it is one of positions, wherever it is asked for"
            self.body.wish, self.body.loc = node.op.name, node.loc
            expr, low, high = condition.expr, condition.low, condition.high
            name = self.body.test((Bound(expr, low, high),), name=node.op.name)
            return Tile(self.body, name, bool_)

        # Whether it is one follows from the graph, not from the place that is asked for.
        at = tuple(_anywhere(f"place{i}", n) for i, n in enumerate(node.output.type.shape))
        if self.positions.condition(node, at) is not None:
            self.reader.given[node.output] = read

    # --- One pass ---

    def _pass(self, targets: list[Node]) -> None:
        t = self.tiles
        totals = {node: start(t, node) for node in targets}
        rescaled = Rescaled(t, self.early, totals)
        self._read_before(targets)
        where = self._span(targets)
        for part, share in self._parts(where):
            t.part = share
            self._loop(part, where, totals, rescaled)
        for node, total in totals.items():
            self.reader.given[node.outputs[0]] = finished(t, node, total)

    def _loop(
        self, part: Part, span: Span, totals: Mapping[Node, Tile], rescaled: Rescaled
    ) -> None:
        """One loop over blocks of the other axis, which adds them to `totals`."""
        t, is_whole = self.tiles, part.is_whole
        with self.body.loop(
            "start", t.other, "BLOCK_N", limits=part.limits, starts=part.starts
        ) as begin:
            across = t.lanes(t.names[1], t.other, begin, "BLOCK_N", 1, is_whole=is_whole)
            down = t.lanes(f"{t.names[1]}_down", t.other, begin, "BLOCK_N", 0, is_whole=is_whole)
            facts = span.facts if is_whole else ()
            self.positions.assume({f.condition(t.own, across): f.truth for f in facts})
            scores = [n for n in self.needed if t.is_score(n)]
            t.follows_score = False
            for node in scores:
                self.reader.given[node.output] = t.score(node, across, down)
            rescaled.begin_block(across)
            for node, total in totals.items():
                if node not in rescaled.anchors:
                    add_block(t, node, total, across, down)
            rescaled.end_block()
        self.positions.assume({})
        for node in scores:
            del self.reader.given[node.output]

    def _parts(self, span: Span) -> list[tuple[Part, float]]:
        """The loops of a pass, and how much of all blocks' ways along the other axis each goes.

        It goes in parts, each with code of its own, if most of the way is in whole blocks and masks
        cost something beside the products: without tensor cores they do not.  Only to leave out the
        end of the axis, where masks are of loads, is not worth the registers.
        """
        other, step = self.tiles.other, self.step
        way = span.way(self.block, self.block_size, other, step)
        parts = span.parts(self.block, self.block_size, other, step)
        steps = self.blocks * ceil_div(other, step)
        blocks = range(self.blocks)
        ways = sum(span.way(i, self.block_size, other, step).turns(step) for i in blocks)
        if self.is_fast and span.facts:
            found = [span.parts(i, self.block_size, other, step) for i in blocks]
            turns = [sum(p.turns(step) for p in same) for same in zip(*found, strict=True)]
            if ways <= 2 * turns[1]:
                return [(p, n / steps) for p, n in zip(parts, turns, strict=True) if n]
        return [(way, ways / steps)]

    def _span(self, targets: list[Node]) -> Span:
        """The part of the other axis where any of `targets` gets something."""
        t = self.tiles
        own, other = _anywhere(OWN, t.size), _anywhere(OTHER, t.other)
        elements: list[tuple[Node, Value, At]] = []
        for node in targets:
            i = summed(t, node)
            if node.op.family == "contraction":
                elements.append((node, node.inputs[i], t.operand_place(node, i, own, other)))
            else:
                elements.append((node, node.inputs[i], t.place(node.inputs[i], own, other)))

        def is_nothing() -> bool:
            # All are asked, whatever the first says: each may meet conditions of its own.
            found = [adds_nothing(t, n, self.positions.known(v, at)) for n, v, at in elements]
            return all(found)

        return span(self.positions, is_nothing, Symbol(OWN, t.size), Symbol(OTHER, t.other))

    def _read_before(self, targets: list[Node]) -> None:
        """Load what does not change over the pass before its loop; inside it is then known."""
        t = self.tiles
        # What follows from a sum of this very pass changes with each block.
        changing = self._after({v for node in targets for v in node.outputs})
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
            if t.is_score(node):
                t.operand(node, t.sides(node)[0], t.own, None)
            todo += node.inputs
            for v in node.inputs if node.op.name == "expand" else ():
                is_own = self.shape.lies(v, self.axis) and not self.shape.lies(v, 1 - self.axis)
                if is_own and v not in changing and t.is_matrices(v.type):
                    self.reader.value(v, t.place(v, t.own, None))


def _anywhere(name: str, size: int) -> Index:
    """Any place of `size`: never the constant 0, even of one."""
    return Index(((Symbol(name, max(size, 2)), 1),), 0)
