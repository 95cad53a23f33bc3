"""Gathers come before what is computed of each element: a loss picks logits, not their logarithms.

So what is picked does not wait for the sums of the rows, and of what is made of all logits nothing
need be in memory to be picked from.
"""

from __future__ import annotations

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.base import graph_pass
from lowgrad.passes.rewrite import Rewriter, rewrite

# A gather of more than this part of the elements may do more work than it saves.
PART = 8


def before_pointwise(node: Node, r: Rewriter) -> Value | None:
    """gather(f(a, b), index) = f(gather(a, index), gather(b, index)), of few elements."""
    x, index = node.inputs
    maker = r.made.get(x)
    if maker is None or maker.op.family != "pointwise" or PART * index.type.numel > x.type.numel:
        return None
    dim: int = node.attrs["dim"]
    picked = tuple(_picked(v, index, dim, r) for v in maker.inputs)
    return r.add(maker.op, picked, maker.attrs).output


def _picked(value: Value, index: Value, dim: int, r: Rewriter) -> Value:
    """What `index` picks of `value` along `dim`."""
    shape = index.type.shape
    number = r.number(value)
    if number is not None:
        return r.full(value.type.with_shape(shape), number).value
    spread = r.maker(value, "expand")
    others = [d for d in range(value.type.ndim) if d != dim]
    if spread is not None and all(shape[d] == value.type.shape[d] for d in others):
        small = spread.inputs[0]
        if small.type.shape[dim] == 1:  # whatever is picked
            same = small.type.shape == shape
            return small if same else r.wrap(small).call("expand", shape=shape).value
    return r.wrap(value).call("gather", r.wrap(index), dim=dim).value


@graph_pass("gathers", exact=True)
def gathers(graph: Graph) -> Graph:
    """Pick first, compute then."""
    return rewrite(graph, {"gather": (before_pointwise,)})
