"""Scaling rows to a common mean, variance or length."""

from __future__ import annotations

import math
from collections.abc import Sequence

import lowgrad
from lowgrad.errors import ShapeError
from lowgrad.ir.types import DType
from lowgrad.nn.checks import require_floating, shown
from lowgrad.tensor import Tensor


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, over the last dims.

    input: [..., *normalized_shape], floating.  weight, bias: normalized_shape.  Returns input's
    shape and dtype; the biased variance is taken in f32 at least.
    Source: Ba et al. 2016, "Layer Normalization", eq. 4.
    """
    dims = _last_dims("layer_norm", input, normalized_shape, weight, bias)
    x = wide(input)
    centred = x - x.mean(dim=dims, keepdim=True)
    variance = (centred * centred).mean(dim=dims, keepdim=True)
    result = centred * lowgrad.rsqrt(variance + eps)
    result = result if weight is None else result * weight
    result = result if bias is None else result + bias
    return result.to(input.dtype)


def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight, over the last dims.

    input: [..., *normalized_shape], floating.  weight: normalized_shape.  Returns input's shape and
    dtype; the mean is taken in f32 at least.  eps is the dtype's unit roundoff if None.
    Source: Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", eq. 4 (eps added).
    """
    dims = _last_dims("rms_norm", input, normalized_shape, weight, None)
    x = wide(input)
    if eps is None:
        eps = unit_roundoff(x.dtype)
    result = x * lowgrad.rsqrt((x * x).mean(dim=dims, keepdim=True) + eps)
    result = result if weight is None else result * weight
    return result.to(input.dtype)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(norm(x), eps), the p-norm taken along `dim`. Input's shape and dtype."""
    norm = vector_norm(input, p, dim)
    return input / lowgrad.where(norm < eps, eps, norm)


def vector_norm(input: Tensor, p: float, dim: int) -> Tensor:
    """(sum |x|^p)^(1/p) along `dim`, which is kept as 1; the slope at the zero vector is 0."""
    if p == math.inf:
        return lowgrad.abs(input).amax(dim=dim, keepdim=True)
    if p == 1:
        return lowgrad.abs(input).sum(dim=dim, keepdim=True)
    powers = input * input if p == 2 else lowgrad.abs(input) ** p
    total = powers.sum(dim=dim, keepdim=True)
    is_zero = total == 0
    safe = lowgrad.where(is_zero, 1.0, total)
    root = lowgrad.sqrt(safe) if p == 2 else safe ** (1.0 / p)
    return lowgrad.where(is_zero, 0.0, root)


def wide(x: Tensor) -> Tensor:
    """x in a dtype fit for sums: float32 for the 16-bit floats, else as it is."""
    return x.to(lowgrad.float32) if x.dtype in (lowgrad.float16, lowgrad.bfloat16) else x


def unit_roundoff(dtype: DType) -> float:
    """The gap between 1 and the next number of `dtype`, as `torch.finfo(dtype).eps`."""
    gaps = {
        lowgrad.float64: 2.0**-52,
        lowgrad.float32: 2.0**-23,
        lowgrad.float16: 2.0**-10,
        lowgrad.bfloat16: 2.0**-7,
    }
    return gaps[dtype]


def _last_dims(
    op: str,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
) -> tuple[int, ...]:
    """The dims to normalise, checked against the operands."""
    require_floating(op, input=input)
    shape = tuple(normalized_shape)
    fits = bool(shape) and tuple(input.shape[-len(shape) :]) == shape
    if not fits or any(t is not None and tuple(t.shape) != shape for t in (weight, bias)):
        raise ShapeError(
            f"{op}: input must end in {shape}, and weight and bias must be of that shape",
            operands=shown(input=input, weight=weight, bias=bias),
        )
    return tuple(range(-len(shape), 0))
