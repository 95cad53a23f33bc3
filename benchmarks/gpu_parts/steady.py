"""What must not vary: bits from run to run, bytes against the plan, memory over 10,000 replays."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import lowgrad
from benchmarks import heads, networks, transformers
from benchmarks.figure import Figure
from benchmarks.gpu_parts.bench import Bench
from benchmarks.gpu_parts.contest import nbytes, results_of
from benchmarks.gpu_parts.row import Row
from benchmarks.gpu_parts.training import TINIEST, gpt_step, program
from lowgrad.recording import FromHost
from lowgrad.signature import walk

REPLAYS, STEPS, RUNS = 10_000, 5, 3
# The host's numbers and keys lie side by side in a buffer of their own, so many bytes each.
SCALAR_BYTES = 64
MOST_HOST_GROWTH = 16 << 20  # Python's own allocator breathes

Built = tuple[Callable[..., Any], tuple[Any, ...]]


def programs(bench: Bench) -> dict[str, Callable[[], Built]]:
    """Whole steps: dense layers, a transformer in both precisions, a head in chunks, dropout."""
    size = TINIEST if bench.is_tiny else transformers.SMALL

    def gpt(is_mixed: bool) -> Built:
        made = gpt_step(bench.own, size, bench.device, is_mixed=is_mixed)
        return made.eager, made.batch

    def net(make: Callable[[Any], Any]) -> Built:
        made = program(bench.own, make, bench.device)
        return made.step, made.batch

    known: dict[str, Callable[[], Built]] = {
        "classifier": lambda: net(lambda lib: networks.classifier(lib, batch=8)),
        "GPT, bfloat16": lambda: gpt(True),
    }
    if bench.is_tiny:
        return known
    return known | {
        "GPT, float32": lambda: gpt(False),
        "wide net": lambda: net(networks.wide_net),
        "LM head": lambda: net(heads.lm_head),
        "dropout": lambda: net(networks.noisy_regression),
        "mixer": lambda: net(networks.mixer),
    }


# Bits -------------------------------------------------------------------------------------------


def bits(bench: Bench) -> None:
    """Five steps from the same start, three times: a digest of losses and state."""
    for name, build in programs(bench).items():
        label = f"{name}: the same bits"
        bench.row(label, lambda label=label, build=build: _bits(bench, label, build))


def _bits(bench: Bench, label: str, build: Callable[[], Built]) -> Row:
    steps = 2 if bench.is_tiny else STEPS
    digests = []
    for _ in range(RUNS):
        lowgrad.manual_seed(5)
        step, batch = build()
        run = lowgrad.compile(step, device=bench.device)
        digest = hashlib.sha256()
        for _ in range(steps):
            for result in results_of(run(*batch)):
                digest.update(_bytes(result))
        for tensor in walk(step, (), {}).tensors:
            digest.update(_bytes(tensor))
        digests.append(digest.hexdigest())
    different = len(set(digests)) - 1
    return Row(label, figures=(Figure("runs that differ from the first", different, "", 0),))


def _bytes(tensor: Any) -> bytes:
    return np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes()


# Memory -----------------------------------------------------------------------------------------


def memory(bench: Bench) -> None:
    """The bytes that the first call takes, against the plan that was known before."""
    for name, build in programs(bench).items():
        label = f"{name}: the plan's bytes"
        bench.row(label, lambda label=label, build=build: _memory(bench, label, build))


def _memory(bench: Bench, label: str, build: Callable[[], Built]) -> Row:
    step, batch = build()
    run = lowgrad.compile(step, device=bench.device)
    compiled = run.lower(*batch)
    gc.collect()
    lowgrad.cuda.synchronize()
    before = lowgrad.cuda.memory_allocated()
    lowgrad.cuda.reset_peak_memory_stats()
    made = results_of(run(*batch))
    lowgrad.cuda.synchronize()
    taken = lowgrad.cuda.max_memory_allocated() - before
    plan = compiled.plan
    (entry,) = next(iter(run._entries.values()))
    numbers = sum(isinstance(source, FromHost) for source in entry.recording.sources)
    over = taken - plan.arena_bytes - SCALAR_BYTES * numbers
    figures = (
        Figure("allocated - planned", over, "B", 0),
        Figure("planned - allocated", -over, "B", 0),
        Figure("arena", plan.arena_bytes, "B"),
        Figure("of it results", nbytes(made), "B"),
    )
    return Row(label, figures=figures)


# Replays ----------------------------------------------------------------------------------------


def replays(bench: Bench) -> None:
    """The classifier's step, 10,000 times: nothing grows, and the loss stays a number."""
    count = 10 if bench.is_tiny else REPLAYS
    label = f"classifier, {count} replays"

    def measure() -> Row:
        step, batch = programs(bench)["classifier"]()
        run = lowgrad.compile(step, device=bench.device)
        for _ in range(count // 10):
            run(*batch)
        before = dict(_held())
        for _ in range(count):
            loss = run(*batch)
        is_finite = bool(np.isfinite(loss.item()))
        del loss  # it is the caller's, and no growth
        after = dict(_held())
        figures = [
            Figure(f"growth, {name}", after[name] - before[name], "B", bound)
            for name, bound in [("tensors", 0), ("pool", 0), ("host", MOST_HOST_GROWTH)]
        ]
        figures.append(Figure("losses that are no number", 0.0 if is_finite else 1.0, "", 0))
        figures.append(Figure("recordings", run.recordings, "", 1))
        return Row(label, figures=tuple(figures))

    bench.row(label, measure)


def _held() -> Iterator[tuple[str, int]]:
    gc.collect()
    lowgrad.cuda.synchronize()
    yield "tensors", lowgrad.cuda.memory_allocated()
    yield "pool", lowgrad.cuda.memory_reserved()
    with open("/proc/self/status") as lines:
        resident = next(line for line in lines if line.startswith("VmRSS"))
    yield "host", int(resident.split()[1]) * 1024
