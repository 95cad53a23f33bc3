"""Row loops as launches: the kernels of one chunk, launched for each, on its part of the arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.slicing import window
from lowgrad.ir.types import TensorType
from lowgrad.ops.rows import dims_of, identity

Array = npt.NDArray[Any]


class Piece(NamedTuple):
    """A chunk's graph, how many steps it takes, and how many times it runs."""

    graph: Graph
    taken: int
    times: int


def pieces_of(node: Node) -> list[Piece]:
    """What the loop `node` runs: whole chunks, and then what is left."""
    steps, chunk = node.attrs["steps"], node.attrs["chunk"]
    whole, tail = divmod(steps, chunk)
    sizes = ((chunk, whole), (tail, 1))
    return [Piece(g, *size) for g, size in zip(node.attrs["pieces"], sizes, strict=False)]


def fills(node: Node) -> list[Node]:
    """The nodes that give each accumulator of the loop what it starts from."""
    body: Graph = node.attrs["body"]
    dims = dims_of(body, node.attrs["dims"])
    found = []
    for inner, value in zip(body.outputs, node.outputs, strict=True):
        combine = dims[inner]
        if isinstance(combine, str):
            attrs = {
                "shape": value.type.shape,
                "dtype": value.type.dtype,
                "value": identity(combine, value.type.dtype),
            }
            found.append(Node(REGISTRY["full"], (), attrs, (Value(value.type),), node.loc))
    return found


RunGraph = Callable[[Graph, Sequence[Array]], list[Array]]


def run_loop(node: Node, operands: Sequence[Array], run: RunGraph) -> tuple[Array, ...]:
    """The outputs of the loop `node`; `run` runs a chunk's graph, its aliased inputs in place."""
    body: Graph = node.attrs["body"]
    dims = dims_of(body, node.attrs["dims"])
    ins = [dims[v] for v in body.inputs]
    outs = [dims[v] for v in body.outputs]
    results = [_fresh(v.type, dim) for v, dim in zip(node.outputs, outs, strict=True)]
    sums = [r for r, dim in zip(results, outs, strict=True) if isinstance(dim, str)]
    for graph, first, taken in _walk(node):
        at = (first, taken, node.attrs["steps"])
        arrays = [window(a, dim, *at) for a, dim in zip(operands, ins, strict=True)]
        arrays = [np.ascontiguousarray(a).reshape(a.shape) for a in arrays] + sums
        if len(arrays) < len(graph.inputs):
            arrays.append(np.array(first, np.int64))
        for result, dim, made in zip(results, outs, run(graph, arrays), strict=True):
            if isinstance(dim, int):
                window(result, dim, *at)[...] = made
    return tuple(results)


def _walk(node: Node) -> Iterator[tuple[Graph, int, int]]:
    first = 0
    for graph, taken, times in pieces_of(node):
        for _ in range(times):
            yield graph, first, taken
            first += taken


def _fresh(type_: TensorType, dim: int | str | None) -> Array:
    start = identity(dim, type_.dtype) if isinstance(dim, str) else 0
    return np.full(type_.shape, start, type_.dtype.numpy)
