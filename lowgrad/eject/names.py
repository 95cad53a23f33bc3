"""Names for everything that an ejected step mentions: each once, none of Python's own."""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterable

from lowgrad.ir.graph import Graph, Value


class Names:
    """Gives out identifiers that are not taken yet."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self._taken = {*dir(builtins), *keyword.kwlist, *taken}

    def fresh(self, wish: str) -> str:
        """`wish` as an identifier; with a number behind it if that is taken."""
        name = re.sub(r"\W+", "_", wish).strip("_") or "value"
        if name[0].isdigit():
            name = f"v_{name}"
        free, number = name, 2
        while free in self._taken:
            free, number = f"{name}_{number}", number + 1
        self._taken.add(free)
        return free


def wishes(graph: Graph) -> dict[Value, str]:
    """What each value would be called: its hint, or the op that makes it; those in loops too."""
    found: dict[Value, str] = {}
    for node in graph.nodes:
        body = node.attrs.get("body")
        for number, value in enumerate(node.outputs):
            name = value.hint or node.op.name
            if body is not None and not value.hint:
                name = wishes(body).get(body.outputs[number], name)
            found[value] = name
        for piece in node.attrs.get("pieces", ()):
            found |= wishes(piece)
    for value in graph.inputs:
        found.setdefault(value, value.hint or "input")
    return found
