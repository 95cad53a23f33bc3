"""Which nodes a row loop can take in: those that a large value can be sliced through.

From one large value and one of its dims the region grows to every node that makes or reads a value
that is as large, as far as ops say how they are sliced. What is small may cross the border.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from lowgrad.ir.graph import Graph, Node, Value
from lowgrad.ir.slicing import Axis, Place, Slicing
from lowgrad.ir.walk import producers, users

# A value with at least this part of the seed's elements must not leave the loop.
WIDE_PART = 0.5
# Small nodes between large ones are looked for this far; more are no link of a loss.
MAX_LINKS = 400


class Facts:
    """What is known of a graph: who makes and reads each value, and what depends on no input."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.maker = producers(graph)
        self.users = users(graph)
        self.index = {node: i for i, node in enumerate(graph.nodes)}
        self.constant: set[Value] = set()
        for node in graph.nodes:
            if node.op.family == "create" or (
                node.inputs and self.constant.issuperset(node.inputs)
            ):
                self.constant.update(node.outputs)


@dataclass
class Region:
    """Nodes and how each is sliced, by a loop of `steps` steps.

    wide: the large values that it reached, and the dim that each is sliced along.
    """

    seed: Value
    steps: int
    slicing: dict[Node, Slicing] = field(default_factory=dict)
    wide: dict[Value, int] = field(default_factory=dict)
    # Nodes that the graph may need outside as well: views of whole operands, constants.
    copies: set[Node] = field(default_factory=set)

    def made_along(self, facts: Facts, value: Value) -> int | str | None:
        """How the region makes `value`; None if it does not, or makes it whole."""
        node = facts.maker.get(value)
        found = None if node is None else self.slicing.get(node)
        if node is None or found is None:
            return None
        return found.outs[node.outputs.index(value)]


def grow(facts: Facts, seed: Value, dim: int) -> Region:
    """The region around `seed` that is sliced along its `dim`."""
    region = Region(seed, seed.type.shape[dim])
    _Growth(facts, region, seed.type.numel * WIDE_PART).run(dim)
    return region


class _Growth:
    def __init__(self, facts: Facts, region: Region, wide_numel: float) -> None:
        self.facts, self.region, self.wide_numel = facts, region, wide_numel
        self.todo: deque[tuple[Value, int]] = deque()

    def run(self, dim: int) -> None:
        self._reach(self.region.seed, dim)
        self._grow()
        self._link()
        self._grow()
        self._finish()
        self._take_in_copies()

    def _grow(self) -> None:
        while self.todo:
            value, dim = self.todo.popleft()
            maker = self.facts.maker.get(value)
            if maker is not None:
                self._add(maker, Place(True, maker.outputs.index(value), dim))
            for user in self.facts.users.get(value, ()):
                self._add(user, Place(False, user.inputs.index(value), dim))

    def _reach(self, value: Value, dim: int) -> None:
        if value in self.region.wide or value.type.numel < self.wide_numel:
            return
        if value in self.facts.constant:
            return  # shared by unrelated parts of the program, and copied in the end
        self.region.wide[value] = dim
        self.todo.append((value, dim))

    def _add(self, node: Node, place: Place) -> bool:
        if node in self.region.slicing:
            return True
        found = slicing_of(node, place, self.region.steps)
        if found is None or not self._agrees(node, found):
            return False
        self.region.slicing[node] = found
        for values, dims in ((node.inputs, found.ins), (node.outputs, found.outs)):
            for value, dim in zip(values, dims, strict=True):
                if isinstance(dim, int):
                    self._reach(value, dim)
        return True

    def _agrees(self, node: Node, found: Slicing) -> bool:
        """Whether `node` would slice each large value as it is sliced elsewhere."""
        wide = self.region.wide
        pairs = [
            *zip(node.inputs, found.ins, strict=True),
            *zip(node.outputs, found.outs, strict=True),
        ]
        return all(wide.get(value, dim) == dim for value, dim in pairs)

    # --- What is small, but between -----------------------------------------------------------

    def _link(self) -> None:
        """Take in small nodes on the way from large ones to large ones: a loss and its gradient."""
        region, facts = self.region, self.facts
        reached: dict[Node, Slicing] = {}
        todo = deque(sorted(region.slicing, key=facts.index.__getitem__))
        while todo and len(reached) < MAX_LINKS:
            node = todo.popleft()
            dims = (reached.get(node) or region.slicing[node]).outs
            for value, dim in zip(node.outputs, dims, strict=True):
                if not isinstance(dim, int):
                    continue
                for user in facts.users[value]:
                    if user in reached or user in region.slicing or user.op.family in HEAVY:
                        continue
                    place = Place(False, user.inputs.index(value), dim)
                    found = slicing_of(user, place, region.steps)
                    if found is not None and all(isinstance(d, int) for d in found.outs):
                        reached[user] = found
                        todo.append(user)
        self._keep_links(reached)

    def _keep_links(self, reached: dict[Node, Slicing]) -> None:
        """Of the nodes reached from the region, add those that lead back to it."""
        todo = list(self.region.slicing)
        while todo:
            node = todo.pop()
            for value in node.inputs:
                maker = self.facts.maker.get(value)
                if maker is not None and maker in reached and maker not in self.region.slicing:
                    self.region.slicing[maker] = reached[maker]
                    todo.append(maker)

    # --- What is left to do with a result -------------------------------------------------------

    def _finish(self) -> None:
        """Take in arithmetic on results that nobody else reads, if the loop makes its operands."""
        region, facts = self.region, self.facts
        kept = set(facts.graph.outputs)
        todo = deque(sorted(region.slicing, key=facts.index.__getitem__))
        while todo:
            node = todo.popleft()
            for value, dim in zip(node.outputs, region.slicing[node].outs, strict=True):
                users = facts.users[value]
                if len(users) != 1 or value in kept or not isinstance(dim, int):
                    continue
                (user,) = users
                if user not in region.slicing and user.op.family == "pointwise":
                    place = Place(False, user.inputs.index(value), dim)
                    todo += self._finished_by(user, place)

    def _finished_by(self, user: Node, place: Place) -> list[Node]:
        """Add `user`, and what spreads its operands, if the region makes all of them."""
        found = slicing_of(user, place, self.region.steps)
        if found is None:
            return []
        added: dict[Node, Slicing] = {user: found}
        for value, dim in zip(user.inputs, found.ins, strict=True):
            maker = self.facts.maker.get(value)
            if maker is not None and maker.op.name == "expand" and isinstance(dim, int):
                spread = slicing_of(maker, Place(True, 0, dim), self.region.steps)
                if spread is not None and maker not in self.region.slicing:
                    added[maker] = spread
                    value, dim = maker.inputs[0], spread.ins[0]
            if value in self.facts.constant:
                continue
            if self.region.made_along(self.facts, value) != dim:
                return []
        self.region.slicing.update(added)
        return [user]

    # --- What costs nothing to have twice -------------------------------------------------------

    def _take_in_copies(self) -> None:
        """Views, scalings and constants (masks) of what is read are made anew in the loop."""
        region = self.region
        todo = sorted(region.slicing, key=self.facts.index.__getitem__)
        while todo:
            node = todo.pop()
            for value, dim in zip(node.inputs, region.slicing[node].ins, strict=True):
                maker = self.facts.maker.get(value)
                if maker is None or maker in region.slicing or not self._is_free(maker):
                    continue
                found = self._slicing_to(maker, value, dim)
                if found is not None:
                    region.slicing[maker] = found
                    region.copies.add(maker)
                    todo.append(maker)

    def _is_free(self, node: Node) -> bool:
        if self.facts.constant.issuperset(node.outputs):
            return True
        if node.op.family == "view":
            return len(node.inputs) == 1
        varying = [v for v in node.inputs if v not in self.facts.constant]
        return node.op.family == "pointwise" and len(varying) == 1

    def _slicing_to(self, node: Node, value: Value, dim: int | None) -> Slicing | None:
        """How `node` makes `value` sliced along `dim`, or whole."""
        if dim is None:
            is_kept = node.op.family == "pointwise" and value not in self.facts.constant
            whole = Slicing((None,) * len(node.inputs), (None,) * len(node.outputs))
            return None if is_kept else whole  # arithmetic on all of it, for each chunk anew
        place = Place(True, node.outputs.index(value), dim)
        return slicing_of(node, place, self.region.steps)


# Families whose work is worth a kernel of its own.
HEAVY = frozenset(("contraction", "region", "loop", "scan"))


def slicing_of(node: Node, place: Place, steps: int) -> Slicing | None:
    """How `node` is sliced along `place`, if it can be."""
    ins = tuple([v.type for v in node.inputs])
    outs = tuple([v.type for v in node.outputs])
    return node.op.slicing(Axis(place, steps, ins, outs), **node.attrs)
