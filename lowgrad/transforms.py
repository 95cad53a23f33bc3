"""`lowgrad.compile`: a Python function is recorded once for each signature, then replayed."""

from __future__ import annotations

import functools
import gc
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from lowgrad import devices, dispatch, logs, spans
from lowgrad.compiler import Compiled, Options
from lowgrad.config import settings
from lowgrad.dump import dump as write_dump
from lowgrad.errors import ArgumentError, CompileError, CompileWarning, DeviceError
from lowgrad.history import History, Recorded, first_change
from lowgrad.ir.text import node_text, print_graph
from lowgrad.ir.types import DType
from lowgrad.recording import Recording, record
from lowgrad.replay import MISSED, Entry, ShortWay, Untouched, given, modes, replay
from lowgrad.runtime.cuda import gpu as gpus
from lowgrad.signature import Snapshot, walk
from lowgrad.tensor import Tensor, from_array

_MANY = 8  # recordings after which a warning says what keeps changing


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's type without its elements, for `step.lower`."""

    shape: tuple[int, ...]
    dtype: DType

    def placeholder(self) -> Tensor:
        """A tensor of this type that takes no memory."""
        zero = np.zeros((), self.dtype.numpy)
        return from_array(np.broadcast_to(zero, tuple(self.shape)))


def compile(
    model: Any = None,
    *,
    device: Any = None,
    target: str | None = None,
    memory: int | str | None = None,
    fuse: bool = True,
    keep_grads: bool = False,
    tune: bool = False,
    dump: str | Path | None = None,
    check: bool | int = False,
    nan: str = "ignore",
    drift: int = 0,
) -> Any:
    """Compile a function, a whole training step or a Module; also a decorator.

    device: where to run: "cpu" (NumPy), "cuda", "cuda:1", or "interpret" (the generated kernels
    under Triton's interpreter: slow). By default where the tensors are. Only what is run needs the
    GPU: `lower` plans for "cuda" on any machine.
    target: the architecture to plan and cross-compile for, "cuda:90"; it need not be present.
    memory: the most that a call may need, in bytes or as text ("2GiB"); OutOfMemory if over.
    fuse: False leaves every op a kernel of its own, for comparisons.
    keep_grads: keep `.grad` of parameters that the step itself updates.
    tune: on a GPU, measure the best few blocks of each product once, and remember the fastest.
    dump: write the IR after each pass, the plan and the kernels of each recording to this folder.
    check: compare each call, or every `check`-th, with the reference on the same inputs, kernel by
    kernel; KernelCheckError names the first that differs. For finding faults: it is slow.
    nan: "raise" refuses a NaN in a result or in updated state: NaNError names the op and the line.
    drift: record again every so many calls; CompileError names a line that would record otherwise.

    The first call with a signature records; later ones replay. What the function reads (arguments'
    types, flags, closures, globals, attributes) is its signature; tensors' values, learning rates
    and random numbers are run-time inputs.
    """
    options = Options(
        _checked_device(device),
        target,
        bytes_of(memory),
        fuse,
        keep_grads,
        tune=tune,
        dump=None if dump is None else Path(dump),
        check=_every("check", check),
        nan=_raises(nan),
        drift=_every("drift", drift),
    )
    if model is None:
        return lambda function: compile_object(function, options)
    return compile_object(model, options)


def compile_object(model: Any, options: Options) -> Any:
    """A compiled function, or a Module whose forward is compiled."""
    if hasattr(model, "forward") and hasattr(model, "named_parameters"):
        return CompiledModule(model, options)
    return CompiledFunction(model, options)


def _every(name: str, calls: bool | int) -> int:
    if isinstance(calls, (int, np.integer)) and calls >= 0:
        return int(calls)
    raise ArgumentError(f"compile: {name}={calls!r} is no number of calls", fix=f"{name}=100")


def _raises(nan: str) -> bool:
    if nan not in ("ignore", "raise"):
        raise ArgumentError(f'compile: nan={nan!r}; it is "ignore" or "raise"', fix='nan="raise"')
    return nan == "raise"


def _checked_device(name: Any) -> str | None:
    if name is None:
        return None
    kind, index = devices.parsed(name)
    return kind if index is None else f"{kind}:{index}"


_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?|\.\d+)\s*(?:([KMGT])(i?)B?|B)?\s*", re.IGNORECASE | re.ASCII)


def bytes_of(memory: int | str | None) -> int | None:
    """The budget in bytes. "GB" and "G" are 1000 ** 3 bytes, "GiB" is 1024 ** 3."""
    if memory is None:
        return None
    size = 0
    if isinstance(memory, str):
        match = _SIZE.fullmatch(memory)
        if match is not None:
            number, prefix, binary = match.groups()
            power = " KMGT".index((prefix or " ").upper())
            size = int(Fraction(number) * (1024 if binary else 1000) ** power)
    elif isinstance(memory, (int, np.integer)) and not isinstance(memory, bool):
        size = int(memory)
    if size <= 0:
        raise ArgumentError(
            f"compile: memory={memory!r} is not a size; it is a positive number of bytes, or text "
            f'like "512MB", "1.5 GB", "2GiB"',
            fix='memory="2GiB"',
        )
    return size


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Graphs have no cycles, and looking for some while they are made takes a seventh of it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


Sees = Callable[["CompiledFunction", tuple[Any, ...], dict[str, Any]], None]


@contextmanager
def intercepted(see: Sees) -> Iterator[None]:
    """Inside, each call of a compiled function is first shown to `see`, which may raise."""
    plain = CompiledFunction.__call__

    def shown(self: CompiledFunction, *args: Any, **kwargs: Any) -> Any:
        see(self, args, kwargs)
        return plain(self, *args, **kwargs)

    CompiledFunction.__call__ = shown  # type: ignore[method-assign]
    try:
        yield
    finally:
        CompiledFunction.__call__ = plain  # type: ignore[method-assign]


class CompiledFunction:
    """A function that is recorded once for each signature and then replayed."""

    def __init__(self, function: Callable[..., Any], options: Options) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._options = options
        self._entries: dict[Any, list[Entry]] = {}
        self._calls = 0
        self.history = History()
        self._last: tuple[Any, Snapshot] | None = None
        self._short: ShortWay | None = None
        self._untouched: tuple[Snapshot, Untouched] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if dispatch.is_recording():  # inside another step this is an ordinary function
            return self._function(*args, **kwargs)
        if spans.collectors:
            return self._timed(args, kwargs)
        return self._call(args, kwargs)

    def _timed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call with a span of its own, which ends when all its kernels have."""
        with spans.span("step", self.name, call=self._calls + 1):
            made = self._call(args, kwargs)
            if gpus.count():
                for number in range(gpus.count()):
                    gpus.gpu(number).synchronize()
        return made

    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._calls += 1
        if self._short is not None and not kwargs:
            made = self._short(args)
            if made is not MISSED:
                return made
        found, key = self._look(args, kwargs)
        entry = self._matching(key, found)
        if entry is None:
            entry = self._record(args, kwargs, found, key)
        result = replay(entry, found)
        self._shorten(entry, found, key)
        if self._options.drift and self._calls % self._options.drift == 0:
            self._refuse_drift(entry, args, kwargs, found)
        return result

    def _shorten(self, entry: Entry, found: Snapshot, key: Any) -> None:
        """Let the next call go the short way, if it can."""
        self._short = None
        if self._last is None or self._last[1] is not found or not ShortWay.fits(entry, found):
            return
        if self._untouched is None or self._untouched[0] is not found:
            self._untouched = (found, Untouched(found.watches))
        self._short = ShortWay(entry, found, self._last[0], self._untouched[1], key[0])

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        return self if instance is None else functools.partial(self, instance)

    def _compile_prepare(self) -> None:
        """Nothing to make before another step that calls this one is recorded."""

    def _compile_signature(self, walker: Any, path: str) -> str:
        """A step that calls this one depends on the function alone."""
        walker.visit(self._function, path)
        return "compiled"

    def lower(self, *args: Any, **kwargs: Any) -> Compiled:
        """The step compiled for these arguments (tensors or TensorSpecs); nothing is run."""
        args = tuple(a.placeholder() if isinstance(a, TensorSpec) else a for a in args)
        kwargs = {k: v.placeholder() if isinstance(v, TensorSpec) else v for k, v in kwargs.items()}
        found, key = self._look(args, kwargs)
        entry = self._matching(key, found) or self._record(args, kwargs, found, key)
        entry.compiled.given = lambda: given(entry, found)
        entry.compiled.history = self.history.recorded
        return entry.compiled

    @property
    def name(self) -> str:
        """The function's name."""
        return getattr(self._function, "__name__", "step")

    @property
    def function(self) -> Callable[..., Any]:
        """The function as it was written."""
        return self._function

    @property
    def options(self) -> Options:
        """How it is compiled."""
        return self._options

    def explain(self) -> str:
        """How often it was recorded, and what of its signature was new each time."""
        return f"{self.name}: {self.recordings} recordings in {self._calls} calls\n{self.history}"

    @property
    def recordings(self) -> int:
        """How many signatures were recorded so far."""
        return sum(len(entries) for entries in self._entries.values())

    def _look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Snapshot, Any]:
        found = self._quick(args, kwargs)
        if found is None:
            found = walk(self._function, args, kwargs)
            self._remember(found, args, kwargs)
        return found, (modes(), *found.key)

    def _quick(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Snapshot | None:
        """The last walk with these tensors put in, if nothing but the tensor arguments changed."""
        if self._last is None or kwargs:
            return None
        shape, last = self._last
        if len(args) != len(shape) or not last.is_unchanged():
            return None
        for arg, (position, type_, leaf) in zip(args, shape, strict=True):
            if type(arg) is not Tensor or arg._base is not None or arg.__dict__:
                return None
            ref = arg._ref_now
            if ref.type != type_ or arg._leaf_requires_grad or ref.tracked or leaf:
                return None
            last.tensors[position] = arg
        refs = {id(t._ref) for t in last.tensors}
        return last if len(refs) == len(last.tensors) and self._same_types(last) else None

    def _same_types(self, last: Snapshot) -> bool:
        for tensor, (type_, leaf, tracked, where) in zip(last.tensors, last.facts, strict=True):
            ref = tensor._ref
            if devices.place(ref.array) is not where:
                return False
            if ref.type != type_ or ref.tracked != tracked or tensor._leaf_requires_grad != leaf:
                return False
        return True

    def _remember(self, found: Snapshot, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep this walk for `_quick`, if every argument is a plain tensor seen once."""
        positions = {id(t): i for i, t in enumerate(found.tensors)}
        found.facts = [
            (t._ref.type, t._leaf_requires_grad, t._ref.tracked, devices.place(t._ref.array))
            for t in found.tensors
        ]
        # In order, each once, and none that the function reaches by another way as well.
        own = list(range(found.outside, found.outside + len(args)))
        plain = [positions.get(id(a)) for a in args] == own and all(
            type(a) is Tensor and a._base is None and not a.__dict__ for a in args
        )
        refs = {id(t._ref) for t in found.tensors}
        if kwargs or not plain or len(refs) != len(found.tensors):
            self._last = None
            return
        shape = [(positions[id(a)], a._ref.type, a.requires_grad) for a in args]
        self._last = (shape, found)

    def _matching(self, key: Any, found: Snapshot) -> Entry | None:
        for entry in self._entries.get(key, ()):
            if all(
                (found.tensors[position]._grad is not None) == had
                for position, had in entry.recording.gradient_reads
            ):
                return entry
        return None

    def _record(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], found: Snapshot, key: Any
    ) -> Entry:
        started = time.perf_counter()
        options = self._placed(found)
        with _collector_paused():
            with spans.span("record", self.name):
                recording = self._recorded(args, kwargs, found, options)
            with spans.span("compile", self.name, nodes=len(recording.graph.nodes)):
                compiled = self._compiled(recording, options)
        entry = Entry(recording, compiled)
        self._dump(compiled)
        ms = (time.perf_counter() - started) * 1e3
        labels = ("mode", *found.labels)
        self._note(
            self.history.add(
                key, labels, call=max(self._calls, 1), ms=ms, nodes=len(recording.graph.nodes)
            )
        )
        self._entries.setdefault(key, []).append(entry)
        return entry

    def _compiled(self, recording: Recording, options: Options) -> Compiled:
        """The recording compiled. Where that fails, the graph is dumped, if dumps are asked for."""
        try:
            return Compiled(recording.graph, recording.forward_nodes, options)
        except CompileError:
            root = self._dump_root
            if root is not None:
                folder = root / f"{self.name}-failed"
                folder.mkdir(parents=True, exist_ok=True)
                text = print_graph(recording.graph, locations=True)
                (folder / "01-autodiff.ir").write_text(f"{text}\n", encoding="utf-8")
            raise

    @property
    def _dump_root(self) -> Path | None:
        return self._options.dump or settings().dump_dir

    def _recorded(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], found: Snapshot, options: Options
    ) -> Recording:
        return record(
            self._function,
            args,
            kwargs,
            found,
            name=self.name,
            keep_gradients=options.keep_grads,
            place=devices.gpu_of(options.device) if gpus.count() else None,
        )

    def _refuse_drift(
        self, entry: Entry, args: tuple[Any, ...], kwargs: dict[str, Any], found: Snapshot
    ) -> None:
        """Record once more. Raises CompileError at the first line that records otherwise now."""
        again = self._recorded(args, kwargs, found, self._placed(found)).graph
        before = entry.recording.graph
        if str(before) == str(again):
            return
        was, now = first_change(before, again)
        node = now or was
        raise CompileError(
            f"{self.name}: recorded again after {self._calls} calls, it is another program than "
            f"the one that is replayed: {node.op.name if node is not None else 'its results'} "
            "is the first difference",
            operands=[
                f"{when}  {node_text(graph, n)}"
                for when, graph, n in (("then", before, was), ("now ", again, now))
                if n is not None
            ],
            at=str(node.loc or "") if node is not None else "",
            fix="pass what changed as an argument, so that it is part of the signature",
        )

    def _placed(self, found: Snapshot) -> Options:
        """The options, with the device that the tensors are on if none was chosen.

        Raises DeviceError if they are on several.
        """
        options = self._options
        if options.device is not None:
            return options
        where: dict[str, str] = {}
        for tensor, name in zip(found.tensors, found.names, strict=True):
            if tensor.ndim or tensor.is_cuda:  # a number of the CPU may go anywhere
                where.setdefault(str(tensor.device), name or "an argument")
        if len(where) > 1:
            raise DeviceError(
                "compile: the step's tensors are on several devices",
                operands=[f"{device:<8} {name}" for device, name in where.items()],
                fix='move them to one, model.to("cuda") and x.to("cuda")',
            )
        return replace(options, device=next(iter(where), "cpu"))

    def _dump(self, compiled: Compiled) -> None:
        """Write a new recording down, if that was asked for."""
        root = self._dump_root
        if root is not None:
            write_dump(compiled, root / f"{compiled.graph.name}-{self.recordings}")

    def _note(self, recorded: Recorded) -> None:
        """Log a recording; warn once if there are many."""
        logs.event(
            *("record", self.name),
            number=recorded.number,
            call=recorded.call,
            ms=recorded.ms,
            nodes=recorded.nodes,
            why=recorded.reason,
        )
        if recorded.number != _MANY:
            return
        what = f"; what changed last: {recorded.reason}" if recorded.changes else ""
        warnings.warn(
            CompileWarning(
                f"{self.name} compiled {recorded.number} times in {self._calls} calls{what}; "
                "pass a number that varies as a tensor"
            ),
            stacklevel=4,
        )


class CompiledModule:
    """A Module whose forward is compiled; everything else is the Module's own."""

    def __init__(self, module: Any, options: Options) -> None:
        object.__setattr__(self, "_module", module)
        object.__setattr__(self, "_forward", CompiledFunction(module.forward, options))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._forward(*args, **kwargs)

    def lower(self, *args: Any, **kwargs: Any) -> Compiled:
        """The forward compiled for these arguments; nothing is run."""
        compiled: Compiled = self._forward.lower(*args, **kwargs)
        return compiled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._module, name, value)

    def __repr__(self) -> str:
        return f"compiled({self._module!r})"


__all__ = ["CompiledFunction", "CompiledModule", "TensorSpec", "compile"]
