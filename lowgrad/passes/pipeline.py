"""The road from what was recorded to what is lowered, read aloud from top to bottom."""

from __future__ import annotations

from collections.abc import Callable

from lowgrad.errors import CompileError, LowgradError
from lowgrad.ir.graph import Graph
from lowgrad.ir.verify import verify as verify_graph
from lowgrad.passes.base import Pass
from lowgrad.passes.cse import cse
from lowgrad.passes.dce import dce
from lowgrad.passes.fold import fold
from lowgrad.passes.fuse import fuse
from lowgrad.passes.order import order
from lowgrad.passes.simplify import simplify
from lowgrad.passes.views import views

PIPELINE: tuple[Pass, ...] = (
    dce,  # first: autodiff leaves gradients that nobody asked for, and rules count readers
    fold,  # before simplify, whose rules know constants by their `full`
    simplify,
    views,  # after simplify, which brings views into the order that these rules look for
    cse,  # after views: equal products are only equal once they have one form
    fuse,  # after cse, since a region hides its nodes from it
    order,  # last: what is alive when depends on which kernels there are
)

OnPass = Callable[[Pass, Graph, Graph], None]


def run_pipeline(
    graph: Graph, *, fuse: bool = True, on_pass: OnPass | None = None, verify: bool = False
) -> dict[str, Graph]:
    """The graph after each pass, by the pass's name, in order; "trace" is the graph as given.

    on_pass: called after each pass, with it and the graphs before and after.
    verify: check the IR's rules after each pass.
    Raises CompileError naming the pass that failed.
    """
    graphs = {"trace": graph}
    for step in PIPELINE:
        if step.name == "fuse" and not fuse:
            continue
        before, graph = graph, _run(step, graph, verify)
        graphs[step.name] = graph
        if on_pass is not None:
            on_pass(step, before, graph)
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
            fix="this is a bug of lowgrad: LOWGRAD_DUMP=dir writes the graph that replays it",
        ) from error
    return result
