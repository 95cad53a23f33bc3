"""Elementwise functions, with broadcasting and PyTorch's type promotion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lowgrad import dispatch
from lowgrad.errors import ArgumentError, DTypeError
from lowgrad.functional.common import (
    NUMBERS,
    Operand,
    alike,
    broadcast_shape,
    cast,
    common_dtype,
    expand_to,
    float_dtype,
    floating,
    full_of,
    matched,
    operand_of,
    require_float,
)
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import DType, bool_
from lowgrad.tensor import Tensor, method, run, wrap

__all__ = ["abs", "absolute", "add", "addcdiv", "addcmul", "bitwise_and", "bitwise_not"]
__all__ += ["bitwise_or", "bitwise_xor", "ceil", "clamp", "clip", "clone", "cos", "detach", "div"]
__all__ += ["divide", "eq"]
__all__ += ["erf", "exp", "expm1", "floor", "floor_divide", "fmod", "ge", "greater", "gt"]
__all__ += ["isclose", "isfinite", "isinf", "isnan", "le", "lerp", "less", "log", "log1p", "log2"]
__all__ += ["log10", "logical_and", "logical_not", "logical_or", "logical_xor", "lt", "masked_fill"]
__all__ += ["maximum", "minimum", "mul", "multiply", "nan_to_num", "ne", "neg", "negative", "pow"]
__all__ += ["reciprocal", "relu", "remainder", "round", "rsqrt", "sigmoid", "sign", "sin", "sqrt"]
__all__ += ["square", "sub", "subtract", "tanh", "true_divide", "trunc", "where"]
__all__ += ["exp2", "frac", "greater_equal", "less_equal", "logaddexp", "not_equal"]
__all__ += ["positive", "xlogy"]


def _unary(name: str, doc: str, *, to_float: bool, op: str = "") -> Callable[..., Tensor]:
    def function(input: Tensor) -> Tensor:
        return run(op or name, floating(input) if to_float else input)

    function.__name__ = name
    function.__doc__ = f"{doc}. Integers become the default float." if to_float else f"{doc}."
    return method(name)(function)


exp = _unary("exp", "e to the power of each element", to_float=True)
log = _unary("log", "The natural logarithm of each element", to_float=True)
log1p = _unary("log1p", "log(1 + x), exact for small x", to_float=True)
expm1 = _unary("expm1", "exp(x) - 1, exact for small x", to_float=True)
sqrt = _unary("sqrt", "The square root of each element", to_float=True)
rsqrt = _unary("rsqrt", "1 / sqrt(x)", to_float=True)
sin = _unary("sin", "The sine of each element, in radians", to_float=True)
cos = _unary("cos", "The cosine of each element, in radians", to_float=True)
tanh = _unary("tanh", "The hyperbolic tangent of each element", to_float=True)
sigmoid = _unary("sigmoid", "1 / (1 + exp(-x))", to_float=True)
erf = _unary("erf", "The error function of each element", to_float=True)
floor = _unary("floor", "The largest integer not above each element", to_float=False)
ceil = _unary("ceil", "The smallest integer not below each element", to_float=False)
abs = _unary("abs", "The absolute value of each element", to_float=False)
neg = _unary("neg", "The negated elements", to_float=False)
negative = neg


@method()
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1; NaN stays NaN. Bools stay as they are."""
    return input.clone() if input.dtype is bool_ else run("sign", input)


absolute = abs
method("__neg__", "negative")(neg)
method("__abs__", "absolute")(abs)


def refuse_bool(name: str, x: Tensor) -> None:
    """Raise if `x` holds bools."""
    if x.dtype is bool_:
        raise DTypeError(f"{name}: takes numbers, got a bool tensor", fix="x.int()")


@method("positive", "__pos__")
def positive(input: Tensor) -> Tensor:
    """The tensor itself."""
    refuse_bool("positive", input)
    return input


@method()
def frac(input: Tensor) -> Tensor:
    """The part after the decimal point, with x's sign."""
    require_float("frac", input)
    return input - trunc(input)


@method()
def exp2(input: Tensor) -> Tensor:
    """2 to the power of each element."""
    return pow(2.0, floating(input))


@method()
def logaddexp(input: Tensor, other: Tensor) -> Tensor:
    """log(exp(input) + exp(other)), without overflow."""
    largest = maximum(input, other)
    apart = abs(input - other)
    # Equal infinities are no distance apart.
    return where(input == other, largest + math.log(2), largest + log1p(exp(-apart)))


@method()
def xlogy(input: Tensor, other: Operand) -> Tensor:
    """input * log(other), 0 where input is 0."""
    logs = log(other) if isinstance(other, Tensor) else math.log(other)
    return where(input == 0, 0.0, input * logs)


@method("round", "__round__")
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """Each element rounded to the nearest integer, halves to even."""
    if decimals == 0:
        return run("round", input)
    scale = 10.0**decimals
    return run("round", input * scale) / scale


@method()
def trunc(input: Tensor) -> Tensor:
    """Each element rounded towards zero."""
    return where(input < 0, ceil(input), floor(input))


@method()
def square(input: Tensor) -> Tensor:
    """x * x."""
    return pow(input, 2)


@method()
def reciprocal(input: Tensor) -> Tensor:
    """1 / x."""
    return 1.0 / input


@method()
def relu(input: Tensor) -> Tensor:
    """max(x, 0), with slope 0 at 0 as PyTorch has it (a maximum would halve it)."""
    refuse_bool("relu", input)
    zero = wrap(operand_of(input._ref.type, 0))
    return run("where", run("le", input, zero), zero, input)


@method()
def log2(input: Tensor) -> Tensor:
    """The logarithm to base 2."""
    return log(input) * (1 / math.log(2))


@method()
def log10(input: Tensor) -> Tensor:
    """The logarithm to base 10."""
    return log(input) * (1 / math.log(10))


def _binary(op: str, input: Operand, other: Operand, dtype: DType | None = None) -> Tensor:
    pair = alike(input, other) if dtype is None else None
    if pair is not None:
        return wrap(dispatch.apply(REGISTRY[op], pair, {})[0])
    a, b = matched(op, input, other, dtype=dtype)
    return run(op, a, b)


@method("add")
def add(input: Operand, other: Operand, *, alpha: float = 1) -> Tensor:
    """input + alpha * other."""
    if alpha != 1:
        other = mul(other, alpha)
    return logical_or(input, other) if _are_bool(input, other) else _binary("add", input, other)


@method("sub", "subtract")
def sub(input: Operand, other: Operand, *, alpha: float = 1) -> Tensor:
    """input - alpha * other."""
    if alpha != 1:
        other = mul(other, alpha)
    if _are_bool(input) or _are_bool(other):
        raise DTypeError("sub: bool tensors cannot be subtracted", fix="a.logical_xor(b)")
    return _binary("sub", input, other)


@method("mul", "multiply")
def mul(input: Operand, other: Operand) -> Tensor:
    """input * other."""
    return logical_and(input, other) if _are_bool(input, other) else _binary("mul", input, other)


subtract, multiply = sub, mul


def _are_bool(*operands: Operand) -> bool:
    for x in operands:
        if isinstance(x, Tensor):
            if x._ref.type.dtype is not bool_:
                return False
        elif not isinstance(x, bool):
            return False
    return True


def _operators(name: str, function: Callable[..., Tensor], op: str = "") -> None:
    """Attach `__name__` and `__rname__`; operands of the common case go straight to `op`."""

    def operator(self: Tensor, other: Any) -> Any:
        pair = alike(self, other) if op else None
        if pair is not None:
            return wrap(dispatch.apply(REGISTRY[op], pair, {})[0])
        return function(self, other) if isinstance(other, (Tensor, *NUMBERS)) else NotImplemented

    def reflected(self: Tensor, other: Any) -> Any:
        return function(other, self) if isinstance(other, NUMBERS) else NotImplemented

    method(f"__{name}__")(operator)
    method(f"__r{name}__")(reflected)


for _name, _function in (("add", add), ("sub", sub), ("mul", mul)):
    _operators(_name, _function, _name)


@method("div", "divide", "true_divide")
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; rounding_mode "floor" or "trunc" rounds the quotient, and keeps integers."""
    if rounding_mode == "floor":
        return floor_divide(input, other)
    if rounding_mode not in (None, "trunc"):
        raise ArgumentError(
            f'div: rounding_mode must be None, "floor" or "trunc", not {rounding_mode!r}'
        )
    pair = alike(input, other)
    if pair is not None and pair[0].type.dtype.is_floating_point:
        quotient = wrap(dispatch.apply(REGISTRY["div"], pair, {})[0])
    else:
        quotient = _binary("div", input, other, float_dtype(common_dtype((input, other))))
    if rounding_mode is None:
        return quotient
    return cast(trunc(quotient), common_dtype((input, other)))


divide = true_divide = div


@method()
def floor_divide(input: Operand, other: Operand) -> Tensor:
    """The quotient rounded down, as Python's `//`."""
    return _binary("floordiv", input, other)


@method()
def remainder(input: Operand, other: Operand) -> Tensor:
    """The remainder with the divisor's sign, as Python's `%`."""
    return _binary("mod", input, other)


@method()
def fmod(input: Operand, other: Operand) -> Tensor:
    """The remainder with the dividend's sign, as C's `fmod`."""
    a, b = matched("fmod", input, other)
    return where(a < 0, -(abs(a) % abs(b)), abs(a) % abs(b))


@method()
def pow(input: Operand, exponent: Operand) -> Tensor:
    """input to the power of exponent."""
    if isinstance(input, Tensor) and isinstance(exponent, NUMBERS):
        x = cast(input, common_dtype((input, exponent)))
        if exponent == 2:
            return run("mul", x, x)
        if exponent == 1:
            return clone(x)
        if exponent == 0.5:
            return run("sqrt", x)
    return _binary("pow", input, exponent)


_operators("truediv", div)
_operators("floordiv", floor_divide)
_operators("mod", remainder)
_operators("pow", pow)


@method()
def maximum(input: Tensor, other: Tensor) -> Tensor:
    """The larger of each pair; NaN if either is."""
    if _are_bool(input, other):
        return logical_or(input, other)
    return _binary("maximum", input, other)


@method()
def minimum(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of each pair; NaN if either is."""
    if _are_bool(input, other):
        return logical_and(input, other)
    return _binary("minimum", input, other)


def _comparison(name: str, doc: str, *aliases: str) -> Callable[[Tensor, Operand], Tensor]:
    def function(input: Tensor, other: Operand) -> Tensor:
        return _binary(name, input, other)

    def operator(self: Tensor, other: Any) -> Any:
        return function(self, other) if isinstance(other, (Tensor, *NUMBERS)) else NotImplemented

    function.__name__ = name
    function.__doc__ = f"Elementwise {doc}, as bools."
    method(f"__{name}__")(operator)
    return method(name, *aliases)(function)


eq = _comparison("eq", "input == other")
ne = not_equal = _comparison("ne", "input != other", "not_equal")
lt = less = _comparison("lt", "input < other", "less")
le = less_equal = _comparison("le", "input <= other", "less_equal")
gt = greater = _comparison("gt", "input > other", "greater")
ge = greater_equal = _comparison("ge", "input >= other", "greater_equal")


def _logical(name: str) -> Callable[..., Tensor]:
    def function(input: Tensor, other: Operand) -> Tensor:
        a, b = matched(name, _as_bool(input), _as_bool(other))
        return run(name, a, b)

    function.__name__ = name
    function.__doc__ = f"Elementwise {name.partition('_')[2]} of truth values (non-zero is true)."
    return method(name)(function)


def _as_bool(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x if x.dtype is bool_ else ne(x, 0)
    return bool(x)


logical_and = _logical("logical_and")
logical_or = _logical("logical_or")
logical_xor = _logical("logical_xor")


@method()
def logical_not(input: Tensor) -> Tensor:
    """Elementwise not of truth values."""
    return run("logical_not", _as_bool(input))


def _bitwise(name: str, logical: Callable[..., Tensor]) -> Callable[[Tensor, Operand], Tensor]:
    def function(input: Tensor, other: Operand) -> Tensor:
        a, b = matched(name, input, other)
        if a.dtype.is_floating_point:
            raise DTypeError(f"{name}: needs integers or bools, got {a.dtype!r}")
        return logical(a, b) if a.dtype is bool_ else run(name, a, b)

    function.__name__ = name
    function.__doc__ = "Bits of integers; truth values of bools."
    _operators(name.partition("_")[2], function)
    return method(name)(function)


bitwise_and = _bitwise("bitwise_and", logical_and)
bitwise_or = _bitwise("bitwise_or", logical_or)
bitwise_xor = _bitwise("bitwise_xor", logical_xor)


@method("bitwise_not", "__invert__")
def bitwise_not(input: Tensor) -> Tensor:
    """All bits flipped; `not` of bools."""
    if input.dtype is bool_:
        return logical_not(input)
    if input.dtype.is_floating_point:
        raise DTypeError(f"bitwise_not: needs integers or bools, got {input.dtype!r}")
    return -1 - input


@method()
def isnan(input: Tensor) -> Tensor:
    """Whether each element is NaN."""
    return run("isnan", floating(input))


@method()
def isinf(input: Tensor) -> Tensor:
    """Whether each element is infinite."""
    return abs(floating(input)) == math.inf


@method()
def isfinite(input: Tensor) -> Tensor:
    """Whether each element is neither infinite nor NaN."""
    return abs(floating(input)) < math.inf


@method()
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """|input - other| <= atol + rtol * |other|, elementwise."""
    near = abs(input - other) <= atol + rtol * abs(other)
    same = logical_or(near & isfinite(other), input == other)
    return same | (isnan(input) & isnan(other)) if equal_nan else same


@method()
def nan_to_num(
    input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """NaN and infinities replaced by numbers; infinities by the largest finite ones by default."""
    if not input.dtype.is_floating_point:
        return clone(input)
    import ml_dtypes

    largest = float(ml_dtypes.finfo(input.dtype.numpy).max)  # type: ignore[no-untyped-call]
    result = where(isnan(input), nan, input)
    result = where(result == math.inf, largest if posinf is None else posinf, result)
    return where(result == -math.inf, -largest if neginf is None else neginf, result)


@method()
def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """Each element moved into [min, max]; NaN stays NaN. At a bound the gradient is the input's."""
    if min is None and max is None:
        raise ArgumentError("clamp: needs min, max or both")
    result = input
    if min is not None:
        result = where(_beyond(lt, result, min), min, result)
    if max is not None:
        result = where(_beyond(gt, result, max), max, result)
    return result


def _beyond(compare: Callable[..., Tensor], x: Tensor, bound: Operand) -> Tensor:
    outside = compare(x, bound)
    if isinstance(bound, Tensor) and bound.dtype.is_floating_point:
        return logical_or(outside, isnan(bound))
    return outside


clip = method("clip")(clamp)


def where(condition: Tensor, input: Operand | None = None, other: Operand | None = None) -> Any:
    """input where condition holds, else other; all three broadcast.

    With the condition alone, the indices where it holds, as `nonzero(as_tuple=True)`.
    """
    if input is None or other is None:
        return condition.nonzero(as_tuple=True)
    if condition.dtype is not bool_:
        raise DTypeError(f"where: the condition must be bool, not {condition.dtype!r}")
    dtype = common_dtype((input, other))
    a, b = (x if isinstance(x, Tensor) else full_of((), dtype, x) for x in (input, other))
    shape = broadcast_shape("where", condition.shape, a.shape, b.shape)
    return run(
        "where",
        expand_to(condition, shape),
        expand_to(cast(a, dtype), shape),
        expand_to(cast(b, dtype), shape),
    )


@method("where")
def _where_method(self: Tensor, condition: Tensor, other: Operand) -> Tensor:
    """self where condition holds, else other."""
    return where(condition, self, other)


@method()
def masked_fill(input: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """`value` where `mask` holds, else input."""
    filled = value if isinstance(value, Tensor) else full_of((), input.dtype, value)
    return where(mask, cast(filled, input.dtype), input)


@method()
def lerp(input: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """input + weight * (end - input)."""
    return input + weight * (end - input)


@method()
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 * tensor2."""
    return input + (tensor1 * tensor2 if value == 1 else value * tensor1 * tensor2)


@method()
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: float = 1) -> Tensor:
    """input + value * tensor1 / tensor2."""
    return input + (tensor1 / tensor2 if value == 1 else value * (tensor1 / tensor2))


@method()
def clone(input: Tensor) -> Tensor:
    """A copy with its own elements; gradients flow through."""
    return run("cast", input, dtype=input.dtype)


@method()
def detach(input: Tensor) -> Tensor:
    """The same elements without their history."""
    from lowgrad.autograd import no_grad
    from lowgrad.tensor import view

    with no_grad():
        return view(input, "stop_gradient")
