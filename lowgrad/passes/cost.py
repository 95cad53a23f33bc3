"""What a graph costs to run: launches, bytes moved and products, for comparing plans.

A model, not a measurement: bytes that a node reads and writes, once each, and the floating
operations of its products. It knows no tile and no cache; `Compiled.cost` counts what the generated
kernels really do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from lowgrad.ir.graph import Graph, Node
from lowgrad.ops.rows import dims_of
from lowgrad.passes.order import peak_bytes

# What a floating operation of a product and a launch cost, in bytes moved, on machines of today:
# memory moves a byte while products do 5 to 15 operations; a launch takes as long as a megabyte.
FLOPS_PER_BYTE = 10
LAUNCH_BYTES = 1 << 20
# What a loop's chunk makes and uses up itself stays in a cache of this size, if it fits.
CACHE_BYTES = 1 << 25
# Products that have a side of at most this size run tile by tile in one kernel, one after another.
TILE_WIDTH = 256

# The same memory under another shape or order, or nothing that anybody stores.
FREE = frozenset(("reshape", "permute", "expand", "slice", "flip"))


class Work(NamedTuple):
    """What running something takes."""

    launches: int = 0
    nbytes: int = 0
    flops: int = 0

    @property
    def price(self) -> float:
        """All of it as bytes moved."""
        return self.launches * LAUNCH_BYTES + self.nbytes + self.flops / FLOPS_PER_BYTE

    def plus(self, other: Work, times: int = 1) -> Work:
        """This and `times` the other."""
        return Work(*(a + times * b for a, b in zip(self, other, strict=True)))


def work(nodes: Iterable[Node]) -> Work:
    """What running `nodes` takes."""
    total = Work()
    for node in nodes:
        total = total.plus(work_of(node))
    return total


def work_of(node: Node) -> Work:
    """What running one node takes."""
    if node.op.name in FREE:
        return Work()
    if node.op.family == "loop":
        return _of_loop(node)
    read = sum(v.type.nbytes for v in dict.fromkeys(node.inputs))
    if node.op.family == "indexing" and node.op.moves_data:
        read = min(read, 2 * node.output.type.nbytes)  # only what is picked
    return Work(1, read + sum(v.type.nbytes for v in node.outputs), flops_of(node))


def flops_of(node: Node) -> int:
    """The floating operations of the products in `node`; whatever else it does comes with bytes."""
    if node.op.family == "contraction":
        return 2 * math.prod(node.output.type.shape) * node.inputs[0].type.shape[-1]
    body: Graph | None = node.attrs.get("body")
    return 0 if body is None else sum(flops_of(inner) for inner in body.nodes)


def _of_loop(node: Node) -> Work:
    attrs = node.attrs
    whole, tail = divmod(attrs["steps"], attrs["chunk"])
    dims = dims_of(attrs["body"], attrs["dims"])
    sums = [
        made.type.nbytes
        for made, own in zip(node.outputs, attrs["body"].outputs, strict=True)
        if isinstance(dims[own], str)
    ]
    ends = (*node.inputs, *node.outputs)
    if streams(attrs["body"].nodes):
        return Work(min(2, 1 + len(sums)), sum(v.type.nbytes for v in ends), flops_of(node))
    total = Work(len(sums), sum(sums))  # filled first
    for piece, times in zip(attrs["pieces"], (whole, 1 if tail else 0), strict=False):
        total = total.plus(_of_piece(piece), times)
    return total


def streams(nodes: Sequence[Node]) -> bool:
    """Whether a loop of these nodes is a kernel: no tile of a product need leave it."""
    made = {v for node in nodes for v in node.outputs}
    # What is picked out of a tile has to be found in memory.
    picks = any(n.op.family == "indexing" and n.inputs[0] in made for n in nodes)
    return not picks and all(map(_is_narrow, nodes))


def _is_narrow(node: Node) -> bool:
    if node.op.family != "contraction":
        return True
    return min(*node.output.type.shape[-2:], node.inputs[0].type.shape[-1]) <= TILE_WIDTH


def _of_piece(piece: Graph) -> Work:
    found = work(piece.nodes)
    if peak_bytes(piece) > CACHE_BYTES:
        return found
    ends = (*piece.inputs, *piece.outputs)
    return found._replace(nbytes=min(found.nbytes, sum(v.type.nbytes for v in ends)))
