"""Takes out of sums and products what does not change along what they sum over.

(e / l) @ v          = (e @ v) / l            l the same along a row: fewer divisions
(g @ vT) / l         = (g / l) @ vT
transpose(e / l) @ g = transpose(e) @ (g / l)
sum(P * (g @ vT))    = sum(g * (P @ v))       over rows, if P @ v is known

With a softmax's numerator e and its denominator l these leave nothing of the size of the scores
but e and its gradient: the second pass over them that its derivative takes is gone.
Source: Dao et al. 2022, "FlashAttention", appendix B.
"""

from __future__ import annotations

from typing import NamedTuple

from lowgrad.ir.build import Tracer
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.base import graph_pass
from lowgrad.passes.rewrite import Rewriter, Rules, rewrite


@graph_pass(
    "factors",
    exact=False,
    reason="a sum is scaled instead of its terms",
)
def factors(graph: Graph) -> Graph:
    """Apply the identities wherever they make less of what is large."""
    if not any(node.op.name == "matmul" for node in graph.nodes):
        return graph
    # The identity for sums knows P @ v by P, which the others then take apart.
    return rewrite(rewrite(graph, _Sums().rules), SCALES)


# --- sum(P * (g @ vT)) -------------------------------------------------------------------------


class _Sums:
    """The rule for sums, and the products that it has met so far, by their left operand."""

    def __init__(self) -> None:
        self.products: dict[Value, list[Node]] = {}
        self.rules: Rules = {"matmul": (self.meet,), "sum": (self.of_products,)}

    def meet(self, node: Node, r: Rewriter) -> None:
        """Remember a product."""
        self.products.setdefault(node.inputs[0], []).append(node)

    def of_products(self, node: Node, r: Rewriter) -> Tracer | None:
        """sum(P * (g @ vT)) = sum(g * (P @ v)), with what does not change along the row outside."""
        (x,) = node.inputs
        if node.attrs["dims"] != (x.type.ndim - 1,):
            return None
        is_negative = (negated := r.maker(x, "neg")) is not None
        product = r.maker(x if negated is None else negated.inputs[0], "mul")
        if product is None:
            return None
        for own, other in (product.inputs, product.inputs[::-1]):
            found = self._exchanged(own, other, r)
            if found is not None:
                return -found if is_negative else found
        return None

    def _exchanged(self, weights: Value, scores: Value, r: Rewriter) -> Tracer | None:
        """sum(weights * scores), by the product that `weights` is a factor of."""
        inner, divisor = _divided(scores, r)
        product = r.maker(inner, "matmul")
        if product is None:
            return None
        g, vt = product.inputs
        for known in self.products.get(weights, ()):
            _, v = known.inputs
            if not _is_transposed(vt, v, r) or v.type.shape[-1] >= vt.type.shape[-1]:
                continue
            last = v.type.ndim - 1
            total: Tracer = (r.wrap(g) * r.wrap(known.output)).call("sum", dims=(last,))
            return total if divisor is None else total / r.wrap(divisor)
        return None


def _divided(x: Value, r: Rewriter) -> tuple[Value, Value | None]:
    """(y, d) if x = y / d with one d for each row, else (x, None)."""
    found = _by_row(x, "div", x.type.ndim - 1, r)
    return (x, None) if found is None else (found.scaled, found.by)


def _is_transposed(a: Value, b: Value, r: Rewriter) -> bool:
    """Whether a is b with its last two dims exchanged."""
    (base_a, dims_a), (base_b, dims_b) = _permuted(a, r), _permuted(b, r)
    return base_a is base_b and dims_a == (*dims_b[:-2], dims_b[-1], dims_b[-2])


def _permuted(x: Value, r: Rewriter) -> tuple[Value, tuple[int, ...]]:
    """What x is a permutation of, and by which dims."""
    node = r.maker(x, "permute")
    return (x, tuple(range(x.type.ndim))) if node is None else (node.inputs[0], node.attrs["dims"])


# --- Scaled operands ---------------------------------------------------------------------------


class Scaled(NamedTuple):
    """x = op(scaled, expand(by)): `by` has size 1 along the dim that it is the same along."""

    op: str
    scaled: Value
    by: Value


def _by_row(x: Value, op: str, dim: int, r: Rewriter, made: Node | None = None) -> Scaled | None:
    """How x is scaled by `op`, with something that is the same along `dim` only."""
    node = made or r.maker(x, op)
    if node is None:
        return None
    spread = r.maker(node.inputs[1], "expand")
    if spread is None:
        return None
    (by,) = spread.inputs
    narrow = (*x.type.shape[:dim], 1, *x.type.shape[dim + 1 :])
    return Scaled(op, node.inputs[0], by) if by.type.shape == narrow else None


def scale_after(node: Node, r: Rewriter) -> Tracer | None:
    """(a / l) @ b = (a @ b) / l, if the product is smaller than a."""
    a, b = node.inputs
    out = node.output.type
    for op in ("div", "mul"):
        found = _by_row(a, op, out.ndim - 1, r)
        if found is not None and out.numel < a.type.numel:
            product = r.wrap(found.scaled).call("matmul", r.wrap(b))
            by = r.wrap(found.by).call("expand", shape=out.shape)
            scaled: Tracer = product.call(op, by)
            return scaled
    return None


def scale_other(node: Node, r: Rewriter) -> Tracer | None:
    """transpose(e / l) @ g = transpose(e) @ (g / l), if g is smaller than e."""
    a, g = node.inputs
    n = a.type.ndim
    swapped = (*range(n - 2), n - 1, n - 2)
    e, dims = _permuted(a, r)
    if dims != swapped or g.type.numel >= a.type.numel:
        return None
    for op in ("div", "mul"):
        found = _by_row(e, op, n - 1, r)
        if found is not None:
            by = r.wrap(found.by).call("expand", shape=g.type.shape)
            turned = r.wrap(found.scaled).call("permute", dims=swapped)
            moved: Tracer = turned.call("matmul", r.wrap(g).call(op, by))
            return moved
    return None


def scale_before(node: Node, r: Rewriter) -> Tracer | None:
    """(g @ vT) / l = (g / l) @ vT, if g is smaller than the product and nobody else reads that."""
    out = node.output.type
    found = _by_row(node.output, node.op.name, out.ndim - 1, r, node)
    product = None if found is None else r.maker(found.scaled, "matmul")
    if found is None or product is None or not r.has_one_reader(found.scaled):
        return None
    g, vt = product.inputs
    if g.type.numel >= out.numel:
        return None
    by = r.wrap(found.by).call("expand", shape=g.type.shape)
    moved: Tracer = r.wrap(g).call(node.op.name, by).call("matmul", r.wrap(vt))
    return moved


SCALES: Rules = {
    "matmul": (scale_after, scale_other),
    "div": (scale_before,),
    "mul": (scale_before,),
}
