"""Arithmetic: signs and rounding, sums and quotients, powers, the larger and the smaller."""

from __future__ import annotations

from typing import Any

import numpy as np

from lowgrad.errors import ArgumentError
from lowgrad.ir.build import Tracer
from lowgrad.ir.index import Index
from lowgrad.ir.op import Array, register
from lowgrad.ops.pointwise.base import (
    FLOATS,
    Known,
    Pointwise,
    Step,
    ToInteger,
    is_infinite,
    where,
    zeros_like,
)


class Neg(Pointwise):
    """-x, of numbers; integers wrap, so the least one and every u8 stay in range."""

    name = "neg"

    def evaluate(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.negative(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (-g,)

    def known(self, *args: Known, **attrs: Any) -> Known:
        (x,) = args
        return x * -1 if isinstance(x, Index) else super().known(x)


class Abs(Pointwise):
    """|x|, of numbers. The gradient at 0 is 0."""

    name = "abs"

    def evaluate(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.abs(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * x.call("sign"),)


class Sign(Step):
    """-1, 0 or 1, of numbers. NaN stays NaN, as in NumPy and JAX, so that no NaN is lost."""

    name = "sign"

    def evaluate(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.sign(x)


class Floor(ToInteger):
    """The greatest whole number not above x, of numbers."""

    name = "floor"

    def evaluate(self, x: Array) -> Array:
        return np.floor(x) if x.dtype.kind == "f" else x


class Ceil(ToInteger):
    """The least whole number not below x, of numbers."""

    name = "ceil"

    def evaluate(self, x: Array) -> Array:
        return np.ceil(x) if x.dtype.kind == "f" else x


class Round(ToInteger):
    """The nearest whole number, halves to the even one, of numbers."""

    name = "round"

    def evaluate(self, x: Array) -> Array:
        return np.rint(x) if x.dtype.kind == "f" else x


class Add(Pointwise):
    """a + b, of numbers."""

    name = "add"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.add(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return g, g

    def known(self, *args: Known, **attrs: Any) -> Known:
        a, b = args
        if isinstance(a, Index | int) and isinstance(b, Index | int):
            return a + b
        return _the_infinite(a, b) if None in args else super().known(a, b)


class Sub(Pointwise):
    """a - b, of numbers."""

    name = "sub"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.subtract(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return g, -g

    def known(self, *args: Known, **attrs: Any) -> Known:
        a, b = args
        if isinstance(a, Index | int) and isinstance(b, Index | int):
            return a - b
        if None in args:
            return _the_infinite(a, -b if isinstance(b, float) else None)
        return super().known(a, b)


class Mul(Pointwise):
    """a b, of numbers; not of bools, whose product is `logical_and`."""

    name = "mul"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.multiply(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return g * b, g * a

    def known(self, *args: Known, **attrs: Any) -> Known:
        a, b = args
        if isinstance(a, Index) and isinstance(b, int):
            return a * b
        if isinstance(b, Index) and isinstance(a, int):
            return b * a
        is_nothing = None in args and any(isinstance(x, int | float) and x == 0 for x in args)
        return 0 if is_nothing else super().known(a, b)


class Div(Pointwise):
    """a / b, of floats."""

    name = "div"
    arity = 2
    domain = FLOATS

    def evaluate(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.divide(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        share = g / b
        return share, -(share * out)

    def known(self, *args: Known, **attrs: Any) -> Known:
        a, b = args
        is_nothing = b is None and isinstance(a, int | float) and a == 0
        return 0.0 if is_nothing else super().known(a, b)


class FloorDiv(Pointwise):
    """floor(a / b), of numbers: Python's `//`. Integers by 0 raise ArgumentError."""

    name = "floordiv"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        refuse_zero(self.name, b)
        with np.errstate(all="ignore"):
            return np.floor_divide(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return zeros_like(a), zeros_like(b)


class Mod(Pointwise):
    """a - floor(a / b) b, of numbers: Python's `%`, with b's sign. Integers by 0 raise."""

    name = "mod"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        refuse_zero(self.name, b)
        with np.errstate(all="ignore"):
            return np.remainder(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return g, -(g * a.call("floordiv", b))


class Pow(Pointwise):
    """a to the b-th, of numbers.

    Negative bases are right for whole b, and NaN otherwise. Integers to a negative power give the
    quotient truncated, as PyTorch does: 1 and -1 to themselves or 1, all others 0.
    """

    name = "pow"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            if a.dtype.kind == "f":
                return np.power(a, b)
            return integer_power(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        # x^0 is constant, also at x = 0, where 0 * 0^-1 would be NaN.
        slope = b * a.call("pow", b - 1)
        to_a = where(b.equals(0), zeros_like(a), g * slope)
        # 0^b stays 0 when b > 0 moves; 0 * log(0) would be NaN.
        flat = a.equals(0).call("logical_and", b >= 0)
        to_b = where(flat, zeros_like(b), g * (out * a.call("log")))
        return to_a, to_b


class Maximum(Pointwise):
    """The larger of a and b, of numbers; NaN if either is. At ties each gets half the gradient."""

    name = "maximum"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        return np.maximum(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return shares(g, a, b, a < b, b < a)


class Minimum(Pointwise):
    """The smaller of a and b, of numbers; NaN if either is. At ties each gets half the gradient."""

    name = "minimum"
    arity = 2

    def evaluate(self, a: Array, b: Array) -> Array:
        return np.minimum(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return shares(g, a, b, b < a, a < b)


def refuse_zero(name: str, b: Array) -> None:
    """Raise if an integer divisor is 0; floats give inf or NaN instead."""
    if b.dtype.kind != "f" and not b.all():
        where_zero = tuple(int(i) for i in np.argwhere(b == 0)[0])
        raise ArgumentError(f"{name}: integer division by zero, at index {where_zero}")


def integer_power(a: Array, b: Array) -> Any:
    """a to the b-th with wrapping; NumPy has no negative powers of integers."""
    if b.dtype.kind == "u" or b.size == 0 or b.min() >= 0:
        return np.power(a, b)
    positive = np.power(a, np.where(b < 0, 0, b))
    # 1/a truncated is a for a = 1 and -1, and then only b's parity counts.
    inverse = np.where((a == 1) | ((a == -1) & (b % 2 == 0)), 1, np.where(a == -1, -1, 0))
    return np.where(b < 0, inverse, positive)


def shares(
    g: Tracer, a: Tracer, b: Tracer, a_loses: Tracer, b_loses: Tracer
) -> tuple[Tracer, Tracer]:
    """The gradients of the winner of a and b: all to it, half to each of equals."""
    share = where(a.equals(b), g * 0.5, g)
    zero = zeros_like(g)
    return where(a_loses, zero, share), where(b_loses, zero, share)


def _the_infinite(a: Known, b: Known) -> Known:
    """What a + b is, of which one is known at most: infinite, if that one is."""
    return next((x for x in (a, b) if is_infinite(x)), None)


neg = register(Neg())
abs_ = register(Abs())
sign = register(Sign())
floor = register(Floor())
ceil = register(Ceil())
round_ = register(Round())
add = register(Add())
sub = register(Sub())
mul = register(Mul())
div = register(Div())
floordiv = register(FloorDiv())
mod = register(Mod())
pow_ = register(Pow())
maximum = register(Maximum())
minimum = register(Minimum())
