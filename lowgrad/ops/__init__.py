"""The ops, a family to a file. Importing this package fills the registry."""

from lowgrad.ops import (
    contraction,
    create,
    indexing,
    pointwise,
    random,
    reduction,
    region,
    rows,
    scan,
    view,
)

__all__ = [
    "contraction",
    "create",
    "indexing",
    "pointwise",
    "random",
    "reduction",
    "region",
    "rows",
    "scan",
    "view",
]
