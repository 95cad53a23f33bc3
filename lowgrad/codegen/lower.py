"""Graph nodes -> kernels: each family has its skeleton."""

from __future__ import annotations

from lowgrad.codegen.contraction import contraction
from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.multi import multi
from lowgrad.codegen.pointwise import pointwise
from lowgrad.codegen.region import region_of
from lowgrad.codegen.rows import rows
from lowgrad.codegen.scan import scan
from lowgrad.codegen.scatter import scatter
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Graph, Node

SKELETONS = {
    "pointwise": pointwise,
    "rows": rows,
    "matmul": contraction,
    "multi": multi,
    "scatter": scatter,
    "scan": scan,
}
# The skeleton of an op that stands alone, by its family.
KINDS = {
    "pointwise": "pointwise",
    "create": "pointwise",
    "random": "pointwise",
    "view": "pointwise",
    "indexing": "pointwise",
    "reduction": "rows",
    "contraction": "matmul",
    "scan": "scan",
}
SCATTERS = frozenset(("index_add", "scatter_add", "scatter"))


def lower(node: Node, tiling: Tiling = DEFAULT) -> tuple[Kernel, ...]:
    """The kernels that compute `node`, to be launched in order.

    None for a reshape, whose result is the same memory, and for results without elements. Two for
    a reduction too large for one launch; the partial results in between are a scratch param.
    Raises CompileError if the node has no kernel.
    """
    if is_free(node):
        return ()
    return SKELETONS[kind_of(node)](region_of(node), tiling)


def lower_graph(graph: Graph, tiling: Tiling = DEFAULT) -> list[tuple[Node, tuple[Kernel, ...]]]:
    """Each node of `graph` with its kernels."""
    return [(node, lower(node, tiling)) for node in graph.nodes]


def is_free(node: Node) -> bool:
    """Whether the node's result has its input's bytes in its input's order, so nothing runs."""
    return node.op.name == "reshape"


def kind_of(node: Node) -> str:
    """The skeleton for `node`."""
    if node.op.name == "fused":
        kind: str = node.attrs["kind"]
        return kind
    if node.op.name in SCATTERS:
        return "scatter"
    if node.op.family not in KINDS:
        raise CompileError(f"{node.op.name} has no kernel", at=str(node.loc or ""))
    return KINDS[node.op.family]
