"""Samples of the view family."""

import torch
import torch.nn.functional as F

from lowgrad.ir.types import bool_, int64
from samples.base import Sample, tensor


def window(*bounds: tuple[int, int, int]) -> dict[str, tuple[int, ...]]:
    """The attributes of a slice, from (start, stop, step) for each dim."""
    starts, stops, steps = zip(*bounds, strict=True) if bounds else ((), (), ())
    return {"starts": starts, "stops": stops, "steps": steps}


# (sizes, window, sizes of the slice): all, one step, gaps that end before the stop, nothing, rank 0
WINDOWS = [
    ((3, 5), window((0, 3, 1), (0, 5, 1)), (3, 5)),
    ((3, 5), window((1, 3, 1), (0, 4, 1)), (2, 4)),
    ((3, 8), window((0, 3, 2), (1, 7, 4)), (2, 2)),
    ((3, 5), window((0, 3, 1), (2, 2, 1)), (3, 0)),
    ((0, 3), window((0, 0, 1), (0, 3, 2)), (0, 2)),
    ((), window(), ()),
]
RESHAPES = [
    ((2, 3, 4), (6, 4)),
    ((6, 4), (2, 3, 4)),
    ((4, 6), (3, 8)),
    ((2, 1, 6), (1, 4, 3, 1)),
    ((2, 1), (1, 1, 2)),
    ((), (1, 1)),
    ((1,), ()),
    ((0, 3), (2, 0)),
]
EXPANDS = [((1, 3), (4, 3)), ((2, 1, 1), (2, 3, 5)), ((1, 3), (0, 3)), ((3,), (3,)), ((), ())]

SAMPLES = {
    "reshape": [Sample((tensor(*a),), {"shape": b}) for a, b in RESHAPES],
    "permute": [
        Sample((tensor(2, 3, 4),), {"dims": (2, 0, 1)}),
        Sample((tensor(2, 3, dtype=bool_),), {"dims": (1, 0)}),
        Sample((tensor(0, 3),), {"dims": (1, 0)}),
        Sample((tensor(),), {"dims": ()}),
    ],
    "expand": [Sample((tensor(*a),), {"shape": b}, terms=15) for a, b in EXPANDS],
    "slice": [Sample((tensor(*a),), w) for a, w, _ in WINDOWS],
    "flip": [
        Sample((tensor(2, 3, 4),), {"dims": (0, 2)}),
        Sample((tensor(2, 3),), {"dims": ()}),
        Sample((tensor(0, 3, dtype=int64),), {"dims": (0, 1)}),
        Sample((tensor(),), {"dims": ()}),
    ],
    "pad": [
        Sample((tensor(2, 3),), {"low": (1, 0), "high": (0, 2), "value": 0}),
        Sample((tensor(2, 3),), {"low": (0, 0), "high": (0, 0), "value": 0}),
        Sample((tensor(0, 3),), {"low": (1, 0), "high": (1, 0), "value": 2.5}),
        Sample((tensor(2),), {"low": (1,), "high": (1,), "value": float("-inf")}, slope=False),
        Sample((tensor(2, dtype=int64),), {"low": (1,), "high": (1,), "value": -1}),
        Sample((tensor(),), {"low": (), "high": (), "value": 0.5}),
    ],
    "cat": [
        Sample((tensor(2, 3), tensor(2, 1), tensor(2, 2)), {"dim": 1}),
        Sample((tensor(2, 3), tensor(0, 3)), {"dim": 0}),
        Sample((tensor(2, dtype=int64),) * 2, {"dim": 0}),
        Sample((tensor(3, 0),), {"dim": 1}),
    ],
    "slice_update": [Sample((tensor(*a), tensor(*b)), w) for a, w, b in WINDOWS],
}


def slices(starts, stops, steps) -> tuple:
    """What to write in brackets for a window."""
    return (*(slice(*s) for s in zip(starts, stops, steps, strict=True)), ...)


def pad(x, low, high, value):
    """torch lists the dims from the last, and refuses to pad none of them."""
    pairs = [n for pair in zip(low, high, strict=True) for n in reversed(pair)]
    return F.pad(x, pairs[::-1], value=value) if pairs else x + 0


def slice_update(base, update, **attrs):
    """base, overwritten in place."""
    out = base + 0
    out[slices(**attrs)] = update
    return out


TORCH = {
    "reshape": torch.reshape,
    "permute": torch.permute,
    "expand": lambda x, shape: x.expand(shape),
    "slice": lambda x, **attrs: x[slices(**attrs)],
    "flip": torch.flip,
    "pad": pad,
    "cat": lambda *xs, dim: torch.cat(xs, dim),
    "slice_update": slice_update,
}
NEEDS_RANK = {"cat": "it joins along a dim"}
