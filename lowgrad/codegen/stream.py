"""Row loops in one or two launches: nothing of the size of a score matrix leaves the chip.

Attention and its kin are products [rows, inner] @ [inner, columns] whose results, row by row, are
turned into something that other products sum up again. A program owns a block of rows and goes
through the columns block by block, making each block of scores where it needs it. A sum that is
relative to a maximum is made in the maximum's own pass (`stream_online.py`); another one that
depends on a sum takes one more pass. What is summed over the rows instead (the gradients of keys
and values) is made by a second kernel whose programs own columns.

Everything follows from the loop's body: which ops are sliced along the rows and along the columns,
and which combine over them. No function is known by name.
Source: Dao et al. 2022, "FlashAttention".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lowgrad.codegen.kernel import Kernel, Param
from lowgrad.codegen.operands import accumulated
from lowgrad.codegen.region import Region, region_of
from lowgrad.codegen.stream_program import StreamProgram
from lowgrad.codegen.streamed import DoesNotFit, Streamed, levels, shape_of
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.graph import Node, Value


def stream(node: Node, tiling: Tiling) -> tuple[Kernel, ...]:
    """The kernels of the loop `node`, none if it does not fit."""
    shape = shape_of(node)
    if shape is None:
        return ()
    try:
        return _kernels(node, shape, tiling)
    except DoesNotFit:
        return ()


def _kernels(node: Node, shape: Streamed, tiling: Tiling) -> tuple[Kernel, ...]:
    region = region_of(node)
    by_rows: list[tuple[Value, Param]] = []
    by_columns: list[tuple[Value, Param]] = []
    for own, param in region.outputs:
        rows, columns = (shape.lies(own, axis) for axis in (0, 1))
        if rows == columns:
            raise DoesNotFit("an output lies along both the rows and the columns, or neither")
        (by_rows if rows else by_columns).append((own, param))
    scratch = tuple(_handed_over(region, shape, [own for own, _ in by_columns]))
    kernels = []
    stored = (*by_rows, *((p.value, p) for p in scratch))
    if stored:
        first = replace(region, outputs=stored)
        kernels.append(StreamProgram(first, shape, 0, tiling, scratch).kernel())
    if by_columns:
        known = {**region.inputs, **dict(stored)}
        second = replace(region, inputs=known, outputs=tuple(by_columns))
        kernels.append(StreamProgram(second, shape, 1, tiling, scratch).kernel())
    return tuple(kernels)


def _handed_over(region: Region, shape: Streamed, wanted: Iterable[Value]) -> list[Param]:
    """What the second kernel needs of the first: values for each row that sums over columns make.

    Those that are outputs of the loop anyway are read from there. If there are two kernels, the
    first one also leaves operands that it computes of rows (queries times a scale), so that the
    second need not compute them once for each block of columns.
    """
    level = levels(region.nodes, shape, 0)
    outputs = {own for own, _ in region.outputs}
    needed: dict[Value, bool] = {}
    seen: set[Value] = set()
    todo = list(wanted)
    while todo:
        value = todo.pop()
        node = region.producers.get(value)
        if value in seen or node is None:
            continue
        seen.add(value)
        is_of_rows = shape.lies(value, 0) and not shape.lies(value, 1)
        if level[value] and not shape.lies(value, 1):
            if is_of_rows and value not in outputs:
                needed[value] = True
            continue
        if node.op.family == "contraction":
            for v in (_computed(operand, region) for operand in node.inputs):
                is_own = shape.lies(v, 0) and not shape.lies(v, 1) and v not in outputs
                if is_own and v in region.producers:
                    needed.setdefault(v, False)
                    seen.add(v)
        todo += node.inputs
    has_first = any(needed.values()) or any(shape.lies(v, 0) for v in outputs)
    kept = [v for v, is_sum in needed.items() if is_sum or has_first]
    return [_kept(value, number) for number, value in enumerate(kept)]


def _kept(value: Value, number: int) -> Param:
    # A number for each row stays as it was computed; operands are rounded as products take them.
    dtype = accumulated(value.type.dtype) if _is_number(value) else value.type.dtype
    return Param(f"kept{number}_ptr", value.type.with_dtype(dtype), "scratch", value)


def _is_number(value: Value) -> bool:
    """Whether it is one number for each row, and no operand of products."""
    return value.type.shape[-1] == 1


def _computed(value: Value, region: Region) -> Value:
    """What `value` is a view of: the same numbers may be read in several orders."""
    node = region.producers.get(value)
    while node is not None and node.op.family == "view" and len(node.inputs) == 1:
        (value,) = node.inputs
        node = region.producers.get(value)
    return value
