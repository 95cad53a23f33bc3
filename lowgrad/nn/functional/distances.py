"""How far apart vectors are."""

from __future__ import annotations

import lowgrad
from lowgrad.nn.functional.normalizations import normalize, vector_norm
from lowgrad.tensor import Tensor


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between x1 and x2 along `dim`; each norm counts as at least eps."""
    x1, x2 = lowgrad.broadcast_tensors(x1, x2)
    return (normalize(x1, 2.0, dim, eps) * normalize(x2, 2.0, dim, eps)).sum(dim=dim)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps over the last dim."""
    distance = vector_norm(x1 - x2 + eps, p, -1)
    return distance if keepdim else distance.squeeze(-1)
