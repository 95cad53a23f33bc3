"""Causal attention, head size 128, bfloat16: forward, and the backward by difference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.contest import Contest, contest
from benchmarks.gpu_parts.row import Row

LENGTHS = [1024, 2048, 4096, 8192, 16384]
TOKENS, HEADS, SIZE = 16384, 16, 128
# Where the targets are set: TFLOP/s of the forward, and the backward's rate to the forward's.
BOUNDED, LEAST_TFLOPS, BACKWARD = 8192, 450.0, 0.60
# Five products where the forward has two.
BACKWARD_WORK = 2.5


def attention(bench: Bench) -> None:
    """Sequences of 1K to 16K, as many of them as make 16K tokens."""
    for length in [32] if bench.is_tiny else LENGTHS:
        batch = 1 if bench.is_tiny else TOKENS // length
        heads, size = (2, 16) if bench.is_tiny else (HEADS, SIZE)
        shape = (batch, heads, length, size)
        times: dict[str, float] = {}
        forward, both = (f"attention {w}, {_shown(shape)}" for w in ("forward", "with gradients"))
        bench.row(forward, lambda s=shape, t=times, n=forward: _forward(bench, s, t, n))
        bench.row(both, lambda s=shape, t=times, n=both: _with_gradients(bench, s, t, n))


def _shown(shape: tuple[int, ...]) -> str:
    return " x ".join(str(s) for s in shape)


def _call(lib: Any, q: Any, k: Any, v: Any) -> Any:
    return lib.F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _flops(shape: tuple[int, ...]) -> float:
    """Of the forward: two products, and of each the half that the mask leaves."""
    batch, heads, length, size = shape
    return 2 * 2 * batch * heads * length * length * size / 2


def _is_bounded(shape: tuple[int, ...]) -> bool:
    return shape[2] in (BOUNDED, 32)


def _forward(bench: Bench, shape: tuple[int, ...], times: dict[str, float], label: str) -> Row:
    tensors = tuple(bench.normal(*shape) for _ in range(3))
    row = contest(bench, Contest(label, _call, tensors, _flops(shape), "FLOP"), memory=True)
    times |= {name: side.ms for name, side in row.sides.items() if side.ms is not None}
    rate = row.rate()
    if rate is None:
        return row
    least = LEAST_TFLOPS if _is_bounded(shape) else None
    figure = Figure("forward", rate / 1e12, "TFLOP/s", least, at_least=True)
    return replace(row, figures=(*row.figures, figure))


def _with_gradients(
    bench: Bench, shape: tuple[int, ...], times: dict[str, float], label: str
) -> Row:
    tensors = tuple(bench.normal(*shape) for _ in range(4))
    flops = _flops(shape)
    whole = (1 + BACKWARD_WORK) * flops
    of = Contest(label, _call, tensors, whole, "FLOP", (0, 1, 2), seeded=True)
    row = contest(bench, of, memory=True)
    figures = list(row.figures)
    if row.ours_ms is not None and "lowgrad" in times and row.ours_ms > times["lowgrad"]:
        backward_s = (row.ours_ms - times["lowgrad"]) * 1e-3
        rate = BACKWARD_WORK * flops / backward_s
        share = rate / (flops / (times["lowgrad"] * 1e-3))
        least = BACKWARD if _is_bounded(shape) else None
        figures.append(Figure("backward", rate / 1e12, "TFLOP/s"))
        figures.append(Figure("backward's rate / forward's", share, "", least, at_least=True))
    return replace(row, figures=tuple(figures))
