"""What a pass is: a named function from Graph to Graph that says how far it may change values."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from lowgrad.ir.graph import Graph
from lowgrad.passes.decisions import Decision

Explain = Callable[[Graph], Iterable[Decision]]


@dataclass(frozen=True)
class Pass:
    """A pass. `exact`: not one bit of any output may change; else `reason` says why bits may.

    explain: what it decides for a graph, and why; None if there is nothing to ask.
    """

    name: str
    run: Callable[[Graph], Graph]
    exact: bool
    reason: str = ""
    explain: Explain | None = None

    def __call__(self, graph: Graph) -> Graph:
        return self.run(graph)


def graph_pass(
    name: str, *, exact: bool, reason: str = "", explain: Explain | None = None
) -> Callable[[Callable[[Graph], Graph]], Pass]:
    """Decorate `Graph -> Graph` as the pass called `name`."""
    assert exact or reason, f"pass {name} may change bits, so it must say why"

    def decorate(run: Callable[[Graph], Graph]) -> Pass:
        return Pass(name, run, exact, reason, explain)

    return decorate
