"""Measuring fairly: two sides take turns, and the ratio is of their medians in one run."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Comparison:
    """Seconds a call of each side: medians over the rounds, and their ratio ours / theirs."""

    ours_s: float
    theirs_s: float
    ratio: float
    rounds: int


def compare(
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    *,
    seconds: float,
    warmup: int = 3,
    least_rounds: int = 5,
) -> Comparison:
    """Time both in alternating rounds for about `seconds`, and at least so many rounds."""
    for _ in range(warmup):
        ours()
        theirs()
    repeats = _repeats(theirs)
    mine: list[float] = []
    other: list[float] = []
    end = time.perf_counter() + seconds
    while len(mine) < least_rounds or time.perf_counter() < end:
        mine.append(_timed(ours, repeats))
        other.append(_timed(theirs, repeats))
    a, b = statistics.median(mine), statistics.median(other)
    return Comparison(a, b, a / b, len(mine))


def _repeats(call: Callable[[], Any]) -> int:
    """How many calls make a round of about 20 ms."""
    return max(1, round(0.02 / max(_timed(call, 1), 1e-6)))


def _timed(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def fresh_process_s(code: str, *, runs: int = 5) -> float:
    """The median seconds that a new Python process prints after running `code`.

    A first run, not counted, writes the bytecode to a folder of its own, as an installation would:
    where `PYTHONDONTWRITEBYTECODE` is set each process would compile all sources again.
    """
    script = f"import time; t = time.perf_counter()\n{code}\nprint(time.perf_counter() - t)"
    times = []
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": folder}
        for _ in range(1 + runs):
            done = subprocess.run(
                [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env
            )
            times.append(float(done.stdout.split()[-1]))
    return statistics.median(times[1:])


@dataclass(frozen=True)
class Child:
    """What a step takes in a process of its own. peak_bytes: of memory, above the imports'."""

    peak_bytes: float
    losses: list[float]


def in_own_process(framework: str, program: str, steps: int) -> Child:
    """Run `steps` steps of `benchmarks.child`'s program there."""
    command = [sys.executable, "-m", "benchmarks.child", framework, program, str(steps)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Child(found["peak_bytes"], found["losses"])


def environment() -> dict[str, str]:
    """What the figures depend on: machine and versions."""
    found = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": _processor(),
    }
    for name in ("lowgrad", "numpy", "scipy", "ml_dtypes", "triton", "torch"):
        found[name] = version_of(name)
    return found


def version_of(package: str) -> str:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    except OSError:
        return platform.processor()
    return f"{len(names)} x {names[0]}" if names else platform.processor()
