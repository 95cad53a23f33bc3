"""The project's own corpora on the device: tests of ops and runtime, small models, losses."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import lowgrad
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import ROOT, Bench
from benchmarks.gpu_parts.rivals import first_line
from benchmarks.gpu_parts.row import Row
from lowgrad.errors import DeviceFault

TESTS = ROOT / "tests"
# Of queries, keys and values: the keys' bias has no gradient, and Adam makes whole steps of what
# rounding leaves.
KEY_BIAS = (48,)
SAME_LOSS, SAME_STATE = 1e-4, 2e-3
MOST_NAMED = 12


# The test files ---------------------------------------------------------------------------------


def ops(bench: Bench) -> None:
    """tests/cuda, a row for each file; on the mock one test of it."""
    files = sorted((TESTS / "cuda").glob("test_*.py"))
    for file in [TESTS / "cuda" / "test_exchange.py"] if bench.is_tiny else files:
        bench.row(f"tests/cuda/{file.name}", lambda file=file: _pytest(bench, file))


def _pytest(bench: Bench, file: Path) -> Row:
    with tempfile.TemporaryDirectory(prefix="lowgrad-pytest-") as folder:
        report = Path(folder) / "report.xml"
        # Warnings of other versions are no matter here, and pytest-timeout may be absent.
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]
        command += ["-W", "default::pytest.PytestConfigWarning", f"--junitxml={report}"]
        if importlib.util.find_spec("xdist") is not None and not bench.is_tiny:
            command += ["-n", "8"]
        if bench.is_tiny:
            command += ["-k", "capsule"]
        environment = os.environ | ({} if bench.is_tiny else {"LOWGRAD_TEST_GPU": "1"})
        done = subprocess.run(
            [*command, str(file)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            env=environment,
            timeout=max(bench.left_s() - 5, 1),
        )
        if not report.exists():
            raise RuntimeError(
                f"pytest, exit code {done.returncode}: {(done.stdout + done.stderr)[-600:]}"
            )
        return _row_of(f"tests/cuda/{file.name}", report)


def _row_of(name: str, report: Path) -> Row:
    """The row of a JUnit report."""
    failed, passed, skipped = [], 0, 0
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed.append(case.get("name", "?"))
        elif "skipped" in kinds:
            skipped += 1
        else:
            passed += 1
    figures = (
        Figure("failed", len(failed), "tests", 0),
        Figure("passed", passed, "tests", 1, at_least=True),
        Figure("skipped", skipped, "tests"),
    )
    return Row(name, figures=figures, note=_named(failed))


def _named(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


# Models -----------------------------------------------------------------------------------------


def models(bench: Bench) -> None:
    """Three compiled steps of each of tests/models.py, against the CPU's."""
    _tests_on_path()
    known = import_module("models").MODELS
    for name in sorted(known)[:1] if bench.is_tiny else sorted(known):
        for fuse in [True] if bench.is_tiny else [True, False]:
            label = f"{name}, {'fused' if fuse else 'unfused'}"
            make = known[name]
            bench.row(
                label,
                lambda label=label, make=make, fuse=fuse: _model(bench, label, make, fuse),
            )


def _model(bench: Bench, label: str, make: Callable[[], Any], fuse: bool) -> Row:
    losses, state = _trained(make, "cpu", fuse)
    got_losses, got = _trained(make, bench.device, fuse)
    worst = max(
        (_distance(a, b) for a, b in zip(got, state, strict=True)),
        default=0.0,
    )
    off = max(abs(a - b) / abs(b) for a, b in zip(got_losses, losses, strict=True))
    figures = (
        Figure("losses of three steps against the CPU", _real(off), "relative", SAME_LOSS),
        Figure("state after them against the CPU", _real(worst), "of the norm", SAME_STATE),
    )
    return Row(label, figures=figures)


def _trained(make: Callable[[], Any], device: str, fuse: bool) -> tuple[list[float], list[Any]]:
    from lowgrad.signature import walk

    lowgrad.manual_seed(11)
    step, batch = make()
    for tensor in walk(step, (), {}).tensors:
        tensor.data = tensor.data.to(device)
    run = lowgrad.compile(step, fuse=fuse)
    losses = [run(*(x.to(device) for x in batch)).item() for _ in range(3)]
    return losses, [t.detach().cpu().numpy() for t in walk(step, (), {}).tensors]


def _distance(got: Any, want: Any) -> float:
    if want.shape == KEY_BIAS:
        got, want = (x.reshape(3, -1)[::2] for x in (got, want))
    got, want = (np.asarray(x, np.float64) for x in (got, want))
    return float(np.linalg.norm(got - want) / max(np.linalg.norm(want), 1e-2))


def _real(value: float) -> float:
    """NaN is no agreement."""
    return value if value == value else float("inf")


# Losses -----------------------------------------------------------------------------------------


@dataclass
class _Count:
    """What came out of many comparisons."""

    right: int = 0
    wrong: list[str] = field(default_factory=list)
    missed: int = 0

    def row(self, name: str) -> Row:
        figures = (
            Figure("wrong", len(self.wrong), "losses", 0),
            Figure("right", self.right, "losses", 1, at_least=True),
            Figure("not reached in time", self.missed, "losses", 0),
        )
        return Row(name, figures=figures, note=_named(self.wrong))


def losses(bench: Bench) -> None:
    """Each of tests/losses, compiled on the device, against PyTorch's in float64 on the CPU.

    Then those that a loop over rows can serve, without the memory for their logits.
    """
    _tests_on_path()
    for name in ["batches", "classification", "distributions", "heads", "regression", "rewards"]:
        import_module(f"losses.{name}")
    corpus = import_module("losses.loss")
    known = list(corpus.LOSSES.values())
    if bench.is_tiny:
        known = [loss for loss in known if loss.name == "cross_entropy"]
    half = bench.left_s() / 2 - 10
    end = time.monotonic() + half
    bench.row(
        "all losses",
        lambda: _compared(bench, "all losses", known, corpus.SMALL, end, is_tight=False),
    )
    if not bench.is_tiny:
        chunked = [loss for loss in known if loss.chunked]
        name = "losses without room for their logits"
        end = bench.end - 15
        bench.row(
            name, lambda: _compared(bench, name, chunked, corpus.MANY_ROWS, end, is_tight=True)
        )


def _compared(
    bench: Bench, name: str, known: Iterable[Any], size: Any, end: float, *, is_tight: bool
) -> Row:
    count = _Count()
    for loss in known:
        if time.monotonic() > end:
            count.missed += 1
            continue
        try:
            worst = _loss_error(bench, loss, size, is_tight=is_tight)
        except DeviceFault:
            raise
        except Exception as error:
            count.wrong.append(f"{loss.name} ({first_line(error)})")
            continue
        allowed = import_module("losses.compare").RELATIVE
        if worst <= allowed:
            count.right += 1
        else:
            count.wrong.append(f"{loss.name} (off by {worst:.1g})")
    return count.row(name)


def _loss_error(bench: Bench, loss: Any, size: Any, *, is_tight: bool) -> float:
    """The largest distance of value and gradients, relative to their norms."""
    ways, compare = import_module("losses.ways"), import_module("losses.compare")
    step, arguments = ways.step_of(loss, size, "float32")
    moved = [
        a.detach().to(bench.device).requires_grad_() if a.requires_grad else a.to(bench.device)
        for a in arguments
    ]
    lowgrad.manual_seed(ways.SEED)
    memory = ways.budget_bytes(loss, size) if is_tight else None
    got = lowgrad.compile(step, device=bench.device, memory=memory)(*moved)
    results = ways._results(loss, size, [r if r is None else r.detach().cpu() for r in got])
    want = ways.expected(loss, size)
    assert results.keys() == want.keys(), f"{sorted(results)} is not {sorted(want)}"
    return max(_real(compare.error(results[k], want[k]) / compare.norm(want[k])) for k in want)


def _tests_on_path() -> None:
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
