"""How far apart two results are, in a way that rounding and small numbers do not confuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.ir.types import TensorType

Array = npt.NDArray[Any]

# Of the largest element of a result, by the bytes of a float: kernels add up in another order.
TOLERANCE = {8: 1e-10, 4: 1e-4, 2: 2e-2}
# What a result may differ by is this many times what the smallest change of the inputs does to it.
NOISE = 16.0


def wide(array: Array) -> Array:
    """As float64, which NumPy's functions take, bfloat16's values too."""
    return np.asarray(array, np.float64)


def apart(got: Array, want: Array) -> float:
    """The largest difference, as a share of the largest element; inf if one is NaN alone."""
    x, y = wide(got), wide(want)
    if not y.size:
        return 0.0
    # What is infinite or NaN in both is equal.
    same = (x == y) | (np.isnan(x) & np.isnan(y))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(np.where(same, 0.0, x - y)).max()
    if not np.isfinite(difference):
        return float("inf")
    scale = np.abs(y[np.isfinite(y)]).max(initial=0.0)
    return float(difference / scale) if scale else float("inf")


def tolerance(type_: TensorType) -> float:
    """What `apart` may be for results of this type; nothing for integers and bools."""
    return TOLERANCE[type_.dtype.itemsize] if type_.dtype.is_floating_point else 0.0


def nudged(array: Array) -> Array:
    """Floats with every other element changed by one part in 2 ** 22: what rounding does."""
    if array.dtype != np.float32 or not array.ndim:
        return array
    signs = np.where(np.arange(array.size) % 2, 1.0, -1.0).reshape(array.shape)
    return np.asarray(array * (1 + signs * 2.0**-22), np.float32)


def same_bits(got: Array, want: Array) -> bool:
    """Whether not one bit differs; NaN is NaN, whatever its bits."""
    if got.dtype != want.dtype or got.shape != want.shape:
        return False
    if got.tobytes() == want.tobytes():
        return True
    return apart(got, want) == 0.0 and bool((np.signbit(wide(got)) == np.signbit(wide(want))).all())
