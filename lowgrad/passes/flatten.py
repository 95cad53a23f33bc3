"""Rows stay rows: what a large product is split into, [batch, length, ...], is one dim again.

A linear layer over [batch, length, width] is a product of [batch * length, width], split
afterwards. What is done to each of its rows is then done in the split form, and a loop over rows
cannot cross the split: its step is a row, not a batch. Here all that has the split dims in front is
computed on rows; what needs them apart (a sum over each sequence) splits what little it reads.
Nothing moves: the elements lie in the same order in both forms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import Shape
from lowgrad.ir.walk import needed, producers, users
from lowgrad.passes.base import Pass
from lowgrad.passes.trades import Trades


def flatten(trades: Trades) -> Pass:
    """The pass that flattens what is around products of `trades.loop_over` bytes or more."""
    return Pass(
        "flatten",
        lambda graph: _flattened(graph, trades.loop_over),
        exact=False,
        reason="a sum over [batch, length] adds up in another order",
    )


def _flattened(graph: Graph, least: int | None) -> Graph:
    if least is None:
        return graph
    for lead in dict.fromkeys(_splits(graph, least)):
        graph = _Flatten(graph, lead).graph()
    return graph


def _splits(graph: Graph, least: int) -> list[Shape]:
    """The dims that the rows of large products of two matrices are split into."""
    made = producers(graph)
    found = []
    for node in graph.nodes:
        if node.op.name != "reshape":
            continue
        (x,), out = node.inputs, node.output
        is_product = x in made and made[x].op.family == "contraction" and x.type.ndim == 2
        lead = out.type.shape[: out.type.ndim - x.type.ndim + 1]
        if (
            is_product
            and x.type.nbytes >= max(least, 1)
            and len(lead) > 1
            and (math.prod(lead), *out.type.shape[len(lead) :]) == x.type.shape
        ):
            found.append(lead)
    return found


class _Flatten:
    """One rewriting, of the values around such products whose shape starts with `lead`."""

    def __init__(self, graph: Graph, lead: Shape) -> None:
        self.old, self.lead, self.rows = graph, lead, math.prod(lead)
        self.made, self.users = producers(graph), users(graph)
        self.members = self._members()
        self.builder = Builder()
        self.flat: dict[Value, Value] = {}  # as rows
        self.apart: dict[Value, Value] = {}  # as rows split again

    def graph(self) -> Graph:
        """The graph with its members on rows."""
        for node in self.old.nodes:
            with self.builder.at(node.loc):
                if node in self.members:
                    self.flat[node.output] = self._on_rows(node)
                else:
                    self.builder.nodes.append(self._reading(node))
        outputs = [self._split(v) for v in self.old.outputs]
        renamed = dict(zip(self.old.outputs, outputs, strict=True))
        return self.old.with_nodes(needed(self.builder.nodes, outputs), renamed)

    # --- Which nodes ----------------------------------------------------------------------------

    def _members(self) -> set[Node]:
        """All that can be done on rows, from what splits them on."""
        found: set[Node] = set()
        todo = [n for n in self.old.nodes if n.op.name == "reshape" and self._is_split(n)]
        while todo:
            node = todo.pop()
            if node in found or not self._can(node):
                continue
            found.add(node)
            for value in (*node.inputs, *node.outputs):
                if self._has_lead(value):
                    todo += [self.made[value]] if value in self.made else []
                    todo += self.users[value]
        return found

    def _is_split(self, node: Node) -> bool:
        return self._row_shape(node.output) == node.inputs[0].type.shape

    def _has_lead(self, value: Value) -> bool:
        return value.type.shape[: len(self.lead)] == self.lead

    def _row_shape(self, value: Value) -> Shape | None:
        """[rows, ...] for a value of [*lead, ...]."""
        return (self.rows, *value.type.shape[len(self.lead) :]) if self._has_lead(value) else None

    def _can(self, node: Node) -> bool:
        count, op = len(self.lead), node.op
        if op.name == "reshape":
            return self._has_lead(node.inputs[0]) or self._has_lead(node.output)
        if op.name in _REDUCTIONS:
            return self._has_lead(node.inputs[0]) and self._keeps_rows_together(node)
        if len(node.outputs) != 1 or not self._has_lead(node.output):
            return False
        if op.name == "expand":
            first = node.inputs[0].type.shape[:count]
            return first in (self.lead, (1,) * count)
        if op.name in ("gather", "scatter", "scatter_add", "iota"):
            return node.attrs["dim"] >= count and all(map(self._has_lead, node.inputs))
        return op.family == "pointwise" or op.name == "full"

    def _keeps_rows_together(self, node: Node) -> bool:
        """Whether a reduction goes over all of the leading dims, or none."""
        return len(set(node.attrs["dims"]) & set(range(len(self.lead)))) in (0, len(self.lead))

    # --- The same on rows -----------------------------------------------------------------------

    def _on_rows(self, node: Node) -> Value:
        """What a member makes, on rows; without the leading dims if it sums over them."""
        attrs = self._attrs(node)
        if node.op.name == "reshape":
            return self._reshape(self._flat_or_as_is(node.inputs[0]), attrs["shape"])
        added = self.builder.add(node.op, tuple([self._joined(v) for v in node.inputs]), attrs)
        value = Value(added.output.type, node.output.hint)
        self.builder.nodes[-1] = Node(node.op, added.inputs, attrs, (value,), node.loc)
        return value

    def _attrs(self, node: Node) -> Mapping[str, Any]:
        attrs = dict(node.attrs)
        less = len(self.lead) - 1
        if "shape" in attrs:
            attrs["shape"] = self._row_shape(node.output) or node.output.type.shape
        if "dim" in attrs:
            attrs["dim"] -= less
        if "dims" in attrs:
            attrs["dims"] = tuple(dict.fromkeys(max(d - less, 0) for d in attrs["dims"]))
        return attrs

    def _joined(self, value: Value) -> Value:
        """An operand as rows; what is repeated for all rows as one row."""
        if value not in self.flat:
            rows = self.rows if self._has_lead(value) else 1
            shape = (rows, *value.type.shape[len(self.lead) :])
            self.flat[value] = self._reshape(value, shape)
        return self.flat[value]

    def _flat_or_as_is(self, value: Value) -> Value:
        return self.flat.get(value, value)

    # --- The border -----------------------------------------------------------------------------

    def _reading(self, node: Node) -> Node:
        inputs = tuple([self._split(v) for v in node.inputs])
        return Node(node.op, inputs, node.attrs, node.outputs, node.loc)

    def _split(self, value: Value) -> Value:
        """A value in the form that it had, for readers that stay."""
        maker = self.made.get(value)
        if maker is None or maker not in self.members:
            return value
        if value not in self.apart:
            self.apart[value] = self._reshape(self.flat[value], value.type.shape)
        return self.apart[value]

    def _reshape(self, value: Value, shape: Shape) -> Value:
        if value.type.shape == shape:
            return value
        return self.builder.add(REGISTRY["reshape"], (value,), {"shape": shape}).output


_REDUCTIONS = frozenset(("sum", "prod", "max", "min", "any", "all"))
