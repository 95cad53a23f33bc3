"""Reductions over one, several or all dims."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from lowgrad import dispatch
from lowgrad.errors import DTypeError
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
from lowgrad.ir.types import DType, bfloat16, bool_, float16, float32, int64, uint8
from lowgrad.tensor import Tensor, method, run

__all__ = ["all", "amax", "amin", "any", "argmax", "argmin", "count_nonzero", "cumsum"]
__all__ += ["log_softmax", "logsumexp", "max", "mean", "min", "nanmean", "nansum", "norm", "prod"]
__all__ += ["aminmax", "cumprod", "diff", "dist", "softmax", "std", "std_mean", "sum", "var"]
__all__ += ["var_mean"]

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
    return cast(_reduce("sum", _wide(x), dim, keepdim) / count, x.dtype)


def _wide(x: Tensor) -> Tensor:
    """x as float32 if it has 16 bits: float16 holds neither a large sum nor a count of 65,536."""
    return cast(x, float32) if x.dtype in (float16, bfloat16) else x


@method()
def nansum(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The sum of the elements that are not NaN."""
    return sum(where(input == input, input, 0), dim, keepdim)


@method()
def nanmean(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The mean of the elements that are not NaN."""
    require_float("nanmean", input)
    x = _wide(input)
    return cast(nansum(x, dim, keepdim) / sum(x == x, dim, keepdim), input.dtype)


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
    if input.dtype is bool_:
        return any(input, dim, keepdim)
    return _reduce("max", input, dim, keepdim)


@method()
def amin(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The smallest element over `dim`; ties share the gradient."""
    if input.dtype is bool_:
        return all(input, dim, keepdim)
    return _reduce("min", input, dim, keepdim)


class Extreme(NamedTuple):
    """What `max(dim)`, `min(dim)`, `sort` and `topk` return."""

    values: Tensor
    indices: Tensor


def _extreme(name: str) -> Callable[..., Any]:
    pairwise = maximum if name == "max" else minimum

    whole = amax if name == "max" else amin

    def function(
        input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None
    ) -> Any:
        if isinstance(dim, Tensor):
            other = dim
        if other is not None:
            return pairwise(input, other)
        if dim is None:
            return whole(input, None, keepdim)
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
    ordered = cast(x, uint8) if x.dtype is bool_ else x
    indices = run("arg" + name, ordered, dims=(axis,))
    # Gathering at the index (not amax) gives the whole gradient to that one element, as PyTorch.
    values = run("gather", x, indices, dim=axis)
    if keepdim:
        return Extreme(values, indices)
    return Extreme(squeezed(values, (axis,)), squeezed(indices, (axis,)))


max = _extreme("max")
min = _extreme("min")


def _arg_extreme(name: str) -> Callable[..., Tensor]:
    def function(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
        if input.dtype is bool_:
            raise DTypeError(f"{name}: takes numbers, got a bool tensor", fix="x.int()")
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


def _truth(name: str, doc: str) -> Callable[..., Tensor]:
    def function(input: Tensor, dim: Dims = None, keepdim: bool = False) -> Tensor:
        found = _reduce(name, input if input.dtype is bool_ else input != 0, dim, keepdim)
        return cast(found, uint8) if input.dtype is uint8 else found  # PyTorch's own exception

    function.__name__ = name
    function.__doc__ = doc
    return method(name)(function)


all = _truth("all", "Whether all elements are true (non-zero).")
any = _truth("any", "Whether any element is true (non-zero).")


@method()
def count_nonzero(input: Tensor, dim: Dims = None) -> Tensor:
    """How many elements are not zero (int64)."""
    return sum(input != 0, dim)


@method()
def var(
    input: Tensor,
    dim: Dims = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Tensor:
    """The variance, divided by (count - correction); unbiased means a correction of 1, else 0.

    As in PyTorch, `var(x, False)` is the biased variance of all elements.
    """
    require_float("var", input)
    if isinstance(dim, bool):
        return var(input, None, dim, keepdim, correction=correction)
    dims = normal_dims("var", dim, input.ndim)
    count = math.prod(input.shape[d] for d in dims)
    x = _wide(input)
    centred = x - mean(x, dims, True)
    divisor = count - (float(unbiased) if correction is None else correction)
    total = sum(centred * centred, dims, keepdim)
    return cast(total / divisor if divisor > 0 else total * math.nan, input.dtype)


@method()
def std(input: Tensor, dim: Dims = None, *args: Any, **options: Any) -> Tensor:
    """The standard deviation: sqrt(var), with var's arguments; its gradient is 0 where it is 0."""
    return _root(var(input, dim, *args, **options))


def _root(square: Tensor) -> Tensor:
    """sqrt with a gradient of 0, not infinity, where it is 0: of equal elements, as PyTorch's."""
    if not square.requires_grad:
        return sqrt(square)
    is_zero = square == 0
    return where(is_zero, 0.0, sqrt(where(is_zero, 1.0, square)))


def var_mean(
    input: Tensor,
    dim: Dims = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Tensor, Tensor]:
    """(var, mean)."""
    variance = var(input, dim, unbiased, keepdim, correction=correction)
    return variance, mean(input, None if isinstance(dim, bool) else dim, keepdim)


def std_mean(input: Tensor, dim: Dims = None, *args: Any, **options: Any) -> tuple[Tensor, Tensor]:
    """(std, mean), with var's arguments."""
    variance, average = var_mean(input, dim, *args, **options)
    return _root(variance), average


@method()
def norm(input: Tensor, p: float | str = "fro", dim: Dims = None, keepdim: bool = False) -> Tensor:
    """The p-norm over `dim`: 2 ("fro"), 1, inf, -inf, 0 or any other number."""
    require_float("norm", input)
    order = 2.0 if p == "fro" else float(p)
    if order == 2:
        x = _wide(input)
        return cast(_root(sum(x * x, dim, keepdim)), input.dtype)
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
    x = input if dtype is None else cast(input, dtype)
    require_float("softmax", x)
    axis = _softmax_axis("softmax", x, dim)
    if axis is None:
        return x * 0 + 1
    shape = x._ref.type.shape
    exps = _exp_shifted(x, _peak(x, axis))
    return run("div", exps, expand_to(run("sum", exps, dims=(axis,)), shape))


@method()
def log_softmax(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """x - log(sum(exp(x))) over `dim`."""
    x = input if dtype is None else cast(input, dtype)
    require_float("log_softmax", x)
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


@method()
def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """Running products along `dim`; memory grows with the square of its size."""
    if dtype is None and not input.dtype.is_floating_point:
        dtype = int64
    x = input if dtype is None else cast(input, dtype)
    if x.ndim == 0:
        return x
    axis = normal_dim("cumprod", dim, x.ndim)
    x = x.movedim(axis, -1)
    size = x.shape[-1]
    square = x.unsqueeze(-2).expand(*x.shape[:-1], size, size)
    with dispatch.beside(x._ref):
        rows = run("iota", shape=(size, size), dtype=int64, dim=0)
        columns = run("iota", shape=(size, size), dtype=int64, dim=1)
    return prod(where(columns <= rows, square, 1), -1).movedim(-1, axis)


class Range(NamedTuple):
    """What `aminmax` returns."""

    min: Tensor
    max: Tensor


@method()
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> Range:
    """(min, max) over `dim` (all if None)."""
    return Range(amin(input, dim, keepdim), amax(input, dim, keepdim))


@method()
def diff(input: Tensor, n: int = 1, dim: int = -1) -> Tensor:
    """Each element less the one before it along `dim`, n times over."""
    for _ in range(n):
        length = input.shape[dim] - 1 if input.shape[dim] else 0
        later = input.narrow(dim, input.shape[dim] - length, length)
        earlier = input.narrow(dim, 0, length)
        input = later != earlier if input.dtype is bool_ else later - earlier
    return input


def dist(input: Tensor, other: Tensor, p: float = 2) -> Tensor:
    """The p-norm of the difference."""
    return norm(input - other, p)
