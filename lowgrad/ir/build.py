"""Making graphs: a Builder collects nodes, a Tracer is a value of the graph being built.

Tracers carry the arithmetic operators, so that derivatives and passes read like formulas. They are
strict: operands must have equal types; a Python number becomes a `full` of the other's type.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lowgrad.ir.graph import Graph, Location, Node, Value
from lowgrad.ir.types import DType, Shape, TensorType

if TYPE_CHECKING:
    from lowgrad.ir.op import Op

Number = bool | int | float


class Builder:
    """A graph under construction. `locate` gives the location of each new node."""

    def __init__(self, locate: Callable[[], Location | None] | None = None) -> None:
        self.inputs: list[Value] = []
        self.nodes: list[Node] = []
        self._locate = locate
        self._fixed: Location | None = None

    def input(self, type_: TensorType, hint: str = "") -> Tracer:
        """A new input of the graph."""
        value = Value(type_, hint)
        self.inputs.append(value)
        return Tracer(self, value)

    def wrap(self, value: Value) -> Tracer:
        """A tracer for a value that this builder's graph already has."""
        return Tracer(self, value)

    def add(self, op: Op, inputs: tuple[Value, ...], attrs: Mapping[str, Any]) -> Node:
        """Append a node, its output types inferred; return it."""
        inferred = op.infer(*[v.type for v in inputs], **attrs)
        types = inferred if isinstance(inferred, tuple) else (inferred,)
        loc = self._fixed
        if loc is None and self._locate is not None:
            loc = self._locate()
        node = Node(op, inputs, attrs, tuple([Value(t) for t in types]), loc)
        self.nodes.append(node)
        return node

    def apply(self, op: Op, *inputs: Tracer, **attrs: Any) -> Any:
        """Append `op` and return its output tracer, or a tuple of them."""
        node = self.add(op, tuple([t.value for t in inputs]), attrs)
        if len(node.outputs) == 1:
            return Tracer(self, node.outputs[0])
        return tuple(Tracer(self, v) for v in node.outputs)

    def full(self, type_: TensorType, value: Number) -> Tracer:
        """A constant of type `type_`, every element `value`."""
        from lowgrad.ir.op import REGISTRY

        result: Tracer = self.apply(
            REGISTRY["full"], shape=type_.shape, dtype=type_.dtype, value=value
        )
        return result

    @contextmanager
    def at(self, loc: Location | None) -> Iterator[None]:
        """Inside, new nodes get the location `loc`."""
        before, self._fixed = self._fixed, loc
        try:
            yield
        finally:
            self._fixed = before

    def graph(
        self,
        outputs: tuple[Value, ...],
        aliases: Mapping[int, int] | None = None,
        name: str = "graph",
    ) -> Graph:
        """The graph built so far, with these outputs."""
        return Graph(tuple(self.inputs), tuple(self.nodes), outputs, aliases or {}, name)


def apply(op: Op, inputs: tuple[Any, ...], attrs: Mapping[str, Any]) -> Any:
    """Append `op` to the builder of its first operand; numbers among `inputs` become `full`s."""
    like = next(t for t in inputs if isinstance(t, Tracer))
    operands = [t if isinstance(t, Tracer) else like.builder.full(like.type, t) for t in inputs]
    return like.builder.apply(op, *operands, **attrs)


class Tracer:
    """A value of a graph under construction, with arithmetic."""

    __slots__ = ("builder", "value")

    def __init__(self, builder: Builder, value: Value) -> None:
        self.builder = builder
        self.value = value

    @property
    def type(self) -> TensorType:
        """The value's static type."""
        return self.value.type

    @property
    def shape(self) -> Shape:
        """The value's shape."""
        return self.value.type.shape

    @property
    def dtype(self) -> DType:
        """The value's dtype."""
        return self.value.type.dtype

    def call(self, name: str, *others: Tracer | Number, **attrs: Any) -> Any:
        """Apply the op called `name` to this value and `others`."""
        from lowgrad.ir.op import REGISTRY

        return apply(REGISTRY[name], (self, *others), attrs)

    def flipped(self, name: str, other: Number) -> Any:
        """Apply the op called `name` to the number `other` and this value."""
        return self.builder.full(self.type, other).call(name, self)

    def __add__(self, other: Tracer | Number) -> Tracer:
        return self.call("add", other)

    def __sub__(self, other: Tracer | Number) -> Tracer:
        return self.call("sub", other)

    def __mul__(self, other: Tracer | Number) -> Tracer:
        return self.call("mul", other)

    def __truediv__(self, other: Tracer | Number) -> Tracer:
        return self.call("div", other)

    def __neg__(self) -> Tracer:
        return self.call("neg")

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: Number) -> Tracer:
        return self.flipped("sub", other)

    def __rtruediv__(self, other: Number) -> Tracer:
        return self.flipped("div", other)

    def __lt__(self, other: Tracer | Number) -> Tracer:
        return self.call("lt", other)

    def __le__(self, other: Tracer | Number) -> Tracer:
        return self.call("le", other)

    def __gt__(self, other: Tracer | Number) -> Tracer:
        return self.call("gt", other)

    def __ge__(self, other: Tracer | Number) -> Tracer:
        return self.call("ge", other)

    def equals(self, other: Tracer | Number) -> Tracer:
        """Elementwise equality (`==` on tracers stays identity, so that they can be dict keys)."""
        return self.call("eq", other)
