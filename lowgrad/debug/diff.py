"""What two graphs differ in, by meaning: names, numbers and the order of nodes do not count.

A value is known by how it is made: its op, the attributes, and the values it is made from. A node
of one graph whose value the other has not is a difference; one that differs only since it reads
such a value carries a difference on, and is counted but not shown.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.text import graph_lines


@dataclass(frozen=True)
class Difference:
    """What is only in the first graph, and what only in the second.

    carried: nodes that only carry a difference on.  again: those that one graph has more often.
    """

    removed: tuple[str, ...]
    added: tuple[str, ...]
    carried: int
    again: int
    inputs: tuple[str, ...]
    outputs: tuple[int, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the graphs compute the same from the same, node by node."""
        found = (self.removed, self.added, self.carried, self.again, self.inputs, self.outputs)
        return not any(found)

    def lines(self) -> Iterator[str]:
        """As a unified difference."""
        yield from self.inputs
        yield from (f"- {line}" for line in self.removed)
        yield from (f"+ {line}" for line in self.added)
        if self.is_empty:
            yield "the same, but for names and order"
            return
        facts = [f"{len(self.removed)} removed", f"{len(self.added)} added"]
        if self.carried:
            facts.append(f"{self.carried} more that read what differs")
        if self.again:
            facts.append(f"{self.again} that one of them makes more often")
        if self.outputs:
            facts.append("outputs " + ", ".join(map(str, self.outputs)) + " are made otherwise")
        yield "; ".join(facts)


def difference(one: Graph, other: Graph) -> Difference:
    """What differs between two graphs."""
    keys = [_keys(graph) for graph in (one, other)]
    counts = [Counter(keys[i][n.outputs[0]] for n in g.nodes) for i, g in enumerate((one, other))]
    removed, *counts_1 = _only_in(one, keys[0], counts[1], set(keys[1].values()))
    added, *counts_2 = _only_in(other, keys[1], counts[0], set(keys[0].values()))
    carried, again = (sum(pair) for pair in zip(counts_1, counts_2, strict=True))
    outputs = [[k[v] for v in g.outputs] for k, g in zip(keys, (one, other), strict=True)]
    longest = max(map(len, outputs))
    differing = tuple(i for i in range(longest) if outputs[0][i : i + 1] != outputs[1][i : i + 1])
    inputs = tuple(_inputs(one, other))
    return Difference(removed, added, carried, again, inputs, differing)


def _inputs(one: Graph, other: Graph) -> Iterator[str]:
    types = [[f"{v.hint or i}: {v.type}" for i, v in enumerate(g.inputs)] for g in (one, other)]
    if types[0] != types[1]:
        yield from (f"- input {text}" for text in types[0] if text not in types[1])
        yield from (f"+ input {text}" for text in types[1] if text not in types[0])
    if one.aliases != other.aliases:
        yield f"- aliases {dict(one.aliases)}"
        yield f"+ aliases {dict(other.aliases)}"


def _only_in(
    graph: Graph, keys: Mapping[Value, str], there: Counter[str], known: set[str]
) -> tuple[tuple[str, ...], int, int]:
    """The nodes whose value the other graph has not; how many only read such, how many repeat."""
    printed = graph_lines(graph, locations=True)
    ends = [*printed.starts[1:], len(printed.lines) - 2]
    found: list[str] = []
    carried = again = 0
    left = Counter(there)
    for node, start, end in zip(graph.nodes, printed.starts, ends, strict=True):
        key = keys[node.outputs[0]]
        if left[key]:
            left[key] -= 1
        elif key in known:
            again += 1
        elif all(keys[v] in known for v in node.inputs):
            found += [line[2:] for line in printed.lines[start:end]]
        else:
            carried += 1
    return tuple(found), carried, again


def _keys(graph: Graph) -> dict[Value, str]:
    """How each value is made, as a digest."""
    keys = {v: _digest("input", v.hint or str(i), str(v.type)) for i, v in enumerate(graph.inputs)}
    for node in graph.nodes:
        made = _digest(node.op.name, _attributes(node), *(keys[v] for v in node.inputs))
        for number, value in enumerate(node.outputs):
            keys[value] = _digest(made, str(number), str(value.type))
    return keys


def _attributes(node: Node) -> str:
    parts = []
    for name, value in sorted(node.attrs.items()):
        if isinstance(value, Graph):
            inner = _placed(value)
            parts.append(f"{name}={inner}")
        elif isinstance(value, tuple) and any(isinstance(v, Graph) for v in value):
            parts.append(f"{name}={[_placed(v) for v in value if isinstance(v, Graph)]}")
        else:
            parts.append(f"{name}={value!r}")
    return ",".join(parts)


def _placed(body: Graph) -> str:
    """A body's meaning, its inputs known by their places."""
    keys = {v: f"input{i}" for i, v in enumerate(body.inputs)}
    for node in body.nodes:
        made = _digest(node.op.name, _attributes(node), *(keys[v] for v in node.inputs))
        keys.update({v: _digest(made, str(i), str(v.type)) for i, v in enumerate(node.outputs)})
    return _digest(*(keys[v] for v in body.outputs))


def _digest(*parts: str) -> str:
    return hashlib.blake2b("\0".join(parts).encode(), digest_size=12).hexdigest()
