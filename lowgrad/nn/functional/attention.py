"""Scaled dot-product attention."""

from __future__ import annotations

import math

import lowgrad
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.nn.checks import require_floating, shown
from lowgrad.nn.functional.dropouts import dropout
from lowgrad.tensor import Tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(query @ key.T * scale + mask) @ value.

    query: [..., H, L, E].  key: [..., H, S, E].  value: [..., H, S, D].  Returns [..., H, L, D].
    attn_mask: broadcast to [..., L, S]; bool (True takes part) or floating (added).
    is_causal: row i sees columns up to i.  scale: 1 / sqrt(E) if None.
    enable_gqa: key and value may have fewer heads H, each shared by consecutive query heads.
    A row that may see nothing gives zeros.  dropout_p applies always: pass 0 when not training.
    Source: Vaswani et al. 2017, "Attention Is All You Need", eq. 1.
    """
    _check(query, key, value, attn_mask, is_causal)
    if enable_gqa:
        key, value = _repeated(key, query), _repeated(value, query)
    weights = attention_weights(query, key, attn_mask, is_causal, scale)
    return dropout(weights, dropout_p) @ value


def attention_weights(
    query: Tensor,
    key: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query @ key.T * scale + mask), [..., L, S]; the arguments are those above."""
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-1, -2)
    if is_causal:
        attn_mask = causal_mask(query.shape[-2], key.shape[-2], query)
    if attn_mask is None:
        return _safe_softmax(scores)
    if attn_mask.dtype.is_floating_point:
        return _safe_softmax(scores + attn_mask)
    return _safe_softmax(lowgrad.where(attn_mask, scores, -math.inf))


def causal_mask(rows: int, columns: int, like: Tensor) -> Tensor:
    """bool [rows, columns], True up to the diagonal, on the device of `like`."""
    row = lowgrad.arange(rows, device=like.device).unsqueeze(-1)
    return row >= lowgrad.arange(columns, device=like.device)


def _safe_softmax(scores: Tensor) -> Tensor:
    """softmax over the last dim, and zeros where a whole row is -inf."""
    peak = scores.detach().amax(dim=-1, keepdim=True)
    peak = lowgrad.where(peak == -math.inf, 0.0, peak)
    powers = lowgrad.exp(scores - peak)
    total = powers.sum(dim=-1, keepdim=True)
    return powers / lowgrad.where(total == 0, 1.0, total)


def _check(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, is_causal: bool
) -> None:
    operands = {"query": query, "key": key, "value": value}
    require_floating("scaled_dot_product_attention", **operands)
    if min(t.ndim for t in operands.values()) < 2:
        raise ShapeError(
            "scaled_dot_product_attention: operands need two axes at least",
            operands=shown(**operands),
        )
    if query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
        raise ShapeError(
            "scaled_dot_product_attention: must be query [.., L, E], key [.., S, E], "
            "value [.., S, D]",
            operands=shown(**operands),
        )
    if is_causal and attn_mask is not None:
        raise ArgumentError(
            "scaled_dot_product_attention: attn_mask and is_causal exclude each other",
            fix="combine them in attn_mask",
        )


def _repeated(heads: Tensor, query: Tensor) -> Tensor:
    """`heads` with each head repeated, until there are as many as in `query`."""
    have, want = heads.shape[-3], query.shape[-3]
    if want % have:
        raise ShapeError(
            f"scaled_dot_product_attention: {want} query heads cannot share {have} heads equally",
            operands=shown(query=query, heads=heads),
        )
    batch, rest = heads.shape[:-3], heads.shape[-2:]
    wide = heads.unsqueeze(-3).expand(*batch, have, want // have, *rest)
    return wide.reshape(*batch, want, *rest)
