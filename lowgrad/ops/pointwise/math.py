"""Functions of one float: exponentials and logarithms, roots, circular and sigmoid functions.

All take and return f16, bf16, f32 or f64. Each derivative is written with whichever of x and out
makes it cheap; a form in `out` also keeps x from having to be saved.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Array, register
from lowgrad.ops.pointwise.base import FLOATS, Pointwise


class FloatFunction(Pointwise):
    """A function of one float; `compute` may overflow and divide by zero without warnings."""

    domain = FLOATS

    def evaluate(self, x: Array) -> Array:
        with np.errstate(all="ignore"):
            return self.compute(x)

    def compute(self, x: Array) -> Any:
        """The function, in NumPy."""
        raise NotImplementedError(self.name)


class Exp(FloatFunction):
    """e to the x-th."""

    name = "exp"

    def compute(self, x: Array) -> Any:
        return np.exp(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * out,)


class Log(FloatFunction):
    """The natural logarithm; -inf at 0, NaN below."""

    name = "log"

    def compute(self, x: Array) -> Any:
        return np.log(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g / x,)


class Log1p(FloatFunction):
    """log(1 + x), accurate near 0."""

    name = "log1p"

    def compute(self, x: Array) -> Any:
        return np.log1p(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g / (x + 1),)


class Expm1(FloatFunction):
    """exp(x) - 1, accurate near 0."""

    name = "expm1"

    def compute(self, x: Array) -> Any:
        return np.expm1(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * (out + 1),)


class Sqrt(FloatFunction):
    """The square root; NaN below 0. The gradient at 0 is infinite."""

    name = "sqrt"

    def compute(self, x: Array) -> Any:
        return np.sqrt(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g / (out * 2),)


class Rsqrt(FloatFunction):
    """1 / sqrt(x); inf at 0, NaN below."""

    name = "rsqrt"

    def compute(self, x: Array) -> Any:
        return 1 / np.sqrt(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * -0.5 * (out * out * out),)


class Sin(FloatFunction):
    """The sine of x radians."""

    name = "sin"

    def compute(self, x: Array) -> Any:
        return np.sin(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * cos(x),)


class Cos(FloatFunction):
    """The cosine of x radians."""

    name = "cos"

    def compute(self, x: Array) -> Any:
        return np.cos(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (-(g * sin(x)),)


class Tanh(FloatFunction):
    """The hyperbolic tangent."""

    name = "tanh"

    def compute(self, x: Array) -> Any:
        return np.tanh(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * (1 - out * out),)


class Sigmoid(FloatFunction):
    """1 / (1 + exp(-x)), without overflow, and accurate for large negative x."""

    name = "sigmoid"

    def compute(self, x: Array) -> Any:
        # Only exp of what is not positive: exp(-x) overflows long before the result underflows.
        e = np.exp(-np.abs(x))
        return np.where(x >= 0, np.ones_like(e), e) / (1 + e)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * ((1 - out) * out),)


class Erf(FloatFunction):
    """The error function, 2/sqrt(pi) times the integral of exp(-t²) from 0 to x."""

    name = "erf"

    def compute(self, x: Array) -> Any:
        # Imported when first used: scipy.special would triple the time of `import lowgrad`.
        from scipy.special import erf

        return erf(x)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer) -> tuple[Tracer]:
        return (g * (exp(-(x * x)) * (2 / math.sqrt(math.pi))),)


exp = register(Exp())
log = register(Log())
log1p = register(Log1p())
expm1 = register(Expm1())
sqrt = register(Sqrt())
rsqrt = register(Rsqrt())
sin = register(Sin())
cos = register(Cos())
tanh = register(Tanh())
sigmoid = register(Sigmoid())
erf = register(Erf())
