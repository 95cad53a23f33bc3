"""What each tile function is in NumPy: lines of code that write into `out`, allocating nothing."""

from __future__ import annotations

from collections.abc import Callable

from lowgrad.ir.types import DType, bool_

# fn: the ufunc that is it.
UFUNCS = {
    "neg": "negative",
    "abs": "absolute",
    "exp": "exp",
    "log": "log",
    "log1p": "log1p",
    "expm1": "expm1",
    "sqrt": "sqrt",
    "sin": "sin",
    "cos": "cos",
    "tanh": "tanh",
    "floor": "floor",
    "ceil": "ceil",
    "round": "rint",
    "sign": "sign",
    "isnan": "isnan",
    "not": "logical_not",
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "maximum": "maximum",
    "minimum": "minimum",
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
}

Lines = list[str]


def _sigmoid(out: str, x: str) -> Lines:
    # 1 / (1 + exp(-x)) overflows to 1 / inf = 0 where it should.
    return [
        f"negative({x}, {out})",
        f"exp({out}, {out})",
        f"add({out}, 1, {out})",
        f"reciprocal({out}, {out})",
    ]


def _rsqrt(out: str, x: str) -> Lines:
    return [f"sqrt({x}, {out})", f"reciprocal({out}, {out})"]


def _where(out: str, condition: str, a: str, b: str) -> Lines:
    choose = f"copyto({out}, {a}, 'unsafe', {condition})"
    return [choose] if b == out else [f"copyto({out}, {b}, 'unsafe')", choose]


COMPOSITE: dict[str, Callable[..., Lines]] = {
    "sigmoid": _sigmoid,
    "rsqrt": _rsqrt,
    "where": _where,
}
# Those that read an operand again after `out` was first written, so `out` must be other bytes.
# (`where` may write over its last operand: it then has nothing to copy.)
KEEPS_OPERANDS = frozenset(("where", "erf"))


def lines(fn: str, out: str, args: tuple[str, ...], dtype: DType) -> Lines:
    """`out = fn(*args)` as code."""
    if fn == "cast":
        return [f"not_equal({args[0]}, 0, {out})" if dtype is bool_ else
                f"copyto({out}, {args[0]}, 'unsafe')"]  # fmt: skip
    if fn in COMPOSITE:
        return COMPOSITE[fn](out, *args)
    if fn == "erf":
        return [f"erf({args[0]}, {out})"]
    if fn in ("maximum", "minimum"):  # NumPy keeps their third place for more operands
        return [f"{UFUNCS[fn]}({', '.join(args)}, out={out})"]
    return [f"{UFUNCS[fn]}({', '.join((*args, out))})"]
