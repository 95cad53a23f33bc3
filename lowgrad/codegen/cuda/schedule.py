"""A planned graph as a list of launches and copies, with every address a base and an offset.

Bases are what may lie elsewhere at each call: the inputs and the results; and what is allocated
once: the arena, and a table of the constants that loops need. Nothing here needs a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lowgrad.codegen.cuda.machine import GpuMachine, scratch_layout
from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.loop import fills, pieces_of
from lowgrad.codegen.lower import is_free, lower
from lowgrad.ir.graph import Graph, Location, Node, Value
from lowgrad.ir.types import TensorType
from lowgrad.ops.rows import Dim, dims_of
from lowgrad.runtime.memory import LoopLayout, Plan, addressed, piece_plan


class Base(NamedTuple):
    """What an address counts from: ("arena", 0), ("table", 0), ("input", i), ("result", i)."""

    kind: str
    position: int


class At(NamedTuple):
    """An address: `offset` bytes from `base`."""

    base: Base
    offset: int = 0

    def plus(self, nbytes: int) -> At:
        """The address `nbytes` further on."""
        return At(self.base, self.offset + nbytes)


ARENA = At(Base("arena", 0))
TABLE = At(Base("table", 0))


@dataclass(frozen=True, eq=False)
class KernelCall:
    """A kernel, and the addresses of its params in order."""

    kernel: Kernel
    addresses: tuple[At, ...]

    @property
    def loc(self) -> Location | None:
        """The user's line."""
        return self.kernel.loc


@dataclass(frozen=True)
class CopyCall:
    """`rows` rows of `width` bytes, at a pitch each, from `source` to `target`."""

    target: At
    source: At
    width: int
    rows: int = 1
    target_pitch: int = 0
    source_pitch: int = 0


Call = KernelCall | CopyCall


@dataclass
class Schedule:
    """What a call of the step does, in order.

    table: constants that the calls read; uploaded once.
    results: for each output, the result it is, or None for an input that was updated in place.
    made: the types of the results, each of which gets memory of its own at each call.
    """

    calls: list[Call] = field(default_factory=list)
    table: list[int] = field(default_factory=list)
    results: list[int | None] = field(default_factory=list)
    made: list[TensorType] = field(default_factory=list)

    @property
    def constants(self) -> npt.NDArray[np.int64]:
        """The table as it lies in memory: 16 bytes an entry, as kernels align their params."""
        table = np.zeros((len(self.table), 2), np.int64)
        table[:, 0] = self.table
        return table

    @property
    def kernels(self) -> list[Kernel]:
        """The kernels in launch order, those of loops as often as they run."""
        return [call.kernel for call in self.calls if isinstance(call, KernelCall)]


def schedule(graph: Graph, plan: Plan, machine: GpuMachine) -> Schedule:
    """The calls of `graph`, whose memory is as `plan` (made for `machine`) says."""
    made = Schedule()
    homes = {v: At(Base("input", i)) for i, v in enumerate(graph.inputs)}
    copies: list[tuple[Value, At]] = []
    for position, value in enumerate(graph.outputs):
        if position in plan.copied or (value in plan.results and value not in homes):
            at = At(Base("result", len(made.made)))
            made.made.append(value.type)
            if position in plan.copied:
                copies.append((value, at))
            else:
                homes[value] = at
            made.results.append(at.base.position)
        else:
            made.results.append(None)
    scribe = _Scribe(made, machine)
    places = scribe.graph(graph, plan, homes, ARENA)
    # Copies first: they may be of old state, which the others overwrite.
    for value, at in copies:
        scribe.copy(at, places[value], value.type.nbytes)
    scribe.late(graph, plan, places)
    return made


class _Scribe:
    """Writes the calls of graphs down, those of loops' pieces within."""

    def __init__(self, made: Schedule, machine: GpuMachine) -> None:
        self.made, self.machine = made, machine
        self._lowered: dict[Node, tuple[Kernel, ...]] = {}
        self._numbers: dict[int, At] = {}

    def graph(
        self, graph: Graph, plan: Plan, homes: Mapping[Value, At], arena: At
    ) -> dict[Value, At]:
        """Write down the nodes; the address of each value.

        homes: of inputs, and of results that have a place. arena: where the plan's arena is.
        """
        at = dict(homes)
        for index, node in enumerate(graph.nodes):
            if is_free(node) and node.output not in plan.offsets and node.output not in at:
                at[node.output] = at[node.inputs[0]]
                continue
            for value in node.outputs:
                if value in plan.stored:
                    at[value] = at[plan.stored[value]]
                elif value in plan.offsets:
                    at[value] = arena.plus(plan.offsets[value])
            self.node(node, at, arena.plus(plan.scratch.get(index, 0)))
        return at

    def late(self, graph: Graph, plan: Plan, at: Mapping[Value, At]) -> None:
        """Copy what an input takes over and could not be written there."""
        for position, taken in graph.aliases.items():
            value, home = graph.outputs[position], graph.inputs[taken]
            if plan.stored.get(value) is home:
                continue
            source = at[value]
            if position in plan.copied:
                number = self.made.results[position]
                assert number is not None, "a copied output is a result"
                source = At(Base("result", number))
                self.made.results[position] = None
            self.copy(at[home], source, value.type.nbytes)

    def node(self, node: Node, at: Mapping[Value, At], scratch: At) -> None:
        """The kernels of one node, or the pieces of a loop."""
        kernels = self._kernels(node)
        if node.op.family == "loop" and not kernels:
            self._loop(node, at, scratch)
            return
        if is_free(node):  # but has a place of its own
            source, target = at[node.inputs[0]], at[node.output]
            self.copy(target, source, node.output.type.nbytes)
            return
        offsets, _ = scratch_layout(kernels)
        for kernel in kernels:
            addresses = tuple(
                scratch.plus(offsets[p.name]) if p.role == "scratch" else at[p.value]
                for p in kernel.params
            )
            if kernel.is_copy and addresses[0] == addresses[1]:
                continue  # a scatter whose result lies where its base did
            self.made.calls.append(KernelCall(kernel, addresses))

    def _kernels(self, node: Node) -> tuple[Kernel, ...]:
        if node not in self._lowered:
            self._lowered[node] = lower(node, self.machine.tiling)
        return self._lowered[node]

    def copy(self, target: At, source: At, nbytes: int) -> None:
        """Contiguous bytes."""
        if nbytes and target != source:
            self.made.calls.append(CopyCall(target, source, nbytes))

    # --- Loops ---

    def _loop(self, node: Node, at: Mapping[Value, At], scratch: At) -> None:
        body: Graph = node.attrs["body"]
        dims = dims_of(body, node.attrs["dims"])
        layout = LoopLayout(node, self.machine)
        sums = [o for o, v in enumerate(body.outputs) if isinstance(dims[v], str)]
        for fill, position in zip(fills(node), sums, strict=True):
            self.node(fill, {fill.output: at[node.outputs[position]]}, scratch)
        ins = [dims[v] for v in body.inputs]
        outs = [dims[v] for v in body.outputs]
        first = 0
        for graph, taken, times in pieces_of(node):
            piece, plan = addressed(graph), piece_plan(graph, self.machine)
            for _ in range(times):
                steps = _Steps(first, taken, node.attrs["steps"])
                given: list[At] = []
                for position, (value, dim) in enumerate(zip(node.inputs, ins, strict=True)):
                    given.append(
                        self._packed(value, at[value], dim, steps, layout, position, scratch)
                    )
                given += [at[node.outputs[o]] for o in sums]
                if len(graph.inputs) > len(ins) + len(sums):
                    given.append(self._number(first))
                unpack: list[tuple[At, At, TensorType, int]] = []
                for position, (value, dim) in enumerate(zip(node.outputs, outs, strict=True)):
                    if not isinstance(dim, int):
                        continue
                    own = layout.spread.get(position)
                    place = at[value].plus(steps.start_bytes(value.type, dim))
                    if own is not None:
                        unpack.append((place, scratch.plus(own), value.type, dim))
                        place = scratch.plus(own)
                    given.append(place)
                homes = dict(zip(piece.inputs, given, strict=True))
                places = self.graph(piece, plan, homes, scratch)
                self._piece_late(piece, plan, places)
                for whole, piece_at, type_, along in unpack:
                    self._strided(whole, piece_at, steps.copied(type_, along), is_packing=False)
                first += taken

    def _piece_late(self, piece: Graph, plan: Plan, at: Mapping[Value, At]) -> None:
        for position, taken in piece.aliases.items():
            value, home = piece.outputs[position], piece.inputs[taken]
            if plan.stored.get(value) is not home:
                self.copy(at[home], at[value], value.type.nbytes)

    def _packed(
        self,
        value: Value,
        whole: At,
        dim: Dim,
        steps: _Steps,
        layout: LoopLayout,
        position: int,
        scratch: At,
    ) -> At:
        """Where a piece finds its part of an operand; side by side, if it was not."""
        if not isinstance(dim, int):
            return whole
        start = whole.plus(steps.start_bytes(value.type, dim))
        if position not in layout.packed:
            return start
        own = scratch.plus(layout.packed[position])
        self._strided(own, start, steps.copied(value.type, dim), is_packing=True)
        return own

    def _strided(self, target: At, source: At, shape: _Rows, *, is_packing: bool) -> None:
        narrow, wide = shape.width, shape.pitch
        pitches = (narrow, wide) if is_packing else (wide, narrow)
        self.made.calls.append(CopyCall(target, source, shape.width, shape.rows, *pitches))

    def _number(self, number: int) -> At:
        """Where the table has this constant."""
        if number not in self._numbers:
            self._numbers[number] = TABLE.plus(16 * len(self.made.table))
            self.made.table.append(number)
        return self._numbers[number]


class _Rows(NamedTuple):
    """`rows` rows of `width` bytes, `pitch` apart in the whole array."""

    rows: int
    width: int
    pitch: int


class _Steps(NamedTuple):
    """`taken` of `total` steps of a loop, from `first` on."""

    first: int
    taken: int
    total: int

    def start_bytes(self, type_: TensorType, dim: int) -> int:
        """Where these steps' part of an array begins, which goes along `dim`."""
        unit = type_.shape[dim] // self.total
        return self.first * unit * _after(type_, dim)

    def copied(self, type_: TensorType, dim: int) -> _Rows:
        """These steps' part of an array, as rows."""
        unit = type_.shape[dim] // self.total
        inner = _after(type_, dim)
        return _Rows(
            int(np.prod(type_.shape[:dim], dtype=np.int64)),
            self.taken * unit * inner,
            type_.shape[dim] * inner,
        )


def _after(type_: TensorType, dim: int) -> int:
    """Bytes of what lies behind one element of `dim`."""
    return int(np.prod(type_.shape[dim + 1 :], dtype=np.int64)) * type_.dtype.itemsize


def bases_of(calls: Sequence[Call]) -> dict[Base, list[tuple[int, int, int]]]:
    """Who uses each base: (call, param or 0 for target and 1 for source, offset)."""
    found: dict[Base, list[tuple[int, int, int]]] = {}
    for index, call in enumerate(calls):
        pairs = call.addresses if isinstance(call, KernelCall) else (call.target, call.source)
        for position, address in enumerate(pairs):
            found.setdefault(address.base, []).append((index, position, address.offset))
    return found
