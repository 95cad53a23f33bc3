"""Indexing: `x[...]` and `x[...] = v` with everything that PyTorch takes, gather and scatter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lowgrad import dispatch
from lowgrad.errors import ArgumentError, CompileError, DTypeError, IndexOutOfRange, ShapeError
from lowgrad.functional.common import (
    NUMBERS,
    Operand,
    broadcast_shape,
    cast,
    expand_to,
    full_of,
    normal_dim,
)
from lowgrad.functional.create import tensor
from lowgrad.functional.pointwise import where
from lowgrad.functional.shape import out_of_range, permute, reshape, select
from lowgrad.ir.op import Array
from lowgrad.ir.types import Shape, bool_, int64, uint8
from lowgrad.tensor import Tensor, from_array, method, run, view

__all__ = ["embedding", "gather", "index_add", "index_copy", "index_select", "masked_select"]
__all__ += ["argwhere", "bincount", "index_fill", "index_put", "isin", "nonzero", "one_hot"]
__all__ += ["repeat_interleave", "scatter", "scatter_add", "searchsorted", "take"]
__all__ += ["take_along_dim", "unique"]


@method("__getitem__")
def getitem(self: Tensor, index: Any) -> Tensor:
    """The elements at `index`: a view for ints, slices, None and `...`, else a copy."""
    own = self._ref.type.shape
    if index.__class__ is int and own and own[0] > 1:
        return select(self, 0, index)
    basic, advanced = _parsed(self, index)
    piece = basic.apply(self)
    return _gathered(piece, advanced) if advanced else piece


@method("__setitem__")
def setitem(self: Tensor, index: Any, value: Any) -> None:
    """Overwrite the elements at `index` with `value`, broadcast to them."""
    self._check_writable("x[...] = v")
    if _is_full_mask(self, index) and _is_single(value):
        self._rebind(where(index, _value(value, self), self)._ref)
        return
    basic, advanced = _parsed(self, index)
    piece = basic.apply(self)
    new = _value(value, self)
    if advanced:
        piece._rebind(_scattered(piece, advanced, new)._ref)
        return
    new = _fitted(new, piece._ref.type.shape)
    piece._rebind(new._ref)


def _is_single(value: Any) -> bool:
    return isinstance(value, NUMBERS) or (isinstance(value, Tensor) and value.ndim == 0)


def _is_full_mask(x: Tensor, index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype is bool_ and index.shape == x.shape


def _value(value: Any, like: Tensor) -> Tensor:
    if isinstance(value, NUMBERS):
        return full_of((), like.dtype, value)
    return cast(value if isinstance(value, Tensor) else tensor(value), like.dtype)


def _fitted(value: Tensor, shape: Shape) -> Tensor:
    """`value` broadcast to `shape`; leading dims of size 1 may be left over, as in PyTorch."""
    own = value._ref.type.shape
    while len(own) > len(shape) and own[0] == 1:
        own = own[1:]
    if len(own) > len(shape) or broadcast_shape("x[...] = v", own, shape) != shape:
        raise ShapeError(
            f"x[...] = v: a value of {tuple(value.shape)} does not fit the {shape} elements it "
            "should overwrite"
        )
    return expand_to(run("reshape", value, shape=own), shape)


# Basic indices ---------------------------------------------------------------------------------


@dataclass
class _Basic:
    """The slices of each dim, and the shape once ints are dropped and Nones put in."""

    starts: list[int]
    stops: list[int]
    steps: list[int]
    shape: list[int]
    flipped: list[int]

    def apply(self, x: Tensor) -> Tensor:
        own = x._ref.type.shape
        whole = all(a == 0 and b == s for a, b, s in zip(self.starts, self.stops, own, strict=True))
        if not whole or any(step != 1 for step in self.steps):
            bounds = {"starts": tuple(self.starts), "stops": tuple(self.stops)}
            x = view(x, "slice", **bounds, steps=tuple(self.steps))
        if tuple(self.shape) != x._ref.type.shape or (whole and x._base is None):
            x = view(x, "reshape", shape=tuple(self.shape))
        return x


_Advanced = list[tuple[int, Tensor]]  # (dim of the sliced tensor, index)


def _parsed(x: Tensor, index: Any) -> tuple[_Basic, _Advanced]:
    items = _expanded(x, index)
    basic = _Basic([], [], [], [], [])
    advanced: _Advanced = []
    axis = 0
    own = x._ref.type.shape
    for item in items:
        if item is None:
            basic.shape.append(1)
        elif isinstance(item, slice):
            _add_slice(basic, item, own[axis])
            axis += 1
        elif isinstance(item, (int, np.integer)):
            _add_int(basic, int(item), axis, own[axis])
            axis += 1
        elif item.ndim == 0 and item.dtype in (bool_, uint8):
            # True and False are masks over a new dim of size 1.
            advanced.append((len(basic.shape), _single_mask(item)))
            basic.shape.append(1)
        else:
            for part in _index_tensors(item, axis, own):
                advanced.append((len(basic.shape), part))
                _add_slice(basic, slice(None), own[axis])
                axis += 1
    return basic, advanced


def _expanded(x: Tensor, index: Any) -> list[Any]:
    """The index as a list with an entry for each dim (and None), `...` and missing dims filled."""
    items = list(index) if isinstance(index, tuple) else [index]
    items = [_as_item(i) for i in items]
    used = sum(_dims_used(i) for i in items)
    if used > x.ndim:
        raise IndexOutOfRange(f"x[...]: {used} indices for a tensor of {x.ndim} dims")
    dots = [n for n, i in enumerate(items) if i is Ellipsis]
    if len(dots) > 1:
        raise IndexOutOfRange("x[...]: an index can have only one ellipsis ('...')")
    at = dots[0] if dots else len(items)
    return items[:at] + [slice(None)] * (x.ndim - used) + items[at + len(dots) :]


def _as_item(item: Any) -> Any:
    if item is None or item is Ellipsis or isinstance(item, slice):
        return item
    if isinstance(item, (bool, np.bool_)):
        return tensor(bool(item))
    if isinstance(item, (int, np.integer)):
        return int(item)
    if isinstance(item, (list, np.ndarray, range)):
        item = tensor(list(item) if isinstance(item, range) else item)
    if not isinstance(item, Tensor):
        raise IndexOutOfRange(
            f"x[...]: an index must be an int, slice, None, ..., tensor or list, "
            f"not {type(item).__name__}"
        )
    if item.dtype.is_floating_point:
        if item.numel():
            raise DTypeError(
                f"x[...]: an index tensor must hold integers or bools, not {item.dtype!r}"
            )
        item = item.to(int64)
    if item.ndim == 0 and item.dtype.is_integer and not dispatch.is_recording():
        return int(item.item())
    return item


def _dims_used(item: Any) -> int:
    if item is None or item is Ellipsis:
        return 0
    if isinstance(item, Tensor) and item.dtype in (bool_, uint8):
        return item.ndim
    return 1


def _add_slice(basic: _Basic, item: slice, size: int) -> None:
    step = 1 if item.step is None else int(item.step)
    if step <= 0:
        raise IndexOutOfRange(
            f"x[...]: the step of a slice must be positive, got {step}", fix="x.flip(dim)"
        )
    start, stop, step = slice(_bound(item.start), _bound(item.stop), step).indices(size)
    stop = max(stop, start)
    basic.starts.append(start)
    basic.stops.append(stop)
    basic.steps.append(step)
    basic.shape.append(-(-(stop - start) // step))


def _bound(bound: Any) -> int | None:
    return None if bound is None else int(bound)


def _add_int(basic: _Basic, item: int, axis: int, size: int) -> None:
    if not -size <= item < size:
        raise out_of_range(item, axis, size)
    basic.starts.append(item % size)
    basic.stops.append(item % size + 1)
    basic.steps.append(1)


# Advanced indices ------------------------------------------------------------------------------


def _index_tensors(item: Tensor, axis: int, own: Shape) -> list[Tensor]:
    """One int64 index tensor a dim; a mask gives those of its true elements."""
    if item.dtype not in (bool_, uint8):
        size = own[axis]
        wide = cast(item, int64)
        _check_bounds(wide, axis, size)
        return [where(wide < 0, wide + size, wide)]
    masked = own[axis : axis + item.ndim]
    if tuple(item.shape) != masked:
        raise IndexOutOfRange(
            f"x[...]: the mask is {tuple(item.shape)}, the dims it selects from are {masked}"
        )
    if dispatch.is_recording():
        raise CompileError(
            "x[mask]: how many elements a mask selects depends on its values, "
            "which are not known while the step is recorded",
            fix="lowgrad.where(mask, x, 0), or x.masked_fill(~mask, 0)",
        )
    place = dispatch.place_of(item._ref)
    return [from_array(i, place) for i in np.nonzero(item._array("x[mask]"))]


def _single_mask(item: Tensor) -> Tensor:
    place = dispatch.place_of(item._ref)
    return from_array(np.zeros(int(bool(item)), np.int64), place)


def _check_bounds(index: Tensor, axis: int, size: int) -> None:
    array = index._ref.array
    # On a GPU asking would wait for all that is queued: kernels leave wrong places alone there.
    if not isinstance(array, np.ndarray) or array.size == 0:
        return
    low, high = int(array.min()), int(array.max())
    if low < -size or high >= size:
        bad = low if low < -size else high
        raise out_of_range(bad, axis, size)


def _joined(x: Tensor, advanced: _Advanced) -> tuple[Tensor, Tensor, list[int], Shape]:
    """`x` with its indexed dims first and made one, and one index into that dim.

    Also returns the order the dims were put in and the shape the indices broadcast to.
    """
    dims = [d for d, _ in advanced]
    own = x._ref.type.shape
    shape = broadcast_shape("x[...]", *[i._ref.type.shape for _, i in advanced])
    with dispatch.beside(x._ref):
        index = full_of(shape, int64, 0)
    for dim, part in advanced:
        index = index * own[dim] + expand_to(part, shape)
    order = dims + [d for d in range(len(own)) if d not in dims]
    front = permute(x, tuple(order)) if order != list(range(len(own))) else x
    rest = tuple(own[d] for d in order[len(dims) :])
    flat = reshape(front, (math.prod(own[d] for d in dims), *rest))
    return flat, index, order, shape


def _gathered(x: Tensor, advanced: _Advanced) -> Tensor:
    flat, index, _, shape = _joined(x, advanced)
    taken = run("take", flat, index, dim=0)
    return _placed(taken, advanced, len(shape))


def _placed(taken: Tensor, advanced: _Advanced, width: int) -> Tensor:
    """The index dims moved from the front to where the indexed dims stood, if adjacent."""
    dims = [d for d, _ in advanced]
    first = dims[0]
    if first == 0 or dims != list(range(first, first + len(dims))):
        return taken
    rank = taken.ndim
    order = [*range(width, width + first), *range(width), *range(width + first, rank)]
    return permute(taken, tuple(order))


def _scattered(x: Tensor, advanced: _Advanced, value: Tensor) -> Tensor:
    """`x` with the indexed elements overwritten."""
    flat, index, order, shape = _joined(x, advanced)
    rest = flat._ref.type.shape[1:]
    dims = [d for d, _ in advanced]
    first, width = dims[0], len(shape)
    adjacent = first > 0 and dims == list(range(first, first + len(dims)))
    target = (*rest[:first], *shape, *rest[first:]) if adjacent else (*shape, *rest)
    new = _fitted(value, target)
    if adjacent:  # undo `_placed`
        order_back = [*range(first, first + width), *range(first), *range(first + width, new.ndim)]
        new = permute(new, tuple(order_back))
    count = math.prod(shape)
    source = run("reshape", new, shape=(count, *rest))
    rows = run("reshape", index, shape=(count, *(1 for _ in rest)))
    written = run("scatter", flat, expand_to(rows, (count, *rest)), source, dim=0)
    own = x._ref.type.shape
    front = run("reshape", written, shape=tuple(own[d] for d in order))
    back = tuple(order.index(d) for d in range(len(own)))
    return run("permute", front, dims=back)


# Gather and scatter ----------------------------------------------------------------------------


def _check_index(name: str, index: Tensor) -> Tensor:
    if not index.dtype.is_integer:
        raise DTypeError(f"{name}: the index must hold int64, not {index.dtype!r}")
    return cast(index, int64)


@method()
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i][j] = input[index[i][j]][j] for dim 0, and so on; index's shape."""
    axis = normal_dim("gather", dim, input.ndim)
    if input.ndim == 0:
        return gather(input.reshape(1), 0, index.reshape(1)).reshape(index.shape)
    return run("gather", input, _check_index("gather", index), dim=axis)


@method()
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather` with the other dims broadcast; over all elements if dim is None."""
    if dim is None:
        return gather(input.reshape(-1), 0, indices.reshape(-1))
    axis = normal_dim("take_along_dim", dim, input.ndim)
    a, b = list(input._ref.type.shape), list(indices._ref.type.shape)
    a[axis], b[axis] = 1, 1
    shape = list(broadcast_shape("take_along_dim", tuple(a), tuple(b)))
    wide_input = (*shape[:axis], input.shape[axis], *shape[axis + 1 :])
    wide_index = (*shape[:axis], indices.shape[axis], *shape[axis + 1 :])
    return gather(expand_to(input, wide_input), axis, expand_to(indices, wide_index))


@method()
def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements at `index` of the flattened tensor."""
    flat = input.reshape(-1)
    return getitem(flat, index)


@method()
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of `dim` that `index` (1-d) names."""
    axis = normal_dim("index_select", dim, input.ndim)
    if input.ndim == 0:
        return index_select(input.reshape(1), 0, index).reshape(())
    return run("take", input, _check_index("index_select", index.reshape(-1)), dim=axis)


def _source(name: str, input: Tensor, index: Tensor, src: Any) -> tuple[Tensor, Tensor]:
    index = _check_index(name, index)
    if not isinstance(src, Tensor):
        with dispatch.beside(input._ref):
            return index, full_of(index._ref.type.shape, input.dtype, src)
    if src.dtype is not input.dtype:
        raise DTypeError(f"{name}: src is {src.dtype!r}, the tensor {input.dtype!r}")
    shape = index._ref.type.shape
    if src._ref.type.shape != shape:  # PyTorch reads the corner of src that index covers
        src = src[tuple(slice(0, s) for s in shape)]
    return index, src


@method()
def scatter(input: Tensor, dim: int, index: Tensor, src: Any) -> Tensor:
    """A copy with out[index[i][j]][j] = src[i][j] for dim 0; the last writer wins."""
    axis = normal_dim("scatter", dim, input.ndim)
    return run("scatter", input, *_source("scatter", input, index, src), dim=axis)


@method()
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy with src[i][j] added to out[index[i][j]][j] for dim 0, in a fixed order."""
    axis = normal_dim("scatter_add", dim, input.ndim)
    return run("scatter_add", input, *_source("scatter_add", input, index, src), dim=axis)


@method()
def index_add(
    input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1
) -> Tensor:
    """A copy with the slices of `source` added to the slices of `dim` that `index` names."""
    axis = normal_dim("index_add", dim, input.ndim)
    scaled = source if alpha == 1 else source * alpha
    return run("index_add", input, _check_index("index_add", index), scaled, dim=axis)


@method()
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy with the slices of `dim` that `index` names overwritten by those of `source`."""
    axis = normal_dim("index_copy", dim, input.ndim)
    rank = input.ndim
    rows = index.reshape(tuple(-1 if d == axis else 1 for d in range(rank)))
    return scatter(input, axis, expand_to(rows, source._ref.type.shape), source)


@method()
def index_fill(input: Tensor, dim: int, index: Tensor, value: Operand) -> Tensor:
    """A copy with the slices of `dim` that `index` names filled with `value`."""
    axis = normal_dim("index_fill", dim, input.ndim)
    written = input.clone()
    setitem(written, (slice(None),) * axis + (index,), value)
    return written


@method()
def index_put(
    input: Tensor, indices: tuple[Tensor, ...], values: Tensor, accumulate: bool = False
) -> Tensor:
    """A copy with `out[indices] = values`, or added to where `accumulate`."""
    written = input.clone()
    if not accumulate:
        setitem(written, tuple(indices), values)
        return written
    _, advanced = _parsed(input, tuple(indices))
    flat, index, order, shape = _joined(input, advanced)
    rest = flat._ref.type.shape[1:]
    source = run("reshape", _fitted(values, (*shape, *rest)), shape=(math.prod(shape), *rest))
    added = run("index_add", flat, run("reshape", index, shape=(math.prod(shape),)), source, dim=0)
    front = reshape(added, tuple(input._ref.type.shape[d] for d in order))
    return permute(front, tuple(order.index(d) for d in range(len(order))))


@method()
def repeat_interleave(input: Tensor, repeats: int | Tensor, dim: int | None = None) -> Tensor:
    """Each element (or slice of `dim`) repeated in place: `repeats` times, or each its own."""
    if dim is None:
        return repeat_interleave(input.reshape(-1), repeats, 0)
    axis = normal_dim("repeat_interleave", dim, input.ndim)
    own = input._ref.type.shape
    if isinstance(repeats, Tensor):
        counts = _values_of("repeat_interleave", repeats)
        rows = np.repeat(np.arange(own[axis]), counts)
        return index_select(input, axis, from_array(rows, dispatch.place_of(input._ref)))
    x = run("reshape", input, shape=(*own[: axis + 1], 1, *own[axis + 1 :]))
    x = expand_to(x, (*own[: axis + 1], repeats, *own[axis + 1 :]))
    return run("reshape", x, shape=(*own[:axis], own[axis] * repeats, *own[axis + 1 :]))


@method()
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where mask holds, 1-d."""
    shape = broadcast_shape("masked_select", input.shape, mask.shape)
    return getitem(expand_to(input, shape), expand_to(mask, shape))


@method()
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Any:
    """The indices of the non-zero elements, [count, ndim]; eager only."""
    array = _values_of("nonzero", input)
    place = dispatch.place_of(input._ref)
    if as_tuple:
        return tuple(from_array(i, place) for i in np.nonzero(np.atleast_1d(array)))
    return from_array(np.argwhere(array), place)


def _values_of(name: str, x: Tensor) -> Array:
    """The array behind `x`, for functions whose result's size depends on it."""
    if dispatch.is_recording():
        raise CompileError(
            f"{name}: the size of the result depends on values, "
            "which are not known while the step is recorded",
            fix="keep the size: lowgrad.where(mask, x, 0), or a mask beside the tensor",
        )
    return x._array(name)


@method()
def argwhere(input: Tensor) -> Tensor:
    """The indices of the non-zero elements, [count, ndim]; eager only."""
    return nonzero(input)


@method()
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each of 0, 1, 2, ... is among the integers (or its weights' sum); eager only."""
    array = _values_of("bincount", input)
    given = None if weights is None else weights._array("bincount")
    if array.ndim != 1 or array.dtype.kind not in "iu" or (array.size and array.min() < 0):
        raise ArgumentError("bincount: needs a 1-d tensor of integers, none below 0")
    counts = np.bincount(array, given, minlength)
    place = dispatch.place_of(input._ref)
    if weights is None:
        return from_array(counts.astype(np.int64), place)
    return cast(from_array(counts, place), weights.dtype)


@method()
def unique(
    input: Tensor,
    sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    """The distinct elements (or slices of `dim`) in order, with inverse and counts if asked."""
    array = _values_of("unique", input)
    found, inverse, counts = np.unique(array, return_inverse=True, return_counts=True, axis=dim)
    place = dispatch.place_of(input._ref)
    parts = [from_array(found, place)]
    if return_inverse:
        shape = array.shape if dim is None else (-1,)
        parts.append(from_array(inverse.reshape(shape).astype(np.int64), place))
    if return_counts:
        parts.append(from_array(counts.astype(np.int64), place))
    return parts[0] if len(parts) == 1 else tuple(parts)


def isin(elements: Tensor, test_elements: Tensor) -> Tensor:
    """Whether each element is among `test_elements`."""
    rank = elements.ndim
    wanted = reshape(test_elements, (-1,) + (1,) * rank)
    return (elements.unsqueeze(0) == wanted).any(0)


def searchsorted(sorted_sequence: Tensor, input: Tensor, *, right: bool = False) -> Tensor:
    """How many elements of the 1-d `sorted_sequence` lie below each of `input` (or at it)."""
    edges = reshape(sorted_sequence, (1,) * input.ndim + (-1,))
    below = edges <= input.unsqueeze(-1) if right else edges < input.unsqueeze(-1)
    return below.sum(-1)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """[..., num_classes], int64: 1 at each class number, else 0."""
    if num_classes == -1:
        num_classes = int(tensor.max().item()) + 1
    return tensor.one_hot(num_classes)


def embedding(weight: Tensor, indices: Tensor) -> Tensor:
    """The rows of `weight` [V, D] that `indices` [...] name: [..., D]."""
    return run("take", weight, _check_index("embedding", indices), dim=0)
