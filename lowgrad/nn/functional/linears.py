"""Affine maps."""

from __future__ import annotations

from lowgrad.errors import ShapeError
from lowgrad.nn.checks import shown
from lowgrad.tensor import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias.

    input: [..., in].  weight: [out, in] or [in].  bias: [out].  Returns [..., out] (or [...]).
    Raises ShapeError if the sizes of `in` differ.
    """
    if not input.ndim or input.shape[-1] != weight.shape[-1]:
        raise ShapeError(
            "linear: the last axis of input and of weight must have the same size",
            operands=shown(input=input, weight=weight, bias=bias),
        )
    product = input @ (weight.transpose(-1, -2) if weight.ndim == 2 else weight)
    return product if bias is None else product + bias


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x1 W x2 + bias for each output.

    input1: [..., in1].  input2: [..., in2].  weight: [out, in1, in2].  Returns [..., out].
    """
    outputs, in1, in2 = weight.shape
    if input1.shape[-1] != in1 or input2.shape[-1] != in2 or input1.shape[:-1] != input2.shape[:-1]:
        raise ShapeError(
            "bilinear: inputs must be [..., in1] and [..., in2] for a weight [out, in1, in2]",
            operands=shown(input1=input1, input2=input2, weight=weight),
        )
    left = input1.reshape(-1, in1) @ weight.transpose(0, 1).reshape(in1, outputs * in2)
    pairs = left.reshape(-1, outputs, in2) * input2.reshape(-1, 1, in2)
    result = pairs.sum(dim=-1).reshape(*input1.shape[:-1], outputs)
    return result if bias is None else result + bias
