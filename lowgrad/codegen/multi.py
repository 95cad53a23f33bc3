"""The multi skeleton: one launch for several pointwise computations of different sizes.

Each part has its own range of programs. Updates of many small parameters are one launch instead of
as many as there are parameters.
"""

from __future__ import annotations

from lowgrad.codegen.body import Body
from lowgrad.codegen.kernel import Bound, Kernel, Param
from lowgrad.codegen.pointwise import lanes_and_stores
from lowgrad.codegen.reader import Reader
from lowgrad.codegen.region import Region
from lowgrad.codegen.tiling import Tiling, ceil_div, power_of_2
from lowgrad.ir.graph import Node, Value
from lowgrad.ir.index import Index

Outputs = tuple[tuple[Value, Param], ...]


def multi(region: Region, tiling: Tiling) -> tuple[Kernel, ...]:
    """One kernel; none if there are no elements."""
    parts = _parts(region)
    if not parts:
        return ()
    largest = max(outputs[0][1].type.numel for outputs in parts)
    block = max(min(tiling.flat, power_of_2(largest)), 2)
    counts = [ceil_div(outputs[0][1].type.numel, block) for outputs in parts]
    body = region.body()
    pid = body.program_id(sum(counts))
    first = 0
    for outputs, count in zip(parts, counts, strict=True):
        _part(body, region, outputs, block, pid, first, count)
        first += count
    constants = {"BLOCK": block} if largest > 1 else {}
    return (region.kernel(body, constants, sum(counts), num_warps=4 if block > 128 else 1),)


def _part(
    body: Body, region: Region, outputs: Outputs, block: int, pid: Index, first: int, count: int
) -> None:
    # A reader of its own: what is read in one branch is not there in another.
    reader: Reader = region.reader(body)
    body.loc = None
    if pid.is_constant:
        lanes_and_stores(body, reader, outputs, block, pid)
        return
    test = body.test((Bound(pid, first or None, first + count),), name="is_mine")
    with body.when(test):
        lanes_and_stores(body, reader, outputs, block, body.assign("block", pid - first))


def _parts(region: Region) -> list[Outputs]:
    """The outputs by what they are computed with: those of one size that share nodes of that size.

    In the order of their first outputs; those without elements are left out.
    """
    producers = region.producers
    parts: list[tuple[set[Node], list[tuple[Value, Param]]]] = []
    for value, param in region.outputs:
        if param.type.numel == 0:
            continue
        own = _nodes_of_size(value, producers)
        matching = [p for p in parts if not p[0].isdisjoint(own)]
        joined = (own.union(*(p[0] for p in matching)), [o for p in matching for o in p[1]])
        joined[1].append((value, param))
        place = parts.index(matching[0]) if matching else len(parts)
        parts = [p for p in parts if p not in matching]
        parts.insert(place, joined)
    return [tuple(outputs) for _, outputs in parts]


def _nodes_of_size(value: Value, producers: dict[Value, Node]) -> set[Node]:
    """The nodes behind `value` whose results have its size, and are not all the same number."""
    found: set[Node] = set()
    todo = [value]
    while todo:
        node = producers.get(todo.pop())
        if node is None or node in found or node.output.type.numel != value.type.numel:
            continue
        if node.op.name not in ("full", "expand"):
            found.add(node)
        todo.extend(node.inputs)
    return found
