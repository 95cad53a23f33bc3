"""A compiled function as one op of the tape: how gradients flow through `@compile`d forwards."""

from __future__ import annotations

from typing import Any

from lowgrad import devices
from lowgrad.compiler import Compiled, Options
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph
from lowgrad.ir.op import Array, Op
from lowgrad.ir.types import TensorType
from lowgrad.ir.walk import needed
from lowgrad.passes.autodiff import gradients


class GraphOp(Op):
    """A whole graph, run by its executable. Its derivative is another such op.

    The derivative computes the forward again: it needs nothing but the inputs, and the compiler
    drops what it does not use.
    """

    name = "compiled"
    family = "region"
    moves_data = True  # the executable takes and gives storage types
    runs_itself = True  # where it was compiled for

    def __init__(self, graph: Graph, options: Options) -> None:
        self.graph = graph
        self._options = options
        self._compiled: Compiled | None = None
        self._derivative: tuple[GraphOp, tuple[int, ...]] | None = None

    @classmethod
    def of(cls, graph: Graph, options: Options) -> GraphOp:
        """The graph as an op: its outputs are all new values."""
        return cls(Graph(graph.inputs, graph.nodes, graph.outputs, {}, graph.name), options)

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        """The graph's output types."""
        return tuple(v.type for v in self.graph.outputs)

    def evaluate(self, *arrays: Array) -> tuple[Array, ...]:
        """Run the compiled graph."""
        if self._compiled is None:
            self._compiled = Compiled(self.graph, len(self.graph.nodes), self._options)
        return tuple(self._compiled.executable([devices.row_major(a) for a in arrays]))

    def vjp(self, g: Any, out: Any, *inputs: Tracer) -> tuple[Tracer | None, ...]:
        """The gradients of the inputs that have any, by one op."""
        if self._derivative is None:
            self._derivative = self._differentiated()
        op, positions = self._derivative
        # With one output, the tracer stands alone; missing gradients are zeros.
        given = g if isinstance(g, tuple) else (g,)
        builder = inputs[0].builder
        seeds = [
            builder.full(v.type, 0) if s is None else s
            for s, v in zip(given, self.graph.outputs, strict=True)
            if v.type.dtype.is_floating_point
        ]
        made = builder.apply(op, *inputs, *seeds)
        found = made if isinstance(made, tuple) else (made,)
        result: list[Tracer | None] = [None] * len(inputs)
        for position, tracer in zip(positions, found, strict=True):
            result[position] = tracer
        return tuple(result)

    def _differentiated(self) -> tuple[GraphOp, tuple[int, ...]]:
        graph = self.graph
        builder = Builder()
        builder.inputs = list(graph.inputs)
        builder.nodes = list(graph.nodes)
        roots = [v for v in graph.outputs if v.type.dtype.is_floating_point]
        seeds = [builder.input(v.type, f"g{i}") for i, v in enumerate(roots)]
        wrt = [v for v in graph.inputs if v.type.dtype.is_floating_point]
        found = gradients(builder, list(graph.nodes), roots, seeds, wrt, lambda v: True)
        pairs = [(v, t) for v, t in zip(wrt, found, strict=True) if t is not None]
        outputs = tuple(t.value for _, t in pairs)
        nodes = tuple(needed(builder.nodes, outputs))
        name = f"{graph.name}_backward"
        derivative = Graph(tuple(builder.inputs), nodes, outputs, {}, name)
        index = {v: i for i, v in enumerate(graph.inputs)}
        return GraphOp(derivative, self._options), tuple(index[v] for v, _ in pairs)
