"""The order in which kernels run: little memory at the peak, and state updated in place.

All who read an old state value run before the node that makes the new one, which can then be
written where the old one was; and so does what may raise (`checks.py`), so that a step that fails
has written nothing. Among the orders that do so, the one with the lowest peak is taken.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.passes.base import graph_pass
from lowgrad.passes.checks import may_raise

# A search for a cycle that visits more nodes than this gives up: the state is then copied.
MAX_VISITED = 2000


@graph_pass("order", exact=True)
def order(graph: Graph) -> Graph:
    """The same nodes in another order."""
    waits, buffers = _waits(graph), _Buffers(graph)
    kept = _schedule(waits, [0] * len(graph.nodes))
    lean = _lean_schedule(buffers, waits)
    # What only writes state takes nothing, and lets its gradient go.
    early = _schedule(waits, [int(size > 0) for size in buffers.taken()])
    best = min((kept, lean, early), key=lambda o: _peak_and_sum(buffers.alive(o)))
    return graph.with_nodes(graph.nodes[i] for i in best)


def peak_bytes(graph: Graph, order: Sequence[int] | None = None) -> int:
    """The most bytes alive at once, without inputs and what is updated in place.

    An estimate for comparing orders: offsets and workspaces are the memory planner's.
    """
    return highest(graph, order)[0]


def highest(graph: Graph, order: Sequence[int] | None = None) -> tuple[int, int]:
    """(peak_bytes, the place in the order at which they are reached)."""
    peak = at = 0
    alive = _Buffers(graph).alive(range(len(graph.nodes)) if order is None else order)
    for place, nbytes in enumerate(alive):
        if nbytes > peak:
            peak, at = nbytes, place
    return peak, at


def _peak_and_sum(alive: Iterable[int]) -> tuple[int, int]:
    """What orders are compared by: of those with one peak, the one with less alive in all."""
    sizes = list(alive)
    return max(sizes, default=0), sum(sizes)


class _Buffers:
    """What is in memory: a value and its reshapes are one buffer, made by one node.

    `touched[node]` are the buffers that a node makes or reads, `readers` the reverse.
    """

    def __init__(self, graph: Graph) -> None:
        in_place = {graph.outputs[o] for o in graph.aliases}
        of: dict[Value, int] = {}
        self.nbytes: list[int] = []
        self.made: list[list[int]] = []
        self.scratch: list[int] = []
        self.touched: list[list[int]] = []
        for node in graph.nodes:
            read = [of[v] for v in node.inputs if v in of]
            new = []
            for value in node.outputs:
                if node.op.name == "reshape" and node.inputs[0] in of:
                    of[value] = of[node.inputs[0]]
                    continue
                of[value] = len(self.nbytes)
                new.append(of[value])
                self.nbytes.append(0 if value in in_place else value.type.nbytes)
            self.made.append(new)
            self.scratch.append(_scratch(node))
            self.touched.append(list(dict.fromkeys(read + new)))
        self.readers: list[list[int]] = [[] for _ in self.nbytes]
        for index, touched in enumerate(self.touched):
            for buffer in touched:
                self.readers[buffer].append(index)
        outputs = {of[v] for v in graph.outputs if v in of}
        self.stays = [buffer in outputs for buffer in range(len(self.nbytes))]

    def taken(self) -> list[int]:
        """The bytes of what each node makes, less what is updated in place."""
        return [sum(self.nbytes[b] for b in made) for made in self.made]

    def alive(self, order: Iterable[int]) -> Iterator[int]:
        """The bytes alive while each node runs, in this order."""
        left = [len(readers) for readers in self.readers]
        taken = self.taken()
        alive = 0
        for index in order:
            alive += taken[index]
            yield alive + self.scratch[index]
            for buffer in self.touched[index]:
                left[buffer] -= 1
                if left[buffer] == 0 and not self.stays[buffer]:
                    alive -= self.nbytes[buffer]


def _scratch(node: Node) -> int:
    """What a loop's chunk takes beside the loop's operands and results."""
    pieces: tuple[Graph, ...] = node.attrs.get("pieces", ())
    return max(map(peak_bytes, pieces), default=0)


@dataclass
class _Waits:
    """`before[i]` must run before node i; `after` is the reverse."""

    before: list[set[int]]
    after: list[set[int]]

    def add(self, first: int, then: int) -> None:
        self.before[then].add(first)
        self.after[first].add(then)


def _waits(graph: Graph) -> _Waits:
    """Who waits for whom: for operands, and updates of state for the readers of the old value."""
    producer: dict[Value, int] = {}
    readers: dict[Value, list[int]] = {v: [] for v in graph.inputs}
    waits = _Waits([set() for _ in graph.nodes], [set() for _ in graph.nodes])
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            if value in producer:
                waits.add(producer[value], index)
            elif not readers[value] or readers[value][-1] != index:
                readers[value].append(index)
        producer.update(dict.fromkeys(node.outputs, index))
    updates = {producer[v] for o in graph.aliases if (v := graph.outputs[o]) in producer}
    for check in may_raise(graph):
        _before_updates(waits, check, updates)
    for output, state in graph.aliases.items():
        update = producer.get(graph.outputs[output])
        if update is not None:
            _wait_for_readers(waits, update, readers[graph.inputs[state]])
    return waits


def _before_updates(waits: _Waits, check: int, updates: Iterable[int]) -> None:
    """What may raise runs before state is written, unless it needs what is written."""
    earlier = _reached(waits.before, check)
    for update in updates:
        if update not in earlier:
            waits.add(check, update)


def _reached(steps: Sequence[set[int]], node: int) -> set[int]:
    found = {node}
    todo = [node]
    while todo:
        new = steps[todo.pop()] - found
        found |= new
        todo += new
    return found


def _wait_for_readers(waits: _Waits, update: int, readers: Iterable[int]) -> None:
    # A reader that needs the update's result cannot go first; then the planner keeps a copy.
    later = _descendants(waits, update)
    if later is None:
        return
    for reader in readers:
        if reader != update and reader not in later:
            waits.add(reader, update)


def _descendants(waits: _Waits, node: int) -> set[int] | None:
    found = {node}
    todo = [node]
    while todo:
        for index in waits.after[todo.pop()] - found:
            found.add(index)
            todo.append(index)
        if len(found) > MAX_VISITED:
            return None
    return found


def _schedule(waits: _Waits, urgency: Sequence[int]) -> list[int]:
    """A topological order; of what may run, the least urgency number first, then the old order."""
    left = [len(before) for before in waits.before]
    ready = [(urgency[i], i) for i, n in enumerate(left) if n == 0]
    heapq.heapify(ready)
    result = []
    while ready:
        _, index = heapq.heappop(ready)
        result.append(index)
        for other in waits.after[index]:
            left[other] -= 1
            if left[other] == 0:
                heapq.heappush(ready, (urgency[other], other))
    assert len(result) == len(left), "waiting for readers made a cycle"
    return result


def _lean_schedule(buffers: _Buffers, waits: _Waits) -> list[int]:
    """As `_schedule`, but what frees at least as much as it takes runs as soon as it may."""
    users = [set(readers) for readers in buffers.readers]
    takes = buffers.taken()
    frees = [0] * len(takes)
    for buffer, waiting in enumerate(users):
        _note_last_user(buffers, buffer, waiting, frees)
    left = [len(before) for before in waits.before]
    heap: list[tuple[bool, int]] = []
    done = [False] * len(takes)

    def offer(index: int) -> None:
        if left[index] == 0 and not done[index]:
            heapq.heappush(heap, (takes[index] > frees[index], index))

    for index in range(len(left)):
        offer(index)
    result = []
    while heap:
        _, index = heapq.heappop(heap)
        if done[index]:
            continue  # offered twice: once when ready, once when it became the last reader
        done[index] = True
        result.append(index)
        for other in sorted(waits.after[index]):
            left[other] -= 1
            offer(other)
        for buffer in buffers.touched[index]:
            users[buffer].discard(index)
            last = _note_last_user(buffers, buffer, users[buffer], frees)
            if last is not None:
                offer(last)
    return result


def _note_last_user(
    buffers: _Buffers, buffer: int, users: set[int], frees: list[int]
) -> int | None:
    """If one user is left, it frees the buffer: note and return it."""
    if len(users) != 1 or buffers.stays[buffer]:
        return None
    (last,) = users
    frees[last] += buffers.nbytes[buffer]
    return last
