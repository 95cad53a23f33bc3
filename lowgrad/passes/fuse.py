"""Fusion: what one kernel can do becomes one `fused` node, so that less goes through memory.

Four steps, each a file: look at the graph without its views (dataflow), merge nodes whose values
can stay on the chip (grouping), let readers recompute what is cheaper to recompute than to move
(recompute), and write the groups down (regions). Here, small updates also share a kernel.
"""

from __future__ import annotations

from collections.abc import Hashable

from lowgrad.ir.graph import Graph, Value
from lowgrad.passes.base import graph_pass
from lowgrad.passes.dataflow import flow_of
from lowgrad.passes.fusions import decisions_of
from lowgrad.passes.grouping import Summary, group_nodes
from lowgrad.passes.recompute import Traffic, choose_recomputed
from lowgrad.passes.regions import with_regions

# A kernel's parameters are pointers; of 4096 bytes, the least limit, this many take half.
MAX_POINTERS = 256
# Up to here the gradients that wait for a shared kernel cost little memory.
SMALL_UPDATE = 1 << 16


def decided(graph: Graph) -> Traffic:
    """What is one kernel, and what each of them reads and repeats."""
    traffic = choose_recomputed(group_nodes(flow_of(graph)))
    share_reads(traffic)
    share_kernels_of_sums(traffic)
    share_kernels_of_updates(traffic)
    return traffic


@graph_pass(
    "fuse",
    exact=False,
    reason="inside a region 16-bit floats are not rounded after each operation",
    explain=lambda graph: decisions_of(decided(graph)),
)
def fuse(graph: Graph) -> Graph:
    """Make regions. f32 and f64 values keep every bit; 16-bit ones lose fewer."""
    return with_regions(decided(graph))


def share_reads(traffic: Traffic) -> None:
    """Merge kernels of one kind that go through the same large value, to read it once."""
    grouping = traffic.grouping
    for value, readers in list(traffic.readers.items()):
        shared: dict[Summary, int] = {}
        for group in list(readers):
            summary = grouping.summary[group]
            # Only for what fills the space: sharing a scalar saves nothing.
            if summary.kind not in ("pointwise", "rows") or value.type.numel < summary.numel:
                continue
            merged = None
            if summary in shared:
                merged = grouping.try_merge(shared[summary], group)
                traffic.follow(merged, shared[summary], group)
            shared[summary] = group if merged is None else merged


def share_kernels_of_sums(traffic: Traffic) -> None:
    """Merge sums for updated state, of one space, two by two: a norm's and the bias's before it.

    The second sums what one kernel makes from what the first sums, which waits for no other.
    """
    sums = _update_groups(traffic, "rows")
    free = set(sums)
    for group in sums:
        partner = _next_sum(traffic, group, free) if group in free else None
        if partner is not None:
            merged = _share(traffic, group, partner)
            free -= set() if merged is None else {group, partner}


def _next_sum(traffic: Traffic, group: int, free: set[int]) -> int | None:
    """A sum over what a reader of the last of `group`'s operands makes."""
    summary, producer = traffic.grouping.summary, traffic.flow.producer
    last = max(traffic.reads.get(group, {}), key=lambda v: producer.get(v, -1), default=None)
    for between in traffic.readers.get(last, ()) if last is not None else ():
        for made in _made(traffic, between):
            for other in traffic.readers.get(made, ()):
                if other in free and other != group and summary[other] == summary[group]:
                    return other
    return None


def share_kernels_of_updates(traffic: Traffic) -> None:
    """Merge updates of state, of whatever sizes, that can run at the same time."""
    current: dict[Hashable, int] = {}
    for group in _update_groups(traffic, "pointwise"):
        bucket = _bucket(traffic, group)
        shared = _share(traffic, current[bucket], group) if bucket in current else None
        current[bucket] = group if shared is None else shared


def _update_groups(traffic: Traffic, kind: str) -> list[int]:
    """Groups of this kind that only make the graph's outputs, some of them updated state."""
    flow = traffic.flow
    state = {flow.graph.outputs[i] for i in flow.graph.aliases}
    found = []
    for group in traffic.grouping.parts.in_order():
        if traffic.grouping.summary[group].kind != kind:
            continue
        made = _made(traffic, group)
        if not any(traffic.readers.get(v) for v in made) and not state.isdisjoint(made):
            found.append(group)
    return found


def _made(traffic: Traffic, group: int) -> list[Value]:
    nodes = traffic.flow.graph.nodes
    return [v for i in traffic.grouping.parts.members[group] for v in nodes[i].outputs]


def _bucket(traffic: Traffic, group: int) -> Hashable:
    """Updates of one bucket may wait for each other."""
    if traffic.grouping.summary[group].numel <= SMALL_UPDATE:
        return "small"
    # Large gradients should die early, unless one thing (a norm) makes all of them wait anyway.
    return traffic.grouping.parts.last_before(group)


def _share(traffic: Traffic, a: int, b: int) -> int | None:
    """Make one group of two; None if they are too large for a kernel, or wait for each other."""
    grouping = traffic.grouping
    pointers = len(traffic.reads.get(a, {})) + len(traffic.reads.get(b, {}))
    pointers += sum(v in traffic.flow.outputs for g in (a, b) for v in _made(traffic, g))
    if pointers > MAX_POINTERS or _reads_what_is_updated(traffic, a, b):
        return None
    one, two = grouping.summary[a], grouping.summary[b]
    shared = grouping.force_merge(a, b, one if one == two else Summary("multi", 0))
    traffic.follow(shared, a, b)
    return shared


def _reads_what_is_updated(traffic: Traffic, a: int, b: int) -> bool:
    """Whether one of two groups reads state that the other updates, at unrelated elements."""
    graph = traffic.flow.graph
    state = {graph.outputs[o]: graph.inputs[i] for o, i in graph.aliases.items()}
    for one, other in ((a, b), (b, a)):
        updated = [state[v] for v in _made(traffic, one) if v in state]
        if any(v in traffic.reads.get(other, {}) for v in updated):
            return True
    return False
