"""`lowgrad.cuda.amp`: the older names of `lowgrad.amp`, for "cuda"."""

from __future__ import annotations

import lowgrad.amp
from lowgrad.ir.types import DType, float16


class autocast(lowgrad.amp.autocast):  # noqa: N801  (PyTorch's name)
    """`lowgrad.amp.autocast("cuda", ...)`."""

    def __init__(
        self, enabled: bool = True, dtype: DType = float16, cache_enabled: bool = True
    ) -> None:
        super().__init__("cuda", dtype, enabled, cache_enabled)


class GradScaler(lowgrad.amp.GradScaler):
    """`lowgrad.amp.GradScaler("cuda", ...)`."""

    def __init__(
        self,
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        super().__init__(
            "cuda", init_scale, growth_factor, backoff_factor, growth_interval, enabled
        )


__all__ = ["GradScaler", "autocast"]
