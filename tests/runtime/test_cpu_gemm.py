"""Products written or added in place: any strides that BLAS walks, nothing allocated."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from lowgrad.runtime.cpu import gemm as module
from lowgrad.runtime.cpu.gemm import gemm, is_direct

LAYOUTS = ("rows", "columns", "some rows", "some columns", "transposed slice")


def laid_out(shape: tuple[int, int], layout: str, dtype: str, seed: int) -> np.ndarray:
    """An array of numbers in [0, 1), in one of the layouts; what it is cut from is its `.base`."""
    m, n = shape
    if layout == "columns" or layout == "transposed slice":
        return laid_out((n, m), "rows" if layout == "columns" else "some columns", dtype, seed).T
    whole = {"rows": (m, n), "some rows": (m + 3, n), "some columns": (m, n + 5)}[layout]
    full = np.random.default_rng(seed).random(whole).astype(dtype)
    return full[:m, :n] if layout == "rows" else full[whole[0] - m :, whole[1] - n :]


@pytest.fixture(params=["NumPy's", "SciPy's"])
def library(request, monkeypatch):
    """Which BLAS adds the product."""
    found = module._of_numpy if request.param == "NumPy's" else module._of_scipy
    if found("float32") is None:
        pytest.skip("NumPy's BLAS has names that are not known here")
    monkeypatch.setattr(module, "_blas", found)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("right", LAYOUTS)
@pytest.mark.parametrize("left", LAYOUTS)
@pytest.mark.parametrize("result", LAYOUTS)
@pytest.mark.parametrize("sizes", [(7, 5, 3), (6, 1, 1)], ids=str)
def test_a_product_is_added_where_the_result_lies(library, dtype, left, right, result, sizes):
    m, k, n = sizes
    a, b = laid_out((m, k), left, dtype, 1), laid_out((k, n), right, dtype, 2)
    out = laid_out((m, n), result, dtype, 3)
    around = out.base if out.base is not None else out
    expected = out + np.einsum("mk,kn->mn", a, b)
    others = around.sum(dtype=np.float64) - out.sum(dtype=np.float64)

    gemm(a, b, out, accumulate=True)

    np.testing.assert_allclose(out, expected, rtol=1e-5)
    assert around.sum(dtype=np.float64) - out.sum(dtype=np.float64) == pytest.approx(others)


@pytest.mark.parametrize("accumulate", [False, True])
def test_batches_may_be_strided_and_broadcast(accumulate):
    random = np.random.default_rng(0)
    heads = random.random((2, 5, 3, 4), dtype=np.float32).transpose(0, 2, 1, 3)  # [B, H, S, D]
    shared = np.broadcast_to(random.random((4, 6), dtype=np.float32), (2, 3, 4, 6))
    whole = np.ones((2, 5, 3, 8), np.float32)
    out = whole.transpose(0, 2, 1, 3)[..., 1:7]

    gemm(heads, shared, out, accumulate=accumulate)

    np.testing.assert_allclose(out, heads @ shared + accumulate, rtol=1e-5)
    np.testing.assert_array_equal(whole[..., [0, 7]], 1)


def test_a_sum_without_terms_adds_nothing():
    out = np.ones((3, 2), np.float32)

    gemm(np.empty((3, 0), np.float32), np.empty((0, 2), np.float32), out, accumulate=True)

    np.testing.assert_array_equal(out, 1)


@pytest.mark.parametrize("accumulate", [False, True])
def test_a_product_allocates_nothing(accumulate):
    a, b = (laid_out((300, 300), "transposed slice", "float32", seed) for seed in (1, 2))
    out = laid_out((300, 300), "some columns", "float32", 3)
    gemm(a, b, out, accumulate=accumulate)

    tracemalloc.start()
    gemm(a, b, out, accumulate=accumulate)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 8 * 1024


def test_what_blas_cannot_walk_is_known():
    x = np.ones((6, 8), np.float32)

    assert all(map(is_direct, (x, x.T, x[1:3], x[:, 2:5], x[::2], x[:1, ::3], x[None, None])))
    assert not any(map(is_direct, (x[:, ::2], x[::-1], np.broadcast_to(x[0], (6, 8)))))
    assert not is_direct(x.astype(np.float16))
    assert not is_direct(x.astype(np.int32))
