"""The road from what was recorded to what is lowered, read aloud from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from lowgrad import logs, spans
from lowgrad.errors import CompileError, LowgradError
from lowgrad.ir.graph import Graph
from lowgrad.ir.verify import verify as verify_graph
from lowgrad.passes.base import Pass
from lowgrad.passes.cats import cats
from lowgrad.passes.chunks import chunks
from lowgrad.passes.cse import cse
from lowgrad.passes.cuts import cuts
from lowgrad.passes.dce import dce
from lowgrad.passes.factors import factors
from lowgrad.passes.flatten import flatten
from lowgrad.passes.fold import fold
from lowgrad.passes.fuse import fuse
from lowgrad.passes.gathers import gathers
from lowgrad.passes.join import join
from lowgrad.passes.loops import loops
from lowgrad.passes.order import order
from lowgrad.passes.remat import remat
from lowgrad.passes.simplify import simplify
from lowgrad.passes.trades import NOTHING, Trades
from lowgrad.passes.views import views

SIMPLIFY: tuple[Pass, ...] = (
    dce,  # first: autodiff leaves gradients that nobody asked for, and rules count readers
    fold,  # before simplify, whose rules know constants by their `full`
    simplify,
    views,  # after simplify, which brings views into the order that these rules look for
    cuts,  # after views, which make products of rows; before cse, since two products cut alike
    factors,  # after views, which leave one form of each product
    cats,  # after cuts, which follow pads through products
    cse,  # after both: equal products are only equal once they have one form
)
LOWER: tuple[Pass, ...] = (
    fuse,  # after cse, since a region hides its nodes from it
    chunks,  # after fuse, which is for what is around the loops; it lowers their bodies
    order,  # last: what is alive when depends on which kernels there are
)
PIPELINE = SIMPLIFY + LOWER

# The pass, the graphs before and after it, and the milliseconds that it took.
OnPass = Callable[[Pass, Graph, Graph, float], None]


def lower(trades: Trades, fuse: bool = True) -> tuple[Pass, ...]:
    """The passes after SIMPLIFY, given what is traded for memory."""
    if not fuse:
        return tuple(step for step in LOWER if step.name != "fuse")
    if trades.loop_over is None:
        return LOWER + again(trades)
    # Loops on what fuse would split up, and on rows. What is picked early needs no loop of its own.
    early = (gathers,) if trades.lean else ()
    return (*early, flatten(trades), loops(trades), *LOWER, *again(trades))


def again(trades: Trades) -> tuple[Pass, ...]:
    """The passes that follow, on an order, in which there is a peak; none at weight 0."""
    return (remat(trades), join) if trades.remat else ()


def run_pipeline(
    graph: Graph,
    *,
    fuse: bool = True,
    trades: Trades = NOTHING,
    on_pass: OnPass | None = None,
    verify: bool = False,
) -> dict[str, Graph]:
    """The graph after each pass, by the pass's name, in order; "trace" is the graph as given.

    fuse: whether regions are made, and loops. trades: what is given up for memory.
    on_pass, verify: as in run_passes.
    """
    return run_passes((*SIMPLIFY, *lower(trades, fuse)), graph, on_pass=on_pass, verify=verify)


def run_passes(
    steps: Iterable[Pass], graph: Graph, *, on_pass: OnPass | None = None, verify: bool = False
) -> dict[str, Graph]:
    """The graph after each of `steps`, by the pass's name; "trace" is the graph as given.

    on_pass: called after each pass, with it, the graphs before and after, and its milliseconds.
    verify: check the IR's rules after each pass.
    Raises CompileError naming the pass that failed.
    """
    graphs = {"trace": graph}
    for step in steps:
        started = time.perf_counter()
        with spans.span("pass", step.name, graph=graph.name, nodes=len(graph.nodes)):
            before, graph = graph, _run(step, graph, verify)
        graphs[step.name] = graph
        ms = (time.perf_counter() - started) * 1e3
        if logs.is_on("passes"):
            nodes = f"{len(before.nodes)}->{len(graph.nodes)}"
            logs.event("passes", step.name, graph=graph.name, ms=ms, nodes=nodes)
        if on_pass is not None:
            on_pass(step, before, graph, ms)
    return graphs


def _run(step: Pass, graph: Graph, verify: bool) -> Graph:
    try:
        result = step(graph)
        if verify:
            verify_graph(result)
    except Exception as error:
        what = error.message if isinstance(error, LowgradError) else repr(error)
        raise CompileError(
            f"pass {step.name} failed on {graph.name}: {what}",
            fix="this is a bug of lowgrad: LOWGRAD_DUMP=dir writes a graph that shows it, for "
            "lowgrad dump passes",
        ) from error
    return result
