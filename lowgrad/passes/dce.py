"""Dead code elimination."""

from __future__ import annotations

from lowgrad.ir.graph import Graph
from lowgrad.ir.walk import needed
from lowgrad.passes.base import graph_pass


@graph_pass("dce", exact=True)
def dce(graph: Graph) -> Graph:
    """Drop the nodes that no output depends on. Inputs stay: they are the signature."""
    return graph.with_nodes(needed(graph.nodes, graph.outputs))
