"""The Kernel language: one launch, as data. Statements run in order, on tiles, in every program.

A tile is a block of lanes; a name without lanes is a scalar. Masks and identities of reductions are
statements and fields here, put in by the skeletons, so that no op can forget them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal as OneOf

from lowgrad.errors import Location
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index
from lowgrad.ir.tile import Arg, Let, Literal
from lowgrad.ir.types import DType, TensorType

Role = OneOf["in", "out", "scratch"]


@dataclass(frozen=True, slots=True)
class Box:
    """What a descriptor says: the value's memory is a matrix of `shape`, read in blocks of `block`.

    Rows follow each other without gaps; a block's elements past the end of the matrix are 0.
    """

    shape: tuple[int, int]
    block: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Param:
    """A pointer argument. `value` is the node's input or output; a scratch one is in no graph.

    Scratch lives from the kernel that writes it to the last one of the same node.
    box: given if the argument is a descriptor in place of a pointer, which only LoadBox reads.
    """

    name: str
    type: TensorType
    role: Role
    value: Value
    box: Box | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """The condition low <= expr < high; None is no limit."""

    expr: Index
    low: int | None
    high: int | None


@dataclass(frozen=True, slots=True)
class ProgramId:
    """name = the number of this program in the grid."""

    name: str


@dataclass(frozen=True, slots=True)
class Lanes:
    """name = start + 0, 1, 2, ... of `block` lanes; `view` places them in a tile: "[:, None]"."""

    name: str
    start: Index
    block: str
    view: str


@dataclass(frozen=True, slots=True)
class Assign:
    """name = the value of an index expression."""

    name: str
    expr: Index


@dataclass(frozen=True, slots=True)
class Test:
    """name = whether all bounds hold, and all of the bool tiles `also`."""

    name: str
    bounds: tuple[Bound, ...]
    also: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """name = the elements at flat index `at`; lanes where a mask does not hold read `other`.

    shape: the lanes' constants, given where masks have lanes that `at` has not.
    widen: 16-bit floats become f32.
    """

    name: str
    param: str
    at: Index
    masks: tuple[str, ...]
    dtype: DType
    other: Literal | None = None
    widen: bool = True
    shape: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LoadBox:
    """name = the block of a descriptor's matrix at row and column `at`; its transpose, if asked."""

    name: str
    param: str
    at: tuple[Index, Index]
    dtype: DType
    is_transposed: bool


@dataclass(frozen=True, slots=True)
class Store:
    """Write `value`, rounded to the param's dtype, where all masks hold."""

    param: str
    at: Index
    value: Arg
    masks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Fill:
    """name = a tile of one number; a scalar if shape is empty."""

    name: str
    shape: tuple[str, ...]
    value: Literal
    dtype: DType


@dataclass(frozen=True, slots=True)
class Broadcast:
    """name = value, repeated to `shape`."""

    name: str
    value: str
    shape: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reduce:
    """name = `value` reduced along tile axis `axis` by `fn`: sum, prod, max, min, any or all.

    max_number is the maximum of what is no NaN, or NaN.
    An axis of None is all of them.
    Lanes where a mask does not hold count as `identity`.
    """

    name: str
    fn: str
    value: str
    axis: int | None
    keep: bool
    dtype: DType
    masks: tuple[str, ...]
    identity: Literal


@dataclass(frozen=True, slots=True)
class Dot:
    """acc += a @ b. `fn` is "dot" (tensor cores), or "multiply" (products, then a sum)."""

    acc: str
    a: str
    b: str
    fn: str
    precision: str


@dataclass(frozen=True, slots=True)
class Half:
    """name = the first (which: 0) or the second half of the columns of the tile `value`."""

    name: str
    value: str
    which: int


@dataclass(frozen=True, slots=True)
class Transpose:
    """name = the tile `value` with its two axes exchanged."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class CumSum:
    """name = the running sums of `value` along tile axis `axis`."""

    name: str
    value: str
    axis: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """All threads of the program wait for each other; no value depends on it."""


@dataclass(frozen=True, slots=True)
class Update:
    """Give the existing name `name` the value `value`: what a loop carries."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Loop:
    """The body, for `name` in steps from the greatest of `starts` to the least of `limits`.

    No starts are 0, no limits are `stop`. Several in one are the least of them among starts, and
    the greatest among limits.  flat: whether the loop that it holds is to be joined
    with it, so that copies for the next turn begin before this one ends.
    """

    name: str
    stop: int
    step: str
    body: tuple[Statement, ...]
    limits: tuple[Index | tuple[Index, ...], ...] = ()
    starts: tuple[Index | tuple[Index, ...], ...] = ()
    flat: bool = False


@dataclass(frozen=True, slots=True)
class When:
    """The body, in programs where the scalars `tests` hold."""

    tests: tuple[str, ...]
    body: tuple[Statement, ...]


Statement = (
    Let
    | ProgramId
    | Lanes
    | Assign
    | Test
    | Load
    | LoadBox
    | Store
    | Fill
    | Broadcast
    | Reduce
    | Dot
    | Half
    | Transpose
    | CumSum
    | Barrier
    | Update
    | Loop
    | When
)


@dataclass(frozen=True, eq=False)
class Kernel:
    """One launch of `grid` programs.

    constants: the constexpr arguments, by name.  locs: the user's line that a name comes from.
    wide: whether offsets are 64-bit.  bytes_read and bytes_written count each buffer once.
    in_place: (out, in) params that may share memory: each lane reads its place before writing it.
    touched: the most bytes that are read or written of a param, where that is less than all.
    """

    name: str
    params: tuple[Param, ...]
    constants: Mapping[str, int]
    body: tuple[Statement, ...]
    grid: tuple[int, ...]
    num_warps: int
    num_stages: int
    node: Node
    flops: int
    wide: bool = False
    locs: Mapping[str, Location] = field(default_factory=dict)
    in_place: tuple[tuple[str, str], ...] = ()
    touched: Mapping[str, int] = field(default_factory=dict)

    @property
    def loc(self) -> Location | None:
        """The user's line: the node's, or of the first statement that has one."""
        return self.node.loc or next(iter(self.locs.values()), None)

    @property
    def bytes_read(self) -> int:
        """Bytes of all inputs, each once."""
        return sum({p.value: self._nbytes(p) for p in self.params if self._is_read(p)}.values())

    @property
    def bytes_written(self) -> int:
        """Bytes of all outputs, each once."""
        return sum(self._nbytes(p) for p in self.params if not self._is_read(p))

    def _nbytes(self, param: Param) -> int:
        return min(param.type.nbytes, self.touched.get(param.name, param.type.nbytes))

    @property
    def is_copy(self) -> bool:
        """Whether each element of the one output is the same element of the one input, and all are.

        So that where both have the same memory there is nothing to run.
        """
        loads = [s for s in self.body if isinstance(s, Load)]
        stores = [s for s in self.body if isinstance(s, Store)]
        types = {p.type for p in self.params}
        if len(self.params) != 2 or len(types) != 1 or len(loads) != 1 or len(stores) != 1:
            return False
        (load,), (store,) = loads, stores
        return (store.value, store.at, store.masks) == (load.name, load.at, load.masks)

    def _is_read(self, param: Param) -> bool:
        return param.name in self._loaded

    @cached_property
    def _loaded(self) -> frozenset[str]:
        return frozenset(s.param for s in walk(self.body) if isinstance(s, Load | LoadBox))

    @cached_property
    def source(self) -> str:
        """The kernel as the text of a Triton module."""
        # Codegen's core does not depend on a backend; this one is the only one that there is.
        from lowgrad.codegen.triton.emit import emit

        return emit(self)


def walk(body: tuple[Statement, ...] | list[Statement]) -> Iterator[Statement]:
    """All statements, those in loops and branches too."""
    for statement in body:
        yield statement
        if isinstance(statement, Loop | When):
            yield from walk(statement.body)


def defined(statement: Statement) -> str:
    """The name that a statement defines; "" if none."""
    if isinstance(statement, Store | Dot | When | Update | Barrier):
        return ""
    return statement.name
