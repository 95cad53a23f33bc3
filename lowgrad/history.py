"""Why a step was recorded again: which part of its signature is new, and what it was before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from lowgrad.ir.graph import Graph, Node, Value

# Of a signature's parts, what a message shows; the others are counted.
MOST = 3


@dataclass(frozen=True)
class Change:
    """One part of a signature: `label` names it as the program does, "model.training"."""

    label: str
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.label} ({self.before} -> {self.after})"


@dataclass(frozen=True)
class Recorded:
    """One recording: at which call, how long it took, and what differs from the nearest before."""

    number: int
    call: int
    ms: float
    nodes: int
    changes: tuple[Change, ...]

    @property
    def reason(self) -> str:
        """In words."""
        if not self.changes:
            return "the first call" if self.number == 1 else "a gradient came or went"
        shown = ", ".join(map(str, self.changes[:MOST]))
        more = len(self.changes) - MOST
        return f"{shown}, and {more} more" if more > 0 else shown

    def __str__(self) -> str:
        facts = f"at call {self.call}, {self.ms:.0f} ms, {self.nodes} nodes"
        return f"{self.number}. {facts}: {self.reason}"


class History:
    """The recordings of one function."""

    def __init__(self) -> None:
        self.recorded: list[Recorded] = []
        self._known: list[tuple[Sequence[Any], Sequence[str]]] = []

    def add(
        self, key: Sequence[Any], labels: Sequence[str], *, call: int, ms: float, nodes: int
    ) -> Recorded:
        """Note a recording. key: its signature's parts; labels: their names."""
        # Of those that are equally near, the latest.
        every = [_changes(was, names, key, labels) for was, names in reversed(self._known)]
        changes = min(every, key=len, default=())
        self._known.append((key, labels))
        made = Recorded(len(self.recorded) + 1, call, ms, nodes, changes)
        self.recorded.append(made)
        return made

    def __str__(self) -> str:
        return "\n".join(map(str, self.recorded)) or "not called yet"


def _changes(
    before: Sequence[Any], old: Sequence[str], after: Sequence[Any], new: Sequence[str]
) -> tuple[Change, ...]:
    """The parts that differ; if there are more or other parts, by their names."""
    if list(old) == list(new) and len(before) == len(after):
        pairs = zip(before, after, new, strict=True)
        return tuple(Change(label, shown(a), shown(b)) for a, b, label in pairs if a != b)
    was: dict[str, list[Any]] = {}
    now: dict[str, list[Any]] = {}
    for parts, labels, found in ((before, old, was), (after, new, now)):
        for part, label in zip(parts, labels, strict=False):
            found.setdefault(label, []).append(part)
    absent = "nothing"
    return tuple(
        Change(
            label,
            ", ".join(map(shown, was[label])) if label in was else absent,
            ", ".join(map(shown, now[label])) if label in now else absent,
        )
        for label in dict.fromkeys((*was, *now))
        if was.get(label) != now.get(label)
    )


def shown(part: Any) -> str:
    """A part of a signature as a person would write it."""
    if isinstance(part, tuple) and len(part) == 2 and part[0] == "float":
        return repr(float.fromhex(part[1]))
    if isinstance(part, tuple) and part and part[0] == "tensor":
        return str(part[1])
    return repr(part[-1] if isinstance(part, tuple) and part else part)


def first_change(before: Graph, after: Graph) -> tuple[Node | None, Node | None]:
    """The first node of `before` that is not so in `after`, and what stands there.

    None where one of them has no more nodes; both if only the outputs differ.
    """
    numbers: list[dict[Value, int]] = [{}, {}]
    for graph, known in zip((before, after), numbers, strict=True):
        for value in (*graph.inputs, *(v for node in graph.nodes for v in node.outputs)):
            known[value] = len(known)
    for one, other in zip_longest(before.nodes, after.nodes):
        if one is None or other is None:
            return one, other
        facts = [
            (n.op, [known[v] for v in n.inputs], str(n.attrs), [v.type for v in n.outputs])
            for n, known in zip((one, other), numbers, strict=True)
        ]
        if facts[0] != facts[1]:
            return one, other
    return None, None
