"""Norms and losses over rows of all lengths: held, looped over with running statistics, shared."""

import re
from dataclasses import replace

import numpy as np
import oracle
import pytest
from codegen.helpers import arrays_for, check, expanded, region, tensor, wanted
from codegen.row_functions import EPS, FUNCTIONS, rows_of
from codegen.row_functions import softmax as softmax_of

from lowgrad.codegen.kernel import Load, Loop, walk
from lowgrad.codegen.lower import lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.step import cross_compile_kernels
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.ir.types import bfloat16, float16, float32, float64

pytestmark = pytest.mark.triton

LENGTHS = (1, 3, 1000, 16384, 16385, 40000, 131072)
# No row is shared: programs loop.
ALONE = replace(DEFAULT, programs=1)
# Sums of 32 blocks in a lane, then of lanes, and a handful of operations on them.
TERMS = 64

every_function = pytest.mark.parametrize("name", FUNCTIONS)


def operands(name, shape, dtype, offset=0.0, seed=0):
    """Random arrays for `rows_of`; targets are columns."""
    node = rows_of(name, shape, dtype)
    arrays = arrays_for(node, seed)
    arrays[0] = (arrays[0].astype(np.float64) + offset).astype(dtype.numpy)
    if name == "cross_entropy":
        arrays[1] = np.arange(shape[0]) * 7919 % shape[1]
    return node, arrays


def truth(name, shape, arrays):
    """In float64, of the same numbers."""
    exact = [a.astype(np.float64) if a.dtype.kind != "i" else a for a in arrays]
    return wanted(rows_of(name, shape, float64), exact)


def assert_true(name, shape, dtype, tiling, offset=0.0, lost=1.0):
    """Errors are of the sizes that rows have. lost: digits that the offset takes, as a factor."""
    node, arrays = operands(name, shape, dtype, offset)

    results = run_node(node, arrays, tiling)

    for got, want in zip(results, truth(name, shape, arrays), strict=True):
        size = np.abs(want).max(axis=1, keepdims=True) + cancelled(name, arrays)
        size = np.broadcast_to(size * lost, want.shape)
        oracle.assert_close(got, want, dtype, terms=TERMS, magnitude=size)


def cancelled(name, arrays):
    """The size of what a row's results are differences of, if it is not theirs."""
    x, *others = (a.astype(np.float64) for a in arrays)
    if name == "divergence":
        return 16 * np.abs(others[0]).sum(axis=1, keepdims=True)
    if "norm" not in name:
        return 0.0
    mean = x.mean(axis=1, keepdims=True) if name.startswith("layer") else 0.0
    scale = 1 / np.sqrt(((x - mean) ** 2).mean(axis=1, keepdims=True) + EPS)
    weight = np.abs(others[0]).max()
    if "backward" not in name:
        return scale * weight * 2
    spread = 1 + (scale * 2) ** 2
    return scale * weight * spread * np.abs(others[1]).max(axis=1, keepdims=True)


@every_function
@pytest.mark.parametrize("length", LENGTHS)
def test_all_lengths(name, length):
    assert_true(name, (3, length), float32, DEFAULT)


@every_function
@pytest.mark.parametrize("length", [16385, 40000, 131072])
def test_rows_that_a_program_loops_over(name, length):
    assert_true(name, (2, length), float32, replace(ALONE, row=8192))


@every_function
@pytest.mark.parametrize("dtype", [float16, bfloat16], ids=str)
@pytest.mark.parametrize("tiling", [DEFAULT, ALONE], ids=["shared", "alone"])
def test_half_types(name, dtype, tiling):
    assert_true(name, (2, 40000), dtype, tiling)


# --- Accuracy ----------------------------------------------------------------------------------

OFFSETS = ("softmax", "softmax backward", "log_sum", "divergence", "cross_entropy")


@pytest.mark.parametrize("tiling", [DEFAULT, ALONE], ids=["shared", "alone"])
@pytest.mark.parametrize("offset", [1e4, -1e4])
@pytest.mark.parametrize("name", OFFSETS)
def test_offsets_cost_losses_no_digits(name, offset, tiling):
    # x - max(x) is exact; what remains is the rounding of log(sum) + max(x).
    lost = 1.0 if "softmax" in name else 1e3
    assert_true(name, (2, 40000), float32, tiling, offset, lost if name != "log_sum" else 1.0)


@pytest.mark.parametrize("tiling", [DEFAULT, ALONE], ids=["shared", "alone"])
@pytest.mark.parametrize("name", ["layer_norm", "layer_norm backward", "variance"])
def test_an_offset_costs_a_norm_its_digits_once(name, tiling):
    # E[x^2] - E[x]^2 would lose them twice: all of them.
    assert_true(name, (2, 40000), float32, tiling, 3000.0, 3000.0 if "norm" in name else 30.0)


@pytest.mark.parametrize("tiling", [DEFAULT, ALONE], ids=["shared", "alone"])
def test_outliers_do_not_spoil_a_variance(tiling):
    node, (x,) = operands("variance", (2, 40000), float32)
    x[:, 0], x[:, -1] = 3e4, -3e4

    (got,) = run_node(node, [x], tiling)

    (want,) = truth("variance", (2, 40000), [x])
    oracle.assert_close(got, want, float32, terms=TERMS)


@pytest.mark.parametrize("tiling", [DEFAULT, ALONE], ids=["shared", "alone"])
@pytest.mark.parametrize(
    "name", ["softmax", "log_sum", "softmax backward", "variance", "divergence"]
)
def test_infinities_and_nan(name, tiling):
    shape = (7, 40000)
    node, arrays = operands(name, shape, float32)
    x = arrays[0]
    x[0] = -np.inf
    x[1, :39999] = -np.inf
    x[2, 20000:] = -np.inf
    x[3, 39999] = np.inf
    x[4, 5] = x[4, 30000] = np.inf
    x[5, 17000] = np.nan
    if name == "divergence":
        # Of one sign, so that infinite terms have a sum.
        arrays[1] = np.abs(arrays[1])

    results = run_node(node, arrays, tiling)

    with np.errstate(all="ignore"):
        want = truth(name, shape, arrays)
    for got, exact in zip(results, want, strict=True):
        size = np.broadcast_to(8.0 if name != "divergence" else 1e6, exact.shape)
        oracle.assert_close(got, exact, float32, terms=TERMS, magnitude=size)


@pytest.mark.parametrize("tiling", [DEFAULT, ALONE], ids=["shared", "alone"])
def test_an_infinite_weight_is_kept(tiling):
    node, arrays = operands("softmax backward", (2, 40000), float32)
    arrays[1][0, 20000] = np.inf

    (got,) = run_node(node, arrays, tiling)

    (want,) = wanted(node, arrays)
    assert (np.isnan(got) == np.isnan(want)).all()
    assert np.isfinite(got[1]).all()


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_places_in_shared_rows(name):
    def places(x):
        return x.call(name, dims=(1,))

    node = region("rows", places, x=tensor(5, 40000))
    x = np.zeros((5, 40000), np.float32)
    x[1, 39999] = x[1, 12345] = 9.0
    x[1, 777] = x[1, 20000] = -9.0
    x[2, [30000, 39000]] = np.nan
    x[3] = -np.inf
    x[4, 39999] = np.inf

    assert len(lower(node)) == 2
    check(node, [x])


# --- How rows are gone through -----------------------------------------------------------------


def reads_in_loops(kernels, size):
    """How often loops load all of an array of `size` elements, by param."""
    counts: dict[str, int] = {}
    for kernel in kernels:
        large = {p.name for p in kernel.params if p.type.numel == size}
        loops = [s for s in kernel.body if isinstance(s, Loop)]
        for load in (s for loop in loops for s in walk(loop.body) if isinstance(s, Load)):
            if load.param in large:
                counts[load.param] = counts.get(load.param, 0) + 1
    return counts


@every_function
@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_a_row_is_read_once_for_its_statistics_and_once_for_its_results(name, dtype):
    reads = FUNCTIONS[name][2]

    (kernel,) = lower(rows_of(name, (1024, 65536), dtype))

    counts = reads_in_loops([kernel], 1024 * 65536)
    assert counts["x_ptr"] == reads
    assert counts.get("g_ptr", reads) == reads
    assert kernel.grid == (1024,)


@every_function
def test_few_rows_are_shared_by_programs_that_keep_a_gpu_busy(name):
    first, second = lower(rows_of(name, (4, 1 << 20)))

    reads = FUNCTIONS[name][2]
    counts = reads_in_loops([first, second], 4 << 20)
    assert counts["x_ptr"] == reads
    assert 200 < first.grid[0] < 300
    if reads == 2:
        assert second.grid == first.grid
    scratch = {p.name: p.value for p in first.params if p.role == "scratch"}
    assert scratch
    for param in second.params:
        assert param.role != "scratch" or scratch[param.name] is param.value


def test_a_short_row_is_held():
    for length in (1000, 16384):
        (kernel,) = lower(rows_of("softmax", (1024, length)))

        assert not any(isinstance(s, Loop) for s in kernel.body)
        assert kernel.source.count("tl.load(x_ptr") == 1


@pytest.mark.parametrize("tiling", [Tiling(row=8, tile=8, split=1), DEFAULT], ids=["8", "default"])
def test_rows_that_need_two_loops_are_shared_twice(tiling):
    def relative(x):
        y = softmax_of(x)
        return y / expanded((y * y).call("sin").call("max", dims=(1,)), x.shape)

    node = region("rows", relative, x=tensor(2, 40000 if tiling is DEFAULT else 50))

    assert len(lower(node, tiling)) >= 4
    check(node, tiling=tiling, terms=TERMS, magnitude=1e9)


def test_the_scratch_of_one_node_has_one_type_a_name():
    def both(x, g):
        """Rows and columns, each so few and long that programs share them."""
        by_row = (x * g).call("sum", dims=(1,))
        return by_row, g.call("sum", dims=(0,)), x - expanded(by_row, x.shape)

    node = region("rows", both, x=tensor(64, 48), g=tensor(64, 48))
    tiling = Tiling(row=8, tile=8, split=1)

    kernels = lower(node, tiling)

    types = {(p.name, p.value) for k in kernels for p in k.params if p.role == "scratch"}
    assert len(types) == len({name for name, _ in types}) >= 2
    check(node, tiling=tiling, terms=64, magnitude=300)


def test_variances_down_few_columns_are_shared():
    def variances(x):
        centred = x - expanded(x.call("sum", dims=(0,)) / x.shape[0], x.shape)
        return (centred * centred).call("sum", dims=(0,)) / x.shape[0], centred

    node = region("rows", variances, x=tensor(50001, 3))
    arrays = arrays_for(node)
    arrays[0] += np.float32(1000)

    kernels = lower(node)

    assert kernels[0].grid[0] > 90
    for got, want in zip(
        run_node(node, arrays), wanted(node, [arrays[0].astype("d")]), strict=True
    ):
        oracle.assert_close(got, want, float32, terms=TERMS, magnitude=np.full(want.shape, 500.0))


# --- Machine code ------------------------------------------------------------------------------

COMPILED = [
    *(("cuda:90", n, d) for n in (1024, 8192, 16384, 32768, 65536, 131072) for d in (float32,)),
    *(("cuda:90", n, bfloat16) for n in (8192, 32768, 131072)),
    *((target, n, float32) for target in ("cuda:80", "cuda:100") for n in (16384, 32768, 131072)),
]


@pytest.mark.parametrize("name", ["softmax", "layer_norm backward", "softmax backward"])
@pytest.mark.parametrize(("target", "length", "dtype"), COMPILED)
def test_rows_of_all_lengths_compile_without_spills(name, target, length, dtype):
    kernels = lower(rows_of(name, (1024, length), dtype))

    (binary,) = cross_compile_kernels(kernels, target)

    assert binary.spill_bytes == 0
    assert binary.occupancy >= 1 / 8
    accesses = re.findall(r"\b(?:LDG|STG)\.(\S+)", binary.sass)
    assert accesses
    assert all("128" in access or "256" in access for access in accesses)


@pytest.mark.parametrize("target", ["cuda:80", "cuda:100"])
@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "cross_entropy"])
@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_a_row_is_held_only_if_its_registers_do(name, target, dtype):
    kernels = lower(rows_of(name, (1024, 32768), dtype))

    (binary,) = cross_compile_kernels(kernels, target)

    assert binary.spill_bytes == 0
