"""Sums over rows, taken apart: sum(r t) = r sum(t), for numbers r of the row.

A sum that waits for other reductions only for the numbers that its terms are multiplied with can
be made in the same loop as those: sum(g exp(x - m) / s) is sum(g exp(x - m)) / s. What is relative
to another reduction, as exp(x - m) and x - mean, stays as it is (`online`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from lowgrad.codegen.online import is_of_rows, passes, unrounded
from lowgrad.codegen.partials import Nodes, accumulated_in, rewritten
from lowgrad.codegen.region import Region
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.walk import needed, reached_from

# A sum of more terms would cost more than the loop that it saves. Terms may have one sum.
MOST_TERMS = 8
# Expressions that are longer are not looked into further.
DEEPEST = 32


@dataclass(frozen=True)
class Term:
    """A product: of `factors` that vary along the row, and of `rows`, which do not.

    rows: (the number of each row, whether it is divided by).
    """

    factors: tuple[Value, ...] = ()
    rows: tuple[tuple[Value, bool], ...] = ()
    is_negative: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether this is its factors alone."""
        return bool(self.factors) and not self.rows and not self.is_negative

    def times(self, other: Term) -> Term:
        """The product of both."""
        sign = self.is_negative != other.is_negative
        return Term((*self.factors, *other.factors), (*self.rows, *other.rows), sign)


Terms = tuple[Term, ...]


def taken_apart(region: Region, reductions: tuple[Node, ...]) -> Region:
    """`region` with some sums made of simpler ones, if that spares a loop; else as it is."""
    now = passes(region, reductions, online=True).count
    if now == 1:
        return region
    maker = _Maker(region, reductions)
    other = maker.region()
    made = tuple(n for n in other.nodes if n.op.family == "reduction")
    return other if passes(other, made, online=True).count < now else region


class _Maker:
    def __init__(self, found: Region, reductions: tuple[Node, ...]) -> None:
        self.found, self.reductions = found, reductions
        self.producers = found.producers
        self.late = reached_from(found.nodes, (n.output for n in reductions))
        # Sums that are there already, by the factors of what is added up.
        self.sums: dict[tuple[Value, ...], Value] = {}

    def region(self) -> Region:
        """The region with each sum that is of terms replaced by theirs."""
        replaced: dict[Node, Nodes] = {}
        for node in self.reductions:
            if node.op.name != "sum" or not node.output.type.dtype.is_floating_point:
                continue
            terms = self._terms_of(node)
            if len(terms) == 1 and terms[0].is_plain:
                self.sums[_key(terms[0].factors)] = node.output
            elif len(terms) <= MOST_TERMS:
                replaced[node] = self._sum_of(node, terms)
        region = rewritten(self.found, replaced)
        return replace(region, nodes=tuple(needed(region.nodes, (v for v, _ in region.outputs))))

    def _terms_of(self, node: Node) -> Terms:
        value = unrounded(self.producers, node.inputs[0])
        if value not in self.late:
            return (Term(factors=(value,)),)
        terms = self._terms(value, node, 0)
        return tuple(t for term in terms for t in self._centred_apart(term, node))

    # --- Terms ---

    def _terms(self, value: Value, node: Node, depth: int) -> Terms:
        """What `value` is the sum of."""
        value = unrounded(self.producers, value)
        if is_of_rows(self.producers, value, node):
            return (Term(rows=((value, False),)),)
        whole = (Term(factors=(value,)),)
        maker = self.producers.get(value)
        if value not in self.late or maker is None or depth > DEEPEST:
            return whole
        terms = self._of_op(maker, node, depth + 1)
        return whole if terms is None or len(terms) > MOST_TERMS else terms

    def _of_op(self, maker: Node, node: Node, depth: int) -> Terms | None:
        name, inputs = maker.op.name, maker.inputs
        if name == "neg":
            return _negative(self._terms(inputs[0], node, depth))
        if name not in ("add", "sub", "mul", "div") or self._is_centred(maker, node):
            return None
        a, b = (self._terms(v, node, depth) for v in inputs)
        if name == "add":
            return a + b
        if name == "sub":
            return a + _negative(b)
        if name == "mul":
            return tuple(x.times(y) for x in a for y in b)
        if len(b) > 1 or b[0].factors:
            return None
        below = replace(b[0], rows=tuple((v, not inverse) for v, inverse in b[0].rows))
        return tuple(x.times(below) for x in a)

    def _is_centred(self, maker: Node, node: Node) -> bool:
        """Whether this is x - shift, of which sums are exact as long as it stays that."""
        if maker.op.name != "sub":
            return False
        x, shift = maker.inputs
        return x not in self.late and shift in self.late and is_of_rows(self.producers, shift, node)

    def _centred_apart(self, term: Term, node: Node) -> Terms:
        """The sum of x - shift alone, which is as exact as the shift: those of both."""
        maker = self.producers.get(term.factors[0]) if len(term.factors) == 1 else None
        if maker is None or not self._is_centred(maker, node):
            return (term,)
        x, shift = (unrounded(self.producers, v) for v in maker.inputs)
        first = replace(term, factors=(x,))
        rest = Term((), (*term.rows, (shift, False)), not term.is_negative)
        return first, rest

    # --- Nodes ---

    def _sum_of(self, node: Node, terms: Terms) -> Nodes:
        nodes = Nodes(node.loc)
        total: Value | None = None
        for term in terms:
            part = self._one(node, term, nodes)
            if total is None:
                total = nodes.call("neg", part) if term.is_negative else part
            else:
                total = nodes.call("sub" if term.is_negative else "add", total, part)
        assert total is not None, "a sum of terms has one"
        nodes.give(total, node)
        return nodes

    def _one(self, node: Node, term: Term, nodes: Nodes) -> Value:
        """The sum of one term, with the numbers of the row that it is multiplied with."""
        dtype, shape = accumulated_in(node.output.type.dtype), node.output.type.shape
        if term.factors:
            total = self._sum(node, term.factors, nodes)
        else:
            count = node.inputs[0].type.numel // max(node.output.type.numel, 1)
            total = nodes.call("full", shape=shape, value=float(count), dtype=dtype)
        for value, inverse in term.rows:
            number = _wide(nodes, self._of_row(node, value, nodes))
            total = nodes.call("div" if inverse else "mul", total, number)
        return total

    def _sum(self, node: Node, factors: tuple[Value, ...], nodes: Nodes) -> Value:
        if (known := self.sums.get(_key(factors))) is not None:
            return _wide(nodes, known)
        # What is relative to a reduction comes last, where `online` looks for it.
        early = [v for v in factors if v not in self.late]
        late = [v for v in factors if v in self.late]
        whole: Value | None = None
        for value in (*early, *late):
            wide = _wide(nodes, value)
            whole = wide if whole is None else nodes.call("mul", whole, wide)
        assert whole is not None, "of at least one factor"
        total = self.sums[_key(factors)] = nodes.call("sum", whole, dims=node.attrs["dims"])
        return total

    def _of_row(self, node: Node, value: Value, nodes: Nodes) -> Value:
        """A number of each row, once instead of along it."""
        maker = self.producers.get(value)
        if maker is not None and maker.op.name == "expand":
            (source,) = maker.inputs
            if source.type.shape == node.output.type.shape:
                return source
        return nodes.of_row(value, node)


def _key(factors: tuple[Value, ...]) -> tuple[Value, ...]:
    return tuple(sorted(factors, key=id))


def _negative(terms: Terms) -> Terms:
    return tuple(replace(t, is_negative=not t.is_negative) for t in terms)


def _wide(nodes: Nodes, value: Value) -> Value:
    """`value` in the type that it is computed in."""
    wide = accumulated_in(value.type.dtype)
    return value if wide is value.type.dtype else nodes.call("cast", value, dtype=wide)
