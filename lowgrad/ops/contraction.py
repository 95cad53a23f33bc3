"""Contractions: sums of products over a shared axis."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Array, Op, register
from lowgrad.ir.slicing import Axis, Slicing, same_dim
from lowgrad.ir.types import TensorType, bool_


class Matmul(Op):
    """matmul(a, b): a[..., M, K] times b[..., K, N], batch dims and dtypes equal -> [..., M, N].

    f16 and bf16 accumulate in f32; integers wrap.
    """

    name = "matmul"
    family = "contraction"
    absent: ClassVar[dict[str, str]] = {
        "emit": "codegen has a skeleton for it, of loads, dots and a store"
    }

    def infer(self, a: TensorType, b: TensorType) -> TensorType:
        if a.dtype is not b.dtype or a.dtype is bool_:
            raise DTypeError(f"matmul: {a} @ {b}: the dtypes are equal and not bool")
        if a.ndim < 2 or b.ndim < 2:
            raise ShapeError(f"matmul: {a} @ {b}: both sides have two dims or more")
        if a.shape[-1] != b.shape[-2]:
            raise ShapeError(
                f"matmul: inner sizes differ: {a} @ {b} ({a.shape[-1]} and {b.shape[-2]})"
            )
        if a.shape[:-2] != b.shape[:-2]:
            raise ShapeError(f"matmul: batch sizes differ: {a} @ {b}")
        return a.with_shape((*a.shape[:-1], b.shape[-1]))

    def evaluate(self, a: Array, b: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.matmul(a, b)

    def vjp(self, g: Tracer, out: Tracer, a: Tracer, b: Tracer) -> tuple[Tracer, Tracer]:
        return matmul(g, _transposed(b)), matmul(_transposed(a), g)

    def slicing(self, axis: Axis) -> Slicing | None:
        place, n = axis.place, axis.outs[0].ndim
        rows, columns = n - 2, n - 1
        if place.dim < rows:
            return same_dim(axis)
        # The rows of the result, its columns, or the terms of its sums.
        if place.dim == rows and (place.is_result or place.position == 0):
            found = Slicing((rows, None), (rows,))
        elif place.dim == columns and (place.is_result or place.position == 1):
            found = Slicing((None, columns), (columns,))
        else:
            found = Slicing((columns, rows), ("add",))
        types = axis.outs[0] if place.is_result else axis.ins[place.position]
        return found if axis.divides(types.shape[place.dim]) else None


def _transposed(x: Tracer) -> Tracer:
    n = len(x.shape)
    transposed: Tracer = x.call("permute", dims=(*range(n - 2), n - 1, n - 2))
    return transposed


matmul = register(Matmul())
