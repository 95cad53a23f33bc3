"""Comparison, logic, bits, choice and conversion."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lowgrad.errors import ArgumentError, DTypeError, ShapeError
from lowgrad.ir import tile
from lowgrad.ir.build import Tracer
from lowgrad.ir.index import Index, as_index
from lowgrad.ir.op import Array, register
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import DType, TensorType, bool_
from lowgrad.ops.pointwise.base import (
    ANYTHING,
    BOOLS,
    INTEGERS,
    Known,
    Pointwise,
    Predicate,
    check_same,
    is_infinite,
    is_whole,
    where,
    zeros_like,
)


class Comparison(Predicate):
    """Two operands of any dtype to bool. NaN differs from everything and is not ordered.

    within: (low, high) if a op b, of integers, is low <= a - b < high; None is no limit.
    """

    arity = 2
    domain = ANYTHING
    result = bool_
    within: ClassVar[tuple[int | None, int | None] | None] = None

    def difference(self, a: Known, b: Known) -> Index | None:
        """The a - b that `within` is about, if it is known and depends on a place."""
        if self.within is None or not (is_whole(a) and is_whole(b)):
            return None
        assert isinstance(a, Index | int), "an integer is one of these"
        assert isinstance(b, Index | int), "an integer is one of these"
        found = as_index(a - b)
        return None if found.is_constant else found


class Eq(Comparison):
    """a == b; false if either is NaN."""

    name = "eq"
    within = (0, 1)

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.equal(a, b)

    def known(self, *args: Known, **attrs: Any) -> Known:
        if None in args and any(map(is_infinite, args)):
            return False  # what is not known is finite
        return super().known(*args)


class Ne(Comparison):
    """a != b; true if either is NaN."""

    name = "ne"

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.not_equal(a, b)

    def known(self, *args: Known, **attrs: Any) -> Known:
        if None in args and any(map(is_infinite, args)):
            return True  # what is not known is finite
        return super().known(*args)


class Lt(Comparison):
    """a < b; false if either is NaN."""

    name = "lt"
    within = (None, 0)

    def evaluate(self, a: Array, b: Array) -> Any:
        with np.errstate(invalid="ignore"):
            return np.less(a, b)


class Le(Comparison):
    """a <= b; false if either is NaN."""

    name = "le"
    within = (None, 1)

    def evaluate(self, a: Array, b: Array) -> Any:
        with np.errstate(invalid="ignore"):
            return np.less_equal(a, b)


class Gt(Comparison):
    """a > b; false if either is NaN."""

    name = "gt"
    within = (1, None)

    def evaluate(self, a: Array, b: Array) -> Any:
        with np.errstate(invalid="ignore"):
            return np.greater(a, b)


class Ge(Comparison):
    """a >= b; false if either is NaN."""

    name = "ge"
    within = (0, None)

    def evaluate(self, a: Array, b: Array) -> Any:
        with np.errstate(invalid="ignore"):
            return np.greater_equal(a, b)


class IsNan(Predicate):
    """Whether x, a number, is NaN; no integer is."""

    name = "isnan"
    result = bool_

    def evaluate(self, x: Array) -> Any:
        return np.isnan(x)

    def emit(self, x: Tile) -> Tile:
        return tile.call("isnan", x) if x.dtype.is_floating_point else tile.call("ne", x, x)


class LogicalNot(Predicate):
    """not x, of bools."""

    name = "logical_not"
    domain = BOOLS
    tile_fn = "not"

    def evaluate(self, x: Array) -> Any:
        return np.logical_not(x)


class LogicalAnd(Predicate):
    """a and b, of bools."""

    name = "logical_and"
    arity = 2
    domain = BOOLS
    tile_fn = "and"

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.logical_and(a, b)

    def known(self, *args: Known, **attrs: Any) -> Known:
        return False if False in args else super().known(*args)

    def same_as(self, *args: Known) -> int | None:
        a, b = args
        return 0 if a is False or b is True else 1 if a is True or b is False else None


class LogicalOr(Predicate):
    """a or b, of bools."""

    name = "logical_or"
    arity = 2
    domain = BOOLS
    tile_fn = "or"

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.logical_or(a, b)

    def known(self, *args: Known, **attrs: Any) -> Known:
        return True if True in args else super().known(*args)

    def same_as(self, *args: Known) -> int | None:
        a, b = args
        return 0 if a is True or b is False else 1 if a is False or b is True else None


class LogicalXor(Predicate):
    """Either a or b but not both, of bools."""

    name = "logical_xor"
    arity = 2
    domain = BOOLS
    tile_fn = "xor"

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.logical_xor(a, b)


class BitwiseAnd(Predicate):
    """a & b, bit by bit, of integers."""

    name = "bitwise_and"
    arity = 2
    domain = INTEGERS
    tile_fn = "and"

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.bitwise_and(a, b)


class BitwiseOr(Predicate):
    """a | b, bit by bit, of integers."""

    name = "bitwise_or"
    arity = 2
    domain = INTEGERS
    tile_fn = "or"

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.bitwise_or(a, b)


class BitwiseXor(Predicate):
    """a ^ b, bit by bit, of integers."""

    name = "bitwise_xor"
    arity = 2
    domain = INTEGERS
    tile_fn = "xor"

    def evaluate(self, a: Array, b: Array) -> Any:
        return np.bitwise_xor(a, b)


class Where(Pointwise):
    """a where the bool condition holds, else b; a and b have equal types of any dtype.

    The side not taken gets gradient 0. That 0 still meets the derivatives further back: NaN * 0 is
    NaN, so what is not taken must be made harmless before it is computed, not after.
    """

    name = "where"
    arity = 3

    def infer(self, *types: Any) -> TensorType:
        if len(types) != 3:
            raise ArgumentError(f"where: takes 3 operands, got {len(types)}")
        condition, a, b = types
        check_same("where", a, b)
        if condition.dtype is not bool_:
            raise DTypeError(f"where: the condition is {condition}, not bool")
        if condition.shape != a.shape:
            raise ShapeError(f"where: operands differ: condition {condition} and {a}")
        return a

    def evaluate(self, condition: Array, a: Array, b: Array) -> Array:
        return np.where(condition, a, b)

    def vjp(
        self, g: Tracer, out: Tracer, condition: Tracer, a: Tracer, b: Tracer
    ) -> tuple[None, Tracer, Tracer]:
        zero = zeros_like(g)
        return None, where(condition, g, zero), where(condition, zero, g)

    def emit(self, condition: Tile, a: Tile, b: Tile) -> Tile:
        return tile.where(condition, a, b)

    def known(self, *args: Known, **attrs: Any) -> Known:
        condition, a, b = args
        if condition is None:
            return a if a == b else None
        return a if condition else b

    def same_as(self, *args: Known) -> int | None:
        return None if args[0] is None else 1 if args[0] else 2


class Cast(Pointwise):
    """x as `dtype`, from any to any. Always a rounding point, inside a fused region too.

    Floats to integers truncate toward 0; out of the integers' range the result is unspecified, as
    it is in PyTorch. To bool is x != 0, so NaN is true. Bools become exactly 0 and 1.
    """

    name = "cast"
    domain = ANYTHING

    def infer(self, x: TensorType, *, dtype: DType) -> TensorType:
        return x.with_dtype(dtype)

    def evaluate(self, x: Array, *, dtype: DType) -> Array:
        with np.errstate(all="ignore"):
            return x.astype(dtype.numpy)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, dtype: DType) -> tuple[Tracer | None]:
        if not (dtype.is_floating_point and x.dtype.is_floating_point):
            return (None,)
        return (g.call("cast", dtype=x.dtype),)

    def emit(self, x: Tile, *, dtype: DType) -> Tile:
        return tile.cast(x, dtype)

    def known(self, *args: Known, **attrs: Any) -> Known:
        (x,) = args
        return x if isinstance(x, Index) else super().known(x, **attrs)


class StopGradient(Pointwise):
    """x, of any dtype, with no gradient; `simplify` removes it once autodiff is done."""

    name = "stop_gradient"
    domain = ANYTHING

    def evaluate(self, x: Array) -> Array:
        return x

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[None]:
        return (None,)

    def put(self, base: Tracer, new: Tracer) -> Tracer:
        """x.detach() was overwritten with `new`: so is x."""
        return new

    def emit(self, x: Tile) -> Tile:
        return x

    def known(self, *args: Known, **attrs: Any) -> Known:
        return args[0]


eq = register(Eq())
ne = register(Ne())
lt = register(Lt())
le = register(Le())
gt = register(Gt())
ge = register(Ge())
isnan = register(IsNan())
logical_not = register(LogicalNot())
logical_and = register(LogicalAnd())
logical_or = register(LogicalOr())
logical_xor = register(LogicalXor())
bitwise_and = register(BitwiseAnd())
bitwise_or = register(BitwiseOr())
bitwise_xor = register(BitwiseXor())
where_ = register(Where())
cast = register(Cast())
stop_gradient = register(StopGradient())
