"""Optimizer: parameter groups, state, and a step that can be recorded once and replayed.

Numbers that change from step to step (the learning rate, bias corrections, ...) are read through
`dispatch.host_scalar`, so a recorded step asks for them anew at each replay. Only the structure of
an update (is there momentum, is there weight decay) is decided in Python; `_compile_signature`
names it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from operator import itemgetter
from typing import Any

import lowgrad
from lowgrad import dispatch
from lowgrad.errors import ArgumentError
from lowgrad.nn.modules.module import clear_grad
from lowgrad.optim.checkpoint import exported, load
from lowgrad.tensor import Tensor

Group = dict[str, Any]
Params = Iterable[Any]

# A group's settings that only choose between formulas by being zero or not.
ZERO_OR_NOT = ("momentum", "dampening", "weight_decay")
# A group's settings that choose between formulas.
CHOICES = ("nesterov", "maximize", "amsgrad", "centered")


class Optimizer:
    """Base of all optimizers.

    params: tensors, (name, tensor) pairs, or dicts with "params" and settings of their own.
    `state[p]` is a dict for each parameter: its step count (an int) and its moments (tensors).
    """

    # State that a loaded dict may lack.
    optional_state: tuple[str, ...] = ()

    def __init__(self, params: Params, defaults: Group) -> None:
        if isinstance(params, Tensor):
            raise TypeError("params must be a list or other iterable of tensors, not one tensor")
        self.defaults = defaults
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)
        self.param_groups: list[Group] = []
        self._was_stepped = False
        groups = list(params)
        if not groups:
            raise ArgumentError(f"{type(self).__name__}: the list of parameters is empty")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        for group in groups:
            self.add_param_group(group)

    def _compile_prepare(self) -> None:
        """Before a step is recorded: make the state that its first call would make."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.requires_grad and not self._has_state(self.state[param], group):
                    with lowgrad.no_grad():
                        self._init_state(param, group)

    def _compile_signature(self, walker: Any, path: str) -> tuple[Any, ...]:
        """What a recorded `step` depends on; numbers are left out, each replay reads them anew."""
        walker.watch_names(vars(self), ("param_groups", "state"))
        walker.watch_sequence(self.param_groups)
        counts = _Counts([self.state[p] for g in self.param_groups for p in g["params"]])
        walker.watch_value(counts.alike)
        structure: list[Any] = [counts.alike()]
        for group in self.param_groups:
            walker.watch_names(group, ("params", *ZERO_OR_NOT, *CHOICES))
            walker.watch_sequence(group["params"])
            for index, param in enumerate(group["params"]):
                walker.visit(param, f"{path}.param{index}")
                self._visit_state(walker, param)
            zeros = tuple(bool(group.get(name, 0)) for name in ZERO_OR_NOT)
            structure.append((*zeros, *(group.get(name) for name in CHOICES)))
        # Which optimizer, too: a replay reads the numbers of the one that was recorded.
        return (id(self), *structure)

    def _visit_state(self, walker: Any, param: Tensor) -> None:
        state = self.state[param]
        moments = {name: t for name, t in state.items() if isinstance(t, Tensor)}
        walker.watch_names(state, tuple(moments))
        for name, moment in moments.items():
            walker.visit(moment, f"{walker.name_of(param)}.{name}")

    def add_param_group(self, param_group: Mapping[str, Any]) -> None:
        """Add parameters with settings of their own; those not given are the defaults."""
        group = dict(param_group)
        params = group["params"]
        given = [params] if isinstance(params, Tensor) else list(params)
        group["params"] = [self._checked(p) for p in given]
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        known = {id(p) for g in self.param_groups for p in g["params"]}
        ids = [id(p) for p in group["params"]]
        if len(set(ids)) < len(ids) or known & set(ids):
            raise ArgumentError(f"{type(self).__name__}: a parameter appears twice")
        self.param_groups.append(group)

    def _checked(self, param: Any) -> Tensor:
        if isinstance(param, tuple) and len(param) == 2 and isinstance(param[0], str):
            param = param[1]
        if not isinstance(param, Tensor):
            raise TypeError(
                f"{type(self).__name__} takes tensors, but one of them is {type(param).__name__}"
            )
        if not param.is_leaf:
            raise ArgumentError(
                f"{type(self).__name__}: a parameter of shape {tuple(param.shape)} is computed "
                "from other tensors, so it cannot be updated"
            )
        return param

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of all parameters, or make them zero."""
        for group in self.param_groups:
            for param in group["params"]:
                clear_grad(param, set_to_none)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return what `closure` computed first."""
        self._was_stepped = True
        loss = None
        if closure is not None:
            with lowgrad.enable_grad():
                loss = closure()
        counted: list[dict[str, Any]] = []
        with lowgrad.no_grad():
            for group in self.param_groups:
                for param in group["params"]:
                    if param.grad is not None:
                        self._step(param, group, counted)
        if counted:
            dispatch.host_update(lambda: _count(counted))
        return loss

    def _step(self, param: Tensor, group: Group, counted: list[dict[str, Any]]) -> None:
        state = self.state[param]
        if not self._has_state(state, group):
            dispatch.initial_state(lambda: self._init_state(param, group))
        grad = param.grad
        assert grad is not None, "step passes over parameters without one"
        self._update(param, -grad if group["maximize"] else grad, group, state)
        if "step" in state and dispatch.is_recording():
            counted.append(state)  # one update of the host for all of them
        elif "step" in state:
            _count([state])
        dispatch.gradient_consumed(param)

    def _has_state(self, state: dict[str, Any], group: Group) -> bool:
        """Whether `_init_state` was done, for the settings as they are."""
        return all(name in state for name in self._state_names(group))

    def _state_names(self, group: Group) -> tuple[str, ...]:
        """What `state[p]` holds under these settings."""
        raise NotImplementedError

    def _init_state(self, param: Tensor, group: Group) -> None:
        """Make what is missing: the step count 0, the moments zeros."""
        state = self.state[param]
        for name in self._state_names(group):
            if name not in state:
                state[name] = 0 if name == "step" else lowgrad.zeros_like(param.detach())

    def _update(self, param: Tensor, grad: Tensor, group: Group, state: dict[str, Any]) -> None:
        """Write the new value into `param` and the moments in place; count no step."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"state": by number of the parameter, "param_groups": settings and numbers}."""
        return exported(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over settings and state; tensors are copied into those that there are.

        Raises CheckpointError, and changes nothing, if groups or shapes differ.
        """
        load(self, state_dict)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {name}: {group[name]}" for name in sorted(group) if name != "params"]
        return "\n".join([*lines, ")"])


def setting(group: Group, name: str) -> Any:
    """A setting as a number that is read anew at each replay of a recorded step."""
    return of_group(group, name, lambda: float(group[name]))


def of_group(group: Group, name: str, read: Callable[[], float]) -> Any:
    """A number called `name` that is the same for all of a group, read anew at each replay."""
    return dispatch.host_scalar(read, key=(id(group), name))


def of_step(group: Group, state: dict[str, Any], name: str, read: Callable[[], float]) -> Any:
    """A number that is the same for all of a group that have made as many steps, read anew.

    Which parameters have made equally many is in the signature of a recorded step.
    """
    return dispatch.host_scalar(read, key=(id(group), state["step"], name))


class _Counts:
    """The step counts of parameters: each count changes at every step, which are alike seldom."""

    def __init__(self, states: list[dict[str, Any]]) -> None:
        self._states = [s for s in states if "step" in s]

    def alike(self) -> tuple[int, ...]:
        """For each parameter, the first one that has made as many steps; () if all have."""
        counts = [*map(_step_of, self._states)]
        if not counts or counts.count(counts[0]) == len(counts):
            return ()
        return tuple(map(counts.index, counts))


_step_of = itemgetter("step")


def decayed(param: Tensor, grad: Tensor, group: Group) -> Tensor:
    """grad + weight_decay * param."""
    if group["weight_decay"] == 0:
        return grad
    return grad + param * setting(group, "weight_decay")


def require(optimizer: str, **settings: float) -> None:
    """Raise ArgumentError unless each setting is at least 0."""
    for name, value in settings.items():
        if not value >= 0.0:
            raise ArgumentError(f"{optimizer}: {name} must not be negative, not {value}")


def require_betas(optimizer: str, betas: tuple[float, float]) -> None:
    """Raise ArgumentError unless both are from 0 up to, not including, 1."""
    for i, beta in enumerate(betas):
        if not 0.0 <= beta < 1.0:
            raise ArgumentError(
                f"{optimizer}: betas[{i}] must be at least 0 and below 1, not {beta}"
            )


def _count(states: list[dict[str, Any]]) -> None:
    for state in states:
        state["step"] += 1
