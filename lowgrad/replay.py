"""One call of a recorded step: inputs in, effects out; and the short way for calls that repeat.

The short way is for steps on a GPU, which run while Python goes on: what costs there is Python's
own time. It holds what the last call left, and a call that finds all of that untouched (by
comparing identities, in C) has only to look at its arguments, send the host's numbers and launch.
Anything else goes the long way.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import attrgetter, is_
from types import MappingProxyType
from typing import Any

import numpy as np

from lowgrad import autocasting, devices, dispatch, matmul_precision
from lowgrad.compiler import Compiled
from lowgrad.graphop import GraphOp
from lowgrad.ir.op import Array
from lowgrad.ir.types import TensorType
from lowgrad.promotion import get_default_dtype
from lowgrad.recording import (
    Effect,
    FromGradient,
    FromHost,
    FromTensor,
    Recording,
    Returned,
    rebuilt,
)
from lowgrad.runtime.cuda.array import DeviceArray, download
from lowgrad.runtime.interrupts import deferred
from lowgrad.signature import ABSENT, Snapshot, Watch
from lowgrad.tape import Ref
from lowgrad.tensor import FreedGradient, Tensor, wrap


@dataclass
class Entry:
    """One recording, compiled, with the references it needs at each call."""

    recording: Recording
    compiled: Compiled
    graph_op: GraphOp | None = None


def modes() -> Any:
    """The settings of this thread that a recorded step depends on, whatever it reads."""
    return (
        *(dispatch.is_grad_enabled(), get_default_dtype()),
        *(autocasting.modes(), matmul_precision.products()),
    )


def replay(entry: Entry, found: Snapshot) -> Any:
    """Run a recorded step. If it writes state, Ctrl-C waits until all of that is written."""
    recording = entry.recording
    if recording.effects or recording.updates:
        with deferred():
            return _replay_now(entry, found)
    return _replay_now(entry, found)


def _replay_now(entry: Entry, found: Snapshot) -> Any:
    recording = entry.recording
    tracked = dispatch.is_grad_enabled() and recording.returns_tracked
    outputs = _run_tracked(entry, found) if tracked else _run(entry, found)
    _apply_effects(recording.effects, found, outputs)
    for update in recording.updates:
        update()
    return rebuilt(recording.result, lambda r: _returned(r, found, outputs))


def _returned(returned: Returned, found: Snapshot, outputs: Sequence[Ref]) -> Tensor:
    if returned.position is not None:
        return found.tensors[returned.position]
    assert returned.output is not None, "a returned tensor is an output or an outside tensor"
    return wrap(outputs[returned.output])


def _run(entry: Entry, found: Snapshot) -> list[Ref]:
    """Run the executable; aliased inputs are updated in place if nobody else can see them."""
    recording = entry.recording
    owned = recording.owned
    arrays = [
        _input(source, found, index in owned) for index, source in enumerate(recording.sources)
    ]
    results = entry.compiled.executable(arrays)
    types = recording.output_types
    return [Ref(t, a) for t, a in zip(types, results, strict=True)]


def given(entry: Entry, found: Snapshot) -> dict[int, Array]:
    """Copies of the arrays that a call would run on, by the graph's inputs."""
    arrays: dict[int, Array] = {}
    for position, source in enumerate(entry.recording.sources):
        array = _input(source, found, False)
        arrays[position] = download(array) if isinstance(array, DeviceArray) else np.array(array)
    return arrays


# References to an array that nobody but its tensor can see: the Ref's slot, the local variable of
# `_input`, and the argument of getrefcount.
_ALONE = 3


def _input(source: Any, found: Snapshot, owned: bool) -> Array | DeviceArray:
    if isinstance(source, FromHost):
        value = source.read()
        return value if isinstance(value, np.ndarray) else np.array(value, dtype=np.float64)
    tensor = found.tensors[source.position]
    ref = tensor._ref if isinstance(source, FromTensor) else tensor._grad._ref
    array = ref.array
    assert array is not None, "values outside of recordings have arrays"
    if isinstance(array, DeviceArray):
        return _gpu_input(ref, array, owned)
    if not array.flags.c_contiguous:
        return np.ascontiguousarray(array)
    # What others see (the tape, views, an earlier result) must keep its value: copy on write.
    if owned and (sys.getrefcount(array) > _ALONE or not array.flags.owndata or _is_seen(ref)):
        return array.copy()
    return array


# The same, one more: the argument of `_gpu_input`.
_ALONE_ON_GPU = 4


def _gpu_input(ref: Ref, array: DeviceArray, owned: bool) -> DeviceArray:
    if not array.is_contiguous or not owned:
        whole = devices.row_major(array)
        assert isinstance(whole, DeviceArray), "it stays where it is"
        return whole
    is_alone = sys.getrefcount(array) <= _ALONE_ON_GPU and array.is_sole
    if is_alone and sys.getrefcount(ref) <= _REF_ON_GPU and ref.step is None:
        return array
    copied = devices.copied(array)
    assert isinstance(copied, DeviceArray), "it stays where it is"
    return copied


# Its tensor, the locals of `_input` and `_gpu_input`, the arguments.
_REF_ON_GPU = 5


def _is_seen(ref: Ref) -> bool:
    """Whether another handle or the tape holds this ref: its tensor, two locals, the argument."""
    return sys.getrefcount(ref) > 4 or ref.step is not None


def _run_tracked(entry: Entry, found: Snapshot) -> list[Ref]:
    """Run as one op on the tape, so that gradients flow through the compiled function."""
    recording = entry.recording
    if entry.graph_op is None:
        entry.graph_op = GraphOp.of(recording.graph, entry.compiled.options)
    refs: list[Ref] = []
    for source in recording.sources:
        if isinstance(source, FromHost):
            value = np.asarray(source.read())
            kind = recording.graph.inputs[len(refs)].type
            refs.append(Ref(TensorType(kind.shape, kind.dtype), value.astype(kind.dtype.numpy)))
        elif isinstance(source, FromGradient):
            refs.append(found.tensors[source.position]._grad._ref)  # type: ignore[union-attr]
        else:
            refs.append(found.tensors[source.position]._ref)
    return list(dispatch.apply(entry.graph_op, tuple(refs), {}))


_FREED = FreedGradient()


def _apply_effects(effects: tuple[Effect, ...], found: Snapshot, outputs: Sequence[Ref]) -> None:
    for effect in effects:
        tensor = found.tensors[effect.position]
        if effect.kind == "value":
            assert effect.output is not None, "a new value is an output"
            tensor._rebind_untracked(outputs[effect.output])
        elif effect.kind == "cleared":
            tensor._grad = None
        elif effect.kind == "freed":
            tensor._grad = _FREED
        elif effect.output is not None:
            tensor._grad = wrap(outputs[effect.output])


# The short way -----------------------------------------------------------------------------------


_PLAIN = (list, set, tuple)
_contents_of = attrgetter("cell_contents")


class Untouched:
    """Whether what a walk found is as it was: the watches of a snapshot, compared in C.

    A false alarm costs a walk, nothing more; what has changed is never missed.
    """

    def __init__(self, watches: Sequence[Watch]) -> None:
        by_form: dict[str, list[Watch]] = {}
        for watch in watches:
            by_form.setdefault(_form(watch), []).append(watch)
        mappings, sequences = by_form.pop("mapping", []), by_form.pop("sequence", [])
        entries, members = by_form.pop("entries", []), by_form.pop("members", [])
        cells = by_form.pop("cells", [])
        slots = [(w.container, name) for w in by_form.pop("slots", []) for name in w.names]
        self._others = [w for group in by_form.values() for w in group]
        self._dicts = [w.container for w in mappings]
        self._keys = [name for w in mappings for name in w.names]
        self._values = [w.container.values() for w in mappings]
        self._lists = [w.container for w in sequences]
        self._sizes = [len(w.held) for w in (*mappings, *sequences)]
        self._entries = [w.container for w in entries for _ in w.names]
        self._entry_names = [name for w in entries for name in w.names]
        self._classes = [w.container for w in members for _ in w.names]
        self._member_names = [name for w in members for name in w.names]
        self._cells = [w.container for w in cells]
        self._slots = [c for c, _ in slots]
        self._slot_names = [name for _, name in slots]
        in_order = (*mappings, *sequences, *entries, *members, *cells)
        self._held = [v for w in in_order for v in w.held]
        self._held += [getattr(c, name) for c, name in slots]

    def __call__(self) -> bool:
        """Every container holds the very same objects under the same names."""
        sizes = [*map(len, self._dicts), *map(len, self._lists)]
        # Names are strings, and equal ones are the same name.
        if sizes != self._sizes or list(chain.from_iterable(self._dicts)) != self._keys:
            return False
        now = chain(
            chain.from_iterable(self._values),
            chain.from_iterable(self._lists),
            map(dict.get, self._entries, self._entry_names, repeat(ABSENT)),
            map(MappingProxyType.get, self._classes, self._member_names, repeat(ABSENT)),
            map(_contents_of, self._cells),
            map(getattr, self._slots, self._slot_names),
        )
        try:
            is_so = all(map(is_, now, self._held))
        except (AttributeError, ValueError):  # a slot or a variable that has no value now
            return False
        return is_so and all(w.is_unchanged() for w in self._others)


def _form(watch: Watch) -> str:
    """How a watch is compared; "other" is by itself."""
    kind, container = watch.kind, watch.container
    is_dict = type(container) is dict and set(map(type, watch.names)) <= {str}
    if kind == "mapping" and is_dict:
        return "mapping"
    if kind == "sequence" and type(container) in _PLAIN:
        return "sequence"
    if kind == "names" and is_dict:
        return "entries"
    if kind == "names" and type(container) is MappingProxyType:
        return "members"
    if kind in ("cell", "slots") and not any(v is ABSENT for v in watch.held):
        return "cells" if kind == "cell" else "slots"
    return "other"


# References to a ref of state that nobody else sees: its tensor's, `_refs`, `_owned_refs`, the
# argument of getrefcount; to its array: the ref's, `_owned_arrays`, the argument.
_OWN_REF, _OWN_ARRAY = 4, 3

_refs_of, _grads_of = attrgetter("_ref_now"), attrgetter("_grad")


class ShortWay:
    """A step's replay where nothing but its plain tensor arguments differs from the last call."""

    def __init__(
        self,
        entry: Entry,
        found: Snapshot,
        shape: Sequence[tuple[int, TensorType, bool]],
        untouched: Untouched,
        modes: Any,
    ) -> None:
        self._recording = recording = entry.recording
        self._run = entry.compiled.executable
        self._untouched, self._modes = untouched, modes
        self._arguments = [(type_, index) for index, (_, type_, _) in enumerate(shape)]
        self._place = devices.gpu_of(entry.compiled.options.device)
        given = {position: index for index, (position, _, _) in enumerate(shape)}
        self._from_arguments: list[tuple[int, int]] = []
        self._reads: list[tuple[int, Callable[[], Any]]] = []
        self._state: list[tuple[Tensor, int]] = []
        for position, source in enumerate(recording.sources):
            if isinstance(source, FromHost):
                self._reads.append((position, source.read))
            elif isinstance(source, FromTensor) and source.position in given:
                self._from_arguments.append((position, given[source.position]))
        outside = set(range(len(found.tensors))) - set(given)
        self._tensors = [found.tensors[p] for p in sorted(outside)]
        self._refs = [t._ref_now for t in self._tensors]
        self._grads = [t._grad for t in self._tensors]
        owned = [recording.sources[i] for i in sorted(recording.owned)]
        owners = [found.tensors[s.position] for s in owned if isinstance(s, FromTensor)]
        self._owned_refs = [t._ref_now for t in owners]
        self._owned_arrays = [r.array for r in self._owned_refs]
        self._ref_counts = [_OWN_REF] * len(owners)
        self._array_counts = [_OWN_ARRAY] * len(owners)

    @staticmethod
    def fits(entry: Entry, found: Snapshot) -> bool:
        """Whether a step's effects are but updates in place of state that nobody else sees."""
        recording = entry.recording
        if devices.gpu_of(entry.compiled.options.device) is None or recording.gradient_reads:
            return False
        if any(t._base is not None for t in found.tensors):
            return False
        for effect in recording.effects:
            if effect.kind == "gradient":
                return False
            if effect.kind == "value" and effect.output not in recording.graph.aliases:
                return False
        if any(isinstance(s, FromGradient) for s in recording.sources):
            return False
        owned = [recording.sources[i] for i in recording.owned]
        for source in owned:
            assert isinstance(source, FromTensor), "gradients were refused above"
            array = found.tensors[source.position]._ref_now.array
            if not isinstance(array, DeviceArray) or not array.is_sole:
                return False
        return True

    def __call__(self, args: tuple[Any, ...]) -> Any:
        """The step's result, or MISSED: something differs, and nothing was done."""
        arrays = []
        if len(args) != len(self._arguments):
            return MISSED
        for arg, (type_, _) in zip(args, self._arguments, strict=True):
            if type(arg) is not Tensor or arg._base is not None or arg._leaf_requires_grad:
                return MISSED
            ref = arg._ref_now
            array = ref.array
            if ref.tracked or (ref.type is not type_ and ref.type != type_) or arg.__dict__:
                return MISSED
            if type(array) is not DeviceArray or array.device is not self._place or array.path:
                return MISSED
            arrays.append(array)
        if len(set(map(id, args))) != len(args) or not self._is_as_left():
            return MISSED
        return self._replay(arrays)

    def _is_as_left(self) -> bool:
        return (
            modes() == self._modes
            and all(map(is_, map(_refs_of, self._tensors), self._refs))
            and all(map(is_, map(_grads_of, self._tensors), self._grads))
            and list(map(sys.getrefcount, self._owned_refs)) == self._ref_counts
            and list(map(sys.getrefcount, self._owned_arrays)) == self._array_counts
            and self._untouched()
        )

    def _replay(self, arrays: list[DeviceArray]) -> Any:
        recording = self._recording
        moved = [(position, arrays[index]) for position, index in self._from_arguments]
        with deferred():
            outputs = self._run.again(moved, [read() for _, read in self._reads])  # type: ignore[attr-defined]
            for update in recording.updates:
                update()
        types = recording.output_types
        return rebuilt(recording.result, lambda r: _short(r, types, outputs))


def _short(returned: Returned, types: tuple[TensorType, ...], outputs: Sequence[Any]) -> Tensor:
    assert returned.output is not None, "a result that is an outside tensor went the long way"
    return wrap(Ref(types[returned.output], outputs[returned.output]))


MISSED = object()
