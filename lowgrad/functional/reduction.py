"""Reductions over one, several or all dims."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from lowgrad.functional.common import (
    cast,
    constant,
    expand_to,
    floating,
    normal_dim,
    normal_dims,
    require_float,
    squeezed,
)
from lowgrad.functional.pointwise import abs, log, maximum, minimum, sqrt, where
from lowgrad.ir.types import DType, bool_, int64
from lowgrad.tensor import Tensor, method, run

__all__ = ["all", "amax", "amin", "any", "argmax", "argmin", "count_nonzero", "cumsum"]
__all__ += ["log_softmax", "logsumexp", "max", "mean", "min", "nanmean", "nansum", "norm", "prod"]
__all__ += ["softmax", "std", "std_mean", "sum", "var", "var_mean"]

Dims = int | tuple[int, ...] | list[int] | None


def _reduce(op: str, x: Tensor, dim: Dims, keepdim: bool) -> Tensor:
    rank = len(x._ref.type.shape)
    dims = tuple(range(rank)) if dim is None else normal_dims(op, dim, rank)
    if not dims:  # a 0-d tensor: reduce the one element it has
        return run("reshape", run(op, run("reshape", x, shape=(1,)), dims=(0,)), shape=())
    result = run(op, x, dims=dims)
    return result if keepdim else squeezed(result, dims)


@method()
def sum(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The sum over `dim` (all if None). Integers and bools are added up in int64."""
    if dtype is None and not input.dtype.is_floating_point:
        dtype = int64
    return _reduce("sum", input if dtype is None else cast(input, dtype), dim, keepdim)


@method()
def mean(
    input: Tensor, dim: Dims = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The mean over `dim` (all if None)."""
    x = input if dtype is None else cast(input, dtype)
    require_float("mean", x)
    count = math.prod(x.shape[d] for d in normal_dims("mean", dim, x.ndim))
    # Dividing (not multiplying by 1/count) is what PyTorch does; an empty mean is 0/0 = NaN.
    return _reduce("sum", x, dim, keepdim) / count


@method()
def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The sum of the elements that are not NaN."""
    return sum(where(input == input, input, 0), dim, keepdim)


@method()
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The mean of the elements that are not NaN."""
    return nansum(input, dim, keepdim) / sum(input == input, dim, keepdim)


@method()
def prod(
    input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The product over `dim` (all if None). Integers are multiplied in int64."""
    if dtype is None and not input.dtype.is_floating_point:
        dtype = int64
    return _reduce("prod", input if dtype is None else cast(input, dtype), dim, keepdim)


@method()
def amax(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The largest element over `dim`; ties share the gradient."""
    return _reduce("max", input, dim, keepdim)


@method()
def amin(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The smallest element over `dim`; ties share the gradient."""
    return _reduce("min", input, dim, keepdim)


class Extreme(NamedTuple):
    """What `max(dim)`, `min(dim)`, `sort` and `topk` return."""

    values: Tensor
    indices: Tensor


def _extreme(name: str) -> Callable[..., Any]:
    pairwise = maximum if name == "max" else minimum

    def function(input: Tensor, dim: Any = None, keepdim: bool = False) -> Any:
        if isinstance(dim, Tensor):
            return pairwise(input, dim)
        if dim is None:
            return _reduce(name, input, None, keepdim)
        return _extreme_along(name, input, dim, keepdim)

    function.__name__ = name
    function.__doc__ = (
        f"The {name} of all elements, (values, indices) over `dim`, or elementwise of two tensors."
    )
    return method(name)(function)


def _extreme_along(name: str, x: Tensor, dim: int, keepdim: bool) -> Extreme:
    if x.ndim == 0:
        along = _extreme_along(name, run("reshape", x, shape=(1,)), dim, True)
        return Extreme(*(run("reshape", t, shape=()) for t in along))
    axis = normal_dim(name, dim, x.ndim)
    indices = run("arg" + name, x, dims=(axis,))
    # Gathering at the index (not amax) gives the whole gradient to that one element, as PyTorch.
    values = run("gather", x, indices, dim=axis)
    if keepdim:
        return Extreme(values, indices)
    return Extreme(squeezed(values, (axis,)), squeezed(indices, (axis,)))


max = _extreme("max")
min = _extreme("min")


def _arg_extreme(name: str) -> Callable[..., Tensor]:
    def function(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        if dim is None or input.ndim == 0:
            flat = run("reshape", input, shape=(input.numel(),))
            shape = (1,) * input.ndim if keepdim else ()
            return run("reshape", run(name, flat, dims=(0,)), shape=shape)
        axis = normal_dim(name, dim, input.ndim)
        result = run(name, input, dims=(axis,))
        return result if keepdim else squeezed(result, (axis,))

    function.__name__ = name
    function.__doc__ = f"The index (int64) of the {name[3:]} over `dim`, of all elements if None."
    return method(name)(function)


argmax = _arg_extreme("argmax")
argmin = _arg_extreme("argmin")


@method()
def all(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether all elements are true (non-zero)."""
    return _reduce("all", input if input.dtype is bool_ else input != 0, dim, keepdim)


@method()
def any(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """Whether any element is true (non-zero)."""
    return _reduce("any", input if input.dtype is bool_ else input != 0, dim, keepdim)


@method()
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are not zero (int64)."""
    return sum(input != 0, dim)


@method()
def var(
    input: Tensor, dim: Dims = None, *, correction: float = 1, keepdim: bool = False,
    unbiased: bool = True,
) -> Tensor:  # fmt: skip
    """The variance, divided by (count - correction)."""
    require_float("var", input)
    dims = normal_dims("var", dim, input.ndim)
    count = math.prod(input.shape[d] for d in dims)
    centred = input - mean(input, dims, True)
    divisor = count - (correction if unbiased else 0)
    total = sum(centred * centred, dims, keepdim)
    return total / divisor if divisor > 0 else total * math.nan


@method()
def std(
    input: Tensor, dim: Dims = None, *, correction: float = 1, keepdim: bool = False,
    unbiased: bool = True,
) -> Tensor:  # fmt: skip
    """The standard deviation: sqrt(var)."""
    return sqrt(var(input, dim, correction=correction, keepdim=keepdim, unbiased=unbiased))


def var_mean(
    input: Tensor, dim: Dims = None, *, correction: float = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """(var, mean)."""
    return var(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


def std_mean(
    input: Tensor, dim: Dims = None, *, correction: float = 1, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """(std, mean)."""
    return std(input, dim, correction=correction, keepdim=keepdim), mean(input, dim, keepdim)


@method()
def norm(
    input: Tensor, p: float | str = "fro", dim: Dims = None, keepdim: bool = False
) -> Tensor:
    """The p-norm over `dim`: 2 ("fro"), 1, inf, -inf, 0 or any other number."""
    require_float("norm", input)
    order = 2.0 if p == "fro" else float(p)
    if order == 2:
        return sqrt(sum(input * input, dim, keepdim))
    if order == 1:
        return sum(abs(input), dim, keepdim)
    if math.isinf(order):
        return (amax if order > 0 else amin)(abs(input), dim, keepdim)
    if order == 0:
        return cast(sum(input != 0, dim, keepdim), input.dtype)
    return sum(abs(input) ** order, dim, keepdim) ** (1 / order)


@method()
def logsumexp(input: Tensor, dim: Dims, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) over `dim`, without overflow."""
    x = floating(input)
    dims = normal_dims("logsumexp", dim, x.ndim)
    if not dims:
        return x
    shift = _finite_max(x, dims)
    total = log(sum(_exp_shifted(x, shift), dims, True)) + shift
    return total if keepdim else squeezed(total, dims)


def _finite_max(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The maximum without gradient, 0 where it is infinite (inf - inf would be NaN)."""
    if 0 in (x.shape[d] for d in dims):
        return sum(constant(x), dims, True)
    peak = run("max", constant(x), dims=dims)
    return where(abs(peak) < math.inf, peak, where(peak == peak, 0.0, peak))


def _exp_shifted(x: Tensor, shift: Tensor) -> Tensor:
    return run("exp", run("sub", x, expand_to(shift, x._ref.type.shape)))


@method()
def softmax(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) over `dim`."""
    x = floating(input if dtype is None else cast(input, dtype))
    axis = _softmax_axis("softmax", x, dim)
    if axis is None:
        return x * 0 + 1
    shape = x._ref.type.shape
    exps = _exp_shifted(x, _peak(x, axis))
    return run("div", exps, expand_to(run("sum", exps, dims=(axis,)), shape))


@method()
def log_softmax(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """x - log(sum(exp(x))) over `dim`."""
    x = floating(input if dtype is None else cast(input, dtype))
    axis = _softmax_axis("log_softmax", x, dim)
    if axis is None:
        return x * 0
    shape = x._ref.type.shape
    shifted = run("sub", x, expand_to(_peak(x, axis), shape))
    total = run("log", run("sum", run("exp", shifted), dims=(axis,)))
    return run("sub", shifted, expand_to(total, shape))


def _peak(x: Tensor, axis: int) -> Tensor:
    """The maximum along `axis`, a constant to gradients: it shifts, and cancels."""
    return run("max", constant(x), dims=(axis,))


def _softmax_axis(name: str, x: Tensor, dim: int) -> int | None:
    axis = normal_dim(name, dim, x.ndim)
    return None if x.ndim == 0 or x.shape[axis] == 0 else axis


@method()
def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Running sums along `dim`."""
    if dtype is None and not input.dtype.is_floating_point:
        dtype = int64
    x = input if dtype is None else cast(input, dtype)
    if x.ndim == 0:
        return x
    return run("cumsum", x, dim=normal_dim("cumsum", dim, x.ndim))
