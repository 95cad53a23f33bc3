"""Common subexpression elimination."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace
from typing import Any

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.base import graph_pass


@graph_pass("cse", exact=True)
def cse(graph: Graph) -> Graph:
    """Of nodes with the same op, inputs and attributes, keep the first."""
    first: dict[Hashable, Node] = {}
    same: dict[Value, Value] = {}
    for node in graph.nodes:
        inputs = tuple([same.get(v, v) for v in node.inputs])
        attrs = tuple([(name, key_of(node.attrs[name])) for name in sorted(node.attrs)])
        kept = first.setdefault((node.op, inputs, attrs), node)
        if kept is not node:
            same.update(zip(node.outputs, kept.outputs, strict=True))
        elif inputs != node.inputs:
            first[node.op, inputs, attrs] = replace(node, inputs=inputs)
    return graph.with_nodes(first.values(), renamed=same)


def key_of(attr: Any) -> Hashable:
    """An attribute as a key under which only interchangeable values are equal."""
    # Python has 1 == 1.0 == True, 0.0 == -0.0 and nan != nan; as constants none of these hold.
    if isinstance(attr, float):
        return ("float", attr.hex())
    if isinstance(attr, (bool, int)):
        return (type(attr).__name__, attr)
    if isinstance(attr, tuple):
        return tuple([key_of(item) for item in attr])
    return attr
