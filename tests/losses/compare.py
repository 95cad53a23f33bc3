"""How far a loss and its gradients are from PyTorch's: by the norm of each tensor."""

from __future__ import annotations

import numpy as np
from losses.loss import Array
from losses.ways import Results

RELATIVE = 2e-4  # of a tensor's norm, in float32 against float64
LEAST_NORM = 1e-2  # below it a difference is measured against this: gradients that are 0 in theory


def error(got: Array, want: Array) -> float:
    """The norm of the difference; infinite unless shapes and places of NaN are the same."""
    if got.shape != want.shape or not np.array_equal(np.isnan(got), np.isnan(want)):
        return np.inf
    difference = got - want
    if np.isinf(difference).any():
        return np.inf
    return float(np.linalg.norm(np.nan_to_num(difference)))


def norm(want: Array) -> float:
    """The norm of what is wanted, at least LEAST_NORM."""
    return max(float(np.linalg.norm(np.nan_to_num(want))), LEAST_NORM)


def assert_near(got: Results, want: Results, relative: float = RELATIVE) -> None:
    """Fail unless the loss and every gradient are within `relative` of their norm."""
    assert got.keys() == want.keys()
    for name in want:
        off = error(got[name], want[name]) / norm(want[name])
        assert off <= relative, f"{name} is off by {off:.2g} of its norm, allowed {relative:g}"
