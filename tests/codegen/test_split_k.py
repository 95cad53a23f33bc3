"""Products whose inner axis is shared out, and tiles that are stored in slices."""

from dataclasses import replace

import numpy as np
import pytest
from codegen.helpers import arrays_for, check, expanded, node_of, region, tensor

from lowgrad.codegen.lower import lower
from lowgrad.codegen.run import run_node
from lowgrad.codegen.tiling import DotTiling, Tiling
from lowgrad.ir.types import bfloat16, float16, float32

pytestmark = pytest.mark.triton

BLOCKS = DotTiling(16, 32, 16, "dot", 4, 2)


def forced(**fields) -> Tiling:
    return Tiling(dot=replace(BLOCKS, **fields))


def transposed(x):
    return x.call("permute", dims=(*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2))


def gelu(x):
    return x * 0.5 * ((x * 0.7071067811865476).call("erf") + 1)


def linear(m, n, k, dtype=float32):
    """A layer with a bias, an activation and a residual, which returns both ends of it."""

    def f(x, weight, bias, residual):
        y = x.call("matmul", transposed(weight))
        y = y + expanded(bias, y.shape)
        return gelu(y) + residual, y

    return region(
        "matmul",
        f,
        x=tensor(m, k, dtype=dtype),
        weight=tensor(n, k, dtype=dtype),
        bias=tensor(n, dtype=dtype),
        residual=tensor(m, n, dtype=dtype),
    )


def weight_gradient(rows, n, k):
    """x's and grad's product and grad's sum, each with its own update."""

    def f(x, grad, weight, bias, lr):
        dw = transposed(grad).call("matmul", x)
        db = grad.call("sum", dims=(0,)).call("reshape", shape=(n,))
        step = weight - dw * expanded(lr, dw.shape)
        return step, bias - db * expanded(lr, db.shape)

    return region(
        "matmul",
        f,
        x=tensor(rows, k),
        grad=tensor(rows, n),
        weight=tensor(n, k),
        bias=tensor(n),
        lr=tensor(),
    )


@pytest.mark.parametrize("dtype", [float32, bfloat16, float16], ids=str)
@pytest.mark.parametrize("sizes", [(32, 32, 96), (17, 33, 81), (1, 40, 96), (40, 1, 96)])
@pytest.mark.parametrize("split", [2, 3])
def test_pieces_add_up_and_what_follows_is_done_once(sizes, dtype, split):
    node = linear(*sizes, dtype=dtype)

    check(node, tiling=forced(split=split), terms=sizes[2] + 2, magnitude=4 * sizes[2] + 4)
    first, second = lower(node, forced(split=split))
    assert [p.role for p in first.params] == ["in", "in", "scratch"]
    assert first.params[-1].type.shape == (split, sizes[0] * sizes[1])
    assert "tl.dot" not in second.source


def test_no_piece_is_empty():
    """33 numbers in blocks of 16 are 3 turns: for 2 pieces of 2 turns, whatever is asked for."""
    node = node_of("matmul", [tensor(16, 33), tensor(33, 32)], {})

    check(node, tiling=forced(split=16), terms=33, magnitude=132)
    assert lower(node, forced(split=16))[0].grid == (3,)
    assert lower(node, forced(split=2))[0].grid == (2,)


def test_batches_of_pieces():
    node = node_of("matmul", [tensor(2, 3, 17, 50), tensor(2, 3, 50, 18)], {})

    check(node, tiling=forced(split=2), terms=50, magnitude=200)


def test_sums_of_operands_are_split_with_the_product():
    node = weight_gradient(70, 20, 36)

    check(node, tiling=forced(split=2), terms=72, magnitude=290)
    first, product, total = lower(node, forced(split=2))
    assert [p.type.shape for p in first.params if p.role == "scratch"] == [(2, 720), (2, 20)]
    assert ("out0_ptr", "weight_ptr") in product.in_place
    assert ("out1_ptr", "bias_ptr") in total.in_place


def test_pieces_are_added_in_one_order():
    node = node_of("matmul", [tensor(16, 200), tensor(200, 32)], {})
    arrays = arrays_for(node)

    results = [run_node(node, arrays, forced(split=4))[0] for _ in range(2)]

    np.testing.assert_array_equal(*results)
    source = lower(node, forced(split=4))[1].source
    assert source.index("total = ") < source.index("total_1 = ") < source.index("total_2 = ")
    assert "atomic" not in source


@pytest.mark.parametrize("slices", [2, 4])
@pytest.mark.parametrize("sizes", [(32, 64, 32), (17, 33, 20), (5, 7, 3), (1, 40, 16), (40, 1, 16)])
def test_slices_of_a_tile_are_stored_one_after_the_other(sizes, slices):
    node = linear(*sizes)

    check(node, tiling=forced(slices=slices), terms=sizes[2] + 2, magnitude=4 * sizes[2] + 4)
    if 1 not in sizes:
        (kernel,) = lower(node, forced(slices=slices))
        assert kernel.source.count("tl.store") == 2 * slices
        assert kernel.constants["SLICE_N"] == 32 // slices


def test_a_sliced_tile_may_still_be_stored_over_what_it_updates():
    node = weight_gradient(40, 20, 36)

    check(node, tiling=forced(slices=2), terms=42, magnitude=170)
    (kernel,) = lower(node, forced(slices=2))
    assert ("out0_ptr", "weight_ptr") in kernel.in_place


@pytest.mark.parametrize("group", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("sizes", [(80, 96, 16), (112, 160, 16), (16, 352, 16)])
def test_every_tile_is_made_once_in_any_grouping(sizes, group):
    m, n, k = sizes
    node = node_of("matmul", [tensor(m, k), tensor(k, n)], {})

    check(node, tiling=forced(group=group), terms=k, magnitude=4 * k)


@pytest.mark.parametrize("boxes", [False, True])
def test_the_last_piece_ends_with_the_inner_axis(boxes):
    """Five turns for two pieces of three: nothing is masked, so nothing may be read after them."""
    node = node_of("matmul", [tensor(32, 80), tensor(80, 32)], {})
    tiling = forced(split=2, boxes=boxes)

    check(node, tiling=tiling, terms=80, magnitude=320)
    first, _ = lower(node, tiling)
    assert "min(48, " in first.source
    assert "mask" not in first.source
