"""Whole training steps against PyTorch: time, memory, tokens a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lowgrad
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.contest import results_of
from benchmarks.gpu_parts.rivals import STEPS, first_line, is_out_of_memory
from benchmarks.gpu_parts.row import OURS, Row, Side
from benchmarks.gpu_parts.training import gpt2 as gpt2_size
from benchmarks.gpu_parts.training import gpt_step, program, small

BATCHES = (64, 32, 16, 8)
FASTER, LESS_MEMORY = 1.1, 0.7
SAME_LOSS_F32, SAME_LOSS_BF16 = 1e-3, 2e-2  # relative, of the first steps


@dataclass
class Found:
    """What one side's step took. bytes: the most of its library's memory, all of it counted."""

    ms: float | None = None
    bytes: int | None = None
    first_s: float = 0.0
    losses: list[float] = field(default_factory=list)
    note: str = ""


def small_steps(bench: Bench) -> None:
    """The classifier and the wide net, in float32."""
    for name, make in small(bench.is_tiny).items():
        bench.row(f"{name}, a step", lambda name=name, make=make: _small(bench, name, make))


def _small(bench: Bench, name: str, make: Callable[[Any], Any]) -> Row:
    sides = {OURS: _ours(bench, lambda: program(bench.own, make, bench.device))}
    if bench.torch is not None:
        torch, theirs = bench.torch, bench.theirs
        place = torch.device

        def eager() -> tuple[Any, tuple[Any, ...], str]:
            made = program(theirs, make, place)
            return made.step, made.batch, ""

        def compiled() -> tuple[Any, tuple[Any, ...], str]:
            made = program(theirs, make, place)
            limit = min(90.0, bench.left_s() / 3)
            fast, note = torch.compiled(
                made.step, lambda f: f(*made.batch), modes=STEPS, limit_s=limit
            )
            return fast, made.batch, note

        sides["eager"] = _theirs(bench, eager)
        sides["compile"] = _theirs(bench, compiled, has_run=True)
    figures = _agreement(sides, SAME_LOSS_F32)
    return Row(f"{name}, a step", _sides(sides), figures=tuple(figures), note=bench.no_torch)


def gpt2(bench: Bench) -> None:
    """GPT-2 124M in bfloat16 by autocast: the largest batch that fits everyone."""

    def measure() -> Row:
        smaller = [2] if bench.is_tiny else list(BATCHES)
        for batch in smaller:
            row, fits = _gpt2(bench, batch, is_last=batch == smaller[-1])
            if fits:
                return row
        return row

    bench.row("GPT-2 124M", measure)


def _gpt2(bench: Bench, batch: int, *, is_last: bool) -> tuple[Row, bool]:
    """The row at one batch, and whether everyone had the memory."""
    size = gpt2_size(bench.is_tiny, batch)
    sides: dict[str, Found] = {}

    def build_ours() -> Any:
        return gpt_step(bench.own, size, bench.device)

    makers: dict[str, Callable[[], Found]] = {OURS: lambda: _ours(bench, build_ours)}
    if bench.torch is not None:
        torch, theirs = bench.torch, bench.theirs

        def eager() -> tuple[Any, tuple[Any, ...], str]:
            made = gpt_step(theirs, size, torch.device)
            return made.eager, made.batch, "AdamW(fused=True)" if torch.device == "cuda" else ""

        def compiled() -> tuple[Any, tuple[Any, ...], str]:
            made = gpt_step(theirs, size, torch.device)
            # Tried on a step whose optimizer does nothing yet: the losses compared come later.
            limit = min(200.0, bench.left_s() / 3)
            fast, note = torch.compiled(
                made.forward,
                lambda f: f(*made.batch).backward(),
                modes=STEPS,
                limit_s=limit,
            )
            return made.whole(fast), made.batch, note

        makers["eager"] = lambda: _theirs(bench, eager)
        makers["compile"] = lambda: _theirs(bench, compiled)
    fits = True
    for name, make in makers.items():
        try:
            sides[name] = make()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            sides[name] = Found(note=first_line(error))
        if sides[name].ms is None and "memory" in sides[name].note.lower():
            fits = False
            if not is_last:
                break  # a smaller batch is next
    name = f"GPT-2 124M, batch {size.batch} x {size.length}"
    tokens = size.batch * size.length
    figures = [*_agreement(sides, SAME_LOSS_BF16), *_gpt2_figures(sides, tokens)]
    row = Row(name, _sides(sides), _flops(size, tokens), "FLOP", bench.product_rate, tuple(figures))
    return row, fits


def _gpt2_figures(sides: dict[str, Found], tokens: int) -> list[Figure]:
    found = []
    for name, side in sides.items():
        if side.ms is not None:
            found.append(Figure(f"{name}: tokens", tokens / (side.ms * 1e-3), "/s"))
    ours = sides[OURS]
    found.append(Figure("lowgrad: first call", ours.first_s, "s"))
    rival = sides.get("compile")
    if rival is None or rival.ms is None or ours.ms is None:
        return found
    speed = rival.ms / ours.ms
    found.append(Figure("tokens a second / torch.compile's", speed, "x", FASTER, at_least=True))
    if rival.bytes and ours.bytes:
        share = ours.bytes / rival.bytes
        found.append(Figure("memory / torch.compile's", share, "x", LESS_MEMORY))
    return found


def _flops(size: Any, tokens: int) -> float:
    """Six for each weight and token, and the causal half of attention's products."""
    weights = 12 * size.layers * size.width**2 + size.vocabulary * size.width
    attention = 6 * size.layers * size.width * size.length
    return float(tokens) * (6 * weights + attention)


# --- One side: built, run, measured, gone ---


def _ours(bench: Bench, build: Callable[[], Any]) -> Found:
    _emptied(bench)
    before = lowgrad.cuda.memory_allocated()
    lowgrad.cuda.reset_peak_memory_stats()
    made = build()
    plain = made.step if hasattr(made, "step") else made.eager
    step, batch = lowgrad.compile(plain, device=bench.device), made.batch
    start = time.perf_counter()
    losses = [_loss(step(*batch))]
    first_s = time.perf_counter() - start
    losses += [_loss(step(*batch)) for _ in range(2)]
    taken = lowgrad.cuda.max_memory_allocated() - before
    ms = bench.clock.steps({OURS: lambda: step(*batch)})[OURS]
    return Found(ms, taken, first_s, losses)


def _theirs(
    bench: Bench, build: Callable[[], tuple[Any, tuple[Any, ...], str]], *, has_run: bool = False
) -> Found:
    """has_run: compiling already made steps, so that the losses are those of later ones."""
    torch = bench.torch
    assert torch is not None, "asked before"
    _emptied(bench)
    before = torch.allocated()
    try:
        start = time.perf_counter()
        step, batch, note = build()
        if before is not None:
            torch.reset_peak()  # autotuning's own tensors are no part of the step
        losses = [_loss(step(*batch)) for _ in range(3)]
        first_s = time.perf_counter() - start
        torch.wait()
        taken = None if before is None else torch.peak() - before
        ms = bench.clock.steps({"torch": lambda: step(*batch)})["torch"]
    except Exception as error:
        return Found(note=first_line(error))
    return Found(ms, taken, first_s, [] if has_run else losses, note)


def _emptied(bench: Bench) -> None:
    if bench.torch is not None:
        bench.torch.top._dynamo.reset()  # compiled graphs hold their memory
    bench.free()


def _loss(made: Any) -> float:
    return float(results_of(made)[0].detach().item())


def _sides(sides: dict[str, Found]) -> dict[str, Side]:
    return {name: Side(f.ms, f.bytes, f.note) for name, f in sides.items()}


def _agreement(sides: dict[str, Found], allowed: float) -> list[Figure]:
    """How far the losses of the first steps are from PyTorch eager's."""
    reference = sides["eager"].losses if "eager" in sides else []
    ours = sides[OURS].losses
    if not reference or not ours:
        return []
    off = max(
        abs(a - b) / max(abs(b), 1e-6) if a == a else float("inf")
        for a, b in zip(ours, reference, strict=True)
    )
    return [Figure("losses of three steps against PyTorch eager", off, "relative", allowed)]
