"""Gradients that wait: a number made of all of them (their norm) goes into each update.

Elsewhere a gradient dies at its own update, as soon as it is made. Where gradients are clipped by
their norm, all of them are alive until the last is made; the memory plan says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.walk import needed, producers


def waiting(graph: Graph) -> Iterator[tuple[Node, list[Value]]]:
    """(the node that makes such a number, the gradients that wait for it), of two or more."""
    maker = producers(graph)
    state = {graph.outputs[o] for o in graph.aliases}
    updates = [n for n in graph.nodes if not state.isdisjoint(n.outputs)]
    readers: dict[Value, dict[Value, None]] = {}
    for update in updates:
        large = [v for v in update.inputs if v in maker and v.type.numel > 1]
        for number in update.inputs:
            if number in maker and number.type.numel == 1:
                readers.setdefault(number, {}).update(dict.fromkeys(large))
    for number, gradients in readers.items():
        behind = {v for n in needed(graph.nodes, [number]) for v in n.inputs}
        waits = [g for g in gradients if g in behind]
        if len(waits) > 1:
            yield maker[number], waits
