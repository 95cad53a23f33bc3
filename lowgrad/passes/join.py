"""Joining: what is made again is made by a kernel that reads the same anyway.

After rematerialisation an activation is computed twice: once in the forward pass, once before its
late reader. If a kernel over equally many elements reads what it is made of (the kernel of the
activation's derivative does), that one writes it too, and a launch and a read are saved.
"""

from __future__ import annotations

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.walk import body_of, in_order
from lowgrad.passes.base import graph_pass
from lowgrad.passes.cse import cse
from lowgrad.passes.dataflow import Path, Role, flow_of
from lowgrad.passes.order import highest, order
from lowgrad.passes.regions import renamed

# Smaller ones are not what fills the memory, and kernels of them are other passes' business.
MIN_BYTES = 1 << 16


@graph_pass("join", exact=True)
def join(graph: Graph) -> Graph:
    """Fewer kernels; the peak stays, by `order.highest`."""
    nodes = [n for n in graph.nodes if _is_pointwise(n)]
    return _all_joined(graph, nodes, highest(graph)[0])


def _all_joined(graph: Graph, nodes: list[Node], peak: int) -> Graph:
    """`graph` with as many of `nodes` joined as `peak` allows, found by halving."""
    joined = graph
    for node in nodes:
        joined = _joined(joined, node) or joined
    if joined is graph:
        return graph
    joined = order(joined)
    if highest(joined)[0] <= peak:
        return joined
    half = len(nodes) // 2
    if half == 0:
        return graph
    return _all_joined(_all_joined(graph, nodes[:half], peak), nodes[half:], peak)


def _joined(graph: Graph, node: Node) -> Graph | None:
    """`graph` with `node` done by one of those that read its largest input; None if none can."""
    largest = max(node.inputs, key=lambda v: v.type.nbytes, default=None)
    if largest is None or node not in graph.nodes:  # it may be the host of another by now
        return None
    for host in [n for n in graph.nodes if largest in n.inputs]:
        if host is not node and _fits(node, host):
            both = _both(host, node)
            nodes = in_order(both if n is host else n for n in graph.nodes if n is not node)
            if nodes is not None:
                return graph.with_nodes(nodes)
    return None


def _is_pointwise(node: Node) -> bool:
    return _kind(node) == "pointwise" and node.outputs[0].type.nbytes >= MIN_BYTES


def _fits(node: Node, host: Node) -> bool:
    """Whether `host` goes through all that `node` reads, element by element, and is as large."""
    size = node.outputs[0].type.numel
    if _kind(host) not in ("pointwise", "matmul"):
        return False
    if any(v in host.outputs for v in node.inputs):
        return False
    if any(v.type.numel != size for v in (*node.outputs, *host.outputs)):
        return False
    shared = _read_in_place(host) & _read_in_place(node)
    return all(v in shared for v in node.inputs if v.type.numel >= size)


def _read_in_place(node: Node) -> set[Value]:
    """The inputs of which each element is read where the result at its place is made."""
    body = body_of(node)
    flow = flow_of(body)
    outside = dict(zip(body.inputs, node.inputs, strict=True))
    pointwise = (e for i, es in enumerate(flow.edges) for e in es if flow.role[i] is Role.POINTWISE)
    return {outside[e.source] for e in pointwise if e.path is Path.FLAT and e.source in outside}


def _both(host: Node, node: Node) -> Node:
    """One region that does what two do, and what both do once."""
    inputs = dict.fromkeys((*host.inputs, *node.inputs))
    inner = {v: Value(v.type, v.hint) for v in inputs}
    nodes: list[Node] = []
    outputs: list[Value] = []
    for part in (host, node):
        body = body_of(part)
        names = dict(zip(body.inputs, (inner[v] for v in dict.fromkeys(part.inputs)), strict=True))
        names |= {v: Value(v.type, v.hint) for n in body.nodes for v in n.outputs}
        nodes += [renamed(n, names) for n in body.nodes]
        outputs += [names[v] for v in body.outputs]
    both = cse(Graph(tuple(inner.values()), tuple(nodes), tuple(outputs), {}, "body"))
    attrs = {"body": both, "kind": _kind(host)}
    made = (*host.outputs, *node.outputs)
    return Node(REGISTRY["fused"], tuple(inputs), attrs, made, host.loc)


def _kind(node: Node) -> str | None:
    """The kind of region that a node is or would be, of those that go element by element."""
    alone = {"pointwise": "pointwise", "contraction": "matmul"}
    kind: str | None = node.attrs.get("kind", alone.get(node.op.family))
    return kind
