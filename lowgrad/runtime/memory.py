"""The memory plan: where every value of a step lives, and the exact peak, before anything runs.

State (inputs that an output takes over) and arguments are the caller's; everything else lies in one
arena. A view is its source's bytes. Updated state is written where the old one was, if by then
nobody needs the old one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, NamedTuple

from lowgrad.ir.graph import Graph, Location, Node, Value
from lowgrad.ir.types import TensorType
from lowgrad.ops.rows import Dim, dims_of
from lowgrad.passes.checks import may_raise
from lowgrad.passes.in_place import may_overwrite
from lowgrad.runtime.arena import ALIGNMENT, Span, place
from lowgrad.runtime.cpu.scratch import scratch_bytes

PIECE_ALIGNMENT = 16  # bytes: the widest access of a GPU's kernel

# Views that NumPy makes without copying, whatever the strides of what they are taken from.
FREE_VIEWS = frozenset(("permute", "expand", "slice", "flip"))


class Machine(ABC):
    """What a plan must know of the machine that it is for. Equal machines give equal plans.

    free_views: the views that are made without a copy, besides those of a reshape.
    packs_pieces: whether a row loop must copy what lies apart in memory side by side for its
    pieces, since kernels read only contiguous arrays, that begin at a multiple of PIECE_ALIGNMENT.
    """

    free_views: ClassVar[frozenset[str]]
    packs_pieces: ClassVar[bool]

    @abstractmethod
    def scratch_bytes(self, node: Node, over: Mapping[int, int]) -> int:
        """Bytes beside operands and results that `node` needs, no view and not run in pieces.

        over: which outputs are stored where which of the distinct inputs are, by position.
        """

    @abstractmethod
    def runs_in_pieces(self, loop: Node) -> bool:
        """Whether a row loop is run piece by piece, each with a plan of its own."""


@dataclass(frozen=True)
class Host(Machine):
    """The CPU, with NumPy."""

    free_views = FREE_VIEWS
    packs_pieces = False

    def scratch_bytes(self, node: Node, over: Mapping[int, int]) -> int:
        """Temporaries of the NumPy calls."""
        return scratch_bytes(node, dict(over))

    def runs_in_pieces(self, loop: Node) -> bool:
        """Always."""
        return True


HOST = Host()


@dataclass(frozen=True)
class Buffer:
    """Bytes of the arena: who holds them, and over which nodes (inclusive) of the step.

    nested: for the scratch of a row loop, the plan of one of its largest pieces, which lies in it.
    """

    name: str
    type: TensorType | None  # None for the scratch of one node
    offset: int
    nbytes: int
    first: int
    last: int
    loc: Location | None
    nested: tuple[Plan, ...] = ()

    def __str__(self) -> str:
        what = "temporaries" if self.type is None else str(self.type)
        where = "" if self.loc is None else f"  at {self.loc}"
        return f"{self.name} {human(self.nbytes)} {what}{where}"


@dataclass(frozen=True)
class Plan:
    """Where everything lies. `peak_bytes` is exact: what is allocated is `arena_bytes`.

    Of these the executable keeps `held_bytes`, once; the others are results, which each call makes
    anew, since they are the caller's.
    results: values that are written where they are returned. copied: positions of outputs that are
    copied at the end: views, old state, and state that takes over what another input was.
    offsets: of each value that is in the arena and no view. stored: values written over an input.
    reused: values written over another one of the arena, which dies where they are made.
    scratch: the offset of each node's temporaries, by the node's index.
    trades: a line for each thing that was given up for memory, and what that saved and cost.
    notes: a line for each thing in the program that costs memory for a reason worth knowing.
    """

    buffers: tuple[Buffer, ...]
    arena_bytes: int
    held_bytes: int
    state_bytes: int
    argument_bytes: int
    lower_bound_bytes: int
    offsets: Mapping[Value, int]
    stored: Mapping[Value, Value]
    reused: Mapping[Value, Value]
    scratch: Mapping[int, int]
    results: frozenset[Value]
    copied: frozenset[int]
    trades: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def peak_bytes(self) -> int:
        """State, arguments and arena together."""
        return self.state_bytes + self.argument_bytes + self.arena_bytes

    def holders(self) -> tuple[int, list[Buffer]]:
        """The node at which the arena holds most, and the buffers alive there, largest first."""
        held = [0] * (max((b.last for b in self.buffers), default=0) + 1)
        for b in self.buffers:
            for node in range(b.first, b.last + 1):
                held[node] += b.nbytes
        peak = max(range(len(held)), key=held.__getitem__)
        alive = [b for b in self.buffers if b.first <= peak <= b.last]
        return peak, sorted(alive, key=lambda b: (-b.nbytes, b.offset))

    def largest(self, count: int) -> list[str]:
        """A line for each of the largest buffers: name, size, type, the user's line."""
        ranked = sorted(self.buffers, key=lambda b: (-b.nbytes, b.first))
        return [str(b) for b in ranked[:count]]

    def __str__(self) -> str:
        ratio = self.arena_bytes / self.lower_bound_bytes if self.lower_bound_bytes else 1.0
        lines = [
            f"peak      {human(self.peak_bytes):>12}  {self.peak_bytes} bytes",
            f"state     {human(self.state_bytes):>12}",
            f"arguments {human(self.argument_bytes):>12}",
            f"arena     {human(self.arena_bytes):>12}  {ratio:.3f} x the lower bound",
            *(f"traded    {line}" for line in self.trades),
            *(f"note      {line}" for line in self.notes),
            "",
            f"{'offset':>12} {'bytes':>12} {'live':>11}  buffer",
            *self._table(),
        ]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        """A line for each buffer; what lies in one, indented below it."""
        lines: list[str] = []
        for b in sorted(self.buffers, key=lambda b: (b.first, b.offset)):
            lines.append(f"{b.offset:>12} {b.nbytes:>12} {f'{b.first}-{b.last}':>11}  {b}")
            lines += [f"    {line}" for nested in b.nested for line in nested._table()]
        return lines


def human(nbytes: int) -> str:
    """`3.42 MiB`."""
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.2f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


# Temporaries of nodes, by node and by which outputs are stored over which inputs.
Known = dict[tuple[Node, tuple[tuple[int, int], ...]], int]


def plan(graph: Graph, known: Known | None = None, machine: Machine = HOST) -> Plan:
    """Place every value of `graph`. Deterministic; near-linear in the number of nodes.

    known: what plans of graphs with the same nodes for the same machine may tell each other.
    """
    temporaries = _Temporaries({} if known is None else known, machine)
    roots = _roots(graph, machine.free_views)
    first, last = _lifetimes(graph, roots)
    stored = _stored_over_inputs(graph, roots, last)
    results = _results(graph, roots)
    reused = _reused(graph, roots, last, stored, results, temporaries)
    _extend(reused, last)
    over = {**stored, **reused}
    spans: list[Span] = []
    owners: list[_Owner] = []
    updates = _updates(graph)
    for index, node in enumerate(graph.nodes):
        if node.op.family == "create":
            # Zeros that an update is added to are named as it is.
            (zeros,) = node.outputs
            for new in (n for n, old in reused.items() if old is zeros and n in updates):
                updates[zeros] = updates[new]
        for value in node.outputs:
            if roots[value] is value and value not in over and value not in results:
                name = _name(value, node, updates)
                spans.append(Span(name, value.type.nbytes, first[value], last[value]))
                owners.append(_Owner(value, node, index))
        is_view = all(roots[v] is not v for v in node.outputs)
        nbytes = 0 if is_view else temporaries(node, over)
        if nbytes:
            made = min(node.outputs, key=lambda v: len(updates.get(v, "")))
            name = f"scratch of {_name(made, node, updates)}"
            spans.append(Span(name, nbytes, index, index))
            owners.append(_Owner(None, node, index))
    placed = place(spans)
    offsets = {o.value: at for o, at in zip(owners, placed.offsets, strict=True) if o.value}
    for new, old in reused.items():
        offsets[new] = offsets[old]
    state = set(graph.aliases.values())
    sizes = [v.type.nbytes for v in graph.inputs]
    copied = _copied(graph, roots, stored, results)
    returned = _returned(graph, first, results, copied, placed.arena_bytes)
    returned_bytes = sum(b.nbytes for b in returned)
    return Plan(
        buffers=(
            *(_buffer(*x, machine) for x in zip(spans, owners, placed.offsets, strict=True)),
            *returned,
        ),
        arena_bytes=placed.arena_bytes + returned_bytes,
        held_bytes=placed.arena_bytes,
        state_bytes=sum(n for i, n in enumerate(sizes) if i in state),
        argument_bytes=sum(n for i, n in enumerate(sizes) if i not in state),
        lower_bound_bytes=placed.lower_bound_bytes + returned_bytes,
        offsets=offsets,
        stored=stored,
        reused=reused,
        scratch={o.at: a for o, a in zip(owners, placed.offsets, strict=True) if not o.value},
        results=results,
        copied=copied,
    )


# --- What is returned --------------------------------------------------------------------------


def _results(graph: Graph, roots: Mapping[Value, Value]) -> frozenset[Value]:
    """The outputs that some node makes for the caller, and not for state."""
    state = {graph.outputs[i] for i in graph.aliases}
    made = (v for v in graph.outputs if v not in state and v not in graph.inputs)
    return frozenset(v for v in made if roots[v] is v)


def _copied(
    graph: Graph,
    roots: Mapping[Value, Value],
    stored: Mapping[Value, Value],
    results: frozenset[Value],
) -> frozenset[int]:
    """The positions of outputs that are copied to memory of their own, when all has run."""
    found = set()
    outside = {*graph.inputs, *results, *stored}
    for position, value in enumerate(graph.outputs):
        taken = graph.aliases.get(position)
        if taken is None:
            # The first to return a value has it, the others have copies.
            is_copied = value not in results or graph.outputs.index(value) != position
        else:
            # Another input, whose own new value may be about to be written: swapped state.
            is_home = stored.get(value) is graph.inputs[taken]
            is_copied = not is_home and roots[value] in outside
        if is_copied:
            found.add(position)
    return frozenset(found)


def _returned(
    graph: Graph,
    first: Mapping[Value, int],
    results: frozenset[Value],
    copied: frozenset[int],
    offset: int,
) -> list[Buffer]:
    """The buffers of results and copies, one after the other from `offset` on."""
    end = len(graph.nodes)
    updates = _updates(graph)
    found = []
    for position, value in enumerate(graph.outputs):
        if value not in results and position not in copied:
            continue
        node = next((n for n in graph.nodes if value in n.outputs), None)
        name = value.hint if node is None else _name(value, node, updates)
        start = end if position in copied else first[value]
        name = f"copy of {name}" if position in copied else name
        loc = None if node is None else node.loc
        found.append(Buffer(name, value.type, offset, value.type.nbytes, start, end, loc))
        offset += value.type.nbytes
    return found


class _Temporaries:
    """The bytes that a node needs beside its operands and results."""

    def __init__(self, known: Known, machine: Machine) -> None:
        self.known, self.machine = known, machine

    def __call__(self, node: Node, over: Mapping[Value, Value]) -> int:
        if node.op.family == "loop" and self.machine.runs_in_pieces(node):
            return LoopLayout(node, self.machine).nbytes
        stored = over_of(node, over)
        key = (node, tuple(sorted(stored.items())))
        if key not in self.known:
            self.known[key] = self.machine.scratch_bytes(node, stored)
        return self.known[key]


# --- Loops -------------------------------------------------------------------------------------


@lru_cache(maxsize=256)
def addressed(piece: Graph) -> Graph:
    """A piece of a row loop that writes its results where it is told: further inputs, unread."""
    places = {o: Value(v.type, v.hint) for o, v in enumerate(piece.outputs)}
    places = {o: v for o, v in places.items() if o not in piece.aliases}
    count = len(piece.inputs)
    aliases = {**piece.aliases, **{o: count + i for i, o in enumerate(places)}}
    inputs = (*piece.inputs, *places.values())
    return Graph(inputs, piece.nodes, piece.outputs, aliases, piece.name)


@lru_cache(maxsize=256)
def piece_plan(piece: Graph, machine: Machine = HOST) -> Plan:
    """The plan of one piece of a row loop, addressed; its arena is scratch of the loop."""
    return plan(addressed(piece), None, machine)


class LoopLayout:
    """The scratch of a row loop: the arena of its pieces, and what of a piece lies apart in memory.

    spread: the offset of each result's piece that the whole result does not hold side by side, by
    its position. packed: the same of operands, where the machine needs them side by side.
    """

    def __init__(self, node: Node, machine: Machine = HOST) -> None:
        body: Graph = node.attrs["body"]
        pieces: tuple[Graph, ...] = node.attrs["pieces"]
        dims = dims_of(body, node.attrs["dims"])
        self.arena_bytes = max(piece_plan(piece, machine).arena_bytes for piece in pieces)
        self._end = _aligned(self.arena_bytes)
        self._packs = machine.packs_pieces
        self.spread = self._placed(body.outputs, pieces[0].outputs, dims)
        self.packed: dict[int, int] = {}
        if self._packs:
            self.packed = self._placed(body.inputs, pieces[0].inputs, dims)
        self.nbytes = self._end if self.spread or self.packed else self.arena_bytes

    def _placed(
        self, whole: Sequence[Value], piece: Sequence[Value], dims: Mapping[Value, Dim]
    ) -> dict[int, int]:
        """The offset of each value's piece that lies apart in the whole, by position."""
        placed = {}
        for position, value in enumerate(whole):
            dim = dims[value]
            nbytes = piece[position].type.nbytes
            if isinstance(dim, int) and self._lies_apart(value.type, dim, nbytes):
                placed[position] = self._end
                self._end += _aligned(nbytes)
        return placed

    def _lies_apart(self, whole: TensorType, dim: int, piece_bytes: int) -> bool:
        unaligned = self._packs and piece_bytes % PIECE_ALIGNMENT != 0
        return unaligned or any(n != 1 for n in whole.shape[:dim])


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class _Owner(NamedTuple):
    """Whose bytes a span is: a value's, or (None) a node's temporaries."""

    value: Value | None
    node: Node
    at: int


def _buffer(span: Span, owner: _Owner, offset: int, machine: Machine) -> Buffer:
    lifetime = (span.first, span.last)
    if owner.value is not None:
        return Buffer(span.name, owner.value.type, offset, span.nbytes, *lifetime, owner.node.loc)
    nested: tuple[Plan, ...] = ()
    if owner.node.op.family == "loop" and machine.runs_in_pieces(owner.node):
        pieces = (piece_plan(piece, machine) for piece in owner.node.attrs["pieces"])
        nested = (max(pieces, key=lambda p: p.arena_bytes),)
    return Buffer(span.name, None, offset, span.nbytes, *lifetime, owner.node.loc, nested)


def _roots(graph: Graph, free_views: frozenset[str]) -> dict[Value, Value]:
    """The value whose bytes each value is: itself, or what it is a view of."""
    roots = {v: v for v in graph.inputs}
    strided: set[Value] = set()  # values whose bytes are not in row-major order
    for node in graph.nodes:
        source = node.inputs[0] if node.inputs else None
        for value in node.outputs:
            roots[value] = value
        if source is None or len(node.outputs) != 1:
            continue
        if node.op.name in free_views or (node.op.name == "reshape" and source not in strided):
            roots[node.output] = roots[source]
            if node.op.name != "reshape":
                strided.add(node.output)
    return roots


def _lifetimes(
    graph: Graph, roots: Mapping[Value, Value]
) -> tuple[dict[Value, int], dict[Value, int]]:
    first: dict[Value, int] = dict.fromkeys(graph.inputs, 0)
    last: dict[Value, int] = dict.fromkeys(graph.inputs, 0)
    for index, node in enumerate(graph.nodes):
        for value in node.inputs:
            last[roots[value]] = index
        for value in node.outputs:
            if roots[value] is value:
                first[value] = last[value] = index
    for value in graph.outputs:
        last[roots[value]] = len(graph.nodes)
    return first, last


def _stored_over_inputs(
    graph: Graph, roots: Mapping[Value, Value], last: Mapping[Value, int]
) -> dict[Value, Value]:
    """New state that may be written where the old one is."""
    made_at = {v: i for i, node in enumerate(graph.nodes) for v in node.outputs}
    stored: dict[Value, Value] = {}
    last_check = max(may_raise(graph), default=-1)
    for output, position in graph.aliases.items():
        new, old = graph.outputs[output], graph.inputs[position]
        index = made_at.get(new)
        if index is not None and index < last_check:
            continue  # what may raise needs it: it waits in the arena until nothing can
        if index is None or roots[new] is not new or new in stored or last[old] > index:
            continue
        if may_overwrite(graph.nodes[index], old, new):
            stored[new] = old
    return stored


def _reused(
    graph: Graph,
    roots: Mapping[Value, Value],
    last: Mapping[Value, int],
    stored: Mapping[Value, Value],
    results: frozenset[Value],
    temporaries: _Temporaries,
) -> dict[Value, Value]:
    """For values of the arena, the dying operand whose bytes each takes over, if there is one."""
    inputs = set(graph.inputs)
    found: dict[Value, Value] = {}
    for index, node in enumerate(graph.nodes):
        read = [roots[v] for v in dict.fromkeys(node.inputs)]
        # Read once, and under its own name: not also through a view with another index map.
        dying = [
            v
            for v in dict.fromkeys(node.inputs)
            if last.get(v) == index and read.count(v) == 1 and v not in inputs and v not in stored
        ]
        for new in node.outputs:
            if roots[new] is not new or new in stored or new in results:
                continue
            old = next((v for v in dying if may_overwrite(node, v, new)), None)
            if old is not None and _saves(temporaries, node, new, old, {**stored, **found}):
                found[new] = old
                dying.remove(old)
    return found


def _saves(
    temporaries: _Temporaries, node: Node, new: Value, old: Value, over: Mapping[Value, Value]
) -> bool:
    """Whether writing over `old` needs no copy of what is read of it later."""
    return temporaries(node, {**over, new: old}) <= temporaries(node, over)


def _extend(reused: Mapping[Value, Value], last: dict[Value, int]) -> None:
    """What takes over bytes keeps them alive. Later ones first, so that chains add up."""
    for new, old in reversed(list(reused.items())):
        last[old] = last[new]


def over_of(node: Node, stored: Mapping[Value, Value]) -> dict[int, int]:
    """Which outputs of `node` are stored where which of its (distinct) inputs are, by position."""
    inputs = {v: i for i, v in enumerate(dict.fromkeys(node.inputs))}
    return {
        o: inputs[stored[v]]
        for o, v in enumerate(node.outputs)
        if v in stored and stored[v] in inputs
    }


# What a value is called: the op that computes it, not one that only lays it out again.
LAYOUT = FREE_VIEWS | {"reshape", "cast"}


def _name(value: Value, node: Node, updates: Mapping[Value, str]) -> str:
    """`fc1.weight`, `update of fc1.weight` (a gradient, mostly), or the ops that make it."""
    if value.hint:
        return value.hint
    if value in updates:
        return f"update of {updates[value]}"
    if node.op.name not in ("fused", "rows"):
        return node.op.name
    body: Graph = node.attrs["body"]
    position = node.outputs.index(value)
    made_by = {v: n for n in body.nodes for v in n.outputs}
    inner = body.outputs[position]
    while inner in made_by and made_by[inner].op.name in LAYOUT:
        inner = made_by[inner].inputs[0]
    if inner not in made_by:
        return inner.hint or node.op.name
    made = made_by[inner]
    return _name(inner, made, {}) if made.op.name != node.op.name else node.op.name


def _updates(graph: Graph) -> dict[Value, str]:
    """The state that each value goes into, by name: the node that reads it makes the new state.

    New state itself goes by the name of the old one. Values that go into more are left out.
    """
    hints = {graph.outputs[o]: graph.inputs[i].hint for o, i in graph.aliases.items()}
    found: dict[Value, str] = {}
    several: set[Value] = set()
    for node in graph.nodes:
        for value in dict.fromkeys(node.inputs):
            names = [
                hints[new]
                for new in node.outputs
                if hints.get(new) and new.type.shape == value.type.shape
            ]
            name = min(names, key=len, default="")  # of `weight` and `weight.exp_avg`, `weight`
            if not name:
                continue
            if value in found or not all(n.startswith(name) for n in names):
                several.add(value)
            found[value] = name
    return {v: n for v, n in (found | hints).items() if n and v not in several}
