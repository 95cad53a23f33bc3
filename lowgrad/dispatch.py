"""The one gate that every operation passes: run it now, or record it.

Eagerly an op is evaluated on arrays and, if gradients are wanted, put on the tape. While a step is
being recorded (`Recorder`), it becomes a node of the step's graph instead; nothing is computed.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from lowgrad import devices
from lowgrad.errors import CompileError, short_path, user_frame
from lowgrad.ir.build import Builder
from lowgrad.ir.graph import Graph, Location, Value
from lowgrad.ir.op import Op, evaluate, outputs_of
from lowgrad.ir.types import TensorType, float64, int64
from lowgrad.ir.walk import needed
from lowgrad.passes.autodiff import gradients
from lowgrad.runtime.cuda.array import DeviceArray
from lowgrad.tape import Ref, Step, already_freed, differentiate, tape_of

if TYPE_CHECKING:
    from lowgrad.runtime.cuda.gpu import Gpu

Attrs = Mapping[str, Any]


class _State(threading.local):
    recorder: Recorder | None = None
    grad_enabled: bool = True
    place: Gpu | None = None  # where what is made of nothing belongs; None is the CPU


_state = _State()
_inferred: dict[Any, tuple[TensorType, ...]] = {}
_MOST_INFERRED = 4096  # signatures remembered; programs with more shapes than this start over


def is_recording() -> bool:
    """Whether operations are being recorded rather than run."""
    return _state.recorder is not None


def recorder() -> Recorder | None:
    """The recorder in charge, if any."""
    return _state.recorder


def is_grad_enabled() -> bool:
    """Whether operations on tensors that require gradients are remembered."""
    return _state.grad_enabled


def set_grad_enabled(enabled: bool) -> None:
    """Remember operations for gradients from now on, or not."""
    _state.grad_enabled = enabled


@contextmanager
def grad_mode(enabled: bool) -> Iterator[None]:
    """Inside, operations are remembered for gradients only if `enabled`."""
    before, _state.grad_enabled = _state.grad_enabled, enabled
    try:
        yield
    finally:
        _state.grad_enabled = before


def apply(op: Op, refs: tuple[Ref, ...], attrs: Attrs) -> tuple[Ref, ...]:
    """Run or record one op. Raises what `op.infer` raises, with the user's line."""
    if _state.recorder is not None:
        return _state.recorder.apply(op, refs, attrs)
    types = _infer(op, refs, attrs)
    arrays = tuple([r.array for r in refs])
    if _has_gpu(arrays) or _state.place is not None or op.runs_itself:
        results = devices.evaluate(op, arrays, attrs, types, _state.place)
    else:
        results = evaluate(op, arrays, attrs, types)
    made = tuple([Ref(t, a) for t, a in zip(types, results, strict=True)])
    if _state.grad_enabled:
        for ref in refs:
            if ref.tracked:
                Step(op, refs, attrs, made)
                break
    return made


def _has_gpu(arrays: tuple[Any, ...]) -> bool:
    for array in arrays:  # noqa: SIM110  (any() takes three times as long)
        if array.__class__ is DeviceArray:
            return True
    return False


@contextmanager
def placed(place: Gpu | None) -> Iterator[None]:
    """Inside, what is made of nothing (constants, random numbers) is made on that GPU.

    None is the CPU. While recording it is the step's device, whatever is asked for.
    """
    before, _state.place = _state.place, place
    try:
        yield
    finally:
        _state.place = before


def default_place() -> Gpu | None:
    """Where what is made of nothing belongs now."""
    return _state.place


def beside(ref: Ref) -> AbstractContextManager[None]:
    """Inside, what is made of nothing is made where `ref` is."""
    return placed(devices.place(ref.array))


@contextmanager
def made_on(device: Any, like: Ref | None = None) -> Iterator[None]:
    """Inside, what is made of nothing is made on `device`, if None beside `like`, if any.

    Raises CompileError for another device than the step's while one is recorded.
    """
    if device is None:
        with _same_place() if like is None else beside(like):
            yield
        return
    if _state.recorder is not None:
        _state.recorder.check_device(device)
        yield
        return
    with placed(devices.gpu_of(device)):
        yield


def _same_place() -> AbstractContextManager[None]:
    return placed(_state.place)


def place_of(ref: Ref) -> Gpu | None:
    """The GPU that a value is on, None for the CPU; of what is being recorded, the step's."""
    if _state.recorder is not None:
        return _state.recorder.place
    return devices.place(ref.array)


def _infer(op: Op, refs: tuple[Ref, ...], attrs: Attrs) -> tuple[TensorType, ...]:
    types = tuple([r.type for r in refs])
    key = (op, types, *attrs.items())
    known = _inferred.get(key)
    if known is None:
        if len(_inferred) >= _MOST_INFERRED:
            _inferred.clear()
        known = _inferred[key] = outputs_of(op, types, dict(attrs))
    return known


def as_leaf(ref: Ref, tensor: Any, tracked: bool) -> Ref:
    """`ref`'s value as a leaf of the tape whose gradient belongs to `tensor`."""
    leaf = Ref(ref.type, ref.array, ref.value if ref.array is None else None, tracked)
    if tracked:
        leaf.leaf = weakref.ref(tensor)
        if _state.recorder is not None and leaf.array is None:
            _state.recorder.add_leaf(leaf)
    return leaf


def leaves_of(roots: Sequence[Ref]) -> list[Ref]:
    """The leaves that `roots` were computed from, in a fixed order."""
    if _state.recorder is not None:
        return list(_state.recorder.leaves.values())
    found = {id(r): r for r in roots if r.leaf is not None}
    for step in tape_of(roots):
        found.update((id(r), r) for r in step.inputs if r.leaf is not None)
    return list(found.values())


def replay(graph: Graph, refs: Sequence[Ref]) -> tuple[Ref, ...]:
    """Apply a small graph, node by node, to `refs`."""
    env = dict(zip(graph.inputs, refs, strict=True))
    with placed(devices.common([r.array for r in refs])):
        for node in graph.nodes:
            made = apply(node.op, tuple([env[v] for v in node.inputs]), node.attrs)
            env.update(zip(node.outputs, made, strict=True))
    return tuple(env[v] for v in graph.outputs)


def gradients_of(
    roots: Sequence[Ref],
    seeds: Sequence[Ref],
    wrt: Sequence[Ref],
    *,
    retain: bool,
    create_graph: bool,
) -> list[Ref | None]:
    """Gradients of sum(roots * seeds) with respect to `wrt`; None where there is no path."""
    with grad_mode(create_graph):
        if _state.recorder is not None:
            return _state.recorder.gradients(
                roots, seeds, wrt, tracked=create_graph, retain=retain or create_graph
            )
        with placed(devices.common([r.array for r in roots])):
            return differentiate(
                roots,
                seeds,
                wrt,
                lambda node, refs: apply(node.op, refs, node.attrs),
                retain=retain or create_graph,
            )


# What optimizers and random functions need to be recordable -----------------------------------


_handle: list[Callable[[Ref], Any]] = []


def set_handle(make: Callable[[Ref], Any]) -> None:
    """Called once by `lowgrad.tensor`, which lies above: how a Ref becomes a Tensor."""
    _handle[:] = [make]


def tensor_of(ref: Ref) -> Any:
    """A new tensor on `ref`."""
    return _handle[0](ref)


def host_scalar(read: Callable[[], float], key: Any = None) -> Any:
    """A number the host knows at each call: `read()` now, or, while recording, a 0-d tensor.

    The tensor is a run-time input of the step that every replay takes from `read` anew. Within a
    recording, calls with equal `key`s share one input.
    """
    if _state.recorder is None:
        return read()
    return _handle[0](_state.recorder.scalar(read, key))


def random_key(generator: Any) -> tuple[Ref, int]:
    """The key for one draw from `generator`, and the draw's number within that key."""
    if _state.recorder is not None:
        return _state.recorder.random_key(generator)
    key = generator.key()
    generator.advance(1)
    return Ref(TensorType((2,), int64), key), 0


def host_update(run: Callable[[], None]) -> None:
    """A change of host state that belongs to the step: done now, or after each replay."""
    if _state.recorder is None:
        run()
    else:
        _state.recorder.updates.append(run)


def initial_state(make: Callable[[], None]) -> None:
    """Run `make` outside of any recording, so that the tensors it makes are concrete state."""
    before, _state.recorder = _state.recorder, None
    try:
        with grad_mode(False):
            make()
    finally:
        _state.recorder = before


def gradient_consumed(parameter: Any) -> None:
    """Tell the recording that the step used up `parameter.grad`: it need not outlive the step."""
    if _state.recorder is not None:
        _state.recorder.consumed[id(parameter)] = parameter


@contextmanager
def recording(active: Recorder) -> Iterator[Recorder]:
    """Inside, operations are recorded by `active`."""
    if _state.recorder is not None:
        raise CompileError("compile: a compiled function was called while another is recorded")
    _state.recorder = active
    try:
        yield active
    finally:
        _state.recorder = None


class Recorder:
    """A step being recorded: its graph so far, and what it touched of the world outside.

    `captured` maps the refs read from outside to graph inputs; `reads` are the run-time inputs that
    the host knows (learning rate, random key); `updates` are host changes to repeat per replay.
    """

    def __init__(self, place: Gpu | None = None) -> None:
        self.place = place  # where the step will run; None is the CPU
        self.builder = Builder(locate)
        self.captured: dict[Ref, Value] = {}
        self.reads: list[tuple[Value, Callable[[], Any]]] = []
        self.updates: list[Callable[[], None]] = []
        self.consumed: dict[int, Any] = {}
        # handles that the step rebinds: id -> (handle, its value before, its gradient before)
        self.touched: dict[int, tuple[Any, Any, Any]] = {}
        self.after: dict[int, tuple[Any, Any]] = {}  # scratch of whoever compares before and after
        # tensors whose gradient from before the step was looked at: id -> whether there was one
        self.gradient_reads: dict[int, bool] = {}
        self.gradient_writes: set[int] = set()  # ids of tensors given a gradient by the step
        self.names: dict[Ref, str] = {}  # of values from outside, for readers of the graph
        self.forward_nodes: int | None = None  # nodes recorded before the first backward
        self.leaves: dict[Value, Ref] = {}  # where gradients may accumulate
        self._released: set[Value] = set()  # values whose history was used up by a backward
        self._flows: set[Value] = set()  # values that gradients flow through
        self._scalars: dict[Any, Ref] = {}
        self._keys: dict[int, list[Any]] = {}  # generator id -> [generator, key ref, draws]

    def check_device(self, device: Any) -> None:
        """Raise CompileError unless `device` is where the step will run."""
        kind, index = devices.parsed(device)
        here = "cpu" if self.place is None else "cuda"
        if kind != here or (self.place is not None and index not in (None, self.place.index)):
            own = "the CPU" if self.place is None else f"cuda:{self.place.index}"
            raise CompileError(
                f'device "{device}" is asked for inside a step that runs on {own}; '
                "a step runs on one device",
                fix="move tensors between devices outside of the step",
            )

    def apply(self, op: Op, refs: tuple[Ref, ...], attrs: Attrs) -> tuple[Ref, ...]:
        """Append a node."""
        node = self.builder.add(op, tuple([self.value(r) for r in refs]), attrs)
        tracked = _state.grad_enabled and any(r.tracked for r in refs)
        return tuple([self._ref(v, tracked) for v in node.outputs])

    def _ref(self, value: Value, tracked: bool) -> Ref:
        tracked = tracked and value.type.dtype.is_floating_point
        if tracked:
            self._flows.add(value)
        return Ref(value.type, None, value, tracked)

    def value(self, ref: Ref) -> Value:
        """The graph value that stands for `ref`; a ref from outside becomes an input."""
        if ref.array is None:
            assert ref.value is not None, "a recorded ref has its value"
            return ref.value
        known = self.captured.get(ref)
        if known is None:
            hint = self.names.get(ref, "")
            known = self.captured[ref] = self.builder.input(ref.type, hint).value
            if ref.tracked:
                self._flows.add(known)
            if ref.leaf is not None:
                self.leaves[known] = ref
        return known

    def is_tracked(self, ref: Ref) -> bool:
        """Whether gradients can still flow through `ref` once the recording is over."""
        return ref.tracked and ref.value not in self._released

    def add_leaf(self, ref: Ref) -> None:
        """Let gradients flow to, and accumulate at, a value made by this recording."""
        assert ref.value is not None, "a recorded ref has its value"
        self._flows.add(ref.value)
        self.leaves[ref.value] = ref

    def read(self, type_: TensorType, hint: str, read: Callable[[], Any]) -> Ref:
        """A new run-time input that each replay takes from `read`."""
        value = self.builder.input(type_, hint).value
        self.reads.append((value, read))
        return Ref(type_, None, value)

    def scalar(self, read: Callable[[], float], key: Any) -> Ref:
        """A run-time number; float64 here, rounded where it meets a tensor."""
        known = self._scalars.get(key)
        if known is None:
            hint = key[-1] if isinstance(key, tuple) and isinstance(key[-1], str) else "scalar"
            known = self.read(TensorType((), float64), hint, read)
            if key is not None:
                self._scalars[key] = known
        return known

    def random_key(self, generator: Any) -> tuple[Ref, int]:
        """The key of this step's draws from `generator`, and the number of this draw."""
        entry = self._keys.get(id(generator))
        if entry is None:
            key = self.read(TensorType((2,), int64), "random_key", generator.key)
            entry = self._keys[id(generator)] = [generator, key, 0]
            self.updates.append(lambda: generator.advance(entry[2]))
        entry[2] += 1
        return entry[1], entry[2] - 1

    def gradients(
        self,
        roots: Sequence[Ref],
        seeds: Sequence[Ref],
        wrt: Sequence[Ref],
        *,
        tracked: bool,
        retain: bool,
    ) -> list[Ref | None]:
        """Append the derivative of what was recorded; `tracked` if it is differentiated again."""
        nodes = list(self.builder.nodes)
        if any(r.value in self._released for r in roots):
            raise already_freed()
        if self.forward_nodes is None:
            self.forward_nodes = len(nodes)
        found = gradients(
            self.builder,
            nodes,
            [self.value(r) for r in roots],
            [self.builder.wrap(self.value(s)) for s in seeds],
            [self.value(r) for r in wrt],
            self._flows.__contains__,
        )
        if tracked:
            for node in self.builder.nodes[len(nodes) :]:
                self._flows.update(v for v in node.outputs if v.type.dtype.is_floating_point)
        if not retain:  # as eagerly: what led to the roots can be differentiated once
            for node in needed(nodes, [self.value(r) for r in roots]):
                self._released.update(v for v in node.outputs if v in self._flows)
        return [None if t is None else Ref(t.type, None, t.value, tracked) for t in found]


def locate() -> Location | None:
    """The user's line that is running now."""
    frame = user_frame()
    return None if frame is None else Location(short_path(frame[0]), frame[1], frame[2])
