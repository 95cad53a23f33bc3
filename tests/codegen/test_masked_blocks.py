"""Blocks that a mask of positions leaves nothing of: which loops leave out, in which programs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import groupby, product

import numpy as np
import pytest
from attention_programs import Mix, check, plain, scores, traced
from loop_programs import Tensor, arrays_for

import lowgrad
import lowgrad.nn.functional as F
from lowgrad.codegen import stream_program
from lowgrad.codegen.kernel import Kernel, Loop, Update, walk
from lowgrad.codegen.kernel import Test as MaskTest
from lowgrad.codegen.lower import launches
from lowgrad.codegen.step import KernelExecutable
from lowgrad.ir.graph import Graph
from lowgrad.ir.index import Index

LENGTH, LONGER, MANY, M, N = 99, 195, 150, 32, 16


def positions(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    rows, columns = lowgrad.arange(q.shape[-2]), lowgrad.arange(k.shape[-2])
    return rows.unsqueeze(1), columns.unsqueeze(0)


def softmax(x: Tensor, v: Tensor) -> Tensor:
    return F.softmax(x, dim=-1) @ v


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def tril_of_bools(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = lowgrad.ones(q.shape[-2], k.shape[-2], dtype=lowgrad.bool).tril()
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def added_triu(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mask = lowgrad.full((q.shape[-2], k.shape[-2]), -math.inf).triu(1).to(q.dtype)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def filled_where_tril_is_0(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As the small GPTs write it."""
    mask = lowgrad.ones(q.shape[-2], k.shape[-2]).tril()
    return softmax(scores(q, k).masked_fill(mask == 0, -math.inf), v)


def not_after(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, columns = positions(q, k)
    return softmax(scores(q, k).masked_fill(columns > rows, -math.inf), v)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Linear attention: what is masked is 0, not -inf."""
    rows, columns = positions(q, k)
    return lowgrad.where(rows >= columns, scores(q, k), 0.0) @ v


def from_now_on(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, columns = positions(q, k)
    return softmax(lowgrad.where(rows <= columns, scores(q, k), -math.inf), v)


def last_five(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    rows, columns = positions(q, k)
    near = (columns <= rows) & (columns > rows - 5)
    return softmax(lowgrad.where(near, scores(q, k), -math.inf), v)


def last_many(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Both ends of what counts go along with the row, and blocks lie whole between them."""
    rows, columns = positions(q, k)
    near = (columns <= rows) & (columns > rows - MANY)
    return softmax(lowgrad.where(near, scores(q, k), -math.inf), v)


def every_other_row(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Two rows see what one does; the limit is no whole number of rows."""
    rows, columns = positions(q, k)
    return softmax(lowgrad.where(rows >= 2 * columns - 1, scores(q, k), -math.inf), v)


def very_negative(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """A row of which all is masked would be the mean of all values."""
    rows, columns = positions(q, k)
    return softmax(lowgrad.where(rows >= columns, scores(q, k), -1e9), v)


def either(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All but the own place: no range."""
    rows, columns = positions(q, k)
    return softmax(lowgrad.where((rows > columns) | (columns > rows), scores(q, k), -math.inf), v)


def below(row: int, column: int) -> bool:
    return row >= column


CAUSAL = (causal, tril_of_bools, added_triu, filled_where_tril_is_0, not_after, linear)
SEEN = {
    **dict.fromkeys(CAUSAL, below),
    from_now_on: lambda row, column: row <= column,
    last_five: lambda row, column: row - 5 < column <= row,
    last_many: lambda row, column: row - MANY < column <= row,
    every_other_row: lambda row, column: row >= 2 * column - 1,
    either: lambda row, column: True,
}


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of M and N, so that short sequences have many."""
    chosen = stream_program.stream_tiling
    monkeypatch.setattr(
        stream_program, "stream_tiling", lambda *args: replace(chosen(*args), m=M, n=N)
    )


def turns(kernel: Kernel, length: int = LENGTH) -> list[list[list[int]]]:
    """The steps of each pass, for each block of the program's own axis."""
    blocks = range(-(-length // kernel.constants["BLOCK_M"]))
    return [
        [[step for loop in loops for step in steps(kernel, loop, block)] for block in blocks]
        for loops in passes(kernel)
    ]


def passes(kernel: Kernel) -> list[list[Loop]]:
    """The loops, those together that add to the same sums."""
    loops = [s for s in walk(kernel.body) if isinstance(s, Loop)]
    return [list(group) for _, group in groupby(loops, key=sums)]


def sums(loop: Loop) -> list[str]:
    return [s.name for s in loop.body if isinstance(s, Update)]


def steps(kernel: Kernel, loop: Loop, block: int) -> range:
    def at(end: Index | tuple[Index, ...], choose: Callable[[Iterable[int]], int]) -> int:
        return choose(
            eval(str(i), {"block": block}) for i in (end if type(end) is tuple else [end])
        )

    first, last = max(at(i, min) for i in loop.starts), min(at(i, max) for i in loop.limits)
    return range(first, last, kernel.constants[loop.step])


def is_by_columns(kernel: Kernel) -> bool:
    return kernel.name.endswith("_by_columns")


def streams(graph: Graph) -> list[Kernel]:
    """The kernels of loops; a loop that is not streamed has none of its own."""
    found = [x.kernel for x in launches(graph) if x.kernel.node.op.name == "rows"]
    assert len(found) >= 3
    return found


def seen_in(mix: Mix, kernel: Kernel, block: int, start: int, end: int = LENGTH) -> list[bool]:
    """Which pairs of places count, in the step at `start` of a block."""
    places = product(range(block * M, block * M + M), range(start, min(start + N, end)))
    return [SEEN[mix](*((p, o) if is_by_columns(kernel) else (o, p))) for o, p in places]


@pytest.mark.parametrize("dtype", [lowgrad.float32, lowgrad.bfloat16], ids=str)
@pytest.mark.parametrize("mix", SEEN, ids=lambda f: f.__name__)
def test_loops_take_the_blocks_where_something_counts(mix, dtype, small_blocks):
    kernels = streams(traced(mix, LENGTH, 16, dtype))

    assert any(is_by_columns(kernel) for kernel in kernels)
    for kernel in kernels:
        for blocks in turns(kernel):
            for block, taken in enumerate(blocks):
                needed = [i for i in range(0, LENGTH, N) if any(seen_in(mix, kernel, block, i))]
                assert taken == needed, (kernel.name, block)


@pytest.mark.parametrize("mix", SEEN, ids=lambda f: f.__name__)
def test_blocks_in_which_all_counts_are_not_masked(mix, small_blocks):
    """Tensor cores are fast enough for masks to cost something."""
    for kernel in streams(traced(mix, LONGER, 16, lowgrad.bfloat16)):
        for loops in passes(kernel):
            assert len(loops) <= 3
            bare = [loop for loop in loops if not any(isinstance(s, MaskTest) for s in loop.body)]
            taken = [
                (block, start)
                for loop in bare
                for block in range(-(-LONGER // M))
                for start in steps(kernel, loop, block)
            ]
            for block, start in taken:
                assert start + N <= LONGER
                assert all(seen_in(mix, kernel, block, start, LONGER))
            if mix in (*CAUSAL, from_now_on, last_many):
                assert len(bare) == 1 < len(loops)
                assert len(taken) > sum(map(len, turns(kernel, LONGER)[0])) // 2


def test_a_large_number_is_no_infinity(small_blocks):
    """Its exp is 0 only if the row has something larger; its gradient is 0 always."""
    forward, by_rows, by_columns = (turns(k) for k in streams(traced(very_negative, LENGTH, 16)))

    whole = [*range(0, LENGTH, N)]
    assert all(taken == whole for loop in (*forward, *by_columns) for taken in loop)
    assert all(len(taken) < len(whole) for loop in by_rows for taken in loop[:2])


@pytest.mark.parametrize("mix", [*SEEN, very_negative], ids=lambda f: f.__name__)
def test_what_is_left_is_all(mix, small_blocks):
    check(traced(mix, LENGTH, 16), 1e-5)


@pytest.mark.parametrize("dtype", [lowgrad.float16, lowgrad.bfloat16], ids=str)
@pytest.mark.parametrize("mix", [*SEEN, plain], ids=lambda f: f.__name__)
def test_what_is_left_is_all_of_16_bits(mix, dtype, small_blocks):
    check(traced(mix, 100, 32, dtype), 3e-2)


def test_a_causal_step_does_about_half_of_the_work():
    length = 1024
    halves = streams(traced(causal, length, 64, lowgrad.bfloat16))
    wholes = streams(traced(plain, length, 64, lowgrad.bfloat16))

    for half, whole in zip(halves, wholes, strict=True):
        pairs = zip(turns(half, length), turns(whole, length), strict=True)
        for some, every in pairs:
            assert 0.5 < sum(map(len, some)) / sum(map(len, every)) < 0.6
        assert 0.5 < half.flops / whole.flops < 0.6


def test_blocks_above_the_diagonal_are_not_read(small_blocks):
    """A masked infinity times 0 would be NaN."""
    graph = traced(causal, LENGTH, 16)
    arrays = arrays_for(graph)
    for array in arrays[1:3]:
        array[:, :, 2 * M :] = np.inf

    seen = launched_with(graph, arrays)

    assert np.isfinite(seen[:, :, : 2 * M]).all()
    assert not np.isfinite(seen[:, :, 2 * M :]).any()


def launched_with(graph: Graph, arrays: list[np.ndarray]) -> np.ndarray:
    """What the first loop gives as attention's result."""
    (loop, *_) = [n for n in graph.nodes if n.op.name == "rows"]
    result = next(v for v in loop.outputs if v.type.shape == arrays[0].shape)
    cut = replace(graph, nodes=graph.nodes[: graph.nodes.index(loop) + 1], outputs=(result,))
    with np.errstate(all="ignore"):
        (seen,) = KernelExecutable(replace(cut, aliases={}))(arrays)
    return seen
