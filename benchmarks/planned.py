"""GPT-2 124M, one whole training step, planned and never run: memory, kernels, traffic, budgets.

Batch 4 x 1024, vocabulary 50,304, tied head, float32. Nothing is executed, so it needs neither the
memory nor a GPU.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import transformers
from benchmarks.figure import Figure, Grid, Section
from benchmarks.programs import library
from lowgrad.codegen.step import distinct

OPTIMIZERS = ("SGD", "AdamW")
GB = 1e9


@dataclass(frozen=True)
class Planned:
    """What is known of a step before it runs. arena_bytes: without parameters and moments."""

    arena_bytes: int
    state_bytes: int
    peak_bytes: int
    lower_bound_bytes: int
    kernels: int
    distinct_kernels: int
    moved_bytes: int
    flops: int
    compile_s: float


# The same step, measured once; they are not measured again here.
RIVALS = {
    "tinygrad": {"arena": "5.9 GB", "kernels": "488", "moved": "54 GB", "compile": "10 s"},
    "JAX": {"arena": "13.1 GB", "moved": "92 GB"},
}
ARENA_BYTES = 2.3 * GB
OVER_LOWER_BOUND = 1.01
KERNELS = 290
DISTINCT_KERNELS = 50
MOVED_BYTES = 25 * GB
COMPILE_S = 3.0

# Budgets, as shares of the default peak above the state, with how many % more FLOPs each may cost.
BUDGETS = {0.8: 5.0, 0.6: 20.0, 0.5: 35.0}


def planned(quick: bool) -> Section:
    """The figures of both optimizers, side by side with the rivals'."""
    size = transformers.TINY if quick else transformers.GPT2
    runs = 1 if quick else 3
    found = {name: plan_step(name, size, runs=runs) for name in OPTIMIZERS}
    figures = [f for name, p in found.items() for f in _figures(name, p)]
    data = {"arena_bytes": {name: p.arena_bytes for name, p in found.items()}}
    return Section(
        "GPT-2 124M, one step of 4 x 1024 tokens, planned", figures, _against_rivals(found), data
    )


def plan_step(
    optimizer: str, size: transformers.GptSize, *, runs: int = 1, memory: int | None = None
) -> Planned:
    """Compile the step as far as kernels and a plan go; the time is the median of `runs`."""
    import lowgrad

    program = transformers.gpt(library("lowgrad"), size, optimizer)
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        compiled = lowgrad.compile(program.step, memory=memory).lower(*program.batch)
        plan = compiled.plan
        times.append(time.perf_counter() - start)
    cost = compiled.cost
    return Planned(
        arena_bytes=plan.arena_bytes,
        state_bytes=plan.state_bytes,
        peak_bytes=plan.peak_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        kernels=cost.kernels,
        distinct_kernels=len(distinct(compiled.kernels)),
        moved_bytes=cost.bytes,
        flops=cost.flops,
        compile_s=statistics.median(times),
    )


def _figures(name: str, p: Planned) -> list[Figure]:
    over = p.arena_bytes / max(p.lower_bound_bytes, 1)
    return [
        Figure(f"{name}: arena", p.arena_bytes / GB, "GB", ARENA_BYTES / GB),
        Figure(f"{name}: arena / lower bound", over, "x", OVER_LOWER_BOUND),
        Figure(f"{name}: parameters and moments", p.state_bytes / GB, "GB"),
        Figure(f"{name}: kernels", p.kernels, "", KERNELS),
        Figure(f"{name}: distinct kernels", p.distinct_kernels, "", DISTINCT_KERNELS),
        Figure(f"{name}: bytes moved", p.moved_bytes / GB, "GB", MOVED_BYTES / GB),
        Figure(f"{name}: FLOPs", p.flops / 1e12, "TFLOP"),
        Figure(f"{name}: recorded, differentiated, fused, planned", p.compile_s, "s", COMPILE_S),
    ]


def _against_rivals(found: dict[str, Planned]) -> Grid:
    ours = {
        f"lowgrad, {name}": {
            "arena": f"{p.arena_bytes / GB:.2f} GB",
            "kernels": f"{p.kernels}",
            "moved": f"{p.moved_bytes / GB:.1f} GB",
            "compile": f"{p.compile_s:.1f} s",
        }
        for name, p in found.items()
    }
    columns = ("", "memory besides the state", "kernels", "traffic", "compile")
    whose = {**ours, **RIVALS}
    rows: Sequence[Sequence[str]] = [
        (name, *(facts.get(key, "-") for key in ("arena", "kernels", "moved", "compile")))
        for name, facts in whose.items()
    ]
    return Grid(columns, rows)


# Budgets -----------------------------------------------------------------------------------------


def budgets(quick: bool) -> Section:
    """The same step with less and less memory: what it then costs, or what it refuses."""
    size = transformers.TINY if quick else transformers.GPT2
    default = plan_step("SGD", size)
    figures: list[Figure] = []
    rows = []
    for share, more_flops in BUDGETS.items():
        above = default.peak_bytes - default.state_bytes
        budget = default.state_bytes + int(share * above)
        found = within(budget, size)
        made, row = _budget(f"{share:.0%} of the default", budget, more_flops, default, found)
        figures += made
        rows.append(row)
    columns = ("memory above the state", "budget GB", "peak GB", "more FLOPs", "compile s")
    return Section("GPT-2 124M under a budget, SGD", figures, Grid(columns, rows))


@dataclass(frozen=True)
class Refused:
    """The step does not fit: the least peak that was reached."""

    reached_bytes: int


def within(budget: int, size: transformers.GptSize) -> Planned | Refused:
    """The plan under a budget, or its refusal."""
    from lowgrad import OutOfMemory

    try:
        return plan_step("SGD", size, memory=budget)
    except OutOfMemory as error:
        said = re.search(r"needs (\d+) bytes", error.message)
        if said is None:
            raise  # a refusal names what it would take
        return Refused(int(said[1]))


def _budget(
    name: str, budget: int, more_flops: float, default: Planned, found: Planned | Refused
) -> tuple[list[Figure], list[str]]:
    """Figures, and a row of the grid. A refusal misses no bound, but shows how far off it is."""
    given = f"{budget / GB:.3f}"
    if isinstance(found, Refused):
        over = Figure(f"{name}: refused, least peak / budget", found.reached_bytes / budget, "x")
        return [over], [name, given, f"refused; least {found.reached_bytes / GB:.3f}", "-", "-"]
    flops = 100.0 * (found.flops / default.flops - 1.0)
    figures = [
        Figure(f"{name}: peak / budget", found.peak_bytes / budget, "x", 1.0),
        Figure(f"{name}: more FLOPs", flops, "%", more_flops),
        Figure(f"{name}: compile", found.compile_s, "s"),
    ]
    row = [name, given, f"{found.peak_bytes / GB:.3f}", f"{flops:.1f} %", f"{found.compile_s:.1f}"]
    return figures, row
