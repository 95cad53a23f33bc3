"""The host's share: time until a compiled step returns, and the first call of GPT-2's step."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from typing import Any

import lowgrad
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import ROOT, Bench
from benchmarks.gpu_parts.rivals import STEPS, first_line
from benchmarks.gpu_parts.row import OURS, Row, Side
from benchmarks.gpu_parts.training import TINIEST, gpt2, gpt_step, program, small
from benchmarks.transformers import SMALL

MOST_US, COLD_S, WARM_S = 20.0, 30.0, 3.0


def step(bench: Bench) -> None:
    """Microseconds of Python for each call of a compiled step."""
    makers = dict(small(bench.is_tiny))
    for name, make in makers.items():

        def build(lib: Any, device: str, make: Callable[[Any], Any] = make) -> Any:
            made = program(lib, make, device)
            return made.step, made.batch

        label = f"host time, {name}"
        bench.row(label, lambda label=label, build=build: _host(bench, label, build))
    size = TINIEST if bench.is_tiny else SMALL

    def gpt(lib: Any, device: str) -> Any:
        made = gpt_step(lib, size, device)
        return made.eager, made.batch

    bench.row("host time, small GPT", lambda: _host(bench, "host time, small GPT", gpt))


def _host(bench: Bench, label: str, build: Callable[[Any, str], Any]) -> Row:
    plain, batch = build(bench.own, bench.device)
    ours = lowgrad.compile(plain, device=bench.device)
    calls = 3 if bench.is_tiny else 300
    microseconds = bench.clock.host_us(lambda: ours(*batch), calls=calls)
    figures = [Figure("host time of a call", microseconds, "us", MOST_US)]
    sides = {OURS: Side(microseconds * 1e-3, note="host time")}
    if bench.torch is not None:
        torch, theirs = bench.torch, bench.theirs
        for name in ("eager", "compile"):
            try:
                made, data = build(theirs, torch.device)
                note = ""
                if name == "compile":
                    made, note = torch.compiled(
                        made,
                        lambda f, data=data: f(*data),
                        modes=STEPS,
                        limit_s=min(90.0, bench.left_s() / 3),
                    )
                us = bench.clock.host_us(lambda made=made, data=data: made(*data), calls=calls)
                sides[name] = Side(us * 1e-3, note=note)
            except Exception as error:
                sides[name] = Side(note=first_line(error))
    return Row(label, sides, figures=tuple(figures), note=bench.no_torch)


def first_call(bench: Bench) -> None:
    """GPT-2's step in a fresh process: with nothing compiled yet, then again."""
    batch = 2 if bench.is_tiny else 8
    assert gpt2(bench.is_tiny, batch).batch == batch, "the child makes the same"

    def measure(library: str) -> Row:
        with tempfile.TemporaryDirectory(prefix="lowgrad-first-call-") as folder:
            runs = [in_fresh_process(bench, library, batch, folder) for _ in range(2)]
        bounds = (COLD_S, WARM_S) if library == OURS else (None, None)
        figures = []
        for run, name, bound in zip(runs, ("cold", "warm"), bounds, strict=True):
            figures.append(Figure(f"first call, {name} cache", run["first_call_s"], "s", bound))
            figures.append(Figure(f"import, {name}", run["import_s"], "s"))
        return Row(f"first call, {library}", figures=tuple(figures))

    bench.row(f"first call, {OURS}", lambda: measure(OURS))
    if bench.torch is not None:
        bench.row("first call, torch", lambda: measure("torch"))


def in_fresh_process(bench: Bench, library: str, batch: int, folder: str) -> dict[str, float]:
    """What `first_call` prints there. Raises RuntimeError with the end of its errors."""
    torch = bench.torch.device if bench.torch is not None else "cuda"
    backend = bench.torch.backend if bench.torch is not None else "inductor"
    device = bench.device if library == OURS else torch
    names = ("LOWGRAD_CACHE", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    environment = os.environ | {name: os.path.join(folder, name.lower()) for name in names}
    size = "tiny" if bench.is_tiny else "full"
    command = [*bench.python, "-m", "benchmarks.gpu_parts.first_call"]
    done = subprocess.run(
        [*command, library, device, backend, size, str(batch)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=environment,
        timeout=max(bench.left_s() - 5, 1),
    )
    if done.returncode != 0:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip()[-600:]}")
    return json.loads(done.stdout.splitlines()[-1])
