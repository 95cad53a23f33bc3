"""From a recorded graph to something that runs: passes, plan, kernels, executable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from lowgrad import devices
from lowgrad.budget import Search
from lowgrad.errors import ArgumentError
from lowgrad.explain import Explanation, explain
from lowgrad.ir.graph import Graph
from lowgrad.passes.base import Pass
from lowgrad.passes.pipeline import lower
from lowgrad.passes.trades import Trades
from lowgrad.runtime.cuda import gpu as gpus
from lowgrad.runtime.memory import HOST

if TYPE_CHECKING:
    from lowgrad.codegen.facts import KernelFacts
    from lowgrad.codegen.lower import Launch
    from lowgrad.codegen.tiling import Tiling
    from lowgrad.runtime.memory import Machine, Plan

# What a step is planned for whose GPU is not there and not named.
DEFAULT_TARGET = "cuda:90"


class Runs(Protocol):
    """An executable: arrays in, arrays out; aliased inputs are updated in place."""

    def __call__(self, arrays: Sequence[Any]) -> list[Any]: ...


@dataclass(frozen=True)
class Options:
    """How to compile. `memory` is the budget of `plan.peak_bytes`, None for none.

    device: "cpu", "interpret", "cuda:0"; None, until a step is recorded, for where its tensors are.
    trades: what to trade for memory, instead of a search.
    """

    device: str | None = None
    target: str | None = None
    memory: int | None = None
    fuse: bool = True
    keep_grads: bool = False
    trades: Trades | None = None


@dataclass(frozen=True)
class Cost:
    """What one call moves and computes: bytes read and written, floating operations.

    kernels: those of the step as it reads, a loop's once. launches: how often one is started.
    """

    kernels: int
    launches: int
    bytes: int
    flops: int

    def __str__(self) -> str:
        return (
            f"{self.kernels} kernels, {self.launches} launches, "
            f"{self.bytes / 1e6:.2f} MB moved, {self.flops / 1e6:.2f} MFLOP"
        )


class Compiled:
    """A step, compiled for one signature. Kernels and executable are made when first asked for.

    graphs: {"trace": ..., pass: ...}, the graph as recorded and after each pass, in order.
    Raises OutOfMemory if no plan obeys the budget: before anything has run.
    """

    def __init__(self, graph: Graph, forward_nodes: int, options: Options) -> None:
        self.options = options
        self.pass_ms: dict[str, float] = {}
        self._clock = time.perf_counter()
        self.machine = machine_of(options)
        search = Search(graph, fuse=options.fuse, on_pass=self._note_pass, machine=self.machine)
        if options.trades is not None:
            self._chosen = search.candidate(options.trades)
        else:
            self._chosen = search.best(options.memory)
        self.graphs = {"trace": _forward_only(graph, forward_nodes), "autodiff": graph}
        self.graphs |= {n: g for n, g in self._chosen.graphs.items() if n != "trace"}

    def _note_pass(self, step: Pass, before: Graph, after: Graph) -> None:
        now = time.perf_counter()
        self.pass_ms[step.name] = (now - self._clock) * 1e3
        self._clock = now

    @property
    def graph(self) -> Graph:
        """The graph after the last pass: what is lowered and planned."""
        return self._chosen.graph

    @property
    def plan(self) -> Plan:
        """Where each buffer lies, the exact peak, and what was traded for it."""
        return self._chosen.described

    @property
    def kernels(self) -> tuple[Any, ...]:
        """The generated kernels, in launch order; those of a loop once."""
        return tuple(launch.kernel for launch in self.launches)

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """The generated kernels, and how often each is started."""
        from lowgrad.codegen.alike import alike
        from lowgrad.codegen.lower import launches

        return tuple(alike(launches(self.graph, self.tiling)))

    @property
    def tiling(self) -> Tiling:
        """The sizes of blocks that kernels are lowered with."""
        from lowgrad.codegen.cuda.machine import GpuMachine
        from lowgrad.codegen.tiling import DEFAULT

        return self.machine.tiling if isinstance(self.machine, GpuMachine) else DEFAULT

    @property
    def cost(self) -> Cost:
        """Kernels, launches, bytes and FLOPs of one call."""
        made = self.launches
        return Cost(
            len(made),
            sum(times for _, times in made),
            sum(times * (k.bytes_read + k.bytes_written) for k, times in made),
            sum(times * k.flops for k, times in made),
        )

    def explain(self) -> Explanation:
        """What was decided and refused: why, the bytes at stake and the line; then the trades."""
        steps = lower(self._chosen.trades, self.options.fuse)
        return explain(steps, self._chosen.graphs, self.plan.trades)

    def cross_compile(self, target: str | None = None) -> tuple[Any, ...]:
        """Each distinct kernel, compiled for `target` ("cuda:90", "hip:gfx942") without a GPU."""
        from lowgrad.codegen.step import cross_compile_kernels

        chosen = target or self.options.target
        if chosen is None:
            raise ArgumentError("cross_compile: no target given", fix='c.cross_compile("cuda:90")')
        return cross_compile_kernels(self.kernels, chosen)

    def kernel_facts(self, target: str | None = None) -> list[KernelFacts]:
        """Each launch, with what a compiler makes of it for `target`: registers, modelled time."""
        from lowgrad.codegen.facts import facts_of
        from lowgrad.codegen.step import distinct, identity

        binaries = self.cross_compile(target)
        made = {identity(k): b for k, b in zip(distinct(self.kernels), binaries, strict=True)}
        return [facts_of(kernel, times, made[identity(kernel)]) for kernel, times in self.launches]

    @cached_property
    def executable(self) -> Runs:
        """The program that runs the step on the chosen device."""
        started = time.perf_counter()
        if self.options.device == "interpret":
            from lowgrad.codegen.step import KernelExecutable

            made: Runs = KernelExecutable(self.graph)
        elif is_gpu(self.options.device):
            made = self._on_gpu()
        else:
            from lowgrad.runtime.cpu.program import build

            made = build(self.graph, self.plan)
        self.pass_ms["executable"] = (time.perf_counter() - started) * 1e3
        return made

    def _on_gpu(self) -> Runs:
        from lowgrad.codegen.cuda.executable import CudaExecutable
        from lowgrad.codegen.cuda.machine import GpuMachine

        gpu = devices.gpu_of(self.options.device)
        assert gpu is not None, "the device is a GPU"
        assert isinstance(self.machine, GpuMachine), "a GPU's step is planned for one"
        return CudaExecutable(self.graph, self.plan, self.machine, gpu)

    def __repr__(self) -> str:
        final = self.graph
        return f"<Compiled {final.name}: {len(final.nodes)} nodes, {self.plan.peak_bytes} bytes>"


def is_gpu(device: str | None) -> bool:
    """Whether a device's name is a GPU's."""
    return device is not None and device.startswith("cuda")


def machine_of(options: Options) -> Machine:
    """What a step with these options is planned for: its own GPU, `target`, or the CPU."""
    if not is_gpu(options.device):
        return HOST
    from lowgrad.codegen.cuda.machine import GpuMachine, tiling_for

    gpu = devices.gpu_of(options.device) if gpus.count() else None
    target = options.target if gpu is None else gpu.target
    return GpuMachine(tiling_for(target or DEFAULT_TARGET))


def _forward_only(graph: Graph, nodes: int) -> Graph:
    """What was recorded before the first backward; its outputs are the values nobody reads."""
    kept = graph.nodes[:nodes]
    used = {v for node in kept for v in node.inputs}
    made = [v for node in kept for v in node.outputs]
    results = {v for v in graph.outputs if v in set(made)}
    outputs = tuple(v for v in made if v in results or v not in used)
    return Graph(graph.inputs, kept, outputs, {}, graph.name)
