"""Shapes: views (which share their elements with the tensor they are taken from), cat, stack."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from lowgrad import dispatch
from lowgrad.errors import ArgumentError, IndexOutOfRange, ShapeError
from lowgrad.functional.common import (
    broadcast_shape,
    cast,
    common_dtype,
    expand_to,
    normal_dim,
    normal_dims,
    shape_args,
)
from lowgrad.functional.pointwise import refuse_bool, where
from lowgrad.ir.types import Shape, int64
from lowgrad.tensor import Size, Tensor, method, run, view

__all__ = ["atleast_1d", "broadcast_tensors", "broadcast_to", "cat", "chunk", "concat", "diagonal"]
__all__ += ["flatten", "flip", "hstack", "meshgrid", "movedim", "narrow", "permute", "ravel"]
__all__ += ["reshape", "roll", "select", "split", "squeeze", "stack"]
__all__ += ["swapaxes", "t", "tile", "transpose", "tril", "triu", "unbind", "unflatten"]
__all__ += ["atleast_2d", "broadcast_shapes", "diag", "fliplr", "flipud", "moveaxis"]
__all__ += ["tensor_split", "trace", "unsqueeze", "vstack"]


def resolved_shape(name: str, numel: int, sizes: Shape, given: Shape) -> Shape:
    """`sizes` with its -1 filled in. Raises ShapeError if the elements do not fit."""
    unknown = sizes.count(-1)
    if unknown > 1 or any(s < -1 for s in sizes):
        raise ShapeError(f"{name}: only one size may be -1, and none below, got {sizes}")
    known = math.prod(s for s in sizes if s != -1)
    if unknown and known and numel % known == 0:
        return tuple(numel // known if s == -1 else s for s in sizes)
    if not unknown and known == numel:
        return sizes
    reason = f"{numel} is not a multiple of {known}" if unknown else f"they hold {known}"
    if unknown and not known:
        reason = "-1 cannot be inferred beside a size of 0"
    raise ShapeError(
        f"{name}: {numel} elements do not fit {sizes}: {reason}", operands=[f"input {given}"]
    )


@method()
def reshape(input: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape; one size may be -1."""
    own = input._ref.type.shape
    sizes = resolved_shape("reshape", input.numel(), shape_args("reshape", shape), own)
    return view(input, "reshape", shape=sizes)


@method("view")
def _view_method(self: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape (or, given a dtype, as in PyTorch, reinterpreted)."""
    return reshape(self, *shape)


@method("reshape_as", "view_as")
def _reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """Reshaped to other's shape."""
    return reshape(self, other.shape)


@method()
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """The dims from start_dim to end_dim (inclusive) made one."""
    if input.ndim == 0:
        return reshape(input, 1)
    first = normal_dim("flatten", start_dim, input.ndim)
    last = normal_dim("flatten", end_dim, input.ndim)
    if first > last:
        raise ArgumentError(f"flatten: start_dim {start_dim} lies after end_dim {end_dim}")
    own = input._ref.type.shape
    return reshape(input, (*own[:first], math.prod(own[first : last + 1]), *own[last + 1 :]))


@method()
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Dim `dim` split into `sizes`."""
    axis = normal_dim("unflatten", dim, input.ndim)
    own = input._ref.type.shape
    inner = resolved_shape("unflatten", own[axis], tuple(sizes), own)
    return reshape(input, (*own[:axis], *inner, *own[axis + 1 :]))


@method()
def ravel(input: Tensor) -> Tensor:
    """All elements in one dim."""
    return reshape(input, -1)


@method()
def permute(input: Tensor, *dims: Any) -> Tensor:
    """The dims in another order."""
    order = tuple(normal_dim("permute", d, input.ndim) for d in shape_args("permute", dims))
    if sorted(order) != list(range(input.ndim)):
        raise ArgumentError(f"permute: {order} is not an order of {input.ndim} dims")
    return view(input, "permute", dims=order)


@method()
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Two dims swapped."""
    if input.ndim == 0:
        return input
    a, b = (normal_dim("transpose", d, input.ndim) for d in (dim0, dim1))
    order = list(range(input.ndim))
    order[a], order[b] = b, a
    return view(input, "permute", dims=tuple(order))


swapaxes = method("swapaxes", "swapdims")(transpose)


@method()
def t(input: Tensor) -> Tensor:
    """The transpose of a matrix; vectors are returned as they are."""
    if input.ndim > 2:
        raise ShapeError(f"t: needs at most 2 dims, got {input.ndim}", fix="x.mT, or x.transpose")
    return transpose(input, 0, 1) if input.ndim == 2 else input


def _reversed(self: Tensor) -> Tensor:
    """The dims in reverse order."""
    return permute(self, tuple(range(self.ndim))[::-1])


def _matrix_transpose(self: Tensor) -> Tensor:
    """The last two dims swapped."""
    return transpose(self, -2, -1)


setattr(Tensor, "T", property(_reversed))  # noqa: B010  (declared as a Tensor for mypy)
setattr(Tensor, "mT", property(_matrix_transpose))  # noqa: B010


@method("movedim", "moveaxis")
def movedim(
    input: Tensor, source: int | tuple[int, ...], destination: int | tuple[int, ...]
) -> Tensor:
    """The dims `source` moved to `destination`, the others in order."""
    if input.ndim == 0:
        return input
    moved = (source,) if isinstance(source, int) else tuple(source)
    places = (destination,) if isinstance(destination, int) else tuple(destination)
    origin = [normal_dim("movedim", d, input.ndim) for d in moved]
    target = [normal_dim("movedim", d, input.ndim) for d in places]
    order = [d for d in range(input.ndim) if d not in origin]
    for place, dim in sorted(zip(target, origin, strict=True)):
        order.insert(place, dim)
    return permute(input, tuple(order))


moveaxis = movedim


@method()
def squeeze(input: Tensor, dim: int | tuple[int, ...] | None = None) -> Tensor:
    """Without the dims of size 1 (all, or those in `dim`)."""
    own = input._ref.type.shape
    dims = normal_dims("squeeze", dim, input.ndim)
    return reshape(input, tuple(s for d, s in enumerate(own) if d not in dims or s != 1))


@method()
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """A new dim of size 1 at `dim`."""
    axis = normal_dim("unsqueeze", dim, input.ndim + 1)
    own = input._ref.type.shape
    return reshape(input, (*own[:axis], 1, *own[axis:]))


@method()
def expand(input: Tensor, *sizes: Any) -> Tensor:
    """Dims of size 1 repeated without copying; -1 keeps a size."""
    wanted = shape_args("expand", sizes)
    own = input._ref.type.shape
    lead = len(wanted) - len(own)
    if lead < 0:
        raise ShapeError(f"expand: {wanted} has fewer dims than {own}")
    full = tuple(
        own[d - lead] if size == -1 and d >= lead else size for d, size in enumerate(wanted)
    )
    if any(s < 0 for s in full):
        raise ShapeError(f"expand: -1 cannot stand for a new dim, in {wanted} of {own}")
    padded = (1,) * lead + own
    for axis, (have, size) in enumerate(zip(padded, full, strict=True)):
        if have not in (1, size):
            raise ShapeError(f"expand: axis {axis} is {have} and cannot become {size}")
    x = view(input, "reshape", shape=padded) if lead else input
    return view(x, "expand", shape=full) if padded != full else x


@method("expand_as")
def _expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Expanded to other's shape."""
    return expand(self, other.shape)


@method()
def broadcast_to(input: Tensor, size: Sequence[int]) -> Tensor:
    """Expanded to `size`."""
    return expand(input, tuple(size))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """All expanded to the shape they broadcast to."""
    shape = broadcast_shape("broadcast_tensors", *[x.shape for x in tensors])
    return tuple(expand(x, shape) for x in tensors)


def _dim_of(name: str, x: Tensor, dim: int) -> int:
    if x.ndim == 0:
        raise IndexOutOfRange(f"{name}: a 0-d tensor has no dim to take pieces of")
    return normal_dim(name, dim, x.ndim)


def slice_dim(x: Tensor, dim: int, start: int, stop: int, step: int = 1) -> Tensor:
    """A view of `x[..., start:stop:step, ...]` along `dim`; the bounds are in range."""
    own = x._ref.type.shape
    before, after = (0,) * dim, (0,) * (len(own) - dim - 1)
    ones = (1,) * len(own)
    return view(
        x,
        "slice",
        starts=(*before, start, *after),
        stops=(*own[:dim], stop, *own[dim + 1 :]),
        steps=ones if step == 1 else (*ones[:dim], step, *ones[dim + 1 :]),
    )


@method()
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """`length` elements of dim `dim` from `start`."""
    axis = _dim_of("narrow", input, dim)
    size = input.shape[axis]
    begin = start + size if start < 0 else start
    if not 0 <= begin <= begin + length <= size:
        raise ArgumentError(f"narrow: {length} elements from {start} leave a dim of size {size}")
    return slice_dim(input, axis, begin, begin + length)


def out_of_range(index: int, axis: int, size: int) -> IndexOutOfRange:
    """The error for an index that an axis does not have."""
    return IndexOutOfRange(f"x[...]: index {index} is out of range for axis {axis} of size {size}")


@method()
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """Dim `dim` at `index`, the dim gone."""
    axis = _dim_of("select", input, dim)
    size = input.shape[axis]
    if not -size <= index < size:
        raise out_of_range(index, axis, size)
    piece = slice_dim(input, axis, index % size, index % size + 1)
    own = piece._ref.type.shape
    return view(piece, "reshape", shape=own[:axis] + own[axis + 1 :])


@method()
def split(
    input: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Views of consecutive pieces, each of the given size (the last may be smaller) or sizes."""
    axis = _dim_of("split", input, dim)
    size = input.shape[axis]
    if isinstance(split_size_or_sections, int):
        piece = split_size_or_sections
        if piece <= 0:
            raise ArgumentError(f"split: the size of a piece must be positive, got {piece}")
        sections = [min(piece, size - at) for at in range(0, size, piece)] or [0]
    else:
        sections = list(split_size_or_sections)
        if sum(sections) != size:
            raise ShapeError(f"split: {sections} add up to {sum(sections)}, the dim has {size}")
    found, at = [], 0
    for length in sections:
        found.append(slice_dim(input, axis, at, at + length))
        at += length
    return tuple(found)


@method()
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` views of equal size (the last may be smaller)."""
    if chunks <= 0:
        raise ArgumentError(f"chunk: chunks must be positive, got {chunks}")
    size = input.shape[_dim_of("chunk", input, dim)]
    if size == 0:
        return split(input, [0] * chunks, dim)
    return split(input, max(-(-size // chunks), 1), dim)


@method()
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """Views of each index of `dim`, the dim gone."""
    axis = _dim_of("unbind", input, dim)
    return tuple(select(input, axis, i) for i in range(input.shape[axis]))


@method()
def flip(input: Tensor, *dims: Any, **named: Any) -> Tensor:
    """The order of the elements reversed along `dims`."""
    axes = shape_args("flip", (named["dims"],) if "dims" in named else dims)
    if not axes:
        return input.clone()
    found = normal_dims("flip", axes, input.ndim)
    return run("flip", input, dims=found) if found else input.clone()


@method()
def fliplr(input: Tensor) -> Tensor:
    """The second dim reversed."""
    return flip(input, 1)


@method()
def flipud(input: Tensor) -> Tensor:
    """The first dim reversed."""
    return flip(input, 0)


@method()
def roll(
    input: Tensor, shifts: int | tuple[int, ...], dims: int | tuple[int, ...] | None = None
) -> Tensor:
    """Elements shifted along dims (over all elements if None); those pushed out come in again."""
    if dims is None:
        whole = shifts if isinstance(shifts, int) else shifts[0]
        return reshape(roll(ravel(input), whole, 0), input.shape)
    if not isinstance(dims, int):
        steps = (shifts,) if isinstance(shifts, int) else tuple(shifts)
        for step, dim in zip(steps, dims, strict=True):
            input = roll(input, step, dim)
        return input
    axis = _dim_of("roll", input, dims)
    assert isinstance(shifts, int), "one shift for one dim"
    size = input.shape[axis]
    cut = (size - shifts) % size if size else 0
    return cat((slice_dim(input, axis, cut, size), slice_dim(input, axis, 0, cut)), axis)


def cat(tensors: Sequence[Tensor], dim: int = 0, *, axis: int | None = None) -> Tensor:
    """The tensors joined along an existing dim (NumPy's name for it is taken too)."""
    parts = list(tensors)
    dim = dim if axis is None else axis
    if any(x.ndim == 0 for x in parts):
        raise ShapeError("cat: a 0-d tensor has no dim to join along", fix="lowgrad.stack")
    if not parts:
        raise ArgumentError("cat: needs at least one tensor")
    # PyTorch skips 1-d empty tensors whatever the others' rank, and programs rely on it.
    parts = [x for x in parts if tuple(x.shape) != (0,)] or parts[:1]
    along = normal_dim("cat", dim, parts[0].ndim)
    dtype = common_dtype(tuple(tensors))
    return run("cat", *[cast(x, dtype) for x in parts], dim=along)


concat = cat


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors, of one shape, joined along a new dim."""
    parts = list(tensors)
    if not parts:
        raise ArgumentError("stack: needs at least one tensor")
    for x in parts:
        if x.shape != parts[0].shape:
            raise ShapeError(f"stack: shapes differ: {tuple(parts[0].shape)} and {tuple(x.shape)}")
    axis = normal_dim("stack", dim, parts[0].ndim + 1)
    return cat([unsqueeze(x, axis) for x in parts], axis)


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Rows on top of each other."""
    return cat([atleast_2d(x) for x in tensors], 0)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Columns side by side."""
    parts = [atleast_1d(x) for x in tensors]
    return cat(parts, 0 if parts[0].ndim == 1 else 1)


def atleast_1d(input: Tensor) -> Tensor:
    """A 0-d tensor as one of one element."""
    return input if input.ndim else reshape(input, 1)


def atleast_2d(input: Tensor) -> Tensor:
    """Dims of size 1 put in front until there are two."""
    return input if input.ndim > 1 else reshape(input, 1, -1)


def broadcast_shapes(*shapes: Sequence[int]) -> Size:
    """The shape that all broadcast to."""
    return Size(broadcast_shape("broadcast_shapes", *[tuple(s) for s in shapes]))


@method()
def tensor_split(
    input: Tensor, indices_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Views of so many nearly equal pieces (the first ones larger), or cut at the indices."""
    axis = normal_dim("tensor_split", dim, input.ndim)
    size = input.shape[axis]
    if isinstance(indices_or_sections, int):
        base, larger = divmod(size, indices_or_sections)
        return split(input, [base + (i < larger) for i in range(indices_or_sections)], axis)
    cuts = [slice(None, c).indices(size)[1] for c in indices_or_sections]
    edges = [0, *cuts, size]
    return split(input, [max(b - a, 0) for a, b in pairwise(edges)], axis)


@method("tile")
def tile(input: Tensor, *dims: Any) -> Tensor:
    """The tensor repeated along each dim, missing dims counting as 1."""
    counts = shape_args("tile", dims)
    counts = (1,) * (input.ndim - len(counts)) + counts
    own = (1,) * (len(counts) - input.ndim) + input._ref.type.shape
    # [2, 3] three times along dim 0 is [1, 2, 3] expanded to [3, 2, 3] and flattened.
    split_shape = tuple(x for s in own for x in (1, s))
    wide = tuple(x for c, s in zip(counts, own, strict=True) for x in (c, s))
    x = run("reshape", input, shape=split_shape)
    x = run("expand", x, shape=wide) if wide != split_shape else x
    return run("reshape", x, shape=tuple(c * s for c, s in zip(counts, own, strict=True)))


@method("repeat")
def _repeat(self: Tensor, *sizes: Any) -> Tensor:
    """The tensor repeated along each dim."""
    counts = shape_args("repeat", sizes)
    if len(counts) < self.ndim:
        raise ShapeError(f"repeat: {counts} has fewer dims than the tensor ({self.ndim})")
    return tile(self, counts)


def meshgrid(*tensors: Tensor, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinate grids of 1-d tensors; indexing "ij" or "xy"."""
    if indexing not in ("ij", "xy"):
        raise ArgumentError(f'meshgrid: indexing must be "ij" or "xy", not "{indexing}"')
    sizes = tuple(x.numel() for x in tensors)
    grids = [
        expand(reshape(x, tuple(-1 if i == d else 1 for i in range(len(sizes)))), sizes)
        for d, x in enumerate(tensors)
    ]
    if indexing == "xy" and len(grids) > 1:
        grids = [transpose(g, 0, 1) for g in grids]
    return tuple(grids)


def _triangle(x: Tensor, diagonal: int, lower: bool) -> Tensor:
    if x.ndim < 2:
        raise ShapeError(f"{'tril' if lower else 'triu'}: needs at least 2 dims, got {x.ndim}")
    own = x._ref.type.shape
    with dispatch.beside(x._ref):
        rows = _iota(own, len(own) - 2)
        columns = _iota(own, len(own) - 1)
    kept = columns - rows <= diagonal if lower else columns - rows >= diagonal
    return where(kept, x, False if x.dtype.name == "bool" else 0)


def _iota(shape: Shape, dim: int) -> Tensor:
    return run("iota", shape=shape, dtype=int64, dim=dim)


@method()
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """The lower triangle of the last two dims, zeros above it."""
    return _triangle(input, diagonal, True)


@method()
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """The upper triangle of the last two dims, zeros below it."""
    return _triangle(input, diagonal, False)


@method()
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix with a given diagonal."""
    if input.ndim == 2:
        return input.diagonal(diagonal)
    if input.ndim != 1:
        raise ShapeError(f"diag: needs 1 or 2 dims, got {input.ndim}")
    count = input.shape[0]
    size = count + abs(diagonal)
    rows, columns = _iota((size, size), 0), _iota((size, size), 1)
    # Element i stands in column i (+ the offset to the right), so rows repeat the vector.
    before = (max(diagonal, 0), size - count - max(diagonal, 0))
    zeros = [run("full", shape=(n,), dtype=input.dtype, value=0) for n in before]
    wide = expand_to(reshape(cat([zeros[0], input, zeros[1]]), 1, size), (size, size))
    return where(columns - rows == diagonal, wide, False if input.dtype.name == "bool" else 0)


@method()
def trace(input: Tensor) -> Tensor:
    """The sum of a matrix' diagonal."""
    if input.ndim != 2:
        raise ShapeError(f"trace: needs 2 dims, got {input.ndim}")
    refuse_bool("trace", input)
    return input.diagonal().sum()


@method()
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonal of two dims, as a new last dim (a copy)."""
    x = movedim(movedim(input, dim1, -1), dim2 - (dim2 % input.ndim > dim1 % input.ndim), -1)
    rows, columns = x.shape[-2:]
    count = max(min(rows, columns - offset) if offset >= 0 else min(rows + offset, columns), 0)
    first = offset if offset >= 0 else -offset * columns
    flat = reshape(x, (*x.shape[:-2], rows * columns))
    index = _iota((count,), 0) * (columns + 1) + first
    return run("take", flat, index, dim=flat.ndim - 1)


@method("contiguous")
def _contiguous(self: Tensor, memory_format: object = None) -> Tensor:
    """The tensor itself."""
    return self
