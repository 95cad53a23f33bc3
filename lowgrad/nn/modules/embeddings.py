"""Embedding: a row of numbers for each whole number."""

from __future__ import annotations

from typing import Any

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.errors import ShapeError
from lowgrad.ir.types import DType
from lowgrad.nn import init
from lowgrad.nn.functional.embeddings import checked_padding_idx
from lowgrad.nn.modules.module import Module
from lowgrad.nn.modules.parameter import Parameter
from lowgrad.tensor import Tensor


class Embedding(Module):
    """The rows of weight that the input names.

    input: [...], integer.  weight: [num_embeddings, embedding_dim], normal(0, 1) at first.
    The row `padding_idx` starts as zeros and gets no gradient.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        _weight: Tensor | None = None,
        _freeze: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        if padding_idx is not None:
            padding_idx = checked_padding_idx(padding_idx, num_embeddings)
        self.padding_idx = padding_idx
        shape = (num_embeddings, embedding_dim)
        if _weight is None:
            fresh = lowgrad.empty(shape, device=device, dtype=dtype)
            self.weight = Parameter(fresh, requires_grad=not _freeze)
            self.reset_parameters()
        elif tuple(_weight.shape) != shape:
            raise ShapeError(f"Embedding: weight must be {shape}, not {tuple(_weight.shape)}")
        else:
            self.weight = Parameter(_weight, requires_grad=not _freeze)

    @classmethod
    def from_pretrained(
        cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None
    ) -> Embedding:
        """An Embedding with these rows, [V, D], which are not learned if `freeze`."""
        if embeddings.ndim != 2:
            raise ShapeError(
                f"from_pretrained: embeddings must be [V, D], not {tuple(embeddings.shape)}"
            )
        rows, columns = embeddings.shape
        return cls(rows, columns, padding_idx, _weight=embeddings, _freeze=freeze)

    def reset_parameters(self) -> None:
        """Draw the rows anew; the padding row becomes zeros."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with lowgrad.no_grad():
                rows = lowgrad.arange(self.num_embeddings, device=self.weight.device)
                is_padding = (rows == self.padding_idx).unsqueeze(-1)
                self.weight.copy_(lowgrad.where(is_padding, 0.0, self.weight))

    def forward(self, input: Tensor) -> Tensor:
        """[..., embedding_dim]."""
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """The sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
