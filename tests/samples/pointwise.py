"""Samples of the pointwise family."""

from dataclasses import replace
from functools import partial

import oracle
import torch

from lowgrad.ir.types import bool_, float16, float32, float64, int32, int64, uint8
from samples.base import Range, Sample, tensor

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (), (0, 3))


def unary(*ranges: Range, ulps: float = oracle.TRANSCENDENTAL_ULPS) -> list[Sample]:
    """Samples of a function of one float, in each of `ranges`."""
    return [
        Sample((tensor(*shape),), ranges=(bounds,), ulps=ulps)
        for bounds in ranges
        for shape in SHAPES
    ]


def binary(*ranges: Range, dtypes=(float32, int64, int32), ulps: float = 2) -> list[Sample]:
    """Samples of a function of two; `ranges` as in Sample."""
    return [
        Sample((tensor(*shape, dtype=d),) * 2, ranges=ranges, ulps=ulps)
        for d in dtypes
        for shape in SHAPES
    ]


def rounding() -> list[Sample]:
    """Samples of a function of one number that is the identity on integers or has jumps."""
    numbers = [Sample((tensor(4, dtype=d),), ranges=((0, 9),)) for d in (int32, uint8)]
    return [*unary((-3.0, 3.0), ulps=0), *numbers]


EVERYWHERE = (-3.0, 3.0)
POSITIVE = (0.2, 3.0)
COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")
LOGIC = ("logical_and", "logical_or", "logical_xor")
BITS = ("bitwise_and", "bitwise_or", "bitwise_xor")

# Only three values, so that equal ones meet.
COMPARED = binary((0, 3), dtypes=(int64, uint8)) + binary(EVERYWHERE, dtypes=(float32, bool_))

SAMPLES = {
    **{name: unary(EVERYWHERE) for name in ("exp", "expm1", "sin", "cos", "tanh", "erf")},
    "sigmoid": unary(EVERYWHERE, (-60.0, -50.0)),
    **{name: unary(POSITIVE) for name in ("log", "sqrt", "rsqrt")},
    "log1p": unary((-0.8, 3.0), (1e-9, 1e-8)),
    **{name: rounding() for name in ("neg", "abs", "sign", "floor", "ceil", "round")},
    **{name: binary((-9, 9)) for name in ("add", "sub", "mul", "maximum", "minimum")},
    "div": binary(EVERYWHERE, POSITIVE, dtypes=(float32,)),
    **{name: binary((-9, 9), (1, 5)) for name in ("floordiv", "mod")},
    "pow": [
        *binary(POSITIVE, EVERYWHERE, dtypes=(float32,), ulps=oracle.TRANSCENDENTAL_ULPS),
        *binary((-4, 5), (0, 4), dtypes=(int64, int32)),
    ],
    **dict.fromkeys(COMPARISONS, COMPARED),
    "isnan": [*unary(EVERYWHERE), Sample((tensor(3, dtype=int64),))],
    "logical_not": [Sample((tensor(*shape, dtype=bool_),)) for shape in SHAPES],
    **{name: binary((0, 2), dtypes=(bool_,)) for name in LOGIC},
    **{name: binary((0, 99), dtypes=(int64, int32, uint8)) for name in BITS},
    "where": [
        Sample((tensor(*shape, dtype=bool_), tensor(*shape, dtype=d), tensor(*shape, dtype=d)))
        for d in (float32, int64, bool_)
        for shape in SHAPES
    ],
    "cast": [
        *(Sample((tensor(*shape),), {"dtype": float64}) for shape in SHAPES),
        Sample((tensor(4, dtype=float64),), {"dtype": float32}, slope=False),
        Sample((tensor(4),), {"dtype": float16}, slope=False),
        Sample((tensor(4),), {"dtype": int64}, ranges=((-9.5, 9.5),)),
        Sample((tensor(4),), {"dtype": bool_}),
        Sample((tensor(4, dtype=bool_),), {"dtype": float32}),
        Sample((tensor(4, dtype=int64),), {"dtype": uint8}, ranges=((-300, 300),)),
    ],
    "stop_gradient": [replace(s, slope=False) for s in unary(EVERYWHERE, ulps=0)],
}

SAME_NAME = (
    "exp log log1p expm1 sqrt rsqrt sin cos tanh sigmoid erf neg abs sign floor ceil round isnan"
    " logical_not add sub mul div pow maximum minimum eq ne lt le gt ge where"
    " logical_and logical_or logical_xor bitwise_and bitwise_or bitwise_xor"
)
TORCH = {
    **{name: getattr(torch, name) for name in SAME_NAME.split()},
    "floordiv": partial(torch.div, rounding_mode="floor"),
    "mod": torch.remainder,
    "cast": lambda x, dtype: x.to(getattr(torch, dtype.name)),
    "stop_gradient": torch.Tensor.detach,
}
