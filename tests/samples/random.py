"""Samples of the random family."""

from lowgrad.ir.types import float32, int64
from samples.base import Sample, tensor

KEY = (tensor(2, dtype=int64),)
SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (), (0, 3))

SAMPLES = {
    "random_bits": [
        Sample(KEY, {"shape": shape, "offset": 1}, ranges=((0, 2**62),)) for shape in SHAPES
    ],
    "uniform": [
        Sample(KEY, {"shape": s, "dtype": float32, "offset": 0}, ((-9, 9),), stable=False)
        for s in SHAPES
    ],
}
NO_TORCH = dict.fromkeys(SAMPLES, "torch draws other numbers; the published vectors are the oracle")
NEEDS_RANK: dict[str, str] = {}
