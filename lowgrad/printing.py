"""How a tensor looks when printed: as PyTorch's would."""

from __future__ import annotations

import numpy as np

from lowgrad.ir.op import Array
from lowgrad.ir.types import TensorType, bool_, int64
from lowgrad.promotion import get_default_dtype
from lowgrad.tape import Step


def tensor_text(array: Array | None, type_: TensorType, leaf: bool, step: Step | None) -> str:
    """`tensor([[1., 2.]], requires_grad=True)`; a recorded tensor prints its type only."""
    if array is None:
        return f"tensor(<recorded>, {type_})"
    text = np.array2string(
        array.astype(type_.dtype.wide, copy=False),
        separator=", ",
        precision=4,
        threshold=1000,
        edgeitems=3,
        max_line_width=80,
        prefix="tensor(",
    )
    parts = [f"tensor({text}"]
    if 0 in type_.shape:
        parts.append(f"size={type_.shape}")
    if type_.dtype not in (get_default_dtype(), int64, bool_):
        parts.append(f"dtype={type_.dtype!r}")
    if step is not None and step.node is not None:
        parts.append(f"grad_fn=<{step.node.op.name}>")
    elif leaf:
        parts.append("requires_grad=True")
    return ", ".join(parts) + ")"
