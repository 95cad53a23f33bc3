"""From a recorded graph to something that runs: passes, plan, kernels, executable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from lowgrad.errors import ArgumentError, OutOfMemory
from lowgrad.ir.graph import Graph
from lowgrad.ir.op import Array
from lowgrad.passes.base import Pass
from lowgrad.passes.pipeline import run_pipeline
from lowgrad.passes.trades import NOTHING, Trades

if TYPE_CHECKING:
    from lowgrad.runtime.memory import Plan

DEVICES = ("cpu", "interpret")


class Runs(Protocol):
    """An executable: arrays in, arrays out; aliased inputs are updated in place."""

    def __call__(self, arrays: Sequence[Array]) -> list[Array]: ...


@dataclass(frozen=True)
class Options:
    """How to compile. `memory` is the budget of `plan.peak_bytes`, None for none."""

    device: str = "cpu"
    target: str | None = None
    memory: int | None = None
    fuse: bool = True
    keep_grads: bool = False
    trades: Trades = NOTHING


@dataclass(frozen=True)
class Cost:
    """What one call moves and computes: launches, bytes read and written, floating operations."""

    kernels: int
    bytes: int
    flops: int

    def __str__(self) -> str:
        return (
            f"{self.kernels} kernels, {self.bytes / 1e6:.2f} MB moved, {self.flops / 1e6:.2f} MFLOP"
        )


class Compiled:
    """A step, compiled for one signature. Everything but `graphs` is made when first asked for.

    graphs: {"trace": ..., pass: ...}, the graph as recorded and after each pass, in order.
    """

    def __init__(self, graph: Graph, forward_nodes: int, options: Options) -> None:
        self.options = options
        self.pass_ms: dict[str, float] = {}
        self.graphs = {"trace": _forward_only(graph, forward_nodes), "autodiff": graph}
        self._clock = time.perf_counter()
        after = run_pipeline(
            graph, fuse=options.fuse, trades=options.trades, on_pass=self._note_pass
        )
        self.graphs |= {name: g for name, g in after.items() if name != "trace"}

    def _note_pass(self, step: Pass, before: Graph, after: Graph) -> None:
        now = time.perf_counter()
        self.pass_ms[step.name] = (now - self._clock) * 1e3
        self._clock = now

    @property
    def graph(self) -> Graph:
        """The graph after the last pass: what is lowered and planned."""
        return next(reversed(self.graphs.values()))

    @cached_property
    def plan(self) -> Plan:
        """Where each buffer lies, and the exact peak. Raises OutOfMemory if over the budget."""
        from lowgrad.runtime.memory import plan as plan_memory

        found = plan_memory(self.graph)
        budget = self.options.memory
        if budget is not None and found.peak_bytes > budget:
            raise OutOfMemory(
                f"{self.graph.name} needs {found.peak_bytes} bytes at its peak; "
                f"the budget is {budget}, {found.peak_bytes - budget} too few",
                operands=found.largest(4),
                fix="raise memory=, or make the batch smaller; nothing was run",
            )
        return found

    @cached_property
    def kernels(self) -> tuple[Any, ...]:
        """The generated kernels, in launch order."""
        from lowgrad.codegen.lower import lower_graph

        return tuple(k for _, kernels in lower_graph(self.graph) for k in kernels)

    @property
    def cost(self) -> Cost:
        """Kernels, bytes and FLOPs of one call."""
        return Cost(
            len(self.kernels),
            sum(k.bytes_read + k.bytes_written for k in self.kernels),
            sum(k.flops for k in self.kernels),
        )

    def cross_compile(self, target: str | None = None) -> tuple[Any, ...]:
        """Each distinct kernel, compiled for `target` ("cuda:90", "hip:gfx942") without a GPU."""
        from lowgrad.codegen.step import cross_compile_kernels

        chosen = target or self.options.target
        if chosen is None:
            raise ArgumentError("cross_compile: no target given", fix='c.cross_compile("cuda:90")')
        return cross_compile_kernels(self.kernels, chosen)

    @cached_property
    def executable(self) -> Runs:
        """The program that runs the step on the chosen device."""
        self.plan  # noqa: B018  (refuses a step that is over its budget, before anything runs)
        started = time.perf_counter()
        if self.options.device == "interpret":
            from lowgrad.codegen.step import KernelExecutable

            made: Runs = KernelExecutable(self.graph)
        else:
            from lowgrad.runtime.cpu.program import build

            made = build(self.graph, self.plan)
        self.pass_ms["executable"] = (time.perf_counter() - started) * 1e3
        return made

    def __repr__(self) -> str:
        final = self.graph
        return f"<Compiled {final.name}: {len(final.nodes)} nodes, {self.plan.peak_bytes} bytes>"


def _forward_only(graph: Graph, nodes: int) -> Graph:
    """What was recorded before the first backward; its outputs are the values nobody reads."""
    kept = graph.nodes[:nodes]
    used = {v for node in kept for v in node.inputs}
    made = [v for node in kept for v in node.outputs]
    results = {v for v in graph.outputs if v in set(made)}
    outputs = tuple(v for v in made if v in results or v not in used)
    return Graph(graph.inputs, kept, outputs, {}, graph.name)
