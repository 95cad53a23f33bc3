"""A partition of a graph's nodes into groups that can run one after another, coarsened by merging.

Groups are kept in a topological order of the graph between them (Pearce and Kelly 2006, "A dynamic
topological sort algorithm for directed acyclic graphs"), so that asking whether a merge would make
a cycle looks only at the groups between the two.
"""

from __future__ import annotations

from collections.abc import Sequence

# A merge that would need a longer search is refused: this keeps fusion linear in the graph's size.
MAX_VISITED = 512


class Partition:
    """Groups of node indices. `of[node]` is a node's group, `members[group]` its nodes in order.

    At first each node is a group of its own, in the given order; `reads[i]` are the nodes whose
    outputs node i reads.
    """

    def __init__(self, reads: Sequence[Sequence[int]]) -> None:
        self.of = list(range(len(reads)))
        self.members: list[list[int]] = [[i] for i in range(len(reads))]
        self._place = list(range(len(reads)))
        self._before = [set(sources) for sources in reads]
        self._after: list[set[int]] = [set() for _ in reads]
        for node, sources in enumerate(reads):
            for source in sources:
                self._after[source].add(node)

    def ordered(self, a: int, b: int) -> tuple[int, int]:
        """The two groups, the one that may run first in front."""
        return (a, b) if self._place[a] < self._place[b] else (b, a)

    def merge(self, a: int, b: int) -> int | None:
        """Make one group of two; return it. None, and no change, if that would make a cycle."""
        first, last = self.ordered(a, b)
        low, high = self._place[first], self._place[last]
        later = self._search(self._after, self._after[first] - {last}, low, high)
        if later is None or last in later:
            return None
        earlier = self._search(self._before, self._before[last] - {first}, low, high)
        if earlier is None:
            return None
        self._move(sorted(earlier, key=self._key), last, sorted(later, key=self._key), low)
        self._absorb(last, first)
        return last

    def in_order(self) -> list[int]:
        """All groups, in an order in which they can run."""
        return sorted(set(self.of), key=self._key)

    def _key(self, group: int) -> int:
        return self._place[group]

    def _search(
        self, edges: list[set[int]], start: set[int], low: int, high: int
    ) -> set[int] | None:
        """The groups reached from `start` with places from `low` to `high`; None if too many."""
        found = {g for g in start if low <= self._place[g] <= high}
        todo = list(found)
        while todo:
            if len(found) > MAX_VISITED:
                return None
            for group in edges[todo.pop()]:
                if group not in found and low <= self._place[group] <= high:
                    found.add(group)
                    todo.append(group)
        return found

    def _move(self, earlier: list[int], merged: int, later: list[int], free: int) -> None:
        """Share out the places of all these, and the `free` one, in this order."""
        groups = [*earlier, merged, *later]
        places = sorted([free, *(self._place[g] for g in groups)])
        # The place left over is the first one after `earlier`.
        del places[len(earlier)]
        for group, place in zip(groups, places, strict=True):
            self._place[group] = place

    def _absorb(self, kept: int, gone: int) -> None:
        for edges, back in ((self._before, self._after), (self._after, self._before)):
            for group in edges[gone]:
                back[group].discard(gone)
                if group != kept:
                    back[group].add(kept)
            edges[kept] |= edges[gone]
            edges[kept] -= {kept, gone}
            edges[gone] = set()
        for node in self.members[gone]:
            self.of[node] = kept
        self.members[kept] = sorted(self.members[kept] + self.members[gone])
        self.members[gone] = []
