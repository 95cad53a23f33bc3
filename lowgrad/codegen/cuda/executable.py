"""A compiled step on a GPU: one arena, one CUDA graph, replayed.

What is fixed is done once: kernels are compiled and loaded, the arena allocated, the graph built.
A call allocates the results (so that earlier ones stay valid), sends the host's numbers in one
copy, tells the graph of buffers that moved, and launches it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad import config
from lowgrad.codegen.alike import alike
from lowgrad.codegen.cuda.functions import functions
from lowgrad.codegen.cuda.machine import GpuMachine
from lowgrad.codegen.cuda.schedule import Base, KernelCall, bases_of, schedule
from lowgrad.codegen.lower import Launch as KernelLaunch
from lowgrad.codegen.step import identity
from lowgrad.errors import ArgumentError, DeviceError, DeviceFault, LowgradError
from lowgrad.ir.graph import Graph
from lowgrad.ir.types import TensorType, float64
from lowgrad.runtime.cuda.array import ALIGNMENT, DeviceArray
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.graph import Copy, CudaGraph
from lowgrad.runtime.cuda.launch import Launch
from lowgrad.runtime.cuda.memory import Allocation, Ring, ring, to_device
from lowgrad.runtime.cuda.streams import Stream, current_stream
from lowgrad.runtime.memory import Plan

# A graph pays from so many launches on; fewer are started one by one.
FEW = 2
# The largest input that may be the host's own number or key, in bytes.
HOST_BYTES = 64

# Where inputs begin among the bases: behind the arena and the table.
_INPUTS = 2

HostArray = npt.NDArray[Any]


class CudaExecutable:
    """Runs a planned step on one GPU.

    keeps_arena: whether the arena is allocated once, or for each call and given back.
    """

    def __init__(
        self,
        graph: Graph,
        plan: Plan,
        machine: GpuMachine,
        device: Gpu,
        *,
        keeps_arena: bool = True,
    ) -> None:
        self.device, self.plan = device, plan
        self.graph = graph
        self._aliases = dict(graph.aliases)
        made = schedule(graph, plan, machine)
        self._made, self._results = made.made, made.results
        self._calls = made.calls
        kernels = [c.kernel for c in made.calls if isinstance(c, KernelCall)]
        # Alike first: kernels whose text differs in comments only are one.
        unique = {id(k): k for k in kernels}
        same = {
            i: launch.kernel
            for i, launch in zip(
                unique, alike(KernelLaunch(k, 1) for k in unique.values()), strict=True
            )
        }
        known = functions(same.values(), device)
        self._functions = [
            known[identity(same[id(c.kernel)])] if isinstance(c, KernelCall) else None
            for c in made.calls
        ]
        self._table = made.constants
        bases = [Base("arena", 0), Base("table", 0)]
        bases += [Base("input", i) for i in range(len(graph.inputs))]
        self._first_result = len(bases)
        bases += [Base("result", i) for i in range(len(made.made))]
        self._number_of = {base: number for number, base in enumerate(bases)}
        users = bases_of(made.calls)
        self._users = [users.get(base, []) for base in bases]
        self._keeps_arena = keeps_arena
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._actions: list[Launch | Copy] = []
        self._cuda_graph: CudaGraph | None = None
        self._pointers: list[int] = []
        self._scalars = _Scalars(graph, device)
        self.arena: Allocation | None = None
        self._constants: Allocation | None = None

    def __call__(self, arrays: Sequence[DeviceArray | HostArray]) -> list[DeviceArray]:
        """Outputs in order; inputs that an output takes over are updated in place and returned.

        arrays: one for each graph input, contiguous; numbers of the host as NumPy arrays.
        Raises OutOfMemory before anything has run, LaunchError, DeviceFault.
        """
        self.device.use()
        stream = current_stream(self.device)
        with self._lock:
            if self._keeps_arena and self._stream is not None and stream != self._stream:
                stream.wait_stream(self._stream)  # the arena is still in use there
            self._stream = stream
            made = [Allocation(self.device, t.nbytes, stream) for t in self._made]
            arena = self._prepared_arena(stream)
            pointers = self._addresses(arrays, made, arena, stream)
            if not self._actions:
                self._build(pointers)
            moved = self._moved(pointers)
            self._run(moved, stream)
        results = [DeviceArray(t, a) for t, a in zip(self._made, made, strict=True)]
        outputs: list[DeviceArray] = []
        for position, number in enumerate(self._results):
            if number is not None:
                outputs.append(results[number])
                continue
            taken = arrays[self._aliases[position]]
            assert isinstance(taken, DeviceArray), "state is on the GPU"
            outputs.append(taken)
        return outputs

    def again(
        self, moved: Sequence[tuple[int, DeviceArray]], numbers: Sequence[Any]
    ) -> list[DeviceArray | None]:
        """As a call with the arrays of the last one, but for the inputs in `moved`.

        numbers: the host's, in order. Outputs that are inputs taken over are None.
        """
        self.device.use()
        stream = current_stream(self.device)
        with self._lock:
            assert self._actions, "it was called before"
            if stream is not self._stream and stream != self._stream:
                assert self._stream is not None, "it was called before"
                stream.wait_stream(self._stream)
            self._stream = stream
            made = [Allocation(self.device, t.nbytes, stream) for t in self._made]
            changed: set[int] = set()
            for number, allocation in enumerate(made):
                self._move(self._first_result + number, allocation.pointer, changed)
            for position, array in moved:
                if array.allocation.stream is not stream:
                    array.allocation.record_stream(stream)
                self._move(_INPUTS + position, self._checked(position, array), changed)
            self._scalars.again(numbers, stream)
            self._run(changed, stream)
        results = [DeviceArray(t, a) for t, a in zip(self._made, made, strict=True)]
        return [None if n is None else results[n] for n in self._results]

    # --- Addresses ---

    def _prepared_arena(self, stream: Stream) -> Allocation:
        if self._constants is None and self._table.size:
            self._constants = Allocation(self.device, self._table.nbytes, stream)
            to_device(self._table, self._constants.pointer, stream)
        if self.arena is not None:
            return self.arena
        arena = Allocation(self.device, self.plan.held_bytes, stream)
        if self._keeps_arena:
            self.arena = arena
        return arena

    def _addresses(
        self,
        arrays: Sequence[DeviceArray | HostArray],
        made: Sequence[Allocation],
        arena: Allocation,
        stream: Stream,
    ) -> list[int]:
        """The address of each base, in the order of `_number_of`."""
        table = 0 if self._constants is None else self._constants.pointer
        pointers = [arena.pointer, table, *[0] * len(arrays), *[a.pointer for a in made]]
        numbers: list[tuple[int, HostArray]] = []
        for position, array in enumerate(arrays):
            if isinstance(array, DeviceArray):
                if array.allocation.stream is not stream:
                    array.allocation.record_stream(stream)
                pointers[_INPUTS + position] = self._checked(position, array)
            else:
                numbers.append((position, array))
        for position, pointer in self._scalars.send(numbers, stream):
            pointers[_INPUTS + position] = pointer
        return pointers

    def _checked(self, position: int, array: DeviceArray) -> int:
        if array.device is not self.device:
            raise DeviceError(
                f"{self.graph.name}: input {self.graph.inputs[position].hint or position} is on "
                f"cuda:{array.device.index}, the step runs on cuda:{self.device.index}",
                fix=f'x.to("cuda:{self.device.index}")',
            )
        pointer = array.pointer
        assert not array.path, "inputs are made contiguous before"
        assert pointer % ALIGNMENT == 0, "kernels are compiled for aligned arrays"
        return pointer

    # --- Building and running ---

    def _build(self, pointers: list[int]) -> None:
        number = self._number_of
        for call, function in zip(self._calls, self._functions, strict=True):
            if isinstance(call, KernelCall):
                assert function is not None, "kernels are loaded"
                at = [pointers[number[a.base]] + a.offset for a in call.addresses]
                self._actions.append(Launch(function, call.kernel.grid, at))
            else:
                pair = (call.target, call.source)
                target, source = (pointers[number[a.base]] + a.offset for a in pair)
                pitches = (call.target_pitch, call.source_pitch)
                self._actions.append(Copy(target, source, call.width, call.rows, *pitches))
        self._pointers = pointers
        if len(self._actions) > FEW and not config.settings().sync:
            self._cuda_graph = CudaGraph(self.device, self._actions)

    def _moved(self, pointers: list[int]) -> set[int]:
        """Write new addresses into the arguments; the actions that this changes."""
        changed: set[int] = set()
        if pointers != self._pointers:
            for number, pointer in enumerate(pointers):
                self._move(number, pointer, changed)
        return changed

    def _move(self, number: int, pointer: int, changed: set[int]) -> None:
        """Let a base be at `pointer`; add the actions that this changes."""
        if pointer == self._pointers[number]:
            return
        self._pointers[number] = pointer
        for index, position, offset in self._users[number]:
            action = self._actions[index]
            if isinstance(action, Launch):
                action.arguments.values[position] = pointer + offset
            elif position == 0:
                action.target = pointer + offset
            else:
                action.source = pointer + offset
            changed.add(index)

    def _run(self, moved: set[int], stream: Stream) -> None:
        if self._cuda_graph is not None:
            for index in moved:
                self._cuda_graph.refresh(index)
            self._cuda_graph.launch(stream)
            return
        is_watched = config.settings().sync
        for index, action in enumerate(self._actions):
            action(stream)
            if is_watched:
                self._wait_for(index, stream)

    def _wait_for(self, index: int, stream: Stream) -> None:
        """LOWGRAD_SYNC: wait for one action. Raises DeviceFault naming its kernel and line."""
        try:
            stream.synchronize()
        except LowgradError as error:
            call = self._calls[index]
            if not isinstance(call, KernelCall):
                raise
            raise DeviceFault(
                f"kernel {call.kernel.name} of {self.graph.name} failed: {error.message}",
                at=str(call.loc or ""),
            ) from error


class _Scalars:
    """What the host knows at each call: numbers and keys, side by side in one small buffer."""

    def __init__(self, graph: Graph, device: Gpu) -> None:
        self._types = [v.type for v in graph.inputs]
        self._hints = [v.hint for v in graph.inputs]
        self._device = device
        self._positions: tuple[int, ...] | None = None
        self._buffer: Allocation | None = None
        self._ring: Ring | None = None
        self._host: HostArray = np.zeros(0, np.uint8)
        self._views: list[HostArray] = []
        self._are_numbers = False
        self._floats: HostArray = np.zeros(0)

    def send(self, numbers: list[tuple[int, HostArray]], stream: Stream) -> list[tuple[int, int]]:
        """Copy the numbers, given by input; the address of each."""
        if not numbers:
            return []
        positions = tuple(position for position, _ in numbers)
        if positions != self._positions:
            self._lay_out(positions, stream)
        self.again([number for _, number in numbers], stream)
        assert self._buffer is not None, "laid out"
        start = self._buffer.pointer
        return [(position, start + HOST_BYTES * i) for i, position in enumerate(positions)]

    def again(self, numbers: Sequence[Any], stream: Stream) -> None:
        """Copy the numbers to where the last ones were."""
        if not numbers:
            return
        if self._are_numbers:
            self._floats[:] = numbers
        else:
            for view, number in zip(self._views, numbers, strict=True):
                view[...] = number
        assert self._ring is not None, "laid out"
        assert self._buffer is not None, "laid out"
        self._ring.send(self._host, self._buffer.pointer, stream)

    def _lay_out(self, positions: tuple[int, ...], stream: Stream) -> None:
        nbytes = HOST_BYTES * len(positions)
        self._host = np.zeros(nbytes, np.uint8)
        self._views = []
        for index, position in enumerate(positions):
            type_ = self._types[position]
            if type_.nbytes > HOST_BYTES:
                raise ArgumentError(
                    f"input {self._hints[position] or position} ({type_}) is on the CPU; only "
                    f"numbers may be, the others must be on cuda:{self._device.index}",
                    fix="move it before the call, x.cuda()",
                )
            part = self._host[HOST_BYTES * index :][: type_.nbytes]
            self._views.append(part.view(type_.dtype.numpy).reshape(type_.shape))
        self._buffer = Allocation(self._device, nbytes, stream)
        self._ring = ring(self._device, nbytes)
        self._positions = positions
        # Nearly always all are float64 numbers: one assignment then.
        self._are_numbers = all(self._types[p] == TensorType((), float64) for p in positions)
        self._floats = self._host.view(np.float64)[:: HOST_BYTES // 8]
