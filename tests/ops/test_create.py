"""Constants: what a dtype can hold, and what it refuses."""

import numpy as np
import pytest

from lowgrad.errors import DTypeError, ShapeError
from lowgrad.ir.types import bfloat16, bool_, float32, int8, int64, uint8
from lowgrad.ops.create import full, iota, literal


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(uint8, 256), (uint8, -1), (int8, 128), (int64, 2**63), (int64, 0.5), (int64, 1.0)],
)
def test_an_integer_that_does_not_fit_is_refused(dtype, value):
    with pytest.raises(DTypeError, match=rf"^full: {value} is no {dtype.name}"):
        full.infer(shape=(2,), dtype=dtype, value=value)


def test_a_value_is_a_python_number():
    with pytest.raises(DTypeError, match="is a str, not a Python number"):
        full.infer(shape=(2,), dtype=float32, value="1")


def test_large_integers_stay_exact():
    assert full.evaluate(shape=(), dtype=int64, value=2**53 + 1) == 2**53 + 1
    assert literal.evaluate(shape=(1,), dtype=int64, data=(2**53 + 1,)).tolist() == [2**53 + 1]


def test_a_constant_in_a_region_is_not_rounded_to_bf16():
    assert full.evaluate(shape=(), dtype=bfloat16, value=0.1) == np.float32(0.1)


def test_iota_counts_along_its_dim():
    got = iota.evaluate(shape=(2, 3, 2), dtype=int64, dim=1)

    np.testing.assert_array_equal(got, np.indices((2, 3, 2))[1])


def test_iota_needs_a_dim_and_makes_numbers():
    with pytest.raises(ShapeError, match=r"^iota: no dim 1 in f32\[2\]"):
        iota.infer(shape=(2,), dtype=float32, dim=1)
    with pytest.raises(ShapeError, match=r"^iota: no dim 0 in f32\[\]"):
        iota.infer(shape=(), dtype=float32, dim=0)
    with pytest.raises(DTypeError, match="makes numbers, not bool"):
        iota.infer(shape=(2,), dtype=bool_, dim=0)


def test_a_literal_has_as_many_numbers_as_elements():
    with pytest.raises(ShapeError, match=r"^literal: 3 numbers do not fill f32\[2,2\]"):
        literal.infer(shape=(2, 2), dtype=float32, data=(1, 2, 3))
    with pytest.raises(DTypeError, match=r"^literal: 0\.5 is no int64"):
        literal.infer(shape=(2,), dtype=int64, data=(1, 0.5))
