"""How far a result may be from the truth: from dtype and length of sums, never by trial.

f64: 1e-12 of the magnitude. f32: 2 ulp an element, 4 for transcendental functions. Sums of n terms:
(n + 4) u times the sum of magnitudes, u the unit roundoff. f16 and bf16: 1 ulp on top of f32's.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.ir.types import DType, bfloat16, float16, float32, float64

Array = npt.NDArray[Any]

F64_RELATIVE = 1e-12
PLAIN_ULPS = 2
TRANSCENDENTAL_ULPS = 4

# Bits of the significand, with the leading one; and the exponent of the smallest normal number.
PRECISION: dict[DType, int] = {float64: 53, float32: 24, float16: 11, bfloat16: 8}
SMALLEST_NORMAL: dict[DType, int] = {float64: -1022, float32: -126, float16: -14, bfloat16: -126}


def ulp(values: Any, dtype: DType) -> Array:
    """The distance between neighbours of `dtype` at each of `values`."""
    magnitude = np.abs(np.asarray(values, np.float64))
    finite = np.where(np.isfinite(magnitude), magnitude, 0.0)
    exponent = np.frexp(finite)[1] - 1
    exponent = np.maximum(np.where(finite == 0, SMALLEST_NORMAL[dtype], exponent), -1022)
    exponent = np.maximum(exponent, SMALLEST_NORMAL[dtype])
    return np.ldexp(1.0, exponent - PRECISION[dtype] + 1)


def tolerance(
    want: Any,
    dtype: DType,
    *,
    terms: int = 1,
    magnitude: Any = None,
    ulps: float = PLAIN_ULPS,
) -> Array:
    """The largest allowed |got - want|, by element, where `want` is exact, in f64.

    terms: how many products or numbers were summed for an element.  magnitude: the sum of their
    magnitudes; |want| if not given.  ulps: for elements that are no sums.
    """
    want = np.asarray(want, np.float64)
    magnitude = np.abs(want) if magnitude is None else np.asarray(magnitude, np.float64)
    if dtype is float64:
        return F64_RELATIVE * np.maximum(magnitude, np.abs(want)) + ulp(want, dtype)
    unit_roundoff = 2.0 ** -PRECISION[float32]
    allowed = (terms + 4) * unit_roundoff * magnitude if terms > 1 else ulps * ulp(want, float32)
    return allowed if dtype is float32 else allowed + ulp(want, dtype)


def assert_close(
    got: Any,
    want: Any,
    dtype: DType,
    *,
    terms: int = 1,
    magnitude: Any = None,
    ulps: float = PLAIN_ULPS,
) -> None:
    """Fail unless `got` is within `tolerance` of `want`; NaN and infinities at the same places.

    dtype: the type that `got` was computed in and stored as.  Not floating: must be equal.
    """
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape, f"shape {got.shape}, expected {want.shape}"
    if not dtype.is_floating_point:
        np.testing.assert_array_equal(got, want)
        return
    with np.errstate(all="ignore"):
        # What overflows in the narrow type is infinite there, and rightly so.
        rounded = want.astype(dtype.numpy).astype(np.float64)
    got, want = got.astype(np.float64), want.astype(np.float64)
    special = ~np.isfinite(rounded)
    np.testing.assert_array_equal(got[special], rounded[special])
    error = np.abs(np.where(special, 0.0, got) - np.where(special, 0.0, want))
    bound = tolerance(want, dtype, terms=terms, magnitude=magnitude, ulps=ulps)
    bound = np.broadcast_to(bound, error.shape)
    if (error[~special] <= bound[~special]).all():
        return
    worst = np.unravel_index(np.argmax(np.where(special, -np.inf, error - bound)), error.shape)
    raise AssertionError(
        f"{dtype.name}: {got[worst]!r} at {[int(i) for i in worst]} should be {want[worst]!r}: "
        f"off by {error[worst]:.3g}, allowed {bound[worst]:.3g}"
    )
