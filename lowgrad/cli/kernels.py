"""A table of a step's kernels, compiled for a GPU that need not be there.

For each: how often it is launched, what it moves and computes, the time that the roofline allows,
registers and spills of a thread, shared memory of a block, occupancy, the widest access to global
memory, the kinds of tensor-core and of asynchronous-copy instructions in the machine code, and
whether it was run on the interpreter and equals the reference.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lowgrad.cli.arguments import add_program, architecture
from lowgrad.cli.output import show_table

if TYPE_CHECKING:
    from lowgrad.codegen.facts import KernelFacts

HELP = "registers, occupancy and modelled time of every kernel, without a GPU"
# The interpreter runs about so much in some seconds.
MOST_BYTES, MOST_FLOPS = 4 << 20, 2e8
# What a narrow terminal does without, first to last.
LESS = ("line", "async", "MFLOP", "times", "bits", "moved", "tensor", "shared", "occup.", "checked")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    add_program(parser)
    parser.add_argument(
        "--arch", type=architecture, default="cuda:90", help="such as sm_80, sm_100, gfx942 (sm_90)"
    )
    parser.add_argument(
        "--check",
        choices=("all", "small", "none"),
        default="small",
        help="which kernels to run on the interpreter, against the reference (small ones)",
    )
    parser.add_argument("--json", action="store_true", help="as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table. 1 if a kernel differs from the reference."""
    from lowgrad.cli.program import compiled_of

    compiled = compiled_of(args.program, args.arguments, device="cuda", target=args.arch)
    facts = compiled.kernel_facts(args.arch)
    checked = _checked(facts, args.check, compiled.tiling)
    if args.json:
        rows = [_as_data(f, c) for f, c in zip(facts, checked, strict=True)]
        print(json.dumps({"arch": args.arch, "kernels": rows}, indent=2))
    else:
        _show(compiled.graph.name, args.arch, facts, checked)
    return 1 if any(c.startswith("no: differs") for c in checked) else 0


def _show(name: str, arch: str, facts: list[KernelFacts], checked: list[str]) -> None:
    from lowgrad.runtime.memory import human

    headers = (
        *("kernel", "line", "checked", "times", "moved", "MFLOP", "us"),
        *("regs", "spills", "shared", "occup.", "bits", "tensor", "async"),
    )
    rows = [
        (
            *(f.kernel.name, f.kernel.loc or "", check, f.times),
            human(f.kernel.bytes_read + f.kernel.bytes_written),
            f"{f.kernel.flops / 1e6:.1f}",
            "" if f.seconds is None else f"{f.seconds * 1e6:.1f}",
            *(f.binary.registers, f.binary.spill_bytes, human(f.binary.shared_bytes)),
            f"{f.binary.occupancy:.0%}",
            *(f.vector_bits, f.tensor_cores or "-", f.async_copies or "-"),
        )
        for f, check in zip(facts, checked, strict=True)
    ]
    show_table(headers, rows, left=3, title=f"{name}: kernels on {arch}", less=LESS)
    modelled = [f.seconds * f.times for f in facts if f.seconds is not None]
    total = f"; {sum(modelled) * 1e6:,.1f} us of modelled time" if modelled else ""
    print(f"{len(facts)} kernels, {sum(f.times for f in facts)} launches{total}")
    if modelled:
        by_name: dict[str, float] = {}
        for f in facts:
            spent = (f.seconds or 0.0) * f.times
            by_name[f.kernel.name] = by_name.get(f.kernel.name, 0.0) + spent
        slowest = max(by_name, key=lambda name: by_name[name])
        print(f"most of it: {slowest}, {by_name[slowest] / sum(modelled):.0%}")


def _as_data(facts: KernelFacts, checked: str) -> dict[str, Any]:
    kernel, binary = facts.kernel, facts.binary
    return {
        "name": kernel.name,
        "loc": str(kernel.loc or ""),
        "times": facts.times,
        "grid": list(kernel.grid),
        "num_warps": kernel.num_warps,
        "bytes_read": kernel.bytes_read,
        "bytes_written": kernel.bytes_written,
        "flops": kernel.flops,
        "seconds": facts.seconds,
        "registers": binary.registers,
        "spill_bytes": binary.spill_bytes,
        "shared_bytes": binary.shared_bytes,
        "occupancy": binary.occupancy,
        "vector_bits": facts.vector_bits,
        "tensor_cores": facts.tensor_cores,
        "async_copies": facts.async_copies,
        "checked": checked,
    }


def _checked(facts: list[KernelFacts], which: str, tiling: Any) -> list[str]:
    """ "yes", or "no" and why, for each kernel; those of one node are run together."""
    from lowgrad.codegen.check import check_node
    from lowgrad.errors import KernelCheckError

    found: dict[int, str] = {}
    for f in facts:
        kernel, node = f.kernel, f.kernel.node
        if id(node) in found:
            continue
        moved = kernel.bytes_read + kernel.bytes_written
        if which == "none":
            found[id(node)] = "no"
        elif which == "small" and (moved > MOST_BYTES or kernel.flops > MOST_FLOPS):
            found[id(node)] = "no: large"
        else:
            try:
                check_node(node, tiling)
                found[id(node)] = "yes"
            except KernelCheckError as error:
                found[id(node)] = f"no: differs: {error.message}"
    return [found[id(f.kernel.node)] for f in facts]
