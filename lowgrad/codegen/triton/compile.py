"""Cross-compile a kernel for a GPU that need not be present, and read what the compiler made of it.

Targets are `cuda:<compute capability without the dot>` and `hip:<architecture>`.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lowgrad import config
from lowgrad.codegen.gpus import check_target
from lowgrad.codegen.triton.load import load, require_triton
from lowgrad.codegen.triton.lock import language_lock
from lowgrad.errors import ArgumentError, CompileError


class Encoding(NamedTuple):
    """Of one descriptor, what cuTensorMapEncodeTiled is to be told besides address and shape.

    block: rows and columns that one copy takes, which may be fewer than the kernel's block has.
    swizzle, element: the driver's CUtensorMapSwizzle, and Triton's number of the element type.
    """

    block: tuple[int, int]
    element: int
    itemsize: int
    swizzle: int


@dataclass(frozen=True)
class Binary:
    """One kernel compiled for one target.

    asm: PTX, or GCN assembly.  binary: cubin, or hsaco.
    shared_bytes: memory of one block, as the launch must ask for it.
    scratch_bytes: global memory of one block, which the launch must pass (0: none).
    descriptors: of each argument that is one, in order, how the driver must encode it; empty where
    the target has no such thing (`Encoding`).
    """

    name: str
    target: str
    asm: str = field(repr=False)
    binary: bytes = field(repr=False)
    num_warps: int
    num_stages: int
    enable_fp_fusion: bool
    shared_bytes: int
    scratch_bytes: int
    descriptors: tuple[Encoding, ...] = ()

    @property
    def registers(self) -> int:
        """Of one thread."""
        return self._usage.registers

    @property
    def spill_bytes(self) -> int:
        """Memory of one thread for what did not fit into registers."""
        return self._usage.spill_bytes

    @property
    def occupancy(self) -> float:
        """Of the warps that one multiprocessor can hold, the share that this kernel lets it."""
        return self._usage.occupancy

    @functools.cached_property
    def _usage(self) -> _Usage:
        # Read when first asked for: a disassembler has to be started for it.
        return (_read_cuda if self.cubin is not None else _read_hip)(self)

    @property
    def ptx(self) -> str | None:
        """PTX text, for CUDA."""
        return self.asm if self.target.startswith("cuda:") else None

    @property
    def cubin(self) -> bytes | None:
        """Machine code, for CUDA."""
        return self.binary if self.target.startswith("cuda:") else None

    @functools.cached_property
    def sass(self) -> str:
        """Machine code as text: disassembled for CUDA when first asked for."""
        if self.cubin is None:
            return self.asm
        return _cuobjdump(self.cubin, "-sass")


@dataclass(frozen=True)
class Job:
    """The arguments of one `cross_compile`.

    signature: {argument: Triton type}, without the constants: "*bf16", "i32", or of a descriptor
    "tensordesc<bf16[128, 64]>".
    constants: {constexpr argument: value}.
    divisible: arguments that are multiples of 16, pointers in bytes. Whoever launches guards it.
    """

    source: str
    name: str
    signature: Mapping[str, str]
    constants: Mapping[str, object]
    divisible: tuple[str, ...]
    target: str
    num_warps: int = 4
    num_stages: int = 3
    enable_fp_fusion: bool = False


def cross_compile(
    source: str,
    name: str,
    signature: Mapping[str, str],
    constants: Mapping[str, object],
    divisible: tuple[str, ...],
    target: str,
    num_warps: int = 4,
    num_stages: int = 3,
    enable_fp_fusion: bool = False,
) -> Binary:
    """Compile the kernel called `name` in `source`; the arguments are those of `Job`.

    The same arguments give the same bytes, in any folder and process.
    Raises CompileError with the compiler's first useful line, ArgumentError for a wrong target or
    an argument that the kernel does not have.
    """
    return compile_job(
        Job(
            source,
            name,
            signature,
            constants,
            divisible,
            target,
            num_warps,
            num_stages,
            enable_fp_fusion,
        )
    )


def compile_job(job: Job) -> Binary:
    """`cross_compile` of one Job."""
    target = _gpu_target(job.target)
    kernel = load(job.source, job.name)
    _check_arguments(job, kernel.arg_names)
    with language_lock:
        try:
            with _switches(), _stderr_in_a_file() as noise:
                compiled = _compile(job, kernel, target)
        except Exception as error:
            line = _first_useful_line(str(error), noise.text)
            raise CompileError(f"{job.name}: does not compile for {job.target}: {line}") from error
        # What others wrote to stderr meanwhile; after a failure a dump of the module is among it.
        _write_stderr(noise.written)
        return _binary(job, compiled)


def _gpu_target(target: str) -> Any:
    require_triton()
    from triton.backends.compiler import GPUTarget

    backend, _, arch = check_target(target).partition(":")
    if backend == "cuda":
        return GPUTarget("cuda", int(arch), 32)
    # CDNA (gfx9) has wavefronts of 64 lanes, RDNA of 32.
    return GPUTarget("hip", arch, 64 if arch.startswith("gfx9") else 32)


def _check_arguments(job: Job, arg_names: Sequence[str]) -> None:
    if unknown := [n for n in job.divisible if n not in job.signature]:
        raise ArgumentError(f"{job.name}: divisible names {unknown}, not in the signature")
    given = [*job.signature, *job.constants]
    if sorted(given) != sorted(arg_names):
        raise ArgumentError(
            f"{job.name}: signature and constants name {given}, the kernel takes {[*arg_names]}"
        )


def _compile(job: Job, kernel: Any, target: Any) -> Any:
    from triton.compiler import ASTSource, compile

    # In the kernel's own order: the position of an argument is its place in the parameter block.
    signature = {n: job.signature.get(n, "constexpr") for n in kernel.arg_names}
    hints = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in sorted(job.divisible)}
    options = {
        "num_warps": job.num_warps,
        "num_stages": job.num_stages,
        "enable_fp_fusion": job.enable_fp_fusion,
    }
    return compile(
        ASTSource(kernel, signature, dict(job.constants), hints), target=target, options=options
    )


# --- Triton's switches and its stderr ----------------------------------------------------------


@contextlib.contextmanager
def _switches() -> Iterator[None]:
    from triton import knobs

    with knobs.compilation.scope(), knobs.cache.scope():
        # Line info holds the source's path: without it the same text gives the same bytes.
        knobs.compilation.disable_line_info = True
        # Triton's own disk cache serves truncated files as they are, so it is written, not read.
        knobs.compilation.always_compile = True
        knobs.cache.dir = str(config.cache_dir() / "triton")
        yield


@dataclass
class _Noise:
    """What was written to file 2 while it was a file of ours; known when that is over."""

    written: bytes = b""

    @property
    def text(self) -> str:
        return self.written.decode(errors="replace")


@contextlib.contextmanager
def _stderr_in_a_file() -> Iterator[_Noise]:
    """While a kernel compiles: a pass that fails prints its reason only to stderr."""
    noise = _Noise()
    with tempfile.TemporaryFile() as file:
        saved = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield noise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            noise.written = file.read()


def _write_stderr(text: bytes) -> None:
    while text:
        text = text[os.write(2, text) :]


def _first_useful_line(error: str, noise: str) -> str:
    """The line to show of an exception's text and of what the compiler printed."""
    for line in noise.splitlines():
        if match := re.search(r"(error: .*|Assertion .*|LLVM ERROR.*)", line):
            return match[1]
    # Triton's front end shows the source, then a caret, then says what is wrong.
    lines = [line.strip() for line in error.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


# --- What the compiler made --------------------------------------------------------------------


class _Usage(NamedTuple):
    registers: int
    spill_bytes: int
    occupancy: float


def _binary(job: Job, compiled: Any) -> Binary:
    is_cuda = job.target.startswith("cuda:")
    metadata = compiled.metadata
    return Binary(
        name=job.name,
        target=job.target,
        asm=compiled.asm["ptx" if is_cuda else "amdgcn"],
        binary=compiled.asm["cubin" if is_cuda else "hsaco"],
        # Warp specialisation raises it above what was asked for, and the launch must follow.
        num_warps=metadata.num_warps,
        num_stages=job.num_stages,
        enable_fp_fusion=job.enable_fp_fusion,
        shared_bytes=metadata.shared,
        scratch_bytes=getattr(metadata, "global_scratch_size", 0) or 0,
        descriptors=tuple(
            Encoding(tuple(m["block_size"]), m["elem_type"], m["elem_size"], m["swizzle"])
            for m in getattr(metadata, "tensordesc_meta", None) or ()
            if m is not None
        ),
    )


def _read_cuda(binary: Binary) -> _Usage:
    usage = _resource_usage(_cuobjdump(binary.binary, "--dump-resource-usage"), binary.name)
    capability = int(binary.target.partition(":")[2])
    # Triton kernels have no arrays of their own, so all of a thread's stack is spills.
    return _Usage(
        usage["REG"],
        usage["STACK"] + usage["LOCAL"],
        _cuda_occupancy(capability, binary.num_warps, usage["REG"], binary.shared_bytes),
    )


def _resource_usage(text: str, name: str) -> dict[str, int]:
    """{"REG": 32, "STACK": 0, ...} of one function in cuobjdump's text."""
    match = re.search(rf"Function {re.escape(name)}:\s*\n?\s*(REG:.*)", text)
    if match is None:
        raise CompileError(f"{name}: cuobjdump shows no resource usage")
    return {key: int(value) for key, value in re.findall(r"([A-Z]+):(\d+)", match[1])}


def _cuobjdump(cubin: bytes, option: str) -> str:
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, option, file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CompileError(f"cuobjdump {option} failed: {done.stderr.strip()}")
    return done.stdout


def _cuda_occupancy(capability: int, num_warps: int, registers: int, shared_bytes: int) -> float:
    """Share of a multiprocessor's warps that run at once: by our formula, not by the driver's.

    Source: NVIDIA, CUDA C++ Programming Guide, "Compute Capabilities", technical specifications.
    """
    max_warps = 48 if capability in (86, 87, 89) or capability >= 120 else 64
    max_blocks = 32
    shared_kib = {80: 164, 87: 164, 86: 100, 89: 100}.get(
        capability, 100 if capability >= 120 else 228
    )
    # Registers come in 256 for a warp, from the 16 Ki of each of the four quarters.
    warp_registers = -(-registers * 32 // 256) * 256
    by_registers = 4 * (16384 // warp_registers) // num_warps
    by_shared = shared_kib * 1024 // (shared_bytes + 1024)  # the system takes 1 KiB of each block
    blocks = min(max_warps // num_warps, max_blocks, by_registers, by_shared)
    return blocks * num_warps / max_warps


def _read_hip(binary: Binary) -> _Usage:
    waves = _number(r"; Occupancy: (\d+)", binary.asm)
    return _Usage(
        _number(r"\.vgpr_count:\s+(\d+)", binary.asm),
        _number(r"\.private_segment_fixed_size:\s+(\d+)", binary.asm),
        # Per SIMD, CDNA holds 8 waves and RDNA 16.
        waves / (8 if binary.target.startswith("hip:gfx9") else 16),
    )


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    if match is None:
        raise CompileError(f"the assembly has no line like {pattern!r}")
    return int(match[1])
