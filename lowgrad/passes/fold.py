"""Constant folding: what is computed from `full`s alone is a `full`."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowgrad.errors import LowgradError
from lowgrad.ir.build import Tracer
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.op import REGISTRY, evaluate, rounded
from lowgrad.ir.types import TensorType
from lowgrad.passes.base import graph_pass
from lowgrad.passes.rewrite import Rewriter, Rules, rewrite


def pointwise_of_fulls(node: Node, r: Rewriter) -> Tracer | None:
    """f(full, ...) = full: one element of each, computed and rounded as the interpreter would."""
    numbers = [r.number(v) for v in node.inputs]
    if any(n is None for n in numbers):
        return None
    arrays = tuple(
        rounded(np.full((1,), n, v.type.dtype.wide), TensorType((1,), v.type.dtype))
        for n, v in zip(numbers, node.inputs, strict=True)
    )
    try:
        (result,) = evaluate(node.op, arrays, node.attrs, (node.output.type.with_shape((1,)),))
    except LowgradError:
        return None  # a division by 0: the step raises when, and only if, it runs
    return r.full(node.output.type, _number(result))


def view_of_full(node: Node, r: Rewriter) -> Tracer | None:
    """Every view of equal elements has equal elements."""
    number = r.number(node.inputs[0])
    return None if number is None else r.full(node.output.type, number)


def tiny_literal(node: Node, r: Rewriter) -> Tracer | None:
    """A literal of one element, or of none, is a full."""
    data = node.attrs["data"]
    if len(data) == 1:
        return r.full(node.output.type, data[0])
    return None if data else r.full(node.output.type, 0)


def _number(array: np.ndarray[Any, Any]) -> bool | int | float:
    # ml_dtypes' scalars have no Python number of their own.
    wide = array.astype(np.float64) if array.dtype.kind == "V" else array
    return wide.item()


def _rules() -> Rules:
    table: dict[str, Any] = {"literal": (tiny_literal,)}
    for name, op in REGISTRY.items():
        if op.family == "pointwise":
            table[name] = (pointwise_of_fulls,)
    for name in ("reshape", "permute", "expand", "slice", "flip"):
        table[name] = (view_of_full,)
    return table


@graph_pass("fold", exact=True)
def fold(graph: Graph) -> Graph:
    """Compute at compile time what depends on constants alone."""
    return rewrite(graph, _rules())
