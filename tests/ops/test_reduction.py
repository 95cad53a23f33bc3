"""Reductions at the edges: nothing to reduce, NaN, ties, zeros in products, long narrow sums."""

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

from lowgrad import ops  # noqa: F401  (fills the registry)
from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.build import Builder
from lowgrad.ir.interpret import interpret
from lowgrad.ir.op import REGISTRY, evaluate, outputs_of
from lowgrad.ir.tile import FUNCTIONS
from lowgrad.ir.types import DTYPES, TensorType, bool_, float32, float64, int64, uint8
from lowgrad.passes.autodiff import gradients

REDUCTIONS = {name: op for name, op in REGISTRY.items() if op.family == "reduction"}
NAMES = ("sum", "prod", "max", "min")


def run(name, array, *dims):
    op = REGISTRY[name]
    dtype = next(d for d in DTYPES if d.numpy == array.dtype)
    attrs = {"dims": dims}
    types = outputs_of(op, (TensorType(array.shape, dtype),), attrs)
    (result,) = evaluate(op, (array,), attrs, types)
    return result


def gradient(name, array, *dims):
    """The gradient of the sum of all results."""
    builder = Builder()
    x = builder.input(TensorType(array.shape, float64))
    out = x.call(name, dims=dims)
    seed = builder.full(out.type, 1.0)
    (found,) = gradients(
        builder, tuple(builder.nodes), [out.value], [seed], [x.value], lambda v: True
    )
    (result,) = interpret(builder.graph((found.value,)), array)
    return result


# --- Values ------------------------------------------------------------------------------------


def test_reducing_nothing_gives_the_identity():
    nothing = np.zeros((2, 0), np.float32)

    np.testing.assert_array_equal(run("sum", nothing, 1), [[0], [0]])
    np.testing.assert_array_equal(run("prod", nothing, 1), [[1], [1]])
    np.testing.assert_array_equal(run("any", nothing.astype(bool), 1), [[False], [False]])
    np.testing.assert_array_equal(run("all", nothing.astype(bool), 1), [[True], [True]])


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin"])
def test_there_is_no_extremum_of_nothing(name):
    with pytest.raises(ShapeError, match=rf"^{name}: nothing .* along \[1\] of f32\[2,0\]"):
        run(name, np.zeros((2, 0), np.float32), 1)


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "sum"])
@pytest.mark.parametrize("row", list(itertools.permutations([np.nan, np.inf, -np.inf, -1.0])))
def test_special_values_are_torchs(name, row):
    x = np.array(row)

    got = run(name, x, 0)

    want = getattr(torch, name)(torch.from_numpy(x), dim=0, keepdim=True)
    np.testing.assert_array_equal(got, want.values if name in ("max", "min") else want)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_the_first_of_equals_is_chosen(name):
    rows = np.array([[2, 2, 2], [np.nan, 0, np.nan], [-np.inf] * 3, [np.inf] * 3, [-0.0, 0.0, 0.0]])

    np.testing.assert_array_equal(run(name, rows, 1), np.zeros((5, 1)))


@pytest.mark.parametrize("width", [1, 20, 33, 1025])
@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "sum"])
def test_whole_numbers_reduce_exactly(name, sign, width):
    x = sign * (np.random.default_rng(0).permutation(width) + 1)

    want = getattr(np, name)(x)

    for dtype in (np.int64, np.float64, np.float32):
        assert run(name, x.astype(dtype), 0).item() == want


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_sums_do_not_stop_growing(dtype):
    ones = np.ones((3, 4096), dtype)

    np.testing.assert_array_equal(run("sum", ones, 1).astype(np.float32), np.full((3, 1), 4096))


def test_integer_sums_keep_their_dtype_and_wrap():
    assert run("sum", np.full(2, 200, np.uint8), 0).tolist() == [144]
    assert run("prod", np.full(2, 2**16, np.int32), 0).tolist() == [0]


@pytest.mark.parametrize("name", REDUCTIONS)
def test_the_identity_changes_no_result(name):
    op = REDUCTIONS[name]
    for dtype in op.domain.dtypes:
        values = np.array([[3, 1, 2]]).astype(dtype.numpy)
        identity = np.array([[op.identity(dtype)] * 2]).astype(dtype.numpy)

        padded = run(name, np.concatenate([values, identity], axis=1), 1)

        np.testing.assert_array_equal(padded, run(name, values, 1))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_combine_is_a_tile_function_or_a_pair_rule(name):
    combine = REDUCTIONS[name].combine

    assert combine in FUNCTIONS or combine == name


# --- Derivatives -------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(0,), (2,), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("zeros", [0, 1, 2, 60])
def test_prod_has_torchs_gradient_with_zeros(dims, zeros):
    rng = np.random.default_rng(0)
    x = rng.uniform(0.5, 1.5, (3, 5, 4))
    x.flat[rng.permutation(60)[:zeros]] = 0

    got = gradient("prod", x, *dims)

    leaf = torch.from_numpy(x).requires_grad_()
    out = leaf
    for dim in dims:
        out = out.prod(dim, keepdim=True)
    (want,) = torch.autograd.grad(out.sum(), leaf)
    np.testing.assert_allclose(got, want, rtol=1e-12)


@pytest.mark.parametrize("name", ["max", "min"])
def test_ties_share_the_gradient_equally(name):
    x = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, -0.0, 5.0, -5.0]])

    got = gradient(name, x, 1)

    assert got.tolist()[0] == [0.25] * 4
    assert got.sum() == 2


@pytest.mark.parametrize("name", ["max", "min"])
def test_the_gradient_of_a_row_with_nan_shows_it(name):
    x = np.array([[1.0, np.nan], [1.0, 2.0]])

    got = gradient(name, x, 1)

    leaf = torch.from_numpy(x).requires_grad_()
    reduce = {"max": torch.amax, "min": torch.amin}[name]
    (want,) = torch.autograd.grad(reduce(leaf, 1).sum(), leaf)
    np.testing.assert_array_equal(got, want)


def test_the_gradient_of_a_sum_of_nothing_is_empty():
    assert gradient("sum", np.zeros((2, 0)), 1).shape == (2, 0)
    assert gradient("prod", np.zeros((2, 0)), 1).shape == (2, 0)


# --- Types -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(), (-1,), (2,), (1, 0), (0, 0)])
@pytest.mark.parametrize("name", NAMES)
def test_dims_are_ascending_dims_of_the_input(name, dims):
    with pytest.raises(ShapeError, match=rf"^{name}: dims .* of f32\[2,3\]"):
        REDUCTIONS[name].infer(TensorType((2, 3), float32), dims=dims)


@pytest.mark.parametrize("name", ["argmax", "argmin"])
def test_a_place_is_along_one_dim(name):
    with pytest.raises(ShapeError, match=r"one dim, got \[0, 1\] of f32\[2,3\]"):
        REDUCTIONS[name].infer(TensorType((2, 3), float32), dims=(0, 1))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_each_dtype_is_taken_or_refused(name):
    op = REDUCTIONS[name]
    takes = {bool_} if name in ("any", "all") else set(DTYPES) - {bool_}
    for dtype in DTYPES:
        type_ = TensorType((2, 3), dtype)
        if dtype not in takes:
            with pytest.raises(DTypeError, match=rf"^{name}: takes \w+, got {dtype.short}\[2,3\]"):
                op.infer(type_, dims=(0,))
            continue

        result = op.infer(type_, dims=(0,))

        assert result == TensorType((1, 3), int64 if "arg" in name else dtype)


def test_masked_lanes_of_u8_do_not_win():
    assert REDUCTIONS["min"].identity(uint8) == 255
    assert REDUCTIONS["max"].identity(uint8) == 0
