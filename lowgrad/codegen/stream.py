"""Row loops in one or two launches: nothing of the size of a score matrix leaves the chip.

Attention and its kin are products [rows, inner] @ [inner, columns] whose results, row by row, are
turned into something that other products sum up again. A program owns a block of rows and goes
through the columns block by block, making each block of scores where it needs it; each sum over the
columns that depends on another one takes one more pass. What is summed over the rows instead (the
gradients of keys and values) is made by a second kernel whose programs own columns.

Everything follows from the loop's body: which ops are sliced along the rows and along the columns,
and which combine over them. No function is known by name.
Source: Dao et al. 2022, "FlashAttention", without the rescaling that saves one pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lowgrad.codegen.kernel import Kernel, Param
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
    scratch = _handed_over(region, shape, [own for own, _ in by_columns])
    kernels = []
    stored = (*by_rows, *((p.value, p) for p in scratch))
    if stored:
        first = replace(region, outputs=stored)
        kernels.append(StreamProgram(first, shape, 0, tiling, tuple(scratch)).kernel())
    if by_columns:
        known = {**region.inputs, **dict(by_rows), **{p.value: p for p in scratch}}
        second = replace(region, inputs=known, outputs=tuple(by_columns))
        kernels.append(StreamProgram(second, shape, 1, tiling, tuple(scratch)).kernel())
    return tuple(kernels)


def _handed_over(region: Region, shape: Streamed, wanted: Iterable[Value]) -> list[Param]:
    """What the second kernel needs of the first: values for each row that sums over columns make.

    Those that are outputs of the loop anyway are read from there.
    """
    level = levels(region.nodes, shape, 0)
    outputs = {own for own, _ in region.outputs}
    producers = region.producers
    found: dict[Value, Param] = {}
    seen: set[Value] = set()
    todo = list(wanted)
    while todo:
        value = todo.pop()
        if value in seen or value not in producers:
            continue
        seen.add(value)
        if level[value] and not shape.lies(value, 1):
            if shape.lies(value, 0) and value not in outputs:
                name = f"kept{len(found)}_ptr"
                found[value] = Param(name, value.type, "scratch", value)
            continue
        todo += producers[value].inputs
    return list(found.values())
