"""`autocast`: inside, products run in 16 bits, and what needs range or accuracy in float32."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from lowgrad import autocasting
from lowgrad.autocasting import DEFAULT, Setting
from lowgrad.errors import ArgumentError, DTypeError
from lowgrad.ir.types import DType

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


class autocast:  # noqa: N801  (PyTorch's name)
    """A context manager, or decorator, under which functions choose the precision they run in.

    device_type: "cuda" or "cpu": whose tensors it is about. dtype: the lower precision, float16 on
    cuda and bfloat16 on the CPU unless given. enabled: False switches it off inside another region.
    cache_enabled: whether a float32 weight is cast once in a region, rather than at each use.
    Raises ArgumentError for another device, DTypeError for a dtype that is no 16-bit float.

    Backward passes belong outside: gradients are computed in the types of the forward pass, and
    those of float32 weights come out in float32.
    """

    def __init__(
        self,
        device_type: str,
        dtype: DType | None = None,
        enabled: bool = True,
        cache_enabled: bool | None = None,
    ) -> None:
        self.kind = _checked(device_type)
        if dtype is not None and not dtype.is_low_precision:
            raise DTypeError(
                f"autocast: the lower precision is float16 or bfloat16, not {dtype!r}",
                fix=f'autocast("{self.kind}", dtype=lowgrad.bfloat16)',
            )
        self._enabled, self._dtype = enabled, dtype
        self._keeps = True if cache_enabled is None else cache_enabled
        self._before: list[Any] = []

    def __enter__(self) -> autocast:
        setting = Setting(self._enabled, self._dtype or get_autocast_dtype(self.kind))
        self._before.append(autocasting.entered(self.kind, setting, self._keeps))
        return self

    def __exit__(self, *error: Any) -> None:
        autocasting.left(self.kind, self._before.pop())

    def __call__(self, function: FunctionT) -> FunctionT:
        """`function`, run inside such a region."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]


def _checked(device_type: str) -> str:
    kind = str(device_type).partition(":")[0]
    if kind not in DEFAULT:
        raise ArgumentError(
            f"autocast: device_type is {' or '.join(map(repr, DEFAULT))}, not {device_type!r}"
        )
    return kind


def is_autocast_enabled(device_type: str = "cuda") -> bool:
    """Whether autocast is on for tensors on this kind of device."""
    return autocasting.state.settings[_checked(device_type)].enabled


def get_autocast_dtype(device_type: str) -> DType:
    """The lower precision for this kind of device, on or not."""
    return autocasting.state.settings[_checked(device_type)].dtype


def is_autocast_available(device_type: str) -> bool:
    """Whether there is an autocast for this kind of device."""
    return str(device_type).partition(":")[0] in DEFAULT
