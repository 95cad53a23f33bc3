"""How long parts of lowgrad take: spans that nest, collected while somebody asks for them.

The format that they are written in is Chrome's ("Trace Event Format", Google), which Perfetto and
speedscope read.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Span:
    """One stretch of time, in nanoseconds of `time.perf_counter_ns`."""

    name: str
    kind: str
    start: int
    end: int
    thread: int
    data: dict[str, Any]


@dataclass
class Collector:
    """The spans of a stretch of the program."""

    started: int = field(default_factory=time.perf_counter_ns)
    spans: list[Span] = field(default_factory=list)

    def events(self) -> list[dict[str, Any]]:
        """The spans as Chrome's complete events: microseconds since the start."""
        process = os.getpid()
        return [
            {
                "name": span.name,
                "cat": span.kind,
                "ph": "X",
                "ts": (span.start - self.started) / 1e3,
                "dur": (span.end - span.start) / 1e3,
                "pid": process,
                "tid": span.thread,
                "args": {name: _plain(value) for name, value in span.data.items()},
            }
            for span in sorted(self.spans, key=lambda s: (s.start, -s.end))
        ]


# Those who collect at present: profiles may nest.
collectors: list[Collector] = []
_nothing: AbstractContextManager[None] = contextlib.nullcontext()


def span(kind: str, name: str, **data: Any) -> AbstractContextManager[None]:
    """Time what is inside, for all who collect. Nearly free if nobody does."""
    return _timed(kind, name, data) if collectors else _nothing


@contextlib.contextmanager
def _timed(kind: str, name: str, data: dict[str, Any]) -> Iterator[None]:
    start = time.perf_counter_ns()
    try:
        yield
    finally:
        made = Span(name, kind, start, time.perf_counter_ns(), threading.get_ident(), data)
        for collector in collectors:
            collector.spans.append(made)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
