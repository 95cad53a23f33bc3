"""The ceilings by themselves: a copy, cuBLAS, and what the model of this GPU assumes of both."""

from __future__ import annotations

from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.row import Row
from lowgrad.codegen.gpus import spec_of
from lowgrad.runtime.cuda.streams import current_gpu


def ceilings(bench: Bench) -> None:
    """A row each."""
    spec = spec_of(current_gpu().target)
    assert spec is not None, "the device is a GPU of NVIDIA's"

    def copy() -> Row:
        figures = (
            Figure("measured", bench.copy_rate / 1e12, "TB/s"),
            Figure(f"the model's {spec.name}", spec.dram / 1e12, "TB/s"),
        )
        return Row("copy of 1 GiB", figures=figures)

    def product() -> Row:
        figures = (
            Figure("measured", bench.product_rate / 1e12, "TFLOP/s"),
            Figure(f"the model's {spec.name}", spec.half_flops / 1e12, "TFLOP/s"),
        )
        return Row("cuBLAS, bfloat16 8192^3", figures=figures, note=bench.no_torch)

    bench.row("copy of 1 GiB", copy)
    bench.row("cuBLAS, bfloat16 8192^3", product)
