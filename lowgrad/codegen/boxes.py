"""Operands of products that can be read through descriptors: a matrix in memory, whole blocks.

A descriptor (the driver's CUtensorMap) tells the copy engine of sm_90 and later where a matrix
lies; a tile is then one instruction, at a row and a column, and 0 past the matrix's end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import INT32_LIMIT, Index, Symbol, as_index, symbol
from lowgrad.ir.places import place_of, source_of
from lowgrad.ir.types import Shape

# What addresses and rows of a descriptor must be multiples of, in bytes: CUDA driver API,
# cuTensorMapEncodeTiled.
ALIGNED = 16
# The longest side of a block, in elements (same source).
LONGEST_SIDE = 256
# The least side of an operand for which this is worth it.
LEAST = 16


@dataclass(frozen=True)
class Matrix:
    """How an operand lies in an input: `source`, seen as rows of `width` elements.

    is_transposed: whether the operand's rows are the matrix's columns.
    row, col: where in the matrix the operand's element (0, 0) of the batch index `at` is.
    """

    source: Value
    height: int
    width: int
    is_transposed: bool
    row: Index
    col: Index


def matrix_of(
    producers: Mapping[Value, Node], value: Value, batch: tuple[Index, ...]
) -> Matrix | None:
    """The matrix that `value`, an operand, is a part of; None if a descriptor cannot read it.

    batch: the operand's index without its last two, of any symbols but "box_i" and "box_j".
    """
    source = source_of(producers, value)
    height, width = value.type.shape[-2:]
    if min(height, width) < LEAST or source in producers or source.type.numel >= INT32_LIMIT:
        return None
    place = place_of(producers, value, (*batch, symbol("box_i", height), symbol("box_j", width)))
    steps = {atom.name: c for atom, c in place.terms if isinstance(atom, Symbol)}
    i, j = steps.get("box_i", 0), steps.get("box_j", 0)
    rest = tuple((a, c) for a, c in place.terms if not _is_own(a))
    if any({"box_i", "box_j"} & Index(((a, c),), 0).symbols for a, c in rest) or 1 not in (i, j):
        return None
    is_transposed = j != 1
    line, extent = (j, height) if is_transposed else (i, width)
    itemsize = value.type.dtype.itemsize
    if (
        itemsize not in (2, 4)
        or line < extent
        or line * itemsize % ALIGNED
        or source.type.numel % line
    ):
        return None
    row, col = Index((), place.constant // line), Index((), place.constant % line)
    for atom, coefficient in rest:
        term = Index(((atom, 1),), 0)
        if coefficient % line == 0:
            row = row + term * (coefficient // line)
        else:
            col = col + term * coefficient
    steps_of_col = [c for _, c in col.terms] + [col.constant]
    is_aligned = all(c * itemsize % ALIGNED == 0 for c in steps_of_col)
    if not is_aligned or col.bounds[0] < 0 or col.bounds[1] + extent > line or row.bounds[0] < 0:
        return None
    return Matrix(source, source.type.numel // line, line, is_transposed, row, col)


def _is_own(atom: object) -> bool:
    return isinstance(atom, Symbol) and atom.name in ("box_i", "box_j")


def any_matrix_of(
    producers: Mapping[Value, Node], value: Value, batch_shape: Shape
) -> Matrix | None:
    """`matrix_of` for `value`, whatever the batch index is."""
    batch = tuple(
        symbol(f"box_batch{d}", n) if n > 1 else as_index(0) for d, n in enumerate(batch_shape)
    )
    return matrix_of(producers, value, batch)
