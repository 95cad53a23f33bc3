"""Views: the same elements in another order or shape, some left out, some repeated.

A view's form for codegen is its index map instead of `emit`: `index` gives the input's index of an
output's index, `pieces` does so for views that choose between sources. Indices are tuples of
anything that knows + - * // and % with ints, so ints will do.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

import numpy as np

from lowgrad.errors import AliasError, DTypeError, ShapeError
from lowgrad.ir.build import Number, Tracer
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.slicing import Axis, Cut, Slicing, same_dim, windowed
from lowgrad.ir.types import Shape, TensorType

Index = tuple[Any, ...]


class Bound(NamedTuple):
    """The condition `low <= expr < high`."""

    expr: Any
    low: int
    high: int


class Piece(NamedTuple):
    """Where all `bounds` hold, the output's element is that of input `source` at index `at`."""

    source: int
    at: Index
    bounds: list[Bound]


class View(Op):
    """A view of one array, with the functional form of writing through it."""

    family = "view"
    moves_data = True
    absent: ClassVar[dict[str, str]] = {"emit": "a view has an index map instead"}

    def index(self, *args: Any, **attrs: Any) -> Index:
        """The input's index of an output's element.

        args: the element's index, the type of x, the type of the result.
        """
        raise NotImplementedError(self.name)

    def put(self, *args: Any, **attrs: Any) -> Tracer:
        """The base after this view of it was overwritten. args: the base, the view's new value."""
        raise NotImplementedError(self.name)


class Patchwork(Op):
    """A view that takes each element from one of several sources."""

    family = "view"
    moves_data = True
    absent: ClassVar[dict[str, str]] = {
        "emit": "a view has an index map instead",
        "put": "the result is a copy, not a view",
    }

    def pieces(self, *args: Any, **attrs: Any) -> list[Piece]:
        """The sources of an output's element: the first whose bounds hold counts.

        args: the element's index, the types of the inputs, the type of the result.
        """
        raise NotImplementedError(self.name)


# --- One source --------------------------------------------------------------------------------


class Reshape(View):
    """reshape(x; shape): the elements in row-major order, in another shape."""

    name = "reshape"

    def infer(self, x: TensorType, *, shape: Shape) -> TensorType:
        _check_sizes(self.name, shape)
        if math.prod(shape) != x.numel:
            raise ShapeError(f"reshape: {x.numel} elements do not fit {shape}")
        return x.with_shape(shape)

    def evaluate(self, x: Array, *, shape: Shape) -> Array:
        return x.reshape(shape)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, shape: Shape) -> tuple[Tracer]:
        return (reshape(g, shape=x.shape),)

    def put(self, base: Tracer, new: Tracer, *, shape: Shape) -> Tracer:
        return reshape(new, shape=base.shape)

    def index(
        self, idx: Index, in_type: TensorType, out_type: TensorType, *, shape: Shape
    ) -> Index:
        # Group by group of axes, so that an axis that stays is not divided and multiplied back.
        found: list[Any] = [0] * in_type.ndim
        for ins, outs in _matching_axes(in_type.shape, shape):
            if not ins:
                continue
            flat: Any = 0
            for axis in outs:
                flat = idx[axis] if axis == outs[0] else flat * shape[axis] + idx[axis]
            for axis in reversed(ins[1:]):
                found[axis] = flat % in_type.shape[axis]
                flat = flat // in_type.shape[axis]
            found[ins[0]] = flat
        return tuple(found)

    def slicing(self, axis: Axis, *, shape: Shape) -> Slicing | None:
        # A dim that leads its group of axes: steps of it are whole runs of the group's elements.
        for ins, outs in _matching_axes(axis.ins[0].shape, shape):
            here = outs if axis.place.is_result else ins
            if here and here[0] == axis.place.dim:
                sizes = axis.ins[0].shape[ins[0]], shape[outs[0]]
                fits = all(map(axis.divides, sizes))
                return Slicing((ins[0],), (outs[0],)) if fits else None
        return None

    def cut(self, to: Cut, *inputs: Tracer, **attrs: Any) -> Tracer:
        return reshape(*inputs, shape=to.outs[0].shape)


def _matching_axes(ins: Shape, outs: Shape) -> list[tuple[list[int], list[int]]]:
    """The smallest groups of neighbouring axes with equal products, axes of size 1 left out."""
    if 0 in ins:
        return []  # no element, hence no index to map
    groups: list[tuple[list[int], list[int]]] = []
    left = [axis for axis, size in enumerate(ins) if size != 1]
    right = [axis for axis, size in enumerate(outs) if size != 1]
    while left:
        group = ([left.pop(0)], [right.pop(0)])
        n_in, n_out = ins[group[0][0]], outs[group[1][0]]
        while n_in != n_out:
            if n_in < n_out:
                group[0].append(left.pop(0))
                n_in *= ins[group[0][-1]]
            else:
                group[1].append(right.pop(0))
                n_out *= outs[group[1][-1]]
        groups.append(group)
    return groups


class Permute(View):
    """permute(x; dims): axis i of the result is axis dims[i] of x."""

    name = "permute"

    def infer(self, x: TensorType, *, dims: tuple[int, ...]) -> TensorType:
        if sorted(dims) != list(range(x.ndim)):
            raise ShapeError(f"permute: {dims} is not an order of the {x.ndim} dims of {x}")
        return x.with_shape(tuple(x.shape[d] for d in dims))

    def evaluate(self, x: Array, *, dims: tuple[int, ...]) -> Array:
        return x.transpose(dims)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, dims: tuple[int, ...]) -> tuple[Tracer]:
        return (permute(g, dims=_inverse(dims)),)

    def put(self, base: Tracer, new: Tracer, *, dims: tuple[int, ...]) -> Tracer:
        return permute(new, dims=_inverse(dims))

    def index(
        self, idx: Index, in_type: TensorType, out_type: TensorType, *, dims: tuple[int, ...]
    ) -> Index:
        return tuple(idx[d] for d in _inverse(dims))

    def slicing(self, axis: Axis, *, dims: tuple[int, ...]) -> Slicing | None:
        dim = axis.place.dim if axis.place.is_result else dims.index(axis.place.dim)
        fits = axis.divides(axis.outs[0].shape[dim])
        return Slicing((dims[dim],), (dim,)) if fits else None


def _inverse(dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(dims.index(axis) for axis in range(len(dims)))


class Expand(View):
    """expand(x; shape): axes of size 1 repeated to the sizes of `shape`, which has x's rank."""

    name = "expand"

    def infer(self, x: TensorType, *, shape: Shape) -> TensorType:
        _check_sizes(self.name, shape)
        if len(shape) != x.ndim:
            raise ShapeError(f"expand: {x} has {x.ndim} dims, {shape} has {len(shape)}")
        for axis, (size, new) in enumerate(zip(x.shape, shape, strict=True)):
            if size not in (1, new):
                raise ShapeError(f"expand: dim {axis} is {size}, which does not repeat to {new}")
        return x.with_shape(shape)

    def evaluate(self, x: Array, *, shape: Shape) -> Array:
        return np.broadcast_to(x, shape)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, shape: Shape) -> tuple[Tracer]:
        repeated = tuple(d for d in range(len(shape)) if shape[d] != x.shape[d])
        return (g.call("sum", dims=repeated) if repeated else g,)

    def put(self, base: Tracer, new: Tracer, *, shape: Shape) -> Tracer:
        if shape != base.shape:
            raise AliasError(
                "cannot write in place: this tensor repeats memory "
                f"(expanded from {base.shape} to {shape})"
            )
        return new

    def index(
        self, idx: Index, in_type: TensorType, out_type: TensorType, *, shape: Shape
    ) -> Index:
        return tuple(0 if size == 1 else i for i, size in zip(idx, in_type.shape, strict=True))

    def slicing(self, axis: Axis, *, shape: Shape) -> Slicing | None:
        dim = axis.place.dim
        if not axis.divides(shape[dim]):
            return None
        repeated = axis.ins[0].shape[dim] != shape[dim]
        return Slicing((None if repeated else dim,), (dim,))

    def cut(self, to: Cut, *inputs: Tracer, **attrs: Any) -> Tracer:
        return expand(*inputs, shape=to.outs[0].shape)


class Slice(View):
    """slice(x; starts, stops, steps): every steps[d]-th element from starts[d] up to stops[d].

    A value for each dim, with 0 <= start <= stop <= size and step >= 1.
    """

    name = "slice"

    def infer(self, x: TensorType, *, starts: Shape, stops: Shape, steps: Shape) -> TensorType:
        return x.with_shape(_sliced(self.name, x.shape, starts, stops, steps))

    def evaluate(self, x: Array, *, starts: Shape, stops: Shape, steps: Shape) -> Array:
        return x[_slices(starts, stops, steps)]

    def vjp(
        self, g: Tracer, out: Tracer, x: Tracer, *, starts: Shape, stops: Shape, steps: Shape
    ) -> tuple[Tracer]:
        if all(step == 1 for step in steps):
            high = tuple(n - stop for n, stop in zip(x.shape, stops, strict=True))
            return (pad(g, low=starts, high=high, value=0),)
        zeros = g.builder.full(x.type, 0)
        return (slice_update(zeros, g, starts=starts, stops=stops, steps=steps),)

    def put(
        self, base: Tracer, new: Tracer, *, starts: Shape, stops: Shape, steps: Shape
    ) -> Tracer:
        return slice_update(base, new, starts=starts, stops=stops, steps=steps)

    def index(
        self,
        idx: Index,
        in_type: TensorType,
        out_type: TensorType,
        *,
        starts: Shape,
        stops: Shape,
        steps: Shape,
    ) -> Index:
        return tuple(i * step + start for i, start, step in zip(idx, starts, steps, strict=True))

    def slicing(self, axis: Axis, **window: Any) -> Slicing | None:
        return same_dim(axis) if _spans(axis, axis.ins[0], **window) else None

    def cut(self, to: Cut, *inputs: Tracer, **attrs: Any) -> Tracer:
        return slice_(*inputs, **windowed(attrs, to, inputs[0].type))


class Flip(View):
    """flip(x; dims): the order along `dims` reversed."""

    name = "flip"

    def infer(self, x: TensorType, *, dims: tuple[int, ...]) -> TensorType:
        if len(set(dims)) != len(dims) or not all(0 <= d < x.ndim for d in dims):
            raise ShapeError(f"flip: {dims} are not different dims of {x}")
        return x

    def evaluate(self, x: Array, *, dims: tuple[int, ...]) -> Array:
        backwards, same = slice(None, None, -1), slice(None)
        # np.flip would make a scalar of a 0-d array; the ellipsis keeps it an array.
        window = (*(backwards if d in dims else same for d in range(x.ndim)), ...)
        return x[window]

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, dims: tuple[int, ...]) -> tuple[Tracer]:
        return (flip(g, dims=dims),)

    def put(self, base: Tracer, new: Tracer, *, dims: tuple[int, ...]) -> Tracer:
        return flip(new, dims=dims)

    def index(
        self, idx: Index, in_type: TensorType, out_type: TensorType, *, dims: tuple[int, ...]
    ) -> Index:
        shape = in_type.shape
        return tuple(i * -1 + (shape[d] - 1) if d in dims else i for d, i in enumerate(idx))

    def slicing(self, axis: Axis, *, dims: tuple[int, ...]) -> Slicing | None:
        return None if axis.place.dim in dims else same_dim(axis)


# --- Several sources ---------------------------------------------------------------------------


class Pad(Patchwork):
    """pad(x; low, high, value): `value` put before and after x, low[d] and high[d] of it in dim d.

    Where its only piece does not hold, the element is `value`.
    """

    name = "pad"

    def infer(self, x: TensorType, *, low: Shape, high: Shape, value: Number) -> TensorType:
        if len(low) != x.ndim or len(high) != x.ndim or min((*low, *high, 0)) < 0:
            raise ShapeError(f"pad: {low} and {high} are not counts for the {x.ndim} dims of {x}")
        if not isinstance(value, (bool, int, float)):
            raise DTypeError(f"pad: the value {value!r} is not a number")
        return x.with_shape(tuple(a + n + b for a, n, b in zip(low, x.shape, high, strict=True)))

    def evaluate(self, x: Array, *, low: Shape, high: Shape, value: Number) -> Array:
        shape = tuple(a + n + b for a, n, b in zip(low, x.shape, high, strict=True))
        out = np.full(shape, value, x.dtype)
        out[tuple(slice(a, a + n) for a, n in zip(low, x.shape, strict=True))] = x
        return out

    def vjp(
        self, g: Tracer, out: Tracer, x: Tracer, *, low: Shape, high: Shape, value: Number
    ) -> tuple[Tracer]:
        stops = tuple(a + n for a, n in zip(low, x.shape, strict=True))
        return (slice_(g, starts=low, stops=stops, steps=(1,) * len(low)),)

    def pieces(
        self,
        idx: Index,
        in_types: tuple[TensorType, ...],
        out_type: TensorType,
        *,
        low: Shape,
        high: Shape,
        value: Number,
    ) -> list[Piece]:
        inner = tuple(i - a if a else i for i, a in zip(idx, low, strict=True))
        sizes = in_types[0].shape
        bounds = [
            Bound(i, 0, n) for i, n, m in zip(inner, sizes, out_type.shape, strict=True) if n != m
        ]
        return [Piece(0, inner, bounds)]

    def slicing(self, axis: Axis, *, low: Shape, high: Shape, value: Number) -> Slicing | None:
        return same_dim(axis)  # where nothing is put before or after, the sizes are equal


class Cat(Patchwork):
    """cat(*xs; dim): the arrays one after another along `dim`; their other sizes are equal."""

    name = "cat"

    def infer(self, *types: TensorType, dim: int) -> TensorType:
        if not types:
            raise ShapeError("cat: there is nothing to concatenate")
        first = types[0]
        if not 0 <= dim < first.ndim:
            raise ShapeError(f"cat: {first} has no dim {dim}")
        for other in types[1:]:
            if other.dtype is not first.dtype:
                raise DTypeError(f"cat: the dtypes differ: {first} and {other}")
            if _without(dim, other.shape) != _without(dim, first.shape):
                raise ShapeError(f"cat: {first} and {other} differ in a dim other than {dim}")
        total = sum(t.shape[dim] for t in types)
        return first.with_shape((*first.shape[:dim], total, *first.shape[dim + 1 :]))

    def evaluate(self, *xs: Array, dim: int) -> Array:
        return np.concatenate(xs, axis=dim)

    def vjp(self, g: Tracer, out: Tracer, *xs: Tracer, dim: int) -> tuple[Tracer, ...]:
        parts = []
        start = 0
        for x in xs:
            starts, stops = [0] * len(g.shape), list(g.shape)
            starts[dim], stops[dim] = start, start + x.shape[dim]
            start = stops[dim]
            steps = (1,) * len(g.shape)
            parts.append(slice_(g, starts=tuple(starts), stops=tuple(stops), steps=steps))
        return tuple(parts)

    def pieces(
        self, idx: Index, in_types: tuple[TensorType, ...], out_type: TensorType, *, dim: int
    ) -> list[Piece]:
        found = []
        start = 0
        for source, type_ in enumerate(in_types):
            size = type_.shape[dim]
            inner = (*idx[:dim], idx[dim] - start if start else idx[dim], *idx[dim + 1 :])
            found.append(Piece(source, inner, [Bound(inner[dim], 0, size)]))
            start += size
        return found

    def slicing(self, axis: Axis, *, dim: int) -> Slicing | None:
        return None if axis.place.dim == dim else same_dim(axis)


class SliceUpdate(Patchwork):
    """slice_update(base, update; starts, stops, steps): base, its slice replaced by update."""

    name = "slice_update"

    def infer(
        self, base: TensorType, update: TensorType, *, starts: Shape, stops: Shape, steps: Shape
    ) -> TensorType:
        if base.dtype is not update.dtype:
            raise DTypeError(f"slice_update: the dtypes differ: {base} and {update}")
        shape = _sliced(self.name, base.shape, starts, stops, steps)
        if update.shape != shape:
            raise ShapeError(f"slice_update: the slice is {shape}, the update {update.shape}")
        return base

    def evaluate(
        self, base: Array, update: Array, *, starts: Shape, stops: Shape, steps: Shape
    ) -> Array:
        out = np.array(base)
        out[_slices(starts, stops, steps)] = update
        return out

    def vjp(
        self, g: Tracer, out: Tracer, base: Tracer, update: Tracer, **window: Any
    ) -> tuple[Tracer, Tracer]:
        zeros = g.builder.full(update.type, 0)
        return slice_update(g, zeros, **window), slice_(g, **window)

    def pieces(
        self,
        idx: Index,
        in_types: tuple[TensorType, ...],
        out_type: TensorType,
        *,
        starts: Shape,
        stops: Shape,
        steps: Shape,
    ) -> list[Piece]:
        inner: list[Any] = []
        bounds: list[Bound] = []
        windows = zip(idx, out_type.shape, starts, stops, steps, strict=True)
        for i, size, start, stop, step in windows:
            from_start = i - start if start else i
            if (start, stop) != (0, size):
                bounds.append(Bound(from_start, 0, stop - start))
            if step > 1:
                bounds.append(Bound(from_start % step, 0, 1))
            inner.append(from_start // step if step > 1 else from_start)
        return [Piece(1, tuple(inner), bounds), Piece(0, idx, [])]

    def slicing(self, axis: Axis, **window: Any) -> Slicing | None:
        return same_dim(axis) if _spans(axis, axis.ins[0], **window) else None

    def cut(self, to: Cut, *inputs: Tracer, **attrs: Any) -> Tracer:
        return slice_update(*inputs, **windowed(attrs, to, inputs[0].type))


# --- Shared ------------------------------------------------------------------------------------


def _check_sizes(name: str, shape: Shape) -> None:
    if not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ShapeError(f"{name}: {shape} is not a shape: sizes are integers from 0")


def _sliced(name: str, shape: Shape, starts: Shape, stops: Shape, steps: Shape) -> Shape:
    """The shape of a slice of `shape`."""
    if not len(starts) == len(stops) == len(steps) == len(shape):
        raise ShapeError(
            f"{name}: {len(shape)} dims, but {len(starts)} starts, {len(stops)} stops, "
            f"{len(steps)} steps"
        )
    sizes = []
    for axis, (n, start, stop, step) in enumerate(zip(shape, starts, stops, steps, strict=True)):
        if not (0 <= start <= stop <= n and step >= 1):
            raise ShapeError(f"{name}: {start}:{stop}:{step} is no slice of dim {axis}, size {n}")
        sizes.append(-(-(stop - start) // step))
    return tuple(sizes)


def _spans(axis: Axis, whole: TensorType, *, starts: Shape, stops: Shape, steps: Shape) -> bool:
    """Whether the window takes all there is along the axis."""
    dim = axis.place.dim
    return (starts[dim], stops[dim], steps[dim]) == (0, whole.shape[dim], 1)


def _slices(starts: Shape, stops: Shape, steps: Shape) -> tuple[Any, ...]:
    # The ellipsis keeps a slice of a 0-d array an array.
    return (*(slice(*window) for window in zip(starts, stops, steps, strict=True)), ...)


def _without(dim: int, shape: Shape) -> Shape:
    return shape[:dim] + shape[dim + 1 :]


reshape = register(Reshape())
permute = register(Permute())
expand = register(Expand())
slice_ = register(Slice())
flip = register(Flip())
pad = register(Pad())
cat = register(Cat())
slice_update = register(SliceUpdate())
