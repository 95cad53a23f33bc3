"""Writes groups of nodes down as a graph of `fused` nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.passes.dataflow import Flow, Role
from lowgrad.passes.recompute import Traffic


def with_regions(traffic: Traffic) -> Graph:
    """The graph with one node for each group that still has a reader."""
    graph = traffic.flow.graph
    wanted = set(graph.outputs)
    nodes: list[Node] = []
    # Backwards, so that a group knows what of it is wanted: recomputation may have left nothing.
    for group in reversed(traffic.grouping.parts.in_order()):
        node = _node_of(traffic, group, wanted)
        if node is not None:
            nodes.append(node)
            wanted.update(node.inputs)
    return graph.with_nodes(reversed(nodes))


def _node_of(traffic: Traffic, group: int, wanted: set[Value]) -> Node | None:
    flow = traffic.flow
    members = traffic.grouping.parts.members[group]
    if not flow.computes(members[0]):
        return None
    nodes = [flow.graph.nodes[i] for i in members]
    outputs = [v for n in nodes for v in n.outputs if v in wanted]
    if not outputs:
        return None
    if traffic.grouping.summary[group].kind == "alone":
        return nodes[0]
    body = nodes_behind(flow, outputs, {*members, *traffic.repeated.get(group, ())})
    inner = [flow.graph.nodes[i] for i in body]
    return _region(inner, outputs, traffic.grouping.summary[group].kind, _speaker(flow, members))


def nodes_behind(flow: Flow, outputs: Iterable[Value], own: set[int]) -> list[int]:
    """The nodes, by index, that make `outputs`: `own` ones, and views and constants they need."""
    found: set[int] = set()
    todo = [flow.producer[v] for v in outputs]
    while todo:
        index = todo.pop()
        if index in found:
            continue
        found.add(index)
        for value in flow.graph.nodes[index].inputs:
            source = flow.producer.get(value)
            if source is not None and (source in own or flow.role[source] in _COPIED):
                todo.append(source)
    return sorted(found)


_COPIED = (Role.VIEW, Role.CREATE, Role.RESHAPE)


def _speaker(flow: Flow, members: list[int]) -> Node:
    """The member whose line of the user's program stands for the region."""
    heavy = [i for i in members if flow.role[i] in (Role.MATMUL, Role.REDUCTION)]
    return flow.graph.nodes[heavy[0] if heavy else members[-1]]


def _region(nodes: list[Node], outputs: list[Value], kind: str, speaker: Node) -> Node:
    if len(nodes) == 1:
        return nodes[0]
    inner: dict[Value, Value] = {}
    inputs = free_values(nodes)
    for value in (*inputs, *(v for n in nodes for v in n.outputs)):
        inner[value] = Value(value.type, value.hint)
    body = Graph(
        inputs=tuple([inner[v] for v in inputs]),
        nodes=tuple([renamed(n, inner) for n in nodes]),
        outputs=tuple([inner[v] for v in outputs]),
        name="body",
    )
    attrs = {"body": body, "kind": kind}
    return Node(REGISTRY["fused"], tuple(inputs), attrs, tuple(outputs), speaker.loc)


def free_values(nodes: list[Node]) -> list[Value]:
    """What `nodes` read and do not make, in order of first use."""
    made = {v for n in nodes for v in n.outputs}
    return list(dict.fromkeys(v for n in nodes for v in n.inputs if v not in made))


def renamed(node: Node, names: Mapping[Value, Value]) -> Node:
    """`node` on the values that `names` has for its own."""
    inputs = tuple([names[v] for v in node.inputs])
    outputs = tuple([names[v] for v in node.outputs])
    return Node(node.op, inputs, node.attrs, outputs, node.loc)
