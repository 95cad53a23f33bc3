"""Samples of every op, a family to a module; whatever modules are here count.

A module has SAMPLES (op name: samples, among them one of size 0 and one of rank 0), and may have

TORCH: op name -> the same function of torch tensors and the op's attributes.
NO_TORCH: op name -> why torch is no oracle for it.
NEEDS_RANK: op name -> why it takes no 0-d input.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from samples.base import Sample

SAMPLES: dict[str, list[Sample]] = {}
TORCH: dict[str, Callable[..., Any]] = {}
NO_TORCH: dict[str, str] = {}
NEEDS_RANK: dict[str, str] = {}

for found in pkgutil.iter_modules(__path__):
    module = importlib.import_module(f"samples.{found.name}")
    for name, table in {
        "SAMPLES": SAMPLES,
        "TORCH": TORCH,
        "NO_TORCH": NO_TORCH,
        "NEEDS_RANK": NEEDS_RANK,
    }.items():
        rows: dict[str, Any] = getattr(module, name, {})
        twice = rows.keys() & table.keys()
        assert not twice, f"samples/{found.name}.py: {name} of {sorted(twice)} is elsewhere too"
        table.update(rows)  # type: ignore[attr-defined]

__all__ = ["NEEDS_RANK", "NO_TORCH", "SAMPLES", "TORCH", "Sample"]
