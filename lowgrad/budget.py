"""The search for a plan: what to give up for memory, cheapest first, until the budget is obeyed.

Without a budget the fastest plan is taken, with a mild preference for little memory: a trade is
made if it lowers the peak by more than a tenth and costs less than a twentieth of the modelled
time. With one, trades go on in the order of their price: smaller chunks, loops around smaller
products, rematerialisation; among the plans that obey the cheapest is taken. Precision goes last:
gradients of 16-bit weights are added up in their own dtype only where no other plan obeys, or only
one that costs more than a twentieth more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from lowgrad import spans
from lowgrad.errors import OutOfMemory
from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.types import TensorType
from lowgrad.ops.rows import dims_of
from lowgrad.passes.clipping import waiting
from lowgrad.passes.cost import Work, work
from lowgrad.passes.order import highest
from lowgrad.passes.pipeline import SIMPLIFY, OnPass, again, lower, run_passes
from lowgrad.passes.remat import droppable
from lowgrad.passes.trades import NOTHING, Trades
from lowgrad.runtime.memory import HOST, Known, Machine, Plan, human
from lowgrad.runtime.memory import plan as plan_memory

# The mild preference: what a trade must save of the peak, and may cost of the modelled time.
WORTH_SAVING = 0.10
WORTH_PAYING = 0.05
# A product is worth a loop of its own if it is this part of what is worth saving.
WORTH_A_LOOP = 0.1
# Nobody misses so little; and a loop of small chunks is all launches.
WORTH_BYTES = 1 << 23
# Chunks of the largest product. Many leave little to save, few cost little.
CHUNKS = (4, 2)
# Bytes of traffic for a byte of memory that cost no product: elementwise work done twice.
FREE_REMAT = 4.0
# Weights that are tried in turn; and how often the interval below the first that obeys is halved.
REMATS = (1.0, 3.0, 10.0, 30.0, 60.0, 200.0)
REMAT_STEPS = 6
# The search ends after so many chunkings that do not lower the least peak by this part of it, or
# that come after one that obeys.
PATIENCE = 6
WORTH_TRYING = 0.02
# What loops are made around, at most: products that are this part of the arena. Not of what the
# budget leaves: the least budget that works must be found again when it is given.
WORTH_LOOPING = 0.02
# How far chunks shrink: by this factor, so many times.
SHRINK, SHRINKS = 4, 8
# How often the interval between a chunk that obeys and one that does not is halved then.
CHUNK_STEPS = 3


@dataclass
class Candidate:
    """A way to compile a step: what is traded, and what comes of it."""

    trades: Trades
    graphs: dict[str, Graph]

    @property
    def graph(self) -> Graph:
        """The graph as it is planned and run."""
        return next(reversed(self.graphs.values()))

    base: Candidate | None = None
    temporaries: Known | None = None
    machine: Machine = HOST

    @cached_property
    def plan(self) -> Plan:
        """Where everything lies."""
        with spans.span("plan", self.graph.name, nodes=len(self.graph.nodes)):
            return plan_memory(self.graph, self.temporaries, self.machine)

    @cached_property
    def described(self) -> Plan:
        """The plan, and in it what was traded against `base`, and why gradients wait."""
        trades = () if self.base is None else tuple(_trades(self, self.base))
        return replace(self.plan, trades=trades, notes=tuple(_notes(self.graph)))

    @cached_property
    def work(self) -> Work:
        """What it takes to run."""
        return work(self.graph.nodes)

    @cached_property
    def estimate(self) -> int:
        """About the peak in bytes, known without a plan."""
        return highest(self.graph)[0] + sum(v.type.nbytes for v in self.graph.inputs)

    @property
    def peak(self) -> int:
        """The peak of the plan in bytes."""
        return self.plan.peak_bytes


class Search:
    """Plans of one step. `simplified` is where they part; `on_pass` sees the passes up to there."""

    def __init__(
        self,
        graph: Graph,
        *,
        fuse: bool,
        on_pass: OnPass | None = None,
        machine: Machine = HOST,
    ) -> None:
        self.fuse, self.machine, self.on_pass = fuse, machine, on_pass
        self.shared = run_passes(SIMPLIFY, graph, on_pass=on_pass)
        self.simplified = next(reversed(self.shared.values()))
        self._made: dict[Trades, Candidate] = {}
        self._temporaries: Known = {}

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
            start, graphs, steps = before.graph, dict(before.graphs), again(trades)
        made = run_passes(steps, start, on_pass=self.on_pass)
        graphs |= {k: g for k, g in made.items() if k != "trace"}
        base = self._made.get(NOTHING)
        return Candidate(trades, graphs, base, self._temporaries, self.machine)

    def best(self, budget: int | None) -> Candidate:
        """The plan to run. Raises OutOfMemory if none obeys the budget."""
        try:
            return self._best(budget)
        finally:
            self._temporaries.clear()  # the one that is kept need not keep the others' nodes

    def _best(self, budget: int | None) -> Candidate:
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
        largest = max(_products(self.simplified), default=0)
        loops = (
            Trades(least, largest // count)
            for least in self._classes(max(base.estimate * WORTH_SAVING, WORTH_BYTES))
            for count in CHUNKS
        )
        best = next((c for t in loops if (c := self._better(base, t)) is not base), base)
        if droppable(best.graph, FREE_REMAT) < max(best.estimate * WORTH_SAVING, WORTH_BYTES):
            return best
        return self._better(best, replace(best.trades, remat=FREE_REMAT))

    def _better(self, known: Candidate, trades: Trades) -> Candidate:
        """`known`, or with these trades if that saves much and costs little."""
        other = self.candidate(trades)
        costs = other.work.price - known.work.price
        if costs >= known.work.price * WORTH_PAYING:
            return known
        # The estimate knows nothing of what is written in place; a plan does, but takes its time.
        saves = _saves(known.estimate, other.estimate) and _saves(known.peak, other.peak)
        return other if saves else known

    def _classes(self, worth: float) -> list[int]:
        """Sizes of products of which there are `worth` bytes in all, smallest first.

        Loops around products of a size go around all that are larger as well.
        """
        sizes = _products(self.simplified)
        large = {n for n in sizes if n >= worth * WORTH_A_LOOP and n * sizes.count(n) >= worth}
        return sorted(large)

    # --- With one -------------------------------------------------------------------------------

    def _obedient(self, start: Candidate, budget: int) -> Candidate:
        """The cheapest plan found that obeys, where `start` does not."""
        found, lowest = self._explore(start, budget)
        if not (found and _is_cheap(found, start)) and self._sums_are_widened():
            rounded, least = self._explore(
                self.candidate(replace(start.trades, narrow=True)), budget
            )
            lowest = min((lowest, least), key=_peak)
            if rounded and (found is None or not _is_cheap(found, rounded)):
                found = rounded
        if found is None:
            raise _refusal(lowest, budget)
        return self._in_larger_chunks(found, budget)

    def _explore(self, start: Candidate, budget: int) -> tuple[Candidate | None, Candidate]:
        """The cheapest plan found that obeys, if any does, and the one with the least peak."""
        found: list[Candidate] = []
        lowest = start
        vain = 0
        worth = start.plan.arena_bytes * WORTH_LOOPING
        for trades in self._chunkings(start, worth):
            plain = self.candidate(trades)
            kept = self._least_remat(plain, budget)
            leanest = self._leanest(plain)
            if kept is None and not plain.trades.narrow and _combined(plain.graph) > worth:
                lean = self.candidate(replace(trades, lean=True))
                if lean.peak < plain.peak * (1 - WORTH_TRYING):
                    kept = self._least_remat(lean, budget)
                    leanest = min((leanest, self._leanest(lean)), key=_peak)
            if kept is not None:
                found.append(kept)
            helps = leanest.peak < lowest.peak * (1 - WORTH_TRYING)
            vain = 0 if helps and not found else vain + 1
            lowest = min((lowest, leanest), key=_peak)
            if vain == PATIENCE or (found and _is_cheap(found[-1], start)):
                break
        return min(found, key=_price, default=None), lowest

    def _sums_are_widened(self) -> bool:
        """Whether a plan so far adds up what has 16 bits in float32."""
        return any(
            made.type != own.type
            for candidate in self._made.values()
            for made, own in _sums(candidate.graph)
        )

    def _in_larger_chunks(self, found: Candidate, budget: int) -> Candidate:
        """The same in chunks as large as obey: they were shrunk in large steps."""
        low, high = found.trades.chunk_bytes, found.trades.chunk_bytes * SHRINK
        for _ in range(CHUNK_STEPS if found.trades.loop_over is not None else 0):
            middle = (low + high) // 2
            other = self.candidate(replace(found.trades, chunk_bytes=middle))
            if other.peak > budget:
                high = middle
                continue
            low = middle
            found = min(found, other, key=_price)
        return found

    def _chunkings(self, start: Candidate, worth: float) -> Iterator[Trades]:
        """What is in loops and in which chunks: first as it is, then ever more and smaller.

        worth: the bytes of the least product to make a loop around.
        """
        as_it_is = replace(start.trades, remat=0.0)
        yield as_it_is
        sizes = sorted({n for n in _products(self.simplified) if n >= worth}, reverse=True)
        if not self.fuse or not sizes:
            return
        chunk = as_it_is.chunk_bytes or sizes[0] // CHUNKS[0]
        for _ in range(SHRINKS):
            fitting = [n for n in sizes if n > chunk]
            # What is in loops already, and then all that is larger than a chunk.
            for least in dict.fromkeys((as_it_is.loop_over or sizes[0], *fitting[-1:])):
                trades = replace(as_it_is, loop_over=least, chunk_bytes=chunk)
                if trades != as_it_is:
                    yield trades
            if chunk <= 1:
                return
            chunk = max(1, chunk // SHRINK)

    def _least_remat(self, plain: Candidate, budget: int) -> Candidate | None:
        """With as little made again as obeys, if anything does."""
        if plain.peak <= budget:
            return plain
        low = 0.0
        for high in REMATS:
            kept = self._with_remat(plain, high)
            if kept.peak <= budget:
                break
            low = high
        else:
            return None
        # The least weight that obeys: with it the least is made again.
        for _ in range(REMAT_STEPS):
            weight = (low + high) / 2
            other = self._with_remat(plain, weight)
            if other.peak <= budget:
                kept, high = other, weight
            else:
                low = weight
        return kept

    def _with_remat(self, plain: Candidate, weight: float) -> Candidate:
        return self.candidate(replace(plain.trades, remat=weight))

    def _leanest(self, plain: Candidate) -> Candidate:
        tried = [c for t, c in self._made.items() if replace(t, remat=0.0) == plain.trades]
        return min(tried, key=_peak)


def _saves(before: int, after: int) -> bool:
    """Whether that much less of a peak is worth something."""
    return before - after > max(before * WORTH_SAVING, WORTH_BYTES)


def _trades(made: Candidate, base: Candidate) -> Iterator[str]:
    """What `made` gives up against `base`, and what that saves and costs in all."""
    if made.graph is base.graph:
        return
    for node in made.graph.nodes:
        if node.op.family == "loop":
            seed = max(_made_inside(node), key=lambda t: t.nbytes)
            yield (
                f"a loop over {node.attrs['steps']} steps, {node.attrs['chunk']} at a time, "
                f"instead of {seed} ({human(seed.nbytes)}) at {node.loc}"
            )
            for position in node.attrs.get("narrow", ()):
                summed = node.outputs[position].type
                yield (
                    f"a gradient added up in {summed.dtype.name} over "
                    f"{-(-node.attrs['steps'] // node.attrs['chunk'])} pieces: {summed} "
                    f"({human(summed.nbytes)}), where float32 would take {human(2 * summed.nbytes)}"
                )
    if "remat" in made.graphs:
        before, after, final = (len(made.graphs[k].nodes) for k in ("order", "remat", "join"))
        yield (
            f"{after - before} values are made again instead of kept, "
            f"{after - final} of them by kernels that run anyway"
        )
    saved = base.peak - made.peak
    flops = made.work.flops / max(base.work.flops, 1) - 1
    nbytes = made.work.nbytes / max(base.work.nbytes, 1) - 1
    yield (
        f"in all: the peak is {human(saved)} lower than {human(base.peak)}, "
        f"for {flops:+.1%} FLOPs and {nbytes:+.1%} bytes moved"
    )


def _notes(graph: Graph) -> Iterator[str]:
    """What in the program keeps memory that it need not."""
    for node, gradients in waiting(graph):
        nbytes = sum(g.type.nbytes for g in gradients)
        yield (
            f"{len(gradients)} gradients ({human(nbytes)}) wait for a number made of all of them "
            f"at {node.loc}: none dies at its own update"
        )


def _made_inside(loop: Node) -> list[TensorType]:
    """The types of the products of a loop, or of all that it makes."""
    made = [n for n in loop.attrs["body"].nodes if n.op.family != "create"]
    products = [n for n in made if n.op.family == "contraction"]
    return [v.type for n in products or made for v in n.outputs]


def _combined(graph: Graph) -> int:
    """The most bytes that a loop adds up over its pieces."""
    loops = [n for n in graph.nodes if n.op.family == "loop"]
    return max((sum(made.type.nbytes for made, _ in _sums_of(n)) for n in loops), default=0)


def _sums(graph: Graph) -> Iterator[tuple[Value, Value]]:
    for node in graph.nodes:
        if node.op.family == "loop":
            yield from _sums_of(node)


def _sums_of(loop: Node) -> Iterator[tuple[Value, Value]]:
    """What a loop adds up over its pieces, and what its body makes of it."""
    body: Graph = loop.attrs["body"]
    dims = dims_of(body, loop.attrs["dims"])
    for made, own in zip(loop.outputs, body.outputs, strict=True):
        if isinstance(dims[own], str):
            yield made, own


def _price(candidate: Candidate) -> float:
    return candidate.work.price


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
        fix=f"memory={plan.peak_bytes} is the least that works; or make the batch smaller",
    )
