"""Blocks chosen by the model: they fit, they compile without spills, and the right instructions."""

import re
from dataclasses import replace

import pytest
from codegen.helpers import expanded, region, tensor

from lowgrad.codegen.choose import (
    blocks_at_once,
    candidates,
    choose,
    registers,
    seconds,
    shared_bytes,
)
from lowgrad.codegen.gpus import SPECS, spec_of
from lowgrad.codegen.lower import lower
from lowgrad.codegen.problem import Problem, problem_of
from lowgrad.codegen.region import region_of
from lowgrad.codegen.run import launch_signature
from lowgrad.codegen.tiling import DEFAULT, DotTiling, Tiling, dot_tiling
from lowgrad.ir.types import bfloat16, float32, float64

SQUARE = Problem(1, 8192, 8192, 8192, bfloat16, is_boxed=True)
# A step of GPT-2 124M of 8 x 1024 tokens: layers, their weights' gradients, the head, attention.
STEP = {
    "out": (1, 8192, 768, 768),
    "up": (1, 8192, 3072, 768),
    "down": (1, 8192, 768, 3072),
    "head": (1, 8192, 50304, 768),
    "square": (1, 8192, 8192, 8192),
    "out's weight": (1, 768, 768, 8192),
    "up's weight": (1, 3072, 768, 8192),
    "head's weight": (1, 50304, 768, 8192),
    "scores": (96, 1024, 1024, 64),
    "values": (96, 1024, 64, 1024),
}
KINDS = [(bfloat16, "ieee"), (float32, "tf32"), (float32, "ieee")]


def transposed(x):
    return x.call("permute", dims=(*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2))


def gelu(x):
    return x * 0.5 * ((x * 0.7071067811865476).call("erf") + 1)


def linear(m, n, k, dtype):
    def f(x, weight, bias):
        y = x.call("matmul", transposed(weight))
        y = y + expanded(bias, y.shape)
        return gelu(y), y

    return region(
        "matmul",
        f,
        x=tensor(m, k, dtype=dtype),
        weight=tensor(n, k, dtype=dtype),
        bias=tensor(n, dtype=dtype),
    )


def gradient(rows, n, k, dtype):
    def f(x, grad, weight, lr):
        dw = transposed(grad).call("matmul", x)
        return weight - dw * expanded(lr, dw.shape), grad.call("sum", dims=(0,))

    return region(
        "matmul",
        f,
        x=tensor(rows, k, dtype=dtype),
        grad=tensor(rows, n, dtype=dtype),
        weight=tensor(n, k, dtype=dtype),
        lr=tensor(dtype=dtype),
    )


def product(m, n, k, orders, dtype):
    def f(a, b):
        a = transposed(a) if orders[0] == "T" else a
        return a.call("matmul", transposed(b) if orders[1] == "T" else b)

    a = (k, m) if orders[0] == "T" else (m, k)
    b = (n, k) if orders[1] == "T" else (k, n)
    return region("matmul", f, a=tensor(*a, dtype=dtype), b=tensor(*b, dtype=dtype))


# --- The choice --------------------------------------------------------------------------------


def test_without_a_target_nothing_changes():
    assert choose(SQUARE, DEFAULT) == dot_tiling(8192, 8192, 8192, bfloat16, DEFAULT)
    assert choose(SQUARE, Tiling(target="hip:gfx942")) == choose(SQUARE, DEFAULT)


def test_given_blocks_are_taken():
    tile = DotTiling(32, 64, 32, "dot", 4, 2)

    assert choose(SQUARE, Tiling(target="cuda:90", dot=tile)) is tile
    assert choose(SQUARE, Tiling(target="cuda:90", m=32)).m == 32


@pytest.mark.parametrize(
    "changed", [{"dtype": float64}, {"is_aligned": False}, {"k": 0}], ids=lambda c: next(iter(c))
)
def test_what_the_model_does_not_know_is_portable(changed):
    problem = replace(SQUARE, **changed)

    tile = choose(problem, Tiling(target="cuda:90"))

    assert tile == dot_tiling(problem.m, problem.n, problem.k, problem.dtype, DEFAULT)


@pytest.mark.parametrize(("dtype", "precision"), KINDS)
@pytest.mark.parametrize("capability", SPECS)
def test_all_candidates_fit(capability, dtype, precision):
    tiling, spec = Tiling(target=f"cuda:{capability}", descriptors=True), SPECS[capability]
    for sizes in STEP.values():
        problem = Problem(*sizes, dtype, precision, is_boxed=True, has_epilogue=True)
        found = candidates(problem, tiling)
        assert found
        for tile in found:
            assert shared_bytes(problem, tile, spec) <= spec.block_shared_bytes
            threads = 32 * tile.num_warps * blocks_at_once(problem, tile, spec)
            assert threads * registers(problem, tile, spec) <= 65536
            assert seconds(problem, tile, spec) >= problem.flops / spec.flops(dtype, precision)
            assert not tile.boxes or (problem.k % tile.k == 0 and spec.has_descriptors)


def test_candidates_come_best_first_and_are_different():
    found = candidates(SQUARE, Tiling(target="cuda:90", descriptors=True), 8)
    times = [seconds(SQUARE, tile, SPECS[90]) for tile in found]

    assert len(set(found)) == 8
    assert times[0] <= 1.03 * min(times)
    assert times[-1] >= times[0]


def test_the_largest_product_is_within_reach_of_the_roof():
    """By the model, which has not been measured: 788 TFLOP/s is 1395 us."""
    tile = choose(SQUARE, Tiling(target="cuda:90", descriptors=True))

    assert {tile.m, tile.n} == {128, 256}
    assert (tile.k, tile.num_warps, tile.programs) == (64, 8, 132)
    assert SQUARE.flops / SPECS[90].half_flops / seconds(SQUARE, tile, SPECS[90]) > 0.88


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100"])
def test_few_tiles_of_a_long_axis_are_split(target):
    weight = Problem(1, 768, 768, 8192, bfloat16)

    assert choose(weight, Tiling(target=target)).split > 1
    assert choose(replace(weight, m=65536), Tiling(target=target)).split == 1


def test_unknown_capabilities_are_the_nearest_below():
    assert spec_of("cuda:87") is SPECS[86]
    assert spec_of("cuda:103") is SPECS[100]
    assert spec_of("cuda:75") is None
    assert spec_of("hip:gfx942") is None
    assert spec_of("") is None


# --- What the compiler makes of it -------------------------------------------------------------


def compiled(node, target, precision="ieee", *, descriptors=True):
    """The chosen blocks, the region's problem, and the first kernel's binary."""
    from lowgrad.codegen.triton.compile import cross_compile

    tiling = Tiling(target=target, precision=precision, descriptors=descriptors)
    own = region_of(node)
    (made,) = (n for n in own.nodes if n.op.family == "contraction")
    problem = problem_of(own, made, precision)
    kernel = lower(node, tiling)[0]
    how = (*launch_signature(kernel), target, kernel.num_warps, kernel.num_stages)
    return choose(problem, tiling), problem, cross_compile(kernel.source, kernel.name, *how)


def count(binary, opcode):
    return len(re.findall(rf"\b{opcode}", binary.sass))


MMA = {
    ("cuda:80", "bf16"): "HMMA",
    ("cuda:80", "tf32"): "HMMA",
    ("cuda:90", "bf16"): "HGMMA",
    ("cuda:90", "tf32"): "HGMMA",
    ("cuda:100", "bf16"): "UTC[A-Z]*MMA",
    ("cuda:100", "tf32"): "UTC[A-Z]*MMA",
}
CASES = {
    "layer": lambda dtype: linear(8192, 3072, 768, dtype),
    "down": lambda dtype: linear(8192, 768, 3072, dtype),
    "gradient": lambda dtype: gradient(8192, 768, 768, dtype),
}


@pytest.mark.triton
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["bf16", "tf32", "f32"])
@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100"])
def test_chosen_kernels_fit_without_spills(target, kind, case):
    dtype, precision = (bfloat16 if kind == "bf16" else float32), ("ieee", "tf32")[kind == "tf32"]

    tile, problem, binary = compiled(CASES[case](dtype), target, precision)

    spec = spec_of(target)
    assert binary.spill_bytes == 0
    estimate = registers(problem, tile, spec)
    assert 0.4 * estimate <= binary.registers <= 255
    assert binary.shared_bytes <= shared_bytes(problem, tile, spec) <= spec.block_shared_bytes
    blocks = round(64 * binary.occupancy) // tile.num_warps
    assert blocks >= min(blocks_at_once(problem, tile, spec), 2)
    assert count(binary, MMA.get((target, kind), "FFMA")) > 0
    if tile.boxes:
        assert count(binary, "UTMALDG") >= 2
    else:
        assert count(binary, "LDGSTS") > 0
        assert kind != "bf16" or count(binary, "LDGSTS") == count(binary, r"LDGSTS\S*\.128")


@pytest.mark.triton
@pytest.mark.parametrize("descriptors", [False, True])
@pytest.mark.parametrize("orders", ["NN", "NT", "TN", "TT"])
def test_all_orders_keep_wgmma_and_wide_copies(orders, descriptors):
    node = product(8192, 8192, 8192, orders, bfloat16)

    tile, _, binary = compiled(node, "cuda:90", descriptors=descriptors)

    assert binary.spill_bytes == 0
    assert count(binary, "HGMMA") == 4
    assert count(binary, "LDG\\b") == 0, "all operands are copied by themselves"
    if descriptors:
        assert tile.programs == 132
        assert [e.itemsize for e in binary.descriptors] == [2, 2]
        assert {max(e.block) for e in binary.descriptors} <= {64, 128, 256}
        assert count(binary, "LDGSTS") == 0
    else:
        assert count(binary, "LDGSTS") == count(binary, r"LDGSTS\S*\.128") == 12 * tile.num_stages


@pytest.mark.triton
def test_a_tile_stored_at_once_would_spill():
    """What slices are for: the same blocks without them."""
    from lowgrad.codegen.triton.compile import cross_compile

    whole = DotTiling(128, 256, 64, "dot", 8, 3)

    def spills(tile):
        (kernel,) = lower(linear(8192, 3072, 2048, bfloat16), Tiling(dot=tile))
        how = (*launch_signature(kernel), "cuda:90", kernel.num_warps, kernel.num_stages)
        return cross_compile(kernel.source, kernel.name, *how).spill_bytes

    assert spills(whole) > 0
    assert spills(replace(whole, slices=4)) == 0


@pytest.mark.triton
def test_the_hot_loop_has_no_masks_where_blocks_divide():
    for node in (linear(8192, 768, 3072, bfloat16), gradient(8192, 768, 768, bfloat16)):
        for kernel in lower(node, Tiling(target="cuda:90")):
            assert "mask=" not in kernel.source or "tl.dot" not in kernel.source


@pytest.mark.parametrize(("m", "n"), [(16, 16), (32, 16), (8, 24), (1, 8)])
@pytest.mark.parametrize("target", [f"cuda:{capability}" for capability in SPECS])
def test_a_product_too_small_for_the_model_gets_the_portable_blocks(m, n, target):
    problem = Problem(2, m, n, 16, bfloat16)
    tiling = replace(DEFAULT, target=target)

    assert candidates(problem, tiling) == (dot_tiling(m, n, 16, bfloat16, tiling),)
