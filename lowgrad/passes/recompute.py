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
) | frozenset(("lt", "le", "gt", "ge", "logical_not", "logical_and", "logical_or", "cat"))
MAX_CHEAP = 6
# A value with so many times fewer elements (a mean of each row) is stored rather than made again.
MUCH_SMALLER = 64
# Groups larger than this are not searched for a value that replaces several.
MAX_PIVOTS = 64


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

    def follow(self, merged: int | None, a: int, b: int) -> None:
        """Groups a and b became `merged` (or not, if None): it reads and repeats what both did."""
        if merged is None:
            return
        gone = b if merged == a else a
        for value, read in self.reads.pop(gone, {}).items():
            del self.readers[value][gone]
            self.add(merged, value, read.nbytes, read.into_dot)
        self.repeated.setdefault(merged, set()).update(self.repeated.pop(gone, ()))

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
    for group in grouping.parts.in_order():
        _keep_one_for_all(traffic, group)
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


def _keep_one_for_all(traffic: Traffic, group: int) -> None:
    """Write one more value of a group if its readers can then compute several others from it.

    gelu's derivative needs four functions of its input: one input in memory replaces them.
    """
    flow = traffic.flow
    members = traffic.grouping.parts.members[group]
    if not 1 < len(members) <= MAX_PIVOTS:
        return
    crossing = [i for i in members if flow.role[i] is Role.POINTWISE and _is_crossing(traffic, i)]
    if len(crossing) < 2:
        return
    best, most = None, 0
    for pivot in members:
        value = flow.graph.nodes[pivot].outputs[0]
        if not traffic.in_memory(value):
            saved, readers = _saved_by(traffic, pivot, crossing)
            # Of equals the last: it leaves the least to compute again.
            if saved > 0 and saved >= most:
                best, most = (value, readers), saved
    if best is not None:
        value, readers = best
        for reader in readers:
            traffic.add(reader, value, value.type.nbytes, False)


def _is_crossing(traffic: Traffic, node: int) -> bool:
    return bool(traffic.readers.get(traffic.flow.graph.nodes[node].outputs[0]))


def _saved_by(traffic: Traffic, pivot: int, crossing: list[int]) -> tuple[int, list[int]]:
    """The bytes saved if `pivot` is written, and who reads it then."""
    nodes = traffic.flow.graph.nodes
    kept = nodes[pivot].outputs[0]
    saved = -kept.type.nbytes
    readers: dict[int, None] = {}
    for index in crossing:
        (value,) = nodes[index].outputs
        recipe = _recipe(traffic, index, also=kept) if index > pivot else None
        if recipe is None or kept not in recipe.leaves or value in traffic.flow.outputs:
            continue
        others = [v for v in recipe.leaves if v is not kept and not traffic.in_memory(v)]
        if others or not all(
            _can_repeat(traffic, g, value, recipe) for g in traffic.readers[value]
        ):
            continue
        saved += value.type.nbytes
        for group in traffic.readers[value]:
            saved += traffic.reads[group][value].nbytes - _unread(traffic, group, recipe, kept)
            readers[group] = None
    return saved - kept.type.nbytes * len(readers), list(readers)


def _unread(traffic: Traffic, group: int, recipe: Recipe, known: Value) -> int:
    """The bytes of leaves that `group` does not read yet, `known` aside."""
    reads = traffic.reads[group]
    return sum(n for v, n in recipe.leaves.items() if v is not known and v not in reads)


def _decide(traffic: Traffic, index: int, value: Value, is_output: bool) -> None:
    recipe = _recipe(traffic, index)
    if recipe is None:
        return
    groups = list(traffic.readers[value])
    able = [g for g in groups if _can_repeat(traffic, g, value, recipe)]
    avoidable = able == groups and not is_output and not _is_lookup_at_hand(traffic, index, recipe)
    if avoidable and _is_cheaper(traffic, index, value, recipe):
        _repeat(traffic, able, value, recipe)
        return
    # It is written anyway, but who has all its leaves at hand need not read it.
    at_hand = [g for g in able if all(leaf in traffic.reads[g] for leaf in recipe.leaves)]
    _repeat(traffic, at_hand, value, recipe)


def _is_lookup_at_hand(traffic: Traffic, index: int, recipe: Recipe) -> bool:
    """Whether rows are looked up by a kernel that runs anyway, and can store them side by side."""
    nodes = traffic.flow.graph.nodes
    is_made = traffic.grouping.summary[traffic.grouping.group(index)].kind != "pointwise"
    return is_made and any(nodes[n].op.family == "indexing" for n in recipe.nodes)


def _recipe(traffic: Traffic, index: int, also: Value | None = None) -> Recipe | None:
    """The way back from a node to values in memory and `also`; None if it is too long."""
    flow = traffic.flow
    nodes = {index}
    leaves: dict[Value, int] = {}
    todo = [index]
    small = flow.graph.nodes[index].outputs[0].type.numel // MUCH_SMALLER
    while todo:
        for edge in flow.edges[todo.pop()]:
            source = flow.producer.get(edge.source)
            if source in nodes:
                continue
            stop = source is None or flow.role[source] is not Role.POINTWISE
            stop = stop or edge.source.type.numel < small
            if stop or edge.source is also or traffic.in_memory(edge.source):
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


def _is_cheaper(traffic: Traffic, index: int, value: Value, recipe: Recipe) -> bool:
    groups = list(traffic.readers[value])
    extra = _extra_bytes(traffic, groups, recipe)
    kept = _kept_bytes(traffic, index, value)
    if all(traffic.in_memory(leaf) for leaf in recipe.leaves):
        # At about equal bytes: one value less in memory, and its reader may share these reads.
        return extra <= kept + kept // 16
    return extra <= kept


def _kept_bytes(traffic: Traffic, index: int, value: Value) -> int:
    """What writing `value` and reading it back costs."""
    grouping = traffic.grouping
    group = grouping.group(index)
    moved = value.type.nbytes + sum(traffic.reads[g][value].nbytes for g in traffic.readers[value])
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
