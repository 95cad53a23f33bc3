"""What a sample is: enough to run any facet of an op on inputs for which it is meaningful."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lowgrad.ir.op import Array
from lowgrad.ir.types import DType, TensorType, bool_, float32

Range = tuple[float, float]


@dataclass(frozen=True)
class Sample:
    """Input types and attributes for one op.

    Write floats as float32: tests replace it, in inputs and attributes, by each other float type.

    ranges: (low, high) of the values of each input, high excluded; the last one also counts for
    inputs after it.  Bools need none.
    terms: how many numbers are summed for an element of the result.
    ulps: how far an f32 result may be off: oracle.TRANSCENDENTAL_ULPS for such functions.
    slope: False if the vjp is not the slope by design (a rounding, a stopped gradient).
    stable: False if the result is another one in another float type (random numbers).
    """

    inputs: tuple[TensorType, ...] = ()
    attrs: dict[str, Any] = field(default_factory=dict)
    ranges: tuple[Range, ...] = ((-2.0, 2.0),)
    terms: int = 1
    ulps: float = 2
    slope: bool = True
    stable: bool = True

    def __str__(self) -> str:
        words = [str(t) for t in self.inputs]
        words += [f"{k}={v}" for k, v in self.attrs.items()]
        return " ".join(words).replace(", ", ",").replace("lowgrad.", "")

    def with_float(self, dtype: DType) -> Sample:
        """The same with `dtype` for float32."""
        inputs = tuple(t.with_dtype(dtype) if t.dtype is float32 else t for t in self.inputs)
        attrs = {k: dtype if v is float32 else v for k, v in self.attrs.items()}
        return replace(self, inputs=inputs, attrs=attrs)

    def arrays(self, seed: int = 0) -> tuple[Array, ...]:
        """Inputs in storage types. For one seed, those of f16 are those of f64, rounded."""
        rng = np.random.default_rng(seed)
        return tuple(
            values(rng, t, self.ranges[min(i, len(self.ranges) - 1)])
            for i, t in enumerate(self.inputs)
        )


def values(rng: np.random.Generator, type_: TensorType, bounds: Range) -> Array:
    """Random values of `type_` in `bounds`."""
    if type_.dtype is bool_:
        return np.asarray(rng.random(type_.shape) < 0.5)
    if type_.dtype.is_floating_point:
        return np.asarray(rng.uniform(*bounds, type_.shape)).astype(type_.dtype.numpy)
    low, high = (int(b) for b in bounds)
    return np.asarray(rng.integers(low, high, type_.shape)).astype(type_.dtype.numpy)


def tensor(*shape: int, dtype: DType = float32) -> TensorType:
    """The type `dtype[*shape]`, float32 by default."""
    return TensorType(shape, dtype)
