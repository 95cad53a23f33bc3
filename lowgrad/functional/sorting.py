"""Order: sort, argsort, topk, and what follows from them."""

from __future__ import annotations

from lowgrad.errors import ArgumentError
from lowgrad.functional.common import normal_dim
from lowgrad.functional.indexing import take_along_dim
from lowgrad.functional.pointwise import where
from lowgrad.functional.reduction import Extreme
from lowgrad.functional.shape import select, slice_dim
from lowgrad.tensor import Tensor, method, run

__all__ = ["argsort", "kthvalue", "median", "msort", "sort", "topk"]


@method()
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Extreme:
    """(values, indices) in order along `dim`; equal elements keep their order, NaN is largest."""
    if input.ndim == 0:
        values, indices = sort(input.reshape(1), 0, descending)
        return Extreme(values.reshape(()), indices.reshape(()))
    axis = normal_dim("sort", dim, input.ndim)
    values, indices = run("sort", input, dim=axis, descending=descending)
    return Extreme(values, indices)


@method()
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """The indices that sort `input` along `dim`."""
    return sort(input, dim, descending).indices


def msort(input: Tensor) -> Tensor:
    """Sorted along the first dim."""
    return sort(input, 0).values


@method()
def topk(
    input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> Extreme:
    """(values, indices) of the k largest (or smallest) along `dim`, in order."""
    axis = normal_dim("topk", dim, input.ndim)
    size = input.shape[axis] if input.ndim else 1
    if not 0 <= k <= size:
        raise ArgumentError(f"topk: k is {k}, the dim has {size} elements")
    if input.ndim == 0:
        return sort(input)
    values, indices = sort(input, axis, descending=largest)
    return Extreme(slice_dim(values, axis, 0, k), slice_dim(indices, axis, 0, k))


@method()
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Extreme:
    """(value, index) of the k-th smallest along `dim`, k from 1."""
    axis = normal_dim("kthvalue", dim, input.ndim)
    if not 1 <= k <= input.shape[axis]:
        raise ArgumentError(f"kthvalue: k is {k}, the dim has {input.shape[axis]} elements")
    index = slice_dim(argsort(input, axis), axis, k - 1, k)
    value = take_along_dim(input, index, axis)
    if keepdim:
        return Extreme(value, index)
    return Extreme(select(value, axis, 0), select(index, axis, 0))


@method()
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | Extreme:
    """The lower median of all elements, or (value, index) along `dim`."""
    if dim is None:
        flat = input.reshape(-1)
        return _middle(flat, 0, False).values
    return _middle(input, dim, keepdim)


def _middle(x: Tensor, dim: int, keepdim: bool) -> Extreme:
    if x.ndim == 0:
        return sort(x)
    size = x.shape[normal_dim("median", dim, x.ndim)]
    middle = kthvalue(x, (size + 1) // 2, dim, keepdim)
    if not x.dtype.is_floating_point:
        return middle
    last = kthvalue(x, size, dim, keepdim)  # NaN, if there is one: it is the largest
    missing = last.values != last.values
    return Extreme(
        where(missing, last.values, middle.values), where(missing, last.indices, middle.indices)
    )
