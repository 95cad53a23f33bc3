"""Matrix products."""

from __future__ import annotations

import math
from typing import Any

from lowgrad.errors import ArgumentError, DTypeError, ShapeError
from lowgrad.functional.common import broadcast_shape, expand_to, squeezed
from lowgrad.functional.pointwise import mul
from lowgrad.functional.reduction import sum as sum_over
from lowgrad.functional.shape import permute
from lowgrad.ir.types import Shape, TensorType
from lowgrad.promotion import promote_types
from lowgrad.tensor import Tensor, method, run

__all__ = ["addmm", "baddbmm", "bmm", "dot", "einsum", "inner", "matmul", "mm", "mv", "outer"]
__all__ += ["tensordot"]


@method("matmul", "__matmul__")
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product over the last two dims, the dims before them broadcast.

    Vectors count as a row on the left and as a column on the right.
    Raises ShapeError if the inner sizes differ, DTypeError if the dtypes do.
    """
    if not isinstance(other, Tensor):
        raise TypeError(f"matmul: expected a tensor, got {type(other).__name__}")
    _check(input, other)
    a, b = input._ref.type.shape, other._ref.type.shape
    left = run("reshape", input, shape=(1, *a)) if len(a) == 1 else input
    right = run("reshape", other, shape=(*b, 1)) if len(b) == 1 else other
    result = _batched(left, right)
    rank = result.ndim
    dropped = ((rank - 2,) if len(a) == 1 else ()) + ((rank - 1,) if len(b) == 1 else ())
    return squeezed(result, dropped)


method("__rmatmul__")(lambda self, other: matmul(other, self))


def _check(x: Tensor, y: Tensor) -> None:
    a, b = x._ref.type, y._ref.type
    if not a.shape or not b.shape:
        raise ShapeError("matmul: both operands need at least one dim", operands=_operands(a, b))
    if a.dtype is not b.dtype:
        wider = promote_types(a.dtype, b.dtype)
        fix = f"x @ y.to(lowgrad.{wider.name})" if wider is a.dtype else None
        raise DTypeError(
            f"matmul: {a.dtype.name} @ {b.dtype.name}; matmul does not mix dtypes",
            operands=_operands(a, b),
            fix=fix or f"x.to(lowgrad.{wider.name}) @ y",
        )
    inner = b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    if a.shape[-1] != inner:
        turned = len(b.shape) > 1 and a.shape[-1] == b.shape[-1]
        raise ShapeError(
            f"matmul: inner sizes differ: left axis {len(a.shape) - 1} is {a.shape[-1]}, "
            f"right axis {max(len(b.shape) - 2, 0)} is {inner}",
            operands=_operands(a, b),
            fix="transpose the right operand: x @ y.mT" if turned else None,
        )


def _operands(a: TensorType, b: TensorType) -> list[str]:
    return [f"left   {a.dtype.name} {a.shape}", f"right  {b.dtype.name} {b.shape}"]


def _batched(x: Tensor, y: Tensor) -> Tensor:
    a, b = x._ref.type.shape, y._ref.type.shape
    if len(b) == 2 and len(a) > 2:
        # One matrix on the right: all rows of the left in one product, nothing expanded.
        rows = run("reshape", x, shape=(math.prod(a[:-1]), a[-1]))
        return run("reshape", run("matmul", rows, y), shape=(*a[:-1], b[-1]))
    if a[:-2] == b[:-2]:
        return run("matmul", x, y)
    batch = broadcast_shape("matmul", a[:-2], b[:-2])
    return run("matmul", expand_to(x, batch + a[-2:]), expand_to(y, batch + b[-2:]))


def _of_rank(name: str, rank: int, *tensors: Tensor) -> None:
    for x in tensors:
        if x.ndim != rank:
            raise ShapeError(f"{name}: needs tensors of {rank} dims, got {tuple(x.shape)}")


@method()
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    _of_rank("mm", 2, input, mat2)
    return matmul(input, mat2)


@method()
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two stacks of matrices, [B, M, K] and [B, K, N]."""
    _of_rank("bmm", 3, input, mat2)
    if input.shape[0] != mat2.shape[0]:
        raise ShapeError(f"bmm: batch sizes differ: {input.shape[0]} and {mat2.shape[0]}")
    return matmul(input, mat2)


@method()
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector."""
    _of_rank("mv", 2, input)
    _of_rank("mv", 1, vec)
    return matmul(input, vec)


@method()
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors."""
    _of_rank("dot", 1, input, tensor)
    return matmul(input, tensor)


@method()
def inner(input: Tensor, other: Tensor) -> Tensor:
    """Sums over the last dims of both."""
    if not input.ndim or not other.ndim:
        return mul(input, other)
    return tensordot(input, other, ([input.ndim - 1], [other.ndim - 1]))


@method()
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of two vectors' elements, [n, m]."""
    _of_rank("outer", 1, input, vec2)
    return input.unsqueeze(1) * vec2.unsqueeze(0)


@method()
def addmm(
    input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    product = mm(mat1, mat2)
    scaled = product if alpha == 1 else product * alpha
    return scaled if beta == 0 else scaled + (input if beta == 1 else input * beta)


@method()
def baddbmm(
    input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """beta * input + alpha * bmm(batch1, batch2)."""
    product = bmm(batch1, batch2)
    scaled = product if alpha == 1 else product * alpha
    return scaled if beta == 0 else scaled + (input if beta == 1 else input * beta)


def tensordot(a: Tensor, b: Tensor, dims: Any = 2) -> Tensor:
    """Sums of products over the given dims: a number (last of a, first of b) or two lists."""
    if isinstance(dims, int):
        over_a, over_b = list(range(a.ndim - dims, a.ndim)), list(range(dims))
    else:
        over_a = [d % a.ndim for d in dims[0]]
        over_b = [d % b.ndim for d in dims[1]]
    free_a = [d for d in range(a.ndim) if d not in over_a]
    free_b = [d for d in range(b.ndim) if d not in over_b]
    kept = [a.shape[d] for d in free_a] + [b.shape[d] for d in free_b]
    inner_a = math.prod(a.shape[d] for d in over_a)
    inner_b = math.prod(b.shape[d] for d in over_b)
    rows = permute(a, tuple(free_a + over_a)).reshape(-1 if inner_a else 0, inner_a)
    columns = permute(b, tuple(over_b + free_b)).reshape(inner_b, -1 if inner_b else 0)
    return matmul(rows, columns).reshape(tuple(kept))


def einsum(equation: str, *operands: Any) -> Tensor:
    """Einstein's sum convention: `einsum("bij,bjk->bik", x, y)`; "..." stands for batch dims.

    Pairs of operands are contracted from left to right by matrix products.
    Raises ArgumentError for a malformed equation, ShapeError for sizes that differ.
    """
    tensors = list(operands[0]) if isinstance(operands[0], (list, tuple)) else list(operands)
    terms, output = _parse(equation, tensors)
    sizes = _sizes(equation, terms, tensors)
    x, term = _diagonal(tensors[0], terms[0])
    for index in range(1, len(tensors)):
        y, other = _diagonal(tensors[index], terms[index])
        later = set(output).union(*terms[index + 1 :])
        x, term = _contract(x, term, y, other, later, sizes)
    return _arranged(x, term, output)


def _parse(equation: str, tensors: list[Tensor]) -> tuple[list[str], str]:
    """The dims of each operand and of the result, a letter each; "..." becomes capital letters."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(tensors):
        raise ArgumentError(
            f'einsum: "{equation}" has {len(terms)} operands, {len(tensors)} tensors were given'
        )
    extra = [x.ndim - len(t.replace("...", "")) for t, x in zip(terms, tensors, strict=True)]
    most = max((e for t, e in zip(terms, extra, strict=True) if "..." in t), default=0)
    # Letters no user can write, one a batch dim, aligned at the right.
    batch = "".join(chr(0x391 + i) for i in range(most))
    named = [
        t.replace("...", batch[most - e :] if e > 0 else "")
        for t, e in zip(terms, extra, strict=True)
    ]
    for term, x in zip(named, tensors, strict=True):
        if len(term) != x.ndim:
            raise ArgumentError(f'einsum: "{equation}" does not fit a tensor of {x.ndim} dims')
    if arrow:
        return named, right.replace("...", batch)
    letters = sorted(set("".join(named)) - set(batch))
    once = [c for c in letters if "".join(named).count(c) == 1]
    return named, batch + "".join(once)


def _sizes(equation: str, terms: list[str], tensors: list[Tensor]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for term, x in zip(terms, tensors, strict=True):
        for letter, size in zip(term, x.shape, strict=True):
            if sizes.get(letter, 1) == 1:
                sizes[letter] = size
            elif size not in (1, sizes[letter]):
                raise ShapeError(f'einsum: "{equation}": {letter} is {sizes[letter]} and {size}')
    return sizes


def _diagonal(x: Tensor, term: str) -> tuple[Tensor, str]:
    """A letter that appears twice in one operand takes that operand's diagonal."""
    for letter in term:
        while term.count(letter) > 1:
            first = term.index(letter)
            second = term.index(letter, first + 1)
            x = x.diagonal(0, first, second)
            term = term[:first] + term[first + 1 : second] + term[second + 1 :] + letter
    return x, term


def _contract(
    x: Tensor, a: str, y: Tensor, b: str, later: set[str], sizes: dict[str, int]
) -> tuple[Tensor, str]:
    """One matrix product: batch dims are in both and needed later, inner dims in both and not."""
    x, a = _summed(x, a, later.union(b))
    y, b = _summed(y, b, later.union(a))
    batch = "".join(c for c in a if c in b and c in later)
    inner = "".join(c for c in a if c in b and c not in later)
    rows = "".join(c for c in a if c not in b)
    columns = "".join(c for c in b if c not in a)

    def sized(letters: str) -> Shape:
        return tuple(sizes[c] for c in letters)

    left = _wide(_arranged(x, a, batch + rows + inner), sized(batch + rows + inner))
    right = _wide(_arranged(y, b, batch + inner + columns), sized(batch + inner + columns))
    m, k, n = (math.prod(sized(part)) for part in (rows, inner, columns))
    product = run(
        "matmul",
        run("reshape", left, shape=(*sized(batch), m, k)),
        run("reshape", right, shape=(*sized(batch), k, n)),
    )
    term = batch + rows + columns
    return run("reshape", product, shape=sized(term)), term


def _wide(x: Tensor, shape: Shape) -> Tensor:
    return expand_to(x, shape)


def _summed(x: Tensor, term: str, needed: set[str]) -> tuple[Tensor, str]:
    over = tuple(d for d, c in enumerate(term) if c not in needed)
    if not over:
        return x, term
    return sum_over(x, over), "".join(c for c in term if c in needed)


def _arranged(x: Tensor, term: str, order: str) -> Tensor:
    """`x` with its letters in `order`, the others summed."""
    x, term = _summed(x, term, set(order))
    if set(order) != set(term) or len(set(order)) != len(order):
        raise ArgumentError(f'einsum: the result "{order}" does not fit the operands ("{term}")')
    if term == order:
        return x
    return permute(x, tuple(term.index(c) for c in order))
