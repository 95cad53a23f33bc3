"""Multi-head attention."""

from __future__ import annotations

import math
from typing import Any

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.ir.types import DType
from lowgrad.nn import init
from lowgrad.nn.checks import shown
from lowgrad.nn.functional.attention import attention_weights
from lowgrad.nn.modules.linears import Linear
from lowgrad.nn.modules.module import Module
from lowgrad.nn.modules.parameter import Parameter
from lowgrad.tensor import Tensor


class MultiheadAttention(Module):
    """Attention by several heads at once, each on its own projection of query, key and value.

    query: [L, B, embed_dim].  key: [S, B, kdim].  value: [S, B, vdim]; batch first if
    `batch_first`, and without B for a single sequence.  Parameters have PyTorch's names and shapes.
    Source: Vaswani et al. 2017, "Attention Is All You Need", sec. 3.2.2.
    """

    in_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: Any = None,
        dtype: DType | None = None,
    ) -> None:
        super().__init__()
        if embed_dim <= 0 or num_heads <= 0 or embed_dim % num_heads:
            raise ArgumentError(
                f"MultiheadAttention: embed_dim {embed_dim} must be a multiple of "
                f"num_heads {num_heads}"
            )
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.dropout = dropout
        self.batch_first = batch_first
        is_packed = self.kdim == embed_dim and self.vdim == embed_dim
        sizes = {
            "q_proj_weight": None if is_packed else (embed_dim, embed_dim),
            "k_proj_weight": None if is_packed else (embed_dim, self.kdim),
            "v_proj_weight": None if is_packed else (embed_dim, self.vdim),
            "in_proj_weight": (3 * embed_dim, embed_dim) if is_packed else None,
            "in_proj_bias": (3 * embed_dim,) if bias else None,
        }
        for name, size in sizes.items():
            empty = None if size is None else lowgrad.empty(size, device=device, dtype=dtype)
            self.register_parameter(name, None if empty is None else Parameter(empty))
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projections anew; the biases become zeros."""
        for name in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
            weight = self._parameters[name]
            if weight is not None:
                init.xavier_uniform_(weight)
        if self.in_proj_bias is not None:
            init.zeros_(self.in_proj_bias)
            init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """(output of query's shape, weights or None).

        key_padding_mask: [B, S].  attn_mask: [L, S] or [B * num_heads, L, S].  In both, True (or
        -inf) hides a key, as in PyTorch's module and unlike scaled_dot_product_attention.
        is_causal hides the future by itself; attn_mask may stand beside it.
        weights: [B, L, S], averaged over the heads, or [B, num_heads, L, S].
        """
        is_batched = query.ndim == 3
        is_self = query is key and key is value
        q, k, v = (self._batch_first(t, is_batched) for t in (query, key, value))
        self._check(q, k, v)
        if key_padding_mask is not None and not is_batched:
            key_padding_mask = key_padding_mask.unsqueeze(0)
        mask = self._mask(q, k, key_padding_mask, attn_mask, is_causal)
        q, k, v = (self._heads(t) for t in self._projected(q, k, v, is_self))
        weights = F.dropout(attention_weights(q, k, mask), self.dropout, self.training)
        joined = (weights @ v).transpose(1, 2).flatten(2)
        output = self._as_given(self.out_proj(joined), is_batched)
        if not need_weights:
            return output, None
        shown_weights = weights.mean(dim=1) if average_attn_weights else weights
        return output, shown_weights if is_batched else shown_weights.squeeze(0)

    def _batch_first(self, x: Tensor, is_batched: bool) -> Tensor:
        """x as [B, length, features]."""
        if x.ndim != (3 if is_batched else 2):
            raise ShapeError(
                "MultiheadAttention: query, key and value need 3 axes each, or 2 without a batch",
                operands=shown(got=x),
            )
        if not is_batched:
            return x.unsqueeze(0)
        return x if self.batch_first else x.transpose(0, 1)

    def _as_given(self, output: Tensor, is_batched: bool) -> Tensor:
        """The inverse of `_batch_first`."""
        if not is_batched:
            return output.squeeze(0)
        return output if self.batch_first else output.transpose(0, 1)

    def _check(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        sizes = (q.shape[2], k.shape[2], v.shape[2])
        if sizes != (self.embed_dim, self.kdim, self.vdim) or k.shape[1] != v.shape[1]:
            raise ShapeError(
                f"MultiheadAttention: features must be {self.embed_dim}, {self.kdim}, {self.vdim}, "
                "and key and value equally long",
                operands=shown(query=q, key=k, value=v),
            )

    def _projected(self, q: Tensor, k: Tensor, v: Tensor, is_self: bool) -> list[Tensor]:
        """query, key and value each through its own part of the input projection."""
        if is_self and self.in_proj_weight is not None:
            return list(F.linear(q, self.in_proj_weight, self.in_proj_bias).chunk(3, dim=-1))
        biases = [None, None, None] if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        weights = self._projections()
        return [F.linear(x, w, b) for x, w, b in zip((q, k, v), weights, biases, strict=True)]

    def _projections(self) -> list[Tensor]:
        """The weights of query, key and value, each [embed_dim, its features]."""
        if self.in_proj_weight is not None:
            return list(self.in_proj_weight.chunk(3))
        names = ("q_proj_weight", "k_proj_weight", "v_proj_weight")
        return [self.get_parameter(name) for name in names]

    def _heads(self, x: Tensor) -> Tensor:
        """[B, length, embed_dim] -> [B, num_heads, length, head_dim]."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _mask(
        self,
        q: Tensor,
        k: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        is_causal: bool,
    ) -> Tensor | None:
        """All masks as one, added to the scores: broadcasts to [B, num_heads, L, S]."""
        batch, rows, columns = q.shape[0], q.shape[1], k.shape[1]
        masks = []
        if attn_mask is not None:
            self._check_attn_mask(attn_mask, (rows, columns), batch)
            added = _added(attn_mask, q)
            if added.ndim == 3:
                added = added.reshape(batch, self.num_heads, rows, columns)
            masks.append(added)
        elif is_causal:
            places = lowgrad.arange(max(rows, columns), device=q.device)
            ahead = places[:columns] > places[:rows].unsqueeze(-1)
            masks.append(_added(ahead, q))
        if key_padding_mask is not None:
            if tuple(key_padding_mask.shape) != (batch, columns):
                raise ShapeError(
                    f"MultiheadAttention: key_padding_mask must be {(batch, columns)}",
                    operands=shown(key_padding_mask=key_padding_mask),
                )
            masks.append(_added(key_padding_mask, q).reshape(batch, 1, 1, columns))
        return None if not masks else sum(masks[1:], masks[0])

    def _check_attn_mask(self, mask: Tensor, size: tuple[int, int], batch: int) -> None:
        shape = tuple(mask.shape)
        if shape != size and shape != (batch * self.num_heads, *size):
            raise ShapeError(
                f"MultiheadAttention: attn_mask must be {size} or "
                f"{(batch * self.num_heads, *size)}",
                operands=shown(attn_mask=mask),
            )


def _added(mask: Tensor, like: Tensor) -> Tensor:
    """A mask to add to the scores: -inf where a bool mask is True."""
    if mask.dtype.is_floating_point:
        return mask
    none = lowgrad.zeros(tuple(mask.shape), dtype=like.dtype, device=like.device)
    return lowgrad.where(mask, -math.inf, none)
