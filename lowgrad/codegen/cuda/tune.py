"""Blocks of products, measured: the model's best few for each product of a step, on the GPU.

What was found is kept in a file for each kind of GPU and version of Triton, so that it is measured
once. Kernels run on buffers of their own, the results apart from the operands, so that none reads
what a run before it has written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from lowgrad import config, logs, spans
from lowgrad.codegen.choose import candidates
from lowgrad.codegen.cuda.functions import functions, maps_of
from lowgrad.codegen.kernel import Kernel
from lowgrad.codegen.lower import kind_of, lower
from lowgrad.codegen.problem import Problem, problem_of
from lowgrad.codegen.region import region_of
from lowgrad.codegen.step import identity
from lowgrad.codegen.tiling import DotTiling, Tiling
from lowgrad.codegen.triton.load import require_triton
from lowgrad.errors import CompileError, LaunchError
from lowgrad.ir.graph import Graph, Node
from lowgrad.ir.types import TensorType
from lowgrad.runtime.cuda.gpu import Gpu
from lowgrad.runtime.cuda.launch import Launch
from lowgrad.runtime.cuda.memory import Allocation, on_device, to_device
from lowgrad.runtime.cuda.streams import Event, Stream, current_stream

# How many of the model's choices are measured.
MOST = 8
# Runs before the clock starts, then rounds of so many: their median counts.
WARM, ROUNDS, RUNS = 2, 3, 5
PATTERN_BYTES = 1 << 20

Measure = Callable[[Sequence[Kernel], Gpu], float]


def tuned(graph: Graph, tiling: Tiling, device: Gpu, measure: Measure | None = None) -> Tiling:
    """`tiling` with the fastest blocks for every product of `graph`, those in loops too.

    measure: milliseconds of a node's kernels; the GPU's clock, unless a test has another.
    """
    measure = milliseconds if measure is None else measure
    known = _read(device)
    for problem, node in _products(graph.nodes, tiling):
        name = repr(problem)
        if name not in known:
            with spans.span("tune", name):
                known[name] = _fastest(problem, node, tiling, device, measure)
            _write(device, known)
    return replace(tiling, tuned=tuple(sorted(known.items(), key=lambda pair: pair[0])))


def _products(nodes: Iterable[Node], tiling: Tiling) -> Iterator[tuple[Problem, Node]]:
    """Each product with its node."""
    for node in nodes:
        for piece in node.attrs.get("pieces", ()):
            yield from _products(piece.nodes, tiling)
        if node.op.family == "loop" or (node.op.name != "fused" and node.op.name != "matmul"):
            continue
        if kind_of(node) != "matmul":
            continue
        region = region_of(node)
        product = next(n for n in region.nodes if n.op.family == "contraction")
        yield problem_of(region, product, tiling.precision), node


def _fastest(
    problem: Problem, node: Node, tiling: Tiling, device: Gpu, measure: Measure
) -> DotTiling:
    choices = candidates(problem, tiling, MOST)
    best, least = choices[0], float("inf")
    made = {c: lower(node, replace(tiling, dot=c)) for c in choices}
    # Side by side; what the compiler or the GPU refuses is left out below, one by one.
    with contextlib.suppress(CompileError, LaunchError):
        functions((k for kernels in made.values() for k in kernels), device)
    for choice, kernels in made.items():
        try:
            taken = measure(kernels, device)
        except (CompileError, LaunchError):
            continue
        logs.event("cache", "tuned", problem=repr(problem), blocks=repr(choice), ms=taken)
        if taken < least:
            best, least = choice, taken
    return best


# --- The clock ---------------------------------------------------------------------------------


def milliseconds(kernels: Sequence[Kernel], device: Gpu) -> float:
    """How long a node's kernels take, one after the other, on made-up numbers."""
    device.use()
    stream = current_stream(device)
    held: dict[str, Allocation] = {}
    for param in (p for kernel in kernels for p in kernel.params):
        if param.name not in held:
            held[param.name] = Allocation(device, max(param.type.nbytes, 1), stream)
            _fill(held[param.name], param.type, stream)
    known = functions(kernels, device)
    launches = []
    for kernel in kernels:
        function = known[identity(kernel)]
        pointers = [held[p.name].pointer for p in kernel.params]
        launches.append(Launch(function, kernel.grid, pointers, maps_of(kernel, function)))
    times = []
    for number in range(WARM + ROUNDS):
        start, end = Event(enable_timing=True), Event(enable_timing=True)
        start.record(stream)
        for _ in range(RUNS if number >= WARM else 1):
            for launch in launches:
                launch(stream)
        end.record(stream)
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[WARM:]) / RUNS


def _fill(memory: Allocation, type_: TensorType, stream: Stream) -> None:
    """Random numbers: zeros would let the GPU draw less power, and run faster, than it does."""
    nbytes = memory.nbytes
    if not type_.dtype.is_floating_point:
        to_device(np.zeros(nbytes, np.uint8), memory.pointer, stream)
        return
    count = min(PATTERN_BYTES, nbytes) // type_.dtype.itemsize
    pattern = np.random.default_rng(0).standard_normal(count).astype(type_.dtype.numpy)
    done = pattern.nbytes
    to_device(pattern.view(np.uint8), memory.pointer, stream)
    while done < nbytes:
        part = min(done, nbytes - done)
        on_device(memory.pointer + done, memory.pointer, part, stream)
        done += part


# --- What was found ----------------------------------------------------------------------------


def _path(device: Gpu) -> Path:
    names = (device.properties.name, device.target, require_triton().__version__)
    name = re.sub(r"[^\w.]+", "_", "-".join(names))
    return config.cache_dir() / "tuned" / f"{name}.json"


def _read(device: Gpu) -> dict[str, DotTiling]:
    """What is known of this kind of GPU; nothing if the file is damaged."""
    try:
        held: dict[str, Any] = json.loads(_path(device).read_text(encoding="utf-8"))
        return {name: DotTiling(**fields) for name, fields in held.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _write(device: Gpu, known: dict[str, DotTiling]) -> None:
    path = _path(device)
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    held = {name: asdict(blocks) for name, blocks in sorted(known.items())}
    part.write_text(json.dumps(held, indent=1), encoding="utf-8")
    os.replace(part, path)  # others see the old file or the new one
