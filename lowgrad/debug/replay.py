"""The pipeline run again from a dumped stage on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lowgrad.debug.stages import passes_of
from lowgrad.errors import ArgumentError
from lowgrad.ir.graph import Graph
from lowgrad.ir.lex import suggestion
from lowgrad.passes.pipeline import run_passes


@dataclass(frozen=True)
class Replayed:
    """A pass that was run: nodes before and after, milliseconds, and its result."""

    name: str
    before: int
    after: int
    ms: float
    graph: Graph


def replayed(
    graph: Graph, path: Path, first: str | None = None, last: str | None = None
) -> Iterator[Replayed]:
    """Run the passes from `first` to `last`, both included, on `graph`; all if not given.

    path: where the graph was read, beside a summary.json that says what was traded for memory.
    first: by default the pass after the one that the file is named for.
    Raises ArgumentError for a pass that there is not.
    """
    steps = passes_of(path.parent)
    names = list(steps)
    start = _index(names, first) if first else _after(names, path)
    stop = _index(names, last) + 1 if last else len(names)
    if last and stop <= start < len(names):
        raise ArgumentError(
            f'the pass "{last}" comes before "{names[start]}"; they are {", ".join(names)}'
        )
    for name in names[start:stop]:
        before, began = graph, time.perf_counter()
        graph = run_passes((steps[name],), graph)[name]
        ms = (time.perf_counter() - began) * 1e3
        yield Replayed(name, len(before.nodes), len(graph.nodes), ms, graph)


def _index(names: list[str], name: str) -> int:
    if name not in names:
        raise ArgumentError(
            f'there is no pass "{name}"{suggestion(name, names)}; they are {", ".join(names)}'
        )
    return names.index(name)


def _after(names: list[str], path: Path) -> int:
    """The pass that follows the one in the file's name; the first, of any other file."""
    name = path.stem.partition("-")[2]
    return names.index(name) + 1 if name in names else 0
