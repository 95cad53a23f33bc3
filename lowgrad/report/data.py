"""What a report shows, as plain data: no HTML here."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from lowgrad.codegen.facts import Modelled, modelled
from lowgrad.codegen.kernel import Kernel
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.text import graph_lines
from lowgrad.ir.walk import alone, producers
from lowgrad.report.diff import Line, side_by_side
from lowgrad.report.layout import Layout, place
from lowgrad.report.names import Matcher
from lowgrad.runtime.memory import Buffer, Plan

# The lines of a pass's differences that are shown.
MOST_LINES = 250


@dataclass(frozen=True)
class PassShown:
    """A pass: its time, its graph's nodes before and after, and what it changed."""

    name: str
    ms: float | None
    before: int
    after: int
    lines: list[Line]
    left_out: int


@dataclass
class KernelShown:
    """Kernels of the same text, with their launches."""

    number: int
    kernel: Kernel
    model: Modelled | None
    facts: Any = None
    measured_ms: float | None = None
    launches: list[tuple[str, int]] = field(default_factory=list)
    part: float = 0.0

    @property
    def times(self) -> int:
        """How often a step launches it."""
        return sum(times for _, times in self.launches)

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.kernel.flops / max(self.kernel.bytes_read + self.kernel.bytes_written, 1)

    @property
    def ir(self) -> str:
        """The node it came from, as text."""
        return str(replace(alone(self.kernel.node), name=self.kernel.name))

    @property
    def source_lines(self) -> list[tuple[str, str]]:
        """The user's lines that it comes from: place and text."""
        found = dict.fromkeys((self.kernel.loc, *self.kernel.locs.values()))
        return [(str(loc), line_of(loc.file, loc.line)) for loc in found if loc is not None]


@dataclass(frozen=True)
class Box:
    """A node of the final graph as it is drawn."""

    x: int
    y: int
    title: str
    kernels: list[int]
    nbytes: int
    kind: str


class Data:
    """All of a report."""

    def __init__(self, compiled: Any, arch: str | None) -> None:
        self.compiled, self.arch, self.history = compiled, arch, compiled.history
        self.target = arch or compiled.tiling.target or "cuda:90"
        self.plan: Plan = compiled.plan
        self.graph: Graph = compiled.graph
        self.kernels, self._owners = self._kernels()

    def _kernels(self) -> tuple[list[KernelShown], dict[int, list[int]]]:
        """The distinct kernels, and which of them each node of the graph has."""
        facts = self.compiled.kernel_facts(self.arch) if self.arch else None
        self.measured = self.compiled.measured_ms()
        by_text: dict[str, KernelShown] = {}
        owner = _owners(self.graph)
        owned: dict[int, list[int]] = {}
        at = 0
        for number, (kernel, times) in enumerate(self.compiled.launches):
            shown = by_text.get(kernel.source)
            if shown is None:
                model = modelled(kernel, self.target)
                fact = facts[number] if facts else None
                ms = self.measured[number] if self.measured else None
                shown = KernelShown(len(by_text), kernel, model, fact, ms)
                by_text[kernel.source] = shown
            shown.launches.append((str(kernel.loc or ""), times))
            # What fills a loop's accumulators is of a node made for it: the next loop's.
            at = owner.get(id(kernel.node), at)
            owned.setdefault(at, []).append(shown.number)
        kernels = list(by_text.values())
        total = sum(k.model.seconds * k.times for k in kernels if k.model)
        for k in kernels:
            k.part = k.model.seconds * k.times / total if k.model else 0.0
        return kernels, owned

    @property
    def modelled_ms(self) -> float | None:
        """The roofline's time of a step."""
        if any(k.model is None for k in self.kernels):
            return None
        return sum(k.model.seconds * k.times for k in self.kernels if k.model) * 1e3

    @cached_property
    def passes(self) -> list[PassShown]:
        """The passes that changed something."""
        graphs = self.compiled.graphs
        found = []
        left = graph_lines(next(iter(graphs.values())))
        for before, after in pairwise(graphs):
            old, new = graphs[before], graphs[after]
            if new is old:
                continue
            right = graph_lines(new, names=Matcher(old, left.names).names_of(new))
            lines = list(side_by_side(left.lines, right.lines))
            is_same, left = left.lines == right.lines, right
            if is_same:
                continue
            ms = self.compiled.pass_ms.get(after)
            counts = (len(old.nodes), len(new.nodes))
            left_out = max(len(lines) - MOST_LINES, 0)
            found.append(PassShown(after, ms, *counts, lines[:MOST_LINES], left_out))
        return found

    @cached_property
    def layout(self) -> Layout:
        """Where the nodes are drawn."""
        return place(len(self.graph.nodes), self.edges)

    @cached_property
    def edges(self) -> list[tuple[int, int]]:
        """Which node reads which, by number."""
        number = {id(node): i for i, node in enumerate(self.graph.nodes)}
        made_by = producers(self.graph)
        found = {
            (number[id(made_by[v])], i)
            for i, node in enumerate(self.graph.nodes)
            for v in node.inputs
            if v in made_by
        }
        return sorted(found)

    @cached_property
    def boxes(self) -> list[Box]:
        """The nodes as they are drawn."""
        made = []
        for i, (node, (x, y)) in enumerate(zip(self.graph.nodes, self.layout.places, strict=True)):
            own = list(dict.fromkeys(self._owners.get(i, [])))
            moved = sum(v.type.nbytes for v in (*dict.fromkeys(node.inputs), *node.outputs))
            title = self.kernels[own[0]].kernel.name if own else node.op.name
            kind = "loop" if node.op.family == "loop" else node.attrs.get("kind", node.op.family)
            made.append(Box(x, y, title, own, moved, str(kind)))
        return made

    @cached_property
    def buffers(self) -> list[Buffer]:
        """The arena's buffers."""
        return list(self.plan.buffers)

    def signature(self) -> Iterator[tuple[str, str, str]]:
        """What the step reads: name, type, and what becomes of it."""
        updated = set(self.graph.aliases.values())
        for position, value in enumerate(self.graph.inputs):
            is_number = not value.type.shape and position not in updated
            role = "updated" if position in updated else "number" if is_number else "read"
            yield value.hint or f"input {position}", str(value.type), role


def _owners(graph: Graph) -> dict[int, int]:
    """The number of the top node that each node is, or lies in, by the node's id."""
    found: dict[int, int] = {}

    def visit(node: Node, number: int) -> None:
        found[id(node)] = number
        for piece in node.attrs.get("pieces", ()):
            for inner in piece.nodes:
                visit(inner, number)

    for number, node in enumerate(graph.nodes):
        visit(node, number)
    return found


def line_of(file: str, line: int) -> str:
    """The text of a user's line; "" if its file is not found any more."""
    loaded = [getattr(m, "__file__", None) for m in list(sys.modules.values())]
    near = [Path.cwd() / file, Path.cwd().parent / file]
    for path in (*(str(p) for p in near if p.exists()), *filter(None, loaded)):
        if Path(path).as_posix().endswith(f"/{file}"):
            return linecache.getline(path, line).strip()
    return ""
