"""Filling tensors with first values, in place and outside of any gradient.

Every function returns the tensor it fills; the draws are from lowgrad's random stream.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import lowgrad
from lowgrad.errors import ArgumentError, ShapeError
from lowgrad.tensor import Tensor

Generator = Any


def uniform_(
    tensor: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform on [a, b)."""
    with lowgrad.no_grad():
        return tensor.uniform_(a, b, generator=generator)


def normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Normal with this mean and standard deviation."""
    with lowgrad.no_grad():
        return tensor.normal_(mean, std, generator=generator)


def trunc_normal_(
    tensor: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal with this mean and standard deviation, but only values in [a, b].

    By the inverse of the distribution function, of a uniform draw between its values at a and b.
    """
    low, high = _normal_cdf((a - mean) / std), _normal_cdf((b - mean) / std)
    with lowgrad.no_grad():
        draw = lowgrad.rand(
            tuple(tensor.shape), dtype=lowgrad.float64, device=tensor.device, generator=generator
        )
        value = _erfinv((draw * (high - low) + low) * 2.0 - 1.0) * (std * math.sqrt(2.0)) + mean
        return tensor.copy_(value.clamp(min=a, max=b))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Every element `val`."""
    with lowgrad.no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Every element 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Every element 0."""
    return constant_(tensor, 0.0)


def eye_(tensor: Tensor) -> Tensor:
    """1 on the diagonal, else 0. tensor: [N, M]."""
    if tensor.ndim != 2:
        raise ShapeError(f"eye_: needs a matrix, not shape {tuple(tensor.shape)}")
    rows, columns = (lowgrad.arange(n, device=tensor.device) for n in tensor.shape)
    with lowgrad.no_grad():
        return tensor.copy_((rows.unsqueeze(-1) == columns).to(tensor.dtype))


def xavier_uniform_(
    tensor: Tensor, gain: float = 1.0, generator: Generator | None = None
) -> Tensor:
    """Uniform on [-r, r], r = gain * sqrt(6 / (fan_in + fan_out)).

    Source: Glorot & Bengio 2010, "Understanding the Difficulty of Training Deep Networks", eq. 16.
    """
    fan_in, fan_out = _fans("xavier_uniform_", tensor)
    bound = gain * math.sqrt(6.0 / (fan_in + fan_out))
    return uniform_(tensor, -bound, bound, generator)


def xavier_normal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with standard deviation gain * sqrt(2 / (fan_in + fan_out)).

    Source: Glorot & Bengio 2010, "Understanding the Difficulty of Training Deep Networks", eq. 12.
    """
    fan_in, fan_out = _fans("xavier_normal_", tensor)
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / (fan_in + fan_out)), generator)


def kaiming_uniform_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform on [-r, r], r = gain * sqrt(3 / fan); `a` is leaky_relu's slope.

    Source: He et al. 2015, "Delving Deep into Rectifiers", eq. 10 and 14.
    """
    std = _kaiming_std("kaiming_uniform_", tensor, a, mode, nonlinearity)
    return uniform_(tensor, -math.sqrt(3.0) * std, math.sqrt(3.0) * std, generator)


def kaiming_normal_(
    tensor: Tensor,
    a: float = 0.0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with standard deviation gain / sqrt(fan); `a` is leaky_relu's slope.

    Source: He et al. 2015, "Delving Deep into Rectifiers", eq. 10 and 14.
    """
    std = _kaiming_std("kaiming_normal_", tensor, a, mode, nonlinearity)
    return normal_(tensor, 0.0, std, generator)


def orthogonal_(tensor: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Orthonormal rows, or columns if there are fewer of them, times gain.

    tensor: [N, ...], two axes at least; the later ones count as one.
    Source: Saxe et al. 2013, "Exact solutions to the nonlinear dynamics of learning", sec. 3.
    """
    if tensor.ndim < 2:
        raise ShapeError(f"orthogonal_: needs two axes, not shape {tuple(tensor.shape)}")
    rows, columns = tensor.shape[0], tensor.numel() // max(tensor.shape[0], 1)
    draw = lowgrad.randn((rows, columns), dtype=lowgrad.float64, generator=generator).numpy()
    q, r = np.linalg.qr(draw.T if rows < columns else draw)
    q = q * np.sign(np.diag(r))  # else the distribution is not uniform over rotations
    q = q.T if rows < columns else q
    value = lowgrad.from_numpy(np.ascontiguousarray(q)).reshape(*tensor.shape) * gain
    with lowgrad.no_grad():
        return tensor.copy_(value)


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """By how much a layer before this nonlinearity is scaled to keep the variance."""
    gains = {
        "tanh": 5.0 / 3.0,
        "relu": math.sqrt(2.0),
        "selu": 3.0 / 4.0,
        "leaky_relu": math.sqrt(2.0 / (1.0 + (0.01 if param is None else param) ** 2)),
    }
    gains |= dict.fromkeys(["linear", "sigmoid", "conv1d", "conv2d", "conv3d"], 1.0)
    if nonlinearity not in gains:
        raise ArgumentError(f"calculate_gain: nonlinearity {nonlinearity!r} is not known")
    return gains[nonlinearity]


def _kaiming_std(op: str, tensor: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ArgumentError(f"{op}: mode must be 'fan_in' or 'fan_out', not {mode!r}")
    if 0 in tensor.shape:
        return 0.0
    fan = _fans(op, tensor)[mode == "fan_out"]
    return calculate_gain(nonlinearity, a) / math.sqrt(fan)


def _fans(op: str, tensor: Tensor) -> tuple[int, int]:
    """(inputs, outputs) that one output, input of this weight [out, in, ...] touches."""
    if tensor.ndim < 2:
        raise ShapeError(f"{op}: needs two axes, not shape {tuple(tensor.shape)}")
    window = math.prod(tensor.shape[2:])
    return tensor.shape[1] * window, tensor.shape[0] * window


def _normal_cdf(x: float) -> float:
    return (1.0 + math.erf(x / math.sqrt(2.0))) / 2.0


def _erfinv(x: Tensor) -> Tensor:
    """The inverse of erf, by Winitzki's approximation and two Newton steps. x: f64, -1 < x < 1."""
    a = 0.147
    log = lowgrad.log1p(-x * x)
    half = log * 0.5 + 2.0 / (math.pi * a)
    size = lowgrad.sqrt(lowgrad.sqrt(half * half - log / a) - half)
    y = lowgrad.where(x < 0, -size, size)
    for _ in range(2):
        y = y - (lowgrad.erf(y) - x) * lowgrad.exp(y * y) * (math.sqrt(math.pi) / 2.0)
    return y
