"""`lowgrad.profiler`: where the time goes, with `torch.profiler`'s names.

with lowgrad.profiler.profile() as prof:
    step(x, y)
prof.export_chrome_trace("trace.json")

A trace shows recording, each pass, planning, the compiling of kernels, and every call of a step.
On a GPU a call's span ends when its kernels have run.
"""

from __future__ import annotations

import json
import statistics
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowgrad import spans
from lowgrad.errors import ArgumentError

__all__ = ["Average", "Averages", "profile", "record_function"]


@dataclass(frozen=True)
class Average:
    """All spans of one name: how many, and their times in microseconds."""

    key: str
    kind: str
    count: int
    total_us: float
    median_us: float


class Averages(list[Average]):
    """The averages of a profile, longest first."""

    def table(self, row_limit: int = 100) -> str:
        """As aligned text."""
        rows = [("name", "kind", "calls", "total ms", "median ms")]
        rows += [
            (a.key, a.kind, str(a.count), f"{a.total_us / 1e3:.3f}", f"{a.median_us / 1e3:.3f}")
            for a in self[:row_limit]
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            words = [cell.ljust(w) for cell, w in zip(row[:2], widths[:2], strict=True)]
            numbers = [cell.rjust(w) for cell, w in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join((*words, *numbers)).rstrip())
        return "\n".join(lines)


class profile:  # noqa: N801  (PyTorch's name)
    """Collects what happens inside the `with`. Other arguments of PyTorch's are taken and ignored.

    Raises ArgumentError where results are asked for before the end.
    """

    def __init__(self, **_: Any) -> None:
        self._collector: spans.Collector | None = None
        self._is_over = False

    def __enter__(self) -> profile:
        self._collector = spans.Collector()
        spans.collectors.append(self._collector)
        return self

    def __exit__(self, *error: Any) -> None:
        assert self._collector is not None, "it was entered"
        spans.collectors.remove(self._collector)
        self._is_over = True

    def events(self) -> list[dict[str, Any]]:
        """Chrome's events."""
        return self._collected().events()

    def export_chrome_trace(self, path: str | Path) -> None:
        """Write a trace that https://ui.perfetto.dev and speedscope open."""
        text = json.dumps({"traceEvents": self.events(), "displayTimeUnit": "ms"})
        Path(path).write_text(text, encoding="utf-8")

    def key_averages(self) -> Averages:
        """All spans by name."""
        by_key: dict[tuple[str, str], list[float]] = {}
        for span in self._collected().spans:
            by_key.setdefault((span.name, span.kind), []).append((span.end - span.start) / 1e3)
        made = [
            Average(name, kind, len(times), sum(times), statistics.median(times))
            for (name, kind), times in by_key.items()
        ]
        return Averages(sorted(made, key=lambda a: -a.total_us))

    def _collected(self) -> spans.Collector:
        if self._collector is None or not self._is_over:
            raise ArgumentError(
                "profile: it is not over, so there are no results yet",
                fix="with lowgrad.profiler.profile() as prof: ...",
            )
        return self._collector


def record_function(name: str) -> AbstractContextManager[None]:
    """A span of the program's own in the trace."""
    return spans.span("user", name)
