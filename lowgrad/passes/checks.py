"""Which nodes may raise while a step runs: those that follow an index, which may be out of range.

State is only written once nothing can raise any more, so that a step that fails leaves all as it
was. Of several nodes that follow one index into equally many places, the first speaks for all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lowgrad.ir.graph import Graph, Node, Value

# Views under which an index is still the same numbers.
SAME_NUMBERS = frozenset(("reshape", "permute", "expand"))


def may_raise(graph: Graph) -> list[int]:
    """The places of nodes that may raise, in order; no two for the same check."""
    origin: dict[Value, Value] = {}
    seen: set[object] = set()
    found = []
    for place, node in enumerate(graph.nodes):
        checks = set(_checks(node, origin))
        if not checks <= seen:
            found.append(place)
            seen |= checks
    return found


def _checks(node: Node, origin: dict[Value, Value]) -> Iterator[object]:
    """(index, size) of each index that `node` follows; `origin`: what a view's numbers are."""
    body: Graph | None = node.attrs.get("body")
    if body is not None:
        outside = dict(zip(body.inputs, node.inputs, strict=True))
        inner = {v: _root(outer, origin) for v, outer in outside.items()}
        for own in body.nodes:
            yield from _checks(own, inner)
        return
    if node.op.name in SAME_NUMBERS:
        origin[node.output] = _root(node.inputs[0], origin)
    if node.op.family == "indexing":
        x, index = node.inputs[:2]
        yield _root(index, origin), x.type.shape[node.attrs["dim"]]


def _root(value: Value, origin: Mapping[Value, Value]) -> Value:
    return origin.get(value, value)
