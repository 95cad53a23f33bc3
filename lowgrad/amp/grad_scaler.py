"""`GradScaler`: a scaled loss keeps small float16 gradients from vanishing; a step whose gradients
overflowed is skipped, and leaves everything untouched.

Eagerly the check is read back and decides in Python, as in PyTorch. In a compiled step nothing can
be read back: there the optimizer's step is recorded, and every tensor that it wrote becomes
`where(overflowed, old, new)`. What the host counts (Adam's steps, for its bias correction) is
advanced after the replay, and only if the step was not skipped: the one number that tells is read
then. The scale and the count of good steps are tensors, part of the step's state.
Source: Micikevicius et al. 2017, "Mixed Precision Training", sec. 3.2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import lowgrad
from lowgrad import dispatch
from lowgrad.errors import ArgumentError, CheckpointError, DTypeError, LowgradError
from lowgrad.ir.types import float16, float32, int32
from lowgrad.tensor import Tensor

# Optimizers that one scaler serves between two updates.
MOST_OPTIMIZERS = 8


class ScalerError(LowgradError, RuntimeError):
    """A GradScaler's methods were called in an order that has no meaning.

    Example: `unscale_` twice for one optimizer between two calls of `update`.
    Fix: scale, backward, (unscale_), step, update, once each in this order.
    """


class GradScaler:
    """Scales losses, unscales gradients, skips steps that overflowed, and adapts the scale.

    init_scale: the first scale. growth_factor: by what it is multiplied after growth_interval
    steps without overflow; backoff_factor: by what after one with. Powers of two make scaling
    exact. enabled=False makes every method do what it would without scaling.
    """

    def __init__(
        self,
        device: str = "cuda",
        init_scale: float = 2.0**16,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        enabled: bool = True,
    ) -> None:
        if not growth_factor > 1.0:
            raise ArgumentError(f"GradScaler: growth_factor must be above 1, not {growth_factor}")
        if not 0.0 < backoff_factor < 1.0:
            raise ArgumentError(
                f"GradScaler: backoff_factor must be between 0 and 1, not {backoff_factor}"
            )
        self._device = str(device)
        if enabled and self._device.startswith("cuda") and not lowgrad.cuda.is_available():
            warnings.warn("GradScaler: there is no GPU; the scaler is disabled", stacklevel=2)
            enabled = False
        self._enabled = enabled
        self._init_scale = float(init_scale)
        self._growth_factor, self._backoff_factor = growth_factor, backoff_factor
        self._growth_interval = growth_interval
        self._init_growth_tracker = 0
        self._scale: Tensor | None = None
        self._growth_tracker: Tensor | None = None
        # Whether gradients overflowed, by optimizer in the order they come, since the last update.
        self._found: list[Tensor] = []
        self._stages: dict[int, _Stage] = {}

    # --- A step ---

    def scale(self, outputs: Any) -> Any:
        """A loss times the scale; the same of all tensors in a list or tuple."""
        if not self._enabled:
            return outputs
        if isinstance(outputs, (list, tuple)):
            return type(outputs)(self.scale(o) for o in outputs)
        if not isinstance(outputs, Tensor):
            raise ArgumentError(f"scale: expected tensors, got {type(outputs).__name__}")
        return outputs * self._scale_now().to(outputs.dtype)

    def unscale_(self, optimizer: Any) -> None:
        """Divide the gradients of the optimizer's parameters by the scale, once between updates.

        After it they can be clipped. Raises ScalerError for a second time.
        """
        if not self._enabled:
            return
        stage = self._stages.get(id(optimizer))
        if stage is not None:
            what = "was already called" if not stage.is_stepped else "is called after step()"
            raise ScalerError(f"unscale_: it {what} for this optimizer since the last update()")
        slot = len(self._stages)
        if slot == MOST_OPTIMIZERS:
            raise ScalerError(f"unscale_: more than {MOST_OPTIMIZERS} optimizers since update()")
        self._scale_now()
        with lowgrad.no_grad():
            inverse = self._scale_now().double().reciprocal().float()
            found = self._unscaled(optimizer, inverse)
            self._found[slot].copy_(found)
        self._stages[id(optimizer)] = _Stage(slot)

    def _unscaled(self, optimizer: Any, inverse: Tensor) -> Tensor:
        bad: list[Tensor] = []
        for group in optimizer.param_groups:
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.dtype is float16:
                    raise DTypeError(
                        "unscale_: float16 gradients cannot be unscaled without losing what "
                        "scaling kept; parameters stay float32 under autocast",
                        fix="model.float()",
                    )
                param.grad.mul_(inverse.to(param.grad.dtype))
                bad.append((~param.grad.isfinite()).any())
        if not bad:
            raise ScalerError("unscale_: no parameter of the optimizer has a gradient")
        return lowgrad.stack(bad).any().float()

    def step(self, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        """`optimizer.step()`, skipped if a gradient is infinite or NaN.

        Returns what it returns; None for a skipped one. Unscales first, if that was not done.
        """
        if not self._enabled:
            return optimizer.step(*args, **kwargs)
        if "closure" in kwargs:
            raise ArgumentError("GradScaler.step: closures are not supported")
        stage = self._stages.get(id(optimizer))
        if stage is None:
            self.unscale_(optimizer)
            stage = self._stages[id(optimizer)]
        if stage.is_stepped:
            raise ScalerError("step: it was already called for this optimizer since update()")
        stage.is_stepped = True
        found = self._found[stage.slot]
        if dispatch.is_recording():
            return self._recorded(optimizer, found, lambda: optimizer.step(*args, **kwargs))
        return None if found.item() else optimizer.step(*args, **kwargs)

    def _recorded(self, optimizer: Any, found: Tensor, step: Callable[[], Any]) -> Any:
        """The step and `where(found, old, new)` of what it wrote."""
        active = dispatch.recorder()
        assert active is not None, "a step is being recorded"
        written = _tensors_of(optimizer)
        before = [t._ref for t in written]
        counts = len(active.updates)
        result = step()
        with lowgrad.no_grad():
            for tensor, old in zip(written, before, strict=True):
                if tensor._ref is not old:
                    tensor.copy_(lowgrad.where(found > 0, dispatch.tensor_of(old), tensor))
        late = active.updates[counts:]
        del active.updates[counts:]

        def count() -> None:
            if not found.item():
                for update in late:
                    update()

        if late:
            active.updates.append(count)
        return result

    def update(self, new_scale: float | Tensor | None = None) -> None:
        """Adapt the scale to whether any optimizer's gradients overflowed, or set it.

        Raises ScalerError if no optimizer's gradients were looked at since the last update.
        """
        if not self._enabled:
            return
        scale = self._scale_now()
        with lowgrad.no_grad():
            if new_scale is not None:
                scale.copy_(new_scale if isinstance(new_scale, Tensor) else float(new_scale))
            else:
                self._adapted(scale)
        self._stages = {}

    def _adapted(self, scale: Tensor) -> None:
        if not self._stages:
            raise ScalerError("update: neither unscale_() nor step() was called before")
        tracker = self._growth_tracker
        assert tracker is not None, "made with the scale"
        found = self._found[0]
        for slot in range(1, len(self._stages)):
            found = lowgrad.maximum(found, self._found[slot])
        overflowed = found > 0
        counted = tracker + 1
        is_due = counted == self._growth_interval
        grown = scale * self._growth_factor
        grown = lowgrad.where(grown.isfinite(), grown, scale)
        good = lowgrad.where(is_due, grown, scale)
        scale.copy_(lowgrad.where(overflowed, scale * self._backoff_factor, good))
        tracker.copy_(lowgrad.where(overflowed | is_due, 0, counted))

    # --- State ---

    def _scale_now(self) -> Tensor:
        if self._scale is None:
            dispatch.initial_state(self._compile_prepare)
        assert self._scale is not None, "made now"
        return self._scale

    def _compile_prepare(self) -> None:
        """Make the tensors that the first call would make."""
        if not self._enabled or self._scale is not None:
            return
        at = self._device
        self._scale = lowgrad.full((), self._init_scale, dtype=float32, device=at)
        self._growth_tracker = lowgrad.full((), self._init_growth_tracker, dtype=int32, device=at)
        self._found = [lowgrad.zeros((), device=at) for _ in range(MOST_OPTIMIZERS)]

    def _compile_signature(self, walker: Any, path: str) -> tuple[Any, ...]:
        """What a recorded step depends on: the settings, and where in the cycle it begins."""
        walker.watch_value(self._settings)
        for name, tensor in (("scale", self._scale), ("growth_tracker", self._growth_tracker)):
            if tensor is not None:
                walker.visit(tensor, f"{path}.{name}")
        for slot, tensor in enumerate(self._found):
            walker.visit(tensor, f"{path}.found_inf{slot}")
        return ("GradScaler", *self._settings())

    def _settings(self) -> tuple[Any, ...]:
        stages = tuple((key, s.slot, s.is_stepped) for key, s in self._stages.items())
        factors = (self._growth_factor, self._backoff_factor, self._growth_interval)
        return (self._enabled, *factors, id(self._scale), stages)

    def is_enabled(self) -> bool:
        """Whether it scales."""
        return self._enabled

    def get_scale(self) -> float:
        """The scale now; 1 if it is disabled."""
        if not self._enabled:
            return 1.0
        return self._init_scale if self._scale is None else float(self._scale.item())

    def get_growth_factor(self) -> float:
        """By what the scale is multiplied after growth_interval good steps."""
        return self._growth_factor

    def set_growth_factor(self, new_factor: float) -> None:
        """Set it."""
        self._growth_factor = new_factor

    def get_backoff_factor(self) -> float:
        """By what the scale is multiplied after an overflow."""
        return self._backoff_factor

    def set_backoff_factor(self, new_factor: float) -> None:
        """Set it."""
        self._backoff_factor = new_factor

    def get_growth_interval(self) -> int:
        """How many good steps it takes to grow."""
        return self._growth_interval

    def set_growth_interval(self, new_interval: int) -> None:
        """Set it."""
        self._growth_interval = new_interval

    def state_dict(self) -> dict[str, Any]:
        """The scale, the settings and the count of good steps; {} if it is disabled."""
        if not self._enabled:
            return {}
        tracker = self._growth_tracker
        return {
            "scale": self.get_scale(),
            "growth_factor": self._growth_factor,
            "backoff_factor": self._backoff_factor,
            "growth_interval": self._growth_interval,
            "_growth_tracker": self._init_growth_tracker if tracker is None else tracker.item(),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. Raises CheckpointError for an empty one."""
        if not self._enabled:
            return
        if not state_dict:
            raise CheckpointError("load_state_dict: it is empty, from a scaler that was disabled")
        self._init_scale = float(state_dict["scale"])
        self._growth_factor = state_dict["growth_factor"]
        self._backoff_factor = state_dict["backoff_factor"]
        self._growth_interval = state_dict["growth_interval"]
        self._init_growth_tracker = int(state_dict["_growth_tracker"])
        if self._scale is not None and self._growth_tracker is not None:
            with lowgrad.no_grad():
                self._scale.fill_(self._init_scale)
                self._growth_tracker.fill_(self._init_growth_tracker)


class _Stage:
    """What was done for one optimizer since the last update."""

    def __init__(self, slot: int) -> None:
        self.slot = slot
        self.is_stepped = False


def _tensors_of(optimizer: Any) -> list[Tensor]:
    """Parameters and state: what a step may write."""
    found: list[Tensor] = []
    for group in optimizer.param_groups:
        for param in group["params"]:
            found.append(param)
            found += [t for t in optimizer.state[param].values() if isinstance(t, Tensor)]
    return found
