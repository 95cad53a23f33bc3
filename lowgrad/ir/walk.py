"""Facts about a graph, derived when asked: producers, users, last uses, reachable nodes."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from lowgrad.ir.graph import Graph, Node, Value


def alone(node: Node) -> Graph:
    """The graph of one node. What it reads several times is one input."""
    return Graph(tuple(dict.fromkeys(node.inputs)), (node,), node.outputs, {}, node.op.name)


def producers(graph: Graph) -> dict[Value, Node]:
    """The node that makes each value; inputs have none."""
    return {value: node for node in graph.nodes for value in node.outputs}


def users(graph: Graph) -> dict[Value, list[Node]]:
    """The nodes that read each value, in order, once each. Graph outputs are not users."""
    found: dict[Value, list[Node]] = {value: [] for value in graph.inputs}
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            found[value].append(node)
        for value in node.outputs:
            found[value] = []
    return found


def last_uses(graph: Graph) -> list[list[Value]]:
    """For each node's index, the values that nobody reads after it. Outputs never appear."""
    last: dict[Value, int] = {}
    for index, node in enumerate(graph.nodes):
        for value in (*node.inputs, *node.outputs):
            last[value] = index
    for value in graph.outputs:
        last.pop(value, None)
    dead: list[list[Value]] = [[] for _ in graph.nodes]
    for value, index in last.items():
        dead[index].append(value)
    return dead


def needed(nodes: Iterable[Node], outputs: Iterable[Value]) -> list[Node]:
    """Of `nodes`, those that `outputs` depend on, in the same order."""
    live = set(outputs)
    kept: list[Node] = []
    for node in reversed(list(nodes)):
        if not live.isdisjoint(node.outputs):
            kept.append(node)
            live.update(node.inputs)
    kept.reverse()
    return kept


def reached_from(nodes: Iterable[Node], values: Iterable[Value]) -> set[Value]:
    """`values`, and all that `nodes`, in execution order, make of them."""
    found = set(values)
    for node in nodes:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def body_of(node: Node) -> Graph:
    """The region's body; of any other node, a body with that alone, whose inputs are distinct.

    A row loop is such a node: its body is not what it does at once.
    """
    if node.op.name == "fused":
        body: Graph = node.attrs["body"]
        return body
    inner = {v: Value(v.type, v.hint) for v in dict.fromkeys(node.inputs)}
    outputs = tuple(Value(v.type) for v in node.outputs)
    alone = Node(node.op, tuple(inner[v] for v in node.inputs), node.attrs, outputs, node.loc)
    return Graph(tuple(inner.values()), (alone,), outputs, {}, "body")


def in_order(nodes: Iterable[Node]) -> list[Node] | None:
    """`nodes`, each after those whose results it reads, else as given; None if there is no order.

    Source: Kahn 1962, "Topological sorting of large networks".
    """
    given = list(nodes)
    producer = {v: i for i, n in enumerate(given) for v in n.outputs}
    before = [{producer[v] for v in n.inputs if v in producer} for n in given]
    after: list[list[int]] = [[] for _ in given]
    for index, sources in enumerate(before):
        for source in sources:
            after[source].append(index)
    left = [len(sources) for sources in before]
    ready = [i for i, n in enumerate(left) if n == 0]
    found: list[Node] = []
    while ready:
        index = heapq.heappop(ready)
        found.append(given[index])
        for other in after[index]:
            left[other] -= 1
            if left[other] == 0:
                heapq.heappush(ready, other)
    return found if len(found) == len(given) else None


def alias_fault(graph: Graph) -> str | None:
    """What is wrong with `graph.aliases`, or None: each takes over an input of its type, once."""
    taken: set[int] = set()
    for output, source in graph.aliases.items():
        if not (0 <= output < len(graph.outputs) and 0 <= source < len(graph.inputs)):
            return (
                f"the alias {output}: {source} is out of range: there are "
                f"{len(graph.outputs)} outputs and {len(graph.inputs)} inputs"
            )
        types = graph.outputs[output].type, graph.inputs[source].type
        if types[0] != types[1]:
            return f"the alias {output}: {source} puts {types[0]} into an input of {types[1]}"
        if source in taken:
            return f"two outputs take over input {source}"
        taken.add(source)
    return None
