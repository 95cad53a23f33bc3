"""How tensor cores may treat float32 products: the process's setting, with PyTorch's names."""

from __future__ import annotations

from lowgrad.errors import ArgumentError

# What each name lets a product do, as codegen's Tiling.precision. PyTorch's "medium" allows
# bfloat16 as well, and TF32 is what obeys it here, too.
ALLOWED = {"highest": "ieee", "high": "tf32", "medium": "tf32"}

_chosen = "highest"


def set_float32_matmul_precision(precision: str) -> None:
    """Choose how exact float32 matrix products on a GPU are.

    "highest" (at first): float32 throughout. "high" and "medium": operands are rounded to TF32,
    which has float32's range and 10 bits of mantissa, on tensor cores; sums are float32. The CPU
    is always exact. Raises ArgumentError for another name.
    """
    global _chosen
    if precision not in ALLOWED:
        raise ArgumentError(
            f"set_float32_matmul_precision: the names are {', '.join(ALLOWED)}, not {precision!r}"
        )
    _chosen = precision


def get_float32_matmul_precision() -> str:
    """ "highest", "high" or "medium"."""
    return _chosen


def products() -> str:
    """How float32 products are made: "ieee" or "tf32"."""
    return ALLOWED[_chosen]
