"""What a row loop runs: its body at the size of a chunk, fused and ordered like a step of its own.

A chunk's graph reads its pieces of the sliced inputs, the whole ones, the accumulators so far and,
if something depends on the place (random numbers, a causal mask), the chunk's first step. Its
outputs are the pieces of the results, and the accumulators, each over the old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.slicing import Cut
from lowgrad.ir.types import TensorType, int64
from lowgrad.ops.rows import COMBINED_BY, Dim, dims_of
from lowgrad.passes.base import Pass, graph_pass
from lowgrad.passes.decisions import Decision
from lowgrad.passes.fuse import fuse
from lowgrad.passes.order import order
from lowgrad.passes.simplify import simplify
from lowgrad.passes.views import views

START = TensorType((), int64)

# Making a piece adds only what says where it is; the rest was simplified at full size.
LOWERING: tuple[Pass, ...] = (simplify, views, fuse, order)


@graph_pass("chunks", exact=True, explain=lambda graph: _explained(graph))
def chunks(graph: Graph) -> Graph:
    """Every row loop gets the graphs of its pieces."""
    return graph.with_nodes(_with_pieces(node) for node in graph.nodes)


def _with_pieces(node: Node) -> Node:
    if node.op.name != "rows":
        return node
    sizes = piece_sizes(node.attrs["steps"], node.attrs["chunk"])
    pieces = tuple(lowered(chunk_graph(node, size)) for size in sizes)
    return Node(node.op, node.inputs, {**node.attrs, "pieces": pieces}, node.outputs, node.loc)


def _explained(graph: Graph) -> Iterator[Decision]:
    """What fuse decides for a whole chunk of each loop, for all of them."""
    assert fuse.explain is not None, "fuse can be asked"
    for node in graph.nodes:
        if node.op.name == "rows":
            taken = min(node.attrs["chunk"], node.attrs["steps"])
            times = max(1, node.attrs["steps"] // taken)
            for d in fuse.explain(views(simplify(chunk_graph(node, taken)))):
                yield replace(d, nbytes=d.nbytes * times, times=times)


def lowered(graph: Graph) -> Graph:
    """A chunk's graph as it runs."""
    for step in LOWERING:
        graph = step(graph)
    return graph


def piece_sizes(steps: int, chunk: int) -> tuple[int, ...]:
    """The sizes of the pieces, each once: that of a chunk, and of what is left at the end."""
    return (chunk, steps % chunk) if steps % chunk else (chunk,)


def sliced_type(type_: TensorType, dim: Dim, steps: int, taken: int) -> TensorType:
    """`type_` with `taken` of `steps` steps along `dim`."""
    if not isinstance(dim, int):
        return type_
    size = type_.shape[dim] // steps * taken
    return type_.with_shape((*type_.shape[:dim], size, *type_.shape[dim + 1 :]))


def chunk_graph(node: Node, taken: int) -> Graph:
    """The graph of a piece of `taken` steps of the loop `node`, as it follows from the body."""
    return _Piece(node, taken).graph()


class _Piece:
    def __init__(self, node: Node, taken: int) -> None:
        self.body: Graph = node.attrs["body"]
        self.dims = dims_of(self.body, node.attrs["dims"])
        self.given = [v.type.dtype for v in node.inputs]
        self.wanted = [v.type for v in node.outputs]
        self.steps: int = node.attrs["steps"]
        self.taken = taken
        self.builder = Builder()
        self.made: dict[Value, Tracer] = {}
        self._start: Tracer | None = None

    def graph(self) -> Graph:
        for value, dtype in zip(self.body.inputs, self.given, strict=True):
            given = self.builder.input(self._type(value).with_dtype(dtype), value.hint)
            own = value.type.dtype
            self.made[value] = given if dtype is own else given.call("cast", dtype=own)
        before = {
            v: self.builder.input(wanted, v.hint)
            for v, wanted in zip(self.body.outputs, self.wanted, strict=True)
            if isinstance(self.dims[v], str)
        }
        for node in self.body.nodes:
            with self.builder.at(node.loc):
                self._node(node)
        outputs, aliases = [], {}
        for position, value in enumerate(self.body.outputs):
            if value in before:
                aliases[position] = self.builder.inputs.index(before[value].value)
                outputs.append(self._combined(value, before[value]))
            else:
                outputs.append(self._put_together(position, value))
        return self.builder.graph(tuple(t.value for t in outputs), aliases, "piece")

    def _put_together(self, position: int, value: Value) -> Tracer:
        piece, dtype = self.made[value], self.wanted[position].dtype
        if piece.dtype is dtype:
            return piece
        wide: Tracer = piece.call("cast", dtype=dtype)
        return wide

    def _type(self, value: Value) -> TensorType:
        return sliced_type(value.type, self.dims[value], self.steps, self.taken)

    def _node(self, node: Node) -> None:
        dims = tuple(self.dims[v] for v in node.outputs)
        cut = Cut(
            self.builder,
            outs=tuple(map(self._type, node.outputs)),
            dims=tuple(d if isinstance(d, int) else None for d in dims),
            full=tuple(v.type for v in node.outputs),
            total=self.steps,
            taken=self.taken,
            start=self._first_step,
        )
        inputs = [self.made[v] for v in node.inputs]
        # What is whole needs no cutting.
        if all(d is None for d in dims):
            made = self.builder.apply(node.op, *inputs, **node.attrs)
        else:
            made = node.op.cut(cut, *inputs, **node.attrs)
        results = made if isinstance(made, tuple) else (made,)
        for value, tracer in zip(node.outputs, results, strict=True):
            assert tracer.type == self._type(value), f"{node.op}: {tracer.type} is no such piece"
            self.made[value] = tracer

    def _first_step(self) -> Tracer:
        if self._start is None:
            self._start = self.builder.input(START, "start")
        return self._start

    def _combined(self, value: Value, before: Tracer) -> Tracer:
        combine = self.dims[value]
        assert isinstance(combine, str), "only partial results are combined"
        piece = self.made[value]
        if piece.type != before.type:
            piece = piece.call("cast", dtype=before.dtype)
        combined: Tracer = self.builder.apply(REGISTRY[COMBINED_BY[combine]], before, piece)
        return combined
