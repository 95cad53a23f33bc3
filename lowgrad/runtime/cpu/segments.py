"""A body cut at its matrix products, so that what goes into one and what follows are loops alone.

What one segment makes and another reads lies whole between them: a product in the array of the
result that is made of it, where that result's elements need no others, else in scratch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.in_place import reads_in_place
from lowgrad.runtime.cpu.region import FREE
from lowgrad.runtime.cpu.sums import added

# Cheap enough to be made again by each segment: nothing of them is ever stored.
REMADE = FREE | {"full"}
# What is so many times smaller (a learning rate) may lie between segments for free.
SMALL = 64


@dataclass(frozen=True)
class Segment:
    """Part of a body, a body itself.

    over: of its outputs, by position, those written where one of its inputs is, by position.
    """

    body: Graph
    over: Mapping[int, int]


@dataclass(frozen=True)
class Cut:
    """The segments in order. between: values that one makes and another reads, and no output is.

    homes: of those, the ones that lie where an output of the body (by position) will be.
    """

    segments: tuple[Segment, ...]
    between: tuple[Value, ...]
    homes: Mapping[Value, int]


def cut(body: Graph, over: Mapping[int, int]) -> Cut | None:
    """The segments of `body`; None if it has no product, or nothing beside one, or overwrites
    what a later segment reads."""
    maker = {v: n for n in body.nodes for v in n.outputs}
    real = [n for n in body.nodes if n.op.name not in REMADE]
    if not any(n.op.name == "matmul" for n in real) or len(real) < 2:
        return None
    stored = {body.outputs[o]: body.inputs[i] for o, i in over.items()}
    level = _levels(real, maker, {total: made for made, total in added(body, stored).items()})
    if len(set(level.values())) < 2:
        return None
    for new, old in stored.items():
        written = level.get(maker.get(origin(new, maker)), 0)  # type: ignore[arg-type]
        reads = (n for n in real if any(origin(v, maker) is old for v in n.inputs))
        if origin(new, maker) is not new or any(level[n] > written for n in reads):
            return None
    if any(origin(v, maker) not in maker for v in body.outputs):
        return None
    return _cut(body, real, level, maker, stored)


def origin(value: Value, maker: Mapping[Value, Node]) -> Value:
    """What `value` is a view of."""
    while value in maker and maker[value].op.name in FREE:
        value = maker[value].inputs[0]
    return value


def _levels(
    real: Sequence[Node], maker: Mapping[Value, Node], sums: Mapping[Node, Node]
) -> dict[Node, int]:
    """Products have odd levels, and what they are added to; all else even ones.

    What is read has a lower level, or the same. sums: nodes that only add a product in place.
    """
    level: dict[Node, int] = {}
    for node in real:
        roots = (maker.get(origin(v, maker)) for v in node.inputs)
        least = max((level.get(n, 0) for n in roots if n is not None), default=0)
        if node.op.name == "matmul":
            level[node] = least + 1 + least % 2
        elif node in sums:
            level[node] = level[sums[node]]
        else:
            level[node] = least + least % 2
    return _sunk(real, maker, level, sums)


def _sunk(
    real: Sequence[Node],
    maker: Mapping[Value, Node],
    level: Mapping[Node, int],
    sums: Mapping[Node, Node],
) -> dict[Node, int]:
    """The levels, but what is made of inputs alone is made where it is read, and not held."""
    readers: dict[Node, list[Node]] = {n: [] for n in real}
    for node in real:
        for value in node.inputs:
            source = maker.get(origin(value, maker))
            if source in readers:
                readers[source].append(node)
    early: set[Node] = set()  # made of inputs, as far as it is large
    for node in real:
        sources = [maker.get(origin(v, maker)) for v in node.inputs]
        held = [n for n in sources if n in readers and _size(n) * SMALL > _size(node)]
        if (
            node.op.family in ("pointwise", "random")
            and node not in sums
            and early.issuperset(held)
        ):
            early.add(node)
    sunk = dict(level)
    for node in reversed(real):
        if node in early and readers[node]:
            sunk[node] = min(sunk[r] - sunk[r] % 2 for r in readers[node])
    return sunk


def _size(node: Node) -> int:
    return node.outputs[0].type.numel


def _cut(
    body: Graph,
    real: Sequence[Node],
    level: Mapping[Node, int],
    maker: Mapping[Value, Node],
    stored: Mapping[Value, Value],
) -> Cut:
    made_at = {v: level[n] for n in real for v in n.outputs}
    results_at = {v: made_at.get(origin(v, maker), 0) for v in body.outputs}
    between = _between(real, level, maker, made_at)
    parts = []
    for at in sorted(set(level.values()) | set(results_at.values())):
        own = [n for n in real if level[n] == at]
        outputs = [v for v in body.outputs if results_at[v] == at]
        outputs += [v for v in between if made_at[v] == at and v not in outputs]
        parts.append(_part(body, own, tuple(dict.fromkeys(outputs)), maker))
    homes = _homes(body, parts, between, maker, stored)
    written = {**stored, **{body.outputs[o]: v for v, o in homes.items()}}
    segments = tuple(Segment(part, _over(part, written)) for part in parts)
    # A 16-bit output is rounded, which what reads it in here is not to see.
    kept = [v for v in between if v not in body.outputs or v.type.dtype.is_low_precision]
    return Cut(segments, tuple(kept), homes)


def _between(
    real: Sequence[Node],
    level: Mapping[Node, int],
    maker: Mapping[Value, Node],
    made_at: Mapping[Value, int],
) -> list[Value]:
    found: dict[Value, None] = {}
    for node in real:
        for value in node.inputs:
            root = origin(value, maker)
            if root in made_at and made_at[root] != level[node]:
                found[root] = None
    return list(found)


def _part(
    body: Graph, own: Sequence[Node], outputs: tuple[Value, ...], maker: Mapping[Value, Node]
) -> Graph:
    """`own` and the views and constants that they, and `outputs`, are reached through."""
    chosen = set(own)
    made = {v for n in own for v in n.outputs}
    reached: dict[Value, None] = {}
    waiting = [v for n in own for v in n.inputs] + [v for v in outputs if v not in made]
    while waiting:
        value = waiting.pop()
        node = maker.get(value)
        if value in made:
            continue
        if node is None or node.op.name not in REMADE:
            reached[value] = None
        elif node not in chosen:
            chosen.add(node)
            waiting += node.inputs
    nodes = tuple(n for n in body.nodes if n in chosen)
    inputs = (*(v for v in body.inputs if v in reached),)
    inputs += tuple(v for v in reached if v not in inputs)
    return Graph(inputs, nodes, outputs, {}, body.name)


def _homes(
    body: Graph,
    parts: Sequence[Graph],
    between: Sequence[Value],
    maker: Mapping[Value, Node],
    stored: Mapping[Value, Value],
) -> dict[Value, int]:
    """Products that can wait where an output is going to be, by that output's position."""
    homes: dict[Value, int] = {}
    for value in between:
        if maker[value].op.name != "matmul" or value in body.outputs:
            continue
        readers = [p for p in parts if value in p.inputs]
        if len(readers) != 1:
            continue
        for position, result in enumerate(body.outputs):
            if position in homes.values() or result in stored or result not in readers[0].outputs:
                continue
            alike = result.type.dtype is value.type.dtype and not value.type.dtype.is_low_precision
            if (
                alike
                and result.type.numel == value.type.numel
                and body.outputs.count(result) == 1
                and origin(result, maker) is result
                and reads_in_place(readers[0], value, result)
            ):
                homes[value] = position
                break
    return homes


def _over(part: Graph, written: Mapping[Value, Value]) -> dict[int, int]:
    places = {v: i for i, v in enumerate(part.inputs)}
    return {
        o: places[written[v]]
        for o, v in enumerate(part.outputs)
        if v in written and written[v] in places
    }
