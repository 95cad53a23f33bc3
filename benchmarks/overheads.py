"""What everything else waits for: the import, a small eager op, recording and compiling."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from typing import Any

from benchmarks import measure
from benchmarks.figure import Figure, Section


def overheads(quick: bool) -> Section:
    """The import, eager ops, and how compile time grows."""
    figures = [
        Figure(
            "import lowgrad",
            measure.fresh_process_s("import lowgrad", runs=1 if quick else 5),
            "s",
            0.3,
        ),
        *eager(200 if quick else 2000),
        *scaling(100 if quick else 2_500),
    ]
    return Section("Overheads", figures)


def eager(calls: int) -> list[Figure]:
    """Microseconds of a small eager op."""
    import lowgrad

    b, c = lowgrad.randn(8, 8), lowgrad.randn(8, 8)
    ops: dict[str, Callable[[], Any]] = {
        "b + c": lambda: b + c,
        "b * 2.0": lambda: b * 2.0,
        "exp(b)": lambda: lowgrad.exp(b),
        "b @ c": lambda: b @ c,
        "b.sum()": lambda: b.sum(),
        "b.reshape(64)": lambda: b.reshape(64),
        "relu(b)": lambda: lowgrad.relu(b),
    }
    return [Figure(f"eager {name}", _least_s(f, calls) * 1e6, "us", 15) for name, f in ops.items()]


def _least_s(call: Callable[[], Any], calls: int) -> float:
    return min(timeit.repeat(call, number=calls, repeat=5)) / calls


def scaling(nodes: int) -> list[Figure]:
    """Seconds to record and compile four times `nodes` nodes, and how that grows from `nodes`."""
    large = _compile_s(4 * nodes)
    return [
        Figure(f"record and compile {4 * nodes:,} nodes", large, "s", 5.0),
        Figure(f"growth from {nodes:,} nodes, per node", large / _compile_s(nodes) / 4, "x", 1.5),
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
