"""The ops, a family to a file. Importing this package fills the registry."""

from lowgrad.ops import create, pointwise, random, reduction, scan

__all__ = ["create", "pointwise", "random", "reduction", "scan"]
