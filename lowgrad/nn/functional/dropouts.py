"""Dropout."""

from __future__ import annotations

import lowgrad
from lowgrad.nn.checks import require_probability
from lowgrad.tensor import Tensor


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element is 0 with probability p, else scaled by 1 / (1 - p); the input if not training.

    input: floating, any shape.  The draw is from lowgrad's own random stream, and its gradient uses
    the same draw.
    Source: Srivastava et al. 2014, "Dropout", sec. 10 (inverted scaling).
    """
    require_probability("dropout", p)
    if not training or p == 0.0:
        return input
    scale = 0.0 if p == 1.0 else 1.0 / (1.0 - p)
    # float32 whatever the input: the 256 steps of a bf16 draw would change the rate.
    draw = lowgrad.rand(tuple(input.shape), dtype=lowgrad.float32, device=input.device)
    result = lowgrad.where(draw >= p, input * scale, 0.0)
    return input.copy_(result) if inplace else result
