"""A transformer's encoder layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lowgrad.nn.functional as F
from lowgrad.errors import ArgumentError
from lowgrad.ir.types import DType
from lowgrad.nn.modules.attention import MultiheadAttention
from lowgrad.nn.modules.dropouts import Dropout
from lowgrad.nn.modules.linears import Linear
from lowgrad.nn.modules.module import Module
from lowgrad.nn.modules.normalizations import LayerNorm
from lowgrad.tensor import Tensor

Activation = Callable[[Tensor], Tensor]


class TransformerEncoderLayer(Module):
    """Self-attention, then two linear layers, each with dropout, a sum and a LayerNorm.

    src: [S, B, d_model], or [B, S, d_model] if `batch_first`.  `norm_first` puts the norms before.
    Source: Vaswani et al. 2017, "Attention Is All You Need", sec. 3.1.
    """

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Activation = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(
            d_model, nhead, dropout, bias, batch_first=batch_first, device=device, dtype=dtype
        )
        self.linear1 = Linear(d_model, dim_feedforward, bias, device, dtype)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias, device, dtype)
        self.norm_first = norm_first
        self.norm1 = LayerNorm(d_model, layer_norm_eps, True, bias, device, dtype)
        self.norm2 = LayerNorm(d_model, layer_norm_eps, True, bias, device, dtype)
        self.dropout1 = Dropout(dropout)
        self.dropout2 = Dropout(dropout)
        self.activation = _activation(activation)

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """src's shape. The masks are MultiheadAttention's."""

        def attended(x: Tensor) -> Tensor:
            result, _ = self.self_attn(
                x, x, x, src_key_padding_mask, False, src_mask, is_causal=is_causal
            )
            return self.dropout1(result)

        if self.norm_first:
            x = src + attended(self.norm1(src))
            return x + self._feed_forward(self.norm2(x))
        x = self.norm1(src + attended(src))
        return self.norm2(x + self._feed_forward(x))

    def _feed_forward(self, x: Tensor) -> Tensor:
        hidden = self.dropout(self.activation(self.linear1(x)))
        return self.dropout2(self.linear2(hidden))


def _activation(activation: str | Activation) -> Activation:
    if callable(activation):
        return activation
    if activation not in ("relu", "gelu"):
        raise ArgumentError(
            f"TransformerEncoderLayer: activation must be 'relu' or 'gelu', not {activation!r}"
        )
    return F.relu if activation == "relu" else F.gelu
