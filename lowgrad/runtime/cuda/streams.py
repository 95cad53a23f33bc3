"""Streams and events. The default stream is the legacy one, as PyTorch's and CuPy's are: work of
these libraries on their default streams and ours is in order without further ado."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from lowgrad.errors import ArgumentError
from lowgrad.runtime.cuda.driver import bindings, call
from lowgrad.runtime.cuda.gpu import Gpu, gpu


class Stream:
    """A queue of work on one GPU: in order within, side by side with other streams."""

    def __init__(self, device: Gpu | None = None, *, handle: Any = None) -> None:
        self.device = current_gpu() if device is None else device
        self._is_own = handle is None
        if handle is None:
            self.device.use()
            flags = int(bindings().CUstream_flags.CU_STREAM_NON_BLOCKING)
            handle = call("cuStreamCreate", flags)
        self.handle = handle

    @property
    def cuda_stream(self) -> int:
        """The driver's handle as a number, for other libraries."""
        return int(self.handle)

    def synchronize(self) -> None:
        """Wait until all that was queued here is done."""
        self.device.use()
        call("cuStreamSynchronize", self.handle)

    def query(self) -> bool:
        """Whether all that was queued here is done."""
        self.device.use()
        return _is_ready("cuStreamQuery", self.handle)

    def wait_event(self, event: Event) -> None:
        """Let what is queued here from now on wait for `event`."""
        self.device.use()
        if event.handle is not None:
            call("cuStreamWaitEvent", self.handle, event.handle, 0)

    def wait_stream(self, stream: Stream) -> None:
        """Let what is queued here from now on wait for what is queued on `stream` now."""
        self.wait_event(stream.record_event())

    def record_event(self, event: Event | None = None) -> Event:
        """An event that happens when all that is queued here now is done."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and (self.device.index, self.cuda_stream) == (
            other.device.index,
            other.cuda_stream,
        )

    def __hash__(self) -> int:
        return hash((self.device.index, self.cuda_stream))

    def __repr__(self) -> str:
        return f"<Stream {self.cuda_stream:#x} of cuda:{self.device.index}>"

    def __del__(self) -> None:
        if getattr(self, "_is_own", False):
            with contextlib.suppress(Exception):  # at exit the driver may be gone already
                self.device.use()
                bindings().cuStreamDestroy(self.handle)


class Event:
    """A point in a stream's work. With `enable_timing`, two of them measure the time between."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._has_time = enable_timing
        self._device: Gpu | None = None
        self.handle: Any = None  # made when first recorded, on that stream's GPU

    def record(self, stream: Stream | None = None) -> None:
        """Let this event happen when all that is queued on `stream` now is done."""
        stream = current_stream() if stream is None else stream
        stream.device.use()
        if self.handle is None:
            flags = bindings().CUevent_flags
            kind = flags.CU_EVENT_DEFAULT if self._has_time else flags.CU_EVENT_DISABLE_TIMING
            self.handle = call("cuEventCreate", int(kind))
            self._device = stream.device
        call("cuEventRecord", self.handle, stream.handle)

    def wait(self, stream: Stream | None = None) -> None:
        """Let what is queued on `stream` from now on wait for this event."""
        (current_stream() if stream is None else stream).wait_event(self)

    def query(self) -> bool:
        """Whether it has happened; an event that was never recorded has."""
        return self.handle is None or _is_ready("cuEventQuery", self.handle)

    def synchronize(self) -> None:
        """Wait until it has happened."""
        if self.handle is not None:
            call("cuEventSynchronize", self.handle)

    def elapsed_time(self, end_event: Event) -> float:
        """Milliseconds from this event to `end_event`; both must have happened."""
        if self.handle is None or end_event.handle is None:
            raise ArgumentError("elapsed_time: both events must be recorded first")
        if not (self._has_time and end_event._has_time):
            raise ArgumentError(
                "elapsed_time: an event without a clock", fix="Event(enable_timing=True)"
            )
        return float(call("cuEventElapsedTime", self.handle, end_event.handle))

    def __del__(self) -> None:
        if getattr(self, "handle", None) is not None and self._device is not None:
            with contextlib.suppress(Exception):
                self._device.use()
                bindings().cuEventDestroy(self.handle)


def _is_ready(name: str, handle: Any) -> bool:
    (status,) = getattr(bindings(), name)(handle)
    if status == bindings().CUresult.CUDA_ERROR_NOT_READY:
        return False
    if status:
        from lowgrad.runtime.cuda.driver import error_of

        raise error_of(name, status)
    return True


# What is current: a GPU and a stream on it, for each thread -----------------------------------


class _State(threading.local):
    def __init__(self) -> None:
        self.index = 0
        self.streams: dict[int, Stream] = {}


_state = _State()


def current_gpu() -> Gpu:
    """The GPU that "cuda" means in this thread."""
    return gpu(_state.index)


def set_current_gpu(index: int) -> None:
    """Let "cuda" mean GPU `index` in this thread."""
    gpu(index)
    _state.index = index


def default_stream(device: Gpu | None = None) -> Stream:
    """The GPU's legacy default stream."""
    return Stream(current_gpu() if device is None else device, handle=bindings().CUstream(0))


def current_stream(device: Gpu | None = None) -> Stream:
    """The stream that work on the GPU is queued on in this thread."""
    device = current_gpu() if device is None else device
    found = _state.streams.get(device.index)
    if found is None:
        found = _state.streams[device.index] = default_stream(device)
    return found


def set_stream(stream: Stream) -> None:
    """Queue work on the stream's GPU on it from now on, in this thread."""
    _state.streams[stream.device.index] = stream


@contextlib.contextmanager
def on_stream(stream: Stream | None) -> Iterator[None]:
    """Inside, work on the stream's GPU is queued on `stream`, and "cuda" means that GPU."""
    if stream is None:
        yield
        return
    index = stream.device.index
    before = _state.index, current_stream(stream.device)
    _state.index, _state.streams[index] = index, stream
    try:
        yield
    finally:
        _state.index, _state.streams[index] = before


@contextlib.contextmanager
def on_gpu(index: int | None) -> Iterator[None]:
    """Inside, "cuda" means GPU `index`; None leaves it as it is."""
    before = _state.index
    if index is not None:
        set_current_gpu(index)
    try:
        yield
    finally:
        _state.index = before
