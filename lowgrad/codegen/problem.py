"""What the choice of a contraction's blocks depends on, read off its region."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowgrad.codegen.boxes import any_matrix_of
from lowgrad.codegen.region import Region
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import INT32_LIMIT
from lowgrad.ir.types import DType
from lowgrad.ir.walk import needed, reached_from

# Bytes of the widest access, which rows must begin at a multiple of.
WIDEST = 16


@dataclass(frozen=True)
class Problem:
    """`batch` products of an m x k by a k x n matrix, as one kernel makes them.

    is_aligned: rows of both operands begin at multiples of 16 bytes.
    result_bytes: that what follows the product reads and writes, for each element of it.
    has_epilogue: whether there is arithmetic after the product.
    has_prologue: whether operands are computed, rather than read.
    has_sums: whether operands are also summed over the inner axis.
    is_boxed: whether descriptors can read both operands.
    is_inner_last: whether the inner axis is the one along which both operands lie in memory,
    as far as that can be told.
    """

    batch: int
    m: int
    n: int
    k: int
    dtype: DType
    precision: str = "ieee"
    is_aligned: bool = True
    result_bytes: int = 2
    has_epilogue: bool = False
    has_prologue: bool = False
    has_sums: bool = False
    is_boxed: bool = False
    is_inner_last: bool = True

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.n * self.k

    @property
    def operand_bytes(self) -> int:
        """Of both operands, once."""
        return self.batch * self.k * (self.m + self.n) * self.dtype.itemsize


def problem_of(region: Region, product: Node, precision: str) -> Problem:
    """The one product of `region` as the choice of its blocks sees it."""
    a, b = product.inputs
    shape, inner = product.output.type.shape, a.type.shape[-1]
    left, right = (any_matrix_of(region.producers, v, shape[:-2]) for v in (a, b))
    following = reached_from(region.nodes, [product.output])
    after = [n for n in region.nodes if not following.isdisjoint(n.inputs)]
    return Problem(
        batch=math.prod(shape[:-2]),
        m=shape[-2],
        n=shape[-1],
        k=inner,
        dtype=a.type.dtype,
        precision=precision,
        is_aligned=all(_is_aligned(region, value) for value in (a, b)),
        result_bytes=_result_bytes(region, product, following, after),
        has_epilogue=any(n.op.family == "pointwise" and n.op.name != "cast" for n in after),
        has_prologue=any(
            (n.op.family == "pointwise" and n.op.name != "cast") or n.op.name == "cat"
            for n in needed(region.nodes, product.inputs)
        ),
        has_sums=any(n.op.family == "reduction" for n in region.nodes),
        is_boxed=None not in (left, right) and product.output.type.numel < INT32_LIMIT,
        is_inner_last=not (left and left.is_transposed) and (not right or right.is_transposed),
    )


def _is_aligned(region: Region, operand: Value) -> bool:
    """Whether rows of all inputs as large as the operand begin at multiples of 16 bytes."""
    read = {operand, *(v for n in needed(region.nodes, [operand]) for v in n.inputs)}
    large = [v.type for v in read if v in region.inputs and 2 * v.type.numel > operand.type.numel]
    return all(t.shape[-1] * t.dtype.itemsize % WIDEST == 0 for t in large if t.shape)


def _result_bytes(region: Region, product: Node, following: set[Value], after: list[Node]) -> int:
    """That what follows the product moves for each of its elements: outputs, and inputs like it."""
    numel = product.output.type.numel
    moved = {v: v.type for v, _ in region.outputs if v in following}
    others = {v for n in after for v in n.inputs} - following
    read = {v for n in needed(region.nodes, others) for v in n.inputs} | others
    moved |= {v: v.type for v in read if v in region.inputs and v.type.numel >= numel}
    return sum(t.dtype.itemsize for t in moved.values()) or product.output.type.dtype.itemsize
