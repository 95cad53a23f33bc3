"""Moves views to where they cost nothing, and gives matrix products their plainest shape.

permute(a @ b)                 = permute(b) @ permute(a)       weight gradients, as the weight
x[B,S,D] @ expand(w[1,D,N])    = x[B*S,D] @ w[D,N]             one product instead of B
sum over batch of aT[b] @ g[b] = aT[.., B*S] @ g[B*S, ..]      the same for its derivative
f(expand(x))                   = expand(f(x))                  computed once, then repeated
x + index_add(0, i, s)         = index_add(x, i, s)            a tied weight's two gradients
"""

from __future__ import annotations

import math
from typing import Any

from lowgrad.ir.build import Tracer
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.op import REGISTRY
from lowgrad.passes import simplify
from lowgrad.passes.base import graph_pass
from lowgrad.passes.rewrite import Rewriter, Rules, rewrite


def permute_of_matmul(node: Node, r: Rewriter) -> Tracer | None:
    """permute(a @ b) = permute(b) @ permute(a), if nobody else reads a @ b."""
    product = r.maker(node.inputs[0], "matmul")
    dims = node.attrs["dims"]
    n = len(dims)
    if product is None or dims != (*range(n - 2), n - 1, n - 2):
        return None
    if not r.has_one_reader(node.inputs[0]):
        return None
    a, b = (r.wrap(v).call("permute", dims=dims) for v in product.inputs)
    return b.call("matmul", a)


def matmul_by_one_matrix(node: Node, r: Rewriter) -> Tracer | None:
    """x[..., M, K] @ expand(w[1..., K, N]) = x[...*M, K] @ w[K, N]."""
    x, y = node.inputs
    repeated = r.maker(y, "expand")
    if repeated is None:
        return None
    w = repeated.inputs[0].type.shape
    if math.prod(w[:-2]) != 1 or w[-2:] != y.type.shape[-2:]:
        return None
    rows = math.prod(x.type.shape[:-1])
    flat = r.wrap(x).call("reshape", shape=(rows, w[-2]))
    matrix = r.wrap(repeated.inputs[0]).call("reshape", shape=w[-2:])
    return flat.call("matmul", matrix).call("reshape", shape=node.output.type.shape)


def matmul_of_one_batch(node: Node, r: Rewriter) -> Tracer | None:
    """A product whose batch dims are all 1 is one of plain matrices."""
    shape = node.output.type.shape
    if len(shape) == 2 or math.prod(shape[:-2]) != 1:
        return None
    a, b = (r.wrap(v).call("reshape", shape=v.type.shape[-2:]) for v in node.inputs)
    return a.call("matmul", b).call("reshape", shape=shape)


def sum_of_matmuls(node: Node, r: Rewriter) -> Tracer | None:
    """sum over all batch dims of a[..., M, K] @ b[..., K, N] = a'[M, ...*K] @ b'[...*K, N]."""
    (x,) = node.inputs
    product = r.maker(x, "matmul")
    if product is None or not r.has_one_reader(x):
        return None
    batch = range(x.type.ndim - 2)
    summed = set(node.attrs["dims"])
    if not summed <= set(batch) or any(x.type.shape[d] != 1 for d in batch if d not in summed):
        return None
    a, b = product.inputs
    left = r.wrap(a).call("permute", dims=(*batch, len(batch) + 1, len(batch)))
    joined = _rows(r, left.value).call("permute", dims=(1, 0)).call("matmul", _rows(r, b))
    return joined.call("reshape", shape=node.output.type.shape)


def _rows(r: Rewriter, x: Value) -> Tracer:
    """x[..., K, N] as [...*K, N]."""
    *rows, columns = x.type.shape
    return r.wrap(x).call("reshape", shape=(math.prod(rows), columns))


def pointwise_of_expands(node: Node, r: Rewriter) -> Tracer | None:
    """f(expand(x), expand(y), full) = expand(f(x, y, full)), for x and y of one shape."""
    shape = None
    for value in node.inputs:
        source = r.made.get(value)
        if source is None or source.op.name not in ("expand", "full"):
            return None
        if source.op.name == "expand":
            if shape not in (None, source.inputs[0].type.shape):
                return None
            shape = source.inputs[0].type.shape
    if shape is None:
        return None
    small = [_before_expand(v, shape, r) for v in node.inputs]
    result = r.apply(node.op, *small, **node.attrs)
    return result.call("expand", shape=node.output.type.shape)


def _before_expand(value: Value, shape: tuple[int, ...], r: Rewriter) -> Tracer:
    source = r.made[value]
    if source.op.name == "expand":
        return r.wrap(source.inputs[0])
    return r.full(value.type.with_shape(shape), source.attrs["value"])


def add_of_scattered(node: Node, r: Rewriter) -> Tracer | None:
    """x + index_add(0, i, s) = index_add(x, i, s), if nobody else reads the latter."""
    for own, other in (node.inputs, node.inputs[::-1]):
        for name in ("index_add", "scatter_add"):
            scattered = r.maker(own, name)
            if scattered is None or not r.has_one_reader(own) or own is other:
                continue
            base, index, source = scattered.inputs
            if r.number(base) == 0:
                x = r.wrap(other)
                found: Tracer = x.call(name, r.wrap(index), r.wrap(source), **scattered.attrs)
                return found
    return None


def _rules() -> Rules:
    table: dict[str, Any] = {
        "permute": (permute_of_matmul,),
        "matmul": (matmul_of_one_batch, matmul_by_one_matrix),
        "sum": (sum_of_matmuls,),
    }
    for name, op in REGISTRY.items():
        if op.family == "pointwise":
            table[name] = (pointwise_of_expands,)
    table["add"] = (*table["add"], add_of_scattered)
    # Simplifying again on the way, since moved views meet others.
    return simplify.rules(simplify.RULES, table)


@graph_pass(
    "views",
    exact=False,
    reason="a matrix product of another shape adds the same terms in another order",
)
def views(graph: Graph) -> Graph:
    """Apply the rules above everywhere."""
    return rewrite(graph, _rules())
