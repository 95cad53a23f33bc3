"""A GPU for tests without one: a driver library whose launches Triton's interpreter runs.

`libcuda.c` is compiled with the C compiler that is there, or with the one in the package `ziglang`.
Device memory is host memory, so a kernel is handed arrays on it. Work is queued until somebody
waits, as on a GPU. `Mock.log` is every call of the driver since the last `reset`.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.step import job_of
from lowgrad.codegen.triton.compile import Binary, Job
from lowgrad.codegen.triton.store import job_key

SOURCE = Path(__file__).parent / "cuda" / "libcuda.c"
POINTER_BYTES = 8
HIDDEN = 2  # global scratch and profiler's scratch, behind every Triton kernel's own arguments
FAULT = 700  # CUDA_ERROR_ILLEGAL_ADDRESS
GIB = 1 << 30

OnFunction = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_int),
    ctypes.POINTER(ctypes.c_int),
)
OnLaunch = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.c_uint,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_void_p,
)


def compiler() -> list[str] | None:
    """A C compiler's command, None if there is none."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    return None


@functools.cache
def library() -> Any:
    """The mock driver, loaded so that who asks for libcuda.so.1 gets it."""
    import triton

    command = compiler()
    assert command is not None, "no C compiler: pip install ziglang"
    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(command).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"lowgrad-mock-{os.getuid()}-{key}"
    built = folder / "libcuda.so.1"
    if not built.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        part = folder / f"libcuda.{os.getpid()}.so"
        flags = ["-shared", "-fPIC", "-O1", "-w", f"-I{include}", "-Wl,-soname,libcuda.so.1"]
        done = subprocess.run(
            [*command, *flags, "-o", str(part), str(SOURCE), "-ldl"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        os.replace(part, built)
    loaded = ctypes.CDLL(str(built), mode=ctypes.RTLD_GLOBAL)
    loaded.mock_log.restype = ctypes.c_char_p
    loaded.mock_used.restype = loaded.mock_peak.restype = ctypes.c_size_t
    loaded.mock_configure.argtypes = [ctypes.c_int] * 4 + [ctypes.c_size_t] * 2
    return loaded


class Mock:
    """The one GPU of a test process."""

    def __init__(self) -> None:
        self.lib = library()
        self.kernels: dict[str, list[Kernel]] = {}
        self.compiled: list[str] = []
        self.check = True
        self.errors: list[str] = []
        self.seen: dict[int, Any] = {}
        self._ids: list[list[Kernel]] = []
        self._by_image: dict[bytes, list[Kernel]] = {}
        # Kept, since the library holds only their addresses.
        self._callbacks = (OnFunction(self._on_function), OnLaunch(self._on_launch))
        self.lib.mock_callbacks(*self._callbacks)
        self.configure()

    def configure(
        self,
        *,
        lazy: bool = True,
        devices: int = 2,
        capability: int = 90,
        pools: bool = True,
        memory: int = 16 * GIB,
        shared: int = 232448,
    ) -> None:
        """What GPUs there are, and whether work waits until somebody asks for it."""
        self.lib.mock_configure(lazy, devices, capability, pools, memory, shared)

    def reset(self) -> None:
        """Forget the log, planned failures and faults."""
        self.lib.mock_reset()
        self.errors.clear()
        self.compiled.clear()

    @property
    def log(self) -> list[str]:
        """The calls of the driver, a line each."""
        return self.lib.mock_log().decode().splitlines()

    def calls(self, name: str) -> list[str]:
        """Those of one function."""
        return [line for line in self.log if line.split()[0] == name]

    @property
    def used(self) -> int:
        """Bytes of device memory that are allocated."""
        return int(self.lib.mock_used())

    @property
    def peak(self) -> int:
        """The most of `used` since the last reset."""
        return int(self.lib.mock_peak())

    def fail(self, name: str, status: int, after: int = 0) -> None:
        """Let the driver's function `name` return `status` once, after so many successes."""
        self.lib.mock_fail(name.encode(), after, status)

    # --- Kernels ---

    def functions(self, kernels: Any, device: Any) -> Any:
        """As codegen's, noting every kernel: equal text may be launched on several sizes."""
        from lowgrad.codegen.cuda.functions import functions

        known = list(kernels)
        for kernel in known:
            self.note(kernel, device.target)
        return functions(known, device)

    def note(self, kernel: Kernel, target: str) -> str:
        """Let launches of this kernel's job be its own; the job's key."""
        key = job_key(job_of(kernel, target))
        kept = self.kernels.setdefault(key, [])
        if all(k.grid != kernel.grid or k.params != kernel.params for k in kept):
            kept.append(kernel)
        return key

    def fake_compiled(self, jobs: list[Job]) -> list[Binary]:
        """Binaries whose machine code is the job's key: the interpreter needs no compiler."""
        made = []
        for job in jobs:
            key = job_key(job)
            self.compiled.append(job.name)
            image = key.encode()
            made.append(
                Binary(
                    job.name, job.target, "", image, job.num_warps, job.num_stages, False, 1024, 0
                )
            )
            self._by_image[image] = self.kernels[key]
        return made

    def known(self, binary: bytes, kernel: Kernel) -> None:
        """Let a real binary's launches be `kernel`'s."""
        self._by_image.setdefault(binary[:64], []).append(kernel)

    def _on_function(self, image: int, name: bytes, sizes: Any, number: Any) -> int:
        head = ctypes.string_at(image, 64)
        kernels = self._by_image[head]
        number[0] = len(self._ids)
        self._ids.append(kernels)
        count = len(kernels[0].params) + HIDDEN
        for position in range(count):
            sizes[position] = POINTER_BYTES
        return count

    def _on_launch(
        self, number: int, name: bytes, grid: Any, block: Any, shared: int, params: Any, stream: Any
    ) -> int:
        try:
            launched = tuple(grid[:3])
            kernel = next(k for k in self._ids[number] if (*k.grid, 1, 1)[:3] == launched)
            assert block[0] == 32 * kernel.num_warps
            arrays = []
            for position, param in enumerate(kernel.params):
                pointer = ctypes.cast(params[position], ctypes.POINTER(ctypes.c_uint64))[0]
                assert pointer % 16 == 0, f"{param.name} is at {pointer:#x}"
                arrays.append(_array_at(pointer, param))
            self._run(kernel, arrays)
        except BaseException:
            self.errors.append(traceback.format_exc())
            return FAULT
        return 0

    def _run(self, kernel: Kernel, arrays: list[Any]) -> None:
        from lowgrad.codegen.triton.interpret import interpret
        from lowgrad.codegen.triton.load import load

        fn = load(kernel.source, kernel.name)
        interpret(fn, kernel.grid, arrays, kernel.constants, check=self.check)


def _array_at(pointer: int, param: Any) -> Any:
    nbytes = param.type.nbytes
    if nbytes == 0:
        return np.empty(param.type.shape, param.type.dtype.numpy)
    raw = (ctypes.c_uint8 * nbytes).from_address(pointer)
    return np.frombuffer(raw, np.uint8).view(param.type.dtype.numpy).reshape(param.type.shape)


@functools.cache
def the_mock() -> Mock:
    """The mock of this process: a driver is loaded once."""
    return Mock()


@contextmanager
def mocked(patch: Any, **settings: Any) -> Iterator[Mock]:
    """Inside, "cuda" is the mock, and kernels are interpreted."""
    from lowgrad.codegen.cuda import executable, functions
    from lowgrad.runtime.cuda import gpu

    mock = the_mock()
    mock.configure(**settings)
    mock.reset()
    gpu._gpus.update(mock.seen)
    gpu.started.cache_clear()
    patch.setattr(executable, "functions", mock.functions)
    patch.setattr(functions, "compiled", mock.fake_compiled)
    try:
        yield mock
    finally:
        mock.reset()
        # For other tests this machine has no GPU; arrays and kernels of this one keep theirs.
        mock.seen.update(gpu._gpus)
        gpu._gpus.clear()
        gpu.started.cache_clear()
        mock.configure(devices=0)
