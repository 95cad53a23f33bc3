"""Gathers and scatters: reading and writing at positions that are data.

Indices are i64 or i32, from 0 to size - 1; the front end has counted negative ones from the end.
Scatters add in the order of their sources, so that the same inputs give the same bits.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from lowgrad.errors import DTypeError, IndexOutOfRange, ShapeError
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import REGISTRY, Array, Op, register
from lowgrad.ir.slicing import Axis, Cut, Place, Slicing, same_dim
from lowgrad.ir.types import Shape, TensorType, bool_, int32, int64


class Indexing(Op):
    """An op with an index operand that counts along axis `dim` of its first operand."""

    family = "indexing"
    absent: ClassVar[dict[str, str]] = {
        "emit": "loads and stores at loaded indices are statements of the skeletons"
    }


# --- Rows: the index replaces an axis ----------------------------------------------------------


class Take(Indexing):
    """take(x, index; dim): the slices of x at `index` along `dim`, whose axis becomes index's."""

    name = "take"
    moves_data = True

    def infer(self, x: TensorType, index: TensorType, *, dim: int) -> TensorType:
        _check_index(self.name, x, index, dim)
        return x.with_shape(_taken(x.shape, index.shape, dim))

    def evaluate(self, x: Array, index: Array, *, dim: int) -> Array:
        out = np.empty(_taken(x.shape, index.shape, dim), x.dtype)
        self.evaluate_into(out, x, index, dim=dim)
        return out

    def evaluate_into(self, out: Array, x: Array, index: Array, *, dim: int) -> None:
        """As `evaluate`, into `out`."""
        _check_range(self.name, index, x.shape[dim])
        # All are in range; "clip" only tells NumPy that it need not prepare for an error.
        np.take(x, index, axis=dim, out=out, mode="clip")

    def vjp(
        self, g: Tracer, out: Tracer, x: Tracer, index: Tracer, *, dim: int
    ) -> tuple[Tracer, None]:
        zeros = g.builder.full(x.type, 0)
        return index_add(zeros, index, g, dim=dim), None

    def slicing(self, axis: Axis, *, dim: int) -> Slicing | None:
        index = axis.ins[1]
        place = axis.place
        if not place.is_result:
            at = place.dim + dim if place.position == 1 else _beside(place.dim, dim, index.ndim)
        else:
            at = place.dim
        if at is None or not axis.divides(axis.outs[0].shape[at]):
            return None
        if dim <= at < dim + index.ndim:
            return Slicing((None, at - dim), (at,))
        return Slicing((at if at < dim else at - index.ndim + 1, None), (at,))


def _beside(at: int, dim: int, ndim: int) -> int | None:
    """Where axis `at` is once axis `dim` has become `ndim` axes; None if it is that axis."""
    if at == dim:
        return None
    return at if at < dim else at + ndim - 1


class IndexAdd(Indexing):
    """index_add(base, index, src; dim): base plus, at index[j] along `dim`, src's slice j.

    src has the shape of take(base, index; dim): this is take's transpose.
    """

    name = "index_add"

    def infer(
        self, base: TensorType, index: TensorType, src: TensorType, *, dim: int
    ) -> TensorType:
        _check_index(self.name, base, index, dim)
        _check_addends(self.name, base, src)
        if src.shape != _taken(base.shape, index.shape, dim):
            raise ShapeError(f"index_add: {src} is not what {index} takes from {base} along {dim}")
        return base

    def evaluate(self, base: Array, index: Array, src: Array, *, dim: int) -> Array:
        out = np.empty(base.shape, base.dtype)
        self.evaluate_into(out, base, index, src, dim=dim)
        return out

    def evaluate_into(self, out: Array, base: Array, index: Array, src: Array, *, dim: int) -> None:
        """As `evaluate`, into `out`, in whose memory neither index nor src lies."""
        _check_range(self.name, index, base.shape[dim])
        rows = src.reshape(_with_size(base.shape, dim, index.size))
        np.copyto(out, base)
        _add_rows(np.moveaxis(out, dim, 0), index.reshape(-1), np.moveaxis(rows, dim, 0))

    def slicing(self, axis: Axis, *, dim: int) -> Slicing | None:
        place, ndim = axis.place, axis.ins[1].ndim
        if not place.is_result and place.position == 1:
            return None  # sums over the index, onto a base that counts once
        if not place.is_result and place.position == 2:
            if dim <= place.dim < dim + ndim:
                return None
            at = place.dim if place.dim < dim else place.dim - ndim + 1
        else:
            at = place.dim
        source = _beside(at, dim, ndim)
        if source is None or not axis.divides(axis.outs[0].shape[at]):
            return None
        return Slicing((at, None, source), (at,))

    def vjp(
        self, g: Tracer, out: Tracer, base: Tracer, index: Tracer, src: Tracer, *, dim: int
    ) -> tuple[Tracer, None, Tracer]:
        return g, None, take(g, index, dim=dim)


def _add_rows(out: Array, index: Array, rows: Array) -> None:
    """out[index[j]] += rows[j], for j in order."""
    if rows.size == 0:
        return
    # Equal indices side by side, in their old order, make each sum one run of `reduceat`: many
    # times faster than np.add.at on rows.
    order = np.argsort(index, kind="stable")
    targets, starts = np.unique(index[order], return_index=True)
    ends = np.append(starts[1:], len(order))
    # A few targets at a time: the sums are the same, and what is copied meanwhile is small.
    taken = max(1, _ADDED_AT_ONCE * len(starts) // rows.size)
    with np.errstate(all="ignore"):
        for first in range(0, len(starts), taken):
            some = slice(first, first + taken)
            begin, end = starts[first], ends[some][-1]
            addends = rows[order[begin:end]]
            sums = np.add.reduceat(addends, starts[some] - begin, axis=0, dtype=out.dtype)
            out[targets[some]] += sums


_ADDED_AT_ONCE = 1 << 14  # elements


# --- Elements: the index has the result's shape ------------------------------------------------


class Gather(Indexing):
    """gather(x, index; dim): out[i, j, k] = x[i, index[i, j, k], k], for dim 1 of three.

    index has x's rank and, along other dims than `dim`, at most x's sizes.
    """

    name = "gather"
    moves_data = True

    def infer(self, x: TensorType, index: TensorType, *, dim: int) -> TensorType:
        _check_index(self.name, x, index, dim)
        _check_within(self.name, index, x, dim)
        return x.with_shape(index.shape)

    def evaluate(self, x: Array, index: Array, *, dim: int) -> Array:
        _check_range(self.name, index, x.shape[dim])
        return np.take_along_axis(_reached(x, index, dim), index, axis=dim)

    def vjp(
        self, g: Tracer, out: Tracer, x: Tracer, index: Tracer, *, dim: int
    ) -> tuple[Tracer, None]:
        zeros = g.builder.full(x.type, 0)
        if index.shape == _with_size(x.shape, dim, 1):
            # One element a row, as in cross-entropy: comparing fuses, scattering does not.
            places = _iota(g, x.shape, index, dim)
            hit = places.equals(index.call("expand", shape=x.shape))
            return hit.call("where", g.call("expand", shape=x.shape), zeros), None
        return scatter_add(zeros, index, g, dim=dim), None

    def slicing(self, axis: Axis, *, dim: int) -> Slicing | None:
        if axis.place.dim != dim:
            return same_dim(axis)
        if axis.place == Place(False, 0, dim):
            # What an index finds in its piece, and 0 in all others.
            x, _ = axis.ins
            fits = axis.divides(x.shape[dim]) and x.dtype is not bool_
            return Slicing((dim, None), ("add",)) if fits else None
        fits = axis.divides(axis.outs[0].shape[dim])
        return Slicing((None, dim), (dim,)) if fits else None

    def cut(self, to: Cut, x: Tracer, index: Tracer, *, dim: int) -> Tracer:
        if to.dims[0] is not None:
            return x.call(self.name, index, dim=dim)
        size = x.shape[dim]
        first = to.start() * (size // to.taken)
        if first.dtype is not index.dtype:
            first = first.call("cast", dtype=index.dtype)
        ones = first.call("reshape", shape=(1,) * index.type.ndim)
        place = index - ones.call("expand", shape=index.shape)
        inside = (place >= 0).call("logical_and", place < size)
        known = inside.call("where", place, to.builder.full(index.type, 0))
        found = x.call(self.name, known, dim=dim)
        picked: Tracer = inside.call("where", found, to.builder.full(found.type, 0))
        return picked


class ScatterAdd(Indexing):
    """scatter_add(base, index, src; dim): base plus src[i, j, k] at [i, index[i, j, k], k], dim 1.

    index is at most src's size along every dim, at most base's along other dims than `dim`.
    """

    name = "scatter_add"

    def infer(
        self, base: TensorType, index: TensorType, src: TensorType, *, dim: int
    ) -> TensorType:
        _check_addends(self.name, base, src)
        return _infer_scatter(self.name, base, index, src, dim)

    def evaluate(self, base: Array, index: Array, src: Array, *, dim: int) -> Array:
        _check_range(self.name, index, base.shape[dim])
        out = base.copy()
        if index.size == 0:
            return out
        flat = np.ravel_multi_index(_targets(index, dim), base.shape).reshape(-1)
        with np.errstate(all="ignore"):
            np.add.at(out.reshape(-1), flat, _leading(src, index.shape).reshape(-1))
        return out

    def slicing(self, axis: Axis, *, dim: int) -> Slicing | None:
        return None if axis.place.dim == dim else same_dim(axis)

    def vjp(
        self, g: Tracer, out: Tracer, base: Tracer, index: Tracer, src: Tracer, *, dim: int
    ) -> tuple[Tracer, None, Tracer]:
        return g, None, _grown(gather(g, index, dim=dim), src.shape)


class Scatter(Indexing):
    """scatter(base, index, src; dim): base, its [i, index[i, j, k], k] set to src[i, j, k], dim 1.

    Where several meet, the last in row-major order stays. Sizes are as for scatter_add.
    """

    name = "scatter"
    moves_data = True

    def infer(
        self, base: TensorType, index: TensorType, src: TensorType, *, dim: int
    ) -> TensorType:
        if base.dtype is not src.dtype:
            raise DTypeError(f"scatter: the dtypes differ: {base} and {src}")
        return _infer_scatter(self.name, base, index, src, dim)

    def evaluate(self, base: Array, index: Array, src: Array, *, dim: int) -> Array:
        _check_range(self.name, index, base.shape[dim])
        out = base.copy()
        out[_targets(index, dim)] = _leading(src, index.shape)
        return out

    def slicing(self, axis: Axis, *, dim: int) -> Slicing | None:
        return None if axis.place.dim == dim else same_dim(axis)

    def vjp(
        self, g: Tracer, out: Tracer, base: Tracer, index: Tracer, src: Tracer, *, dim: int
    ) -> tuple[Tracer, None, Tracer]:
        zeros = g.builder.full(src.type, 0)
        kept = scatter(g, index, zeros, dim=dim)
        # Overwritten elements have no influence: those whose own number did not stay.
        numbers = _numbered(g, index.shape)
        nobody = g.builder.full(TensorType(g.shape, int64), -1)
        winners = gather(scatter(nobody, index, numbers, dim=dim), index, dim=dim)
        got = gather(g, index, dim=dim)
        none = g.builder.full(got.type, 0)
        won = winners.equals(numbers).call("where", got, none)
        return kept, None, _grown(won, src.shape)


# --- Types -------------------------------------------------------------------------------------


def _check_index(name: str, x: TensorType, index: TensorType, dim: int) -> None:
    if index.dtype not in (int64, int32):
        raise DTypeError(f"{name}: the index is {index}: i64 or i32 is needed")
    if not 0 <= dim < x.ndim:
        raise ShapeError(f"{name}: {x} has no dim {dim}")


def _check_addends(name: str, base: TensorType, src: TensorType) -> None:
    if base.dtype is not src.dtype or base.dtype is bool_:
        raise DTypeError(f"{name}: {base} and {src}: the dtypes are equal and not bool")


def _check_within(name: str, index: TensorType, x: TensorType, dim: int | None) -> None:
    """index has x's rank and is not larger than x along dims other than `dim`."""
    if index.ndim != x.ndim:
        raise ShapeError(f"{name}: {index} and {x} have {index.ndim} and {x.ndim} dims")
    for axis, (size, room) in enumerate(zip(index.shape, x.shape, strict=True)):
        if axis != dim and size > room:
            raise ShapeError(f"{name}: dim {axis} of {index} is larger than that of {x}")


def _infer_scatter(
    name: str, base: TensorType, index: TensorType, src: TensorType, dim: int
) -> TensorType:
    _check_index(name, base, index, dim)
    _check_within(name, index, base, dim)
    _check_within(name, index, src, None)
    return base


# --- Arrays ------------------------------------------------------------------------------------


def _check_range(name: str, index: Array, size: int) -> None:
    if index.size == 0 or (index.min() >= 0 and index.max() < size):
        return
    wrong = index[(index < 0) | (index >= size)]
    raise IndexOutOfRange(f"{name}: index {wrong[0]} is out of range for size {size}")


def _leading(x: Array, shape: Shape) -> Array:
    """The first elements of x along every axis, as many as `shape` says."""
    return x[tuple(slice(n) for n in shape)]


def _reached(x: Array, index: Array, dim: int) -> Array:
    """The part of x that `index` can reach: its own sizes along other axes than `dim`."""
    return _leading(x, _with_size(index.shape, dim, x.shape[dim]))


def _targets(index: Array, dim: int) -> tuple[Any, ...]:
    """For each axis, the positions that `index` points to, all of index's shape."""
    places: list[Any] = list(np.indices(index.shape, sparse=True))
    places[dim] = index
    return tuple(np.broadcast_arrays(*places))


# --- Shapes and tracers ------------------------------------------------------------------------


def _with_size(shape: Shape, dim: int, size: int) -> Shape:
    return (*shape[:dim], size, *shape[dim + 1 :])


def _taken(x: Shape, index: Shape, dim: int) -> Shape:
    return (*x[:dim], *index, *x[dim + 1 :])


def _iota(like: Tracer, shape: Shape, index: Tracer, dim: int) -> Tracer:
    """0, 1, 2, ... along `dim`, in index's dtype."""
    places: Tracer = like.builder.apply(REGISTRY["iota"], shape=shape, dtype=index.dtype, dim=dim)
    return places


def _numbered(like: Tracer, shape: Shape) -> Tracer:
    """An i64 array of `shape` whose elements are their own numbers in row-major order."""
    flat: Tracer = like.builder.apply(
        REGISTRY["iota"], shape=(math.prod(shape),), dtype=int64, dim=0
    )
    numbers: Tracer = flat.call("reshape", shape=shape)
    return numbers


def _grown(x: Tracer, shape: Shape) -> Tracer:
    """x with zeros behind it, up to `shape`."""
    if x.shape == shape:
        return x
    high = tuple(n - m for n, m in zip(shape, x.shape, strict=True))
    padded: Tracer = x.call("pad", low=(0,) * len(high), high=high, value=0)
    return padded


take = register(Take())
index_add = register(IndexAdd())
gather = register(Gather())
scatter_add = register(ScatterAdd())
scatter = register(Scatter())
