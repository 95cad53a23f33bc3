"""The reduction family: one result element from all elements along some dims, which keep size 1.

A kernel reduces with `combine`, and lanes past the end hold `identity`, which changes nothing.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir import tile
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.slicing import Axis, Slicing, same_dim
from lowgrad.ir.tile import Tile
from lowgrad.ir.types import DType, TensorType, float32, int64
from lowgrad.ops.pointwise.base import BOOLS, NUMBERS, Domain, where, zeros_like

Dims = tuple[int, ...]


class Reduction(Op):
    """x reduced along `dims` (sorted, not negative, not empty); their sizes become 1.

    `combine` says what a kernel does with two partial results. f16 and bf16 accumulate in f32: sums
    in bf16 stop growing at 256.
    """

    family = "reduction"
    combine: ClassVar[str]
    domain: ClassVar[Domain] = NUMBERS
    # Whether reducing no elements at all has a meaning: the identity.
    allows_empty: ClassVar[bool] = True
    # Whether results of pieces combine to the result of the whole by `combine` alone.
    combines_pieces: ClassVar[bool] = False

    def infer(self, x: TensorType, *, dims: Dims) -> TensorType:
        if x.dtype not in self.domain.dtypes:
            raise DTypeError(f"{self.name}: takes {self.domain.name}, got {x}")
        check_dims(self.name, x, dims)
        if not self.allows_empty and any(x.shape[d] == 0 for d in dims):
            raise ShapeError(f"{self.name}: nothing to choose from along {list(dims)} of {x}")
        return x.with_shape(tuple(1 if d in dims else s for d, s in enumerate(x.shape)))

    def identity(self, dtype: DType) -> tile.Literal:
        """The number that combines with any other to that other; for the masked lanes."""
        raise NotImplementedError(self.name)

    def slicing(self, axis: Axis, *, dims: Dims) -> Slicing | None:
        if axis.place.dim not in dims:
            return same_dim(axis)
        if axis.place.is_result or not self.combines_pieces:
            return None
        fits = axis.divides(axis.ins[0].shape[axis.place.dim])
        return Slicing((axis.place.dim,), (self.combine,)) if fits else None


class Fold(Reduction):
    """Partial results are plain elements, and `combine` is the tile function of two of them."""

    combines_pieces = True

    def emit(self, *tiles: Any, **attrs: Any) -> Tile:
        a, b = tiles
        return tile.call(self.combine, a, b)


class Sum(Fold):
    """The sum, of numbers, in x's dtype; 0 of nothing. Integers wrap."""

    name = "sum"
    combine = "add"

    def identity(self, dtype: DType) -> tile.Literal:
        return 0.0 if dtype.is_floating_point else 0

    def evaluate(self, x: Array, *, dims: Dims) -> Array:
        with np.errstate(all="ignore"):
            return np.sum(x, axis=dims, keepdims=True, dtype=x.dtype)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, dims: Dims) -> tuple[Tracer]:
        return (expand(g, x),)


class Prod(Fold):
    """The product, of numbers, in x's dtype; 1 of nothing. Integers wrap."""

    name = "prod"
    combine = "mul"

    def identity(self, dtype: DType) -> tile.Literal:
        return 1.0 if dtype.is_floating_point else 1

    def evaluate(self, x: Array, *, dims: Dims) -> Array:
        with np.errstate(all="ignore"):
            return np.prod(x, axis=dims, keepdims=True, dtype=x.dtype)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, dims: Dims) -> tuple[Tracer]:
        order = tuple(d for d in range(x.type.ndim) if d not in dims) + dims
        moved = x.call("permute", dims=order)
        rows = math.prod(x.shape[d] for d in order[: -len(dims)])
        flat = moved.call("reshape", shape=(rows, math.prod(x.shape[d] for d in dims)))
        others = times_others(flat, g.call("reshape", shape=(rows, 1)))
        back = tuple(order.index(d) for d in range(x.type.ndim))
        return (others.call("reshape", shape=moved.shape).call("permute", dims=back),)


class Extremum(Fold):
    """The largest or smallest. Equal ones share the gradient equally, as torch.amax has it."""

    allows_empty = False

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, dims: Dims) -> tuple[Tracer]:
        chosen = x.equals(expand(out, x))
        # f32: f16 has no number of ties above 65504.
        wide = float32 if x.dtype.is_low_precision else x.dtype
        count = chosen.call("cast", dtype=wide).call("sum", dims=dims)
        shared = where(chosen, expand(g, x), zeros_like(x))
        if wide is not x.dtype:
            return (
                (shared.call("cast", dtype=wide) / expand(count, x)).call("cast", dtype=x.dtype),
            )
        # No element equals a NaN, so its row's gradient is 0/0: it stays visible.
        return (shared / expand(count, x),)


class Max(Extremum):
    """The largest, of numbers; NaN if any is. Nothing raises ShapeError."""

    name = "max"
    combine = "maximum"

    def identity(self, dtype: DType) -> tile.Literal:
        return least(dtype)

    def evaluate(self, x: Array, *, dims: Dims) -> Array:
        with np.errstate(all="ignore"):
            return np.max(x, axis=dims, keepdims=True)


class Min(Extremum):
    """The smallest, of numbers; NaN if any is. Nothing raises ShapeError."""

    name = "min"
    combine = "minimum"

    def identity(self, dtype: DType) -> tile.Literal:
        return greatest(dtype)

    def evaluate(self, x: Array, *, dims: Dims) -> Array:
        with np.errstate(all="ignore"):
            return np.min(x, axis=dims, keepdims=True)


class AnyOf(Fold):
    """Whether any bool holds; false of nothing."""

    name = "any"
    combine = "or"
    domain = BOOLS
    absent: ClassVar[dict[str, str]] = {"vjp": "bools have no gradient"}

    def identity(self, dtype: DType) -> tile.Literal:
        return False

    def evaluate(self, x: Array, *, dims: Dims) -> Any:
        return np.any(x, axis=dims, keepdims=True)


class AllOf(Fold):
    """Whether all bools hold; true of nothing."""

    name = "all"
    combine = "and"
    domain = BOOLS
    absent: ClassVar[dict[str, str]] = {"vjp": "bools have no gradient"}

    def identity(self, dtype: DType) -> tile.Literal:
        return True

    def evaluate(self, x: Array, *, dims: Dims) -> Any:
        return np.all(x, axis=dims, keepdims=True)


class ArgExtremum(Reduction):
    """The place of an extremum along the one dim in `dims`, i64; the first of equals.

    NaN wins over every number, and the first NaN over the others. `combine` is no tile function:
    the skeleton reduces pairs (value, index), and of two pairs takes the one whose value wins, at
    equal values (or two NaNs) the smaller index. Masked lanes hold `identity` and an index past the
    end, so that a row of infinities still gives its first place.
    """

    allows_empty = False
    absent: ClassVar[dict[str, str]] = {
        "emit": "partial results are pairs, which the skeleton combines"
    }

    def infer(self, x: TensorType, *, dims: Dims) -> TensorType:
        if len(dims) != 1:
            raise ShapeError(f"{self.name}: goes along one dim, got {list(dims)} of {x}")
        return super().infer(x, dims=dims).with_dtype(int64)

    def vjp(self, g: Any, out: Any, x: Tracer, *, dims: Dims) -> tuple[None]:
        return (None,)


class ArgMax(ArgExtremum):
    """The place of the largest, of numbers."""

    name = "argmax"
    combine = "argmax"

    def identity(self, dtype: DType) -> tile.Literal:
        return least(dtype)

    def evaluate(self, x: Array, *, dims: Dims) -> Any:
        return np.argmax(x, axis=dims[0], keepdims=True)


class ArgMin(ArgExtremum):
    """The place of the smallest, of numbers."""

    name = "argmin"
    combine = "argmin"

    def identity(self, dtype: DType) -> tile.Literal:
        return greatest(dtype)

    def evaluate(self, x: Array, *, dims: Dims) -> Any:
        return np.argmin(x, axis=dims[0], keepdims=True)


def check_dims(name: str, x: TensorType, dims: Dims) -> None:
    """Raise ShapeError unless `dims` are some of x's, ascending, each once."""
    inside = all(0 <= d < x.ndim for d in dims)
    if not dims or not inside or any(a >= b for a, b in pairwise(dims)):
        raise ShapeError(f"{name}: dims {list(dims)} are not ascending dims of {x}")


def least(dtype: DType) -> tile.Literal:
    """What no element of `dtype` is smaller than."""
    return -math.inf if dtype.is_floating_point else int(np.iinfo(dtype.numpy).min)


def greatest(dtype: DType) -> tile.Literal:
    """What no element of `dtype` is greater than."""
    return math.inf if dtype.is_floating_point else int(np.iinfo(dtype.numpy).max)


def expand(reduced: Tracer, like: Tracer) -> Tracer:
    """`reduced` repeated along the dims that were reduced, to `like`'s shape."""
    if reduced.shape == like.shape:
        return reduced
    repeated: Tracer = reduced.call("expand", shape=like.shape)
    return repeated


def times_others(x: Tracer, g: Tracer) -> Tracer:
    """For x[R,n] and g[R,1]: element i of a row is g times the product of the row's others.

    By halves: the others of an element are its half's others and the whole other half. So nothing
    is divided, and zeros are right in derivatives of any order; the work is O(n).
    """
    _, n = x.shape
    if n <= 1:
        return expand(g, x)
    half = (n + 1) // 2
    left = columns(x, 0, half)
    right = columns(x, half, n)
    if n % 2:
        right = right.call("pad", low=(0, 0), high=(0, 1), value=1.0)
    inner = times_others(left * right, g)
    joined: Tracer = (inner * right).call("cat", inner * left, dim=1)
    return columns(joined, 0, n)


def columns(x: Tracer, start: int, stop: int) -> Tracer:
    """x[:, start:stop]."""
    rows, n = x.shape
    if (start, stop) == (0, n):
        return x
    part: Tracer = x.call("slice", starts=(0, start), stops=(rows, stop), steps=(1, 1))
    return part


sum_ = register(Sum())
prod = register(Prod())
max_ = register(Max())
min_ = register(Min())
any_ = register(AnyOf())
all_ = register(AllOf())
argmax = register(ArgMax())
argmin = register(ArgMin())
