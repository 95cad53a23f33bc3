"""Scatters of many sources: sort them by where they go, then go through them side by side."""

from __future__ import annotations

from dataclasses import replace

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.merge_sort import Ordered, ordered
from lowgrad.codegen.pointwise import pointwise_kernel
from lowgrad.codegen.region import Region
from lowgrad.codegen.scatter_sources import Sources, key_and_end, load
from lowgrad.codegen.segment_sums import segment_sums
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2, warps_for
from lowgrad.ir.index import flatten


def sorted_scatter(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """The kernels of an index_add, scatter_add or scatter of two or more sources.

    The base is copied first, and places that sources go to are then written once more.
    """
    case = Sources(region)
    sort, listed = ordered(region, case.keys(), tiling)
    kernels = (*sort, *_copied(case, tiling))
    if case.node.op.name == "scatter":
        return (*kernels, _last_ones(case, listed, tiling))
    return (*kernels, *segment_sums(case, listed, tiling))


def _copied(case: Sources, tiling: Tiling) -> tuple[Kernel, ...]:
    """The result begins as the base."""
    rest = replace(
        case.region,
        name=f"{case.region.name}_base",
        nodes=(),
        outputs=((case.base, case.out),),
    )
    return pointwise_kernel(rest, tiling, lambda reader: None)


def _last_ones(case: Sources, listed: Ordered, tiling: Tiling) -> Kernel:
    """Of the sources for one place the last is stored."""
    block = min(power_of_2(case.count), tiling.flat)
    programs = ceil_div(case.count, block)
    body = case.region.body(listed.params)
    reader = case.region.reader(body)
    start = body.program_id(programs) * block
    lanes = body.add_lanes("offs", case.count, start, "BLOCK", block)
    key, is_end = key_and_end(body, listed, lanes, case.count)
    test = case.test_of(body, key, is_end)
    place = load(body, listed.places, lanes, body.masks_of(lanes), 0, "source")
    value = reader.value(case.src, case.at_src(lanes, place, lanes), (test,), raw=True)
    flat = flatten(case.at_base(key, lanes), case.base.type.shape)
    body.store(case.out.name, flat, reader.as_tile(value, case.src.type.dtype), (test,))
    made = case.region.kernel(
        body, {"BLOCK": block}, programs, warps_for(block), more=listed.params, suffix="_last"
    )
    return replace(made, flops=0, touched=case.rows_touched(made, case.count))
