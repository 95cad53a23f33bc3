"""Kernels that become one although no value flows between them: they read the same, or are small.

A kernel that goes through a large value anyway may do what another one would go through it again
for: the sums of a product's operand (a bias's gradient beside its weight's), computations of one
shape, and updates of state that can run at the same time.
"""

from __future__ import annotations

from collections.abc import Hashable

from lowgrad.ir.graph import Value
from lowgrad.ir.places import source_of, summed_operand
from lowgrad.passes.dataflow import Role
from lowgrad.passes.grouping import Summary
from lowgrad.passes.recompute import Traffic

# A kernel's parameters are pointers; of 4096 bytes, the least limit, this many take half.
MAX_POINTERS = 256
# Up to here the gradients that wait for a shared kernel cost little memory.
SMALL_UPDATE = 1 << 16


def share_kernels(traffic: Traffic) -> None:
    """Merge kernels that can share a launch, those with most to save first."""
    share_operands(traffic)
    share_reads(traffic)
    share_kernels_of_updates(traffic)


# --- Sums of a product's operand -----------------------------------------------------------------


def share_operands(traffic: Traffic) -> None:
    """Merge sums over a product's inner axis into its kernel, which has the operand in its hands.

    A linear layer's bias gradient sums the gradient that its weight's multiplies.
    """
    flow, grouping = traffic.flow, traffic.grouping
    nodes = flow.graph.nodes
    makers = {v: nodes[i] for v, i in flow.producer.items()}
    sums: dict[Value, list[int]] = {}
    for index, node in enumerate(nodes):
        if flow.role[index] is Role.REDUCTION:
            sums.setdefault(source_of(makers, node.inputs[0]), []).append(index)
    for index, node in enumerate(nodes):
        read = dict.fromkeys(source_of(makers, v) for v in node.inputs)
        for total in (t for v in read if flow.role[index] is Role.MATMUL for t in sums.get(v, ())):
            a, b = grouping.group(index), grouping.group(total)
            is_sum = a != b and summed_operand(makers, node, nodes[total]) is not None
            if is_sum and _does_all_else(traffic, a, b, total) and _are_apart(traffic, a, b):
                merged = grouping.force_merge(a, b, grouping.summary[a])
                traffic.follow(merged, a, b)


def _does_all_else(traffic: Traffic, product: int, group: int, total: int) -> bool:
    """Whether a product does all that a sum's group does for each element of its operand."""
    flow = traffic.flow
    nodes = flow.graph.nodes
    size = nodes[total].output.type.numel
    repeated = traffic.repeated.get(product, ())
    for index in traffic.grouping.parts.members[group]:
        if index != total and flow.role[index] is not Role.POINTWISE:
            return False
        value = nodes[index].outputs[0]
        if value.type.numel != size and (index not in repeated or traffic.in_memory(value)):
            return False
    return True


def _are_apart(traffic: Traffic, a: int, b: int) -> bool:
    """Whether neither of two groups reads what the other makes or updates."""
    made = {a: set(_made(traffic, a)), b: set(_made(traffic, b))}
    for one, other in ((a, b), (b, a)):
        if any(v in made[other] for v in traffic.reads.get(one, ())):
            return False
    return not _reads_what_is_updated(traffic, a, b)


# --- Reads of one value --------------------------------------------------------------------------


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


# --- Updates -------------------------------------------------------------------------------------


def share_kernels_of_updates(traffic: Traffic) -> None:
    """Merge updates of state, of whatever sizes, that can run at the same time."""
    current: dict[Hashable, int] = {}
    for group in _update_groups(traffic):
        bucket = _bucket(traffic, group)
        shared = _share(traffic, current[bucket], group) if bucket in current else None
        current[bucket] = group if shared is None else shared


def _update_groups(traffic: Traffic) -> list[int]:
    """Groups that only make the graph's outputs, some of them updated state."""
    flow = traffic.flow
    state = {flow.graph.outputs[i] for i in flow.graph.aliases}
    found = []
    for group in traffic.grouping.parts.in_order():
        if traffic.grouping.summary[group].kind != "pointwise":
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
