"""Row loops run piece by piece with the reference interpreter, as a check of the pieces' graphs."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import Array
from lowgrad.ir.slicing import window
from lowgrad.ops.rows import dims_of, identity
from lowgrad.passes.chunks import chunk_graph


def run_in_pieces(node: Node, arrays: tuple[Array, ...], *, lowered: bool = False) -> list[Array]:
    """The outputs of a `rows` node. lowered: with the graphs that the pass left in the node."""
    attrs = node.attrs
    steps, chunk = attrs["steps"], attrs["chunk"]
    dims = dims_of(attrs["body"], attrs["dims"])
    along = [dims[v] for v in attrs["body"].outputs]
    results = [_empty(v.type, dim) for v, dim in zip(node.outputs, along, strict=True)]
    for start in range(0, steps, chunk):
        taken = min(chunk, steps - start)
        graph = attrs["pieces"][taken != chunk] if lowered else chunk_graph(node, taken)
        at = (start, taken, steps)
        inputs = [
            window(array, dims[v], *at)
            for array, v in zip(arrays, attrs["body"].inputs, strict=True)
        ]
        inputs += [r for r, dim in zip(results, along, strict=True) if isinstance(dim, str)]
        if len(inputs) < len(graph.inputs):
            inputs.append(np.array(start, np.int64))
        outputs = interpret(graph, *inputs)
        for result, output, dim in zip(results, outputs, along, strict=True):
            window(result, dim, *at)[...] = output
    return results


def pieces_of(graph: Graph) -> list[Node]:
    """The row loops of a graph."""
    return [n for n in graph.nodes if n.op.name == "rows"]


def _empty(type_: Any, dim: Any) -> Array:
    start = identity(dim, type_.dtype) if isinstance(dim, str) else 0
    return np.full(type_.shape, start, type_.dtype.numpy)
