"""Writing a kernel's statements down: fresh names, each statement once, scopes, and lanes.

A Body is the tile Block that `Op.emit` writes to. For every name it knows the dtype and the lanes
(names of the Lanes that it varies along), from which the skeletons derive masks.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lowgrad.codegen.kernel import (
    Assign,
    Bound,
    Broadcast,
    Fill,
    Lanes,
    Load,
    Loop,
    ProgramId,
    Statement,
    Store,
    Test,
    Update,
    When,
    defined,
    walk,
)
from lowgrad.errors import Location
from lowgrad.ir.index import INT32_LIMIT, Index, Symbol, as_index, symbol
from lowgrad.ir.tile import Arg, Block, Let, Literal, Tile
from lowgrad.ir.types import DType, float32, float64, int64

# What the results of tile functions are called whose names are Python's.
FN_NAMES = {"and": "both", "or": "either", "not": "negated", "cast": "as_is", "quick_exp": "exp"}
# Names that the emitted text uses itself.
RESERVED = frozenset((*keyword.kwlist, "tl", "triton", "range", "float"))

# A place, or several: see `Loop`.
End = Index | int | tuple[Index | int, ...]


def sanitized(hint: str) -> str:
    """`hint` as a Python name that shadows nothing a kernel uses; "" of nothing."""
    name = re.sub(r"\W+", "_", hint, flags=re.ASCII).strip("_")[:40]
    if name and (name[0].isdigit() or name in RESERVED):
        name = f"v_{name}"
    return name


@dataclass(frozen=True, slots=True)
class Lane:
    """Lanes in use: their name, how many they count (the tail is masked), their place in a tile.

    constant: the constexpr that holds the block's size.  mask: the test of the tail, or "".
    """

    name: str
    size: int
    constant: str
    axis: int
    mask: str


class Body(Block):
    """Statements under construction. The innermost open scope gets what is added."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        super().__init__()
        self.statements: list[Statement] = []
        self.lanes: dict[str, Lane] = {}
        self.locs: dict[str, Location] = {}
        # What the node being emitted is called and where it is from.
        self.wish = ""
        self.loc: Location | None = None
        # Functions that stand in for others here, of all but float64.
        self.stand_ins: dict[str, str] = {}
        self._scopes: list[dict[Any, Any]] = [{}]
        self._lanes_of: dict[str, frozenset[str]] = {}
        self._magnitude = 0
        for name in taken:
            self.fresh(name)

    # --- Facts ---

    @property
    def is_wide(self) -> bool:
        """Whether some offset needs 64 bits."""
        return self._magnitude >= INT32_LIMIT

    def lanes_of(self, *args: Arg | Index | None) -> frozenset[str]:
        """The lanes along which any of `args` varies."""
        found: frozenset[str] = frozenset()
        for arg in args:
            if isinstance(arg, Index):
                found = found.union(*(self._lanes_of[s] for s in arg.symbols))
            elif isinstance(arg, str):
                found |= self._lanes_of[arg]
        return found

    def lanes_with(self, shape: tuple[str, ...]) -> frozenset[str]:
        """The lanes in use that a tile of this shape varies along."""
        found = (v for v in self.lanes.values() if v.axis < len(shape))
        return frozenset(v.name for v in found if shape[v.axis] == v.constant)

    def known(self, key: Any) -> Any:
        """What `remember` was told of `key` in this scope or one around it; None if nothing."""
        for scope in reversed(self._scopes):
            if key in scope:
                return scope[key]
        return None

    def remember(self, key: Any, result: Any) -> None:
        """Let `known` give `result` until the innermost scope ends."""
        self._scopes[-1][key] = result

    # --- Statements ---

    def add(self, statement: Statement, lanes: frozenset[str] = frozenset()) -> None:
        """Append a statement; what it defines varies along `lanes`."""
        self.statements.append(statement)
        name = defined(statement)
        if name:
            self._lanes_of[name] = lanes
            if self.loc is not None:
                self.locs[name] = self.loc

    def let(self, fn: str, *args: Tile | Literal, dtype: DType, name: str = "") -> Tile:
        """Append `fn(*args)`, unless this was said before; its tile."""
        if fn == "cast" and (same := _free_cast(args[0], dtype)) is not None:
            return same
        if dtype is not float64:
            fn = self.stand_ins.get(fn, fn)
        operands = tuple(a.name if isinstance(a, Tile) else a for a in args)
        key = (fn, operands, tuple(type(a) for a in operands), dtype)
        if (tile := self.known(key)) is None:
            target = self.fresh(sanitized(name or self.wish or FN_NAMES.get(fn, fn)) or "value")
            lanes = self.lanes_of(*operands)
            self.add(Let(target, fn, operands, dtype), lanes)
            tile = Tile(self, target, dtype)
            self.remember(key, tile)
        assert isinstance(tile, Tile)
        return tile

    def fill(
        self, value: Literal, dtype: DType, shape: tuple[str, ...] = (), name: str = ""
    ) -> Tile:
        """A tile of one number; never shared, since loops update their accumulators."""
        target = self.fresh(name or "value")
        lanes = self.lanes_with(shape)
        self.add(Fill(target, shape, value, dtype), lanes)
        return Tile(self, target, dtype)

    def test(self, bounds: tuple[Bound, ...], also: tuple[str, ...] = (), name: str = "") -> str:
        """The name of a bool tile: whether all bounds hold, and all of `also`."""
        key = ("test", bounds, also)
        if (known := self.known(key)) is None:
            for bound in bounds:
                self.note(bound.expr)
            known = self.fresh(name or "inside")
            lanes = self.lanes_of(*(b.expr for b in bounds), *also)
            self.add(Test(known, bounds, also), lanes)
            self.remember(key, known)
        assert isinstance(known, str)
        return known

    def position(self, expr: Index, dtype: DType = int64) -> Tile:
        """The value of an index expression, as a tile."""
        if (tile := self.known(("position", expr, dtype))) is None:
            (place,) = self.assign("place", expr).symbols
            # Offsets are 32-bit or 64-bit as the kernel needs; the data's type is its own.
            target = self.fresh(sanitized(self.wish) or "col")
            self.add(Let(target, "cast", (place,), dtype), self.lanes_of(place))
            tile = Tile(self, target, dtype)
            self.remember(("position", expr, dtype), tile)
        assert isinstance(tile, Tile)
        return tile

    def load(self, statement: Load, dtype: DType) -> Tile:
        """Append a load, its name a wish, unless the same was loaded before; its tile."""
        key = replace(statement, name="")
        if (tile := self.known(key)) is None:
            self.note(statement.at)
            target = self.fresh(statement.name)
            lanes = self.lanes_of(statement.at)
            if statement.shape:
                lanes |= self.lanes_with(statement.shape)
            self.add(replace(statement, name=target), lanes)
            tile = Tile(self, target, dtype)
            self.remember(key, tile)
        assert isinstance(tile, Tile)
        return tile

    def store(self, param: str, at: Index, value: Tile | Literal, masks: tuple[str, ...]) -> None:
        """Append a store."""
        self.note(at)
        self.add(Store(param, at, value.name if isinstance(value, Tile) else value, masks))

    def update(self, target: Tile, value: Tile) -> None:
        """Give the name of `target` another value."""
        self.add(Update(target.name, value.name))

    def broadcast(self, value: Tile | Literal, shape: tuple[str, ...], dtype: DType) -> Tile:
        """`value` with all the lanes of `shape`."""
        if not isinstance(value, Tile):
            return self.fill(value, dtype, shape)
        lanes = self.lanes_with(shape)
        if lanes and self.lanes_of(value.name) >= lanes:
            return value
        target = self.fresh(f"{value.name}_all")
        self.add(Broadcast(target, value.name, shape), lanes)
        return Tile(self, target, value.dtype)

    # --- Index symbols ---

    def note(self, expr: Index) -> None:
        """Remember how large the offsets of this kernel become."""
        self._magnitude = max(self._magnitude, expr.magnitude)

    def program_id(self, size: int, wish: str = "pid") -> Index:
        """The number of this program, of `size`."""
        return self._named(wish, size, lambda name: ProgramId(name))

    def assign(self, wish: str, expr: Index) -> Index:
        """A name for an index expression, if it is not a name or a constant already."""
        is_plain = expr.is_constant or (
            len(expr.terms) == 1
            and isinstance(expr.terms[0][0], Symbol)
            and expr.terms[0][1] == 1
            and not expr.constant
        )
        if is_plain:
            return expr
        self.note(expr)
        lanes = self.lanes_of(expr)
        return self._named(wish, expr.bounds[1] + 1, lambda name: Assign(name, expr), lanes)

    def _named(self, wish: str, size: int, make: Any, lanes: frozenset[str] = frozenset()) -> Index:
        found = symbol(wish, size)
        if found.is_constant:
            return found
        name = self.fresh(wish)
        self.add(make(name), lanes)
        return symbol(name, size)

    def add_lanes(
        self,
        wish: str,
        size: int,
        start: Index,
        constant: str,
        block: int,
        axis: int = 0,
        view: str = "",
        mask: str = "mask",
        total: int = 0,
    ) -> Index:
        """Lanes start, start + 1, ... of the numbers below `size`, with a mask if there is a tail.

        block: the value of `constant`.  total: lanes of all programs together, if not whole blocks.
        """
        total = total or -(-size // block) * block
        name = self.fresh(wish)
        self.note(start)
        self._magnitude = max(self._magnitude, total)
        self.add(Lanes(name, start, constant, view), frozenset((name,)))
        tail = ""
        if total > size:
            found = Index(((Symbol(name, total), 1),), 0)
            tail = self.test((Bound(found, None, size),), name=mask)
        self.lanes[name] = Lane(name, size, constant, axis, tail)
        return symbol(name, size)

    def masks_of(self, *args: Arg | Index | None) -> tuple[str, ...]:
        """The tails of all lanes along which `args` vary."""
        lanes = self.lanes_of(*args)
        return tuple(v.mask for v in self.lanes.values() if v.name in lanes and v.mask)

    # --- Scopes ---

    @contextmanager
    def loop(
        self,
        wish: str,
        stop: int,
        step: str,
        *,
        limits: Iterable[End] = (),
        starts: Iterable[End] = (),
        flat: bool = False,
    ) -> Iterator[Index]:
        """Inside, statements belong to a loop up to `stop` (`Loop`); yields its variable."""
        with self._scope() as inner:
            name = self.fresh(wish)
            self._lanes_of[name] = frozenset()
            # Never the constant 0, even for one turn: the body is written in terms of it.
            yield Index(((Symbol(name, max(stop, 2)), 1),), 0)
        ends = (tuple(map(_end, limits)), tuple(map(_end, starts)))
        self.add(Loop(name, stop, step, tuple(inner), *ends, flat))

    @contextmanager
    def when(self, *tests: str) -> Iterator[None]:
        """Inside, statements run only in programs where the scalars `tests` hold."""
        with self._scope() as inner:
            yield
        self.add(When(tests, tuple(inner)))

    @contextmanager
    def _scope(self) -> Iterator[list[Statement]]:
        outer, self.statements = self.statements, []
        lanes, taken = dict(self.lanes), dict(self._taken)
        self._scopes.append({})
        inner = self.statements
        try:
            yield inner
        finally:
            self._scopes.pop()
            # The next scope may use the same names again: none of them is read any more.
            self.statements, self.lanes, self._taken = outer, lanes, taken

    def finished(self) -> tuple[Statement, ...]:
        """All statements, with a name for each offset that is used more than once."""
        # Names of closed scopes are free again for what follows them, not for what goes inside.
        self._taken.update(dict.fromkeys(map(defined, walk(self.statements)), 1))
        return _offsets_named(self, tuple(self.statements), frozenset())


def _end(of: End) -> Index | tuple[Index, ...]:
    return tuple(map(as_index, of)) if isinstance(of, tuple) else as_index(of)


def _free_cast(x: Tile | Literal, dtype: DType) -> Tile | None:
    """`x` itself if converting it to `dtype` changes nothing: arithmetic is in wide types."""
    if not isinstance(x, Tile):
        return None
    is_same = x.dtype is dtype and not dtype.is_low_precision
    is_wide = x.dtype.is_low_precision and dtype is float32
    if is_same or is_wide:
        return Tile(x.block, x.name, dtype)
    return None


# --- Repeated offsets --------------------------------------------------------------------------


def _offsets_named(
    body: Body, statements: tuple[Statement, ...], outside: frozenset[str]
) -> tuple[Statement, ...]:
    """Give each offset that several loads and stores share a name, where it is first known."""
    result: list[Statement] = []
    names: dict[Index, Index] = {}
    uses = _uses(statements)
    known = set(outside)
    for statement in statements:
        inner = [s.at for s in walk((statement,)) if isinstance(s, Load | Store)]
        for at in dict.fromkeys(inner):
            if at not in names and uses[at] > 1 and _is_long(at) and at.symbols <= known:
                name = body.fresh("offs")
                result.append(Assign(name, at))
                names[at] = Index(((Symbol(name, max(at.bounds[1] + 1, 2)), 1),), 0)
        statement = _renamed(statement, names)
        known.add(defined(statement))
        if isinstance(statement, Loop | When):
            inside = _offsets_named(body, statement.body, frozenset(known))
            statement = replace(statement, body=inside)
        result.append(statement)
    return tuple(result)


def _uses(statements: tuple[Statement, ...]) -> Mapping[Index, int]:
    counts: dict[Index, int] = {}
    for statement in walk(statements):
        if isinstance(statement, Load | Store):
            counts[statement.at] = counts.get(statement.at, 0) + 1
    return counts


def _is_long(at: Index) -> bool:
    return len(at.terms) + (at.constant != 0) > 1 or any(
        not isinstance(atom, Symbol) or c != 1 for atom, c in at.terms
    )


def _renamed(statement: Statement, names: Mapping[Index, Index]) -> Statement:
    if isinstance(statement, Load | Store):
        return replace(statement, at=names.get(statement.at, statement.at))
    if isinstance(statement, Loop | When):
        return replace(statement, body=tuple(_renamed(s, names) for s in statement.body))
    return statement
