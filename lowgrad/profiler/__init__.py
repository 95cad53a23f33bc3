"""`lowgrad.profiler`: where the time goes, with `torch.profiler`'s names.

with lowgrad.profiler.profile() as prof:
    step(x, y)
prof.export_chrome_trace("trace.json")

A trace shows recording, each pass, planning, the compiling of kernels, and every call of a step.
On a GPU a call's span ends when its kernels have run.
"""

from __future__ import annotations

import enum
import json
import statistics
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowgrad import spans
from lowgrad.errors import ArgumentError

__all__ = ["Average", "Averages", "ProfilerActivity", "profile", "record_function"]


@dataclass(frozen=True)
class Average:
    """All spans of one name: how many, and their times in microseconds."""

    key: str
    kind: str
    count: int
    total_us: float
    median_us: float


_ORDERS: dict[str, Callable[[Average], float]] = {
    "total": lambda a: a.total_us,
    "median": lambda a: a.median_us,
    "count": lambda a: a.count,
}


class Averages(list[Average]):
    """The averages of a profile, longest first."""

    def table(self, sort_by: str | None = None, row_limit: int = 100) -> str:
        """As aligned text.

        sort_by: "total", "median" or "count", largest first; of PyTorch's names, those of times in
        all are the total.
        Raises ArgumentError for another one.
        """
        chosen = sort_by or "total"
        key = "total" if chosen.endswith(("_time_total", "_time")) else chosen
        if key not in _ORDERS:
            raise ArgumentError(f"table: sort_by={sort_by!r}; it is one of {', '.join(_ORDERS)}")
        ranked = sorted(self, key=_ORDERS[key], reverse=True)
        rows = [("name", "kind", "calls", "total ms", "median ms")]
        rows += [
            (a.key, a.kind, str(a.count), f"{a.total_us / 1e3:.3f}", f"{a.median_us / 1e3:.3f}")
            for a in ranked[:row_limit]
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            words = [cell.ljust(w) for cell, w in zip(row[:2], widths[:2], strict=True)]
            numbers = [cell.rjust(w) for cell, w in zip(row[2:], widths[2:], strict=True)]
            lines.append("  ".join((*words, *numbers)).rstrip())
        return "\n".join(lines)


class ProfilerActivity(enum.Enum):
    """What PyTorch's profiler can be told to look at. Here all of it is always seen."""

    CPU = "cpu"
    CUDA = "cuda"


class profile:  # noqa: N801  (PyTorch's name)
    """Collects what happens inside the `with`, or from `start` to `stop`.

    on_trace_ready: called with the profile at the end. activities and PyTorch's other arguments are
    taken and ignored: what there is, is seen.
    Raises ArgumentError where results are asked for before the end.
    """

    def __init__(
        self,
        *,
        activities: Iterable[ProfilerActivity] | None = None,
        on_trace_ready: Callable[[profile], Any] | None = None,
        **_: Any,
    ) -> None:
        self._on_trace_ready = on_trace_ready
        self._collector: spans.Collector | None = None
        self._is_over = False

    def start(self) -> None:
        """Begin to collect."""
        self._collector = spans.Collector()
        self._is_over = False
        spans.collectors.append(self._collector)

    def stop(self) -> None:
        """End it."""
        assert self._collector is not None, "it was started"
        spans.collectors.remove(self._collector)
        self._is_over = True
        if self._on_trace_ready is not None:
            self._on_trace_ready(self)

    def step(self) -> None:
        """Say that an iteration is over; it changes nothing, as all of them are seen."""

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

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
