"""Contractions: sums of products over a shared axis."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.build import Tracer
from lowgrad.ir.op import Array, Op, register
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


def _transposed(x: Tracer) -> Tracer:
    n = len(x.shape)
    transposed: Tracer = x.call("permute", dims=(*range(n - 2), n - 1, n - 2))
    return transposed


matmul = register(Matmul())
