"""Dropout."""

from __future__ import annotations

import lowgrad.nn.functional as F
from lowgrad.nn.checks import require_probability
from lowgrad.nn.modules.module import Module
from lowgrad.tensor import Tensor


class Dropout(Module):
    """While training, each element is 0 with probability p, else scaled by 1 / (1 - p)."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        require_probability("Dropout", p)
        self.p = p
        self.inplace = inplace

    def forward(self, input: Tensor) -> Tensor:
        """The input's shape."""
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        """The settings."""
        return f"p={self.p}, inplace={self.inplace}"
