"""Why fusion made the kernels that it made: each region, each repetition and each refusal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lowgrad.errors import Location
from lowgrad.ir.graph import Value
from lowgrad.passes.dataflow import Flow, Path, Role
from lowgrad.passes.decisions import Decision
from lowgrad.passes.grouping import MAX_MEMBERS, Summary
from lowgrad.passes.recompute import Traffic
from lowgrad.passes.regions import free_values, nodes_behind

ON_CHIP = "its values stay on the chip"
SHARED = "updates that can run at the same time share a launch"
SUMMED = "a product that reads it anyway sums its operand"
AGAIN = "computing it again moves fewer bytes than reading it"

PRODUCTS = "a kernel has one product"
OPERAND = "a product reads its operands once for each tile, and would compute this each time"
REDUCES = "a product and a reduction go through memory in different ways"
SPACES = "their reductions are over different elements"
TALL = "few long columns: none stays on the chip between its sum and its elements"
SIZES = "they have different numbers of elements"
ORDER = "it is read in another order than it is made in"
LONG = "together they would be too long for a kernel"
CYCLE = "what lies between them needs the one and makes the other"
UPDATES = "that kernel is shared by updates of several sizes"


@dataclass(frozen=True, slots=True)
class Region:
    """A group as it becomes a kernel: the nodes that it runs, what it reads and what it writes."""

    group: int
    nodes: tuple[int, ...]
    inputs: tuple[Value, ...]
    outputs: frozenset[Value]


def decisions_of(traffic: Traffic) -> Iterator[Decision]:
    """What was decided for `traffic`, in the order of the kernels."""
    regions = _regions(traffic)
    readers = Counter(v for region in regions for v in region.inputs)
    for region in regions:
        yield from _made(traffic, region)
        yield from _repeated(traffic, region)
        yield from _refused(traffic, region, readers)


def _regions(traffic: Traffic) -> list[Region]:
    """The groups that become kernels, as `regions` writes them down."""
    flow, parts = traffic.flow, traffic.grouping.parts
    wanted = set(flow.outputs)
    found = []
    for group in reversed(parts.in_order()):
        members = parts.members[group]
        made = [v for i in members for v in flow.graph.nodes[i].outputs if v in wanted]
        if not flow.computes(members[0]) or not made:
            continue
        is_alone = traffic.grouping.summary[group].kind == "alone"
        own = {*members, *traffic.repeated.get(group, ())}
        nodes = members[:1] if is_alone else nodes_behind(flow, made, own)
        inputs = free_values([flow.graph.nodes[i] for i in nodes])
        wanted.update(inputs)
        found.append(Region(group, tuple(nodes), tuple(inputs), frozenset(made)))
    return found[::-1]


def _made(traffic: Traffic, region: Region) -> Iterator[Decision]:
    flow = traffic.flow
    members = [i for i in region.nodes if traffic.grouping.group(i) == region.group]
    if len(members) == 1:
        return
    own = set(members)
    saved = 0
    for node in members:
        made = flow.graph.nodes[node].outputs
        saved += sum(v.type.nbytes for v in made if v not in region.outputs)
        saved += sum(e.nbytes for e in flow.edges[node] if flow.producer.get(e.source) in own)
    reason = ON_CHIP
    sums = [i for i in members if flow.role[i] is Role.REDUCTION]
    if traffic.grouping.summary[region.group].kind == "multi":
        reason = SHARED
    elif traffic.grouping.summary[region.group].kind == "matmul" and sums:
        reason = SUMMED
        saved += sum(e.nbytes for i in sums for e in flow.edges[i])
    yield Decision("fuse", True, _ops(traffic, members), reason, saved, _loc(traffic, members))


def _repeated(traffic: Traffic, region: Region) -> Iterator[Decision]:
    """What a kernel computes again of what another one computed: the last value of each chain."""
    flow, group = traffic.flow, traffic.grouping.group
    again = {i for i in region.nodes if flow.computes(i) and group(i) != region.group}
    read: dict[int, int] = {}
    for node in region.nodes:
        for edge in () if node in again or not flow.computes(node) else flow.edges[node]:
            source = flow.producer.get(edge.source, -1)
            if source in again:
                read[source] = max(read.get(source, 0), edge.nbytes)
    for source, nbytes in sorted(read.items()):
        repeated = flow.graph.nodes[source]
        yield Decision("fuse", True, (repeated.op.name,), AGAIN, nbytes, repeated.loc)


def _refused(traffic: Traffic, region: Region, readers: Mapping[Value, int]) -> Iterator[Decision]:
    """The values that a kernel reads from others."""
    flow, nodes = traffic.flow, traffic.flow.graph.nodes
    if flow.role[region.nodes[0]] is Role.RESHAPE:
        return
    for value in region.inputs:
        source = flow.producer.get(value)
        while source is not None and flow.role[source] is Role.RESHAPE:
            source = flow.producer.get(nodes[source].inputs[0])
        if source is None:
            continue
        reader = _reader(flow, region, value)
        read = traffic.reads.get(region.group, {}).get(value)
        is_kept = readers[value] > 1 or value in flow.outputs
        yield Decision(
            "fuse",
            False,
            (nodes[source].op.name, nodes[reader].op.name),
            _why_not(traffic, source, reader, region.group, value),
            (read.nbytes if read else value.type.nbytes) + (0 if is_kept else value.type.nbytes),
            nodes[reader].loc or nodes[source].loc,
        )


def _reader(flow: Flow, region: Region, value: Value) -> int:
    """The first node of a kernel that reads `value`, through views or not."""
    reading = [i for i in region.nodes if flow.computes(i)]
    found = (i for i in reading if any(e.source is value for e in flow.edges[i]))
    return next(found, reading[-1])


def _why_not(traffic: Traffic, source: int, reader: int, read_by: int, value: Value) -> str:
    """Why two kernels are not one: the first of the rules of `grouping` that says so."""
    grouping, flow = traffic.grouping, traffic.flow
    made_by = grouping.group(source)
    one, other = grouping.summary[made_by], grouping.summary[read_by]
    for group, summary in ((made_by, one), (read_by, other)):
        if summary.kind == "alone":
            return f"{_ops(traffic, grouping.parts.members[group])[0]} is a kernel of its own"
    if "multi" in (one.kind, other.kind):
        return UPDATES
    if flow.role[reader] is Role.MATMUL:
        return OPERAND
    apart = _kinds_apart(one, other)
    if apart:
        return apart
    members = grouping.parts.members
    edges = [e for n in members[read_by] for e in flow.edges[n] if e.source is value]
    if any(edge.path is not Path.FLAT for edge in edges):
        return ORDER
    return LONG if len(members[made_by]) + len(members[read_by]) > MAX_MEMBERS else CYCLE


def _kinds_apart(one: Summary, other: Summary) -> str:
    """Why no kernel computes what both do; "" if one can."""
    kinds = {one.kind, other.kind}
    if kinds == {"matmul"}:
        return PRODUCTS
    if kinds == {"matmul", "rows"}:
        return REDUCES
    if kinds == {"rows"} and (one.space, one.dims) != (other.space, other.dims):
        return SPACES
    if one.is_tall or other.is_tall:
        return TALL
    sizes = {one.numel, one.rows if one.rows >= 0 else one.numel}
    fits = other.numel in sizes or (other.kind == "rows" and one.numel in (other.numel, other.rows))
    return "" if fits else SIZES


# --- Words -------------------------------------------------------------------------------------


def _ops(traffic: Traffic, members: list[int]) -> tuple[str, ...]:
    return tuple(traffic.flow.graph.nodes[i].op.name for i in members)


def _loc(traffic: Traffic, members: list[int]) -> Location | None:
    nodes = traffic.flow.graph.nodes
    heavy = [i for i in members if traffic.flow.role[i] in (Role.MATMUL, Role.REDUCTION)]
    return next((nodes[i].loc for i in (*heavy, *reversed(members)) if nodes[i].loc), None)
