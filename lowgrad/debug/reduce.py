"""Cutting a graph that shows a fault down to a few nodes that still show it.

Nodes are taken out by making inputs of what they make, with the values that the graph gives them,
in ever smaller groups (delta debugging: Zeller, Hildebrandt 2002, "Simplifying and isolating
failure-inducing input").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy.typing as npt

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.interpret import run_node
from lowgrad.ir.walk import needed

Array = npt.NDArray[Any]
# Whether a graph shows the fault on these inputs.
Shows = Callable[[Graph, list[Array]], bool]


class Case:
    """A graph with the values that it gives everything."""

    def __init__(self, graph: Graph, arrays: Sequence[Array]) -> None:
        self.graph = graph
        self.values: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
        for node in graph.nodes:
            operands = tuple(self.values[v] for v in node.inputs)
            self.values.update(zip(node.outputs, run_node(node, operands), strict=True))

    def part(self, nodes: Sequence[Node], outputs: Sequence[Value]) -> tuple[Graph, list[Array]]:
        """The graph of those of `nodes` that `outputs` need; what else they read is an input."""
        kept = needed(nodes, outputs)
        made = {v for node in kept for v in node.outputs}
        read = dict.fromkeys(v for node in kept for v in node.inputs if v not in made)
        read.update(dict.fromkeys(v for v in outputs if v not in made))
        graph = replace(
            self.graph, inputs=tuple(read), nodes=tuple(kept), outputs=tuple(outputs), aliases={}
        )
        return graph, [self.values[v] for v in read]


def reduced(
    graph: Graph, arrays: Sequence[Array], shows: Shows, *, seconds: float = 60.0
) -> tuple[Graph, list[Array]]:
    """The smallest part of `graph` found that `shows` the fault, with its inputs.

    Returns the graph as it is if none of its outputs alone shows it.
    """
    end = time.monotonic() + seconds
    case = Case(graph, arrays)

    def holds(nodes: Sequence[Node], outputs: Sequence[Value]) -> bool:
        return time.monotonic() < end and shows(*case.part(nodes, outputs))

    outputs = _few(list(dict.fromkeys(graph.outputs)), lambda some: holds(graph.nodes, some))
    nodes = list(needed(graph.nodes, outputs))
    nodes, outputs = _earlier(nodes, outputs, holds)
    is_smaller = True
    while is_smaller:
        before = len(nodes)
        nodes = _without_groups(nodes, outputs, holds)
        nodes, outputs = _earlier(nodes, outputs, holds)
        is_smaller = len(nodes) < before
    return case.part(*_with_more_outputs(nodes, outputs, holds))


def _few(outputs: list[Value], holds: Callable[[list[Value]], bool]) -> list[Value]:
    """One output that shows the fault, or all."""
    return next(([v] for v in outputs if holds([v])), outputs)


def _earlier(
    nodes: list[Node],
    outputs: list[Value],
    holds: Callable[[Sequence[Node], Sequence[Value]], bool],
) -> tuple[list[Node], list[Value]]:
    """The nodes up to the first value that shows the fault by itself."""
    low, high = 0, len(nodes)
    # Nearly always all that follows a wrong value is wrong as well, so halving finds the first.
    best: tuple[list[Node], list[Value]] = (nodes, outputs)
    while low < high:
        middle = (low + high) // 2
        node = nodes[middle]
        found = next((v for v in node.outputs if holds(nodes[: middle + 1], [v])), None)
        if found is None:
            low = middle + 1
        else:
            best = (list(needed(nodes[: middle + 1], [found])), [found])
            high = middle
    return best


def _with_more_outputs(
    nodes: list[Node],
    outputs: list[Value],
    holds: Callable[[Sequence[Node], Sequence[Value]], bool],
) -> tuple[list[Node], list[Value]]:
    """Fewer nodes, if several of their values are outputs: what mixes values up shows only then."""

    def all_of(kept: Sequence[Node]) -> list[Value]:
        return [v for node in kept for v in node.outputs]

    if len(nodes) <= 2 or not holds(nodes, all_of(nodes)):
        return nodes, outputs
    fewer = _without_groups(nodes, None, lambda kept, _: holds(kept, all_of(kept)))
    if len(fewer) >= len(nodes):
        return nodes, outputs
    return fewer, all_of(fewer)


def _without_groups(
    nodes: list[Node],
    outputs: list[Value] | None,
    holds: Callable[[Sequence[Node], Sequence[Value]], bool],
) -> list[Node]:
    """`nodes` without all groups that the fault does not need, groups halving down to one node.

    outputs: those of what is left; None for all that it makes.
    """
    size = max(len(nodes) // 2, 1)
    while True:
        at = 0
        while at < len(nodes):
            kept = nodes[:at] + nodes[at + size :]
            if kept and holds(kept, outputs or ()):
                nodes = kept if outputs is None else list(needed(kept, outputs))
            else:
                at += size
        if size == 1:
            return nodes
        size = max(size // 2, 1)
