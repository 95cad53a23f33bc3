"""The Graph language: immutable records in execution order, without methods that think."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lowgrad.errors import Location
from lowgrad.ir.types import TensorType

if TYPE_CHECKING:
    from lowgrad.ir.op import Op

__all__ = ["Graph", "Location", "Node", "Value"]


@dataclass(frozen=True, eq=False, slots=True)
class Value:
    """One array of the program. Two values are equal only if they are the same object.

    `hint` is a name for readers (`fc1.weight`); it means nothing.
    """

    type: TensorType
    hint: str = ""


@dataclass(frozen=True, eq=False, slots=True)
class Node:
    """One operation: `outputs = op(inputs, **attrs)`. Nobody changes `attrs` once it is made."""

    op: Op
    inputs: tuple[Value, ...]
    attrs: Mapping[str, Any]
    outputs: tuple[Value, ...]
    loc: Location | None = None

    @property
    def output(self) -> Value:
        """The only output; for ops that have one."""
        (value,) = self.outputs
        return value


@dataclass(frozen=True, eq=False, slots=True)
class Graph:
    """Inputs, nodes in execution order, outputs.

    `aliases` maps an output's index to the index of the input whose storage it takes over: updated
    state. The meaning is still functional: every node reads the inputs as they were at the start.
    """

    inputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    aliases: Mapping[int, int] = field(default_factory=dict)
    name: str = "graph"

    def with_nodes(
        self, nodes: Iterable[Node], renamed: Mapping[Value, Value] | None = None
    ) -> Graph:
        """The same inputs and outputs over other nodes; outputs follow `renamed`."""
        renamed = renamed or {}
        outputs = tuple(renamed.get(v, v) for v in self.outputs)
        return Graph(self.inputs, tuple(nodes), outputs, self.aliases, self.name)

    def __str__(self) -> str:
        from lowgrad.ir.text import print_graph

        return print_graph(self)
