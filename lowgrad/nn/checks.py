"""What the layers and losses refuse, in one wording."""

from __future__ import annotations

from lowgrad.errors import ArgumentError, DTypeError, ShapeError
from lowgrad.tensor import Tensor


def shown(**tensors: Tensor | None) -> list[str]:
    """One line an operand for an error: `input  float32 (2, 3)`."""
    present = {name: t for name, t in tensors.items() if t is not None}
    width = max((len(name) for name in present), default=0)
    return [f"{name.ljust(width)}  {dtype_name(t)} {tuple(t.shape)}" for name, t in present.items()]


def dtype_name(tensor: Tensor) -> str:
    """`float32`, without the package's name."""
    return str(tensor.dtype).rpartition(".")[2]


def require_floating(op: str, **tensors: Tensor) -> None:
    """Raise DTypeError unless each tensor has a floating dtype."""
    for name, tensor in tensors.items():
        if not tensor.dtype.is_floating_point:
            raise DTypeError(
                f"{op}: {name} must be floating, not {dtype_name(tensor)}",
                operands=shown(**tensors),
            )


def require_integer(op: str, **tensors: Tensor) -> None:
    """Raise DTypeError unless each tensor has an integer dtype."""
    for name, tensor in tensors.items():
        if tensor.dtype.is_floating_point or dtype_name(tensor) == "bool":
            raise DTypeError(
                f"{op}: {name} must hold whole numbers, not {dtype_name(tensor)}",
                operands=shown(**tensors),
            )


def require_same_shape(op: str, **tensors: Tensor) -> None:
    """Raise ShapeError unless all tensors have one shape."""
    shapes = {tuple(t.shape) for t in tensors.values()}
    if len(shapes) > 1:
        raise ShapeError(
            f"{op}: {' and '.join(tensors)} must have the same shape", operands=shown(**tensors)
        )


def require_probability(op: str, p: float) -> None:
    """Raise ArgumentError unless 0 <= p <= 1."""
    if not 0.0 <= p <= 1.0:
        raise ArgumentError(f"{op}: p must be a probability from 0 to 1, not {p}")
