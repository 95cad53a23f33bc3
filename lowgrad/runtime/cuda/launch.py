"""Launching compiled kernels: modules, packed arguments, `cuLaunchKernelEx`.

The parameter block of a Triton kernel is its arguments that are no constants, in order, then two
pointers to scratch memory of Triton's own. An argument that is a descriptor is five: the
descriptor, the sizes as i32, the strides as i64. The block is packed once; a launch passes its
address, and a buffer that moved is eight bytes to overwrite, or a descriptor to encode anew.
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
from lowgrad.runtime.cuda.tensor_map import NBYTES, TensorMap
from lowgrad.runtime.memory import human

# Above this a kernel must be allowed its shared memory by an attribute.
FREE_SHARED_BYTES = 48 * 1024
WARP = 32
HIDDEN = 2  # global scratch, profiler's scratch
WORD = 8
MAP_WORDS = NBYTES // WORD
# A descriptor's sizes and strides; a pointer is one.
WORDS_PER_ARGUMENT = 4


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
        encodings: Sequence[tuple[tuple[int, int], int, int, int]] = (),
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
        # Of each argument that is a descriptor: block, element type, its bytes, swizzle.
        self.encodings = encodings
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
    """The parameter block of one launch, packed where the driver reads it.

    maps: for each argument, how it is described; None for a pointer.
    """

    def __init__(self, maps: Sequence[TensorMap | None]) -> None:
        self._maps = {at: tensor_map for at, tensor_map in enumerate(maps) if tensor_map}
        words = MAP_WORDS * len(self._maps) + WORDS_PER_ARGUMENT * len(maps) + HIDDEN
        block = np.zeros(words + MAP_WORDS, np.uint64)
        # Descriptors come first, since they must lie at multiples of their size.
        skipped = -block.ctypes.data % NBYTES // WORD
        self._values = block[skipped : skipped + words]
        start = self._values.ctypes.data
        map_at, at = 0, MAP_WORDS * len(self._maps)
        # What the driver wants is an array of the addresses of the values.
        addresses: list[int] = []
        # The word of each argument's pointer, or of its descriptor.
        self._words: list[int] = []
        for tensor_map in maps:
            if tensor_map is None:
                self._words.append(at)
                addresses.append(start + WORD * at)
                at += 1
                continue
            self._words.append(map_at)
            addresses.append(start + WORD * map_at)
            map_at += MAP_WORDS
            rows, cols = tensor_map.shape
            # An i32 in a word of its own: the lower half, as the machine is little-endian.
            for value in (rows, cols, cols, 1):
                self._values[at] = value
                addresses.append(start + WORD * at)
                at += 1
        self._hidden = at
        addresses += [start + WORD * (at + i) for i in range(HIDDEN)]
        self._addresses = np.array(addresses, np.uint64)
        self.pointer = self._addresses.ctypes.data

    def fill(self, pointers: Sequence[int], scratch: int = 0) -> None:
        """Set all pointers, and where Triton's scratch is."""
        for position, pointer in enumerate(pointers):
            self.set(position, pointer)
        self._values[self._hidden] = scratch

    def set(self, position: int, pointer: int) -> None:
        """Let the argument at `position` be at `pointer`. Raises LaunchError."""
        word = self._words[position]
        tensor_map = self._maps.get(position)
        if tensor_map is None:
            self._values[word] = pointer
        else:
            tensor_map.encode(pointer, self._values.ctypes.data + WORD * word)


class Launch:
    """A function with its grid and its arguments, ready to be started again and again.

    maps: of the arguments that are descriptors; all others are pointers.
    """

    def __init__(
        self,
        function: Function,
        grid: tuple[int, ...],
        pointers: Sequence[int],
        maps: Sequence[TensorMap | None] = (),
    ) -> None:
        self.function = function
        self.grid = (*grid, 1, 1)[:3]
        self.arguments = Arguments(maps or [None] * len(pointers))
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
