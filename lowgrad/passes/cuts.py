"""Rows that are cut off are not made, and rows that are only padding are not multiplied.

A language model's loss leaves out each sequence's last token: logits[:, :-1]. The cut stands
between the product and the loss, and the padding that undoes it between the gradient and the two
products of the backward pass; no loop over rows crosses either. So the cut moves before the
product, to its operand's rows, and the padding behind it, or away where padded rows are summed.

slice(f(x, y))             = f(slice(x), slice(y))       if nobody reads the rest
slice(x[rows] @ w)         = slice(x)[rows] @ w          the same
pad(g)[rows] @ w           = pad(g[rows] @ w)            zeros times w, unless w is infinite
x[rows].T @ pad(g)[rows]   = slice(x)[rows].T @ g[rows]  the same
sum(pad(g)) over the rows  = sum(g)
"""

from __future__ import annotations

import math
from typing import NamedTuple

from lowgrad.ir.build import Tracer
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.types import Shape
from lowgrad.passes import simplify
from lowgrad.passes.base import graph_pass
from lowgrad.passes.rewrite import Rewriter, Rules, rewrite


@graph_pass(
    "cuts", exact=False, reason="a product of other rows may add its terms in another order"
)
def cuts(graph: Graph) -> Graph:
    """Apply the rules above everywhere."""
    if not any(node.op.name in ("slice", "pad") for node in graph.nodes):
        return graph
    return rewrite(graph, RULES)


class _Window(NamedTuple):
    """The attrs of a slice."""

    starts: Shape
    stops: Shape
    steps: Shape

    @staticmethod
    def of(node: Node) -> _Window:
        return _Window(*(node.attrs[name] for name in ("starts", "stops", "steps")))

    def only(self, dims: int, more: Shape) -> dict[str, Shape]:
        """The attrs of the same cut of the first `dims` dims, and of `more` whole ones."""
        zeros, ones = (0,) * len(more), (1,) * len(more)
        return {
            "starts": (*self.starts[:dims], *zeros),
            "stops": (*self.stops[:dims], *more),
            "steps": (*self.steps[:dims], *ones),
        }


class _Padded(NamedTuple):
    """A matrix of rows [*lead], of which those of `inner` [*kept, columns] are not zero."""

    inner: Value
    lead: Shape
    low: Shape
    high: Shape

    @property
    def kept(self) -> Shape:
        return self.inner.type.shape[:-1]

    def window(self, columns: int) -> dict[str, Shape]:
        """The attrs of the slice of [*lead, columns] that keeps the rows that are not padding."""
        stops = tuple([a + n for a, n in zip(self.low, self.kept, strict=True)])
        return _Window(self.low, stops, (1,) * len(stops)).only(len(stops), (columns,))


def slice_of_pointwise(node: Node, r: Rewriter) -> Tracer | None:
    (x,) = node.inputs
    maker = r.made.get(x)
    if maker is None or maker.op.family != "pointwise" or not r.has_one_reader(x):
        return None
    return r.apply(maker.op, *(_same_cut(node, r.wrap(v)) for v in maker.inputs), **maker.attrs)


def slice_of_rows(node: Node, r: Rewriter) -> Tracer | None:
    """Of x @ w, [rows, N], or of it split into [*lead, N]."""
    (x,) = node.inputs
    product = r.maker(x, "matmul")
    *lead, columns = x.type.shape
    if product is None:
        split = r.maker(x, "reshape")
        product = split and r.maker(split.inputs[0], "matmul")
    if product is None or product.output.type.shape != (math.prod(lead), columns):
        return None
    window = _Window.of(node)
    whole = (window.starts[-1], window.stops[-1], window.steps[-1]) == (0, columns, 1)
    if not whole or not r.has_one_reader(x) or not r.has_one_reader(product.output):
        return None
    a, b = map(r.wrap, product.inputs)
    attrs = window.only(len(lead), a.shape[-1:])
    rows = a.call("reshape", shape=(*lead, a.shape[-1])).call("slice", **attrs)
    return _as_rows(rows).call("matmul", b).call("reshape", shape=node.output.type.shape)


def padded_rows(node: Node, r: Rewriter) -> Tracer | None:
    """pad(g)[rows] @ w = pad(g[rows] @ w)."""
    g, w = node.inputs
    padded = _padded(g, r)
    if padded is None:
        return None
    small = _as_rows(r.wrap(padded.inner)).call("matmul", r.wrap(w))
    split = small.call("reshape", shape=(*padded.kept, w.type.shape[1]))
    whole = split.call("pad", low=(*padded.low, 0), high=(*padded.high, 0), value=0)
    return whole.call("reshape", shape=node.output.type.shape)


def padded_terms(node: Node, r: Rewriter) -> Tracer | None:
    """x.T @ pad(g)[rows] and pad(g)[rows].T @ x, in which padding adds zeros."""
    left, right = map(r.wrap, node.inputs)
    padded = _padded(right.value, r)
    if padded is not None:
        kept = _kept_rows(left.call("permute", dims=(1, 0)), padded)
        return kept.call("permute", dims=(1, 0)).call("matmul", _as_rows(r.wrap(padded.inner)))
    turned = r.maker(left.value, "permute")
    padded = None if turned is None else _padded(turned.inputs[0], r)
    if padded is None:
        return None
    small = _as_rows(r.wrap(padded.inner)).call("permute", dims=(1, 0))
    return small.call("matmul", _kept_rows(right, padded))


def slice_of_expand(node: Node, r: Rewriter) -> Tracer | None:
    """slice(expand(x)) = expand(slice(x)), which is x along what was repeated."""
    maker = r.maker(node.inputs[0], "expand")
    if maker is None:
        return None
    (x,) = maker.inputs
    return _same_cut(node, r.wrap(x)).call("expand", shape=node.output.type.shape)


def slice_of_full(node: Node, r: Rewriter) -> Tracer | None:
    """A part of a constant is a constant."""
    number = r.number(node.inputs[0])
    return None if number is None else r.full(node.output.type, number)


def sum_of_padding(node: Node, r: Rewriter) -> Tracer | None:
    """sum(pad(x)) = sum(x) over all padded dims, if padded with 0."""
    padding = r.maker(node.inputs[0], "pad")
    if padding is None or padding.attrs["value"] != 0:
        return None
    pairs = enumerate(zip(padding.attrs["low"], padding.attrs["high"], strict=True))
    dims = node.attrs["dims"]
    if any(max(both) > 0 and d not in dims for d, both in pairs) or _shrinks(padding):
        return None
    return r.wrap(padding.inputs[0]).call("sum", dims=dims)


def _same_cut(node: Node, x: Tracer) -> Tracer:
    """The cut of `node` on another operand, which may have dims of size 1 that are repeated."""
    window = _Window.of(node)
    source = node.inputs[0].type.shape
    repeated = [a == 1 and b != 1 for a, b in zip(x.shape, source, strict=True)]
    starts = tuple([0 if one else n for n, one in zip(window.starts, repeated, strict=True)])
    stops = tuple([1 if one else n for n, one in zip(window.stops, repeated, strict=True)])
    steps = tuple([1 if one else n for n, one in zip(window.steps, repeated, strict=True)])
    cut: Tracer = x.call("slice", starts=starts, stops=stops, steps=steps)
    return cut


def _padded(x: Value, r: Rewriter) -> _Padded | None:
    """What `x`, a matrix, is a padding of with rows of zeros, if it is one."""
    if x.type.ndim != 2:
        return None
    joined = r.maker(x, "reshape")
    padding = r.maker(joined.inputs[0] if joined else x, "pad")
    if padding is None or padding.attrs["value"] != 0 or _shrinks(padding):
        return None
    low, high, shape = padding.attrs["low"], padding.attrs["high"], padding.output.type.shape
    if low[-1] or high[-1] or (math.prod(shape[:-1]), shape[-1]) != x.type.shape:
        return None
    return _Padded(padding.inputs[0], shape[:-1], low[:-1], high[:-1])


def _shrinks(padding: Node) -> bool:
    return min((*padding.attrs["low"], *padding.attrs["high"])) < 0


def _kept_rows(x: Tracer, padded: _Padded) -> Tracer:
    """The rows of x [rows, N] that stand where `padded` has no padding."""
    columns = x.shape[1]
    split = x.call("reshape", shape=(*padded.lead, columns))
    return _as_rows(split.call("slice", **padded.window(columns)))


def _as_rows(x: Tracer) -> Tracer:
    """[..., N] as [rows, N]."""
    rows: Tracer = x.call("reshape", shape=(math.prod(x.shape[:-1]), x.shape[-1]))
    return rows


RULES: Rules = simplify.rules(
    simplify.RULES,  # again, since moved views meet others
    {
        "slice": (slice_of_pointwise, slice_of_expand, slice_of_full, slice_of_rows),
        "sum": (sum_of_padding,),
        "matmul": (padded_rows, padded_terms),
    },
)
