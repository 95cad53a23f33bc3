"""Sorting as kernels: short lines, runs, and passes that merge them."""

import numpy as np
import pytest
from codegen.helpers import node_of, tensor, wanted

from lowgrad.codegen.lower import lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.step import cross_compile_kernels
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.ir.types import bfloat16, bool_, float16, float32, float64, int8, int32, int64, uint8

pytestmark = pytest.mark.triton

SMALL = Tiling(flat=32, run=8, ways=4)  # lines of up to 8 at once, others in runs of 8
DTYPES = (float32, bfloat16, float16, float64, int32, int64, int8, uint8, bool_)


def sort_of(x, dim=-1, descending=False):
    dtype = next(d for d in DTYPES if d.numpy == x.dtype)
    attrs = {"dim": dim % x.ndim, "descending": descending}
    return node_of("sort", [tensor(*x.shape, dtype=dtype)], attrs)


def assert_sorts(x, tiling=SMALL, **attrs):
    node = sort_of(x, **attrs)

    values, places = run_node(node, [x], tiling)

    want, order = wanted(node, [x])
    np.testing.assert_array_equal(places, order)
    # Bits, and not values: 0.0 and -0.0 are equal, and each is to stay what it was.
    assert values.tobytes() == np.take_along_axis(x, order, attrs.get("dim", -1)).tobytes()
    assert values.shape == want.shape


def few(shape, dtype, seed=0):
    """Numbers of which many are equal; floats with NaN, infinities and zeros of both signs."""
    rng = np.random.default_rng(seed)
    if not dtype.is_floating_point:
        return rng.integers(0, 5, shape).astype(dtype.numpy)
    chosen = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1e-3, 6e4]
    return rng.choice(np.array(chosen), shape).astype(dtype.numpy)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_is_sorted_stably(dtype, descending):
    assert_sorts(few((2, 70), dtype), descending=descending)


@pytest.mark.parametrize("size", [2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 128, 129, 300])
def test_sizes_at_the_ends_of_runs_and_merges(size):
    assert_sorts(few((3, size), float32, size))


@pytest.mark.parametrize("size", [5, 32, 33, 256, 257, 700])
def test_the_sizes_that_a_gpu_gets(size):
    assert_sorts(few((2, size), float32, size), DEFAULT)


@pytest.mark.parametrize("ways", [2, 4, 16])
def test_runs_merged_several_at_a_time(ways):
    x = np.random.default_rng(ways).normal(size=(1, 260)).astype("f")

    assert_sorts(x, Tiling(run=4, ways=ways))


@pytest.mark.parametrize("size", [5, 40])
@pytest.mark.parametrize("dim", [0, 1, 2])
def test_along_any_dim(dim, size):
    shape = [3, 2, 4]
    shape[dim] = size

    assert_sorts(few(shape, float32), dim=dim)


@pytest.mark.parametrize("dtype", [int32, int64, int8, uint8], ids=str)
@pytest.mark.parametrize("descending", [False, True])
def test_the_least_and_the_greatest_integers(dtype, descending):
    info = np.iinfo(dtype.numpy)
    x = np.resize(np.array([info.max, 0, info.min, 1], dtype.numpy), (1, 20))

    assert_sorts(x, descending=descending)


@pytest.mark.parametrize(
    "x", [np.zeros(50), np.arange(50.0), -np.arange(50.0)], ids=["=", "<", ">"]
)
def test_lines_that_are_in_order_already(x):
    assert_sorts(x.astype("f"))


def test_a_line_is_compared_with_runs_and_not_with_all_of_it():
    one, four = (
        sum(k.flops for k in lower(sort_of(np.zeros((8, n), "f")))) for n in (1 << 16, 1 << 18)
    )

    assert four < 6 * one  # and not 16 times as much


def test_a_vocabulary_is_sorted_in_few_launches():
    kernels = lower(sort_of(np.zeros((1, 50257), "f")))

    assert [k.name for k in kernels] == ["sort_runs", "sort_merge1", "sort_merge2"]
    assert [p.role for p in kernels[-1].params] == ["in", "scratch", "scratch", "out", "out"]


def test_lines_of_one_run_are_one_kernel_without_scratch():
    (kernel,) = lower(sort_of(np.zeros((9, 200), "f")))

    assert [p.role for p in kernel.params] == ["in", "out", "out"]


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "hip:gfx942"])
@pytest.mark.parametrize(
    "node",
    [
        node_of("sort", [tensor(*shape, dtype=dtype)], {"dim": 1, "descending": True})
        for shape, dtype in (((64, 50257), float32), ((1, 4000), int64), ((99999, 16), bfloat16))
    ],
    ids=["vocabulary", "one line", "short lines"],
)
def test_kernels_compile_without_spills(node, target):
    binaries = cross_compile_kernels(lower(node), target)

    assert not any(b.spill_bytes for b in binaries)
