"""Which products of a body are added to what is there: BLAS does that without a second array."""

from __future__ import annotations

from collections.abc import Mapping

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.types import float32, float64
from lowgrad.runtime.cpu.chunks import FREE


def added(body: Graph, stored: Mapping[Value, Value]) -> dict[Node, Node]:
    """For products that only go, reshaped perhaps, into `old + product`, written where `old` is:
    that sum. Nothing else reads `old`.

    stored: outputs of `body` that are written where an input is, and which.
    """
    maker = {v: n for n in body.nodes for v in n.outputs}
    readers: dict[Value, list[Node]] = {}
    for node in body.nodes:
        for value in node.inputs:
            readers.setdefault(value, []).append(node)
    found: dict[Node, Node] = {}
    for node in body.nodes:
        old = stored.get(node.outputs[0])
        if node.op.name != "add" or old is None or old not in node.inputs:
            continue
        term = node.inputs[1] if node.inputs[0] is old else node.inputs[0]
        if readers[old] != [node] or old.type.dtype not in (float32, float64):
            continue
        while term in maker and maker[term].op.name == "reshape" and _single(term, readers, body):
            term = maker[term].inputs[0]
        made = maker.get(term)
        if made is not None and made.op.name == "matmul" and _single(term, readers, body):
            found[made] = node
    return found


def _single(value: Value, readers: Mapping[Value, list[Node]], body: Graph) -> bool:
    return len(readers[value]) == 1 and value not in body.outputs


def between(body: Graph, sums: Mapping[Node, Node]) -> set[Node]:
    """The reshapes from products to their sums: nobody needs them."""
    maker = {v: n for n in body.nodes for v in n.outputs}
    found: set[Node] = set()
    for made, total in sums.items():
        for term in total.inputs:
            way = []
            while term in maker and maker[term].op.name in FREE:
                way.append(maker[term])
                term = maker[term].inputs[0]
            if maker.get(term) is made:
                found.update(way)
    return found
