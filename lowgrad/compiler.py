"""From a recorded graph to something that runs: passes, plan, kernels, executable."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from lowgrad import devices, logs, matmul_precision, spans
from lowgrad.errors import ArgumentError, OutOfMemory
from lowgrad.ir.graph import Graph
from lowgrad.passes.base import Pass
from lowgrad.passes.trades import Trades
from lowgrad.runtime.cuda import gpu as gpus
from lowgrad.runtime.memory import HOST, human

if TYPE_CHECKING:
    from lowgrad.budget import Candidate
    from lowgrad.codegen.facts import KernelFacts
    from lowgrad.codegen.lower import Launch
    from lowgrad.codegen.tiling import Tiling
    from lowgrad.explain import Explanation
    from lowgrad.passes.decisions import Decision
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
    tune: measure blocks of products on the GPU, where it is.
    dump: a folder to write each recording to, LOWGRAD_DUMP's by default.
    check: compare each so many calls with the reference, 0 for none. nan: whether to refuse NaN.
    drift: record again each so many calls, 0 for never, and refuse a difference.
    """

    device: str | None = None
    target: str | None = None
    memory: int | None = None
    fuse: bool = True
    keep_grads: bool = False
    trades: Trades | None = None
    tune: bool = False
    dump: Path | None = None
    check: int = 0
    nan: bool = False
    drift: int = 0


@dataclass(frozen=True)
class Offer:
    """A budget, and what obeying it costs: shares of FLOPs and of bytes moved, on top.

    peak: in bytes; None if the budget cannot be obeyed. how: what is traded, or what would work.
    """

    budget: int
    peak: int | None
    flops: float
    bytes: float
    how: str

    def __str__(self) -> str:
        if self.peak is None:
            return f"{human(self.budget)}: not to be had; {self.how}"
        costs = f"{self.flops:+.1%} FLOPs, {self.bytes:+.1%} bytes moved"
        return f"{human(self.budget)}: {human(self.peak)} for {costs}"


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
        # The recordings of its function, with their reasons, as far as they are known.
        self.history: Sequence[Any] = ()
        # What reads the arrays of the call that this was lowered for, by position.
        self.given: Callable[[], dict[int, npt.NDArray[Any]]] | None = None
        self.machine = machine_of(options)
        self._chosen = self._searched(graph)
        if options.tune:
            # What products there are is known now; with other blocks, the plan is another one.
            self.machine = tuned_machine(self.machine, self.graph, options)
            self._chosen = self._searched(graph)
        self.graphs = {"trace": _forward_only(graph, forward_nodes), "autodiff": graph}
        self.graphs |= {n: g for n, g in self._chosen.graphs.items() if n != "trace"}
        self._log()

    def _searched(self, graph: Graph) -> Candidate:
        """The way to compile the step that obeys the budget and costs least."""
        from lowgrad.budget import Search  # all passes: not for who only imports lowgrad

        options = self.options
        search = Search(graph, fuse=options.fuse, on_pass=self._note_pass, machine=self.machine)
        if options.trades is not None:
            return search.candidate(options.trades)
        return search.best(options.memory)

    def _log(self) -> None:
        if logs.is_on("fusion"):
            for d in self._decisions():
                what = "made" if d.is_made else "refused"
                ops = " + ".join(d.ops)
                data = {"by": d.by, "ops": ops, "why": d.reason, "bytes": d.nbytes, "at": d.loc}
                logs.event("fusion", what, **data)
        if logs.is_on("memory"):
            plan = self.plan
            logs.event(
                *("memory", self.graph.name),
                peak=plan.peak_bytes,
                arena=plan.arena_bytes,
                lower_bound=plan.lower_bound_bytes,
                state=plan.state_bytes,
                budget=self.options.memory,
            )
            for trade in plan.trades:
                logs.event("memory", "traded", what_for=trade)

    def _note_pass(self, step: Pass, before: Graph, after: Graph, ms: float) -> None:
        # A search runs the last passes several times: what they took in all.
        self.pass_ms[step.name] = self.pass_ms.get(step.name, 0.0) + ms

    @property
    def graph(self) -> Graph:
        """The graph after the last pass: what is lowered and planned."""
        return self._chosen.graph

    @property
    def trades(self) -> Trades:
        """What was traded for memory."""
        return self._chosen.trades

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
        """What was decided and refused, and the bytes at stake; what holds the peak; the time."""
        from lowgrad.explain import Explanation, shares

        target = self.tiling.target or self.options.target or DEFAULT_TARGET
        return Explanation(
            self._decisions(),
            self.plan.trades,
            self.plan.arena_bytes,
            tuple(self.plan.holders()[1]),
            shares(self.launches, target),
        )

    def _decisions(self) -> tuple[Decision, ...]:
        from lowgrad.explain import decisions
        from lowgrad.passes.pipeline import lower

        return decisions(lower(self._chosen.trades, self.options.fuse), self._chosen.graphs)

    def budgets(self, parts: Sequence[float] = (0.9, 0.75, 0.5, 0.25)) -> list[Offer]:
        """What budgets of these parts of the peak would cost, or what the least one is."""
        found = []
        for part in parts:
            budget = int(self.plan.peak_bytes * part)
            try:
                other = Compiled(self.graphs["autodiff"], 0, replace(self.options, memory=budget))
            except OutOfMemory as error:
                found.append(Offer(budget, None, 0.0, 0.0, error.fix or ""))
                break
            cost, own = other.cost, self.cost
            found.append(
                Offer(
                    budget,
                    other.plan.peak_bytes,
                    cost.flops / max(own.flops, 1) - 1,
                    cost.bytes / max(own.bytes, 1) - 1,
                    "; ".join(other.plan.trades),
                )
            )
        return found

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

    def report(self, path: str | Path, *, arch: str | None = None) -> Path:
        """Write one HTML page about the step, which works offline; return its path.

        arch: also compile the kernels for this target, "cuda:90", and show registers and occupancy.
        On a GPU each kernel is measured as well, by itself, on numbers of its own.
        """
        from lowgrad.report import report

        return report(self, path, arch=arch)

    def measured_ms(self) -> list[float] | None:
        """Milliseconds of one launch of each kernel, measured on its GPU; None where it is not."""
        is_there = is_gpu(self.options.device) and gpus.count()
        gpu = devices.gpu_of(self.options.device) if is_there else None
        if gpu is None:
            return None
        from lowgrad.codegen.cuda.tune import milliseconds

        return [milliseconds([kernel], gpu) for kernel in self.kernels]

    def eject(self, path: str | Path, target: str | None = None) -> Path:
        """Write the step as one Python file that runs without lowgrad; return its path.

        target: the GPU that the kernels are for, "cuda:90", if the step is not planned for one.
        The file runs on the arrays of the call that this was lowered for, saved beside it as .npz.
        """
        from lowgrad.codegen.cuda.machine import GpuMachine
        from lowgrad.eject import eject

        arrays = self.given() if self.given is not None else {}
        planned = self
        if not isinstance(self.machine, GpuMachine):
            options = replace(self.options, device="cuda", target=target or self.options.target)
            planned = Compiled(self.graphs["autodiff"], 0, options)
        assert isinstance(planned.machine, GpuMachine), "planned for a GPU"
        return eject(path, planned.graph, planned.plan, planned.machine, arrays)

    @cached_property
    def executable(self) -> Runs:
        """The program that runs the step on the chosen device."""
        started = time.perf_counter()
        with spans.span("build", self.graph.name, device=self.options.device):
            made = self._runs(self.graph, self.plan)
        self.pass_ms["executable"] = (time.perf_counter() - started) * 1e3
        options = self.options
        if not (options.check or options.nan):
            return made
        from lowgrad.checked import Checked

        recorded = self.graphs["autodiff"]
        return Checked(
            made, recorded, self.graph, self._alone, every=options.check, nan=options.nan
        )

    def _alone(self, graph: Graph) -> Runs:
        """What runs one node of the step by itself."""
        from lowgrad.runtime.memory import plan

        return self._runs(graph, plan(graph, machine=self.machine))

    def _runs(self, graph: Graph, plan: Plan) -> Runs:
        """What runs a planned graph on the chosen device."""
        if self.options.device == "interpret":
            from lowgrad.codegen.step import KernelExecutable

            return KernelExecutable(graph)
        if not is_gpu(self.options.device):
            from lowgrad.runtime.cpu.program import build

            return build(graph, plan)
        from lowgrad.codegen.cuda.executable import CudaExecutable
        from lowgrad.codegen.cuda.machine import GpuMachine

        gpu = devices.gpu_of(self.options.device)
        assert gpu is not None, "the device is a GPU"
        assert isinstance(self.machine, GpuMachine), "a GPU's step is planned for one"
        return CudaExecutable(graph, plan, self.machine, gpu)

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
    return GpuMachine(tiling_for(target or DEFAULT_TARGET, matmul_precision.products()))


def tuned_machine(machine: Machine, graph: Graph, options: Options) -> Machine:
    """`machine` with measured blocks, if its GPU is here to measure on."""
    gpu = devices.gpu_of(options.device) if is_gpu(options.device) and gpus.count() else None
    if gpu is None:
        return machine
    from lowgrad.codegen.cuda.machine import GpuMachine
    from lowgrad.codegen.cuda.tune import tuned

    assert isinstance(machine, GpuMachine), "a GPU's step is planned for one"
    return GpuMachine(tuned(graph, machine.tiling, gpu))


def _forward_only(graph: Graph, nodes: int) -> Graph:
    """What was recorded before the first backward; its outputs are the values nobody reads."""
    kept = graph.nodes[:nodes]
    used = {v for node in kept for v in node.inputs}
    made = [v for node in kept for v in node.outputs]
    results = {v for v in graph.outputs if v in set(made)}
    outputs = tuple(v for v in made if v in results or v not in used)
    return Graph(graph.inputs, kept, outputs, {}, graph.name)
