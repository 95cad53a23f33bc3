"""One GPU: its context, its facts, its default stream."""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass
from typing import Any

from lowgrad.errors import DeviceError, LowgradError
from lowgrad.runtime.cuda.driver import attribute, bindings, call

# Triton compiles for Ampere and newer; older tensor cores lack bf16 and asynchronous copies.
OLDEST = (8, 0)

_current = threading.local()


@dataclass(frozen=True)
class Properties:
    """What a GPU is. Sizes in bytes; `major`.`minor` is the compute capability."""

    name: str
    major: int
    minor: int
    total_memory: int
    multi_processor_count: int
    shared_memory_per_block_optin: int
    l2_cache_size: int


class Gpu:
    """The GPU of number `index`, with its primary context, which other libraries use as well."""

    def __init__(self, index: int) -> None:
        self.index = index
        self.handle = call("cuDeviceGet", index)
        self.properties = _properties(self.handle)
        capability = (self.properties.major, self.properties.minor)
        if capability < OLDEST:
            raise DeviceError(
                f"cuda:{index} ({self.properties.name}) has compute capability "
                f"{capability[0]}.{capability[1]}; lowgrad's kernels need "
                f"{OLDEST[0]}.{OLDEST[1]} or newer",
                fix='use device "cpu"',
            )
        self.context = call("cuDevicePrimaryCtxRetain", self.handle)

    @property
    def target(self) -> str:
        """What kernels are compiled for: "cuda:90"."""
        return f"cuda:{self.properties.major}{self.properties.minor}"

    def use(self) -> None:
        """Make this GPU's context the thread's own, as every call of the driver needs it."""
        if getattr(_current, "index", None) != self.index or _foreign(self.context):
            call("cuCtxSetCurrent", self.context)
            _current.index = self.index

    def synchronize(self) -> None:
        """Wait until all work on this GPU is done. Raises DeviceFault if some of it failed."""
        self.use()
        call("cuCtxSynchronize")

    def memory_info(self) -> tuple[int, int]:
        """(free, total) bytes, of all programs on this GPU."""
        self.use()
        free, total = call("cuMemGetInfo")
        return int(free), int(total)

    def __repr__(self) -> str:
        return f"<Gpu {self.index}: {self.properties.name}, {self.target}>"


def _foreign(context: Any) -> bool:
    """Whether another library has made another context the thread's since."""
    status, now = bindings().cuCtxGetCurrent()
    return bool(status) or int(now) != int(context)


def _properties(handle: Any) -> Properties:
    name = call("cuDeviceGetName", 256, handle)
    return Properties(
        name=name.split(b"\0")[0].decode() if isinstance(name, bytes) else str(name),
        major=attribute(handle, "COMPUTE_CAPABILITY_MAJOR"),
        minor=attribute(handle, "COMPUTE_CAPABILITY_MINOR"),
        total_memory=int(call("cuDeviceTotalMem", handle)),
        multi_processor_count=attribute(handle, "MULTIPROCESSOR_COUNT"),
        shared_memory_per_block_optin=attribute(handle, "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN"),
        l2_cache_size=attribute(handle, "L2_CACHE_SIZE"),
    )


@functools.cache
def started() -> None:
    """Start the driver. Raises DeviceError, with the reason, if there is none or no GPU."""
    call("cuInit", 0)


def count() -> int:
    """How many GPUs there are: 0 also where there is no driver, or no package to ask it with."""
    try:
        started()
        return int(call("cuDeviceGetCount"))
    except LowgradError:
        return 0


_gpus: dict[int, Gpu] = {}


def gpu(index: int = 0) -> Gpu:
    """The GPU of number `index`. Raises DeviceError, with the reason, if it cannot be used."""
    known = _gpus.get(index)
    if known is None:
        known = _gpus[index] = _found(index)
    return known


def _found(index: int) -> Gpu:
    started()
    found = int(call("cuDeviceGetCount"))
    if not 0 <= index < found:
        raise DeviceError(
            f"cuda:{index}: there {'is' if found == 1 else 'are'} {found} "
            f"GPU{'' if found == 1 else 's'} here"
            + (f', "cuda:0" to "cuda:{found - 1}"' if found > 1 else "")
        )
    return Gpu(index)
