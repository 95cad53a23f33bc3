"""Writing down what a step became: the IR after each pass, the memory plan, the kernels."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lowgrad.compiler import Compiled


def dump(compiled: Compiled, directory: str | Path) -> Path:
    """Write `compiled` into `directory` (made if absent); return it.

    `NN-<pass>.ir` for the trace and each pass that changed something (the text parses back),
    `memory.txt`, `kernels/NN_<name>.py` in launch order, `launches.txt` with the line and the
    buffers of each, `summary.json`.
    """
    root = Path(directory)
    (root / "kernels").mkdir(parents=True, exist_ok=True)
    _write_graphs(compiled, root)
    (root / "memory.txt").write_text(f"{compiled.plan}\n")
    for number, kernel in enumerate(compiled.kernels):
        (root / "kernels" / f"{number:02d}_{kernel.name}.py").write_text(kernel.source)
    (root / "launches.txt").write_text("".join(_launches(compiled)))
    (root / "summary.json").write_text(json.dumps(_summary(compiled), indent=2) + "\n")
    return root


def _write_graphs(compiled: Compiled, root: Path) -> None:
    before = ""
    for number, (name, graph) in enumerate(compiled.graphs.items()):
        text = str(graph)
        if text != before:
            (root / f"{number:02d}-{name}.ir").write_text(f"{text}\n")
        before = text


def _launches(compiled: Compiled) -> Iterator[str]:
    """What differs between launches of equal kernels: the user's line, and whose buffers."""
    for number, (kernel, times) in enumerate(compiled.launches):
        yield f"{number:02d}_{kernel.name} x {times} at {kernel.loc or '?'}\n"
        for param in kernel.params:
            yield f"    {param.name}: {param.type} {param.value.hint or param.role}\n"


def _summary(compiled: Compiled) -> dict[str, object]:
    plan, cost = compiled.plan, compiled.cost
    return {
        "name": compiled.graph.name,
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
