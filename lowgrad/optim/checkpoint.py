"""The state of an optimizer as a dict of PyTorch's structure, and back, all or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import lowgrad
from lowgrad.errors import CheckpointError
from lowgrad.tensor import Tensor

if TYPE_CHECKING:
    from lowgrad.optim.optimizer import Optimizer

State = dict[str, Any]


def exported(optimizer: Optimizer) -> State:
    """{"state": {number: state}, "param_groups": [settings with numbers for parameters]}."""
    numbers = {p: i for i, p in enumerate(_params(optimizer))}
    groups = [
        {
            **{k: v for k, v in g.items() if k != "params"},
            "params": [numbers[p] for p in g["params"]],
        }
        for g in optimizer.param_groups
    ]
    state = {numbers[p]: dict(s) for p, s in optimizer.state.items() if p in numbers and s}
    return {"state": state, "param_groups": groups}


def load(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    """Take over `state_dict`, if it fits; else raise CheckpointError and change nothing.

    Dicts and tensors that exist are filled, not replaced: a recorded step refers to them.
    """
    _check_groups(optimizer, state_dict)
    saved_numbers = [n for g in state_dict["param_groups"] for n in g["params"]]
    needed = [optimizer._state_names(g) for g in state_dict["param_groups"] for _ in g["params"]]
    loaded = {
        param: _converted(optimizer, names, state_dict["state"].get(number, {}), number, param)
        for number, param, names in zip(saved_numbers, _params(optimizer), needed, strict=True)
    }
    for group, saved in zip(optimizer.param_groups, state_dict["param_groups"], strict=True):
        group.update({k: v for k, v in saved.items() if k != "params" and k != "param_names"})
    with lowgrad.no_grad():
        for param, new in loaded.items():
            _fill(optimizer.state[param], new)


def _params(optimizer: Optimizer) -> list[Tensor]:
    return [p for g in optimizer.param_groups for p in g["params"]]


def _check_groups(optimizer: Optimizer, state_dict: Mapping[str, Any]) -> None:
    name = type(optimizer).__name__
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise CheckpointError(f'{name}: the state dict has no "{key}"; nothing was loaded')
    own = [len(g["params"]) for g in optimizer.param_groups]
    saved = [len(g["params"]) for g in state_dict["param_groups"]]
    if own != saved:
        raise CheckpointError(
            f"{name}: the state dict has groups of {saved} parameters, the optimizer of {own}; "
            "nothing was loaded"
        )
    for i, (group, given) in enumerate(
        zip(optimizer.param_groups, state_dict["param_groups"], strict=True)
    ):
        missing = [k for k in optimizer.defaults if k not in given and k in group]
        if missing:
            raise CheckpointError(
                f"{name}: group {i} of the state dict lacks {', '.join(missing)}; "
                "nothing was loaded"
            )


def _converted(
    optimizer: Optimizer, names: Sequence[str], saved: Mapping[str, Any], number: Any, param: Tensor
) -> State:
    """The state of one parameter: tensors of its dtype, and its step count as an int."""
    missing = [n for n in names if saved.get(n) is None and n not in optimizer.optional_state]
    if missing and any(value is not None for value in saved.values()):
        raise CheckpointError(
            f"{type(optimizer).__name__}: the state of parameter {number} lacks "
            f"{', '.join(missing)}; nothing was loaded"
        )
    result: State = {}
    for name, value in saved.items():
        if value is None:
            continue
        if name == "step":
            result[name] = int(np.asarray(value))
        elif isinstance(value, (bool, int, float, str)):
            result[name] = value
        else:
            result[name] = _moment(name, value, number, param)
    if result and "step" not in result:
        result["step"] = 1  # PyTorch's SGD keeps no count; its momentum exists after one step
    return result


def _moment(name: str, value: Any, number: Any, param: Tensor) -> Tensor:
    array = value.detach() if isinstance(value, Tensor) else lowgrad.from_numpy(np.asarray(value))
    if tuple(array.shape) != tuple(param.shape):
        raise CheckpointError(
            f"{name} of parameter {number} does not fit; nothing was loaded",
            operands=[f"state {tuple(array.shape)}", f"parameter {tuple(param.shape)}"],
        )
    return array.to(dtype=param.dtype, device=param.device)


def _fill(state: State, new: State) -> None:
    """Make `state` mean `new`, keeping its tensors. What `new` lacks goes back to its beginning."""
    for name in [name for name in state if name not in new]:
        if isinstance(state[name], Tensor):
            state[name].zero_()
        else:
            state[name] = 0
    for name, value in new.items():
        if isinstance(value, Tensor) and isinstance(state.get(name), Tensor):
            state[name].copy_(value)
        else:
            state[name] = value.clone() if isinstance(value, Tensor) else value
