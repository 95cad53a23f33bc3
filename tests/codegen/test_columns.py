"""Rows and sums down their columns as kernels: a norm's backward pass, which reads once."""

import pytest
from codegen.helpers import check, expanded, region, tensor

from lowgrad.codegen.lower import lower
from lowgrad.codegen.tiling import DEFAULT, Tiling
from lowgrad.errors import CompileError
from lowgrad.ir.types import bfloat16, float16, float32, float64

pytestmark = pytest.mark.triton

FEW = Tiling(tile=64, programs=3)
LOOPED = Tiling(tile=64, row=16, programs=3)


def norm_backward(x, grad, weight, bias):
    """Gradients of a norm without its mean, and updates of its two parameters."""
    scaled = grad * expanded(weight, x.shape)
    dims = (len(x.shape) - 1,)
    total = (scaled * x).call("sum", dims=dims)
    others = tuple(range(len(x.shape) - 1))
    of_weight = (grad * x).call("sum", dims=others).call("reshape", shape=weight.shape)
    of_bias = grad.call("sum", dims=others).call("reshape", shape=weight.shape)
    dx = scaled - x * expanded(total, x.shape)
    return dx, weight - of_weight * 0.1, total, bias - of_bias * 0.1


def norm_again(x, grad, weight, bias):
    """The same with statistics of x: sums of columns of what follows from sums of rows."""
    square = (x * x).call("sum", dims=(len(x.shape) - 1,)) + 1.0
    normal = x * expanded(square.call("rsqrt"), x.shape)
    return norm_backward(normal, grad, weight, bias)


def node(shape, dtype=float32, function=norm_backward):
    rows, last = tensor(*shape, dtype=dtype), tensor(shape[-1], dtype=dtype)
    return region("rows", function, x=rows, grad=rows, weight=last, bias=last)


@pytest.mark.parametrize("dtype", [float32, bfloat16, float16, float64], ids=str)
@pytest.mark.parametrize(
    "shape", [(64, 16), (37, 20), (3, 5, 7), (2, 2), (1, 9), (130, 1)], ids=str
)
@pytest.mark.parametrize("tiling", [DEFAULT, FEW, LOOPED], ids=["default", "few", "looped"])
@pytest.mark.parametrize("function", [norm_backward, norm_again])
def test_shapes_and_dtypes(shape, dtype, tiling, function):
    rows = shape[0] * (shape[1] if len(shape) == 3 else 1)
    tested = node(shape, dtype, function)

    check(tested, tiling=tiling, terms=rows + shape[-1], magnitude=4 * rows + 40)


def test_a_program_reads_each_row_once():
    first, second = lower(node((512, 64)), Tiling(programs=8))

    assert first.grid == (8,)
    assert first.source.count("tl.load(x_ptr") == first.source.count("tl.load(grad_ptr") == 1
    assert not any(p.name in ("x_ptr", "grad_ptr") for p in second.params)


@pytest.mark.parametrize("function", [norm_backward, norm_again])
def test_rows_that_do_not_fit_have_kernels_of_their_own(function):
    kernels = lower(node((512, 64), function=function), LOOPED)

    assert len(kernels) >= 2
    assert not any(p.role == "scratch" and "columns" in k.name for k in kernels for p in k.params)


def test_statistics_and_what_uses_them_are_one_pass():
    first, second = lower(node((512, 64), function=norm_again), Tiling(programs=8))

    assert first.source.count("tl.load(x_ptr") == first.source.count("tl.load(grad_ptr") == 1
    assert not any(p.name in ("x_ptr", "grad_ptr") for p in second.params)


def test_dims_that_are_not_rows_and_columns_are_refused():
    def f(x):
        return x.call("sum", dims=(2,)), x.call("sum", dims=(0,))

    with pytest.raises(CompileError, match="not the rows and"):
        lower(region("rows", f, x=tensor(3, 4, 5)))
