"""Fused against unfused, on a step of yours or on the demo's.

A step is run on what the script calls it with first, in turns with and without fusion, so that
both have the same machine; its state goes on from step to step, as in training.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import TYPE_CHECKING, Any

from lowgrad.cli.arguments import PROGRAM, positive
from lowgrad.cli.output import show_table

if TYPE_CHECKING:
    from lowgrad.compiler import Compiled

HELP = "fused against unfused"
# Runs of each kind that are not counted: the first compiles.
WARM = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What the command is given."""
    program = f"{PROGRAM}; the demo's step if there is none"
    parser.add_argument("program", nargs="?", metavar="FILE.py[:STEP]", help=program)
    parser.add_argument("arguments", nargs="*", metavar="ARG", help="of the script, after --")
    parser.add_argument("--steps", type=positive, default=30, help="of each kind (30)")
    parser.add_argument("--epochs", type=positive, default=5, help="of the demo (5)")


def run(args: argparse.Namespace) -> int:
    """Print the comparison."""
    if args.program is None:
        return _demo(args.epochs)
    from lowgrad.cli.program import first_call

    call = first_call(args.program, args.arguments)
    kinds = [call.with_options(fuse=fuse) for fuse in (True, False)]
    times: list[list[float]] = [[], []]
    for _ in range(WARM + args.steps):
        for kind, taken in zip(kinds, times, strict=True):
            taken.append(_seconds(kind, call.args, call.kwargs))
    fused, unfused = (kind.lower(*call.args, **call.kwargs) for kind in kinds)
    medians = [statistics.median(taken[WARM:]) for taken in times]
    _show(fused, unfused, medians)
    return 0


def _seconds(step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> float:
    import lowgrad

    start = time.perf_counter()
    step(*args, **kwargs)
    if lowgrad.cuda.is_available():
        lowgrad.cuda.synchronize()
    return time.perf_counter() - start


def _show(fused: Compiled, unfused: Compiled, medians: list[float]) -> None:
    a, b = fused, unfused
    rows: list[tuple[str, float, float, str]] = [
        ("kernels", a.cost.kernels, b.cost.kernels, "{:,}"),
        ("bytes moved a step", a.cost.bytes, b.cost.bytes, "{:,}"),
        ("arena bytes", a.plan.arena_bytes, b.plan.arena_bytes, "{:,}"),
        ("peak bytes", a.plan.peak_bytes, b.plan.peak_bytes, "{:,}"),
        (f"median step on {a.options.device}, ms", 1e3 * medians[0], 1e3 * medians[1], "{:.3f}"),
    ]
    cells = [
        (name, form.format(x), form.format(y), f"{y / x:.2f}x" if x else "")
        for name, x, y, form in rows
    ]
    show_table(("", "fused", "unfused", "ratio"), cells, title=a.graph.name)


def _demo(epochs: int) -> int:
    import copy

    import lowgrad
    from lowgrad.demo.digits import Net, digits
    from lowgrad.demo.run import table, train

    lowgrad.manual_seed(0)
    training, _ = digits()
    net = Net()
    twin = copy.deepcopy(net)
    fused = train(net, training, epochs, fuse=True)
    print(table(fused, train(twin, training, epochs, fuse=False)))
    return 0
