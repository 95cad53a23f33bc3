"""Blocks of a contraction for one kind of GPU: the best few by a model of its time, unmeasured.

The model has no more than what tells candidates apart: tiles in waves over the multiprocessors,
tensor cores and what feeds them, copies in flight, and bytes through both levels of memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import islice, product

from lowgrad.codegen.gpus import LAUNCH, GpuSpec, spec_of
from lowgrad.codegen.problem import Problem
from lowgrad.codegen.tiling import DotTiling, Tiling, ceil_div, dot_tiling, power_of_2
from lowgrad.ir.types import float32

# Seconds until a copy from memory arrives, under load: about a thousand cycles (Luo et al. 2024).
LATENCY = 0.7e-6
# Cycles of a turn in which tensor cores wait: barriers and the wait for the next stage's copies.
TURN = 64
# Instructions that one copy takes with its addresses, read off compiled loops: 100 for 12 of them.
COPY = 8
# Instructions that a multiprocessor issues in a cycle, one for each of its quarters.
ISSUED = 4
# Bytes a cycle that shared memory gives a multiprocessor: 32 banks of 4 (CUDA C++ Programming
# Guide, "Shared Memory").
SHARED_RATE = 128
# Times closer than this share of them are taken for equal.
SAME = 0.02
# Blocks that a piece of the inner axis has at least: fewer do not fill the pipeline.
LEAST_TURNS = 8
# More pieces than this cost more to add up than they bring.
MOST_PIECES = 16
# A thread has 255 registers, some of which hold addresses.
MOST_ACCUMULATORS = 128
# Blocks of FMA keep a corner of both operands in registers as well.
MOST_FMA_ACCUMULATORS = 64


def choose(problem: Problem, tiling: Tiling) -> DotTiling:
    """The blocks for `problem`: those of `tiling`, measured ones, the model's, or portable ones."""
    if tiling.dot is not None:
        return tiling.dot
    if tiling.tuned:
        known = dict(tiling.tuned).get(repr(problem))
        if known is not None:
            return known
    return next(iter(candidates(problem, tiling)))


def candidates(problem: Problem, tiling: Tiling, count: int = 8) -> tuple[DotTiling, ...]:
    """The best `count` choices by modelled time, the best first; or the portable one alone.

    All fit into the GPU's shared memory and registers by estimate, so none is compiled in vain.
    """
    spec = spec_of(tiling.target)
    p = problem
    is_given = bool(tiling.m or tiling.n or tiling.k)
    has_dot = p.dtype is float32 or p.dtype.is_low_precision
    plain = dot_tiling(p.m, p.n, p.k, p.dtype, tiling)
    if p.has_sums and p.has_prologue:
        plain = replace(plain, m=min(plain.m, 64), n=min(plain.n, 64), k=min(plain.k, 32))
    portable = (plain,)
    if spec is None or is_given or not has_dot or not p.is_aligned or not p.flops:
        return portable
    is_boxed = problem.is_boxed and tiling.descriptors and spec.has_descriptors
    # A product of few elements has no blocks that fill a warp.
    return _ranked(replace(problem, is_boxed=is_boxed), spec)[:count] or portable


@lru_cache(maxsize=1024)
def _ranked(problem: Problem, spec: GpuSpec) -> tuple[DotTiling, ...]:
    """The fitting choices by time."""

    def cost(tile: DotTiling) -> tuple[int, float, int, int, int, float]:
        # Of those that the model cannot tell apart, the one that reads least through the cache,
        # then the one of fewer turns, of more registers to spare, of the deeper pipeline: they
        # bear best what the model does not know.
        time = seconds(problem, tile, spec)
        about = round(math.log(time) / SAME)
        read = _cached_bytes(problem, tile)
        return (about, read, -tile.k, accumulators(tile), -tile.num_stages, time)

    return tuple(islice(sorted(_fitting(problem, spec), key=cost), 64))


# --- What there is to choose from --------------------------------------------------------------


def _fitting(problem: Problem, spec: GpuSpec) -> Iterator[DotTiling]:
    for m, n, k, warps, stages in product(
        _sizes(problem.m, 256),
        _sizes(problem.n, 256),
        _depths(problem),
        # With 4 warps the compiler gives FMA too few registers, and spills a few bytes.
        (8,) if _is_fma(problem) else (4, 8),
        # FMA is slow enough for two stages; addresses of a third take registers that it has not.
        (2,) if _is_fma(problem) else (2, 3, 4, 5),
    ):
        tile = DotTiling(m, n, k, "dot", warps, stages)
        held = accumulators(tile)
        if held < 8 or held > _most_accumulators(problem):
            continue
        tile = replace(tile, group=_group(problem, tile, spec), slices=_slices(problem, tile))
        for one in _ways(problem, tile, spec):
            if shared_bytes(problem, one, spec) <= spec.block_shared_bytes:
                yield one


def _ways(problem: Problem, tile: DotTiling, spec: GpuSpec) -> Iterator[DotTiling]:
    """How programs share the work in these blocks, and how they read."""
    for split in _splits(problem, tile, spec):
        one = replace(tile, split=split, slices=1 if split > 1 else tile.slices)
        yield one
        if _may_be_boxed(problem, tile, spec):
            one = replace(one, boxes=True)
            yield one
            at_once = blocks_at_once(problem, one, spec)
            if split == 1 and _tiles(problem, tile) > spec.sms * at_once:
                # A tile is stored while the next one's operands arrive: beside them, in slices.
                slices = max(accumulators(tile) // 32, 1)
                one = replace(one, slices=slices)
                at_once = blocks_at_once(problem, replace(one, programs=1), spec)
                yield replace(one, programs=spec.sms * at_once)


def _may_be_boxed(problem: Problem, tile: DotTiling, spec: GpuSpec) -> bool:
    """Whether these blocks can be read by descriptors, in the shared memory that is reckoned with.

    Only whole blocks: what lies behind a matrix's last column is another's. FMA takes operands from
    registers; TF32 that tcgen05 cannot take as it lies is turned round in buffers of its own.
    """
    is_turned = problem.dtype is float32 and not problem.is_inner_last and spec.mma == "tcgen05"
    is_whole = problem.k % tile.k == 0
    return problem.is_boxed and is_whole and not is_turned and not _is_fma(problem)


def _sizes(size: int, largest: int) -> tuple[int, ...]:
    """Blocks along an axis: tensor cores' smallest only where the axis is no longer."""
    most = min(max(power_of_2(size), 16), largest)
    return tuple(b for b in (16, 32, 64, 128, 256) if b == most or 64 <= b <= most)


def _depths(problem: Problem) -> tuple[int, ...]:
    """Blocks along the inner axis: rows of 128 bytes in shared memory, or 64, as swizzling has."""
    most = max(power_of_2(problem.k), 16)
    if _is_fma(problem):
        return (min(16, most),)
    widest = 128 // problem.dtype.itemsize
    if problem.has_sums and problem.has_prologue:
        return (min(widest // 2, most),)  # what is computed is held in registers
    return tuple(dict.fromkeys(min(b, most) for b in (widest // 2, widest)))


def _is_fma(problem: Problem) -> bool:
    return problem.dtype is float32 and problem.precision == "ieee"


def _most_accumulators(problem: Problem) -> int:
    if _is_fma(problem):
        return MOST_FMA_ACCUMULATORS
    # A sum holds a tile of its operand, in f32, beside the accumulators; computing an operand
    # holds several.
    if problem.has_sums:
        return MOST_ACCUMULATORS // (8 if problem.has_prologue else 2)
    return MOST_ACCUMULATORS


def _group(problem: Problem, tile: DotTiling, spec: GpuSpec) -> int:
    """As many rows of tiles as make the tiles that run together a square of elements."""
    side = math.sqrt(spec.sms * tile.n / tile.m)
    return max(1, min(round(side), ceil_div(problem.m, tile.m)))


def _slices(problem: Problem, tile: DotTiling) -> int:
    """Arithmetic holds two or three tiles at once: in slices of 32 elements a thread they fit.

    FMA has corners of the operands in registers as well, so its slices are smaller.
    """
    if not problem.has_epilogue:
        return 1
    return max(1, min(accumulators(tile) // (16 if _is_fma(problem) else 32), tile.n // 32))


def _splits(problem: Problem, tile: DotTiling, spec: GpuSpec) -> Iterator[int]:
    """Into how many pieces the inner axis may be cut: no piece is empty."""
    yield 1
    turns = ceil_div(problem.k, tile.k)
    if _tiles(problem, tile) > 2 * spec.sms:
        return
    for split in range(2, min(MOST_PIECES, turns // LEAST_TURNS) + 1):
        if ceil_div(turns, ceil_div(turns, split)) == split:
            yield split


# --- What it would cost ------------------------------------------------------------------------


def _tiles(problem: Problem, tile: DotTiling) -> int:
    return problem.batch * ceil_div(problem.m, tile.m) * ceil_div(problem.n, tile.n)


def accumulators(tile: DotTiling) -> int:
    """Registers of one thread that hold the tile's sums."""
    return tile.m * tile.n // (32 * tile.num_warps)


def shared_bytes(problem: Problem, tile: DotTiling, spec: GpuSpec) -> int:
    """The pipeline's buffers, or the tile on its way to memory, which takes their place.

    Programs that go from tile to tile have both.
    mma.sync has one stage of them in registers, the others have all in shared memory.
    """
    stage = (tile.m + tile.n) * tile.k * problem.dtype.itemsize
    stages = max(tile.num_stages - (spec.mma == "mma" or _is_fma(problem)), 1)
    result = tile.m * tile.n * 4 // tile.slices
    return (stages * stage + result if tile.programs else max(stages * stage, result)) + 64


def registers(problem: Problem, tile: DotTiling, spec: GpuSpec) -> int:
    """Of one thread, about: sums, and addresses, fragments and what the epilogue holds.

    From compiled kernels; tcgen05 keeps the sums in a memory of their own until they are stored.
    """
    held = accumulators(tile)
    share, base = {"mma": (1.25, 72), "wgmma": (1.25, 40), "tcgen05": (0.75, 56)}[spec.mma]
    if _is_fma(problem):
        share, base = 2.75, 56
    about = int(share * held) + base + (16 if problem.has_epilogue else 0)
    return min(ceil_div(about, 8) * 8, 255)


def blocks_at_once(problem: Problem, tile: DotTiling, spec: GpuSpec) -> int:
    """Blocks that one multiprocessor holds: by registers (64 Ki) and by shared memory."""
    by_registers = 65536 // (32 * tile.num_warps * ceil_div(registers(problem, tile, spec), 8) * 8)
    # The system takes 1 KiB of each block.
    by_shared = spec.shared_bytes // (shared_bytes(problem, tile, spec) + 1024)
    return max(1, min(by_registers, by_shared, 64 // tile.num_warps))


def seconds(problem: Problem, tile: DotTiling, spec: GpuSpec) -> float:
    """The modelled time of the kernel, and of the one that adds up pieces."""
    at_once = blocks_at_once(problem, tile, spec)
    programs = _tiles(problem, tile) * tile.split
    full, rest = divmod(programs, spec.sms * at_once)
    work = full * _wave(problem, tile, spec, at_once)
    if rest:
        work += _wave(problem, tile, spec, ceil_div(rest, spec.sms))
    if tile.programs:
        work += 2 * LATENCY
    # The result is written while other tiles are made, and their operands read.
    moved = _dram_bytes(problem, tile, spec, at_once) / spec.dram
    cached = _cached_bytes(problem, tile) / spec.l2
    return LAUNCH + max(work, moved, cached) + _adding_up(problem, tile, spec)


def _cached_bytes(problem: Problem, tile: DotTiling) -> float:
    """What all programs read of the operands, mostly from the second-level cache."""
    turns = _tiles(problem, tile) * ceil_div(problem.k, tile.k)
    return float(turns * _stage_bytes(problem, tile))


def _turns(problem: Problem, tile: DotTiling) -> int:
    return ceil_div(ceil_div(problem.k, tile.k), tile.split)


def _stage_bytes(problem: Problem, tile: DotTiling) -> int:
    return (tile.m + tile.n) * tile.k * problem.dtype.itemsize


def _wave(problem: Problem, tile: DotTiling, spec: GpuSpec, blocks: int) -> float:
    """How long a multiprocessor takes for `blocks` programs that it runs side by side.

    What one of them waits for at its start and end, others fill.
    """
    work = 2 * tile.m * tile.n * tile.k / (spec.flops(problem.dtype, problem.precision) / spec.sms)
    feed = _fed_bytes(problem, tile, spec) / (SHARED_RATE * spec.clock)
    copies = _copies(problem, tile, spec) * COPY / (ISSUED * spec.clock)
    busy = blocks * max(work, feed, copies) + TURN / spec.clock
    turn = max(busy, LATENCY / max(tile.num_stages - 1, 1))
    element = 4 if tile.split > 1 else problem.result_bytes
    store = tile.m * tile.n * element * blocks / (spec.l2 / spec.sms)
    if not tile.programs:
        store += 2 * LATENCY
    return _turns(problem, tile) * turn + store / blocks


def _fed_bytes(problem: Problem, tile: DotTiling, spec: GpuSpec) -> float:
    """What tensor cores read of shared memory in one turn.

    wgmma reads 64 rows of A and all of B for each of its instructions (PTX ISA, "Asynchronous
    warpgroup level matrix multiply-accumulate"); with mma.sync each warp reads the rows and the
    columns of its part of the tile, a square; tcgen05 reads each operand once.
    """
    element = problem.dtype.itemsize * tile.k
    if spec.mma == "tcgen05" and not _is_fma(problem):
        return (tile.m + tile.n) * element
    if spec.mma == "wgmma" and tile.m >= 64 and not _is_fma(problem):
        # Both groups of 4 warps read all of B, and each its own rows of A.
        return (tile.m + ceil_div(tile.m, 64) * tile.n) * element
    side = math.sqrt(tile.m * tile.n / tile.num_warps)
    return 2 * side * tile.num_warps * element


def _copies(problem: Problem, tile: DotTiling, spec: GpuSpec) -> float:
    """Instructions of warps that copy a turn's operands, 16 bytes a thread; 0 by descriptors.

    wgmma and tcgen05 take TF32 only along the inner axis (PTX ISA, "Asynchronous warpgroup level
    matrix shared memory layout"), so what lies along the other is put in place element by element.
    """
    if tile.boxes:
        return 0.0
    is_turned = problem.dtype is float32 and not problem.is_inner_last and not _is_fma(problem)
    width = 4 if is_turned and spec.mma != "mma" else 16
    return _stage_bytes(problem, tile) / (32 * width)


def _dram_bytes(problem: Problem, tile: DotTiling, spec: GpuSpec, at_once: int) -> float:
    """Operands once for each wave that reads them, unless they stay in the cache; the result."""
    p = problem
    result = p.batch * p.m * p.n * p.result_bytes
    if tile.split > 1:
        result = 0  # the other kernel's
    if p.operand_bytes <= spec.l2_bytes // 2:
        return p.operand_bytes + result
    wave = min(spec.sms * at_once, _tiles(p, tile) * tile.split)
    rows = min(tile.group, ceil_div(p.m, tile.m))
    cols = min(ceil_div(wave, rows), ceil_div(p.n, tile.n))
    read = (rows * tile.m + cols * tile.n) * p.k * p.dtype.itemsize
    waves = _tiles(p, tile) / (rows * cols)
    return max(waves * read, p.operand_bytes) + result


def _adding_up(problem: Problem, tile: DotTiling, spec: GpuSpec) -> float:
    """The kernel after a split one: all pieces written and read, and the result."""
    if tile.split == 1:
        return 0.0
    p = problem
    pieces = 4 * tile.split * p.batch * p.m * p.n
    rate = spec.l2 / 2 if pieces <= spec.l2_bytes // 2 else spec.dram
    return LAUNCH + 2 * pieces / rate + p.batch * p.m * p.n * p.result_bytes / spec.dram
