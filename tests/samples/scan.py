"""Samples of the scan family."""

import torch

from lowgrad.ir.types import bool_, int64
from samples.base import Sample, tensor

SAMPLES = {
    "cumsum": [
        *(Sample((tensor(3, 5, 4),), {"dim": dim}, terms=5) for dim in range(3)),
        Sample((tensor(0, 3),), {"dim": 0}),
        Sample((tensor(3, 0),), {"dim": 1}),
        Sample((tensor(7, dtype=int64),), {"dim": 0}, ranges=((-9, 9),)),
    ],
    "sort": [
        *(
            Sample((tensor(3, 5, 4),), {"dim": dim, "descending": descending})
            for dim in range(3)
            for descending in (False, True)
        ),
        Sample((tensor(0, 3),), {"dim": 0, "descending": False}),
        Sample((tensor(0, 3),), {"dim": 0, "descending": True}),
        Sample((tensor(20, dtype=int64),), {"dim": 0, "descending": True}, ranges=((0, 4),)),
        Sample((tensor(20, dtype=bool_),), {"dim": 0, "descending": False}),
    ],
}
TORCH = {
    "cumsum": torch.cumsum,
    "sort": lambda x, dim, descending: torch.sort(x, dim=dim, descending=descending, stable=True),
}
NEEDS_RANK = dict.fromkeys(SAMPLES, "it goes along a dim")
