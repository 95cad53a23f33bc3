"""Sums of parts that lie side by side become the parts side by side.

Every slice of a value gives it a gradient that is zero elsewhere, and these add up: where the
slices tile the value (one layer makes queries, keys and values), nothing is added to anything.
"""

from __future__ import annotations

from lowgrad.ir.build import Tracer
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.passes.base import graph_pass
from lowgrad.passes.rewrite import Rewriter, rewrite


@graph_pass("cats", exact=False, reason="-0.0 + 0.0 is 0.0, and -0.0 alone is not")
def cats(graph: Graph) -> Graph:
    """pad(x) + pad(y) = pad(cat(x, y)), for windows that are neighbours along one dim."""
    if not any(node.op.name == "pad" for node in graph.nodes):
        return graph
    return rewrite(graph, {"add": (_neighbours,)})


def _neighbours(node: Node, r: Rewriter) -> Tracer | None:
    pads = [r.maker(v, "pad") for v in node.inputs]
    if pads[0] is None or pads[1] is None or any(p and p.attrs["value"] != 0 for p in pads):
        return None
    for first, second in ((pads[0], pads[1]), (pads[1], pads[0])):
        dim = _dim_between(first, second)
        if dim is not None:
            parts = [*_parts(first.inputs[0], dim, r), *_parts(second.inputs[0], dim, r)]
            both = r.apply(REGISTRY["cat"], *map(r.wrap, parts), dim=dim)
            high = second.attrs["high"]
            if not any((*first.attrs["low"], *high)):
                return both
            return both.call("pad", low=first.attrs["low"], high=high, value=0)
    return None


def _dim_between(first: Node, second: Node) -> int | None:
    """The dim along which what `second` pads begins where what `first` pads ends."""
    low, high = (
        (first.attrs["low"], second.attrs["low"]),
        (first.attrs["high"], second.attrs["high"]),
    )
    sides = (*low[0], *low[1], *high[0], *high[1])
    apart = [d for d, (a, b) in enumerate(zip(*low, strict=True)) if a != b]
    if len(apart) != 1 or min(sides) < 0:
        return None
    (dim,) = apart
    same = all(a == b for d, (a, b) in enumerate(zip(*high, strict=True)) if d != dim)
    ends = low[0][dim] + first.inputs[0].type.shape[dim]
    return dim if same and ends == low[1][dim] else None


def _parts(value: Value, dim: int, r: Rewriter) -> tuple[Value, ...]:
    """What `value` is put together from along `dim`."""
    made = r.maker(value, "cat")
    return made.inputs if made is not None and made.attrs["dim"] == dim else (value,)
