"""What values are by their position alone: masks made of places, and what they leave to compute.

`where(row >= col, score, -inf)` is -inf above the diagonal, whatever the scores are: its exp is 0
there, and adds nothing to a sum. Ops say what follows from what is known of their operands
(`Pointwise.known`); from that follows, for a block of rows, which columns may count at all.

What is not known counts as finite. A 0 that would have met an infinity or a NaN is still left out,
so a row that is not finite spoils only what it is not masked from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    def least_other(self, block: Index, size: int) -> Index | None:
        """The least place along the other axis where this can be >= 0, in a block of the own one.

        block: the number of the block, of `size` places.  None if there is no such limit.
        """
        if self.b < 0:
            return None
        return (self._most(block, size) * -1 + self.b - 1) // self.b

    def end_other(self, block: Index, size: int) -> Index | None:
        """One past the last place along the other axis where this can be >= 0."""
        if self.b > 0:
            return None
        return self._most(block, size) // -self.b + 1

    def _most(self, block: Index, size: int) -> Index:
        """The most that own * a + c is in a block."""
        return block * (self.a * size) + (max(self.a, 0) * (size - 1) + self.c)


@dataclass(frozen=True)
class Span:
    """What part of the other axis counts: only where all `lines` can be >= 0."""

    lines: tuple[Line, ...] = ()

    def start(self, block: Index, size: int, step: int) -> Index | None:
        """Where a loop in steps of `step` begins for a block of `size`; what is below 0 means 0.

        None is the first place.
        """
        found = [line.least_other(block, size) for line in self.lines]
        starts = [i // step * step for i in found if i is not None]
        return _tightest(starts, 1)

    def limit(self, block: Index, size: int) -> Index | None:
        """Where it ends, which may be before it begins; None is the last place."""
        found = [line.end_other(block, size) for line in self.lines]
        return _tightest([i for i in found if i is not None], -1)

    def trips(self, blocks: int, size: int, other: int, step: int) -> int:
        """The turns of the loops of all blocks together, along an axis of `other` places."""
        total = 0
        for block in map(as_index, range(blocks)):
            first, limit = self.start(block, size, step), self.limit(block, size)
            begin = 0 if first is None else max(0, first.constant)
            end = other if limit is None else min(other, limit.constant)
            total += max(0, -(-(end - begin) // step))
        return total


def _tightest(limits: Sequence[Index], sign: int) -> Index | None:
    """The greatest (sign: 1) or the least (-1) of some limits, as far as that is known."""
    best: Index | None = None
    for limit in limits:
        if best is None or ((limit - best) * sign).bounds[0] >= 0:
            best = limit
    return best


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
    lines: list[Line | None] = []
    for condition, truths in zip(met, zip(*counts, strict=True), strict=True):
        if len(set(truths)) == 1:
            lines += [Line.of(e, own, other) for e in _at_least_0(condition, truths[0])]
    return Span(tuple(line for line in dict.fromkeys(lines) if line is not None))


def _at_least_0(condition: Condition, truth: bool) -> list[Index]:
    """The expressions that must be >= 0 for the condition to be as it is said to be."""
    e, low, high = condition.expr, condition.low, condition.high
    above = [] if low is None else [e - low]
    below = [] if high is None else [(e * -1) + (high - 1)]
    if truth:
        return above + below
    # Outside of two limits is no single range.
    if low is not None and high is not None:
        return []
    return [(i * -1) - 1 for i in above + below]
