"""Row loops: large products that are only passed through are made and used up a chunk at a time.

The logits of a language model are a product of tens of thousands of columns. Each row of them is
turned into a loss and a gradient by itself, and two products later nothing of that size is left. So
the products and all that lies between them, whatever it computes, become one loop over rows. The
pass knows no loss: it grows a region along a dim that ops say can be sliced (`loop_region.py`),
finds what needs all rows at once (`loop_stages.py`), and picks the dim that costs least.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.base import Pass
from lowgrad.passes.cost import CACHE_BYTES, FLOPS_PER_BYTE, LAUNCH_BYTES, flops_of, streams
from lowgrad.passes.decisions import Decision
from lowgrad.passes.loop_region import Facts, grow
from lowgrad.passes.loop_stages import Loops, split, unshared, with_loops
from lowgrad.passes.trades import Trades

# More loops than this are no plan: the large value couples what it is sliced along.
MAX_STAGES = 4
# A loop with fewer chunks saves little.
FEWEST_CHUNKS = 4
# Chunks of at least so many steps are made of whole tiles.
TILE = 64


def loops(trades: Trades) -> Pass:
    """The pass that makes row loops around products of `trades.loop_over` bytes or more."""
    return Pass(
        "loops",
        lambda graph: _with_all_loops(graph, trades),
        exact=False,
        reason="sums over rows add up chunk by chunk",
        explain=lambda graph: _explained(graph, trades),
    )


class Choice(NamedTuple):
    """A way to make loops around a product, and its price in bytes moved."""

    loops: Loops
    chunk: int
    price: float


def _with_all_loops(graph: Graph, trades: Trades) -> Graph:
    return [graph, *(after for _, _, after in _tries(graph, trades))][-1]


def _tries(graph: Graph, trades: Trades) -> Iterator[tuple[Value, Choice | None, Graph]]:
    """Each large value in turn, what was chosen for it, and the graph after that."""
    if trades.loop_over is None:
        return
    tried: set[Value] = set()
    facts = Facts(graph)
    while (seed := _largest(facts, trades.loop_over, tried)) is not None:
        tried.add(seed)
        choice = best_choice(facts, seed, trades.chunk_bytes, lean=trades.lean)
        if choice is not None and trades.lean:
            apart = _along_both(facts, choice, trades.chunk_bytes)
            if apart is not None:
                facts, choice = apart
        if choice is not None:
            graph = with_loops(facts, choice.loops, choice.chunk, narrow=trades.narrow)
            facts = Facts(graph)
        yield seed, choice, graph


def _along_both(facts: Facts, choice: Choice, chunk_bytes: int) -> tuple[Facts, Choice] | None:
    """Two loops of one stage instead of three, along one dim and then the other, if that is all.

    The graph with the first of them, and the choice of the second.
    """
    seed, stages = choice.loops.region.seed, choice.loops.stages
    is_shared = all(facts.maker.get(seed) in stage.nodes for stage in (stages[0], stages[-1]))
    if len(stages) < 3 or not is_shared:
        return None
    graph, copied = unshared(facts, choice.loops)
    facts = Facts(graph)
    first = best_choice(facts, copied, chunk_bytes, lean=True)
    if first is None or len(first.loops.stages) > 1:
        return None
    facts = Facts(with_loops(facts, first.loops, first.chunk))
    second = best_choice(facts, seed, chunk_bytes, lean=True)
    if second is None or len(second.loops.stages) > 1:
        return None
    return facts, second


def _explained(graph: Graph, trades: Trades) -> Iterator[Decision]:
    before = Facts(graph)
    for seed, choice, after in _tries(graph, trades):
        maker = before.maker.get(seed) or Facts(after).maker[seed]
        yield Decision(
            "loops",
            choice is not None,
            (maker.op.name,),
            "each row of it depends on all others, or it is needed whole afterwards"
            if choice is None
            else f"made and used up {choice.chunk} of {choice.loops.region.steps} steps at a time",
            2 * seed.type.nbytes,  # written once, and read once at least
            maker.loc,
        )


def _largest(facts: Facts, least: int, tried: set[Value]) -> Value | None:
    """The largest product, or what only products read, that is not yet tried; of equals the first.

    A gradient may be made of small numbers alone: one-hot rows, scaled. It has no large product
    before it, and two after it.
    """
    values = [
        value
        for node in facts.graph.nodes
        for value in _around(node, facts)
        if value.type.nbytes >= max(least, 1) and value not in tried
    ]
    return max(values, key=lambda v: v.type.nbytes, default=None)


def _around(node: Node, facts: Facts) -> Iterator[Value]:
    """A product, and its operands that are computed."""
    if node.op.family != "contraction":
        return
    yield node.output
    for value in node.inputs:
        maker = facts.maker.get(value)
        if maker is not None and maker.op.family == "pointwise" and value not in facts.constant:
            yield value


def best_choice(
    facts: Facts, seed: Value, chunk_bytes: int, *, lean: bool = False
) -> Choice | None:
    """The cheapest loops around `seed` whose chunks fit in `chunk_bytes`, if there are any.

    lean: of those whose combined results take least.
    """
    chunk_bytes = min(chunk_bytes, seed.type.nbytes // FEWEST_CHUNKS)
    choices = [c for dim in range(seed.type.ndim) for c in _choices(facts, seed, dim, chunk_bytes)]
    if lean and choices:
        least = min(choices, key=lambda c: c.loops.accumulators).loops.accumulators
        choices = [c for c in choices if c.loops.accumulators == least]
    return min(choices, key=lambda c: c.price, default=None)


def _choices(facts: Facts, seed: Value, dim: int, chunk_bytes: int) -> list[Choice]:
    """The loops along one dim: with chunks as large as they may be, and with ones for a cache."""
    steps = seed.type.shape[dim]
    if steps < 2:
        return []
    loops = split(facts, grow(facts, seed, dim))
    if not loops.stages or len(loops.stages) > MAX_STAGES or loops.stores_large:
        return []
    sizes = {chunk_of(steps, seed.type.nbytes, n) for n in (chunk_bytes, CACHE_BYTES // 2)}
    most = chunk_of(steps, seed.type.nbytes, chunk_bytes)
    return [
        Choice(loops, chunk, _price(loops, chunk, chunk_bytes))
        for chunk in sorted(sizes)  # of equal prices the first counts: little memory
        if chunk <= most and chunk < steps
    ]


def _price(loops: Loops, chunk: int, chunk_bytes: int) -> float:
    seed, steps = loops.region.seed, loops.region.steps
    products = [n for s in loops.stages for n in s.nodes if n.op.family == "contraction"]
    again = sum(flops_of(node) for node in loops.repeated) / FLOPS_PER_BYTE
    count = -(-steps // chunk)
    taken = seed.type.nbytes * chunk // steps
    price = again + count * (2 * loops.accumulators + _read_each_time(loops))
    if not all(streams(stage.nodes) for stage in loops.stages):
        price += count * LAUNCH_BYTES * len(products)
        if taken > CACHE_BYTES:
            # What lies between the products goes to memory and back.
            price += 2 * seed.type.nbytes * len(products)
    # A chunk that does not fit counts as if what is too large were moved many times.
    return price + 100 * max(0, taken - chunk_bytes)


def chunk_of(steps: int, nbytes: int, chunk_bytes: int) -> int:
    """How many of `steps` steps fit in `chunk_bytes`, if all take `nbytes`; at least one."""
    chunk = min(steps, max(1, steps * chunk_bytes // max(nbytes, 1)))
    return chunk - chunk % TILE if TILE < chunk < steps else chunk


def _read_each_time(loops: Loops) -> int:
    """The bytes of operands that every chunk reads whole."""
    return sum(v.type.nbytes for stage in loops.stages for v, dim in stage.inputs if dim is None)
