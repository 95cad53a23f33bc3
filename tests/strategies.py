"""Hypothesis strategies: random small graphs that are well typed, and arrays for them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

import lowgrad.ops  # noqa: F401 - fills the registry
from lowgrad.errors import LowgradError
from lowgrad.ir.build import Builder, Tracer
from lowgrad.ir.graph import Graph
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import (
    DType,
    TensorType,
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int32,
    int64,
)

WIDE = (float32, float64, int32, int64, bool_)
ALL = (*WIDE, bfloat16, float16)
SIZES = (0, 1, 1, 2, 2, 3, 4)
NUMBERS = (0, 1, -1, 2, 3)
FLOATS = (*NUMBERS, 0.0, -0.0, 0.5, -2.0, math.inf, math.nan)

UNARY_FLOAT = ("exp", "log", "sqrt", "rsqrt", "sin", "tanh", "sigmoid", "erf", "expm1", "log1p")
UNARY = ("neg", "abs", "sign", "floor", "stop_gradient")
BINARY = ("add", "sub", "mul", "maximum", "minimum", "floordiv", "mod")
COMPARE = ("eq", "ne", "lt", "ge")
REDUCE = ("sum", "max", "min", "prod")

Draw = Callable[[st.SearchStrategy[Any]], Any]


@st.composite
def graphs(draw: Draw, dtypes: Sequence[DType] = ALL, max_nodes: int = 14) -> Graph:
    """A graph of all families but `region`; sizes 0 and 1 included; some outputs are aliases."""
    b = Builder()
    shape = tuple(draw(st.lists(st.sampled_from(SIZES), min_size=0, max_size=3)))
    first = b.input(TensorType(shape, draw(st.sampled_from(dtypes))), "x")
    values = [first, b.input(first.type, "y")]
    values.append(b.input(TensorType((3, 2), draw(st.sampled_from(dtypes))), "m"))
    for _ in range(draw(st.integers(1, max_nodes))):
        values.extend(_grown(draw, b, values, dtypes))
    count = draw(st.integers(1, 3))
    outputs = [draw(st.sampled_from(values[3:] or values)).value for _ in range(count)]
    return b.graph(tuple(outputs), _aliases(b, outputs))


def _aliases(b: Builder, outputs: list[Any]) -> dict[int, int]:
    if outputs[0] not in b.inputs and outputs[0].type == b.inputs[0].type:
        return {0: 0}
    return {}


def _grown(draw: Draw, b: Builder, values: list[Tracer], dtypes: Sequence[DType]) -> list[Tracer]:
    """One more op on values that fit it; nothing if none does."""
    x = draw(st.sampled_from(values[-6:] if draw(st.booleans()) else values))
    family = draw(st.sampled_from(FAMILIES))
    try:
        made = family(draw, b, x, values, dtypes)
    except LowgradError:
        return []  # an op that has no meaning for this type or size
    return list(made) if isinstance(made, tuple) else [made]


def _unary(draw: Draw, b: Builder, x: Tracer, *_: Any) -> Any:
    if x.dtype is bool_:
        return x.call("logical_not")
    names = UNARY + (UNARY_FLOAT if x.dtype.is_floating_point else ())
    return x.call(draw(st.sampled_from(names)))


def _operand(draw: Draw, b: Builder, x: Tracer, values: list[Tracer]) -> Tracer:
    """A value of x's type, or a constant."""
    same = [v for v in values if v.type == x.type]
    if draw(st.booleans()):
        return draw(st.sampled_from(same))
    numbers = FLOATS if x.dtype.is_floating_point else NUMBERS
    return b.full(x.type, draw(st.sampled_from(numbers if x.dtype is not bool_ else (False, True))))


def _binary(draw: Draw, b: Builder, x: Tracer, values: list[Tracer], *_: Any) -> Any:
    y = _operand(draw, b, x, values)
    if x.dtype is bool_:
        return x.call(draw(st.sampled_from(("logical_and", "logical_or"))), y)
    names = (*BINARY, *COMPARE, *(("div", "pow") if x.dtype.is_floating_point else ()))
    if x.dtype.is_integer:
        names = tuple(n for n in names if n not in ("floordiv", "mod"))  # zeros raise
    one, two = (x, y) if draw(st.booleans()) else (y, x)
    return one.call(draw(st.sampled_from(names)), two)


def _where(draw: Draw, b: Builder, x: Tracer, values: list[Tracer], *_: Any) -> Any:
    conditions = [v for v in values if v.type == x.type.with_dtype(bool_)]
    condition = (
        draw(st.sampled_from(conditions))
        if conditions
        else b.full(x.type.with_dtype(bool_), draw(st.booleans()))
    )
    return condition.call("where", x, _operand(draw, b, x, values))


def _cast(draw: Draw, b: Builder, x: Tracer, values: Any, dtypes: Sequence[DType]) -> Any:
    to = draw(st.sampled_from(dtypes))
    if x.dtype.is_floating_point and to.is_integer:
        x = x.call("isnan")  # floats out of an integer's range have no meaning as one
    return x.call("cast", dtype=to)


def _reduce(draw: Draw, b: Builder, x: Tracer, *_: Any) -> Any:
    if not x.shape:
        return x.call("reshape", shape=(1,))
    dims = tuple(sorted(draw(st.sets(st.integers(0, len(x.shape) - 1), min_size=1))))
    if x.dtype is bool_:
        return x.call(draw(st.sampled_from(("any", "all"))), dims=dims)
    if draw(st.integers(0, 4)) == 0:
        return x.call("argmax", dims=dims[:1])
    reduced = x.call(draw(st.sampled_from(REDUCE)), dims=dims)
    return reduced, reduced.call("expand", shape=x.shape)


def _view(draw: Draw, b: Builder, x: Tracer, *_: Any) -> Any:
    name = draw(st.sampled_from(("reshape", "permute", "expand", "slice", "flip", "pad")))
    rank = len(x.shape)
    if name == "permute":
        return x.call(name, dims=tuple(draw(st.permutations(range(rank)))))
    if name == "expand":
        return x.call(
            name, shape=tuple(3 if n == 1 and draw(st.booleans()) else n for n in x.shape)
        )
    if name == "flip":
        return x.call(name, dims=tuple(sorted(draw(st.sets(st.integers(0, max(rank - 1, 0)))))))
    if name == "slice":
        starts = tuple(draw(st.integers(0, n)) for n in x.shape)
        stops = tuple(draw(st.integers(a, n)) for a, n in zip(starts, x.shape, strict=True))
        return x.call(name, starts=starts, stops=stops, steps=(draw(st.integers(1, 2)),) * rank)
    if name == "pad":
        low, high = ((draw(st.integers(0, 1)),) * rank for _ in range(2))
        return x.call(name, low=low, high=high, value=x.dtype is bool_)
    shapes = [(*x.shape, 1), (1, *x.shape), (math.prod(x.shape),)]
    if rank > 1:
        shapes.append((x.shape[0] * x.shape[1], *x.shape[2:]))
    return x.call(name, shape=draw(st.sampled_from(shapes)))


def _cat(draw: Draw, b: Builder, x: Tracer, values: list[Tracer], *_: Any) -> Any:
    return x.call("cat", _operand(draw, b, x, values), dim=len(x.shape) - 1)


def _matmul(draw: Draw, b: Builder, x: Tracer, values: list[Tracer], *_: Any) -> Any:
    rank = len(x.shape)
    if rank < 2:
        return x.call("reshape", shape=(1, *x.shape, 1)[:2] if rank else (1, 1))
    turned = (*range(rank - 2), rank - 1, rank - 2)
    product = x.call("matmul", _operand(draw, b, x, values).call("permute", dims=turned))
    return product, product.call("permute", dims=turned)


def _whole_division(draw: Draw, b: Builder, x: Tracer, *_: Any) -> Any:
    name = draw(st.sampled_from(("floordiv", "mod")))
    return x.call(name, draw(st.sampled_from((1, -1, 2, -3)))) if x.dtype is not bool_ else x


def _index(draw: Draw, b: Builder, x: Tracer, *_: Any) -> Any:
    """Takes, gathers or adds at indices that are in range by construction."""
    if not x.shape or x.shape[-1] == 0:
        return x.call("neg")
    dim, n = len(x.shape) - 1, x.shape[-1]
    rows = b.apply(REGISTRY["iota"], shape=(4,), dtype=int64, dim=0)
    index = rows.call("mod", n)
    taken = x.call("take", index, dim=dim)
    if draw(st.booleans()):
        return taken, x.call("index_add", index, taken, dim=dim)
    one = b.apply(REGISTRY["iota"], shape=(*x.shape[:-1], 1), dtype=int64, dim=dim)
    return taken, x.call("gather", one, dim=dim)


def _scan(draw: Draw, b: Builder, x: Tracer, *_: Any) -> Any:
    if draw(st.booleans()):
        return x.call("cumsum", dim=len(x.shape) - 1)
    return x.call("sort", dim=len(x.shape) - 1, descending=draw(st.booleans()))


def _random(draw: Draw, b: Builder, x: Tracer, *_: Any) -> Any:
    key = b.apply(REGISTRY["literal"], shape=(2,), dtype=int64, data=(1, 2))
    return b.apply(REGISTRY["uniform"], key, shape=x.shape, dtype=float32, offset=0)


# Pointwise, reductions and views are what passes are about: they come up more often.
FAMILIES = (
    *(_unary, _binary, _binary, _where, _cast, _reduce, _reduce, _view, _view, _view),
    *(_cat, _matmul, _index, _scan, _random, _whole_division),
)


def arrays_for(graph: Graph, *, special: bool = True) -> list[np.ndarray[Any, Any]]:
    """An array for each input: small numbers with a fraction, some of them -0, inf or nan."""
    rng = np.random.default_rng(7)
    return [_array(rng, v.type, special) for v in graph.inputs]


def _array(rng: np.random.Generator, type_: TensorType, special: bool) -> np.ndarray[Any, Any]:
    data = rng.integers(-8, 9, type_.shape) / 4
    if not type_.dtype.is_floating_point:
        return np.asarray(np.round(data)).astype(type_.dtype.numpy)
    if special:
        odd = rng.choice([-0.0, math.inf, -math.inf, math.nan], type_.shape)
        data = np.where(rng.random(type_.shape) < 0.1, odd, data)
    return np.asarray(data).astype(type_.dtype.numpy)


def same_bits(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> bool:
    """Whether two arrays are equal to the bit; NaNs count as equal whatever their payload."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.kind not in "fV":
        return bool(np.array_equal(a, b))
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    equal = (wide_a == wide_b) & (np.signbit(wide_a) == np.signbit(wide_b))
    return bool(np.all(equal | (np.isnan(wide_a) & np.isnan(wide_b))))
