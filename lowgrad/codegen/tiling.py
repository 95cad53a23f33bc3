"""How much of the work one program does: the sizes of blocks, by default and for tests."""

from __future__ import annotations

from dataclasses import dataclass

from lowgrad.ir.types import DType, float32


@dataclass(frozen=True)
class DotTiling:
    """Blocks of one contraction, and how it is run.

    fn: how products are made: "dot" (tensor cores), or "multiply" (products, then a sum).
    group: rows of tiles that programs go through together; at most so many are taken.
    split: programs that share a tile, each with a piece of the inner axis, whose sums a second
    kernel adds up.
    slices: pieces along the tile's columns in which it is stored, for what follows the product
    holds several tiles at once.
    boxes: whether operands that lie as matrices are read through descriptors, as sm_90 and later
    do; others are read as ever.
    programs: that go through all tiles, each from tile to tile; 0 is a program for each.
    """

    m: int
    n: int
    k: int
    fn: str
    num_warps: int
    num_stages: int
    group: int = 8
    split: int = 1
    slices: int = 1
    boxes: bool = False
    programs: int = 0


@dataclass(frozen=True)
class Tiling:
    """Sizes in elements; blocks are powers of two.

    flat: lanes of a pointwise program.
    row: the longest row that is held at once, if 4 bytes a column are read; longer ones are looped
    over.
    tile: elements of a program that reduces several short rows, or columns.
    scan: the longest piece of a line that is scanned at once.
    split: a reduction to few results takes two launches if each is of more elements than this.
    programs: as many programs as keep a GPU busy.
    run: elements that one program puts in order by comparing each with each, a power of two.
    ways: sorted runs that are merged at a time, a power of two.
    direct: a result looks at so many sources of a scatter itself; more are sorted first.
    segment: the most sorted sources of many columns that a lane adds up, one after the other; a
    power of two, 4 or more.
    m, n, k: the blocks of a contraction; 0 leaves the choice to the shape and dtype.
    precision: how tensor cores treat f32, as in tl.dot.  "ieee" is exact, "tf32" is not.
    target: the GPU that contractions are sized for, such as "cuda:90"; "" is none in particular.
    descriptors: whether whoever launches can pass them, so that contractions may read by them.
    dot: the blocks of every contraction, whatever its shape: for a tuner, and for tests.
    tuned: blocks that were measured, by the text of the product's Problem.
    """

    flat: int = 1024
    row: int = 32768
    tile: int = 2048
    scan: int = 1024
    split: int = 16384
    programs: int = 264
    run: int = 256
    ways: int = 16
    direct: int = 64
    segment: int = 32
    m: int = 0
    n: int = 0
    k: int = 0
    precision: str = "ieee"
    target: str = ""
    descriptors: bool = False
    dot: DotTiling | None = None
    tuned: tuple[tuple[str, DotTiling], ...] = ()


DEFAULT = Tiling()


def power_of_2(n: int) -> int:
    """The least power of two that is not below n."""
    return 1 << max(n - 1, 0).bit_length()


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def warps_for(elements: int) -> int:
    """How many warps a program of so many elements gets: 16 elements a lane, above 8192 more.

    16 warps at most: each of 32 has too few registers for two arrays of 16384 elements.
    """
    return min(max(power_of_2(elements // 512), 1), 16)


def dot_tiling(m: int, n: int, k: int, dtype: DType, tiling: Tiling) -> DotTiling:
    """Blocks for an m x n result of inner size k."""
    if dtype is not float32 and not dtype.is_low_precision:
        # Products and a sum, held at once: Triton's dot has f64 and integers on few targets only.
        return DotTiling(16, 16, min(power_of_2(k), 16), "multiply", 4, 1)
    # Odd sizes load element by element, and their addresses take the registers of larger blocks.
    is_even = all(size % 16 == 0 for size in (m, n, k))
    largest = (64 if is_even else 32) * (2 if dtype.is_low_precision else 1)
    deepest = 64 if dtype.is_low_precision and is_even else 32 if is_even else 16
    block_m = tiling.m or min(max(power_of_2(m), 16), largest)
    block_n = tiling.n or min(max(power_of_2(n), 16), largest)
    block_k = tiling.k or min(max(power_of_2(k), 16), deepest)
    num_warps = 8 if block_m * block_n >= 128 * 128 else 4
    return DotTiling(block_m, block_n, block_k, "dot", num_warps, 3)
