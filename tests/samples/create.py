"""Samples of the create family."""

import torch

from lowgrad.ir.types import bool_, float32, int64, uint8
from samples.base import Sample

SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (), (0, 3))

SAMPLES = {
    "full": [
        *(Sample(attrs={"shape": s, "dtype": float32, "value": 0.1}) for s in SHAPES),
        Sample(attrs={"shape": (3,), "dtype": float32, "value": float("-inf")}),
        Sample(attrs={"shape": (3,), "dtype": float32, "value": 3}),
        Sample(attrs={"shape": (3,), "dtype": int64, "value": -(2**63)}),
        Sample(attrs={"shape": (3,), "dtype": bool_, "value": True}),
    ],
    "iota": [
        *(Sample(attrs={"shape": (3, 5, 2), "dtype": float32, "dim": d}) for d in range(3)),
        Sample(attrs={"shape": (3, 0), "dtype": float32, "dim": 0}),
        Sample(attrs={"shape": (3, 0), "dtype": int64, "dim": 1}),
        Sample(attrs={"shape": (4, 2), "dtype": uint8, "dim": 0}),
    ],
    "literal": [
        Sample(attrs={"shape": (2, 2), "dtype": float32, "data": (1, 0.1, -2.5, float("inf"))}),
        Sample(attrs={"shape": (), "dtype": int64, "data": (7,)}),
        Sample(attrs={"shape": (0,), "dtype": int64, "data": ()}),
        Sample(attrs={"shape": (2,), "dtype": bool_, "data": (True, False)}),
    ],
}


def iota(shape: tuple[int, ...], dtype: torch.dtype, dim: int) -> torch.Tensor:
    """torch.arange along `dim`."""
    line = torch.arange(shape[dim]).reshape(-1, *[1] * (len(shape) - dim - 1))
    return line.expand(shape).to(dtype)


TORCH = {
    "full": lambda shape, dtype, value: torch.full(shape, value, dtype=named(dtype)),
    "iota": lambda shape, dtype, dim: iota(shape, named(dtype), dim),
    "literal": lambda shape, dtype, data: torch.tensor(data, dtype=named(dtype)).reshape(shape),
}
NEEDS_RANK = {"iota": "it counts along a dim"}


def named(dtype) -> torch.dtype:
    """torch's dtype of the same name."""
    return getattr(torch, dtype.name)
