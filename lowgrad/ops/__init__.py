"""The ops, a family to a file. Importing this package fills the registry."""

from lowgrad.ops import pointwise

__all__ = ["pointwise"]
