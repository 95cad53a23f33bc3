"""Samples of the contraction family."""

import torch

from lowgrad.ir.types import int64
from samples.base import Sample, tensor

SHAPES = [
    ((4, 5), (5, 3)),
    ((1, 33), (33, 1)),
    ((2, 3, 4, 5), (2, 3, 5, 2)),
    ((0, 5), (5, 3)),
    ((4, 0), (0, 3)),
    ((2, 4, 5), (2, 5, 0)),
]

SAMPLES = {
    "matmul": [
        *(Sample((tensor(*a), tensor(*b)), terms=max(a[-1], 2)) for a, b in SHAPES),
        Sample((tensor(4, 5, dtype=int64), tensor(5, 3, dtype=int64)), ranges=((-9, 9),)),
    ]
}
TORCH = {"matmul": torch.matmul}
NEEDS_RANK = {"matmul": "its operands are matrices or stacks of them"}
