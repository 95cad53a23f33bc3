"""AdamW alone over the parameters of GPT-2 124M: what is read and written, over time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lowgrad
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.rivals import STEPS, first_line
from benchmarks.gpu_parts.row import OURS, Row, Side

SHARE_OF_COPY = 0.90
# Parameter and two moments read and written, the gradient read: seven times four bytes.
BYTES = 28


def shapes(is_tiny: bool) -> list[tuple[int, ...]]:
    """Of GPT-2 124M's parameters, in order."""
    if is_tiny:
        return [(24, 16), (16,), (33,)]
    block = [(768,), (768,), (2304, 768), (2304,), (768, 768), (768,)]
    block += [(768,), (768,), (3072, 768), (3072,), (768, 3072), (768,)]
    return [(50304, 768), (1024, 768), *block * 12, (768,), (768,)]


def adamw(bench: Bench) -> None:
    """One update of all parameters in float32."""
    bench.row("AdamW, 124M parameters", lambda: _adamw(bench))


def _adamw(bench: Bench) -> Row:
    sizes = shapes(bench.is_tiny)
    count = sum(_product(s) for s in sizes)
    calls: dict[str, Callable[[], Any]] = {}
    notes: dict[str, str] = {}
    values = [bench.normal(*s, dtype="float32", scale=0.02) for s in sizes]
    gradients = [bench.normal(*s, dtype="float32", scale=0.01) for s in sizes]
    mine = [bench.ours(v).clone().detach().requires_grad_() for v in values]
    for parameter, gradient in zip(mine, gradients, strict=True):
        parameter.grad = bench.ours(gradient)
    optimizer = lowgrad.optim.AdamW(mine, lr=1e-3)

    @lowgrad.compile(device=bench.device)
    def update() -> None:
        optimizer.step()

    calls[OURS] = update
    figures = []
    if bench.torch is not None:
        theirs = _rivals(bench, values, gradients, calls, notes)
        update()
        calls["eager"]()
        lowgrad.cuda.synchronize()
        worst = max(bench.error(a, b) for a, b in zip(mine, theirs, strict=True))
        figures.append(Figure("error against PyTorch eager", worst, "of the norm", 2e-4))
    times = bench.clock.kernels(calls)
    row = Row(
        "AdamW, 124M parameters",
        {n: Side(times.get(n), None, notes.get(n, "")) for n in {**calls, **notes}},
        BYTES * count,
        "B",
        bench.copy_rate,
    )
    share = row.fraction()
    if share is not None:
        figures.append(Figure("share of the copy", share, "", SHARE_OF_COPY, at_least=True))
    return Row(row.name, row.sides, row.work, row.unit, row.ceiling, tuple(figures), bench.no_torch)


def _rivals(
    bench: Bench,
    values: list[Any],
    gradients: list[Any],
    calls: dict[str, Callable[[], Any]],
    notes: dict[str, str],
) -> list[Any]:
    """Add PyTorch's fused AdamW, and its plain one compiled; the parameters of the first."""
    torch = bench.torch
    assert torch is not None, "asked before"
    first = [v.clone().requires_grad_() for v in values]
    second = [v.clone().requires_grad_() for v in values]
    for parameters in (first, second):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
    fused = torch.top.optim.AdamW(first, lr=1e-3, fused=True)
    calls["eager"], notes["eager"] = fused.step, "fused=True"
    plain = torch.top.optim.AdamW(second, lr=1e-3)
    try:
        limit = min(150.0, bench.left_s() / 3)
        made, notes["compile"] = torch.compiled(
            plain.step, lambda f: f(), modes=STEPS[1:], limit_s=limit
        )
        calls["compile"] = made
    except Exception as error:
        notes["compile"] = first_line(error)
    return first


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for size in shape:
        total *= size
    return total
