"""The blocks of a streaming kernel: as large as its registers and shared memory hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

from lowgrad.codegen.gpus import spec_of
from lowgrad.codegen.streamed import Streamed
from lowgrad.codegen.tiling import DotTiling, Tiling, dot_tiling, power_of_2
from lowgrad.ir.graph import Node


class Block(NamedTuple):
    """Places of the own axis and of the other one, warps, stages."""

    m: int
    n: int
    warps: int
    stages: int


# For each kind of tensor core, and the widest inner size up to which they are for: the blocks of
# kernels of two products (attention), of three (gradients of queries) and of four or more (of keys
# and values, whose sums are two). Found by compiling: the largest that do not spill.
SIXTEEN_BITS: dict[str, dict[int, tuple[Block, Block, Block]]] = {
    "wgmma": {
        64: (Block(128, 128, 8, 2), Block(128, 64, 8, 3), Block(128, 64, 8, 3)),
        128: (Block(128, 64, 8, 3), Block(128, 64, 8, 2), Block(128, 64, 8, 2)),
        256: (Block(64, 64, 8, 2), Block(64, 64, 8, 2), Block(64, 32, 8, 2)),
    },
    "tcgen05": {
        64: (Block(128, 128, 8, 2), Block(128, 64, 8, 2), Block(128, 64, 8, 2)),
        128: (Block(128, 128, 8, 2), Block(128, 64, 8, 2), Block(128, 64, 8, 2)),
        256: (Block(64, 64, 4, 2), Block(64, 32, 4, 2), Block(64, 32, 4, 2)),
    },
    # Also for GPUs that are not known.
    "mma": {
        64: (Block(128, 64, 8, 2), Block(128, 64, 8, 2), Block(64, 64, 8, 2)),
        128: (Block(128, 64, 8, 2), Block(64, 64, 8, 2), Block(64, 64, 8, 2)),
        256: (Block(64, 64, 8, 2), Block(64, 32, 8, 2), Block(64, 32, 8, 2)),
    },
    "mfma": {
        64: (Block(128, 64, 8, 2), Block(64, 64, 4, 2), Block(64, 32, 4, 2)),
        128: (Block(64, 64, 4, 2), Block(64, 32, 4, 2), Block(32, 32, 4, 2)),
        256: (Block(32, 32, 4, 2), Block(32, 32, 4, 2), Block(32, 32, 4, 2)),
    },
}
# f32 is made without tensor cores, from registers: larger blocks, or fewer warps, spill.
FMA = {
    32: Block(32, 32, 8, 1),
    64: Block(32, 16, 8, 1),
    128: Block(32, 32, 8, 1),
    256: Block(32, 16, 8, 1),
}


def stream_tiling(nodes: Sequence[Node], shape: Streamed, axis: int, tiling: Tiling) -> DotTiling:
    """The blocks of the own axis (m) and the other one (n) for the nodes of one kernel."""
    products = [n for n in nodes if n.op.family == "contraction"]
    sizes = shape.sizes[axis], shape.sizes[1 - axis]
    if not products:
        return DotTiling(64, 64, 0, "dot", 4, 1)
    dtype = products[0].inputs[0].type.dtype
    widest = max(map(inner_size, products))
    tile = dot_tiling(*sizes, widest, dtype, tiling)
    if tile.fn == "multiply":
        return tile
    if not dtype.is_low_precision:
        block = FMA[_least_that_holds(widest, FMA)]
    else:
        kind, most_bytes = _gpu(tiling.target)
        choices = SIXTEEN_BITS[kind]
        block = choices[_least_that_holds(widest, choices)][min(max(len(products), 2), 4) - 2]
        if widest % 8:
            # Odd sizes load element by element, and their addresses take registers.
            block = block._replace(m=min(block.m, 32), n=min(block.n, 32))
        while _shared_bytes(block, products, widest, kind) > most_bytes:
            block = block._replace(m=max(block.m // 2, 16), n=max(block.n // 2, 16))
    # Random numbers are mixed in registers, for all scores at once; lanes that a head or the last
    # block does not fill take masks and zeros.
    is_ragged = widest != power_of_2(widest) or any(n % 64 for n in sizes)
    if is_ragged or any(n.op.family == "random" for n in nodes):
        block = block._replace(n=max(block.n // 2, 16))
    m, n = (
        min(own, max(16, power_of_2(size)))
        for own, size in zip((block.m, block.n), sizes, strict=True)
    )
    return replace(
        tile, m=tiling.m or m, n=tiling.n or n, k=0, num_warps=block.warps, num_stages=block.stages
    )


def _gpu(target: str) -> tuple[str, int]:
    """The kind of tensor cores, and the bytes of shared memory that a program may have."""
    if target.startswith("hip:"):
        return "mfma", 64 * 1024
    spec = spec_of(target)
    return ("mma", 99 * 1024) if spec is None else (spec.mma, spec.block_shared_bytes)


def _shared_bytes(block: Block, products: Sequence[Node], widest: int, kind: str) -> int:
    """About what a program holds: operands of its own block, and those of the other axis' in turns.

    There are as many scores as one half of the products, or one less: their own operands stay.
    """
    width = power_of_2(widest)
    others = max(2, (len(products) + 1) // 2)
    scores = len(products) // 2
    copies = block.stages if kind in ("wgmma", "tcgen05") else block.stages - 1
    own = 0 if kind == "mfma" else scores if len(products) < 3 else 2
    return 2 * (block.m * width * own + block.n * width * others * copies + block.m * block.n)


def _least_that_holds(size: int, limits: Iterable[int]) -> int:
    return next(limit for limit in limits if size <= limit)


def inner_size(node: Node) -> int:
    """The side of a product that a program holds at once."""
    *_, m, k = node.inputs[0].type.shape
    return min(m, k, node.output.type.shape[-1])
