"""The error function for blocks of float32 that are in cache; float64 goes to SciPy."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

# Numerator (odd powers) and denominator (even powers) of a rational minimax approximation on
# [-4, 4], beyond which float32's erf is +-1. Source: Eigen, generic_fast_erf_float.
ALPHA = (
    -2.72614225801306e-10,
    2.77068142495902e-08,
    -2.10102402082508e-06,
    -5.69250639462346e-05,
    -7.34990630326855e-04,
    -2.95459980854025e-03,
    -1.60960333262415e-02,
)
BETA = (
    -1.45660718464996e-05,
    -2.13374055278905e-04,
    -1.68282697438203e-03,
    -7.37332916720468e-03,
    -1.42647390514189e-02,
)
BLOCK = 1 << 14  # elements: five blocks of float32 fit a core's second-level cache

_local = threading.local()


def erf(x: Any, out: Any) -> None:
    """out = erf(x). x, out: same shape, float32 or float64; out is not x."""
    if out.dtype != np.float32 or not (out.flags.c_contiguous and x.flags.c_contiguous):
        from scipy.special import erf as exact

        exact(x, out)
        return
    flat, result = x.reshape(-1), out.reshape(-1)
    square, odd = _scratch()
    for start in range(0, flat.size, BLOCK):
        piece = flat[start : start + BLOCK]
        target = result[start : start + BLOCK]
        _rational(piece, target, square[: piece.size], odd[: piece.size])


def _rational(x: Any, out: Any, square: Any, even: Any) -> None:
    np.clip(x, np.float32(-4), np.float32(4), out)
    np.multiply(out, out, square)
    _horner(BETA, square, even)
    np.divide(out, even, out)
    _horner(ALPHA, square, even)
    np.multiply(out, even, out)


def _horner(coefficients: tuple[float, ...], x: Any, out: Any) -> None:
    np.multiply(x, np.float32(coefficients[0]), out)
    for c in coefficients[1:-1]:
        np.add(out, np.float32(c), out)
        np.multiply(out, x, out)
    np.add(out, np.float32(coefficients[-1]), out)


def _scratch() -> tuple[Any, Any]:
    """Two blocks a thread, made once."""
    if not hasattr(_local, "blocks"):
        _local.blocks = (np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32))
    blocks: tuple[Any, Any] = _local.blocks
    return blocks
