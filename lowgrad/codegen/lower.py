"""Graph nodes -> kernels: each family has its skeleton."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from lowgrad.codegen.columns import reductions
from lowgrad.codegen.contraction import contraction
from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.loop import fills, pieces_of
from lowgrad.codegen.multi import multi
from lowgrad.codegen.pointwise import pointwise
from lowgrad.codegen.region import region_of
from lowgrad.codegen.scan import scan
from lowgrad.codegen.scatter import scatter
from lowgrad.codegen.stream import stream
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.errors import CompileError
from lowgrad.ir.graph import Graph, Node
from lowgrad.passes.in_place import SCATTERS

SKELETONS = {
    "pointwise": pointwise,
    "rows": reductions,
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


@lru_cache(maxsize=4096)
def lower(node: Node, tiling: Tiling = DEFAULT) -> tuple[Kernel, ...]:
    """The kernels that compute `node`, to be launched in order.

    None for a reshape, whose result is the same memory, and for results without elements. Two for
    a reduction too large for one launch; the partial results in between are a scratch param.
    None for a row loop that is launched chunk by chunk (`launches`).
    Raises CompileError if the node has no kernel.
    Kept, since the memory plan, the launches and the executable all ask for the same nodes.
    """
    if is_free(node):
        return ()
    if node.op.family == "loop":
        return stream(node, tiling)
    return SKELETONS[kind_of(node)](region_of(node), tiling)


class Launch(NamedTuple):
    """A kernel, and how many times a step launches it."""

    kernel: Kernel
    times: int


def launches(graph: Graph, tiling: Tiling = DEFAULT) -> Iterator[Launch]:
    """The kernels of `graph` in order; those of a row loop once for each size of chunk."""
    for node in graph.nodes:
        kernels = lower(node, tiling)
        yield from (Launch(kernel, 1) for kernel in kernels)
        if node.op.family != "loop" or kernels:
            continue
        for fill in fills(node):
            yield from (Launch(kernel, 1) for kernel in lower(fill, tiling))
        for piece in pieces_of(node):
            for kernel, times in launches(piece.graph, tiling):
                yield Launch(kernel, times * piece.times)


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
