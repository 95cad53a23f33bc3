"""Samples of the reduction family."""

import torch

from lowgrad.ir.types import bool_, int64, uint8
from samples.base import Sample, tensor

NUMBERS = [
    *(Sample((tensor(3, 5, 4),), {"dims": dims}, terms=60) for dims in ((2,), (0, 2), (0, 1, 2))),
    Sample((tensor(33),), {"dims": (0,)}, terms=33),
    Sample((tensor(3, 1),), {"dims": (1,)}),
    Sample((tensor(0, 3),), {"dims": (1,)}),
    Sample((tensor(2, 7, dtype=int64),), {"dims": (1,)}, ranges=((-5, 5),)),
    Sample((tensor(2, 7, dtype=uint8),), {"dims": (0,)}, ranges=((0, 9),)),
]
OF_NOTHING = [Sample((tensor(0, 3),), {"dims": (0,)}), Sample((tensor(2, 0, 0),), {"dims": (1, 2)})]
BOOLS = [
    Sample((tensor(3, 2, dtype=bool_),), {"dims": (1,)}),
    Sample((tensor(3, 0, dtype=bool_),), {"dims": (1,)}),
]
PLACES = [
    *(Sample((tensor(3, 5, 4),), {"dims": (dim,)}) for dim in range(3)),
    Sample((tensor(0, 3),), {"dims": (1,)}),
    Sample((tensor(2, 9, dtype=int64),), {"dims": (1,)}, ranges=((-2, 2),)),
]

SAMPLES = {
    "sum": NUMBERS + OF_NOTHING,
    "prod": NUMBERS + OF_NOTHING,
    "max": NUMBERS,
    "min": NUMBERS,
    "any": BOOLS,
    "all": BOOLS,
    "argmax": PLACES,
    "argmin": PLACES,
}


def prod(x: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """torch.prod takes one dim at a time."""
    for dim in dims:
        x = torch.prod(x, dim, keepdim=True, dtype=x.dtype)
    return x


TORCH = {
    "sum": lambda x, dims: torch.sum(x, dims, keepdim=True, dtype=x.dtype),
    "prod": prod,
    "max": lambda x, dims: torch.amax(x, dims, keepdim=True),
    "min": lambda x, dims: torch.amin(x, dims, keepdim=True),
    "any": lambda x, dims: torch.any(x, dims, keepdim=True),
    "all": lambda x, dims: torch.all(x, dims, keepdim=True),
    "argmax": lambda x, dims: torch.argmax(x, dims[0], keepdim=True),
    "argmin": lambda x, dims: torch.argmin(x, dims[0], keepdim=True),
}
NEEDS_RANK = dict.fromkeys(SAMPLES, "dims are dims of the input, and not empty")
