"""Writing down what a step became: the IR after each pass, the memory plan, the kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from lowgrad.compiler import Compiled
from lowgrad.config import settings
from lowgrad.errors import ArgumentError
from lowgrad.ir.graph import Graph
from lowgrad.ir.text import print_graph
from lowgrad.version import __version__

# Larger inputs are left out: a check makes some up.
MOST_INPUT_BYTES = 64 << 20


def dump(compiled: Compiled, directory: str | Path, *, lines: bool = False) -> Path:
    """Write `compiled` into `directory` (made if absent); return it.

    `NN-<pass>.ir` for the trace and each pass that changed something (the text parses back),
    `memory.txt`, `kernels/NN_<name>.py` in launch order, `launches.txt` with the line and the
    buffers of each, `summary.json`, and the arrays of the call as `inputs.npz` if they are known.
    lines: the user's line behind each node (LOWGRAD_DUMP_LINES=1).
    """
    root = Path(directory)
    try:
        (root / "kernels").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArgumentError(
            f'a dump cannot be written into "{root}": {error.strerror}',
            fix="name a folder that can be made: LOWGRAD_DUMP=dir, dump=",
        ) from error
    _remove_older(root)
    _write_graphs(compiled, root, lines or settings().dump_lines)
    _write_inputs(compiled, root)
    (root / "memory.txt").write_text(f"{compiled.plan}\n")
    digits = max(2, len(str(len(compiled.kernels) - 1)))
    for number, kernel in enumerate(compiled.kernels):
        (root / "kernels" / f"{number:0{digits}d}_{kernel.name}.py").write_text(kernel.source)
    (root / "launches.txt").write_text("".join(_launches(compiled)))
    (root / "summary.json").write_text(json.dumps(_summary(compiled), indent=2) + "\n")
    return root


def _remove_older(root: Path) -> None:
    """Remove the files of an earlier dump: stages that this step lacks would look like its own."""
    for pattern in ("[0-9]*-*.ir", "kernels/[0-9]*_*.py", "inputs.npz"):
        for path in root.glob(pattern):
            path.unlink()


def _write_graphs(compiled: Compiled, root: Path, lines: bool) -> None:
    before: tuple[str, Graph | None] = ("", None)
    for number, (name, graph) in enumerate(compiled.graphs.items()):
        if graph is before[1]:
            continue
        text = print_graph(graph, locations=lines)
        if text != before[0]:
            head = "".join(f"# {line}\n" for line in _head(compiled, name, before[1], graph))
            (root / f"{number:02d}-{name}.ir").write_text(f"{head}{text}\n")
        before = (text, graph)


def _head(compiled: Compiled, name: str, before: Graph | None, graph: Graph) -> Iterator[str]:
    """What a stage is, where it came from and what it took."""
    ms = compiled.pass_ms.get(name)
    took = "" if ms is None else f", {ms:.1f} ms"
    was = "" if before is None else f"{len(before.nodes)} -> "
    yield f"{name}: {was}{len(graph.nodes)} nodes{took}"
    options = compiled.options
    yield (
        f"{graph.name}, lowgrad {__version__}, device {options.device or 'cpu'}"
        + (f", target {options.target}" if options.target else "")
        + (f", memory {options.memory}" if options.memory else "")
        + ("" if options.fuse else ", not fused")
    )


def _write_inputs(compiled: Compiled, root: Path) -> None:
    """The arrays of the call that was lowered, unless they are large."""
    large = sum(v.type.nbytes for v in compiled.graph.inputs) > MOST_INPUT_BYTES
    if compiled.given is None or large:
        return
    arrays = [a for _, a in sorted(compiled.given().items())]
    bits = [a.view(np.uint16) if a.dtype.name == "bfloat16" else a for a in arrays]
    np.savez(root / "inputs.npz", *bits)


def _launches(compiled: Compiled) -> Iterator[str]:
    """What differs between launches of equal kernels: the user's line, and whose buffers."""
    digits = max(2, len(str(len(compiled.launches) - 1)))
    for number, (kernel, times) in enumerate(compiled.launches):
        yield f"{number:0{digits}d}_{kernel.name} x {times} at {kernel.loc or '?'}\n"
        for param in kernel.params:
            yield f"    {param.name}: {param.type} {param.value.hint or param.role}\n"


def _summary(compiled: Compiled) -> dict[str, object]:
    plan, cost = compiled.plan, compiled.cost
    return {
        "name": compiled.graph.name,
        "fuse": compiled.options.fuse,
        "trades": asdict(compiled.trades),
        "nodes": {name: len(graph.nodes) for name, graph in compiled.graphs.items()},
        "pass_ms": {name: round(ms, 3) for name, ms in compiled.pass_ms.items()},
        "kernels": cost.kernels,
        "bytes_moved": cost.bytes,
        "flops": cost.flops,
        "peak_bytes": plan.peak_bytes,
        "arena_bytes": plan.arena_bytes,
        "state_bytes": plan.state_bytes,
        "argument_bytes": plan.argument_bytes,
        "lower_bound_bytes": plan.lower_bound_bytes,
    }
