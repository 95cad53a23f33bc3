"""What a compiler made of a kernel, and how long it should take: without a GPU."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lowgrad.codegen.gpus import LAUNCH, spec_of
from lowgrad.codegen.kernel import Dot, Kernel, walk

if TYPE_CHECKING:
    from lowgrad.codegen.triton.compile import Binary

# Instructions of tensor cores, in PTX and in GCN assembly, and what to call them.
TENSOR_CORES = {
    "tcgen05": r"\btcgen05\.mma",
    "wgmma": r"\bwgmma\.mma_async",
    "mma": r"\bmma\.sync",
    "mfma": r"\bv_s?mfma_",
}
# Copies to shared memory that a program does not wait for.
ASYNC_COPIES = {
    "tma": r"\bcp\.async\.bulk\.tensor",
    "cp.async": r"\bcp\.async\.c[ag]\.",
    "lds": r"\b(?:global|buffer)_load_\S* .*\blds\b|\bglobal_load_lds_",
}
PTX_ACCESS = re.compile(r"\b(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[bfus](\d+)\b")
PTX_COPY = re.compile(r"\bcp\.async\.c[ag]\.\S+ \[[^\]]*\], *\[[^\]]*\], *(0x[\da-f]+|\d+)")
GCN_ACCESS = re.compile(r"\b(?:global|buffer)_(?:load|store)_(?:dwordx(\d)|b(\d+)|(dword)\b)")


@dataclass(frozen=True)
class KernelFacts:
    """One kernel of a step, compiled for one architecture.

    times: how often a step launches it.
    seconds: of one launch by the roofline: bytes at the memory's rate or operations at the
    arithmetic's, whichever takes longer, and the launch; None for an architecture without rates.
    """

    kernel: Kernel
    times: int
    binary: Binary
    seconds: float | None

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.kernel.flops / max(self.kernel.bytes_read + self.kernel.bytes_written, 1)

    @property
    def tensor_cores(self) -> str:
        """The kind of tensor-core instruction in the machine code: "wgmma"; "" if none."""
        return _first(TENSOR_CORES, self.binary.asm)

    @property
    def async_copies(self) -> str:
        """The kind of asynchronous copy in it: "tma", "cp.async"; "" if none."""
        return _first(ASYNC_COPIES, self.binary.asm)

    @property
    def vector_bits(self) -> int:
        """Bits of the widest access to global memory; 0 if descriptors do them all."""
        asm = self.binary.asm
        if self.binary.ptx is None:
            return max((_gcn_bits(m) for m in GCN_ACCESS.finditer(asm)), default=0)
        accesses = [int(m[1] or 1) * int(m[2]) for m in PTX_ACCESS.finditer(asm)]
        accesses += [8 * int(m[1], 0) for m in PTX_COPY.finditer(asm)]
        return max(accesses, default=0)


def facts_of(kernel: Kernel, times: int, binary: Binary) -> KernelFacts:
    """The facts about `kernel`, which became `binary`."""
    model = modelled(kernel, binary.target)
    return KernelFacts(kernel, times, binary, None if model is None else model.seconds)


class Modelled(NamedTuple):
    """The roofline's time of one launch, and what limits it: "memory", "arithmetic", "launch"."""

    seconds: float
    bound: str


def modelled(kernel: Kernel, target: str) -> Modelled | None:
    """By the rates of `target` ("cuda:90"); None if they are unknown."""
    spec = spec_of(target)
    if spec is None:
        return None
    rate = spec.float_flops
    dots = [s for s in walk(kernel.body) if isinstance(s, Dot)]
    if dots and dots[0].fn == "dot":
        operands = [p.type.dtype for p in kernel.params if p.role == "in"]
        narrow = next((d for d in operands if d.is_low_precision), None)
        if narrow is not None:
            rate = spec.flops(narrow, dots[0].precision)
        elif dots[0].precision != "ieee":
            rate = spec.tf32_flops
    moved = (kernel.bytes_read + kernel.bytes_written) / spec.dram
    worked = kernel.flops / rate
    longest = max((moved, "memory"), (worked, "arithmetic"), (LAUNCH, "launch"))
    return Modelled(LAUNCH + max(moved, worked), longest[1])


def _first(patterns: dict[str, str], text: str) -> str:
    return next((name for name, pattern in patterns.items() if re.search(pattern, text)), "")


def _gcn_bits(match: re.Match[str]) -> int:
    if match[2]:
        return int(match[2])
    return 32 * int(match[1] or 1)
