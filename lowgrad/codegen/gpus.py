"""What the choice of blocks must know of a kind of GPU: sizes and rates, by compute capability."""

from __future__ import annotations

from dataclasses import dataclass

from lowgrad.errors import ArgumentError
from lowgrad.ir.types import DType


@dataclass(frozen=True)
class GpuSpec:
    """One kind of GPU, by the largest member of its family.

    block_shared_bytes: the most that one block may have.  shared_bytes: of a multiprocessor.
    half_flops, tf32_flops, float_flops: a second, with f32 sums: 16-bit floats and TF32 on tensor
    cores, f32 on the ordinary ones.
    dram, l2: bytes a second.  clock: cycles a second, under load.
    mma: how tensor cores take their operands: "mma" from registers, "wgmma" from shared memory,
    "tcgen05" from there into a memory of their own.
    """

    name: str
    sms: int
    shared_bytes: int
    block_shared_bytes: int
    half_flops: float
    tf32_flops: float
    float_flops: float
    dram: float
    l2: float
    l2_bytes: int
    clock: float
    mma: str

    def flops(self, dtype: DType, precision: str) -> float:
        """The rate of products of `dtype`; f32 goes to tensor cores unless precision is "ieee"."""
        if dtype.is_low_precision:
            return self.half_flops
        return self.float_flops if precision == "ieee" else self.tf32_flops

    @property
    def has_descriptors(self) -> bool:
        """Whether tiles can be copied by the tensor memory accelerator."""
        return self.mma != "mma"


# Seconds that a launch costs in a CUDA graph, with the ramp-up and the tail of its programs.
LAUNCH = 2.5e-6
KIB, MIB = 1024, 1024 * 1024
# Shared memory: CUDA C++ Programming Guide, "Compute Capabilities", technical specifications.
# Rates, dense: NVIDIA's architecture white papers (A100, GA102, AD102, H100, RTX Blackwell) and
# data sheets (H200, B200).  Second-level cache: 5120 bytes a cycle (A100 white paper, table 4);
# nothing is published of H100 and B200, which get the same for each die at their clocks; of the
# others half.  These, and so the ranking of what they limit, are guesses until measured.
# H200: what a power-limited board is said to sustain, 788 TFLOP/s and 4.3 TB/s, not its peaks.
SPECS = {
    80: GpuSpec(
        "A100", 108, 164 * KIB, 163 * KIB,
        312e12, 156e12, 19.5e12, 2.0e12, 7.2e12, 40 * MIB, 1.41e9, "mma",
    ),
    86: GpuSpec(
        "A40", 84, 100 * KIB, 99 * KIB,
        150e12, 75e12, 37e12, 0.69e12, 4.4e12, 6 * MIB, 1.74e9, "mma",
    ),
    89: GpuSpec(
        "L40S", 142, 100 * KIB, 99 * KIB,
        362e12, 183e12, 91e12, 0.86e12, 6.4e12, 48 * MIB, 2.52e9, "mma",
    ),
    90: GpuSpec(
        "H200", 132, 228 * KIB, 227 * KIB,
        788e12, 394e12, 53e12, 4.3e12, 8.7e12, 50 * MIB, 1.46e9, "wgmma",
    ),
    100: GpuSpec(
        "B200", 148, 228 * KIB, 227 * KIB,
        2250e12, 1125e12, 75e12, 7.7e12, 19e12, 126 * MIB, 1.85e9, "tcgen05",
    ),
    120: GpuSpec(
        "RTX 5090", 170, 100 * KIB, 99 * KIB,
        209e12, 105e12, 105e12, 1.79e12, 6.2e12, 96 * MIB, 2.41e9, "mma",
    ),
}  # fmt: skip


# What Triton's compilers make code for; for anything else some of them end the process.
NVIDIA = (70, 72, 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121)
AMD = (
    *("gfx906", "gfx908", "gfx90a", "gfx942", "gfx950", "gfx1030", "gfx1100", "gfx1101", "gfx1102"),
    *("gfx1200", "gfx1201", "gfx1250"),
)
TARGETS = (*(f"cuda:{c}" for c in NVIDIA), *(f"hip:{a}" for a in AMD))


def check_target(target: str) -> str:
    """`target`, such as "cuda:90". Raises ArgumentError, naming those that there are."""
    if target not in TARGETS:
        raise ArgumentError(
            f'there is no target "{target}"; there are cuda:{", ".join(map(str, NVIDIA))} and '
            f"hip:{', '.join(AMD)}"
        )
    return target


def spec_of(target: str) -> GpuSpec | None:
    """The GPU of a target such as "cuda:90"; None of targets without a model.

    A capability that is not listed is treated as the nearest one below it.
    """
    backend, _, capability = target.partition(":")
    if backend != "cuda" or not capability.isdigit():
        return None
    known = [c for c in SPECS if c <= int(capability)]
    return SPECS[max(known)] if known else None
