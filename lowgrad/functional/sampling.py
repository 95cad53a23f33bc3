"""Random tensors, all drawn from Philox: the same numbers eagerly, compiled, on CPU and GPU."""

from __future__ import annotations

import math
from typing import Any

from lowgrad import dispatch
from lowgrad.errors import ArgumentError, DTypeError
from lowgrad.functional.common import cast, floating, shape_args
from lowgrad.functional.pointwise import cos, log, sqrt
from lowgrad.generator import Generator, default_generator
from lowgrad.ir.op import REGISTRY
from lowgrad.ir.types import DType, Shape, float32, float64, int64
from lowgrad.promotion import get_default_dtype
from lowgrad.tensor import Tensor, method, run, wrap

__all__ = ["bernoulli", "multinomial", "normal", "rand", "rand_like", "randint", "randint_like"]
__all__ += ["randn", "randn_like", "randperm"]


def uniform_draw(shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """Numbers in [0, 1); one draw of the generator."""
    key, offset = dispatch.random_key(generator or default_generator)
    wide = float64 if dtype is float64 else float32
    attrs = {"shape": shape, "dtype": wide, "offset": offset}
    (ref,) = dispatch.apply(REGISTRY["uniform"], (key,), attrs)
    return cast(wrap(ref), dtype)


def normal_draw(shape: Shape, dtype: DType, generator: Generator | None) -> Tensor:
    """Standard normal numbers, by Box and Muller's transform (1958) of two draws."""
    wide = float64 if dtype is float64 else float32
    with dispatch.grad_mode(False):
        # 1 - u lies in (0, 1], where the logarithm is finite.
        radius = sqrt(-2.0 * log(1.0 - uniform_draw(shape, wide, generator)))
        return cast(radius * cos(uniform_draw(shape, wide, generator) * (2 * math.pi)), dtype)


def _float(name: str, dtype: DType | None) -> DType:
    dtype = dtype or get_default_dtype()
    if not dtype.is_floating_point:
        raise DTypeError(f"{name}: needs a floating dtype, got {dtype!r}")
    return dtype


def rand(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    with dispatch.made_on(device):
        made = uniform_draw(shape_args("rand", size), _float("rand", dtype), generator)
    return made.requires_grad_() if requires_grad else made


def randn(
    *size: Any,
    generator: Generator | None = None,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
) -> Tensor:
    """Standard normal numbers."""
    with dispatch.made_on(device):
        made = normal_draw(shape_args("randn", size), _float("randn", dtype), generator)
    return made.requires_grad_() if requires_grad else made


def rand_like(input: Tensor, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """`rand` with input's shape, dtype and device."""
    options.setdefault("device", input.device)
    return rand(input._ref.type.shape, dtype=dtype or input.dtype, **options)


def randn_like(input: Tensor, *, dtype: DType | None = None, **options: Any) -> Tensor:
    """`randn` with input's shape, dtype and device."""
    options.setdefault("device", input.device)
    return randn(input._ref.type.shape, dtype=dtype or input.dtype, **options)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DType = int64,
    device: Any = None,
) -> Tensor:
    """Integers from low (0 if not given) up to, not including, high."""
    if size is None:
        low, high, size = 0, low, high
    if high <= low:
        raise ArgumentError(f"randint: high must be above low, got {low} and {high}")
    # 53 random bits scaled: each integer's share differs by at most 2**-53 of the range.
    with dispatch.made_on(device):
        drawn = uniform_draw(shape_args("randint", (tuple(size),)), float64, generator)
        return cast(cast(run("floor", drawn * (high - low)), int64) + low, dtype)


def randint_like(input: Tensor, low: int, high: int | None = None, **options: Any) -> Tensor:
    """`randint` with input's shape and dtype."""
    options.setdefault("dtype", input.dtype)
    options.setdefault("device", input.device)
    if high is None:
        low, high = 0, low
    return randint(low, high, input._ref.type.shape, **options)


def randperm(
    n: int, *, generator: Generator | None = None, dtype: DType = int64, device: Any = None
) -> Tensor:
    """The integers 0 to n - 1 in random order."""
    with dispatch.made_on(device):
        drawn = uniform_draw((n,), float64, generator)
        return cast(run("sort", drawn, dim=0, descending=False)[1], dtype)


def normal(
    mean: Any = 0.0,
    std: Any = 1.0,
    size: Any = None,
    *,
    generator: Generator | None = None,
    dtype: DType | None = None,
) -> Tensor:
    """mean + std * randn; the shape is that of a tensor operand, or `size`."""
    like = mean if isinstance(mean, Tensor) else std
    if isinstance(like, Tensor):
        return mean + std * randn_like(like, generator=generator)
    return randn(tuple(size), generator=generator, dtype=dtype) * std + mean


@method()
def bernoulli(
    input: Tensor, p: float | None = None, *, generator: Generator | None = None
) -> Tensor:
    """1 with the probability that each element gives (or p), else 0."""
    with dispatch.grad_mode(False), dispatch.beside(input._ref):
        drawn = uniform_draw(input._ref.type.shape, float32, generator)
        return cast(drawn < (cast(input, float32) if p is None else p), input.dtype)


@method()
def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """Class numbers drawn with the weights in each row. [C] or [N, C] -> [S] or [N, S], int64."""
    weights = floating(input).detach()
    if not replacement and num_samples > input.shape[-1]:
        raise ArgumentError(
            f"multinomial: cannot draw {num_samples} of {input.shape[-1]} without replacement"
        )
    if replacement:
        total = weights.cumsum(-1)
        with dispatch.beside(input._ref):
            drawn = uniform_draw((*input.shape[:-1], num_samples), float32, generator)
        scaled = drawn * total[..., -1:]
        return (scaled.unsqueeze(-1) >= total.unsqueeze(-2)).sum(-1)
    # Efraimidis & Spirakis 2006: the largest of u ** (1/w) are a weighted sample.
    with dispatch.beside(input._ref):
        drawn = uniform_draw(input._ref.type.shape, float32, generator)
    keys = log(1.0 - drawn) / weights
    return keys.topk(num_samples, -1).indices
