"""Scatters of many sources as kernels: sorted, added up by segments, and their pieces joined."""

import re

import numpy as np
import oracle
import pytest
from codegen.helpers import node_of, tensor, wanted
from samples import SAMPLES

from lowgrad.codegen.cuda.machine import GpuMachine, scratch_layout
from lowgrad.codegen.lower import lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.step import cross_compile_kernels, run_graph
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.codegen.triton.memory import Memory
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.types import bfloat16, float16, float32, float64, int8, int32, int64
from lowgrad.runtime.memory import plan

pytestmark = pytest.mark.triton

# Runs of 8 that are merged 4 at a time, and segments of 4: a hundred sources are many.
SMALL = Tiling(flat=16, run=8, ways=4, direct=0, segment=4)
SAMPLE_ROWS = [
    pytest.param(n, s, id=f"{n} {s}")
    for n in ("index_add", "scatter_add", "scatter")
    for s in SAMPLES[n]
]
DTYPES = (float32, float16, bfloat16, float64, int32, int8)


def adds(base, dim, index, *, dtype=float32, index_dtype=int64):
    """An index_add and its operands, for a base of shape `base`."""
    shape = (*base[:dim], *np.shape(index), *base[dim + 1 :])
    types = [tensor(*base, dtype=dtype), tensor(*np.shape(index), dtype=index_dtype)]
    node = node_of("index_add", [*types, tensor(*shape, dtype=dtype)], {"dim": dim})
    return node, [
        numbers(base, dtype, 0),
        np.asarray(index, index_dtype.numpy),
        numbers(shape, dtype, 1),
    ]


def numbers(shape, dtype, seed):
    """Small integers, which every dtype adds up without rounding."""
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(dtype.numpy)


def assert_equal(node, arrays, tiling=SMALL):
    (got,) = run_node(node, arrays, tiling)
    np.testing.assert_array_equal(got.astype("d"), wanted(node, arrays)[0].astype("d"))


def places(kind, count, rows):
    """Indices: of each kind, `count` of them below `rows`."""
    every = np.arange(count)
    made = {
        "random": np.random.default_rng(count).integers(0, rows, count),
        "equal": np.full(count, rows - 1),
        "rising": every * rows // max(count, 1),
        "falling": rows - 1 - every * rows // max(count, 1),
        "two": np.where(every % 5 == 0, 0, rows - 1),
    }
    return made[kind]


@pytest.mark.parametrize("dtype", [float32, bfloat16, float64], ids=str)
@pytest.mark.parametrize(("name", "sample"), SAMPLE_ROWS)
def test_a_sorted_scatter_is_what_evaluate_says(name, sample, dtype):
    typed = sample.with_float(dtype)
    node = node_of(name, typed.inputs, typed.attrs)
    arrays = typed.arrays()

    (got,) = run_node(node, arrays, SMALL)

    terms = sample.terms + 4
    oracle.assert_close(got, wanted(node, arrays)[0], dtype, terms=terms, magnitude=40)


@pytest.mark.parametrize("kind", ["random", "equal", "rising", "falling", "two"])
@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 31, 32, 33, 100, 130])
def test_sums_at_the_ends_of_runs_and_segments(count, kind):
    assert_equal(*adds((5, 3), 0, places(kind, count, 5)))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype(dtype):
    assert_equal(*adds((9, 4), 0, places("random", 60, 9), dtype=dtype, index_dtype=int32))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_operands_of_several_dims(dim):
    index = places("random", 42, (6, 5, 4)[dim]).reshape(6, 7)

    assert_equal(*adds((6, 5, 4), dim, index))


def test_wide_rows_take_several_programs():
    assert_equal(*adds((6, 300), 0, places("random", 70, 6)), Tiling(run=32, direct=0, segment=8))


def test_the_sizes_that_a_gpu_gets():
    assert_equal(*adds((11, 40), 0, places("two", 700, 11)), DEFAULT)


def test_sums_of_16_bit_floats_are_in_f32():
    node, arrays = adds((2, 1), 0, np.zeros(1200, int), dtype=bfloat16)
    arrays[2][...] = 1

    (got,) = run_node(node, arrays, SMALL)

    # In bf16, 256 + 1 is 256.
    assert float(got[0, 0]) == float((1200 + arrays[0][0, 0].astype("f")).astype(got.dtype))


@pytest.mark.parametrize("name", ["scatter_add", "scatter"])
@pytest.mark.parametrize("dim", [0, 1, 2])
@pytest.mark.parametrize("dtype", [float32, float16, int8], ids=str)
def test_elements_go_where_their_own_index_says(name, dim, dtype):
    base, shape = (4, 5, 6), [3, 5, 4]
    shape[dim] = 9
    types = [tensor(*base, dtype=dtype), tensor(*shape, dtype=int64)]
    node = node_of(name, [*types, tensor(9, 9, 9, dtype=dtype)], {"dim": dim})
    index = np.random.default_rng(0).integers(0, base[dim], shape)

    assert_equal(node, [numbers(base, dtype, 0), index, numbers((9, 9, 9), dtype, 1)])


def test_indices_out_of_range_are_left_out():
    node, arrays = adds((5, 3), 0, places("random", 50, 5))
    kept = arrays[1] != 2
    inside = wanted(node, [arrays[0], arrays[1], arrays[2] * kept[:, None]])
    arrays[1] = np.where(kept, arrays[1], np.where(np.arange(50) % 2, -3, 5))

    got = run_node(node, arrays, SMALL)

    np.testing.assert_array_equal(got[0], inside[0])


@pytest.mark.parametrize("name", ["scatter_add", "scatter"])
def test_elements_with_indices_out_of_range_are_left_out(name):
    types = [tensor(3, 4, 5), tensor(3, 30, 5, dtype=int64), tensor(3, 30, 5)]
    node = node_of(name, types, {"dim": 1})
    wrong = np.array([-1, -3, 4, 2**31 - 1, 2**40])
    index = np.random.default_rng(0).integers(0, 4, (3, 30, 5))
    base, src = numbers((3, 4, 5), float32, 0), numbers((3, 30, 5), float32, 1)
    few = wanted(
        node_of(
            name, [types[0], *(tensor(3, 25, 5, dtype=t) for t in (int64, float32))], {"dim": 1}
        ),
        [base, index[:, :25], src[:, :25]],
    )
    index[:, 25:] = wrong[:, None]

    got = run_node(node, [base, index, src], SMALL)

    np.testing.assert_array_equal(got[0], few[0])


def test_the_same_bits_each_time():
    node, arrays = adds((5, 3), 0, places("two", 200, 5))
    arrays[2] = np.random.default_rng(0).normal(size=arrays[2].shape).astype("f")

    first, second = (run_node(node, arrays, SMALL)[0] for _ in range(2))

    assert first.tobytes() == second.tobytes()
    assert not any("atomic" in kernel.source for kernel in lower(node, SMALL))


def touched(monkeypatch, node, arrays, tiling):
    """How many elements the node's kernels load and store."""
    count = 0

    def counted(name):
        kept = getattr(Memory, name)

        def access(self, pointers, mask, values):
            nonlocal count
            count += int(np.count_nonzero(mask))
            return kept(self, pointers, mask, values)

        monkeypatch.setattr(Memory, name, access)

    counted("load")
    counted("store")
    run_node(node, arrays, tiling)
    monkeypatch.undo()
    return count


@pytest.mark.parametrize("kind", ["random", "equal"])
def test_accesses_grow_with_sources_and_not_with_results_times_sources(monkeypatch, kind):
    tiling = Tiling(run=32, direct=0)
    few, many = (
        touched(monkeypatch, *adds((rows, 64), 0, places(kind, count, rows)), tiling)
        for rows, count in ((32, 128), (128, 512))
    )

    assert many < 6 * few  # 4 times as many, some by halving, and not 16 times
    # A source and its base are read; the result is written twice, once as the base.
    assert many < 64 * (2 * 512 + 4 * 128) + 512 * 200


def test_modelled_work_of_an_embedding_of_a_large_model():
    tokens, words, width = 65536, 50257, 768
    types = [tensor(words, width), tensor(64, 1024, dtype=int64), tensor(64, 1024, width)]
    kernels = lower(node_of("index_add", types, {"dim": 0}))

    lanes = sum(k.grid[0] * k.num_warps * 32 for k in kernels)
    moved = sum(k.bytes_read + k.bytes_written for k in kernels)
    # Of the table twice its bytes, of the sources at most thrice: they, their bases, their sums.
    assert moved < 4 * width * (2 * words + 3.5 * tokens) + 100 * tokens
    assert sum(k.flops for k in kernels) < 3 * tokens * width
    assert lanes < 8 * (tokens + words) * width
    assert len(kernels) == 6


def test_few_sources_are_one_kernel():
    assert len(lower(adds((5, 3), 0, places("random", 64, 5))[0])) == 1
    assert len(lower(adds((5, 3), 0, places("random", 65, 5))[0])) > 1


def test_the_memory_plan_knows_of_what_is_sorted():
    node, _ = adds((50, 16), 0, places("random", 1000, 50))

    offsets, nbytes = scratch_layout(lower(node))

    segments = -(-1000 // 8)
    assert set(offsets) >= {"keys_ptr", "places_ptr", "begun_ptr", "continued_ptr"}
    assert nbytes >= 4 * 1000 * 4 + 2 * segments * 16 * 4
    assert GpuMachine().scratch_bytes(node, {}) == nbytes


def test_offsets_of_large_tables_are_64_bit():
    rows, width = 2**22, 1024
    types = [tensor(rows, width), tensor(100, dtype=int64), tensor(100, width)]
    *_, segments, pieces = lower(node_of("index_add", types, {"dim": 0}))

    for kernel in (segments, pieces):
        assert kernel.wide
        # A loaded key is of 32 bits, but not its product with the width.
        assert re.search(r"key_?\d*\.to\(tl.int64\)", kernel.source)
        assert not re.search(r"key_?\d* \* 1024", kernel.source)


LARGE = {
    "embedding": [tensor(50257, 768), tensor(64, 1024, dtype=int64), tensor(64, 1024, 768)],
    "half": [
        tensor(50257, 768, dtype=bfloat16),
        tensor(64, 1024, dtype=int64),
        tensor(64, 1024, 768, dtype=bfloat16),
    ],
}


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "hip:gfx942"])
@pytest.mark.parametrize("name", LARGE)
def test_kernels_compile_without_spills(name, target):
    kernels = lower(node_of("index_add", LARGE[name], {"dim": 0}))

    binaries = cross_compile_kernels(kernels, target)

    assert [b.spill_bytes for b in binaries] == [0] * len(kernels)
    *_, segments, _ = binaries
    if target.startswith("cuda"):
        assert "ld.global.v4.b32" in segments.ptx
        assert "st.global.v4.b32" in segments.ptx


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_scatters_of_elements_compile_without_spills(target):
    types = [tensor(1024, 5000), tensor(1024, 200, dtype=int64), tensor(1024, 200)]
    for name in ("scatter_add", "scatter"):
        binaries = cross_compile_kernels(lower(node_of(name, types, {"dim": 1})), target)

        assert not any(b.spill_bytes for b in binaries)


@pytest.mark.parametrize(
    ("sources", "width", "length"),
    [(1000, 768, 8), (65536, 768, 32), (200_000, 1, 16), (2**24, 1, 256), (2**24, 768, 32)],
)
def test_segments_are_as_long_as_is_fair(sources, width, length):
    types = [tensor(5000, width), tensor(sources, dtype=int64), tensor(sources, width)]
    *_, segments, _ = lower(node_of("index_add", types, {"dim": 0}))

    (begun,) = (p for p in segments.params if p.name == "begun_ptr")
    assert begun.type.shape == (-(-sources // length), width)


def test_lines_of_elements_are_sorted_apart():
    types = [tensor(1024, 5000), tensor(1024, 200, dtype=int64), tensor(1024, 200)]
    kernels = lower(node_of("scatter_add", types, {"dim": 1}))

    assert [k.name.rpartition("_")[2] for k in kernels] == ["runs", "base", "segments", "pieces"]


@pytest.mark.parametrize("count", [20, 90], ids=["few", "many"])
@pytest.mark.parametrize("name", ["index_add", "scatter_add", "scatter"])
def test_a_scatter_over_its_base_in_planned_memory(name, count):
    b = Builder()
    base, src = b.input(tensor(6, 4), "base"), b.input(tensor(count, 4), "src")
    shape = (count,) if name == "index_add" else (count, 4)
    index = b.input(tensor(*shape, dtype=int64), "index")
    doubled = base * 2.0 + 1.0
    graph = b.graph(((doubled.call(name, index, src, dim=0) * 3.0).value,))
    node = next(n for n in graph.nodes if n.op.name == name)
    arrays = [numbers((6, 4), float32, 0), numbers((count, 4), float32, 1)]
    arrays.append(np.random.default_rng(2).integers(0, 6, shape))

    (got,) = run_graph(graph, arrays)

    assert plan(graph).reused[node.output] is node.inputs[0]
    np.testing.assert_array_equal(got, interpret(graph, *arrays)[0])
