"""Recording a step: the user's function runs once on recorded tensors, and its effects are noted.

The result says where each input of the graph comes from at a call, what the function returns, and
which tensors hold something new afterwards. The Python world is left as it was found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from lowgrad import dispatch
from lowgrad.dispatch import Recorder
from lowgrad.errors import CompileError, Location, is_library_file, short_path
from lowgrad.ir.graph import Graph, Value
from lowgrad.ir.types import TensorType
from lowgrad.signature import Snapshot, walk
from lowgrad.tape import Ref
from lowgrad.tensor import FreedGradient, Tensor

Reader = Callable[[], Any]


@dataclass(frozen=True)
class FromTensor:
    """A graph input that is the value of the tensor found at `position` of the walk."""

    position: int


@dataclass(frozen=True)
class FromGradient:
    """A graph input that is the gradient of the tensor found at `position`."""

    position: int


@dataclass(frozen=True)
class FromHost:
    """A graph input that `read` gives at each call."""

    read: Reader


Source = FromTensor | FromGradient | FromHost


@dataclass(frozen=True)
class Returned:
    """A tensor in the function's result: graph output `output`, or an outside tensor itself."""

    output: int | None
    position: int | None
    tracked: bool


@dataclass(frozen=True)
class Effect:
    """What a tensor from outside holds after the step: graph output `output`.

    kind "value": its elements. "gradient": its gradient. "freed": a gradient that was used up.
    "cleared": no gradient.
    """

    kind: str
    position: int
    output: int | None


@dataclass(frozen=True)
class Recording:
    """One recorded step. `forward_nodes` of the graph's nodes came before its first backward."""

    graph: Graph
    forward_nodes: int
    sources: tuple[Source, ...]
    result: Any  # the function's result with Returned in place of tensors
    effects: tuple[Effect, ...]
    updates: tuple[Callable[[], None], ...]
    gradient_reads: tuple[tuple[int, bool], ...]  # (position, whether it had a gradient)

    @cached_property
    def output_types(self) -> tuple[TensorType, ...]:
        """The types of the graph's outputs."""
        return tuple(v.type for v in self.graph.outputs)

    @cached_property
    def owned(self) -> frozenset[int]:
        """The graph inputs whose storage an output takes over."""
        return frozenset(self.graph.aliases.values())

    @cached_property
    def returns_tracked(self) -> bool:
        """Whether gradients may flow through what the function returns."""
        found: list[bool] = []
        rebuilt(self.result, lambda r: found.append(r.tracked))
        return any(found)


def _profile_again(outer: Any) -> None:
    """Restore the profiler from before the recording, a hook or a cProfile.Profile."""
    if outer is None or callable(outer):
        sys.setprofile(outer)
    else:
        sys.setprofile(None)
        outer.enable()


def record(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    found: Snapshot,
    *,
    name: str,
    keep_gradients: bool,
    place: Any = None,
) -> Recording:
    """Run `function` once on recorded tensors. Raises CompileError for what a replay would miss.

    place: the GPU that the step will run on, None for the CPU.
    """
    positions = {id(t): i for i, t in enumerate(found.tensors)}
    active = Recorder(place)
    origin = _origins(found, active)
    outer_profile = sys.getprofile()
    try:
        with dispatch.recording(active):
            sys.setprofile(_refuse_impure)
            try:
                result = function(*args, **kwargs)
            finally:
                _profile_again(outer_profile)
        _refuse_changes(function, args, kwargs, found, active)
        return _finished(active, result, found, positions, origin, name, keep_gradients)
    finally:
        for tensor, ref, gradient in active.touched.values():
            tensor._ref_now, tensor._grad = ref, gradient


def _origins(found: Snapshot, active: Recorder) -> dict[int, Source]:
    """Where each outside value comes from, and its name for the graph's readers."""
    origin: dict[int, Source] = {}
    for position, (tensor, name) in enumerate(zip(found.tensors, found.names, strict=True)):
        ref = tensor._ref
        origin.setdefault(id(ref), FromTensor(position))
        active.names.setdefault(ref, name)
        gradient = tensor._grad
        if isinstance(gradient, Tensor) and not isinstance(gradient, FreedGradient):
            origin.setdefault(id(gradient._ref), FromGradient(position))
            active.names.setdefault(gradient._ref, f"{name}.grad")
    return origin


# What a replay would not do again ----------------------------------------------------------------

_IMPURE = {"time", "random", "numpy.random", "numpy.random.mtrand", "secrets", "uuid"}
_IMPURE_BUILTINS = {"print", "input", "open"}


def _refuse_impure(frame: Any, event: str, called: Any) -> None:
    """A profile hook: refuse calls of the user's code that a replay would silently leave out."""
    if event != "c_call" or is_library_file(frame.f_code.co_filename):
        return
    name = getattr(called, "__name__", "")
    owner = getattr(called, "__self__", None)
    home = getattr(called, "__module__", None) or type(owner).__module__
    if home in _IMPURE or (home == "builtins" and name in _IMPURE_BUILTINS):
        sys.setprofile(None)
        raise CompileError(
            f"{name}() is called while the step is recorded; a replay would not call it again",
            at=str(Location(short_path(frame.f_code.co_filename), frame.f_lineno, _name_of(frame))),
            fix="call it outside of the step, and pass its result as an argument",
        )


def _name_of(frame: Any) -> str:
    return str(getattr(frame.f_code, "co_qualname", frame.f_code.co_name)).rpartition(".<locals>.")[
        2
    ]


def _refuse_changes(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    found: Snapshot,
    active: Recorder,
) -> None:
    """Refuse a step that changed Python objects: a replay would not change them again."""
    if found.is_unchanged():
        return
    for tensor, ref, gradient in active.touched.values():  # compare the world without the effects
        active.after[id(tensor)] = (tensor._ref_now, tensor._grad)
        tensor._ref_now, tensor._grad = ref, gradient
    now = walk(function, args, kwargs)
    for tensor, _, _ in active.touched.values():
        tensor._ref_now, tensor._grad = active.after[id(tensor)]
    changed = next(
        (
            now.labels[i]
            for i, part in enumerate(now.key)
            if i >= len(found.key) or part != found.key[i]
        ),
        None,
    )
    if changed is not None:
        raise CompileError(
            f"the step changes {changed.lstrip('.') or 'a Python object'} while it is recorded; "
            "a replay would not change it again",
            fix="return the new value from the step and store it outside, "
            "or keep it in a tensor and update that in place",
        )


# From a recorder to a Recording ------------------------------------------------------------------


def _finished(
    active: Recorder,
    result: Any,
    found: Snapshot,
    positions: dict[int, int],
    origin: dict[int, Source],
    name: str,
    keep_gradients: bool,
) -> Recording:
    outputs: list[Value] = []

    def output(ref: Ref) -> int:
        outputs.append(active.value(ref))
        return len(outputs) - 1

    returned = _map_tensors(result, lambda t: _returned(t, active, positions, output))
    effects = _effects(active, found, positions, output, keep_gradients)
    sources = _sources(active, origin)
    position_of_input = {s.position: i for i, s in enumerate(sources) if isinstance(s, FromTensor)}
    gradient_input = {s.position: i for i, s in enumerate(sources) if isinstance(s, FromGradient)}
    aliases: dict[int, int] = {}
    for effect in effects:
        taken = (position_of_input if effect.kind == "value" else gradient_input).get(
            effect.position
        )
        if effect.output is None or taken is None or taken in aliases.values():
            continue
        if outputs[effect.output].type == active.builder.inputs[taken].type:
            aliases[effect.output] = taken
    graph = active.builder.graph(tuple(outputs), aliases, name)
    forward = active.forward_nodes
    return Recording(
        graph,
        len(graph.nodes) if forward is None else forward,
        sources,
        returned,
        tuple(effects),
        tuple(active.updates),
        tuple((positions[i], had) for i, had in active.gradient_reads.items() if i in positions),
    )


def _returned(
    tensor: Tensor, active: Recorder, positions: dict[int, int], output: Callable[[Ref], int]
) -> Returned:
    position = positions.get(id(tensor))
    if position is not None:
        return Returned(None, position, False)
    ref = tensor._ref
    return Returned(output(ref), None, active.is_tracked(ref))


def _effects(
    active: Recorder,
    found: Snapshot,
    positions: dict[int, int],
    output: Callable[[Ref], int],
    keep_gradients: bool,
) -> list[Effect]:
    effects: list[Effect] = []
    owners = {id(t._grad): i for i, t in enumerate(found.tensors) if isinstance(t._grad, Tensor)}
    for key, (tensor, ref, gradient) in active.touched.items():
        position = positions.get(key)
        if position is None:
            if key in owners and tensor._ref_now is not ref:  # a gradient accumulated in place
                effects.append(Effect("gradient", owners[key], output(tensor._ref_now)))
            continue
        # A view is remade from its base, whose own new value is an effect of its own.
        if tensor._ref_now is not ref and tensor._base is None:
            effects.append(Effect("value", position, output(tensor._ref_now)))
        if tensor._grad is not gradient:
            effects.append(_gradient_effect(active, tensor, position, output, keep_gradients))
    return effects


def _gradient_effect(
    active: Recorder,
    tensor: Tensor,
    position: int,
    output: Callable[[Ref], int],
    keep_gradients: bool,
) -> Effect:
    if tensor._grad is None:
        return Effect("cleared", position, None)
    reads = active.gradient_reads
    # One that a gradient from before was added to must stay: the next call adds to it again.
    if id(tensor) in active.consumed and not keep_gradients and id(tensor) not in reads:
        return Effect("freed", position, None)
    return Effect("gradient", position, output(tensor._grad._ref))


def _sources(active: Recorder, origin: dict[int, Source]) -> tuple[Source, ...]:
    of_value: dict[Value, Source] = {v: FromHost(read) for v, read in active.reads}
    for ref, value in active.captured.items():
        source = origin.get(id(ref))
        if source is None:
            raise CompileError(
                f"the step reads a tensor ({ref.type}) from a place that lowgrad cannot watch, "
                "so a replay could not see it change",
                fix="pass it as an argument, or keep it in a module, a closure or a global",
            )
        of_value[value] = source
    return tuple(of_value[v] for v in active.builder.inputs)


def _map_tensors(obj: Any, change: Callable[[Tensor], Any]) -> Any:
    """`obj` with its tensors changed: inside tuples, lists and dicts, at any depth."""
    if isinstance(obj, Tensor):
        return change(obj)
    if isinstance(obj, tuple) and hasattr(obj, "_fields"):
        return type(obj)(*[_map_tensors(o, change) for o in obj])
    if isinstance(obj, (tuple, list)):
        return type(obj)(_map_tensors(o, change) for o in obj)
    if isinstance(obj, dict):
        return {k: _map_tensors(v, change) for k, v in obj.items()}
    if obj is None or isinstance(obj, (bool, int, float, str)):
        return obj
    raise CompileError(
        f"the step returns a {type(obj).__name__}, which a replay could not make again",
        fix="return tensors, numbers, and tuples, lists or dicts of them",
    )


def rebuilt(template: Any, change: Callable[[Returned], Any]) -> Any:
    """A recorded result with its tensors put in."""
    if isinstance(template, Returned):
        return change(template)
    if isinstance(template, tuple) and hasattr(template, "_fields"):
        return type(template)(*[rebuilt(t, change) for t in template])
    if isinstance(template, (tuple, list)):
        return type(template)(rebuilt(t, change) for t in template)
    if isinstance(template, dict):
        return {k: rebuilt(v, change) for k, v in template.items()}
    return template


__all__ = [
    "Effect",
    "FromGradient",
    "FromHost",
    "FromTensor",
    "Recording",
    "Returned",
    "rebuilt",
    "record",
]
