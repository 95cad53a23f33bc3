"""Samples of the random family."""

from lowgrad.ir.types import float32, int64
from samples.base import Sample, tensor

KEY = (tensor(2, dtype=int64),)
START = tensor(dtype=int64)
SHAPES: tuple[tuple[int, ...], ...] = ((3, 5), (), (0, 3))

SAMPLES = {
    "random_bits": [
        Sample(KEY, {"shape": shape, "offset": 1}, ranges=((0, 2**62),)) for shape in SHAPES
    ],
    "uniform": [
        Sample(KEY, {"shape": s, "dtype": float32, "offset": 0}, ((-9, 9),), stable=False)
        for s in SHAPES
    ],
    "random_bits_window": [
        Sample(
            (*KEY, START),
            {"shape": shape, "offset": 1, "dim": 0, "size": 5},
            ranges=((0, 2**62), (0, 2)),
        )
        for shape in ((3, 5), (0, 3))
    ],
    "uniform_window": [
        Sample(
            (*KEY, START),
            {"shape": s, "dtype": float32, "offset": 0, "dim": 1, "size": 7},
            ((-9, 9), (0, 2)),
            stable=False,
        )
        for s in ((3, 5), (0, 3))
    ],
}
NO_TORCH = dict.fromkeys(SAMPLES, "torch draws other numbers; the published vectors are the oracle")
NEEDS_RANK: dict[str, str] = {}
