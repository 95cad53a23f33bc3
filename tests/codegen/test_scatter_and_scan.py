"""Scatters, running sums and sorting as kernels, and several updates in one launch."""

import numpy as np
import oracle
import pytest
from codegen.helpers import arrays_for, check, expanded, node_of, region, tensor, wanted
from samples import SAMPLES

from lowgrad.codegen.lower import lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.tiling import Tiling
from lowgrad.ir.types import bfloat16, bool_, float16, float32, float64, int32, int64, uint8

pytestmark = pytest.mark.triton

SMALL = Tiling(tile=32, scan=8, flat=8)
NAMES = ("index_add", "scatter_add", "scatter", "cumsum", "sort")
ROWS = [pytest.param(n, s, id=f"{n} {s}") for n in NAMES for s in SAMPLES[n]]


@pytest.mark.parametrize("dtype", [float32, bfloat16, float64], ids=str)
@pytest.mark.parametrize(("name", "sample"), ROWS)
def test_a_kernel_computes_what_evaluate_says(name, sample, dtype):
    typed = sample.with_float(dtype)
    if dtype is not float32 and typed == sample:
        return
    node = node_of(name, typed.inputs, typed.attrs)
    arrays = typed.arrays()

    got = run_node(node, arrays, SMALL)

    for g, w, v in zip(got, wanted(node, arrays), node.outputs, strict=True):
        oracle.assert_close(g, w, v.type.dtype, terms=sample.terms + 4, magnitude=40)


@pytest.mark.parametrize("n", [1, 7, 8, 9, 25])
def test_cumsum_at_tails(n):
    check(node_of("cumsum", [tensor(2, n)], {"dim": 1}), tiling=SMALL)


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("dtype", [float32, bfloat16, float16, int32, uint8, int64, bool_], ids=str)
@pytest.mark.parametrize("n", [1, 7, 8, 9, 25])
def test_sorting_is_stable_and_nan_is_largest(n, dtype, descending):
    node = node_of("sort", [tensor(2, n, dtype=dtype)], {"dim": 1, "descending": descending})
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, (2, n)).astype(dtype.numpy)
    if dtype.is_floating_point:
        x[0, ::3], x[1, ::5] = np.nan, -np.inf

    got = run_node(node, [x], SMALL)

    for g, w in zip(got, wanted(node, [x]), strict=True):
        np.testing.assert_array_equal(g.astype(np.float64), w.astype(np.float64))


def test_scatters_give_the_same_bits_each_time():
    types = [tensor(5), tensor(40, dtype=int64), tensor(40)]
    node = node_of("index_add", types, {"dim": 0})
    arrays = arrays_for(node)
    arrays[1] = np.arange(40) % 3

    first, second = (run_node(node, arrays, SMALL)[0] for _ in range(2))

    assert first.tobytes() == second.tobytes()
    assert "atomic" not in lower(node)[0].source


def test_the_last_of_several_stays():
    node = node_of("scatter", [tensor(4), tensor(9, dtype=int64), tensor(9)], {"dim": 0})
    arrays = [np.zeros(4, "f"), np.array([1, 1, 3, 0, 3, 1, 1, 0, 3]), np.arange(9, dtype="f")]

    check(node, arrays, SMALL)


def sgd(params, grads, lr):
    return tuple(p - g * expanded(lr, p.shape) for p, g in zip(params, grads, strict=True))


def test_several_updates_are_one_launch():
    shapes = [(3, 5), (20,), (1,), (), (2, 2, 5), (0, 4)]
    inputs = {f"p{i}": tensor(*s) for i, s in enumerate(shapes)}
    inputs |= {f"g{i}": tensor(*s) for i, s in enumerate(shapes)} | {"lr": tensor()}

    def f(lr, **named):
        n = len(shapes)
        return sgd([named[f"p{i}"] for i in range(n)], [named[f"g{i}"] for i in range(n)], lr)

    node = region("multi", f, **inputs)

    check(node, tiling=SMALL)
    check(node)
    (kernel,) = lower(node, SMALL)
    assert kernel.grid == (2 + 3 + 1 + 1 + 3,)


def test_outputs_that_share_work_are_one_part():
    def f(p, g, m, other):
        m = m * 0.9 + g
        return p - m * 0.1, m, other * 2.0

    node = region("multi", f, p=tensor(9), g=tensor(9), m=tensor(9), other=tensor(9))

    check(node, tiling=SMALL)
    assert lower(node, SMALL)[0].grid == (4,)
