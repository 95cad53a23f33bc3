"""Rematerialisation: what is cheap to make again is dropped at the peak and made again after it.

At the moment of the highest peak some values wait for readers that come later: activations for the
backward pass. Which of them to keep is a minimum cut. Each value made so far has a node "needed",
each step that made it a node "run again"; keeping a value cuts the edge between them, at its size,
and running a step again cuts the edge to the sink, at its price, but then it needs its operands.
What lies on the source's side of the least cut is needed, and run again.
Source: Herrmann et al. 2019 state the problem; the cut is that of project selection (Picard 1976).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.base import Pass
from lowgrad.passes.cost import work_of
from lowgrad.passes.decisions import Decision
from lowgrad.passes.order import highest, order
from lowgrad.passes.trades import Trades

# Capacities are int32, and so is the flow: all finite ones together, and more than that.
CAPACITY = 1 << 29
WALL = 1 << 30
UNCUT = math.inf
# Peaks after the first: where values that are made again meet.
MAX_PEAKS = 4
# How much more a value weighs that waits till the end than one that is read at once.
LONG_WAIT = 0.5


@dataclass(frozen=True)
class Again:
    """What was decided: the nodes that run again, and what it saves and costs."""

    graph: Graph
    repeated: tuple[Node, ...]
    dropped: tuple[Value, ...]


def remat(trades: Trades) -> Pass:
    """The pass that trades time for memory at `trades.remat` bytes moved for a byte."""
    return Pass(
        "remat",
        lambda graph: _flattened(graph, trades.remat),
        exact=True,
        explain=lambda graph: _explained(graph, trades.remat),
    )


def _flattened(graph: Graph, weight: float) -> Graph:
    """`graph` with its peaks cut down, as long as that helps."""
    return [graph, *(after for _, after in _cuts(graph, weight))][-1]


def _cuts(graph: Graph, weight: float) -> Iterator[tuple[Again, Graph]]:
    """Each cut that lowered the peak, and the graph after it, in order."""
    for _ in range(MAX_PEAKS):
        peak, at = highest(graph)
        again = rematerialize(graph, at, weight)
        if not again.repeated:
            return
        graph = order(again.graph)
        if highest(graph)[0] >= peak:
            return
        yield again, graph


def _explained(graph: Graph, weight: float) -> Iterator[Decision]:
    for again, _ in _cuts(graph, weight):
        for node in again.repeated:
            reason = "made again when it is needed, instead of kept over the peak"
            nbytes = sum(v.type.nbytes for v in node.outputs)
            yield Decision("remat", True, (node.op.name,), reason, nbytes, node.loc)


def rematerialize(graph: Graph, at: int, weight: float) -> Again:
    """`graph`, nodes in execution order, with less alive after node `at`.

    weight: how many bytes of memory are worth one byte's time (`Work.price`); 0 keeps everything
    that costs anything, more drops more.
    """
    return _Cut(graph, at, weight).apply()


def droppable(graph: Graph, weight: float) -> int:
    """The bytes at the peak that could be worth dropping, at most: no cut drops more at once."""
    cut = _Cut(graph, highest(graph)[1], weight)
    return sum(
        value.type.nbytes
        for value in cut.first_use
        if value in cut.maker and cut._price(cut.maker[value]) <= cut._size(value) < UNCUT
    )


class _Cut:
    def __init__(self, graph: Graph, at: int, weight: float) -> None:
        self.graph, self.at, self.weight = graph, at, weight
        self.before, self.after = graph.nodes[: at + 1], graph.nodes[at + 1 :]
        self.steps = [step for node in self.before for step in single_steps(node)]
        self.maker = {v: n for n in self.steps for v in n.outputs}
        self.fixed = self._fixed()
        self.first_use: dict[Value, int] = {}
        for index, node in enumerate(self.after):
            for value in node.inputs:
                self.first_use.setdefault(value, index)

    def _fixed(self) -> set[Node]:
        """Nodes that must not run twice: they write state."""
        state = {self.graph.outputs[o] for o in self.graph.aliases}
        return {n for n in self.steps if not state.isdisjoint(n.outputs)}

    def apply(self) -> Again:
        again = self._run_again()
        if all(n.op.name == "reshape" for n in again):
            return Again(self.graph, (), ())
        made: dict[Value, Value] = {}
        nodes = list(self.before)
        dropped: dict[Value, None] = {}
        clones: list[Node] = []
        for node in self.after:
            lost = [v for v in dict.fromkeys(node.inputs) if self.maker.get(v) in again]
            dropped.update(dict.fromkeys(lost))
            added = _clones(lost, self.maker, again, made)
            clones += [n for n in added if n.op.name != "reshape"]
            nodes += [*added, _reading(node, made)]
        return Again(self.graph.with_nodes(nodes), tuple(clones), tuple(dropped))

    def _run_again(self) -> set[Node]:
        """The nodes on the source's side of the least cut."""
        wanted = {v for n in self.after for v in n.inputs if v in self.maker}
        kept = {v for v in self.graph.outputs if v in self.maker}
        if not wanted:
            return set()
        net = _Network(self.steps)
        for node in self.steps:
            price = UNCUT if node in self.fixed else self._price(node)
            net.edge(net.again[node], net.sink, price)
            for value in node.outputs:
                # A result is stored anyway.
                size = 0 if value in kept else self._size(value)
                net.edge(net.needed[value], net.again[node], size)
            for value in node.inputs:
                if value in net.needed:
                    net.edge(net.again[node], net.needed[value], UNCUT)
        for value in wanted:
            net.edge(net.source, net.needed[value], UNCUT)
        reached = net.reached()
        return {n for n in self.steps if net.again[n] in reached}

    def _price(self, node: Node) -> float:
        return work_of(node).price

    def _size(self, value: Value) -> float:
        # Another name for the same bytes; they are paid for where they are made.
        is_free = self.maker[value].op.name == "reshape"
        return UNCUT if is_free else self.weight * value.type.nbytes * self._patience(value)

    def _patience(self, value: Value) -> float:
        """From 1 to 1 + LONG_WAIT: what waits longer is dropped first.

        It also tells equal layers apart, so that a weight exists for any number of them.
        """
        return 1 + LONG_WAIT * self.first_use.get(value, 0) / max(len(self.after), 1)


class _Network:
    """A flow network with a node for each value and each step; edges are added with `edge`."""

    def __init__(self, steps: Iterable[Node]) -> None:
        self.source, self.sink = 0, 1
        self.again: dict[Node, int] = {}
        self.needed: dict[Value, int] = {}
        count = 2
        for node in steps:
            self.again[node] = count
            count += 1
            for value in node.outputs:
                self.needed[value] = count
                count += 1
        self.count = count
        self.edges: dict[tuple[int, int], float] = {}

    def edge(self, start: int, end: int, capacity: float) -> None:
        """An edge; parallel ones add up."""
        known = self.edges.get((start, end), 0)
        self.edges[(start, end)] = known + capacity

    def reached(self) -> set[int]:
        """What the source reaches past a least cut: the smallest such set."""
        # Imported here: most programs need no cut, and SciPy takes long to load.
        from scipy.sparse import csr_array
        from scipy.sparse.csgraph import breadth_first_order, maximum_flow

        capacities = self._scaled()
        rows, columns = np.array(list(self.edges), np.int32).T
        shape = (self.count, self.count)
        network = csr_array((capacities, (rows, columns)), shape=shape)
        flow = maximum_flow(network, self.source, self.sink).flow
        residual = network - flow
        residual.data[residual.data < 0] = 0
        residual.eliminate_zeros()
        order = breadth_first_order(residual, self.source, return_predecessors=False)
        return {int(i) for i in order}

    def _scaled(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        capacities = self.edges.values()
        scale = CAPACITY / max(sum(c for c in capacities if c != UNCUT), 1.0)
        return np.array([WALL if c == UNCUT else round(c * scale) for c in capacities], np.int32)


def single_steps(node: Node) -> list[Node]:
    """`node` as it can be run again: a region output by output, each from those before it.

    Where a product is stored and its activation too, the activation alone costs no product.
    """
    if node.op.name != "fused" or len(node.outputs) == 1:
        return [node]
    body: Graph = node.attrs["body"]
    outside = dict(zip(body.inputs, node.inputs, strict=True))
    place = {v: i for i, inner in enumerate(body.nodes) for v in inner.outputs}
    results = dict(zip(body.outputs, node.outputs, strict=True))
    steps = []
    for result in sorted(results, key=lambda v: place.get(v, -1)):
        inner = _needed_for(result, body.nodes, outside)
        inputs = [v for v in outside if any(v in n.inputs for n in inner)]
        part = Graph(tuple(inputs), tuple(inner), (result,), {}, body.name)
        steps.append(
            Node(
                node.op,
                tuple(outside[v] for v in inputs),
                {"body": part, "kind": _kind(inner, node.attrs["kind"])},
                (results[result],),
                node.loc,
            )
        )
        outside[result] = results[result]
    return steps


def _needed_for(result: Value, nodes: Iterable[Node], known: Mapping[Value, Value]) -> list[Node]:
    """Of `nodes`, those that make `result` from the values `known`."""
    wanted = {result}
    kept = []
    for node in reversed(list(nodes)):
        if not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(v for v in node.inputs if v not in known)
    return kept[::-1]


def _kind(nodes: Iterable[Node], whole: str) -> str:
    """The skeleton for some of the nodes of a region of kind `whole`."""
    found = {node.op.family for node in nodes}
    if "contraction" in found:
        return "matmul"
    return whole if whole != "matmul" and "reduction" in found else "pointwise"


def _clones(
    lost: Iterable[Value],
    maker: Mapping[Value, Node],
    again: set[Node],
    made: dict[Value, Value],
) -> list[Node]:
    """The nodes that make `lost` again, in order; `made` gets what each lost value is now."""
    added: list[Node] = []
    todo = [maker[v] for v in lost if v not in made]
    while todo:
        node = todo[-1]
        waiting = [
            maker[v] for v in node.inputs if v not in made and v in maker and maker[v] in again
        ]
        if waiting:
            todo += waiting
            continue
        todo.pop()
        if any(v in made for v in node.outputs):
            continue
        clone = _reading(node, made)
        outputs = tuple(Value(v.type, v.hint) for v in node.outputs)
        added.append(Node(clone.op, clone.inputs, clone.attrs, outputs, node.loc))
        made.update(zip(node.outputs, outputs, strict=True))
    return added


def _reading(node: Node, made: Mapping[Value, Value]) -> Node:
    if not any(v in made for v in node.inputs):
        return node
    inputs = tuple([made.get(v, v) for v in node.inputs])
    return Node(node.op, inputs, node.attrs, node.outputs, node.loc)
