"""Activation functions, each a formula over pointwise ops, with PyTorch's values at the kinks.

All take a floating tensor of any shape and return its shape and dtype. Where a branch of `where`
could overflow, its argument is made safe first, so that no gradient is 0 * inf.
"""

from __future__ import annotations

import math

import lowgrad
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.nn.checks import shown
from lowgrad.tensor import Tensor

# Klambauer et al. 2017, "Self-Normalizing Neural Networks", eq. 14; digits as in PyTorch.
SELU_ALPHA = 1.6732632423543772848170429916717
SELU_SCALE = 1.0507009873554804934193349852946


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); its slope at 0 is 0, and NaN stays NaN."""
    return _store(input, lowgrad.where(input <= 0, 0.0, input), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6)."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """x cut to [min_val, max_val]; the slope is 1 strictly inside, else 0."""
    if min_val > max_val:
        raise ArgumentError(f"hardtanh: min_val {min_val} is greater than max_val {max_val}")
    above = lowgrad.where(input >= max_val, max_val, input)
    return _store(input, lowgrad.where(input <= min_val, min_val, above), inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, else negative_slope * x."""
    return _store(input, lowgrad.where(input > 0, input, input * negative_slope), inplace)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, else alpha * (exp(x) - 1).

    Source: Clevert et al. 2015, "Fast and Accurate Deep Network Learning by ELUs", eq. 15.
    """
    return _store(input, lowgrad.where(input > 0, input, _expm1_below_0(input) * alpha), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """max(0, x) + min(0, alpha * (exp(x / alpha) - 1)).

    Source: Barron 2017, "Continuously Differentiable Exponential Linear Units", eq. 2.
    """
    if alpha == 0:
        raise ArgumentError("celu: alpha cannot be 0")
    negative = _expm1_below_0(input / alpha) * alpha
    return _store(input, lowgrad.where(input > 0, input, negative), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """scale * elu(x, alpha), with the constants that keep mean 0 and variance 1.

    Source: Klambauer et al. 2017, "Self-Normalizing Neural Networks", eq. 2.
    """
    negative = _expm1_below_0(input) * SELU_ALPHA
    return _store(input, lowgrad.where(input > 0, input, negative) * SELU_SCALE, inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x Phi(x), Phi the standard normal CDF, or its approximation by tanh.

    Source: Hendrycks & Gimpel 2016, "Gaussian Error Linear Units", sec. 2.
    """
    if approximate == "none":
        return input * 0.5 * (lowgrad.erf(input * math.sqrt(0.5)) + 1.0)
    if approximate == "tanh":
        inner = (input + input * input * input * 0.044715) * math.sqrt(2.0 / math.pi)
        return input * 0.5 * (lowgrad.tanh(inner) + 1.0)
    raise ArgumentError(f"gelu: approximate must be 'none' or 'tanh', not {approximate!r}")


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return lowgrad.sigmoid(input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return lowgrad.tanh(input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x * sigmoid(x), also called swish."""
    return _store(input, input * lowgrad.sigmoid(input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * tanh(softplus(x)).

    Source: Misra 2019, "Mish: A Self Regularized Non-Monotonic Activation Function", eq. 1.
    """
    return _store(input, input * lowgrad.tanh(softplus(input)), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta * x)) / beta, and x itself where beta * x > threshold."""
    scaled = input * beta
    is_linear = scaled > threshold
    safe = lowgrad.where(is_linear, 0.0, scaled)
    return lowgrad.where(is_linear, input, lowgrad.log1p(lowgrad.exp(safe)) / beta)


def logsigmoid(input: Tensor) -> Tensor:
    """log(sigmoid(x)) = min(x, 0) - log(1 + exp(-|x|)), which never overflows.

    The two branches are apart so that the slope at 0 is 1/2, as it should be.
    """
    is_negative = input < 0
    decay = lowgrad.log1p(lowgrad.exp(lowgrad.where(is_negative, input, -input)))
    return lowgrad.where(is_negative, input, 0.0) - decay


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6."""
    return _store(input, relu6(input + 3.0) / 6.0, inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x * relu6(x + 3) / 6.

    Source: Howard et al. 2019, "Searching for MobileNetV3", sec. 5.2.
    """
    return _store(input, input * relu6(input + 3.0) / 6.0, inplace)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return input / (lowgrad.abs(input) + 1.0)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """a * sigmoid(b), a and b the halves of the input along `dim`.

    Source: Dauphin et al. 2016, "Language Modeling with Gated Convolutional Networks", eq. 1.
    """
    size = input.shape[dim]
    if size % 2:
        raise ShapeError(
            f"glu: dim {dim} is halved, so its size must be even, not {size}",
            operands=shown(input=input),
        )
    gated, gate = input.narrow(dim, 0, size // 2), input.narrow(dim, size // 2, size // 2)
    return gated * lowgrad.sigmoid(gate)


def _expm1_below_0(input: Tensor) -> Tensor:
    """exp(x) - 1 for x <= 0, and 0 above, where exp would overflow."""
    return lowgrad.expm1(lowgrad.where(input > 0, 0.0, input))


def _store(input: Tensor, result: Tensor, inplace: bool) -> Tensor:
    return input.copy_(result) if inplace else result
