"""Names that stay: a value keeps the name it had before a pass, so that only changes are seen.

A dump numbers each stage anew; beside each other two stages would then differ in every line.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Hashable, Iterator, Mapping

from lowgrad.ir.graph import Graph, Node, Value


class Matcher:
    """The nodes of a graph, to be found again in the graph that a pass makes of it."""

    def __init__(self, graph: Graph, names: Mapping[Value, str]) -> None:
        self._names = names
        self._inputs = [names[v] for v in graph.inputs]
        self._all = set(graph.nodes)
        self._nodes: dict[Hashable, deque[Node]] = {}
        self._claimed: set[Node] = set()
        for node in graph.nodes:
            for key in _keys(node, names):
                self._nodes.setdefault(key, deque()).append(node)

    def names_of(self, graph: Graph) -> dict[Value, str]:
        """A name for each value of `graph`: that of the value that it was, or a new one."""
        names = dict(zip(graph.inputs, self._inputs, strict=False))
        taken = {*self._names.values(), *names.values()}
        fresh = (name for name in map(str, itertools.count()) if name not in taken)
        # What a pass has left alone is itself, and nothing that only looks like it.
        self._claimed.update(n for n in graph.nodes if n in self._all)
        for node in graph.nodes:
            found = (self._claim(key) for key in _keys(node, names))
            is_old = node in self._all
            old = node if is_old else next((n for n in found if n is not None), None)
            known = [self._names[v] for v in old.outputs] if old is not None else fresh
            names.update(zip(node.outputs, known, strict=False))
        return names

    def _claim(self, key: Hashable) -> Node | None:
        waiting = self._nodes.get(key, deque())
        while waiting:
            node = waiting.popleft()
            if node not in self._claimed:
                self._claimed.add(node)
                return node
        return None


def _keys(node: Node, names: Mapping[Value, str]) -> Iterator[Hashable]:
    """What a node is known by: all that it says; or, if one line differs, a part of that."""
    attrs = tuple((k, _fixed(v)) for k, v in sorted(node.attrs.items()))
    kind = (node.op.name, attrs, tuple(str(v.type) for v in node.outputs))
    operands = [names.get(v, "") for v in node.inputs]
    yield kind, tuple(operands)
    for place, name in enumerate(operands):
        yield kind, place, name
    yield kind, node.loc


def _fixed(value: object) -> Hashable:
    return id(value) if isinstance(value, Graph) else repr(value)
