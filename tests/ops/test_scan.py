"""Cumulative sums and sorting: NaN, ties, long lines, wrong dims."""

import ml_dtypes
import numpy as np
import pytest
import torch

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.op import evaluate
from lowgrad.ir.types import TensorType, bfloat16, bool_, float32
from lowgrad.ops.scan import cumsum, sort


@pytest.mark.parametrize("descending", [False, True])
def test_sort_is_stable_and_nan_is_largest(descending):
    rng = np.random.default_rng(0)
    x = rng.choice([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0], (40, 6)).astype(np.float32)

    for dim in (0, 1):
        values, order = sort.evaluate(x, dim=dim, descending=descending)

        want = torch.sort(torch.from_numpy(x), dim=dim, descending=descending, stable=True)
        np.testing.assert_array_equal(values, want.values)
        np.testing.assert_array_equal(order, want.indices)
        assert order.dtype == np.int64


def test_a_long_sum_is_not_all_rounding():
    x = np.full(1_000_000, 0.1, np.float32)

    got = cumsum.evaluate(x, dim=0)

    exact = np.arange(1, x.size + 1) * np.float64(np.float32(0.1))
    assert got.dtype == np.float32
    np.testing.assert_array_less(np.abs(got - exact) / exact, 2.0**-23)


def test_integers_wrap_in_their_own_dtype():
    got = cumsum.evaluate(np.full(3, 100, np.uint8), dim=0)

    assert got.dtype == np.uint8
    assert got.tolist() == [100, 200, 44]


def test_narrow_floats_sum_past_their_own_integers():
    ones = np.ones(1024, ml_dtypes.bfloat16)

    (got,) = evaluate(cumsum, (ones,), {"dim": 0}, (TensorType((1024,), bfloat16),))

    assert float(got[-1]) == 1024


@pytest.mark.parametrize("dim", [-1, 1])
def test_the_dim_is_counted_from_zero(dim):
    x = TensorType((3,), float32)

    with pytest.raises(ShapeError, match=rf"^cumsum: no dim {dim} in f32\[3\]"):
        cumsum.infer(x, dim=dim)
    with pytest.raises(ShapeError, match=rf"^sort: no dim {dim} in f32\[3\]"):
        sort.infer(x, dim=dim, descending=False)
    with pytest.raises(ShapeError, match=r"no dim 0 in f32\[\]"):
        cumsum.infer(TensorType((), float32), dim=0)


def test_bools_have_no_cumulative_sum():
    with pytest.raises(DTypeError, match=r"cumsum: takes numbers, got b1\[3\]"):
        cumsum.infer(TensorType((3,), bool_), dim=0)
