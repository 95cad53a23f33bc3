"""Matrix products as kernels: all tails, transposes, batches, and what follows in the kernel."""

import numpy as np
import pytest
from codegen.helpers import arrays_for, check, expanded, node_of, region, tensor

from lowgrad.codegen.lower import lower
from lowgrad.codegen.tiling import Tiling
from lowgrad.errors import CompileError
from lowgrad.ir.types import bfloat16, float16, float32, float64, int8, int32, int64, uint8

pytestmark = pytest.mark.triton

SMALL = Tiling(m=16, n=16, k=16)


@pytest.mark.parametrize("dtype", [float32, bfloat16, float16, float64, int32, int64], ids=str)
@pytest.mark.parametrize("sizes", [(16, 16, 16), (1, 1, 1), (17, 33, 15), (40, 16, 17), (3, 0, 4)])
def test_sizes_around_the_blocks(sizes, dtype):
    m, k, n = sizes
    node = node_of("matmul", [tensor(m, k, dtype=dtype), tensor(k, n, dtype=dtype)], {})

    check(node, tiling=SMALL, terms=k + 1, magnitude=4 * k)


@pytest.mark.parametrize("dtype", [int8, uint8], ids=str)
def test_narrow_integers_wrap(dtype):
    node = node_of("matmul", [tensor(5, 40, dtype=dtype), tensor(40, 7, dtype=dtype)], {})
    arrays = [np.full((5, 40), 9, dtype.numpy), np.full((40, 7), 5, dtype.numpy)]

    check(node, arrays, SMALL)


def test_tiles_are_visited_in_groups():
    node = node_of("matmul", [tensor(64, 16), tensor(16, 48)], {})

    check(node, tiling=SMALL, terms=16, magnitude=64)
    assert lower(node, SMALL)[0].grid == (12,)


def test_batches():
    node = node_of("matmul", [tensor(2, 3, 17, 5), tensor(2, 3, 5, 18)], {})

    check(node, tiling=SMALL, terms=16, magnitude=64)


def test_no_elements_no_launch():
    assert lower(node_of("matmul", [tensor(0, 4), tensor(4, 3)], {})) == ()


def transposed(x):
    return x.call("permute", dims=(*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2))


@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_transposed_operands_are_strides(dtype):
    def f(a, b):
        return transposed(a).call("matmul", transposed(b))

    node = region("matmul", f, a=tensor(17, 20, dtype=dtype), b=tensor(18, 17, dtype=dtype))

    check(node, tiling=SMALL, terms=17, magnitude=68)
    (kernel,) = lower(node, SMALL)
    assert "tl.trans" not in kernel.source


def gelu(x):
    return x * 0.5 * ((x * 0.7071067811865476).call("erf") + 1)


@pytest.mark.parametrize("dtype", [float32, bfloat16], ids=str)
def test_linear_bias_gelu_and_a_residual(dtype):
    def f(x, weight, bias, residual):
        y = x.call("matmul", transposed(weight))
        y = y + expanded(bias, y.shape)
        return gelu(y) + residual, y

    node = region(
        "matmul",
        f,
        x=tensor(20, 17, dtype=dtype),
        weight=tensor(33, 17, dtype=dtype),
        bias=tensor(33, dtype=dtype),
        residual=tensor(20, 33, dtype=dtype),
    )

    check(node, tiling=SMALL, terms=18, magnitude=70)


def test_the_optimizer_updates_in_the_epilogue_of_the_weight_gradient():
    def f(x, grad, weight, momentum, lr):
        dw = transposed(grad).call("matmul", x)
        m = momentum * 0.9 + dw
        return weight - m * expanded(lr, m.shape), m

    node = region(
        "matmul",
        f,
        x=tensor(21, 18),
        grad=tensor(21, 20),
        weight=tensor(20, 18),
        momentum=tensor(20, 18),
        lr=tensor(),
    )

    check(node, tiling=SMALL, terms=22, magnitude=90)
    (kernel,) = lower(node, SMALL)
    assert ("out0_ptr", "weight_ptr") in kernel.in_place
    assert ("out1_ptr", "momentum_ptr") in kernel.in_place


@pytest.mark.parametrize("dtype", [float32, bfloat16, float16, float64], ids=str)
@pytest.mark.parametrize("sizes", [(16, 16, 16), (40, 18, 20), (17, 33, 50), (2, 2, 1)])
def test_sums_of_both_operands_over_the_inner_axis(sizes, dtype):
    m, n, k = sizes

    def f(a, b, bias, lr):
        grad = a.call("sum", dims=(1,)).call("reshape", shape=(m,))
        product = a.call("matmul", b)
        total = b.call("sum", dims=(0,))
        return product, bias - grad * expanded(lr, (m,)), total, product * 2.0, grad

    node = region(
        "matmul",
        f,
        a=tensor(m, k, dtype=dtype),
        b=tensor(k, n, dtype=dtype),
        bias=tensor(m, dtype=dtype),
        lr=tensor(dtype=dtype),
    )

    check(node, tiling=SMALL, terms=k + 2, magnitude=4 * k + 4)


def test_a_sum_of_what_the_product_computes_for_itself():
    """In three dims, padded and added, as of a layer that makes three things at once."""

    def f(q, k, x, bias):
        both = q.call("pad", low=(0, 0, 0), high=(0, 0, 9), value=0)
        both = both + k.call("pad", low=(0, 0, 9), high=(0, 0, 0), value=0)
        grad = transposed(both.call("reshape", shape=(26, 18))).call("matmul", x)
        return bias - both.call("sum", dims=(0, 1)).call("reshape", shape=(18,)), grad

    node = region(
        "matmul",
        f,
        q=tensor(2, 13, 9),
        k=tensor(2, 13, 9),
        x=tensor(26, 20),
        bias=tensor(18),
    )

    check(node, tiling=SMALL, terms=28, magnitude=110)
    (kernel,) = lower(node, SMALL)
    assert kernel.source.count("if is_first") == 1


def test_a_sum_of_something_else_is_refused():
    def f(a, b):
        return a.call("matmul", b), a.call("sum", dims=(0,))

    with pytest.raises(CompileError, match="no sum over the product's inner axis"):
        lower(region("matmul", f, a=tensor(17, 8), b=tensor(8, 18)))


def test_arithmetic_before_the_product_is_rounded_to_the_operands():
    def f(a, b):
        return a.call("exp").call("cast", dtype=bfloat16).call("matmul", b)

    node = region("matmul", f, a=tensor(17, 19, dtype=bfloat16), b=tensor(19, 5, dtype=bfloat16))

    check(node, tiling=SMALL, terms=20, magnitude=300)


def test_a_permuted_result_is_stored_permuted():
    def f(a, b):
        y = a.call("matmul", b)
        heads = y.call("reshape", shape=(17, 2, 9)).call("permute", dims=(1, 0, 2))
        return heads * 2.0

    check(
        region("matmul", f, a=tensor(17, 8), b=tensor(8, 18)), tiling=SMALL, terms=9, magnitude=64
    )


def test_an_operand_that_is_the_same_everywhere():
    def f(a, b):
        return a.call("matmul", expanded(b, (9, 5)))

    check(region("matmul", f, a=tensor(17, 9), b=tensor(1, 5)), tiling=SMALL, terms=9, magnitude=36)


def test_a_padded_operand():
    def f(a, b):
        return a.call("pad", low=(0, 1), high=(0, 2), value=3).call("matmul", b)

    node = region("matmul", f, a=tensor(17, 9, dtype=bfloat16), b=tensor(12, 5, dtype=bfloat16))

    check(node, arrays_for(node), SMALL, terms=12, magnitude=60)
