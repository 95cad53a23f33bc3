"""What it takes to look inside a step: dumps, the report, the IR as text."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import transformers
from benchmarks.figure import Figure, Section
from benchmarks.programs import library


def looking(quick: bool) -> Section:
    """CPU seconds for GPT-2 124M, and the size of the small GPT's report."""
    import lowgrad
    from lowgrad import ir
    from lowgrad.dump import dump

    def lowered(size: transformers.GptSize) -> Any:
        program = transformers.gpt(library("lowgrad"), size)
        return lowgrad.compile(program.step, device="cuda", target="cuda:90").lower(*program.batch)

    large = lowered(transformers.TINY if quick else transformers.GPT2)
    small = lowered(transformers.TINY if quick else transformers.SMALL)
    graph = max(large.graphs.values(), key=lambda g: len(g.nodes))
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "step.html"
        figures = [
            Figure("all dumps of GPT-2 124M", _seconds(lambda: dump(large, folder)), "s", 5.0),
            Figure(
                f"print and parse {len(graph.nodes):,} nodes",
                _seconds(lambda: ir.parse(str(graph))),
                "s",
                1.0,
            ),
            Figure("report of GPT-2 124M", _seconds(lambda: large.report(page)), "s", 10.0),
            Figure("report of the small GPT", _size(small, page), "MB", 2.0),
        ]
    return Section("Looking inside", figures)


def _seconds(action: Callable[[], object]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start


def _size(compiled: Any, page: Path) -> float:
    return float(compiled.report(page).stat().st_size / 1e6)
