"""matmul: what it sums in, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.op import evaluate
from lowgrad.ir.types import TensorType, bfloat16, bool_, float16, float32, int8
from lowgrad.ops.contraction import matmul


@pytest.mark.parametrize("dtype", [float16, bfloat16])
def test_narrow_floats_sum_in_float32(dtype):
    # In bf16 this sum stops at 256, in f16 at 2048.
    ones = np.ones((1, 4096), dtype.numpy)

    (out,) = evaluate(matmul, (ones, ones.T), {}, (TensorType((1, 1), dtype),))

    assert out.dtype == dtype.numpy
    assert float(out[0, 0]) == 4096


def test_integers_wrap():
    x = np.full((1, 2), 100, np.int8)

    (out,) = evaluate(matmul, (x, x.T), {}, (TensorType((1, 1), int8),))

    assert out.tolist() == [[20000 % 256]]


def test_infinities_make_no_noise():
    x = np.array([[np.inf, -np.inf]], np.float32)

    assert np.isnan(matmul.evaluate(x, np.ones((2, 1), np.float32)))


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ((2, 3), (4, 5), "matmul: inner sizes differ: f32[2,3] @ f32[4,5] (3 and 4)"),
        ((3,), (3, 5), "matmul: f32[3] @ f32[3,5]: both sides have two dims or more"),
        ((7, 2, 3), (8, 3, 2), "matmul: batch sizes differ: f32[7,2,3] @ f32[8,3,2]"),
        ((7, 2, 3), (3, 2), "matmul: batch sizes differ: f32[7,2,3] @ f32[3,2]"),
    ],
)
def test_infer_states_the_plain_fact(a, b, message):
    with pytest.raises(ShapeError) as caught:
        matmul.infer(TensorType(a, float32), TensorType(b, float32))

    assert caught.value.message == message


@pytest.mark.parametrize(("a", "b"), [(float32, float16), (bool_, bool_)])
def test_dtypes_are_equal_and_not_bool(a, b):
    with pytest.raises(DTypeError, match="the dtypes are equal and not bool"):
        matmul.infer(TensorType((2, 2), a), TensorType((2, 2), b))
