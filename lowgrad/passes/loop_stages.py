"""From a region to loops: which part of it runs in which loop, and the graph with them in it.

A value that needs all pieces (a sum over the rows), or comes back from outside the region, is only
there after the loop: what depends on it is of the next stage, a loop of its own. That loop makes
the large values it reads again; small ones of an earlier stage are stored between the loops.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.slicing import Place
from lowgrad.ir.walk import needed
from lowgrad.ops.rows import Dim, accumulator_type
from lowgrad.passes.cost import streams
from lowgrad.passes.loop_region import Facts, Region, slicing_of

Port = tuple[Value, "int | None"]

# Constants that take more nodes than this are read, not made in a loop.
MOST_ANEW = 32
# Sums that are rounded after each piece have at most so many: the error grows as their root.
MOST_ROUNDINGS = 16


@dataclass(frozen=True)
class Stage:
    """One loop: the nodes it runs, in order, what it reads and along which dim, what it makes."""

    nodes: tuple[Node, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Value, ...]


@dataclass(frozen=True)
class Loops:
    """The loops of a region, in order."""

    region: Region
    stages: tuple[Stage, ...]

    @property
    def accumulators(self) -> int:
        """The bytes of the results that are combined over the pieces."""
        return sum(
            accumulator_type(value.type).nbytes
            for stage in self.stages
            for value in stage.outputs
            if isinstance(_made_along(self.region, stage, value), str)
        )

    @property
    def repeated(self) -> list[Node]:
        """The nodes that run in a second stage again, once for each time."""
        runs = [node for stage in self.stages for node in stage.nodes]
        return _without_first(runs)

    @property
    def stores_large(self) -> bool:
        """Whether a value as large as the seed leaves a loop after all."""
        large = self.region.seed.type.numel
        return any(
            v in self.region.wide and v.type.numel >= large
            for stage in self.stages
            for v in stage.outputs
        )


def _without_first(nodes: Iterable[Node]) -> list[Node]:
    seen: set[Node] = set()
    again = []
    for node in nodes:
        if node in seen:
            again.append(node)
        seen.add(node)
    return again


def unshared(facts: Facts, loops: Loops) -> tuple[Graph, Value]:
    """The graph with what is made again for the last stage made apart from the stages before.

    Those then have a seed of their own, the second result, which may go along another dim in a
    single loop: a softmax's maximum and sum take a row, the gradient of a weight a column.
    """
    last = set(loops.stages[-1].nodes)
    before = {node for stage in loops.stages[:-1] for node in stage.nodes}
    copies: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in facts.graph.nodes:
        if node in before:
            inputs = tuple(copies.get(v, v) for v in node.inputs)
            outputs = node.outputs
            if node in last:
                nodes.append(node)
                outputs = tuple(Value(v.type, v.hint) for v in outputs)
                copies.update(zip(node.outputs, outputs, strict=True))
            node = Node(node.op, inputs, node.attrs, outputs, node.loc)
        nodes.append(node)
    return facts.graph.with_nodes(nodes), copies[loops.region.seed]


def split(facts: Facts, region: Region) -> Loops:
    """The loops that run `region`."""
    return _Split(facts, region).loops()


class _Split:
    def __init__(self, facts: Facts, region: Region) -> None:
        self.facts, self.region = facts, region
        self.members = sorted(region.slicing, key=facts.index.__getitem__)
        self.along: dict[Value, int | str | None] = {
            value: dim
            for node, found in region.slicing.items()
            for value, dim in zip(node.outputs, found.outs, strict=True)
        }
        self.level = self._levels()

    def loops(self) -> Loops:
        count = max((self.level[n] for n in self.members), default=0) + 1
        wanted: list[set[Value]] = [set() for _ in range(count)]
        for value in self._leaving():
            wanted[self.level[self.facts.maker[value]]].add(value)
        stages: list[Stage] = []
        for level in reversed(range(count)):
            if wanted[level]:
                stages.append(self._stage(level, wanted))
        return Loops(self.region, tuple(reversed(stages)))

    # --- Levels ---------------------------------------------------------------------------------

    def _levels(self) -> dict[Node, int]:
        """For members, the loop that can run them first; for others, the loops before them."""
        found: dict[Node, int] = {}
        if not self.members:
            return found
        first = self.facts.index[self.members[0]]
        last = self.facts.index[self.members[-1]]
        for node in self.facts.graph.nodes[first : last + 1]:
            slicing = self.region.slicing.get(node)
            level = 0
            for position, value in enumerate(node.inputs):
                maker = self.facts.maker.get(value)
                if maker is None or maker not in found:
                    continue
                # What is copied into the loop is there outside of it as well.
                is_inside = maker in self.region.slicing and maker not in self.region.copies
                stays = slicing is not None and self._flows(value, slicing.ins[position])
                level = max(level, found[maker] + (is_inside and not stays))
            if level or slicing is not None:
                found[node] = level
        return found

    def _flows(self, value: Value, dim: int | None) -> bool:
        """Whether a piece of `value`, as it is made, is what a piece of its reader needs."""
        made = self.along.get(value, "outside")
        return not isinstance(made, str) and made == dim

    # --- Values that leave ----------------------------------------------------------------------

    def _leaving(self) -> list[Value]:
        """What the region makes for others, or for itself in another form than it is made in."""
        kept = set(self.facts.graph.outputs)
        found = []
        for node in self.members:
            if node in self.region.copies:
                continue
            for value in node.outputs:
                if value in kept or any(self._leaves(value, u) for u in self.facts.users[value]):
                    found.append(value)
        return found

    def _leaves(self, value: Value, user: Node) -> bool:
        slicing = self.region.slicing.get(user)
        if slicing is None:
            return True
        pairs = zip(user.inputs, slicing.ins, strict=True)
        return any(v is value and not self._flows(value, dim) for v, dim in pairs)

    # --- One loop -------------------------------------------------------------------------------

    def _stage(self, level: int, wanted: Sequence[set[Value]]) -> Stage:
        """The loop that makes `wanted[level]`; adds to what it wants of the loops before."""
        members: set[Node] = set()
        todo = [self.facts.maker[v] for v in wanted[level]]
        while todo:
            node = todo.pop()
            if node not in members:
                members.add(node)
                todo += [self.facts.maker[v] for v, _ in self._made_inside(node, level)]
        order = self.facts.index.__getitem__
        nodes = sorted(members, key=order)
        # In the order in which they are read, so that equal layers get equal loops.
        ports = [p for node in nodes for p in self._ports(node)]
        inside = {p for node in nodes for p in self._made_inside(node, level)}
        inputs = tuple(dict.fromkeys(p for p in ports if p not in inside))
        for value, _ in inputs:
            maker = self.facts.maker.get(value)
            if maker in self.region.slicing and maker not in self.region.copies:
                assert maker is not None, "a member makes its values"
                wanted[self.level[maker]].add(value)
        outputs = sorted(wanted[level], key=lambda v: order(self.facts.maker[v]))
        return Stage(tuple(nodes), inputs, tuple(outputs))

    def _ports(self, node: Node) -> list[Port]:
        return list(zip(node.inputs, self.region.slicing[node].ins, strict=True))

    def _made_inside(self, node: Node, level: int) -> list[Port]:
        """What `node` reads of a loop at `level` that this loop makes itself."""
        found = []
        for value, dim in self._ports(node):
            maker = self.facts.maker.get(value)
            if maker is None or maker not in self.region.slicing or not self._flows(value, dim):
                continue
            if self.level[maker] == level or self._is_made_again(value, maker):
                found.append((value, dim))
        return found

    def _is_made_again(self, value: Value, maker: Node) -> bool:
        is_view = maker.op.family == "view" and len(maker.inputs) == 1
        return value in self.region.wide or maker in self.region.copies or is_view


# --- The graph with its loops --------------------------------------------------------------------


def with_loops(facts: Facts, loops: Loops, chunk: int, *, narrow: bool = False) -> Graph:
    """The graph, in which `loops` have taken the place of their region's nodes.

    narrow: gradients of 16-bit weights are added up as such.
    """
    region = loops.region
    added: list[Node] = []
    renamed: dict[Value, Value] = {}
    handed: dict[Value, Value] = {}
    for number, stage in enumerate(loops.stages):
        later = {v for other in loops.stages[number + 1 :] for v, _ in other.inputs}
        made = _loop(facts, region, stage, chunk, later, narrow)
        node = _reading(made, handed)
        added.append(node)
        for old, new in zip(stage.outputs, node.outputs, strict=True):
            if new.type == old.type:
                renamed[old] = new
                continue
            if not isinstance(_made_along(region, stage, old), str):
                handed[old] = new
            cast = Node(
                REGISTRY["cast"],
                (new,),
                {"dtype": old.type.dtype},
                (Value(old.type, old.hint),),
                node.loc,
            )
            added.append(cast)
            renamed[old] = cast.output
    gone = region.slicing.keys() - region.copies
    kept = [*added, *(n for n in facts.graph.nodes if n not in gone)]
    nodes = [_reading(node, renamed) for node in kept]
    outputs = [renamed.get(v, v) for v in facts.graph.outputs]
    return facts.graph.with_nodes(needed(_sorted(nodes), outputs), renamed)


def _loop(
    facts: Facts, region: Region, stage: Stage, chunk: int, later: set[Value], narrow: bool
) -> Node:
    made: dict[Value, Value] = {}
    nodes: list[Node] = []
    anew = {p: found for p in stage.inputs if (found := _anew(facts, region, p)) is not None}
    ports = tuple(p for p in stage.inputs if p not in anew)
    inside: dict[Port, Value] = {p: Value(p[0].type, p[0].hint) for p in ports}
    dims: list[Dim] = [dim for _, dim in ports]
    for port, found in anew.items():
        nodes += [node for node, _ in found]
        dims += [dim for _, dim in found]
        inside[port] = nodes[-1].output
    for node in stage.nodes:
        slicing = region.slicing[node]
        read = zip(node.inputs, slicing.ins, strict=True)
        inputs = tuple([inside[p] if p in inside else made[p[0]] for p in read])
        outputs = tuple([Value(v.type, v.hint) for v in node.outputs])
        made.update(zip(node.outputs, outputs, strict=True))
        nodes.append(Node(node.op, inputs, node.attrs, outputs, node.loc))
        dims += slicing.outs
    body = Graph(
        tuple(inside[p] for p in ports),
        tuple(nodes),
        tuple(made[v] for v in stage.outputs),
        {},
        "loop",
    )
    attrs: dict[str, Any] = {
        "body": body,
        "dims": tuple(dims),
        "steps": region.steps,
        "chunk": chunk,
    }
    wide = [i for i, v in enumerate(stage.outputs) if v in later and _is_statistic(region, v)]
    if wide:
        attrs["wide"] = tuple(wide)
    if narrow and (rounded := _summed_products(region, stage, chunk)):
        attrs["narrow"] = rounded
    op = REGISTRY["rows"]
    types = op.infer(*(v.type for v, _ in ports), **attrs)
    assert isinstance(types, tuple), "a loop's outputs are a tuple"
    outputs = tuple(Value(t, v.hint) for t, v in zip(types, stage.outputs, strict=True))
    seed = next((n for n in stage.nodes if region.seed in n.outputs), stage.nodes[0])
    return Node(op, tuple(v for v, _ in ports), attrs, outputs, seed.loc)


def _is_statistic(region: Region, value: Value) -> bool:
    """Whether 16-bit floats say something of each row, such as a softmax's largest score.

    Rounded to 16 bits it would be off by more than what it is compared with in the next loop.
    """
    dim = region.wide[region.seed]
    others = [n for d, n in enumerate(region.seed.type.shape) if d != dim]
    is_small = value.type.numel * others[-1] <= region.seed.type.numel
    return value.type.dtype.is_low_precision and is_small


def _summed_products(region: Region, stage: Stage, chunk: int) -> tuple[int, ...]:
    """The positions of a weight's gradients in 16 bits, if few pieces are added up in memory."""
    if region.steps > chunk * MOST_ROUNDINGS or streams(stage.nodes):
        return ()
    maker = {value: node for node in stage.nodes for value in node.outputs}
    return tuple(
        position
        for position, value in enumerate(stage.outputs)
        if value.type.dtype.is_low_precision
        and maker[value].op.family == "contraction"
        and _made_along(region, stage, value) == "add"
    )


def _anew(facts: Facts, region: Region, port: Port) -> list[tuple[Node, int | None]] | None:
    """Nodes that make a constant that a loop reads, and the dim each is sliced along.

    The positions of a square mask's rows are those of its columns, one value that two places want
    sliced in two ways. Made in the loop, they cost nothing, and kernels see what they are.
    """
    value, dim = port
    maker = facts.maker.get(value)
    if value not in facts.constant or maker is None or len(maker.outputs) != 1:
        return None
    ins: tuple[int | None, ...] = (None,) * len(maker.inputs)
    if dim is not None:
        found = slicing_of(maker, Place(True, 0, dim), region.steps)
        if found is None:
            return None
        ins = found.ins
    nodes: list[tuple[Node, int | None]] = []
    inputs = []
    for inner in zip(maker.inputs, ins, strict=True):
        before = _anew(facts, region, inner)
        if before is None or len(nodes) + len(before) > MOST_ANEW:
            return None
        nodes += before
        inputs.append(before[-1][0].output)
    made = Value(value.type, value.hint)
    return [*nodes, (Node(maker.op, tuple(inputs), maker.attrs, (made,), maker.loc), dim)]


def _made_along(region: Region, stage: Stage, value: Value) -> int | str | None:
    for node in stage.nodes:
        if value in node.outputs:
            return region.slicing[node].outs[node.outputs.index(value)]
    return None


def _reading(node: Node, renamed: dict[Value, Value]) -> Node:
    if not any(v in renamed for v in node.inputs):
        return node
    inputs = tuple([renamed.get(v, v) for v in node.inputs])
    return Node(node.op, inputs, node.attrs, node.outputs, node.loc)


def _sorted(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, each after those that make what it reads, else in the given order."""
    maker = {v: n for n in nodes for v in n.outputs}
    done: set[Node] = set()
    result: list[Node] = []
    for root in nodes:
        todo = [root]
        while todo:
            node = todo[-1]
            waiting = [maker[v] for v in node.inputs if v in maker and maker[v] not in done]
            if node in done or not waiting:
                todo.pop()
                if node not in done:
                    done.add(node)
                    result.append(node)
                continue
            todo += reversed(waiting)
    return result
