"""What values are by their position alone: masks made of places, and what they leave to compute.

`where(row >= col, score, -inf)` is -inf above the diagonal, whatever the scores are: its exp is 0
there, and adds nothing to a sum. Ops say what follows from what is known of their operands
(`Pointwise.known`); from that follows, for a block of rows, which columns may count at all.

What is not known counts as finite. A 0 that would have met an infinity or a NaN is still left out,
so a row that is not finite spoils only what it is not masked from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from lowgrad.codegen.reader import At
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index, Symbol, as_index, flatten, holds
from lowgrad.ir.types import DType
from lowgrad.ops.pointwise.base import Known
from lowgrad.ops.pointwise.logic import Comparison

# Conditions are tried in all combinations, and values pulled recursively: no more than this.
MOST_CONDITIONS = 6
MOST_NODES = 500


@dataclass(frozen=True)
class Condition:
    """low <= expr < high, of an expression in positions; None is no limit."""

    expr: Index
    low: int | None
    high: int | None


class Positions:
    """Values of a region, as far as their index says what they are.

    assumed: the truth of conditions on positions.  met: the conditions that decided something.
    """

    def __init__(self, producers: Mapping[Value, Node], inputs: Iterable[Value]) -> None:
        self.producers = producers
        self.inputs = frozenset(inputs)
        self.assumed: dict[Condition, bool] = {}
        self.met: dict[Condition, None] = {}
        self._found: dict[tuple[Value, At], Known] = {}

    def assume(self, assumed: Mapping[Condition, bool]) -> None:
        """Take the conditions for true or false from now on."""
        self.assumed = dict(assumed)
        self._found.clear()

    def known(self, value: Value, at: At) -> Known:
        """The element of `value` at index `at`, if it is known; else None."""
        key = (value, at)
        if key not in self._found:
            self._found[key] = self._normal(self._known(value, at), value.type.dtype)
        return self._found[key]

    def condition(self, node: Node, at: At) -> Condition | None:
        """What a comparison at index `at` says about positions, if it is about them alone."""
        if not isinstance(node.op, Comparison):
            return None
        a, b = (self.known(v, at) for v in node.inputs)
        difference = node.op.difference(a, b)
        if difference is None or node.op.within is None:
            return None
        return Condition(difference, *node.op.within)

    def _known(self, value: Value, at: At) -> Known:
        node = self.producers.get(value)
        if value in self.inputs or node is None:
            return None
        if node.op.family == "create":
            return _created(node, at)
        if node.op.family == "view" and not hasattr(node.op, "pieces"):
            (source,) = node.inputs
            inner = node.op.index(at, source.type, node.output.type, **node.attrs)  # type: ignore[attr-defined]
            return self.known(source, tuple(as_index(i) for i in inner))
        if node.op.family != "pointwise":
            return None
        condition = self.condition(node, at)
        if condition is not None:
            return self._truth(condition)
        result: Known = node.op.known(*(self.known(v, at) for v in node.inputs), **node.attrs)  # type: ignore[attr-defined]
        return result

    def _truth(self, condition: Condition) -> bool | None:
        least, greatest = condition.expr.bounds
        low = least if condition.low is None else condition.low
        high = greatest + 1 if condition.high is None else condition.high
        always = holds(condition.expr, low, high)
        if always is None:
            self.met[condition] = None
            return self.assumed.get(condition)
        return always

    def _normal(self, found: Known, dtype: DType) -> Known:
        """What is known as `dtype` holds it: no index where integers would wrap or be rounded."""
        if not isinstance(found, Index):
            return found
        digits = {"f64": 53, "f32": 24, "i64": 63, "i32": 31}.get(dtype.short, 0)
        if found.magnitude >= 2**digits:
            return None
        if not found.is_constant:
            return found
        return float(found.constant) if dtype.is_floating_point else found.constant


def _created(node: Node, at: At) -> Known:
    if node.op.name == "full":
        number: Known = node.attrs["value"]
        return number
    if node.op.name == "iota":
        return at[node.attrs["dim"]]
    flat = flatten(at, node.attrs["shape"])
    return node.attrs["data"][flat.constant] if flat.is_constant else None


# --- Which part of the other axis counts ---------------------------------------------------------

# A place that is known, or in terms of the number of a block.
Spot = Index | int


@dataclass(frozen=True)
class Line:
    """own * a + other * b + c: an index expression in a position along each of the two axes."""

    a: int
    b: int
    c: int

    @classmethod
    def of(cls, expr: Index, own: Symbol, other: Symbol) -> Line | None:
        """`expr` as a Line, if it is one and depends on the other axis."""
        terms = dict(expr.terms)
        a, b = terms.pop(own, 0), terms.pop(other, 0)
        return None if terms or not b else cls(a, b, expr.constant)

    def at(self, own: Index, other: Index) -> Index:
        """The expression, of these positions."""
        return own * self.a + other * self.b + self.c

    def least_other(self, block: Spot, size: int, *, everywhere: bool = False) -> Spot | None:
        """The least place along the other axis where this can be >= 0, in a block of the own one.

        block: the number of the block, of `size` places.  everywhere: where it is >= 0 in all of
        the block.  None if there is no such limit.
        """
        if self.b < 0:
            return None
        return (self._extreme(block, size, not everywhere) * -1 + (self.b - 1)) // self.b

    def end_other(self, block: Spot, size: int, *, everywhere: bool = False) -> Spot | None:
        """One past the last place along the other axis where this can be, or is, >= 0."""
        if self.b > 0:
            return None
        return self._extreme(block, size, not everywhere) // -self.b + 1

    def _extreme(self, block: Spot, size: int, is_most: bool) -> Spot:
        """The most, or the least, that own * a + c is in a block."""
        last = size - 1 if (self.a > 0) == is_most else 0
        return block * (self.a * size) + (self.a * last + self.c)


@dataclass(frozen=True)
class Fact:
    """What must be so for an element to count: low <= line < high or, if not `truth`, not that."""

    line: Line
    low: int | None
    high: int | None
    truth: bool

    def condition(self, own: Index, other: Index) -> Condition:
        """What the fact is about, at these positions."""
        return Condition(self.line.at(own, other), self.low, self.high)

    def at_least_0(self) -> list[Line]:
        """What is >= 0 where the fact holds, and only there; none if that is no single range."""
        line, low, high = self.line, self.low, self.high
        above = [] if low is None else [Line(line.a, line.b, line.c - low)]
        below = [] if high is None else [Line(-line.a, -line.b, high - 1 - line.c)]
        if self.truth:
            return above + below
        if low is not None and high is not None:
            return []
        return [Line(-i.a, -i.b, -i.c - 1) for i in above + below]


@dataclass(frozen=True)
class Part:
    """A loop along the other axis, with ends as those of `Loop`.

    is_whole: whether its blocks lie where all facts hold, and before the axis' end.
    """

    starts: tuple[Spot | tuple[Spot, ...], ...]
    limits: tuple[Spot | tuple[Spot, ...], ...]
    is_whole: bool = False

    def turns(self, step: int) -> int:
        """How often the loop of a block whose number is known runs."""
        first = max(i for i in self.starts if isinstance(i, int))
        end = min(i for i in self.limits if isinstance(i, int))
        return max(0, -(-(end - first) // step))


@dataclass(frozen=True)
class Span:
    """What part of the other axis counts: only where all `facts` hold."""

    facts: tuple[Fact, ...] = ()

    def way(self, block: Spot, size: int, other: int, step: int) -> Part:
        """The loop of a block of `size` along `other` places in steps of `step`."""
        return Part(*self._ends(block, size, other, step))

    def parts(self, block: Spot, size: int, other: int, step: int) -> tuple[Part, ...]:
        """The same way in three loops: before all facts hold, while they do, and after that."""
        starts, limits, lines = *self._ends(block, size, other, step), self._lines()
        begins = _some(x.least_other(block, size, everywhere=True) for x in lines)
        ends = _some(x.end_other(block, size, everywhere=True) for x in lines)
        since = _tightest([(i + (step - 1)) // step * step for i in begins], 1)
        until = _tightest([i // step * step for i in (other, *ends)], -1)
        inner = _tightest((*starts, *since), 1)
        return (
            Part(starts, _with(limits, since, -1) if since else (0,)),
            Part(inner, _tightest((*limits, *until), -1), is_whole=True),
            Part(_with(inner, until, 1), limits),
        )

    def _ends(
        self, block: Spot, size: int, other: int, step: int
    ) -> tuple[tuple[Spot, ...], tuple[Spot, ...]]:
        lines = self._lines()
        first = [i // step * step for i in _some(x.least_other(block, size) for x in lines)]
        last = _some(x.end_other(block, size) for x in lines)
        return _tightest((0, *first), 1), _tightest((other, *last), -1)

    def _lines(self) -> list[Line]:
        return [line for fact in self.facts for line in fact.at_least_0()]


def _some(spots: Iterable[Spot | None]) -> list[Spot]:
    return [i for i in spots if i is not None]


def _tightest(limits: Iterable[Spot], sign: int) -> tuple[Spot, ...]:
    """The limits of which any may be the greatest (sign: 1) or the least (-1) of them all."""
    kept: list[Spot] = []
    for limit in limits:
        if any(_is_beyond(other, limit, sign) for other in kept):
            continue
        kept = [other for other in kept if not _is_beyond(limit, other, sign)] + [limit]
    return tuple(kept)


def _with(
    ends: tuple[Spot, ...], inner: tuple[Spot, ...], sign: int
) -> tuple[Spot | tuple[Spot, ...], ...]:
    """The greatest (sign: 1) or least (-1) of `ends` and the least, or greatest, of `inner`."""
    return _tightest((*ends, *inner), sign) if len(inner) == 1 else (*ends, inner)


def _is_beyond(a: Spot, b: Spot, sign: int) -> bool:
    """Whether `a` is always at least `b` (sign: 1), or at most (-1)."""
    return as_index((a - b) * sign).bounds[0] >= 0


def span(
    positions: Positions,
    is_nothing: Callable[[], bool],
    own: Symbol,
    other: Symbol,
) -> Span:
    """The part of the other axis outside of which a sum along it gets nothing.

    is_nothing: whether, by what `positions` knows now, an element adds nothing.
    """
    if len(positions.producers) > MOST_NODES:
        return Span()
    positions.met.clear()
    positions.assume({})
    is_nothing()
    met = list(positions.met)
    if not 0 < len(met) <= MOST_CONDITIONS:
        return Span()
    counts: list[tuple[bool, ...]] = []
    for truths in itertools.product((False, True), repeat=len(met)):
        positions.assume(dict(zip(met, truths, strict=True)))
        if not is_nothing():
            counts.append(truths)
    positions.assume({})
    if not counts:
        return Span()
    facts: list[Fact] = []
    for condition, truths in zip(met, zip(*counts, strict=True), strict=True):
        line = Line.of(condition.expr, own, other)
        if line is not None and len(set(truths)) == 1:
            fact = Fact(line, condition.low, condition.high, truths[0])
            facts += [fact] if fact.at_least_0() else []
    return Span(tuple(dict.fromkeys(facts)))
