"""Memory of a GPU: from the driver's stream-ordered pool, counted to the byte.

What is freed goes back to the pool in the order of its stream, so that nothing waits; the pool
keeps it for the next allocation. Copies go between NumPy arrays and allocations.
"""

from __future__ import annotations

import contextlib
import gc
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lowgrad.errors import OutOfMemory
from lowgrad.runtime.cuda.driver import attribute, bindings, call
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.streams import Event, Stream, current_stream
from lowgrad.runtime.memory import human

Array = npt.NDArray[Any]


@dataclass
class Usage:
    """Bytes that are allocated on one GPU now, and at most since the last reset."""

    allocated: int = 0
    peak: int = 0
    allocations: int = 0

    def add(self, nbytes: int) -> None:
        """Count an allocation, or, negative, its end."""
        self.allocated += nbytes
        self.peak = max(self.peak, self.allocated)
        self.allocations += 1 if nbytes > 0 else -1


class Pool:
    """The memory of one GPU that this process takes from the driver's pool."""

    def __init__(self, device: Gpu) -> None:
        self.device = device
        self.usage = Usage()
        device.use()
        self.handle: Any = None
        if attribute(device.handle, "MEMORY_POOLS_SUPPORTED"):
            self.handle = call("cuDeviceGetDefaultMemPool", device.handle)
            # What is freed stays with us at a synchronization, instead of going to the system.
            kind = bindings().CUmemPool_attribute.CU_MEMPOOL_ATTR_RELEASE_THRESHOLD
            call("cuMemPoolSetAttribute", self.handle, kind, bindings().cuuint64_t(2**64 - 1))
        self.lock = threading.Lock()

    def take(self, nbytes: int, stream: Stream) -> int:
        """The address of `nbytes` that work on `stream` may use from now on.

        Raises OutOfMemory with the sizes. What is freed but kept is given back and tried again.
        """
        self.device.use()
        try:
            address = self._allocate(nbytes, stream)
        except OutOfMemory:
            gc.collect()
            self.give_back()
            try:
                address = self._allocate(nbytes, stream)
            except OutOfMemory as error:
                raise self._no_memory(nbytes) from error
        with self.lock:
            self.usage.add(nbytes)
        return address

    def _allocate(self, nbytes: int, stream: Stream) -> int:
        if self.handle is None:
            return int(call("cuMemAlloc", nbytes))
        return int(call("cuMemAllocAsync", nbytes, stream.handle))

    def free(self, address: int, nbytes: int, stream: Stream) -> None:
        """Give bytes back, when the work queued on `stream` is done."""
        self.device.use()
        with self.lock:
            self.usage.add(-nbytes)
        if self.handle is None:
            call("cuMemFree", address)
        else:
            call("cuMemFreeAsync", address, stream.handle)

    def give_back(self) -> None:
        """Return to the system what is kept and not in use."""
        self.device.synchronize()
        if self.handle is not None:
            call("cuMemPoolTrimTo", self.handle, 0)

    def reserved(self) -> int:
        """Bytes that the pool holds, used or not."""
        if self.handle is None:
            return self.usage.allocated
        self.device.use()
        kind = bindings().CUmemPool_attribute.CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT
        return int(call("cuMemPoolGetAttribute", self.handle, kind))

    def _no_memory(self, nbytes: int) -> OutOfMemory:
        free, total = self.device.memory_info()
        held = self.usage.allocated
        return OutOfMemory(
            f"cuda:{self.device.index}: {human(nbytes)} asked for, {human(free)} of {human(total)} "
            f"are free; this process holds {human(held)} ({nbytes} bytes asked, {held} held)",
            fix='@lowgrad.compile(memory="...") plans the step for less',
        )


_pools: dict[int, Pool] = {}


def pool(device: Gpu) -> Pool:
    """The pool of a GPU."""
    found = _pools.get(device.index)
    if found is None:
        found = _pools[device.index] = Pool(device)
    return found


class Allocation:
    """Bytes on a GPU, given back when nothing refers to this any more.

    owner: of memory that is another library's; it is kept, and nothing is given back.
    """

    __slots__ = ("__weakref__", "_others", "device", "nbytes", "owner", "pointer", "stream")

    def __init__(
        self,
        device: Gpu,
        nbytes: int,
        stream: Stream | None = None,
        *,
        pointer: int | None = None,
        owner: Any = None,
    ) -> None:
        self.device, self.nbytes, self.owner = device, nbytes, owner
        self.stream = current_stream(device) if stream is None else stream
        self._others: dict[Stream, None] = {}
        if pointer is not None:
            self.pointer = pointer
        else:
            self.pointer = pool(device).take(nbytes, self.stream) if nbytes else 0

    def record_stream(self, stream: Stream) -> None:
        """Another stream reads this: it is not given back before that stream's work is done."""
        if stream != self.stream:
            self._others[stream] = None

    def __del__(self) -> None:
        # Without a pointer if there was no memory for it.
        if hasattr(self, "pointer") and self.pointer and self.owner is None:
            with contextlib.suppress(Exception):  # at exit the driver may be gone already
                for stream in self._others:
                    self.stream.wait_stream(stream)
                pool(self.device).free(self.pointer, self.nbytes, self.stream)


# Copies -----------------------------------------------------------------------------------------


def to_device(array: Array, pointer: int, stream: Stream, *, wait: bool = True) -> None:
    """Copy a contiguous host array to `pointer`.

    With wait=False and pinned memory this returns at once; what is not pinned is staged first.
    """
    if array.nbytes:
        stream.device.use()
        call("cuMemcpyHtoDAsync", pointer, array.ctypes.data, array.nbytes, stream.handle)
        if wait:
            stream.synchronize()


def to_host(pointer: int, array: Array, stream: Stream, *, wait: bool = True) -> None:
    """Fill a contiguous host array from `pointer`; with wait=False it may be filled later."""
    if array.nbytes:
        stream.device.use()
        call("cuMemcpyDtoHAsync", array.ctypes.data, pointer, array.nbytes, stream.handle)
    if wait:
        stream.synchronize()


def on_device(target: int, source: int, nbytes: int, stream: Stream) -> None:
    """Copy within a GPU, or between two that are peers."""
    if nbytes:
        stream.device.use()
        call("cuMemcpyDtoDAsync", target, source, nbytes, stream.handle)


# Pinned host memory -----------------------------------------------------------------------------


class _Pinned:
    """Page-locked host memory, which copies to and from a GPU need not stage."""

    def __init__(self, nbytes: int) -> None:
        flags = bindings().CU_MEMHOSTALLOC_PORTABLE
        self.pointer = int(call("cuMemHostAlloc", nbytes, int(flags)))
        self.__array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (self.pointer, False),
            "version": 3,
        }

    def __del__(self) -> None:
        if getattr(self, "pointer", 0):
            with contextlib.suppress(Exception):
                bindings().cuMemFreeHost(self.pointer)


def pinned(shape: tuple[int, ...], dtype: np.dtype[Any], device: Gpu) -> Array:
    """A new host array in page-locked memory."""
    device.use()
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if nbytes == 0:
        return np.empty(shape, dtype)
    return np.asarray(_Pinned(nbytes)).view(dtype).reshape(shape)


def is_pinned(array: Array) -> bool:
    """Whether an array lies in page-locked memory that was made here."""
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return isinstance(base, _Pinned)


class Ring:
    """Pinned memory in turns, for small copies at each step: none is written while it is read.

    The turns are two halves: an event at the end of each tells when it may be written again.
    """

    def __init__(self, device: Gpu, slot_bytes: int, slots: int) -> None:
        self._memory = pinned((slots, slot_bytes), np.dtype(np.uint8), device)
        self._events = (Event(), Event())
        self._half = slots // 2
        self._next = 0
        self._stream: Stream | None = None
        self._lock = threading.Lock()

    def send(self, data: Array, pointer: int, stream: Stream) -> None:
        """Copy `data`, bytes that fit, to `pointer`; it may change as soon as this returns."""
        with self._lock:
            at, self._next = self._next, (self._next + 1) % (2 * self._half)
            half, place = divmod(at, self._half)
            if place == 0:
                self._events[half].synchronize()
            if stream is not self._stream:
                # One event can tell of one stream only: the copies so far must come before.
                if self._stream is not None:
                    stream.wait_stream(self._stream)
                self._stream = stream
            slot = self._memory[at, : data.nbytes]
            slot[:] = data
            to_device(slot, pointer, stream, wait=False)
            if place == self._half - 1:
                self._events[half].record(stream)


SLOT_BYTES, SLOTS = 1 << 13, 64
_rings: dict[int, Ring] = {}


def ring(device: Gpu, nbytes: int) -> Ring:
    """The GPU's ring for up to SLOT_BYTES, a ring of its own for more."""
    if nbytes > SLOT_BYTES:
        return Ring(device, nbytes, 4)
    found = _rings.get(device.index)
    if found is None:
        found = _rings[device.index] = Ring(device, SLOT_BYTES, SLOTS)
    return found
