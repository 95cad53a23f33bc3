"""Which values are computed again by their readers, because that moves fewer bytes.

A value between two kernels is written once and read by each reader. If it is cheap arithmetic on
values that are in memory anyway, its readers can do that arithmetic themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lowgrad.ir.graph import Value
from lowgrad.passes.dataflow import Flow, Role
from lowgrad.passes.grouping import Grouping

# The most operations that are repeated for one value: registers and arithmetic are not free.
MAX_REPEATED = 24
# What starting a kernel costs, in bytes that could have been moved in that time (about 2 us).
LAUNCH_BYTES = 1 << 20
# Arithmetic that a matrix product can afford on its operands, which it reads many times over.
CHEAP = frozenset(
    ("add", "sub", "mul", "neg", "abs", "maximum", "minimum", "where", "cast", "eq", "ne")
) | frozenset(("lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or"))
MAX_CHEAP = 6


@dataclass(slots=True)
class Read:
    """How a group reads a value: at most `nbytes`; `into_dot`: as an operand of its product."""

    nbytes: int
    into_dot: bool


@dataclass
class Traffic:
    """What each group reads from memory, and what it computes again for itself.

    `readers` is `reads` turned around. `repeated[group]` are nodes of other groups.
    """

    grouping: Grouping
    reads: dict[int, dict[Value, Read]] = field(default_factory=dict)
    readers: dict[Value, dict[int, None]] = field(default_factory=dict)
    repeated: dict[int, set[int]] = field(default_factory=dict)

    @property
    def flow(self) -> Flow:
        """The graph under the groups."""
        return self.grouping.flow

    def add(self, group: int, value: Value, nbytes: int, into_dot: bool) -> None:
        """Note that `group` reads `value`."""
        known = self.reads.setdefault(group, {}).setdefault(value, Read(0, False))
        known.nbytes = max(known.nbytes, nbytes)
        known.into_dot |= into_dot
        self.readers.setdefault(value, {})[group] = None

    def absorb(self, kept: int, gone: int) -> None:
        """Give all that group `gone` reads and repeats to `kept`."""
        for value, read in self.reads.pop(gone, {}).items():
            del self.readers[value][gone]
            self.add(kept, value, read.nbytes, read.into_dot)
        self.repeated.setdefault(kept, set()).update(self.repeated.pop(gone, ()))

    def in_memory(self, value: Value) -> bool:
        """Whether `value` is written to memory, as things stand."""
        return (
            value not in self.flow.producer
            or value in self.flow.outputs
            or bool(self.readers.get(value))
        )


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to compute a value again: `nodes` to run, on `leaves` from memory."""

    nodes: frozenset[int]
    leaves: dict[Value, int]
    cheap: bool


def choose_recomputed(grouping: Grouping) -> Traffic:
    """Decide for each value between groups, in execution order."""
    traffic = _traffic(grouping)
    outputs = grouping.flow.outputs
    for index, node in enumerate(grouping.flow.graph.nodes):
        if grouping.flow.role[index] is Role.POINTWISE:
            for value in node.outputs:
                if traffic.readers.get(value):
                    _decide(traffic, index, value, value in outputs)
    return traffic


def _traffic(grouping: Grouping) -> Traffic:
    flow = grouping.flow
    traffic = Traffic(grouping)
    for node, edges in enumerate(flow.edges):
        if not flow.computes(node):
            continue
        group = grouping.group(node)
        into_dot = flow.role[node] is Role.MATMUL
        for edge in edges:
            source = flow.producer.get(edge.source)
            if source is None or grouping.group(source) != group:
                traffic.add(group, edge.source, edge.nbytes, into_dot)
    return traffic


def _decide(traffic: Traffic, index: int, value: Value, is_output: bool) -> None:
    recipe = _recipe(traffic, index)
    if recipe is None:
        return
    groups = list(traffic.readers[value])
    able = [g for g in groups if _can_repeat(traffic, g, value, recipe)]
    avoidable = able == groups and not is_output
    if avoidable and _extra_bytes(traffic, able, recipe) <= _kept_bytes(traffic, index, value):
        _repeat(traffic, able, value, recipe)
        return
    # It is written anyway, but who has all its leaves at hand need not read it.
    at_hand = [g for g in able if all(leaf in traffic.reads[g] for leaf in recipe.leaves)]
    _repeat(traffic, at_hand, value, recipe)


def _recipe(traffic: Traffic, index: int) -> Recipe | None:
    """The way back from a node to values in memory; None if it is too long."""
    flow = traffic.flow
    nodes = {index}
    leaves: dict[Value, int] = {}
    todo = [index]
    while todo:
        for edge in flow.edges[todo.pop()]:
            source = flow.producer.get(edge.source)
            if source in nodes:
                continue
            stop = source is None or flow.role[source] is not Role.POINTWISE
            if stop or traffic.in_memory(edge.source):
                leaves[edge.source] = max(leaves.get(edge.source, 0), edge.nbytes)
                continue
            assert source is not None, "graph inputs are in memory"
            nodes.add(source)
            todo.append(source)
            if len(nodes) > MAX_REPEATED:
                return None
    return Recipe(frozenset(nodes), leaves, _is_cheap(flow, nodes))


def _is_cheap(flow: Flow, nodes: set[int]) -> bool:
    if len(nodes) > MAX_CHEAP:
        return False
    return all(flow.graph.nodes[n].op.name in CHEAP for n in nodes)


def _can_repeat(traffic: Traffic, group: int, value: Value, recipe: Recipe) -> bool:
    kind = traffic.grouping.summary[group].kind
    if kind == "alone":
        return False
    if traffic.reads[group][value].into_dot:
        # Operands are read once for each tile of the product, so they must not grow.
        return recipe.cheap and sum(recipe.leaves.values()) <= value.type.nbytes * 9 // 8
    return True


def _kept_bytes(traffic: Traffic, index: int, value: Value) -> int:
    """What writing `value` and reading it back costs."""
    grouping = traffic.grouping
    group = grouping.group(index)
    moved = value.type.nbytes + sum(
        traffic.reads[g][value].nbytes for g in traffic.readers[value]
    )
    if grouping.summary[group].kind != "pointwise":
        return moved  # its product or reduction runs anyway
    nodes = traffic.flow.graph.nodes
    made = [v for n in grouping.parts.members[group] for v in nodes[n].outputs]
    only_reason = [v for v in made if traffic.in_memory(v)] == [value]
    return moved + LAUNCH_BYTES * only_reason


def _extra_bytes(traffic: Traffic, groups: list[int], recipe: Recipe) -> int:
    """What the readers would read instead, and what would have to be written for them."""
    total = 0
    for leaf, nbytes in recipe.leaves.items():
        if not traffic.in_memory(leaf):
            total += leaf.type.nbytes
        total += sum(nbytes for g in groups if leaf not in traffic.reads[g])
    return total


def _repeat(traffic: Traffic, groups: list[int], value: Value, recipe: Recipe) -> None:
    for group in groups:
        gone = traffic.reads[group].pop(value)
        del traffic.readers[value][group]
        traffic.repeated.setdefault(group, set()).update(recipe.nodes)
        for leaf, nbytes in recipe.leaves.items():
            traffic.add(group, leaf, nbytes, gone.into_dot)
