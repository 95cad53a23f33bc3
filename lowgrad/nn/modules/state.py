"""Reading and loading the state of a module: by name, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import lowgrad
from lowgrad.errors import CheckpointError
from lowgrad.tensor import Tensor

if TYPE_CHECKING:
    from lowgrad.nn.modules.module import Module


class IncompatibleKeys(NamedTuple):
    """What a non-strict load left out: names missing in the state, names not in the module."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"IncompatibleKeys({self.missing_keys=}, {self.unexpected_keys=})".replace(
            "self.", ""
        )


def named_state(module: Module, prefix: str = "") -> dict[str, Tensor]:
    """The parameters and persistent buffers by full name, in PyTorch's order, shared ones too."""
    found: dict[str, Tensor] = {}
    for name, tensor in module._parameters.items():
        if tensor is not None:
            found[prefix + name] = tensor
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            found[prefix + name] = buffer
    for name, child in module._modules.items():
        if child is not None:
            found.update(named_state(child, f"{prefix}{name}."))
    return found


def load(module: Module, state: Mapping[str, Any], strict: bool) -> IncompatibleKeys:
    """Copy `state` into the module's tensors.

    Raises CheckpointError, before anything is changed, if a shape differs or, with `strict`, if
    the names differ.
    """
    own = named_state(module)
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    given = {name: _as_tensor(name, state[name]) for name in own if name in state}
    mismatched = [n for n, t in given.items() if tuple(t.shape) != tuple(own[n].shape)]
    if mismatched or (strict and (missing or unexpected)):
        raise CheckpointError(
            f"the state dict does not fit this {type(module).__name__}; nothing was loaded",
            operands=_differences(own, state, given, missing, unexpected, mismatched),
        )
    with lowgrad.no_grad():
        for name, tensor in given.items():
            own[name].copy_(tensor)
    return IncompatibleKeys(missing, unexpected)


def _as_tensor(name: str, value: Any) -> Tensor:
    """`value` as a tensor; arrays of NumPy and of other libraries are taken too."""
    if isinstance(value, Tensor):
        return value
    try:
        return lowgrad.from_numpy(np.asarray(value))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f'state dict: "{name}" is not a tensor but {type(value).__name__}; nothing was loaded'
        ) from error


def _differences(
    own: Mapping[str, Tensor],
    state: Mapping[str, Any],
    given: Mapping[str, Tensor],
    missing: list[str],
    unexpected: list[str],
    mismatched: list[str],
) -> list[str]:
    lines = [f"{n}: state {tuple(given[n].shape)}, model {tuple(own[n].shape)}" for n in mismatched]
    lines += [f"missing in the state: {n} {tuple(own[n].shape)}" for n in missing]
    lines += [f"not in the model: {n} {tuple(getattr(state[n], 'shape', ()))}" for n in unexpected]
    return lines
