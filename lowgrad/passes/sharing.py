"""Kernels that become one although no value flows between them: they read the same, or are small.

A kernel that goes through a large value anyway may do what another one would go through it again
for: the sums of a product's operand (a bias's gradient beside its weight's), computations of one
shape, and updates of state that can run at the same time.
"""

from __future__ import annotations

from collections.abc import Hashable

from lowgrad.ir.graph import Value
from lowgrad.ir.places import source_of, summed_operand
from lowgrad.passes.dataflow import Flow, Role
from lowgrad.passes.grouping import MAX_ROW, MIN_ROWS, Summary
from lowgrad.passes.recompute import Traffic

# A kernel's parameters are pointers; of 4096 bytes, the least limit, this many take half.
MAX_POINTERS = 256
# Up to here the gradients that wait for a shared kernel cost little memory.
SMALL_UPDATE = 1 << 16


def share_kernels(traffic: Traffic) -> None:
    """Merge kernels that can share a launch, those with most to save first."""
    share_operands(traffic)
    share_reads(traffic)
    share_columns(traffic)
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
    return not any(_reads_what_is_updated(traffic, *pair) for pair in ((a, b), (b, a)))


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


def share_columns(traffic: Traffic) -> None:
    """Merge sums down columns into a kernel that goes through the same rows: a norm's gradients."""
    for group in traffic.grouping.parts.in_order():
        if _only_sums(traffic, group):
            _join_rows(traffic, group)


def _join_rows(traffic: Traffic, columns: int) -> None:
    """Merge `columns` into the kernel of rows that has most of what it reads in hands, if any."""
    grouping = traffic.grouping
    of_columns = grouping.summary[columns]
    shared: dict[int, int] = {}
    for value, read in traffic.reads.get(columns, {}).items():
        if value.type.numel < of_columns.numel:
            continue
        source = traffic.flow.producer.get(value)
        made_by = () if source is None else (grouping.group(source),)
        for other in (*traffic.readers[value], *made_by):
            shared[other] = shared.get(other, 0) + read.nbytes
    for rows in sorted(shared, key=lambda g: -shared[g]):
        crosses = _crosses(grouping.summary[rows], of_columns)
        if crosses and _can_be_summed(traffic, rows, columns):
            merged = grouping.force_merge(rows, columns, grouping.summary[rows])
            if merged is not None:
                traffic.follow(merged, rows, columns)
                _join_same_rows(traffic, merged)
                return


def _can_be_summed(traffic: Traffic, rows: int, columns: int) -> bool:
    """Whether a kernel of rows, as it goes through them, has all that the sums of columns need."""
    return (
        _fits(traffic, rows, columns)
        and not any(v in traffic.reads.get(rows, ()) for v in _made(traffic, columns))
        # State that the sums update is written when all rows have been read.
        and not _reads_what_is_updated(traffic, columns, rows)
    )


def _fits(traffic: Traffic, group: int, reader: int) -> bool:
    """Whether a kernel as `group` is one could hand `reader` all that it, too, runs on."""
    return traffic.grouping.fits(group, reader, traffic.repeated.get(reader, ()))


def _join_same_rows(traffic: Traffic, group: int) -> None:
    """Merge a kernel of rows and columns with those of the same rows: no sum stands between now.

    Of a norm, what makes the statistics and what uses them, on either side of the sums before.
    """
    grouping = traffic.grouping
    size = grouping.summary[group].numel
    read = [v for v in traffic.reads.get(group, ()) if v.type.numel >= size]
    for other in dict.fromkeys(g for v in read for g in traffic.readers[v]):
        is_like = other != group and grouping.summary[other] == grouping.summary[group]
        first, last = grouping.parts.ordered(group, other)
        if is_like and _fits(traffic, first, last) and not _uses_columns(traffic, group, other):
            merged = grouping.try_merge(other, group)
            traffic.follow(merged, other, group)
            group = group if merged is None else merged


def _uses_columns(traffic: Traffic, a: int, b: int) -> bool:
    """Whether one of two groups of rows uses what the other sums down their columns."""
    flow, members = traffic.flow, traffic.grouping.parts.members
    dims = traffic.grouping.summary[a].dims
    for one, other in ((a, b), (b, a)):
        following: set[Value] = set()
        for index in members[one]:
            node = flow.graph.nodes[index]
            is_sum = flow.role[index] is Role.REDUCTION and node.attrs["dims"] != dims
            if is_sum or any(e.source in following for e in flow.edges[index]):
                following.update(node.outputs)
        if any(e.source in following for i in members[other] for e in flow.edges[i]):
            return True
    return False


def _crosses(rows: Summary, columns: Summary) -> bool:
    """Whether one sums what the other keeps, of rows that stay on the chip."""
    fits = rows.kind == "rows" and rows.space == columns.space and rows.rows >= MIN_ROWS
    kept = tuple(d for d in range(len(rows.space)) if d not in rows.dims)
    return fits and columns.dims == kept and rows.numel <= MAX_ROW * rows.rows


def _only_sums(traffic: Traffic, group: int) -> bool:
    """Whether a group sums over the leading dims, and makes nothing larger of the sums."""
    flow, summary = traffic.flow, traffic.grouping.summary[group]
    if summary.kind != "rows" or len(summary.space) - 1 in summary.dims or summary.rows < 2:
        return False
    if summary.space[-1] < 2:
        return False
    following: set[Value] = set()
    for index in traffic.grouping.parts.members[group]:
        node = flow.graph.nodes[index]
        is_sum = flow.role[index] is Role.REDUCTION
        follows = any(e.source in following for e in flow.edges[index])
        if not is_sum and node.output.type.numel == summary.rows:
            following.update(node.outputs if follows else ())
            continue
        # A sum of what follows from sums (a variance) needs another turn through the rows.
        if follows:
            return False
        if traffic.in_memory(node.output) if not is_sum else node.op.name != "sum":
            return False
        following.update(node.outputs if is_sum else ())
    return True


# --- Updates -------------------------------------------------------------------------------------


def share_kernels_of_updates(traffic: Traffic) -> None:
    """Merge updates of state, of whatever sizes, that can run at the same time."""
    current: dict[Hashable, int] = {}
    ready = _ready(traffic.flow)
    for group in _update_groups(traffic):
        bucket = _bucket(traffic, group, ready)
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


def _bucket(traffic: Traffic, group: int, ready: list[int]) -> Hashable:
    """Updates of one bucket may wait for each other."""
    if traffic.grouping.summary[group].numel <= SMALL_UPDATE:
        return "small"
    # Large gradients should die early, unless one thing (a norm) makes all of them wait anyway.
    return max(ready[i] for i in traffic.grouping.parts.members[group])


def _ready(flow: Flow) -> list[int]:
    """For each node the last one, product, reduction or kernel of its own, that it waits for."""
    ready: list[int] = []
    for index, edges in enumerate(flow.edges):
        heavy = flow.role[index] in (Role.MATMUL, Role.REDUCTION, Role.OPAQUE)
        sources = (flow.producer[e.source] for e in edges if e.source in flow.producer)
        ready.append(index if heavy else max((ready[s] for s in sources), default=-1))
    return ready


def _share(traffic: Traffic, a: int, b: int) -> int | None:
    """Make one group of two; None if they are too large for a kernel, or wait for each other."""
    grouping = traffic.grouping
    pointers = len(traffic.reads.get(a, {})) + len(traffic.reads.get(b, {}))
    pointers += sum(v in traffic.flow.outputs for g in (a, b) for v in _made(traffic, g))
    if pointers > MAX_POINTERS or not _are_apart(traffic, a, b):
        return None
    one, two = grouping.summary[a], grouping.summary[b]
    shared = grouping.force_merge(a, b, one if one == two else Summary("multi", 0))
    traffic.follow(shared, a, b)
    return shared


def _reads_what_is_updated(traffic: Traffic, reader: int, writer: int) -> bool:
    """Whether one group reads state that another updates, at unrelated elements."""
    graph = traffic.flow.graph
    state = {graph.outputs[o]: graph.inputs[i] for o, i in graph.aliases.items()}
    updated = [state[v] for v in _made(traffic, writer) if v in state]
    return any(v in traffic.reads.get(reader, {}) for v in updated)
