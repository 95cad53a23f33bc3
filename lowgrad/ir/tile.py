"""Tiles: how `Op.emit` writes arithmetic down without knowing who will run it.

A Tile names the result of a statement; operators and the functions below append `Let` statements to
a Block. Backends give each function name a meaning (`FUNCTIONS` lists them all): the Triton emitter
as text, the CPU executor as a NumPy call. Floats are float32, or float64 where the data is.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from lowgrad.ir.types import DType, bool_

Literal = bool | int | float
Arg = str | bool | int | float

# name: how many operands. Comparisons and logic give bool; the rest their first operand's dtype.
FUNCTIONS: dict[str, int] = {
    **dict.fromkeys(("neg", "abs", "exp", "log", "log1p", "expm1", "sqrt", "rsqrt"), 1),
    **dict.fromkeys(("sin", "cos", "tanh", "sigmoid", "erf", "floor", "ceil", "round"), 1),
    **dict.fromkeys(("sign", "isnan", "not", "cast"), 1),
    **dict.fromkeys(("add", "sub", "mul", "div", "floordiv", "mod", "pow"), 2),
    **dict.fromkeys(("maximum", "minimum"), 2),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor"), 2),
    "where": 3,
}
_TO_BOOL = frozenset(("isnan", "eq", "ne", "lt", "le", "gt", "ge"))


@dataclass(frozen=True, slots=True)
class Let:
    """`name = fn(*args)`, of type `dtype`; args are names of earlier statements or literals."""

    name: str
    fn: str
    args: tuple[Arg, ...]
    dtype: DType


@dataclass(slots=True)
class Block:
    """Statements in order. `fresh` turns a wish into a name not used before."""

    lets: list[Let] = field(default_factory=list)
    _taken: dict[str, int] = field(default_factory=dict)

    def fresh(self, wish: str) -> str:
        """`wish`, or `wish_1`, `wish_2`, ... if it is taken."""
        count = self._taken.get(wish, 0)
        self._taken[wish] = count + 1
        return wish if count == 0 else self.fresh(f"{wish}_{count}")

    def let(self, fn: str, *args: Tile | Literal, dtype: DType, name: str = "") -> Tile:
        """Append `fn(*args)` and return its tile."""
        assert len(args) == FUNCTIONS[fn], f"{fn} takes {FUNCTIONS[fn]} operands, got {len(args)}"
        target = self.fresh(name or fn)
        operands = tuple(a.name if isinstance(a, Tile) else a for a in args)
        self.lets.append(Let(target, fn, operands, dtype))
        return Tile(self, target, dtype)


def call(fn: str, *args: Tile | Literal, dtype: DType | None = None) -> Tile:
    """`fn(*args)` in the block of the first tile among `args`."""
    like = next(a for a in args if isinstance(a, Tile))
    if dtype is None:
        dtype = bool_ if fn in _TO_BOOL else like.dtype
    return like.block.let(fn, *args, dtype=dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """The named result of a statement, with arithmetic."""

    block: Block
    name: str
    dtype: DType

    def __add__(self, other: Tile | Literal) -> Tile:
        return call("add", self, other)

    def __sub__(self, other: Tile | Literal) -> Tile:
        return call("sub", self, other)

    def __mul__(self, other: Tile | Literal) -> Tile:
        return call("mul", self, other)

    def __truediv__(self, other: Tile | Literal) -> Tile:
        return call("div", self, other)

    def __radd__(self, other: Literal) -> Tile:
        return call("add", other, self)

    def __rsub__(self, other: Literal) -> Tile:
        return call("sub", other, self)

    def __rmul__(self, other: Literal) -> Tile:
        return call("mul", other, self)

    def __rtruediv__(self, other: Literal) -> Tile:
        return call("div", other, self)

    def __neg__(self) -> Tile:
        return call("neg", self)

    def __lt__(self, other: Tile | Literal) -> Tile:
        return call("lt", self, other)

    def __le__(self, other: Tile | Literal) -> Tile:
        return call("le", self, other)

    def __gt__(self, other: Tile | Literal) -> Tile:
        return call("gt", self, other)

    def __ge__(self, other: Tile | Literal) -> Tile:
        return call("ge", self, other)


def where(condition: Tile, a: Tile | Literal, b: Tile | Literal) -> Tile:
    """`a` where `condition`, else `b`."""
    like = next(t for t in (a, b) if isinstance(t, Tile))
    return condition.block.let("where", condition, a, b, dtype=like.dtype)


def cast(x: Tile, dtype: DType) -> Tile:
    """`x` converted to `dtype`, rounding: to the 16-bit floats too, though arithmetic is wide."""
    return x.block.let("cast", x, dtype=dtype)
