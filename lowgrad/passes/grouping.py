"""Which nodes become one kernel: each value stays on the chip if its readers can join its producer.

A sweep in execution order lets each node join the groups of its operands, largest operand first.
What may be in one group is what one skeleton of codegen can express:

    pointwise  computations with equally many elements
    rows       reductions of one space over the same dims, and computations of the space or of the
               reduced size
    matmul     one matrix product, then computations of the product's size

Between members of a group, values flow element to element (or by rows), so that no element is ever
computed twice. Reading in another pattern is left to recomputation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lowgrad.ir.types import Shape
from lowgrad.passes.dataflow import Edge, Flow, Path, Role
from lowgrad.passes.partition import Partition

# Beyond this a kernel gains nothing from growing, and merging stays linear in the graph's size.
MAX_MEMBERS = 256
# With fewer rows than this, each longer than that, a row does not stay on the chip and most of the
# chip has no row: such reductions only reduce, but for rows that lie in memory one after the other.
MIN_ROWS = 32
MAX_ROW = 8192
# What has fewer elements than the largest value by this factor merges after all else has.
SMALL = 16


@dataclass(frozen=True, slots=True)
class Summary:
    """What a group can still merge with. `kind` "alone" merges with nothing.

    numel: elements of the space.  rows: elements after reduction.  space, dims: of the reductions.
    """

    kind: str
    numel: int
    rows: int = -1
    space: Shape = ()
    dims: tuple[int, ...] = ()

    @property
    def is_tall(self) -> bool:
        """Whether few programs would each go through many elements, for no reuse of a short row."""
        few = 0 <= self.rows < MIN_ROWS and self.numel > MAX_ROW * self.rows
        return few and (0 in self.dims or self.dims[-1:] != (len(self.space) - 1,))


class Grouping:
    """The groups of a graph's computing nodes, and their summaries by group."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.parts = Partition([_sources(flow, i) for i in range(len(flow.edges))])
        self.summary = [_summary(flow, i) for i in range(len(flow.edges))]

    def group(self, node: int) -> int:
        """The group of a node."""
        return self.parts.of[node]

    def try_merge(self, a: int, b: int) -> int | None:
        """Merge two groups if one kernel can compute both and no cycle arises; else None."""
        if a == b:
            return None
        first, last = self.parts.ordered(a, b)
        merged = _together(self.summary[a], self.summary[b])
        if merged is None or not self._flow(first, last, merged):
            return None
        return self.force_merge(a, b, merged)

    def force_merge(self, a: int, b: int, merged: Summary) -> int | None:
        """Merge two groups, whatever they compute; None if a cycle would arise."""
        members = self.parts.members
        if len(members[a]) + len(members[b]) > MAX_MEMBERS:
            return None
        group = self.parts.merge(a, b)
        if group is not None:
            self.summary[group] = merged
        return group

    def fits(self, group: int, reader: int, repeated: Iterable[int] = ()) -> bool:
        """Whether a kernel as `group` is one could hand `reader` all that this reads of it.

        repeated: nodes of other groups that `reader` runs again.
        """
        return self._flow(group, reader, self.summary[group], repeated)

    def _flow(self, first: int, last: int, merged: Summary, repeated: Iterable[int] = ()) -> bool:
        """Whether all that `last` reads from `first` flows in a way that `merged` can express."""
        flow = self.flow
        again = set(repeated)
        for node in (*self.parts.members[last], *again):
            for edge in flow.edges[node]:
                source = flow.producer.get(edge.source)
                if source is None or source in again or self.parts.of[source] != first:
                    continue
                if not _flows(flow, node, edge, merged):
                    return False
        return True


def group_nodes(flow: Flow) -> Grouping:
    """Merge all that one kernel can compute.

    What is small waits: a mean over the rows' losses, merged with the count that it is divided by,
    would come after the rows, and their gradient, which needs the count, after both; apart, rows
    and gradient are one pass over what is large.
    """
    grouping = Grouping(flow)
    largest = max((s.numel for s in grouping.summary), default=0)
    for waits in (largest // SMALL, -1):
        for node in range(len(flow.edges)):
            if flow.role[node] in (Role.POINTWISE, Role.REDUCTION):
                _join_operands(grouping, node, waits)
    return grouping


def _join_operands(grouping: Grouping, node: int, waits: int) -> None:
    """Merge a node with its operands, but for merges of what has up to `waits` elements."""
    flow = grouping.flow
    for edge in sorted(flow.edges[node], key=lambda e: -e.nbytes):
        source = flow.producer.get(edge.source)
        if source is None:
            continue
        groups = grouping.group(source), grouping.group(node)
        one, other = (grouping.summary[g] for g in groups)
        is_small = one.numel <= waits and other.numel <= waits
        if not is_small and not (waits >= 0 and _is_for_rows(one, other)):
            grouping.try_merge(*groups)


def _is_for_rows(source: Summary, reader: Summary) -> bool:
    """Whether `source` makes one number for each row of `reader`, from none of its elements."""
    is_alone = source.kind == "pointwise" and reader.kind == "rows"
    return is_alone and source.numel == reader.rows < reader.numel


def _sources(flow: Flow, node: int) -> list[int]:
    if not flow.computes(node):
        return []
    found = [flow.producer.get(e.source) for e in flow.edges[node]]
    return [source for source in found if source is not None]


def _summary(flow: Flow, index: int) -> Summary:
    node = flow.graph.nodes[index]
    role = flow.role[index]
    numel = node.outputs[0].type.numel
    if role is Role.POINTWISE:
        return Summary("pointwise", numel)
    if role is Role.MATMUL:
        return Summary("matmul", numel)
    if role is Role.REDUCTION:
        space = node.inputs[0].type.shape
        return Summary("rows", math.prod(space), numel, space, tuple(node.attrs["dims"]))
    return Summary("alone", numel)


def _together(a: Summary, b: Summary) -> Summary | None:
    """The summary of both, or None if no kernel can be both."""
    if a.kind == "pointwise":
        a, b = b, a
    if b.kind == "pointwise":
        if a.kind == "rows":
            return a if b.numel in (a.numel, a.rows) else None
        return a if a.kind in ("pointwise", "matmul") and a.numel == b.numel else None
    return a if a.kind == "rows" and a == b and not a.is_tall else None


def _flows(flow: Flow, reader: int, edge: Edge, group: Summary) -> bool:
    """Whether a kernel of this group can hand `edge` to `reader` without going through memory."""
    if flow.role[reader] is Role.MATMUL:
        return False
    if edge.path is Path.FLAT:
        return True
    if group.kind != "rows":
        return False
    if group.is_tall:
        return False
    if edge.path is Path.EXPAND:
        reduced = tuple(1 if d in group.dims else n for d, n in enumerate(group.space))
        return edge.low == reduced and edge.high == group.space
    return edge.path is Path.GATHER and edge.low == group.dims and edge.high == group.space
