"""`lowgrad demo`: train, compare fused with unfused, check the kernels, write everything down."""

from __future__ import annotations

import copy
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import lowgrad
from lowgrad.compiler import Compiled
from lowgrad.demo.digits import Net, accuracy, batches, digits, training_step
from lowgrad.dump import dump
from lowgrad.errors import MissingDependencyError
from lowgrad.plots import overview
from lowgrad.runtime.memory import human


@dataclass
class Run:
    """One training: its losses, its times, its compiled step."""

    losses: list[float]
    step_ms: float
    first_call_ms: float
    compiled: Compiled


def demo(out: Path, epochs: int = 20, seed: int = 0) -> float:
    """Train, compare and write to `out`; return the test accuracy."""
    lowgrad.manual_seed(seed)
    training, test = digits(seed)
    net = Net()
    twin = copy.deepcopy(net)
    print(f"Digits: {len(training)} training and {len(test)} test images, 28 x 28; {epochs} epochs")
    fused = train(net, training, epochs, fuse=True, report=lambda: accuracy(net, test))
    unfused = train(twin, training, epochs, fuse=False)
    reached = accuracy(net, test)
    print(f"\nTest accuracy: {100 * reached:.1f} %\n")
    print(table(fused, unfused))
    print(f"\n{checked(fused.compiled)}\n")
    written(fused, unfused, out)
    return reached


def train(net: Any, training: Any, epochs: int, *, fuse: bool, report: Any = None) -> Run:
    """Train `net`; print a line an epoch if `report` gives the accuracy."""
    step = training_step(net, fuse=fuse)
    losses: list[float] = []
    times: list[float] = []
    for epoch in range(epochs):
        for images, labels in batches(training, epoch):
            start = time.perf_counter()
            loss = step(images, labels)
            times.append(time.perf_counter() - start)
            losses.append(loss.item())
        if report is not None and (epoch + 1) % max(epochs // 10, 1) == 0:
            mean = statistics.fmean(losses[-22:])
            bar = "#" * round(24 * (epoch + 1) / epochs)
            print(f"  epoch {epoch + 1:>3}  [{bar:<24}]  loss {mean:.4f}  test {report():.1%}")
    compiled = step.lower(images, labels)
    return Run(losses, statistics.median(times[1:]) * 1e3, times[0] * 1e3, compiled)


def table(fused: Run, unfused: Run) -> str:
    """Fused against unfused, as text."""
    a, b = fused.compiled, unfused.compiled
    rows = [
        ("kernels", a.cost.kernels, b.cost.kernels, "{:,}"),
        ("bytes moved a step", a.cost.bytes, b.cost.bytes, "{:,}"),
        ("arena bytes", a.plan.arena_bytes, b.plan.arena_bytes, "{:,}"),
        ("peak bytes", a.plan.peak_bytes, b.plan.peak_bytes, "{:,}"),
        ("step time on this CPU, ms", fused.step_ms, unfused.step_ms, "{:.3f}"),
        ("first call, ms", fused.first_call_ms, unfused.first_call_ms, "{:.1f}"),
    ]
    lines = [f"{'':<27}{'fused':>14}{'unfused':>14}{'ratio':>9}"]
    for name, x, y, form in rows:
        lines.append(f"{name:<27}{form.format(x):>14}{form.format(y):>14}{y / x:>8.2f}x")
    apart = float(np.abs(np.array(fused.losses) - np.array(unfused.losses)).max())
    lines.append(
        f"{'same loss curve':<27}largest difference in {len(fused.losses)} steps: {apart:.1e}"
    )
    return "\n".join(lines)


def checked(compiled: Compiled) -> str:
    """Run every kernel of the step on Triton's interpreter, against the reference."""
    try:
        from lowgrad.codegen.check import check_kernels

        count = check_kernels(compiled.graph)
    except MissingDependencyError as error:
        return f"Kernels were not checked: {error.message}"
    return (
        f"Kernels checked without a GPU: {count} of {count} equal the reference "
        "(bounds, races and masks watched)"
    )


def written(fused: Run, unfused: Run, out: Path) -> None:
    """Write the dumps and the picture, and say where."""
    folder = dump(fused.compiled, out / "fused")
    dump(unfused.compiled, out / "unfused")
    curves = {"fused": fused.losses, "unfused": unfused.losses}
    picture = overview(curves, fused.compiled.plan, out / "overview.png")
    print(f"IR after each pass  {folder}/*.ir")
    print(f"Triton kernels      {folder}/kernels/*.py")
    print(f"Memory plan         {folder}/memory.txt (peak {human(fused.compiled.plan.peak_bytes)})")
    print(f"Loss and memory     {picture}")
