"""Products in bfloat16 against cuBLAS, and what an epilogue costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lowgrad
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.contest import Contest, contest
from benchmarks.gpu_parts.row import OURS, Row

SQUARES = [(n, n, n) for n in (1024, 2048, 4096, 8192)]
# (M, N, K): of GPT-2 124M at 64 x 1024 tokens, then of a model of width 4096 at 8192 tokens.
TRANSFORMERS = [
    *((65536, 2304, 768), (65536, 768, 768), (65536, 3072, 768), (65536, 768, 3072)),
    *((65536, 50304, 768), (8192, 12288, 4096), (8192, 16384, 4096), (8192, 4096, 16384)),
]
TINY = [(32, 48, 64)]
LARGE = (8192, 8192, 8192)
# torch.compile may choose among templates there; the other shapes would take its time for nothing.
AUTOTUNED = ((4096, 4096, 4096), LARGE)
SHARE_OF_CUBLAS, EPILOGUE = 0.88, 1.02


def matmul(bench: Bench) -> None:
    """Squares of 1024 to 8192, and the shapes of transformers."""
    for shape in TINY if bench.is_tiny else [*SQUARES, *TRANSFORMERS]:
        bench.row(_label("matmul", shape), lambda shape=shape: _matmul(bench, shape))


def linear_gelu(bench: Bench) -> None:
    """gelu(x @ w.T + b): against cuBLAS alone, and against lowgrad's product alone."""
    for shape in TINY if bench.is_tiny else [LARGE, (65536, 3072, 768), (8192, 16384, 4096)]:
        bench.row(_label("linear + bias + GELU", shape), lambda shape=shape: _linear(bench, shape))


def _label(name: str, shape: tuple[int, int, int]) -> str:
    m, n, k = shape
    return f"{name}, {m} x {n} x {k}"


def _matmul(bench: Bench, shape: tuple[int, int, int]) -> Row:
    m, n, k = shape
    a, b = bench.normal(m, k), bench.normal(k, n)
    of = Contest(
        _label("matmul", shape),
        lambda lib, a, b: a @ b,
        (a, b),
        2 * m * n * k,
        "FLOP",
        compiles=bench.is_tiny or shape in AUTOTUNED,
        autotune_s=90,
    )
    row = contest(bench, of)
    eager = row.sides.get("eager")
    if eager is None or not eager.ms or not row.ours_ms:
        return row
    least = SHARE_OF_CUBLAS if shape in (LARGE, *TINY) else None
    share = Figure("share of cuBLAS", eager.ms / row.ours_ms, "", least, at_least=True)
    return replace(row, figures=(*row.figures, share))


def _linear(bench: Bench, shape: tuple[int, int, int]) -> Row:
    m, n, k = shape
    x, w, b = bench.normal(m, k), bench.normal(n, k, scale=k**-0.5), bench.normal(n)

    def call(lib: Any, x: Any, w: Any, b: Any) -> Any:
        return lib.F.gelu(lib.F.linear(x, w, b))

    label = _label("linear + bias + GELU", shape)
    row = contest(bench, Contest(label, call, (x, w, b), 2 * m * n * k, "FLOP", autotune_s=90))
    functional = bench.own.F
    ours = tuple(bench.ours(t) for t in (x, w, b))
    plain = lowgrad.compile(lambda x, w: functional.linear(x, w), device=bench.device)
    fused = lowgrad.compile(lambda x, w, b: functional.gelu(functional.linear(x, w, b)))
    calls = {OURS: lambda: fused(*ours), "plain": lambda: plain(*ours[:2])}
    if bench.torch is not None:
        linear = bench.torch.top.nn.functional.linear
        calls["cublas"] = lambda: linear(x, w)
    times = bench.clock.kernels(calls)
    is_bounded = shape in (LARGE, *TINY)
    share, free = (SHARE_OF_CUBLAS, EPILOGUE) if is_bounded else (None, None)
    figures = [Figure("with epilogue / without", times[OURS] / times["plain"], "x", free)]
    if "cublas" in times:
        figures.append(
            Figure("share of cuBLAS", times["cublas"] / times[OURS], "", share, at_least=True)
        )
    return replace(row, figures=(*row.figures, *figures))
