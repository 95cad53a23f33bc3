"""`lowgrad.amp`: automatic mixed precision, with `torch.amp`'s names."""

from lowgrad.amp.autocast_mode import (
    autocast,
    get_autocast_dtype,
    is_autocast_available,
    is_autocast_enabled,
)
from lowgrad.amp.grad_scaler import GradScaler, ScalerError

__all__ = ["GradScaler", "ScalerError", "autocast", "get_autocast_dtype"]
__all__ += ["is_autocast_available", "is_autocast_enabled"]
