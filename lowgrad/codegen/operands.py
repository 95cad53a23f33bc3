"""Operands of products as tiles: rounded as tensor cores take them, 0 where there is nothing."""

from __future__ import annotations

from collections.abc import Mapping

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Load
from lowgrad.codegen.reader import At, Reader
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import DType, bool_, float32, int32


class Operands:
    """Makes operands in one kernel. `fn` is how products are made: "dot" or "multiply"."""

    def __init__(
        self, body: Body, reader: Reader, producers: Mapping[Value, Node], fn: str = "dot"
    ) -> None:
        self.body, self.reader, self.producers, self.fn = body, reader, producers, fn

    def tile(self, value: Value, at: At, shape: tuple[str, str], masks: tuple[str, ...]) -> Tile:
        """A tile of `value` in its product's type, 0 where one of `masks` does not hold."""
        return self.both(value, at, shape, masks)[1]

    def both(
        self, value: Value, at: At, shape: tuple[str, str], masks: tuple[str, ...]
    ) -> tuple[Tile, Tile]:
        """The tile as it was computed, and as `tile` gives it."""
        body, reader = self.body, self.reader
        dtype = value.type.dtype
        zero = 0.0 if dtype.is_floating_point else 0
        is_moved = self.is_moved(value)
        before, reader.other = reader.other, zero
        pulled = reader.value(value, at, raw=is_moved)
        reader.other = before
        x = body.broadcast(reader.as_tile(pulled, dtype), shape, dtype)
        for mask in masks:
            if not self._reads_zero(x, mask):
                x = body.let("where", Tile(body, mask, bool_), x, zero, dtype=x.dtype)
        return x, self._as_operand(x, dtype, is_raw=is_moved and isinstance(pulled, Tile))

    def _as_operand(self, x: Tile, dtype: DType, *, is_raw: bool) -> Tile:
        """`x` in the type that products are made in."""
        if self.fn == "multiply":
            wide = accumulated(dtype)
            return x if wide is dtype else self.body.let("cast", x, dtype=wide)
        if is_raw or not dtype.is_low_precision:
            return x
        return self.body.let("narrow", x, dtype=dtype)

    def is_moved(self, value: Value) -> bool:
        """Whether `value` is an input seen through views only, and so already rounded."""
        todo = [value]
        while todo:
            value = todo.pop()
            node = self.producers.get(value)
            if node is None or value in self.reader.inputs:
                continue
            if node.op.family != "view" and node.op.name not in ("take", "gather"):
                return False
            todo.extend(node.inputs[:1] if node.op.family == "indexing" else node.inputs)
        return True

    def _reads_zero(self, x: Tile, mask: str) -> bool:
        """Whether `x` is a load that gives 0 where `mask` does not hold."""
        found = [s for s in self.body.statements if isinstance(s, Load) and s.name == x.name]
        return bool(found) and mask in found[0].masks and found[0].other == 0


def accumulated(dtype: DType) -> DType:
    """The type that products are added up in."""
    if dtype.is_low_precision:
        return float32
    narrow = dtype.is_integer and dtype.itemsize < 4
    return int32 if narrow else dtype
