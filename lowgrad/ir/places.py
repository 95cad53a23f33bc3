"""Where elements lie: in a reduction's operand, behind views, in both operands of two nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, as_index, flatten, symbol, unflatten

At = tuple[Index, ...]


def element(reduction: Node, row: Index, col: Index) -> At:
    """The index in a reduction's operand of what counts for result number `row`, as its `col`th."""
    shape, dims = reduction.inputs[0].type.shape, reduction.attrs["dims"]
    kept = [d for d in range(len(shape)) if d not in dims]
    at: dict[int, Index] = {}
    at.update(zip(kept, unflatten(row, [shape[d] for d in kept]), strict=True))
    at.update(zip(dims, unflatten(col, [shape[d] for d in dims]), strict=True))
    return tuple(at[d] for d in range(len(shape)))


def source_of(producers: Mapping[Value, Node], value: Value) -> Value:
    """What `value` is a view of."""
    while (node := _view(producers, value)) is not None:
        (value,) = node.inputs
    return value


def place_of(producers: Mapping[Value, Node], value: Value, at: At) -> Index:
    """The number, in what `value` is a view of, of its element at index `at`."""
    while (node := _view(producers, value)) is not None:
        (source,) = node.inputs
        found = node.op.index(at, source.type, value.type, **node.attrs)  # type: ignore[attr-defined]
        value, at = source, tuple(as_index(i) for i in found)
    return flatten(at, value.type.shape)


def _view(producers: Mapping[Value, Node], value: Value) -> Node | None:
    """The node that makes `value`, if that only renames the elements of one value."""
    node = producers.get(value)
    if node is None or node.op.family != "view" or not hasattr(node.op, "index"):
        return None
    return node


def summed_operand(producers: Mapping[Value, Node], product: Node, total: Node) -> int | None:
    """Which operand of one matrix product `total` sums over the inner axis; None if neither.

    As a bias's gradient is the sum of what its weight's gradient is the product of.
    """
    *batch, m, n = product.output.type.shape
    is_one = math.prod(batch) == 1 and min(m, n) > 1 and product.inputs[0].type.numel > 0
    if not is_one or total.op.name != "sum":
        return None
    for operand, (value, size) in enumerate(zip(product.inputs, (m, n), strict=True)):
        same = source_of(producers, value) is source_of(producers, total.inputs[0])
        if not same or total.output.type.numel != size:
            continue
        if total.inputs[0].type.numel != value.type.numel:
            continue
        row, inner = symbol("row", size), symbol("inner", value.type.numel // size)
        at = (*(as_index(0) for _ in batch), *((row, inner) if operand == 0 else (inner, row)))
        own = place_of(producers, total.inputs[0], element(total, row, inner))
        if place_of(producers, value, at) == own:
            return operand
    return None
