"""Row loops: large products that are only passed through are made and used up a chunk at a time.

The logits of a language model are a product of tens of thousands of columns. Each row of them is
turned into a loss and a gradient by itself, and two products later nothing of that size is left. So
the products and all that lies between them, whatever it computes, become one loop over rows. The
pass knows no loss: it grows a region along a dim that ops say can be sliced (`loop_region.py`),
finds what needs all rows at once (`loop_stages.py`), and picks the dim that costs least.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.base import Pass
from lowgrad.passes.loop_region import Facts, grow
from lowgrad.passes.loop_stages import Loops, split, with_loops
from lowgrad.passes.trades import Trades

# How many floating operations cost as much as moving a byte, on machines of today (5 to 15).
FLOPS_PER_BYTE = 10
# More loops than this are no plan: the large value couples what it is sliced along.
MAX_STAGES = 4
# Chunks of at least so many steps are made of whole tiles.
TILE = 64


def loops(trades: Trades) -> Pass:
    """The pass that makes row loops around products of `trades.loop_over` bytes or more."""
    return Pass(
        "loops",
        lambda graph: _with_all_loops(graph, trades),
        exact=False,
        reason="sums over rows add up chunk by chunk",
    )


class Choice(NamedTuple):
    """A way to make loops around a product, and its price in bytes moved."""

    loops: Loops
    chunk: int
    price: float


def _with_all_loops(graph: Graph, trades: Trades) -> Graph:
    if trades.loop_over is None:
        return graph
    tried: set[Value] = set()
    facts = Facts(graph)
    while (seed := _largest(facts, trades.loop_over, tried)) is not None:
        tried.add(seed)
        choice = best_choice(facts, seed, trades.chunk_bytes)
        if choice is not None:
            graph = with_loops(facts, choice.loops, choice.chunk)
            facts = Facts(graph)
    return graph


def _largest(facts: Facts, least: int, tried: set[Value]) -> Value | None:
    """The largest product that is not yet tried; of equal ones the first."""
    products = [
        node.output
        for node in facts.graph.nodes
        if node.op.family == "contraction"
        and node.output.type.nbytes >= max(least, 1)
        and node.output not in tried
    ]
    return max(products, key=lambda v: v.type.nbytes, default=None)


def best_choice(facts: Facts, seed: Value, chunk_bytes: int) -> Choice | None:
    """The cheapest loops around `seed` whose chunks fit in `chunk_bytes`, if there are any."""
    choices = [_choice(facts, seed, dim, chunk_bytes) for dim in range(seed.type.ndim)]
    return min((c for c in choices if c is not None), key=lambda c: c.price, default=None)


def _choice(facts: Facts, seed: Value, dim: int, chunk_bytes: int) -> Choice | None:
    steps = seed.type.shape[dim]
    if steps < 2:
        return None
    loops = split(facts, grow(facts, seed, dim))
    if not loops.stages or len(loops.stages) > MAX_STAGES or loops.stores_large:
        return None
    chunk = chunk_of(steps, seed.type.nbytes, chunk_bytes)
    if chunk >= steps:
        return None
    count = -(-steps // chunk)
    again = sum(flops(node) for node in loops.repeated) / FLOPS_PER_BYTE
    # A chunk that does not fit counts as if what is too large were moved many times.
    excess = max(0, seed.type.nbytes * chunk // steps - chunk_bytes)
    price = again + count * (2 * loops.accumulators + _read_each_time(loops)) + 100 * excess
    return Choice(loops, chunk, price)


def chunk_of(steps: int, nbytes: int, chunk_bytes: int) -> int:
    """How many of `steps` steps fit in `chunk_bytes`, if all take `nbytes`; at least one."""
    chunk = min(steps, max(1, steps * chunk_bytes // max(nbytes, 1)))
    return chunk - chunk % TILE if TILE < chunk < steps else chunk


def _read_each_time(loops: Loops) -> int:
    """The bytes of operands that every chunk reads whole."""
    return sum(v.type.nbytes for stage in loops.stages for v, dim in stage.inputs if dim is None)


def flops(node: Node) -> int:
    """The floating operations of a node, those of products only: the others come with memory."""
    if node.op.family != "contraction":
        return 0
    a = node.inputs[0].type
    return 2 * math.prod(node.output.type.shape) * a.shape[-1]
