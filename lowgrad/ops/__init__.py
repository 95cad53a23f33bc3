"""The ops, a family to a file. Importing this package fills the registry."""

from lowgrad.ops import contraction, create, pointwise, random, reduction, scan, view

__all__ = ["contraction", "create", "pointwise", "random", "reduction", "scan", "view"]
