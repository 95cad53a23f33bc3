"""A graph as fusion sees it: the nodes that compute, and how their values reach each other.

Views and creates are looked through: they cost nothing inside a kernel, so each reader has its own
copy of them, as an index map. A view is `kept` as a computation only where its result must exist in
memory: as an output, or for an op that is a kernel of its own (a sort, a scatter).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.types import Shape

# Longer chains of views become computations, so that copying them for each reader stays linear.
MAX_VIEWS = 16


class Role(Enum):
    """What a node is to fusion."""

    POINTWISE = "pointwise"  # each element by itself, from any elements of the inputs
    REDUCTION = "reduction"
    MATMUL = "matmul"
    OPAQUE = "opaque"  # a kernel of its own, with all inputs in memory
    RESHAPE = "reshape"  # a view in memory: another name for its input's buffer
    CREATE = "create"
    VIEW = "view"


class Path(Enum):
    """How the elements of a value are read, through views, by one operand of a node."""

    FLAT = "flat"  # each element where it is, counting in row-major order
    EXPAND = "expand"  # repeated from `low` to `high`
    GATHER = "gather"  # one element for each row, chosen by an index
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Edge:
    """Operand of a node: `source` read along `path`; `nbytes` of it at most."""

    source: Value
    path: Path
    low: Shape = ()
    high: Shape = ()
    nbytes: int = 0
    views: int = 0


@dataclass
class Flow:
    """Roles and edges of nodes, which go by their index. What reads a view reads its source."""

    graph: Graph
    role: list[Role] = field(default_factory=list)
    edges: list[tuple[Edge, ...]] = field(default_factory=list)
    producer: dict[Value, int] = field(default_factory=dict)
    outputs: frozenset[Value] = frozenset()

    def computes(self, node: int) -> bool:
        """Whether `node` is part of a group, rather than looked through."""
        return self.role[node] not in (Role.VIEW, Role.CREATE)


def flow_of(graph: Graph) -> Flow:
    """Roles and edges of all nodes, in one sweep."""
    flow = Flow(graph, outputs=frozenset(graph.outputs))
    through: dict[Value, Edge | None] = {v: _start(v) for v in graph.inputs}
    kept = _kept_in_memory(graph)
    for index, node in enumerate(graph.nodes):
        edges = [_step(node, operand, through[v]) for operand, v in enumerate(node.inputs)]
        found = tuple([e for e in edges if e is not None])
        role = _role(node, found, kept)
        if role in (Role.OPAQUE, Role.RESHAPE):
            found = tuple([_start(v) for v in node.inputs])
        flow.role.append(role)
        flow.edges.append(found)
        for value in node.outputs:
            flow.producer[value] = index
            if role in (Role.VIEW, Role.CREATE, Role.RESHAPE):
                through[value] = edges[0] if edges else None
            else:
                through[value] = _start(value)
    return flow


def _start(value: Value) -> Edge:
    return Edge(value, Path.FLAT, nbytes=value.type.nbytes)


def _kept_in_memory(graph: Graph) -> set[Value]:
    kept = set(graph.outputs)
    for node in reversed(graph.nodes):
        opaque = node.op.name in _OPAQUE or node.op.family not in _FUSIBLE
        # A reshape in memory is another name for its input, which is then in memory as well.
        if opaque or (node.op.name == "reshape" and node.output in kept):
            kept.update(node.inputs)
    return kept


def _role(node: Node, edges: tuple[Edge, ...], kept: set[Value]) -> Role:
    role = _FUSIBLE.get(node.op.family, Role.OPAQUE)
    if node.op.name in _OPAQUE:
        return Role.OPAQUE
    in_memory = not kept.isdisjoint(node.outputs)
    if role is Role.CREATE and in_memory:
        return Role.POINTWISE
    if role is not Role.VIEW or len(node.inputs) > 1:
        return Role.POINTWISE if role is Role.VIEW else role
    if in_memory:
        return Role.RESHAPE if node.op.name == "reshape" and edges else Role.POINTWISE
    return Role.POINTWISE if edges and edges[0].views > MAX_VIEWS else Role.VIEW


_FUSIBLE = {
    "pointwise": Role.POINTWISE,
    "random": Role.POINTWISE,
    "indexing": Role.POINTWISE,
    "reduction": Role.REDUCTION,
    "contraction": Role.MATMUL,
    "create": Role.CREATE,
    "view": Role.VIEW,
}
# A many-to-one write is never fused with a reader or a writer of its operands. A table of numbers
# is data in memory.
_OPAQUE = frozenset(("scatter", "scatter_add", "index_add", "literal"))


def _step(node: Node, operand: int, edge: Edge | None) -> Edge | None:
    """`edge`, one node further on; None for a constant."""
    if edge is None:
        return None
    family, name = node.op.family, node.op.name
    if family in ("pointwise", "reduction", "contraction"):
        return edge
    views = edge.views + 1
    nbytes = min(edge.nbytes, node.outputs[0].type.numel * edge.source.type.dtype.itemsize)
    if name == "reshape":
        return Edge(edge.source, edge.path, edge.low, edge.high, nbytes, views)
    if name == "expand" and edge.path is Path.FLAT:
        low, high = node.inputs[0].type.shape, node.output.type.shape
        return Edge(edge.source, Path.EXPAND, low, high, nbytes, views)
    if name == "gather":
        return _gathered(node, operand, edge, nbytes)
    return Edge(edge.source, Path.OTHER, nbytes=nbytes, views=views)


def _gathered(node: Node, operand: int, edge: Edge, nbytes: int) -> Edge:
    if operand == 1:
        return edge
    dim = node.attrs["dim"]
    one_per_row = node.inputs[1].type.shape[dim] == 1 and edge.path is Path.FLAT
    path = Path.GATHER if one_per_row else Path.OTHER
    return Edge(edge.source, path, low=(dim,), high=node.inputs[0].type.shape, nbytes=nbytes)
