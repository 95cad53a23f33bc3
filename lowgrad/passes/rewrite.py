"""One forward sweep that replaces nodes by what rules make of them.

A rule sees a node whose inputs are already rewritten, and returns the value to use instead, or
None. What it builds meanwhile passes the same rules, so one sweep reaches the fixed point as long
as each rule makes its node simpler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import Op, outputs_of
from lowgrad.ir.walk import needed

Rule = Callable[[Node, "Rewriter"], "Value | Tracer | None"]
Rules = Mapping[str, Sequence[Rule]]


class Rewriter(Builder):
    """A builder that applies `rules` (by op name) to every node it is given.

    `made` is the producer of each value so far; `readers` estimates how many nodes read a value,
    never too few for values of the old graph.
    """

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules
        self.made: dict[Value, Node] = {}
        self.readers: dict[Value, int] = {}

    def add(self, op: Op, inputs: tuple[Value, ...], attrs: Mapping[str, Any]) -> Node:
        """As Builder.add, but the node's outputs may be those of a simpler one."""
        types = outputs_of(op, tuple([v.type for v in inputs]), dict(attrs))
        return self.place(Node(op, inputs, attrs, tuple([Value(t) for t in types]), self._fixed))

    def place(self, node: Node) -> Node:
        """Append `node`, or let a rule replace it."""
        for rule in self.rules.get(node.op.name, ()):
            found = rule(node, self)
            if found is not None:
                value = found.value if isinstance(found, Tracer) else found
                assert value.type == node.output.type, f"{rule} changed {node.output.type}"
                return Node(node.op, node.inputs, node.attrs, (value,), node.loc)
        self.nodes.append(node)
        for value in node.outputs:
            self.made[value] = node
        return node

    def maker(self, value: Value, name: str) -> Node | None:
        """The node that makes `value`, if its op is called `name`."""
        node = self.made.get(value)
        return node if node is not None and node.op.name == name else None

    def number(self, value: Value) -> bool | int | float | None:
        """The number that fills `value`, if it is a `full`."""
        node = self.maker(value, "full")
        return None if node is None else node.attrs["value"]

    def has_one_reader(self, value: Value) -> bool:
        """Whether at most one node reads `value`, so that replacing it duplicates no work."""
        return self.readers.get(value, 0) <= 1


def rewrite(graph: Graph, rules: Rules) -> Graph:
    """`graph` with `rules` applied everywhere, and without the nodes that nobody needs any more."""
    rewriter = Rewriter(rules)
    _count_readers(graph, rewriter.readers)
    same: dict[Value, Value] = {}
    for node in graph.nodes:
        with rewriter.at(node.loc):
            placed = rewriter.place(_renamed(node, same))
        for old, new in zip(node.outputs, placed.outputs, strict=True):
            if old is not new:
                same[old] = new
                rewriter.readers[new] = rewriter.readers.get(new, 0) + rewriter.readers[old]
    outputs = [same.get(v, v) for v in graph.outputs]
    return graph.with_nodes(needed(rewriter.nodes, outputs), renamed=same)


def _renamed(node: Node, same: Mapping[Value, Value]) -> Node:
    inputs = tuple([same.get(v, v) for v in node.inputs])
    if inputs == node.inputs:
        return node
    outputs = tuple([Value(v.type, v.hint) for v in node.outputs])
    return Node(node.op, inputs, node.attrs, outputs, node.loc)


def _count_readers(graph: Graph, readers: dict[Value, int]) -> None:
    for node in graph.nodes:
        for value in node.outputs:
            readers[value] = 0
        for value in node.inputs:
            readers[value] = readers.get(value, 0) + 1
    for value in graph.outputs:
        readers[value] = readers.get(value, 0) + 1
