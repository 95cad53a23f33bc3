"""The pointwise family: one result element from the elements at the same place of each operand."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lowgrad.errors import ArgumentError, DTypeError, ShapeError
from lowgrad.ir import tile
from lowgrad.ir.build import Tracer
from lowgrad.ir.index import Index
from lowgrad.ir.op import Op
from lowgrad.ir.slicing import Axis, Slicing, same_dim
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import DTYPES, DType, TensorType, bool_

# What is known of an element before a kernel runs: its number, an integer as an index expression,
# or nothing.
Known = bool | int | float | Index | None


class Domain(NamedTuple):
    """The dtypes that an op takes, and the word for them in errors."""

    name: str
    dtypes: frozenset[DType]


FLOATS = Domain("floats", frozenset(d for d in DTYPES if d.is_floating_point))
INTEGERS = Domain("integers", frozenset(d for d in DTYPES if d.is_integer))
NUMBERS = Domain("numbers", FLOATS.dtypes | INTEGERS.dtypes)
BOOLS = Domain("bools", frozenset((bool_,)))
ANYTHING = Domain("anything", frozenset(DTYPES))


class Pointwise(Op):
    """`arity` operands of one type; the result has that type too, or `result`'s dtype.

    `tile_fn` is the tile function that means the op; by default the one with the op's name.
    """

    family = "pointwise"
    arity: ClassVar[int] = 1
    domain: ClassVar[Domain] = NUMBERS
    result: ClassVar[DType | None] = None
    tile_fn: ClassVar[str] = ""

    def infer(self, *types: Any, **attrs: Any) -> TensorType:
        if len(types) != self.arity:
            raise ArgumentError(f"{self.name}: takes {self.arity} operands, got {len(types)}")
        first: TensorType = types[0]
        for other in types[1:]:
            check_same(self.name, first, other)
        if first.dtype not in self.domain.dtypes:
            raise DTypeError(f"{self.name}: takes {self.domain.name}, got {first}")
        return first if self.result is None else first.with_dtype(self.result)

    def emit(self, *tiles: Any, **attrs: Any) -> Tile:
        return tile.call(self.tile_fn or self.name, *tiles)

    def slicing(self, axis: Axis, **attrs: Any) -> Slicing | None:
        return same_dim(axis)

    def known(self, *args: Known, **attrs: Any) -> Known:
        """The result, if it follows from what is known of the operands.

        None, of an operand, is some finite number at which the op's result is finite too.
        """
        if any(a is None or isinstance(a, Index) for a in args):
            return None
        number: bool | int | float = np.asarray(
            self.evaluate(*map(np.asarray, args), **attrs)
        ).item()
        return number

    def same_as(self, *args: Known) -> int | None:
        """Which operand the result is, whatever those are (None) that are not known."""
        return None


class Predicate(Pointwise):
    """An op whose result is bool, or integers only: nothing flows back through it."""

    def vjp(self, g: Any, out: Any, *inputs: Any, **attrs: Any) -> tuple[Tracer | None, ...]:
        return (None,) * len(inputs)


class Step(Pointwise):
    """A unary op that is flat between its jumps: the gradient is 0, as PyTorch has it."""

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (zeros_like(x),)


class ToInteger(Step):
    """A rounding: whole numbers stay as they are."""

    def emit(self, x: Tile) -> Tile:
        return tile.call(self.name, x) if x.dtype.is_floating_point else x


def is_whole(x: Known) -> bool:
    """Whether `x` is an integer, known as a number or as an index expression."""
    return isinstance(x, Index | int) and not isinstance(x, bool)


def is_infinite(x: Known) -> bool:
    """Whether `x` is known to be an infinity."""
    return isinstance(x, float) and math.isinf(x)


def check_same(name: str, first: TensorType, other: TensorType) -> None:
    """Raise unless both types are equal."""
    if other is first or other == first:
        return
    error = ShapeError if other.shape != first.shape else DTypeError
    raise error(f"{name}: operands differ: {first} and {other}")


def zeros_like(x: Tracer) -> Tracer:
    """Zeros of `x`'s type."""
    return x.builder.full(x.type, 0)


def where(condition: Tracer, a: Tracer, b: Tracer) -> Tracer:
    """`a` where `condition`, else `b`."""
    chosen: Tracer = condition.call("where", a, b)
    return chosen
