"""Cumulative sums, piece by piece, are the sums of one pass to the bit, and allocate a piece."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lowgrad.ops import scan


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("shape", [(9,), (3, 5), (2, 7, 3), (1, 1), (0, 4)], ids=str)
@pytest.mark.parametrize("piece", [1, 4, 1 << 12])
def test_pieces_add_up_to_one_pass(monkeypatch, dtype, shape, piece):
    monkeypatch.setattr(scan, "PIECE", piece)
    x = (np.random.default_rng(0).standard_normal(shape) * 100).astype(dtype)
    for dim in range(len(shape)):
        out = np.empty_like(x)

        scan.cumsum.evaluate_into(out, x, dim=dim)

        np.testing.assert_array_equal(out, scan.cumsum.evaluate(x, dim=dim))


@pytest.mark.parametrize("shape", [(1 << 18,), (512, 512), (1 << 16, 2, 2)], ids=str)
def test_a_cumulative_sum_allocates_a_piece(shape):
    x, out = np.ones(shape, np.float32), np.empty(shape, np.float32)
    for dim in range(len(shape)):
        tracemalloc.start()
        scan.cumsum.evaluate_into(out, x, dim=dim)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert peak < 128 * 1024
