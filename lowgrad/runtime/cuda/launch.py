"""Launching compiled kernels: modules, packed arguments, `cuLaunchKernelEx`.

The parameter block of a Triton kernel is its arguments that are no constants, in order, then two
pointers to scratch memory of Triton's own. It is packed once; a launch passes its address, and a
buffer that moved is eight bytes to overwrite.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from lowgrad.errors import LaunchError
from lowgrad.runtime.cuda.driver import bindings, call
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.memory import Allocation
from lowgrad.runtime.cuda.streams import Stream, current_stream
from lowgrad.runtime.memory import human

# Above this a kernel must be allowed its shared memory by an attribute.
FREE_SHARED_BYTES = 48 * 1024
WARP = 32
HIDDEN = 2  # global scratch, profiler's scratch


class Function:
    """One compiled kernel, loaded on one GPU."""

    def __init__(
        self,
        device: Gpu,
        binary: bytes,
        name: str,
        *,
        num_warps: int,
        shared_bytes: int,
        scratch_bytes: int = 0,
    ) -> None:
        limit = device.properties.shared_memory_per_block_optin
        if shared_bytes > limit:
            raise LaunchError(
                f"{name}: a block needs {human(shared_bytes)} of shared memory, "
                f"cuda:{device.index} ({device.properties.name}) gives it {human(limit)}"
            )
        self.device, self.name = device, name
        self.threads = num_warps * WARP
        self.shared_bytes, self.scratch_bytes = shared_bytes, scratch_bytes
        device.use()
        self._module = call("cuModuleLoadData", binary)
        self.handle = call("cuModuleGetFunction", self._module, name.encode())
        if shared_bytes > FREE_SHARED_BYTES:
            kinds = bindings().CUfunction_attribute
            kind = kinds.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
            call("cuFuncSetAttribute", self.handle, kind, shared_bytes)

    def attribute(self, name: str) -> int:
        """CU_FUNC_ATTRIBUTE_<name>: "NUM_REGS", "LOCAL_SIZE_BYTES", ..."""
        kinds = bindings().CUfunction_attribute
        value = call("cuFuncGetAttribute", getattr(kinds, f"CU_FUNC_ATTRIBUTE_{name}"), self.handle)
        return int(value)

    def __del__(self) -> None:
        if getattr(self, "_module", None) is not None:
            with contextlib.suppress(Exception):  # at exit the driver may be gone already
                self.device.use()
                bindings().cuModuleUnload(self._module)


class Arguments:
    """The parameter block of one launch: pointers, packed where the driver reads them."""

    def __init__(self, count: int) -> None:
        self.values = np.zeros(count + HIDDEN, np.uint64)
        # What the driver wants is an array of the addresses of the values.
        start, size = self.values.ctypes.data, self.values.itemsize
        self._addresses = start + size * np.arange(count + HIDDEN, dtype=np.uint64)
        self.pointer = self._addresses.ctypes.data

    def fill(self, pointers: Sequence[int], scratch: int = 0) -> None:
        """Set all pointers, and where Triton's scratch is."""
        self.values[: len(pointers)] = pointers
        self.values[len(pointers)] = scratch


class Launch:
    """A function with its grid and its arguments, ready to be started again and again."""

    def __init__(self, function: Function, grid: tuple[int, ...], pointers: Sequence[int]) -> None:
        self.function = function
        self.grid = (*grid, 1, 1)[:3]
        self.arguments = Arguments(len(pointers))
        self.scratch = None
        if function.scratch_bytes:
            blocks = int(np.prod(self.grid, dtype=np.int64))
            self.scratch = Allocation(function.device, blocks * function.scratch_bytes)
        self.arguments.fill(pointers, self.scratch.pointer if self.scratch else 0)
        config = bindings().CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = self.grid
        config.blockDimX, config.blockDimY, config.blockDimZ = function.threads, 1, 1
        config.sharedMemBytes = function.shared_bytes
        config.numAttrs = 0
        self._config = config
        self._stream: Stream | None = None
        self._lock = threading.Lock()

    def __call__(self, stream: Stream | None = None) -> None:
        """Queue it. Raises LaunchError naming the kernel if it cannot be started."""
        stream = current_stream(self.function.device) if stream is None else stream
        with self._lock:  # the configuration holds the stream
            if stream is not self._stream:
                self._config.hStream, self._stream = stream.handle, stream
            (status,) = bindings().cuLaunchKernelEx(
                self._config, self.function.handle, self.arguments.pointer, 0
            )
        if status:
            raise self.error(status)

    def error(self, status: Any) -> Exception:
        """The error for a status that starting this gave."""
        from lowgrad.runtime.cuda.driver import error_of

        error = error_of("cuLaunchKernelEx", status)
        if not isinstance(error, LaunchError):
            return error
        f = self.function
        return LaunchError(
            f"{f.name}: cannot be started: grid {self.grid}, {f.threads} threads and "
            f"{human(f.shared_bytes)} of shared memory a block: {error.message}"
        )

    @functools.cached_property
    def node_params(self) -> Any:
        """The same launch as the driver's parameters of a graph node.

        They refer to the arguments, which may change; so they are made once.
        """
        params = bindings().CUDA_KERNEL_NODE_PARAMS()
        params.func = self.function.handle
        params.gridDimX, params.gridDimY, params.gridDimZ = self.grid
        params.blockDimX, params.blockDimY, params.blockDimZ = self.function.threads, 1, 1
        params.sharedMemBytes = self.function.shared_bytes
        params.kernelParams = self.arguments.pointer
        return params
