"""The reference interpreter: what a graph means. Small and dull on purpose."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowgrad.errors import ShapeError
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import Array, evaluate
from lowgrad.ir.types import TensorType
from lowgrad.ir.walk import last_uses


def interpret(graph: Graph, *arrays: Any) -> tuple[Array, ...]:
    """Run `graph` on `arrays`, one for each input, in storage types; return its outputs.

    Raises ShapeError if an array's shape or dtype is not its input's.
    """
    if len(arrays) != len(graph.inputs):
        raise ShapeError(
            f"interpret: {graph.name} has {len(graph.inputs)} inputs, got {len(arrays)} arrays"
        )
    values: dict[Value, Array] = {}
    for value, given in zip(graph.inputs, arrays, strict=True):
        values[value] = _checked(value, np.asarray(given))
    dead_after = last_uses(graph)
    for index, node in enumerate(graph.nodes):
        operands = tuple(values[v] for v in node.inputs)
        values.update(zip(node.outputs, run_node(node, operands), strict=True))
        for value in dead_after[index]:
            del values[value]
    return tuple(values[v] for v in graph.outputs)


def run_node(node: Node, operands: tuple[Array, ...]) -> tuple[Array, ...]:
    """The outputs of one node, rounded to their types."""
    types = tuple(v.type for v in node.outputs)
    return evaluate(node.op, operands, node.attrs, types)


def interpret_wide(graph: Graph, *arrays: Array) -> tuple[Array, ...]:
    """Run a region's body: arithmetic in the wide types, rounding only at explicit casts.

    The outputs come back wide; whoever stores them rounds.
    """
    values: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
    for node in graph.nodes:
        operands = tuple(values[v] for v in node.inputs)
        result = node.op.evaluate(*operands, **node.attrs)
        results = result if isinstance(result, tuple) else (result,)
        for value, array in zip(node.outputs, results, strict=True):
            values[value] = _as_wide(array, value.type, rounds=node.op.name == "cast")
    return tuple(values[v] for v in graph.outputs)


def _as_wide(array: Array, type_: TensorType, *, rounds: bool) -> Array:
    # An explicit cast is a rounding point even inside a region (PyTorch users rely on it).
    with np.errstate(all="ignore"):
        if rounds and type_.dtype.is_low_precision:
            array = array.astype(type_.dtype.numpy)
        return array.astype(type_.dtype.wide, copy=False)


def _checked(value: Value, array: Array) -> Array:
    if array.shape != value.type.shape or array.dtype != value.type.dtype.numpy:
        raise ShapeError(
            f"interpret: input %{value.hint or '?'} is {value.type}, "
            f"got {array.dtype.name}{list(array.shape)}"
        )
    return array
