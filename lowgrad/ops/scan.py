"""The scan family: results that depend on a whole line of x along `dim`, in order."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.slicing import Axis, Slicing, same_dim
from lowgrad.ir.types import TensorType, bool_, int64

PIECE = 1 << 12  # elements in f64 at a time


class Scan(Op):
    """One input of rank 1 or more; results have its shape."""

    family = "scan"
    absent: ClassVar[dict[str, str]] = {
        "emit": "an element needs its neighbours: the skeleton scans or sorts the line"
    }

    def slicing(self, axis: Axis, *, dim: int, **attrs: Any) -> Slicing | None:
        return None if axis.place.dim == dim else same_dim(axis)


class CumSum(Scan):
    """The sums of x[: i + 1] along `dim`, of numbers, in x's dtype; integers wrap.

    Floats add up in f64, as in PyTorch on the CPU: an f32 sum of a long line is all rounding.
    """

    name = "cumsum"

    def infer(self, x: TensorType, *, dim: int) -> TensorType:
        check_dim(self.name, x, dim)
        if x.dtype is bool_:
            raise DTypeError(f"cumsum: takes numbers, got {x}")
        return x

    def evaluate(self, x: Array, *, dim: int) -> Array:
        wide = np.dtype(np.float64) if x.dtype.kind == "f" else x.dtype
        with np.errstate(all="ignore"):
            return np.cumsum(x, axis=dim, dtype=wide).astype(x.dtype, copy=False)

    def evaluate_into(self, out: Array, x: Array, *, dim: int) -> None:
        """Write the sums to `out`, a piece of some lines at a time, carried on in f64."""
        if x.dtype.kind != "f":
            np.cumsum(x, axis=dim, out=out)
            return
        ins, outs = (np.moveaxis(a.reshape(*a.shape, 1), dim, -1) for a in (x, out))
        widest = max(range(ins.ndim - 1), key=lambda d: ins.shape[d])
        ins, outs = (np.moveaxis(a, widest, -2) for a in (ins, outs))
        count, length = ins.shape[-2:]
        step = max(1, min(length, PIECE))
        lines = max(1, PIECE // step)
        for at in np.ndindex(*ins.shape[:-2]):
            for first in range(0, count, lines):
                rows = slice(first, first + lines)
                _add_up(ins[at][rows], outs[at][rows], step)

    def vjp(self, g: Tracer, out: Tracer, x: Tracer, *, dim: int) -> tuple[Tracer]:
        # x[i] is in the sums from i on: a cumulative sum from the other end.
        backwards = g.call("flip", dims=(dim,)).call("cumsum", dim=dim)
        return (backwards.call("flip", dims=(dim,)),)


def _add_up(x: Array, out: Array, step: int) -> None:
    """The sums along each row of x, `step` elements at a time: the additions of one pass."""
    total = np.zeros(len(x))
    for first in range(0, x.shape[1], step):
        piece = x[:, first : first + step].astype(np.float64)
        if first:  # not at once: 0.0 + -0.0 is 0.0
            piece[:, 0] += total
        np.cumsum(piece, axis=1, out=piece)
        total[...] = piece[:, -1]
        np.copyto(out[:, first : first + step], piece, casting="unsafe")


class Sort(Scan):
    """(values, indices i64) of x in order along `dim`, of any dtype; equal ones keep their order.

    NaN counts as larger than everything: last, or first if `descending`, as in PyTorch.
    """

    name = "sort"

    def infer(self, x: TensorType, *, dim: int, descending: bool) -> tuple[TensorType, TensorType]:
        check_dim(self.name, x, dim)
        return x, x.with_dtype(int64)

    def evaluate(self, x: Array, *, dim: int, descending: bool) -> tuple[Array, Array]:
        if descending:
            # Turned around twice, so that equal ones keep their order.
            order = np.argsort(np.flip(x, dim), axis=dim, kind="stable")
            order = np.flip(x.shape[dim] - 1 - order, dim)
        else:
            order = np.argsort(x, axis=dim, kind="stable")
        return np.take_along_axis(x, order, axis=dim), order

    def vjp(
        self, g: Any, out: Any, x: Tracer, *, dim: int, descending: bool
    ) -> tuple[Tracer | None]:
        to_values, _ = g
        if to_values is None:
            return (None,)
        # The places of a permutation, sorted, are its inverse; a gather beats a scatter.
        _, order = out
        _, inverse = order.call("sort", dim=dim, descending=False)
        return (to_values.call("gather", inverse, dim=dim),)


def check_dim(name: str, x: TensorType, dim: int) -> None:
    """Raise ShapeError unless `dim` is one of x's dims, counted from 0."""
    if not 0 <= dim < x.ndim:
        raise ShapeError(f"{name}: no dim {dim} in {x}")


cumsum = register(CumSum())
sort = register(Sort())
