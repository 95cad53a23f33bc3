"""`lowgrad.cuda`: NVIDIA GPUs, with `torch.cuda`'s names.

Importing this needs no GPU, no driver and no package; asking for a GPU that is not there raises
DeviceError with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lowgrad import devices
from lowgrad.errors import DeviceError
from lowgrad.errors import OutOfMemory as OutOfMemoryError
from lowgrad.generator import manual_seed as _manual_seed
from lowgrad.runtime.cuda import gpu as _gpus
from lowgrad.runtime.cuda import streams as _streams
from lowgrad.runtime.cuda.gpu import Gpu, Properties
from lowgrad.runtime.cuda.memory import Pool
from lowgrad.runtime.cuda.memory import pool as _pool_of
from lowgrad.runtime.cuda.streams import Event, Stream

__all__ = ["Event", "OutOfMemoryError", "Stream", "current_device", "current_stream"]
__all__ += ["default_stream", "device", "device_count", "empty_cache", "get_device_capability"]
__all__ += ["get_device_name", "get_device_properties", "init", "is_available"]
__all__ += ["is_bf16_supported", "is_initialized", "manual_seed", "manual_seed_all"]
__all__ += ["max_memory_allocated", "mem_get_info", "memory_allocated", "memory_reserved"]
__all__ += ["reset_peak_memory_stats", "set_device", "set_stream", "stream", "synchronize"]


def _gpu(which: Any = None) -> Gpu:
    """The GPU that an argument names; the current one for None."""
    found = _streams.current_gpu() if which is None else devices.gpu_of(which)
    if found is None:
        raise DeviceError(f'cuda: "{which}" is no GPU', fix='use "cuda" or "cuda:0"')
    return found


def _pool(which: Any) -> Pool:
    return _pool_of(_gpu(which))


def is_available() -> bool:
    """Whether there is a GPU that can be used: False too without a driver or `lowgrad[gpu]`."""
    return _gpus.count() > 0


def device_count() -> int:
    """How many GPUs there are."""
    return _gpus.count()


def init() -> None:
    """Start the driver now rather than at first use. Raises DeviceError with the reason."""
    _gpu()


def is_initialized() -> bool:
    """Whether the driver was started."""
    return _gpus.started.cache_info().currsize > 0


def current_device() -> int:
    """The number of the GPU that "cuda" means in this thread."""
    return _gpu().index


def set_device(device: Any) -> None:
    """Let "cuda" mean this GPU in this thread."""
    _streams.set_current_gpu(_gpu(device).index)


@contextmanager
def device(device: Any) -> Iterator[None]:
    """Inside, "cuda" means this GPU."""
    with _streams.on_gpu(None if device is None else _gpu(device).index):
        yield


# Streams --------------------------------------------------------------------------------------


def synchronize(device: Any = None) -> None:
    """Wait until all work on a GPU is done. Raises DeviceFault if some of it failed."""
    _gpu(device).synchronize()


def current_stream(device: Any = None) -> Stream:
    """The stream that work on a GPU is queued on in this thread."""
    return _streams.current_stream(_gpu(device))


def default_stream(device: Any = None) -> Stream:
    """A GPU's legacy default stream, which other libraries use as well."""
    return _streams.default_stream(_gpu(device))


def set_stream(stream: Stream) -> None:
    """Queue work on `stream` from now on, in this thread."""
    _streams.set_stream(stream)


@contextmanager
def stream(stream: Stream | None) -> Iterator[None]:
    """Inside, work is queued on `stream`."""
    with _streams.on_stream(stream):
        yield


# Memory ---------------------------------------------------------------------------------------


def memory_allocated(device: Any = None) -> int:
    """Bytes of tensors and arenas on a GPU now."""
    return _pool(device).usage.allocated


def max_memory_allocated(device: Any = None) -> int:
    """The most that `memory_allocated` was since the start, or the last reset."""
    return _pool(device).usage.peak


def reset_peak_memory_stats(device: Any = None) -> None:
    """Count `max_memory_allocated` from now on."""
    usage = _pool(device).usage
    usage.peak = usage.allocated


def memory_reserved(device: Any = None) -> int:
    """Bytes that the pool holds: those of `memory_allocated`, and what it keeps for later."""
    return _pool(device).reserved()


def empty_cache() -> None:
    """Give what the pool keeps for later back to the system."""
    for index in range(device_count()):
        _pool(index).give_back()


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """(free, total) bytes of a GPU, all programs counted."""
    return _gpu(device).memory_info()


# Facts ----------------------------------------------------------------------------------------


def get_device_properties(device: Any = None) -> Properties:
    """Name, compute capability, memory, multiprocessors."""
    return _gpu(device).properties


def get_device_name(device: Any = None) -> str:
    """What the GPU is called: "NVIDIA H200"."""
    return _gpu(device).properties.name


def get_device_capability(device: Any = None) -> tuple[int, int]:
    """The compute capability: (9, 0)."""
    properties = _gpu(device).properties
    return properties.major, properties.minor


def is_bf16_supported() -> bool:
    """True: every GPU that lowgrad runs on has bfloat16."""
    return is_available()


def manual_seed(seed: int) -> None:
    """Seed the generator, which CPU and GPUs share."""
    _manual_seed(seed)


manual_seed_all = manual_seed
