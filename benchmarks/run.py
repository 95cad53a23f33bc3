"""Every figure of the CPU path in one run: `python benchmarks/run.py [--quick] [--only NAME]`.

Prints a table, and writes benchmarks/results/cpu.json with the machine and the versions. Ratios
are lowgrad's time over PyTorch eager's, both measured here in alternating rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import measure
import programs

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Figure:
    """One measured number and the bound it should keep."""

    name: str
    value: float
    unit: str
    bound: float | None = None
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the bound is kept."""
        if self.bound is None:
            return True
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def both(make: Callable[[Any], programs.Program]) -> tuple[programs.Program, programs.Program]:
    """The program for lowgrad and for PyTorch, from the same weights."""
    torch_lib, own_lib = programs.library("torch"), programs.library("lowgrad")
    theirs, ours = make(torch_lib), make(own_lib)
    programs.copy_weights(theirs.model, ours.model, own_lib)
    return ours, theirs


def step_ratio(name: str, make: Callable[[Any], Any], bound: float, seconds: float) -> list[Figure]:
    """The compiled step's time over PyTorch eager's; the losses of the first step must agree."""
    import lowgrad

    ours, theirs = both(make)
    compiled = lowgrad.compile(ours.step)
    start = time.perf_counter()
    first = float(compiled(*ours.batch))
    first_s = time.perf_counter() - start
    expected = float(theirs.step(*theirs.batch))
    assert abs(first - expected) <= 1e-3 * abs(expected), f"{name}: {first} and {expected}"
    found = measure.compare(
        lambda: compiled(*ours.batch), lambda: theirs.step(*theirs.batch), seconds=seconds
    )
    return [
        Figure(f"{name}: compiled / PyTorch eager", found.ratio, "x", bound),
        Figure(f"{name}: compiled step", found.ours_s * 1e3, "ms"),
        Figure(f"{name}: PyTorch eager step", found.theirs_s * 1e3, "ms"),
        Figure(f"{name}: first call", first_s, "s", 0.5 if name == "tutorial net" else None),
    ]


def fused_against_unfused(
    name: str, make: Callable[[Any], Any], kernels: float | None, moved: float
) -> list[Figure]:
    """How many times fewer kernels and bytes the fused step has."""
    import lowgrad

    program = make(programs.library("lowgrad"))
    fused = lowgrad.compile(program.step).lower(*program.batch)
    unfused = lowgrad.compile(program.step, fuse=False).lower(*program.batch)
    a, b = fused.cost, unfused.cost
    return [
        Figure(f"{name}: unfused / fused kernels", b.kernels / a.kernels, "x", kernels, True),
        Figure(f"{name}: unfused / fused bytes moved", b.bytes / a.bytes, "x", moved, True),
        Figure(f"{name}: kernels, fused", a.kernels, ""),
        Figure(f"{name}: kernels, unfused", b.kernels, ""),
        Figure(
            f"{name}: unfused / fused arena",
            unfused.plan.arena_bytes / max(fused.plan.arena_bytes, 1),
            "x",
        ),
        Figure(f"{name}: peak, fused", fused.plan.peak_bytes / 2**20, "MiB"),
    ]


def imports() -> list[Figure]:
    """Seconds that `import lowgrad` takes in a fresh process."""
    return [Figure("import lowgrad", measure.fresh_process_s("import lowgrad"), "s", 0.3)]


def eager() -> list[Figure]:
    """Microseconds of a small eager op."""
    import lowgrad

    b, c = lowgrad.randn(8, 8), lowgrad.randn(8, 8)
    calls: dict[str, Callable[[], Any]] = {
        "b + c": lambda: b + c,
        "b * 2.0": lambda: b * 2.0,
        "exp(b)": lambda: lowgrad.exp(b),
        "b @ c": lambda: b @ c,
        "b.sum()": lambda: b.sum(),
        "b.reshape(64)": lambda: b.reshape(64),
        "relu(b)": lambda: lowgrad.relu(b),
    }
    return [
        Figure(f"eager {name}", min(timeit.repeat(f, number=2000, repeat=5)) / 2000 * 1e6, "us", 15)
        for name, f in calls.items()
    ]


def scaling() -> list[Figure]:
    """Seconds to record and compile a chain of about 10,000 nodes, and growth from 2,500."""
    return [
        Figure("record and compile 10,000 nodes", large := _compile_s(10_000), "s", 5.0),
        Figure("growth from 2,500 nodes, per node", large / _compile_s(2_500) / 4, "x", 1.5),
    ]


def _compile_s(nodes: int) -> float:
    import lowgrad

    x = lowgrad.randn(16, 16)
    w = lowgrad.randn(16, 16)

    def chain(x: Any, w: Any) -> Any:
        for _ in range(nodes // 5):
            x = lowgrad.tanh(x @ w + x) * 0.5 + 0.1
        return x

    start = time.perf_counter()
    lowgrad.compile(chain).lower(x, w).plan  # noqa: B018
    return time.perf_counter() - start


def sections(quick: bool) -> dict[str, Callable[[], list[Figure]]]:
    """What can be measured, by name."""
    short, long = (1.0, 4.0) if quick else (5.0, 20.0)
    return {
        "imports": imports,
        "eager": eager,
        "tutorial": lambda: step_ratio("tutorial net", programs.tutorial_net, 1.0, short),
        "wide": lambda: step_ratio("wide net", programs.wide_net, 1.15, long),
        "gpt": lambda: step_ratio("GPT", programs.gpt, 2.5, long),
        "fusion": lambda: (
            fused_against_unfused("tutorial net", programs.tutorial_net, 3.0, 2.0)
            + fused_against_unfused("GPT", programs.gpt, None, 2.0)
        ),
        "scaling": scaling,
    }


def show(figures: list[Figure]) -> None:
    """The figures as a table."""
    for f in figures:
        sign = ">=" if f.at_least else "<="
        bound = "" if f.bound is None else f"{sign} {f.bound:g} {'ok' if f.holds else 'MISSED'}"
        print(f"{f.name:<44}{f.value:>12.4g} {f.unit:<4} {bound}", flush=True)


def main() -> int:
    """Measure, print, write; 1 if a bound is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="shorter rounds, noisier ratios")
    parser.add_argument("--only", action="append", help="one section; may be given again")
    args = parser.parse_args()
    figures: list[Figure] = []
    for name, measured in sections(args.quick).items():
        if args.only is None or name in args.only:
            found = measured()
            show(found)
            figures += found
    if args.only is None:
        RESULTS.mkdir(exist_ok=True)
        record = {
            "environment": measure.environment(),
            "figures": {f.name: {"value": f.value, "unit": f.unit} for f in figures},
        }
        (RESULTS / "cpu.json").write_text(json.dumps(record, indent=2) + "\n")
    return 0 if all(f.holds for f in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
