"""The search for a plan: what to give up for memory, cheapest first, until the budget is obeyed.

Without a budget the fastest plan is taken, with a mild preference for little memory: a trade is
made if it lowers the peak by more than a tenth and costs less than a twentieth of the modelled
time. With one, trades go on in the order of their price: smaller chunks, loops around smaller
products, rematerialisation; among the plans that obey the cheapest is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from lowgrad.errors import OutOfMemory
from lowgrad.ir.graph import Graph
from lowgrad.passes.cost import Work, work
from lowgrad.passes.pipeline import SIMPLIFY, OnPass, lower, run_passes
from lowgrad.passes.trades import NOTHING, Trades
from lowgrad.runtime.memory import Plan, human
from lowgrad.runtime.memory import plan as plan_memory

# The mild preference: what a trade must save of the peak, and may cost of the modelled time.
WORTH_SAVING = 0.10
WORTH_PAYING = 0.05
# Nobody misses so little; and a loop of small chunks is all launches.
WORTH_BYTES = 1 << 24
# A chunk takes this part of the largest product: few launches more, and little left to save.
CHUNKS = 12
# Bytes of traffic for a byte of memory that cost no product: elementwise work done twice.
FREE_REMAT = 4.0
# The range of the search for a weight, and how near to the least one it comes.
HIGHEST_REMAT = 1000.0
REMAT_STEPS = 7
# How far chunks shrink: by this factor, so many times.
SHRINK, SHRINKS = 4, 8


@dataclass
class Candidate:
    """A way to compile a step: what is traded, and what comes of it."""

    trades: Trades
    graphs: dict[str, Graph]

    @property
    def graph(self) -> Graph:
        """The graph as it is planned and run."""
        return next(reversed(self.graphs.values()))

    @cached_property
    def plan(self) -> Plan:
        """Where everything lies."""
        return plan_memory(self.graph)

    @cached_property
    def work(self) -> Work:
        """What it takes to run."""
        return work(self.graph.nodes)

    @property
    def peak(self) -> int:
        """The peak of the plan in bytes."""
        return self.plan.peak_bytes


class Search:
    """Plans of one step. `simplified` is where they part; `on_pass` sees the passes up to there."""

    def __init__(self, graph: Graph, *, fuse: bool, on_pass: OnPass | None = None) -> None:
        self.fuse = fuse
        self.shared = run_passes(SIMPLIFY, graph, on_pass=on_pass)
        self.simplified = next(reversed(self.shared.values()))
        self._made: dict[Trades, Candidate] = {}

    def candidate(self, trades: Trades) -> Candidate:
        """The step with these trades made; each is compiled once."""
        found = self._made.get(trades)
        if found is None:
            found = self._made[trades] = self._compile(trades)
        return found

    def _compile(self, trades: Trades) -> Candidate:
        # Rematerialisation works on what the other passes leave, whatever its weight.
        start = self.simplified
        graphs = dict(self.shared)
        steps = lower(trades, self.fuse)
        if trades.remat:
            before = self.candidate(replace(trades, remat=0.0))
            start, graphs, steps = before.graph, dict(before.graphs), steps[-1:]
        graphs |= {k: g for k, g in run_passes(steps, start).items() if k != "trace"}
        return Candidate(trades, graphs)

    def best(self, budget: int | None) -> Candidate:
        """The plan to run. Raises OutOfMemory if none obeys the budget."""
        base = self.candidate(NOTHING)
        if not self.fuse:
            found = base
        elif budget is not None and base.peak <= budget:
            return base
        else:
            found = self._preferred(base)
        if budget is None or found.peak <= budget:
            return found
        return self._obedient(found, budget)

    # --- Without a budget -----------------------------------------------------------------------

    def _preferred(self, base: Candidate) -> Candidate:
        """`base`, or what saves much and costs little."""
        best = base
        chunk = max(_products(self.simplified), default=0) // CHUNKS
        for least in self._classes(max(base.peak * WORTH_SAVING, WORTH_BYTES)):
            if least > chunk:
                best = self._better(best, Trades(least, chunk))
        if best.plan.arena_bytes < WORTH_BYTES:
            return best
        return self._better(best, replace(best.trades, remat=FREE_REMAT))

    def _better(self, known: Candidate, trades: Trades) -> Candidate:
        other = self.candidate(trades)
        saves = known.peak - other.peak > max(known.peak * WORTH_SAVING, WORTH_BYTES)
        costs = other.work.price - known.work.price
        return other if saves and costs < known.work.price * WORTH_PAYING else known

    def _classes(self, worth: float) -> list[int]:
        """Sizes of products of which there are `worth` bytes in all, largest first."""
        sizes = _products(self.simplified)
        return sorted({n for n in sizes if n * sizes.count(n) >= worth}, reverse=True)

    # --- With one -------------------------------------------------------------------------------

    def _obedient(self, start: Candidate, budget: int) -> Candidate:
        """The cheapest plan found that obeys, where `start` does not."""
        found: list[Candidate] = []
        lowest = start
        for trades in self._chunkings(start):
            plain = self.candidate(trades)
            kept = self._least_remat(plain, budget)
            lowest = min((lowest, plain, kept or plain, self._leanest(plain)), key=_peak)
            if kept is not None:
                found.append(kept)
                if _is_cheap(kept, start):
                    break
        if not found:
            raise _refusal(lowest, budget)
        return min(found, key=lambda c: c.work.price)

    def _chunkings(self, start: Candidate) -> Iterator[Trades]:
        """What is in loops and in which chunks: first as it is, then ever more and smaller."""
        yield start.trades
        if not self.fuse:
            return
        sizes = self._classes(1)
        if not sizes:
            return
        least = start.trades.loop_over or sizes[0]
        chunk = sizes[0] // CHUNKS
        seen = {start.trades}
        for _ in range(SHRINKS):
            for size in dict.fromkeys((least, sizes[-1])):
                trades = Trades(size, max(chunk, 1))
                if trades not in seen:
                    seen.add(trades)
                    yield trades
            chunk //= SHRINK

    def _least_remat(self, plain: Candidate, budget: int) -> Candidate | None:
        """With as little made again as obeys, if anything does."""
        if plain.peak <= budget:
            return plain
        kept = None
        low, high = 1.0, HIGHEST_REMAT
        for _ in range(REMAT_STEPS):
            weight = (low * high) ** 0.5
            other = self.candidate(replace(plain.trades, remat=weight))
            if other.peak <= budget:
                kept, high = other, weight
            else:
                low = weight
        return kept

    def _leanest(self, plain: Candidate) -> Candidate:
        tried = [c for t, c in self._made.items() if replace(t, remat=0.0) == plain.trades]
        return min(tried, key=_peak)


def _peak(candidate: Candidate) -> int:
    return candidate.peak


def _is_cheap(candidate: Candidate, start: Candidate) -> bool:
    return candidate.work.price < start.work.price * (1 + WORTH_PAYING)


def _products(graph: Graph) -> list[int]:
    """The bytes of each product."""
    return [n.output.type.nbytes for n in graph.nodes if n.op.family == "contraction"]


def _refusal(lowest: Candidate, budget: int) -> OutOfMemory:
    plan = lowest.plan
    short = plan.peak_bytes - budget
    fixed = plan.state_bytes + plan.argument_bytes
    what = f"{lowest.graph.name} needs at least {plan.peak_bytes} bytes at its peak"
    if fixed > budget:
        what = f"{lowest.graph.name}: its state and arguments alone take {fixed} bytes"
        short = fixed - budget
    return OutOfMemory(
        f"{what}; the budget is {budget}, {short} too few ({human(short)})",
        operands=plan.largest(4),
        fix=f'memory="{human(plan.peak_bytes)}" is the least that works; or make the batch smaller',
    )
