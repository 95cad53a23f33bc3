"""The pointwise skeleton: a flat grid over the elements of the outputs."""

from __future__ import annotations

from collections.abc import Callable

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Kernel, Param
from lowgrad.codegen.reader import Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2
from lowgrad.ir.graph import Value
from lowgrad.ir.index import Index, as_index, flatten, unflatten


def pointwise(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel, lane i computing element i of every output; none if there are no elements."""
    return pointwise_kernel(region, tiling, lambda reader: None)


def pointwise_kernel(
    region: Region, tiling: Tiling, prepare: Callable[[Reader], None]
) -> tuple[Kernel, ...]:
    """`pointwise`, with a reader that `prepare` may give results that the region does not make."""
    size = region.outputs[0][1].type.numel
    if size == 0:
        return ()
    block = min(tiling.flat, power_of_2(size))
    programs = ceil_div(size, block)
    body = region.body()
    reader = region.reader(body)
    prepare(reader)
    lanes_and_stores(body, reader, region.outputs, block, body.program_id(programs))
    constants = {"BLOCK": block} if size > 1 else {}
    return (region.kernel(body, constants, programs, num_warps=4 if block > 128 else 1),)


def lanes_and_stores(
    body: Body,
    reader: Reader,
    outputs: tuple[tuple[Value, Param], ...],
    block: int,
    program: Index,
) -> None:
    """Compute and store one block of all outputs, which have equally many elements."""
    size = outputs[0][1].type.numel
    offs: Index = as_index(0)
    if size > 1:
        offs = body.add_lanes("offs", size, program * block, "BLOCK", block)
    results = []
    for value, param in outputs:
        at = unflatten(offs, value.type.shape)
        results.append((param, flatten(at, value.type.shape), reader.value(value, at)))
    # All stores come last, so that an output may take over the memory of an input.
    for param, at_flat, result in results:
        if isinstance(result, float) and param.type.dtype.name == "float64":
            result = reader.as_tile(result, param.type.dtype)
        body.store(param.name, at_flat, result, body.masks_of(at_flat))
